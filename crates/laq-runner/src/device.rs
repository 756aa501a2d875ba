//! Devices: the CPU or a GPU.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use laq_cuda::Precision;
use laq_cuda::{Cuda, CudaBackend, probe};
use laq_models::{
    Batch, CurvatureSums, DatasetHandle, Evaluation, Evaluations, Examples, LayerComparison,
    LayerReport, LayerWeights, ModelError, Profile, Report, StateTensor, StepReport, Training,
};
use laq_solvers::Method;
use laq_tensor::{Backend, CpuBackend, Memory};

use crate::RunError;

/// A requested device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first usable GPU, else the CPU; a resumed run keeps its device.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok().filter(|_| !digits.starts_with('+'));
        let known = match text.split_once(':') {
            None if text == "auto" => Some(Self::Auto),
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", digits)) => number(digits).map(Self::Cuda),
            _ => None,
        };
        known.ok_or_else(|| {
            format!(
                "unknown device {text:?}: expected auto, cpu, cuda or cuda:N, with N the index of a GPU"
            )
        })
    }
}

/// The name that is parsed.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

/// A requested device and its precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// The device.
    pub choice: DeviceChoice,
    /// The precision of products on a GPU.
    pub precision: Precision,
}

impl DeviceOptions {
    /// The CPU.
    pub const CPU: DeviceOptions = DeviceOptions {
        choice: DeviceChoice::Cpu,
        precision: Precision::Tf32,
    };
}

/// An opened device.
#[derive(Debug)]
pub enum OpenDevice {
    /// The CPU.
    Cpu(CpuBackend),
    /// A GPU.
    Cuda(Box<CudaBackend<Cuda>>),
}

/// The prefix of the kernel names of GPUs.
const CUDA: &str = "cuda";

/// The longest time between two reads of losses from a GPU.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

impl OpenDevice {
    /// Opens the device of `options` and gives the reason for the choice. A resumed run passes the
    /// kernel of its checkpoint as `before`.
    ///
    /// # Errors
    ///
    /// The device is not available.
    pub fn open(options: DeviceOptions, before: Option<&str>) -> Result<(Self, String), RunError> {
        let cpu = || CpuBackend::new().map(OpenDevice::Cpu);
        let cuda = |index: usize| -> Result<Self, RunError> {
            let cache = kernel_cache();
            let device = Cuda::open(index, options.precision, cache.as_deref());
            let device = device.map_err(RunError::Device)?;
            Ok(OpenDevice::Cuda(Box::new(CudaBackend::new(device))))
        };
        let reason = str::to_owned;
        match (options.choice, before) {
            (DeviceChoice::Cpu, _) => Ok((cpu()?, reason("requested"))),
            (DeviceChoice::Cuda(index), _) => Ok((cuda(index)?, reason("requested"))),
            (DeviceChoice::Auto, Some(before)) if was_on_cuda(before) => {
                Ok((cuda(0)?, reason("the run started on a GPU")))
            }
            (DeviceChoice::Auto, Some(_)) => Ok((cpu()?, reason("the run started on a CPU"))),
            (DeviceChoice::Auto, None) => match probe().usable() {
                Ok(()) => Ok((cuda(0)?, reason("a GPU is available"))),
                Err(reason) => Ok((cpu()?, format!("no GPU: {reason}"))),
            },
        }
    }

    /// The kernel recorded by a run: the instruction set of a CPU, or the name of a GPU.
    pub(crate) fn kernel(&self) -> String {
        match self {
            OpenDevice::Cpu(backend) => backend.isa().name().into(),
            OpenDevice::Cuda(backend) => backend.device_name(),
        }
    }

    /// The longest time between two reads of losses.
    pub(crate) fn report_interval(&self) -> Duration {
        match self {
            OpenDevice::Cpu(_) => Duration::ZERO,
            OpenDevice::Cuda(_) => REPORT_INTERVAL,
        }
    }

    /// Whether this is a GPU.
    #[must_use]
    pub fn is_cuda(&self) -> bool {
        matches!(self, OpenDevice::Cuda(_))
    }
}

impl fmt::Display for OpenDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenDevice::Cpu(backend) => formatter.write_str(&backend.device_name()),
            OpenDevice::Cuda(backend) => formatter.write_str(&backend.device_name()),
        }
    }
}

/// Whether a recorded kernel is that of a GPU.
pub(crate) fn was_on_cuda(kernel: &str) -> bool {
    kernel.starts_with(CUDA)
}

/// The cache of compiled kernels: `LAQ_CACHE_DIR`, or `laq` in the user's cache folder.
fn kernel_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    folder("LAQ_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(folder("XDG_CACHE_HOME")?).join("laq")))
        .or_else(|| Some(PathBuf::from(folder("HOME")?).join(".cache/laq")))
}

/// A network in training.
pub type Network = Box<dyn Trainer>;

/// A network that evaluates batches; the methods are those of [`Training`].
#[expect(missing_docs, reason = "documented at `Training`")]
#[expect(clippy::missing_errors_doc, reason = "documented at `Training`")]
pub trait Evaluator {
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<Evaluation, ModelError>;
    fn evaluate_dataset(
        &mut self,
        set: DatasetHandle,
        batches: Range<usize>,
    ) -> Result<Evaluations, ModelError>;
}

/// [`Training`] without its backend as a parameter; the methods are those of the same names.
#[expect(missing_docs, reason = "documented at `Training`")]
#[expect(clippy::missing_errors_doc, reason = "documented at `Training`")]
pub trait Trainer: Evaluator + Send {
    fn steps_taken(&self) -> u64;
    fn diagnostics(&self) -> Vec<String>;
    fn begin_step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<(), ModelError>;
    fn upload(&mut self, examples: Examples<'_>) -> Result<DatasetHandle, ModelError>;
    fn set_order(&mut self, set: DatasetHandle, order: &[u32]) -> Result<(), ModelError>;
    fn begin_dataset_step(
        &mut self,
        set: DatasetHandle,
        index: usize,
        rate: f64,
    ) -> Result<(), ModelError>;
    fn report(&mut self) -> Result<Report<'_>, ModelError>;
    fn step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<StepReport, ModelError>;
    fn profile(&mut self, batch: Batch<'_>, rate: f64, steps: u64) -> Result<Profile, ModelError>;
    fn layers(&mut self) -> Result<Vec<LayerReport>, ModelError>;
    fn compare(&mut self, other: &Method) -> Result<Vec<LayerComparison>, ModelError>;
    fn weights(&mut self) -> Result<Vec<LayerWeights>, ModelError>;
    fn save(&mut self) -> Result<Vec<StateTensor>, ModelError>;
    fn load(&mut self, state: &[StateTensor]) -> Result<(), ModelError>;
    fn start_from(&mut self, state: &[StateTensor]) -> Result<(), ModelError>;
    fn set_clip(&mut self, clip: f32) -> Result<(), ModelError>;
    fn add_curvature(
        &mut self,
        batch: Batch<'_>,
        sums: &mut CurvatureSums,
    ) -> Result<(), ModelError>;
    fn curvature(&self, sums: &CurvatureSums) -> Vec<StateTensor>;
}

impl<B: Backend + 'static> Evaluator for Training<B> {
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<Evaluation, ModelError> {
        self.evaluate(batch)
    }

    fn evaluate_dataset(
        &mut self,
        set: DatasetHandle,
        batches: Range<usize>,
    ) -> Result<Evaluations, ModelError> {
        self.evaluate_dataset(set, batches)
    }
}

impl<B: Backend + 'static> Trainer for Training<B> {
    fn steps_taken(&self) -> u64 {
        self.steps_taken()
    }

    fn diagnostics(&self) -> Vec<String> {
        self.diagnostics()
    }

    fn begin_step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<(), ModelError> {
        self.begin_step(batch, learning_rate)
    }

    fn upload(&mut self, examples: Examples<'_>) -> Result<DatasetHandle, ModelError> {
        self.upload(examples)
    }

    fn set_order(&mut self, set: DatasetHandle, order: &[u32]) -> Result<(), ModelError> {
        self.set_order(set, order)
    }

    fn begin_dataset_step(
        &mut self,
        set: DatasetHandle,
        index: usize,
        rate: f64,
    ) -> Result<(), ModelError> {
        self.begin_dataset_step(set, index, rate)
    }

    fn report(&mut self) -> Result<Report<'_>, ModelError> {
        self.report()
    }

    fn step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<StepReport, ModelError> {
        self.step(batch, learning_rate)
    }

    fn profile(&mut self, batch: Batch<'_>, rate: f64, steps: u64) -> Result<Profile, ModelError> {
        self.profile(batch, rate, steps)
    }

    fn layers(&mut self) -> Result<Vec<LayerReport>, ModelError> {
        self.layers()
    }

    fn compare(&mut self, other: &Method) -> Result<Vec<LayerComparison>, ModelError> {
        self.compare(other)
    }

    fn weights(&mut self) -> Result<Vec<LayerWeights>, ModelError> {
        self.weights()
    }

    fn save(&mut self) -> Result<Vec<StateTensor>, ModelError> {
        self.save()
    }

    fn load(&mut self, state: &[StateTensor]) -> Result<(), ModelError> {
        self.load(state)
    }

    fn start_from(&mut self, state: &[StateTensor]) -> Result<(), ModelError> {
        self.start_from(state)
    }

    fn set_clip(&mut self, clip: f32) -> Result<(), ModelError> {
        self.set_clip(clip)
    }

    fn add_curvature(
        &mut self,
        batch: Batch<'_>,
        sums: &mut CurvatureSums,
    ) -> Result<(), ModelError> {
        self.add_curvature(batch, sums)
    }

    fn curvature(&self, sums: &CurvatureSums) -> Vec<StateTensor> {
        self.curvature(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        for (text, expected) in [
            ("auto", Some(DeviceChoice::Auto)),
            ("cpu", Some(DeviceChoice::Cpu)),
            ("cuda", Some(DeviceChoice::Cuda(0))),
            ("cuda:0", Some(DeviceChoice::Cuda(0))),
            ("cuda:11", Some(DeviceChoice::Cuda(11))),
            ("cuda:", None),
            ("cuda:+1", None),
            ("cuda:-1", None),
            ("cuda:1x", None),
            ("cuda1", None),
            ("cpu:0", None),
            ("CPU", None),
            ("gpu", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
            if let Some(choice) = expected {
                assert_eq!(choice.to_string().parse(), Ok(choice));
            }
        }
    }
}
