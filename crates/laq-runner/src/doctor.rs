//! What a machine has for training: processor, kernels, memory, disk and data.

use std::path::{Path, PathBuf};

use laq_datasets::{FileState, catalogue};
use laq_tensor::CpuBackend;
use serde::Serialize;

use crate::RunError;
use crate::environment::{Environment, total_memory_bytes};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Versions, commit, processor, kernel and threads.
    #[serde(flatten)]
    pub environment: Environment,
    /// The vector extensions that the kernels could use and this processor has.
    pub features: Vec<&'static str>,
    /// What there is of CUDA: the name of a library or GPU, and its version or what is wrong with it.
    pub cuda: Vec<CudaFound>,
    /// What `--device auto` would take, and why.
    pub device: String,
    /// The machine's memory, where the system says.
    pub memory_bytes: Option<u64>,
    /// What is free where run folders go, where the system says.
    pub free_disk_bytes: Option<u64>,
    /// Every file of every data set.
    pub data: Vec<DataFileFound>,
}

/// A library or GPU of NVIDIA's.
#[derive(Clone, Debug, Serialize)]
pub struct CudaFound {
    /// Its name: `driver`, `cuBLAS`, `NVRTC`, or `cuda:0` and so on.
    pub name: String,
    /// Its version or description, or what is wrong with it.
    pub state: String,
    /// Whether it can be used.
    pub good: bool,
}

/// A file of a data set.
#[derive(Clone, Debug, Serialize)]
pub struct DataFileFound {
    /// The data set.
    pub dataset: &'static str,
    /// The file; none for a data set that is part of the program.
    pub path: Option<PathBuf>,
    /// `good`, `missing`, or what is wrong with it.
    pub state: String,
    /// Whether it is there and not what it should be.
    pub bad: bool,
}

/// Looks at the machine and at the data in `data_dir`; `runs` is where run folders go.
///
/// # Errors
///
/// A kernel forced by `LAQ_KERNEL` that this processor does not have.
pub fn diagnose(data_dir: &Path, runs: &Path) -> Result<Diagnosis, RunError> {
    let kernel = CpuBackend::new()?.isa().name();
    let probe = laq_cuda::probe();
    Ok(Diagnosis {
        environment: Environment::found(kernel, rayon::current_num_threads()),
        features: features(),
        device: match probe.usable() {
            Ok(()) => "cuda:0".into(),
            Err(reason) => format!("cpu, for {reason}"),
        },
        cuda: cuda(&probe),
        memory_bytes: total_memory_bytes(),
        free_disk_bytes: free_disk_bytes(runs),
        data: data(data_dir),
    })
}

fn cuda(probe: &laq_cuda::Probe) -> Vec<CudaFound> {
    let libraries = probe.libraries.iter().map(|library| CudaFound {
        name: library.name.into(),
        state: library.version.clone().unwrap_or_else(|reason| reason),
        good: library.version.is_ok(),
    });
    let devices = probe.devices.iter().enumerate();
    let devices = devices.map(|(index, device)| CudaFound {
        name: format!("cuda:{index}"),
        state: device.to_string(),
        good: true,
    });
    let cudnn = CudaFound {
        name: "cuDNN".into(),
        state: probe.cudnn.clone().unwrap_or_else(|reason| reason),
        good: probe.cudnn.is_ok(),
    };
    libraries.chain([cudnn]).chain(devices).collect()
}

fn data(data_dir: &Path) -> Vec<DataFileFound> {
    let mut found = Vec::new();
    for dataset in catalogue() {
        let mut add = |path, state: String, bad| {
            found.push(DataFileFound {
                dataset: dataset.name,
                path,
                state,
                bad,
            });
        };
        if dataset.files.is_empty() {
            add(None, "good (part of the program)".into(), false);
        }
        for file in dataset.files {
            let path = dataset.path(file, data_dir);
            match file.inspect(&path) {
                Ok(state) => {
                    let bad = !matches!(state, FileState::Valid | FileState::Missing);
                    add(Some(path), state.to_string(), bad);
                }
                Err(error) => add(Some(path), format!("unreadable: {error}"), true),
            }
        }
    }
    found
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let found = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
    ];
    found
        .into_iter()
        .filter(|(_, found)| *found)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// What is free on the disk of the nearest folder above `path` that is there.
#[cfg(unix)]
fn free_disk_bytes(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let there = absolute.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_disk_bytes(_: &Path) -> Option<u64> {
    None
}
