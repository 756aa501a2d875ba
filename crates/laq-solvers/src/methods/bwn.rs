//! BWN: signs, scaled by the mean magnitude `α = mean |w|`, the solution of problem (1) without curvature.

use super::{mean_magnitude, signs};
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "bwn",
    aliases: &["BWN"],
    bits: None,
    codebook: "{-1, 1}",
    scale: "mean magnitude",
    solver: "closed form",
    source: "Rastegari et al. 2016 (arXiv 1603.05279)",
    quantizer: Some(|_| std::sync::Arc::new(Bwn)),
};

#[derive(Debug)]
struct Bwn;

impl Quantizer for Bwn {
    fn codebook(&self) -> Codebook {
        Codebook::Binary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::MeanSigns)
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        signs(problem, levels, |isa| {
            mean_magnitude(isa, problem.unweighted())
        })
    }
}
