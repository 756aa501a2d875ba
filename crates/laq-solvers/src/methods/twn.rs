//! TWN: ternary levels by the rule of thumb `|w| > Δ = 0.7 · mean |w|`, with `α` the mean magnitude of the
//! weights above `Δ`. The curvature plays no part.

use crate::codebook::{Codebook, Scale, at_most};
use crate::finish;
use crate::kernels::{self, Side};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};
use laq_simd::Isa;

pub(crate) const FAMILY: Family = Family {
    id: "twn",
    aliases: &["TWN"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "mean magnitude above the threshold",
    solver: "threshold at 0.7 of the mean magnitude",
    source: "Li, Zhang and Liu 2016 (arXiv 1605.04711)",
    quantizer: Some(|_| std::sync::Arc::new(Twn)),
};

/// The threshold, in mean magnitudes. Source: PAPER.md §2.
const THRESHOLD: f64 = 0.7;

#[derive(Debug)]
struct Twn;

impl Quantizer for Twn {
    fn codebook(&self) -> Codebook {
        Codebook::Ternary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Threshold)
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        problem.check_length(levels)?;
        let isa = Isa::selected();
        let (threshold, scale) = threshold_and_scale(isa, problem);
        let scale = Scale::One(scale);
        Ok(finish::ternary_at(
            isa, problem, threshold, threshold, scale, 0, levels,
        ))
    }
}

/// `Δ`, and the mean magnitude above it; infinity and zero where all weights are zero.
pub(super) fn threshold_and_scale(isa: Isa, problem: Problem<'_>) -> (f32, f32) {
    let problem = problem.unweighted();
    let all = kernels::totals(isa, problem, Side::Both);
    if all.product == 0.0 {
        return (f32::INFINITY, 0.0);
    }
    let threshold = at_most(THRESHOLD * all.scale());
    let above = kernels::moments_above(isa, problem, threshold);
    (threshold, finish::to_f32(above.scale()))
}
