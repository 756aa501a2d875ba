//! Every kernel of this processor, forced in turn, against the reference in f64.

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
                "{}: {}: error {:e}, at most {:e} expected",
                isa.name(),
                check.name,
                check.error,
                check.tolerance
            );
        }
    }
}
