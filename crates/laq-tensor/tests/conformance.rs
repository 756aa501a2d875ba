//! Every kernel of this processor, forced in turn, against the reference in f64.

use laq_tensor::cpu::Kernel;
use laq_tensor::{CpuBackend, conformance};

#[test]
fn every_kernel_conforms() {
    for kernel in Kernel::available() {
        let checks = conformance::run(&CpuBackend::with_kernel(kernel)).unwrap();
        assert!(checks.len() > 100);
        for check in checks {
            assert!(
                check.passed(),
                "{}: {}: error {:e}, at most {:e} expected",
                kernel.name(),
                check.name,
                check.error,
                check.tolerance
            );
        }
    }
}
