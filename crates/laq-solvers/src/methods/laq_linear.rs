//! LAQ, linear: levels 0, ±1/k, …, ±1 with k = 2^(bits − 1) − 1, by turns.

use crate::alternating::alternating;
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "laq-linear",
    aliases: &["LAQ_linear"],
    bits: Some(2..=8),
    codebook: "{0, ±1/k, ..., ±1}, k = 2^(bits-1) - 1",
    scale: "one, from the loss",
    solver: "alternating",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|bits| std::sync::Arc::new(LaqLinear { bits })),
};

#[derive(Debug)]
struct LaqLinear {
    bits: u8,
}

impl Quantizer for LaqLinear {
    fn codebook(&self) -> Codebook {
        Codebook::Linear { bits: self.bits }
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
