//! LAQ, logarithmic: levels 0, ±2^−(k−1), …, ±½, ±1 with k = 2^(bits − 1) − 1, by turns.

use super::Alternating;
use crate::codebook::Codebook;
use crate::method::Family;

pub(crate) const FAMILY: Family = Family {
    id: "laq-log-M",
    aliases: &["LAQ_log"],
    bits: Some(2..=8),
    codebook: "{0, ±2^-(k-1), ..., ±1/2, ±1}, k = 2^(bits-1) - 1",
    scale: "one, from the loss",
    solver: "alternating",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|bits| std::sync::Arc::new(Alternating(Codebook::Logarithmic { bits }))),
};
