//! LAQ, logarithmic: levels 0, ±2^−(k−1), …, ±½, ±1 with k = 2^(bits − 1) − 1, by turns.

use crate::alternating::alternating;
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "laq-log",
    aliases: &["LAQ_log"],
    bits: Some(2..=8),
    codebook: "{0, ±2^-(k-1), ..., ±1/2, ±1}, k = 2^(bits-1) - 1",
    scale: "one, from the loss",
    solver: "alternating",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|bits| std::sync::Arc::new(LaqLog { bits })),
};

#[derive(Debug)]
struct LaqLog {
    bits: u8,
}

impl Quantizer for LaqLog {
    fn codebook(&self) -> Codebook {
        Codebook::Logarithmic { bits: self.bits }
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        alternating(problem, self.codebook(), previous.is_some(), levels)
    }
}
