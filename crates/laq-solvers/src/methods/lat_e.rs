//! LAT, exact: ternary levels and one scale, the global optimum of problem (1).

use super::Exact;
use crate::codebook::Codebook;
use crate::method::Family;

pub(crate) const FAMILY: Family = Family {
    id: "lat-e",
    aliases: &["LATe"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "one, from the loss",
    solver: "exact",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|_| std::sync::Arc::new(Exact(Codebook::Ternary))),
};
