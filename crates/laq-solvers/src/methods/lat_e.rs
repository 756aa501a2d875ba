//! LAT, exact: ternary levels and one scale, the global optimum of problem (1).

use crate::codebook::{Codebook, Scale};
use crate::exact::exact_by_sorting;
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "lat-e",
    aliases: &["LATe"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "one, from the loss",
    solver: "exact, by sorting",
    source: "Hou and Kwok 2018 (arXiv 1802.08635)",
    quantizer: Some(|_| std::sync::Arc::new(LatExact)),
};

#[derive(Debug)]
struct LatExact;

impl Quantizer for LatExact {
    fn codebook(&self) -> Codebook {
        Codebook::Ternary
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        exact_by_sorting(problem, self.codebook(), levels, workspace)
    }
}
