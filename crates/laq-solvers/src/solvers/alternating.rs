//! The approximate solver: alternates between the best levels for a scale and the best scale for
//! the levels.
//!
//! Neither half of an iteration increases the error. It usually converges in a few iterations, to a
//! fixed point that need not be the optimum. A warm start from the levels of the previous training
//! step is faster and better than a cold one.

use laq_simd::Isa;

use super::assign;
use crate::codebook::{Codebook, Magnitudes};
use crate::error::SolveError;
use crate::passes::lanes::Side;
use crate::passes::sums::{self, drop_zero_curvature};
use crate::problem::{Problem, Solution};

/// Largest absolute change of the scale at which the alternating solvers stop. Source: PAPER.md §2,
/// *alternating*.
pub const SCALE_TOLERANCE: f64 = 1e-6;

/// Maximum iterations of the alternating solvers. Source: PAPER.md §2, *alternating*.
pub const MAX_ITERATIONS: u32 = 10;

/// Approximates a solution of problem (1): repeats `b_i` = the level nearest to `w_i / α`, then
/// `α = Σ d b w / Σ d b²`, until `|Δα| ≤` [`SCALE_TOLERANCE`] or for [`MAX_ITERATIONS`]. The error
/// never exceeds that of the start.
///
/// With `warm`, `levels` holds the previous solution, and the first scale is the best one for it.
/// Without `warm`, or if the best scale for those levels is not positive or above the largest f32, the start is the sign of each weight
/// at the top level, `α = Σ d |w| / Σ d`. The returned levels are the nearest ones for the returned
/// scale.
///
/// `levels` has the length of the weights and is overwritten. Source: PAPER.md §2, *alternating*.
///
/// # Errors
/// `levels` and the weights differ in length; [`SolveError::Table`] for a [`Codebook::table`].
pub fn alternating(
    problem: Problem<'_>,
    codebook: &Codebook,
    warm: bool,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    assign::with_scale(problem, codebook, levels, |isa, magnitudes, levels| {
        let start = warm.then_some((codebook, levels));
        fixed_point(isa, problem, Side::Both, magnitudes, start)
    })
}

/// [`alternating`] for levels {−β, 0, α}: positive and negative weights are separate problems.
/// Returns the iterations of the slower side. Source: PAPER.md §2 (the paper's Algorithm 5).
pub(crate) fn two_scales(
    problem: Problem<'_>,
    warm: bool,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let magnitudes = Codebook::Ternary.magnitudes();
    let start = warm.then_some((&Codebook::Ternary, &*levels));
    let [(positive, iterations), (negative, more)] = [Side::Positive, Side::Negative]
        .map(|side| fixed_point(isa, problem, side, &magnitudes, start));
    let (scales, iterations) = ([positive, negative], iterations.max(more));
    Ok(assign::two_scales(isa, problem, scales, iterations, levels))
}

/// The scale of the fixed point for the weights of one side, and the iterations.
fn fixed_point(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    start: Option<(&Codebook, &[i8])>,
) -> (f64, u32) {
    let warm = start
        .map(|(codebook, levels)| sums::sums_of_levels(isa, problem, side, codebook, levels))
        .filter(|sums| sums.has_scale() && sums.scale() <= f32::MAX.into());
    let Some((problem, sums)) = warm
        .map(|sums| (problem, sums))
        .or_else(|| drop_zero_curvature(isa, problem, side, magnitudes.has_zero()))
    else {
        return (0.0, 0);
    };
    let mut scale = sums.scale();
    for iteration in 1..=MAX_ITERATIONS {
        let thresholds = magnitudes.thresholds(scale);
        let sums = sums::at_thresholds(isa, problem, side, magnitudes, thresholds.values());
        if !sums.has_scale() {
            return (scale, iteration);
        }
        let change = (sums.scale() - scale).abs();
        scale = sums.scale();
        if change <= SCALE_TOLERANCE {
            return (scale, iteration);
        }
    }
    (scale, MAX_ITERATIONS)
}
