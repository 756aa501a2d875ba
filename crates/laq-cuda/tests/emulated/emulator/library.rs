//! The library that replaces NVIDIA's: `cuda_on_cpu.h`, all kernels, and `driver.cpp`, compiled by
//! the installed C++ compiler.

// Several test programs include this file; none uses all of it.
#![allow(dead_code)]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use laq_cuda::{KERNEL_SOURCES, header, kernels_in, layout_assertions};
use laq_test_support::{Capability, skip};

/// The names of NVIDIA's libraries in their file names.
pub(crate) const LIBRARIES: [&str; 4] = ["cuda", "cublas", "nvrtc", "cudnn"];

/// The compiled library, cached under a hash of its sources; `None`, reported as a skip, without a
/// C++ compiler.
pub(crate) fn library() -> Option<&'static Path> {
    static ONE: OnceLock<Option<PathBuf>> = OnceLock::new();
    ONE.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let Ok(version) = Command::new(&compiler).arg("--version").output() else {
        let reason = format!("no C++ compiler {compiler}; CXX names another");
        skip(Capability::Cxx, &reason);
        return None;
    };
    // The tests of other crates build it too.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../laq-cuda");
    let own = own.canonicalize().expect("the crate of the kernels");
    let emulator = own.join("tests/emulated/emulator");
    let include = |path: PathBuf| format!("#include \"{}\"\n", path.display());
    let (mut source, mut list) = (
        include(emulator.join("cuda_on_cpu.h")) + &header(),
        String::new(),
    );
    let kernels = KERNEL_SOURCES.iter();
    for (name, text) in kernels.filter(|(name, _)| name.ends_with(".cu")) {
        source += &include(own.join("kernels").join(name));
        list.extend(kernels_in(text).map(|kernel| format!(" KERNEL({kernel})")));
    }
    source += &layout_assertions();
    source += &format!("#define EACH_KERNEL(KERNEL){list}\n");
    source += &include(emulator.join("driver.cpp"));
    // -ffp-contract=off disables fused multiply-add.
    let mut options = vec![
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-pthread",
        "-ffp-contract=off",
        "-fvisibility=hidden",
        "-Wall",
        "-Werror",
    ];
    if cfg!(target_os = "linux") {
        // A probe loads and unloads the library; its state must survive.
        options.push("-Wl,-z,nodelete");
    }
    let mut hasher = DefaultHasher::new();
    (&source, &options, KERNEL_SOURCES, version.stdout).hash(&mut hasher);
    for file in [
        "cuda_on_cpu.h",
        "fake.h",
        "driver.h",
        "cublas.h",
        "nvrtc.h",
        "cudnn.h",
        "driver.cpp",
    ] {
        let text = fs::read(emulator.join(file)).expect("a source");
        text.hash(&mut hasher);
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = place.join(format!("gpu-on-cpu-{:016x}.so", hasher.finish()));
    if library.is_file() {
        return Some(library);
    }
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let [cpp, so] = ["gpu.cpp", "gpu.so"].map(|name| folder.path().join(name));
    fs::write(&cpp, source).expect("a source");
    let output = Command::new(&compiler)
        .args(&options)
        .arg("-o")
        .args([&so, &cpp])
        .output()
        .expect("the compiler runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    fs::rename(so, &library).expect("the library");
    Some(library)
}

/// Fills a folder for `LD_LIBRARY_PATH` with NVIDIA's libraries. Those in `without` become files
/// that are not libraries and hide those of the system.
#[cfg(target_os = "linux")]
pub(crate) fn install(library: &Path, folder: &Path, without: &[&str]) {
    for name in LIBRARIES {
        if without.contains(&name) {
            spoil(folder, name);
        } else {
            let link = folder.join(format!("lib{name}.so"));
            std::os::unix::fs::symlink(library, link).expect("a link");
        }
    }
}

/// Files that are not libraries, under all file names of one.
fn spoil(folder: &Path, name: &str) {
    let versions = ["", ".13", ".12", ".11", ".10", ".9", ".1"];
    for version in versions {
        let path = folder.join(format!("lib{name}.so{version}"));
        fs::write(path, "no library").expect("a file");
    }
}
