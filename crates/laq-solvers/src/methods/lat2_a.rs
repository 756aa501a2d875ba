//! LAT with two scales, approximate: levels {−β, 0, α}, each side by turns.

use crate::alternating;
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "lat2-a",
    aliases: &["LAT2a"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "two, from the loss",
    solver: "alternating, each sign",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|_| std::sync::Arc::new(Lat2Approximate)),
};

#[derive(Debug)]
struct Lat2Approximate;

impl Quantizer for Lat2Approximate {
    fn codebook(&self) -> Codebook {
        Codebook::Ternary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Alternating { two_scales: true })
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        alternating::two_scales(problem, previous.is_some(), levels)
    }
}
