//! The whole backend, host side and kernels, on the emulator: the suite that every backend must pass.

use crate::emulator::Emulator;
use crate::emulator::device::Emulated;
use laq_cuda::CudaBackend;
use laq_tensor::LstmShape;
use laq_tensor::conformance::{self, Check};

#[test]
fn the_backend_conforms() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    conforms(CudaBackend::new(Emulated::new(emulator)));
    for (length, batch) in [(1, 3), (4, 33), (3, 64)] {
        recurs(emulator, length, batch, 128);
    }
    for hidden in [256, 512] {
        recurs(emulator, 2, 3, hidden);
    }
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
        conforms(CudaBackend::new(Emulated::with_convolutions(emulator)));
    }
}

fn conforms(backend: CudaBackend<Emulated>) {
    passed(&conformance::run(&backend).unwrap());
}

fn passed(checks: &[Check]) {
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} fail, such as {:#?}",
        failed.len(),
        checks.len(),
        &failed[..failed.len().min(12)]
    );
}

/// Recurrences in one kernel, whose blocks wait for each other; with fewer blocks at the same time they go step by step.
fn recurs(emulator: &'static Emulator, length: usize, batch: usize, hidden: usize) {
    let shape = LstmShape {
        length,
        batch,
        vocabulary: 5,
        hidden,
    };
    let needed = hidden / 16 * batch.div_ceil(32);
    for blocks in [needed, needed - 1] {
        let device = Emulated::with_blocks_together(emulator, blocks);
        let backend = CudaBackend::new(device);
        passed(&conformance::lstm(&backend, shape, 0.02).unwrap());
    }
}
