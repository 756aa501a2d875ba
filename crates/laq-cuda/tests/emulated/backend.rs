//! The conformance suite of backends, on the emulator.

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
        check_lstm(emulator, length, batch, 128);
    }
    for hidden in [256, 512] {
        check_lstm(emulator, 2, 3, hidden);
    }
    // Every kernel was launched, and so tested.
    let launched = emulator.launched();
    for (file, source) in laq_cuda::KERNEL_SOURCES {
        for kernel in laq_cuda::kernels_in(source) {
            assert!(launched.contains(kernel), "{kernel} of {file}");
        }
    }
}

#[test]
fn the_backend_conforms_with_library_convolutions() {
    if let Some(emulator) = Emulator::get() {
        conforms(CudaBackend::new(Emulated::with_convolutions(emulator)));
    }
}

fn conforms(backend: CudaBackend<Emulated>) {
    assert_passed(&conformance::run(&backend).unwrap());
}

fn assert_passed(checks: &[Check]) {
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} fail, such as {:#?}",
        failed.len(),
        checks.len(),
        &failed[..failed.len().min(12)]
    );
}

/// LSTMs in one cooperative kernel, and step by step where too few blocks can run together.
fn check_lstm(emulator: &'static Emulator, length: usize, batch: usize, hidden: usize) {
    let shape = LstmShape {
        length,
        batch,
        vocabulary: 5,
        hidden,
    };
    let needed = hidden / 16 * batch.div_ceil(32);
    for blocks in [needed, needed - 1] {
        let device = Emulated::cooperative(emulator, blocks);
        let backend = CudaBackend::new(device);
        assert_passed(&conformance::lstm(&backend, shape, 0.02).unwrap());
    }
}
