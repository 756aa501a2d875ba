//! All instruction sets of this processor against the f64 reference.

use laq_tensor::cpu::Isa;
use laq_tensor::{CpuBackend, conformance};

#[test]
fn every_kernel_conforms() {
    for isa in Isa::available() {
        let checks = conformance::run(&CpuBackend::with_isa(isa)).unwrap();
        assert!(checks.len() > 100);
        for check in checks {
            assert!(
                check.passed(),
                "{}: {}: error {:e}, tolerance {:e}",
                isa.name(),
                check.name,
                check.error,
                check.tolerance
            );
        }
    }
}
