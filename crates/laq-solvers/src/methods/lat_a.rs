//! LAT, approximate: ternary levels and one scale, by turns.

use super::Alternating;
use crate::codebook::Codebook;
use crate::method::Family;

pub(crate) const FAMILY: Family = Family {
    id: "lat-a",
    aliases: &["LATa"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "one, from the loss",
    solver: "alternating",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|_| std::sync::Arc::new(Alternating(Codebook::Ternary))),
};
