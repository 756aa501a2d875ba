//! Methods whose scale has a closed form, with the nearest levels: for binary ones the sign of each weight, 1 for zero.

use laq_simd::Isa;

use super::assign;
use crate::codebook::Codebook;
use crate::error::SolveError;
use crate::passes::lanes::Side;
use crate::passes::sums::drop_zero_curvature;
use crate::problem::{Problem, Solution};

/// BinaryConnect: scale 1.
pub(crate) fn signs(problem: Problem<'_>, levels: &mut [i8]) -> Result<Solution, SolveError> {
    with_signs(problem, levels, |_| 1.0)
}

/// BWN and absmean: `α = mean |w|`.
pub(crate) fn at_mean_magnitude(
    problem: Problem<'_>,
    codebook: &Codebook,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    assign::with_scale(problem, codebook, levels, |isa, _, _| {
        (mean_magnitude(isa, problem.unweighted()), 0)
    })
}

/// Absmax: `α = max |w|`.
pub(crate) fn at_largest_magnitude(
    problem: Problem<'_>,
    codebook: &Codebook,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    let largest = f32::from_bits(problem.span().largest);
    assign::with_scale(problem, codebook, levels, |_, _, _| (largest.into(), 0))
}

/// LAB: `α = Σ d |w| / Σ d`. The nearest of the levels ±1 is the sign for every scale, so this is
/// the exact solution of problem (1).
pub(crate) fn weighted_signs(
    problem: Problem<'_>,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    with_signs(problem, levels, |isa| mean_magnitude(isa, problem))
}

fn with_signs(
    problem: Problem<'_>,
    levels: &mut [i8],
    scale: impl FnOnce(Isa) -> f64,
) -> Result<Solution, SolveError> {
    assign::with_scale(problem, &Codebook::Binary, levels, |isa, _, _| {
        (scale(isa), 0)
    })
}

/// `Σ d |w| / Σ d`; zero if all weights are.
fn mean_magnitude(isa: Isa, problem: Problem<'_>) -> f64 {
    drop_zero_curvature(isa, problem, Side::Both, false).map_or(0.0, |(_, totals)| totals.scale())
}
