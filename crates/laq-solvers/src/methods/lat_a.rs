//! LAT, approximate: ternary levels and one scale, by turns.

use crate::alternating::alternating;
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "lat-a",
    aliases: &["LATa"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "one, from the loss",
    solver: "alternating",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|_| std::sync::Arc::new(LatApproximate)),
};

#[derive(Debug)]
struct LatApproximate;

impl Quantizer for LatApproximate {
    fn codebook(&self) -> Codebook {
        Codebook::Ternary
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
