//! Full precision: nothing is quantized.

use crate::method::Family;

pub(crate) const FAMILY: Family = Family {
    id: "full",
    aliases: &["FPN"],
    bits: None,
    codebook: "full precision",
    scale: "none",
    solver: "none",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: None,
};
