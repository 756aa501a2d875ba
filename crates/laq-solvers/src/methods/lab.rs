//! LAB: signs, scaled by the curvature-weighted mean magnitude `α = Σ d |w| / Σ d`. For levels ±1 the
//! nearest one is the sign whatever the scale, so this is the exact solution of problem (1).

use super::{mean_magnitude, signs};
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "lab",
    aliases: &["LAB"],
    bits: None,
    codebook: "{-1, 1}",
    scale: "one, from the loss",
    solver: "closed form, exact",
    source: "Hou, Yao and Kwok 2017 (arXiv 1611.01600)",
    quantizer: Some(|_| std::sync::Arc::new(Lab)),
};

#[derive(Debug)]
struct Lab;

impl Quantizer for Lab {
    fn codebook(&self) -> Codebook {
        Codebook::Binary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::WeightedSigns)
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        signs(problem, levels, |isa| mean_magnitude(isa, problem))
    }
}
