//! LAQ, linear, exact: the levels of `laq-linear-M`, the global optimum of problem (1).

use super::Exact;
use crate::codebook::Codebook;
use crate::method::Family;

pub(crate) const FAMILY: Family = Family {
    id: "laq-linear-M-e",
    aliases: &[],
    bits: Some(2..=8),
    codebook: "{0, ±1/k, ..., ±1}, k = 2^(bits-1) - 1",
    scale: "one, from the loss",
    solver: "exact",
    source: "this project; not in the paper",
    quantizer: Some(|bits| std::sync::Arc::new(Exact(Codebook::Linear { bits }))),
};
