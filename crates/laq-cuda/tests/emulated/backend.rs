//! The whole backend, host side and kernels, on the emulator: the suite that every backend must pass.

use crate::emulator::Emulator;
use crate::emulator::device::Emulated;
use laq_cuda::CudaBackend;
use laq_tensor::conformance;

#[test]
fn the_backend_conforms() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    conforms(Emulated::new(emulator));
    // A kernel that is never launched is not one of those of which it is said that they are tested.
    let launched = emulator.launched();
    for (file, source) in laq_cuda::KERNEL_SOURCES {
        for kernel in laq_cuda::kernels_in(source) {
            assert!(launched.contains(kernel), "{kernel} of {file}");
        }
    }
}

#[test]
fn the_backend_conforms_with_a_library_of_convolutions() {
    if let Some(emulator) = Emulator::get() {
        conforms(Emulated::with_convolutions(emulator));
    }
}

fn conforms(device: Emulated) {
    let checks = conformance::run(&CudaBackend::new(device)).unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} fail, such as {:#?}",
        failed.len(),
        checks.len(),
        &failed[..failed.len().min(12)]
    );
}
