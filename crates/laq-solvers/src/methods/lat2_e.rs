//! LAT with two scales, exact: levels {−β, 0, α}, each side solved to the global optimum.

use crate::codebook::{Codebook, Scale};
use crate::exact;
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "lat2-e",
    aliases: &["LAT2e"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "two, from the loss",
    solver: "exact, each sign",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|_| std::sync::Arc::new(Lat2Exact)),
};

#[derive(Debug)]
struct Lat2Exact;

impl Quantizer for Lat2Exact {
    fn codebook(&self) -> Codebook {
        Codebook::Ternary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Exact { two_scales: true })
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        exact::two_scales(problem, levels, workspace)
    }
}
