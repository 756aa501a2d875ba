//! The approximate solver: scale and levels in turn, each the best for the other.
//!
//! Neither half of a round raises the error, so it falls until both fit, usually in a few rounds; what it
//! ends in is a fixed point, not always the optimum. A warm start from the levels of the previous training
//! iteration is both quicker and better than a cold one.

use crate::codebook::{Codebook, Magnitudes, Scale};
use crate::finish;
use crate::kernels::{self, Moments, Side};
use crate::problem::{Problem, SolveError};
use crate::quantizer::Solution;
use laq_simd::Isa;

/// The alternating solvers stop when the scale changes by no more than this, absolutely. Source: PAPER.md
/// §2, *alternating*.
pub const SCALE_TOLERANCE: f64 = 1e-6;

/// The alternating solvers stop after so many rounds. Source: PAPER.md §2, *alternating*.
pub const MOST_ROUNDS: u32 = 10;

/// Approaches a solution of problem (1) by taking turns: `b_i` nearest to `w_i / α`, then
/// `α = Σ d b w / Σ d b²`, until `|Δα| ≤` [`SCALE_TOLERANCE`] or [`MOST_ROUNDS`] rounds. The error
/// never rises above that of the start.
///
/// With `warm`, `levels` hold the previous iteration's answer and the first scale is the best one for
/// them. Without it, or where they allow no positive scale, the start is the sign of every weight at the top
/// level, `α = Σ d |w| / Σ d`. The returned levels are the nearest ones for the returned scale.
///
/// `levels` has the weights' length and is overwritten. Source: PAPER.md §2, *alternating*.
///
/// # Errors
/// `levels` of another length than the weights; a codebook with bits outside 2 to 8.
pub fn alternating(
    problem: Problem<'_>,
    codebook: Codebook,
    warm: bool,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    finish::with_scale(problem, codebook, levels, |isa, magnitudes, levels| {
        let start = warm.then_some((codebook, levels));
        fixed_point(isa, problem, Side::Both, magnitudes, start)
    })
}

/// The same for levels {−β, 0, α}: the positive and the negative weights apart, each with a stop of its
/// own. Reports the rounds of the slower side. Source: PAPER.md §2 (the paper's Algorithm 5).
pub(crate) fn two_scales(
    problem: Problem<'_>,
    warm: bool,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let magnitudes = Codebook::Ternary.magnitudes();
    let start = warm.then_some((Codebook::Ternary, &*levels));
    let [(positive, rounds), (negative, more)] = [Side::Positive, Side::Negative]
        .map(|side| fixed_point(isa, problem, side, &magnitudes, start));
    let [positive, negative] = [positive, negative].map(finish::to_f32);
    let scale = Scale::Two { positive, negative };
    Ok(finish::two_scales(
        isa,
        problem,
        scale,
        rounds.max(more),
        levels,
    ))
}

/// The scale that the turns end with, for the weights of one side, and the rounds they took.
fn fixed_point(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    start: Option<(Codebook, &[i8])>,
) -> (f64, u32) {
    let has_scale = |moments: &Moments| moments.product > 0.0 && moments.square > 0.0;
    let warm = start
        .map(|(codebook, levels)| kernels::moments_of_levels(isa, problem, side, codebook, levels))
        .filter(has_scale);
    let Some((problem, moments)) = warm
        .map(|moments| (problem, moments))
        .or_else(|| finish::weighted_or_not(isa, problem, side))
    else {
        return (0.0, 0);
    };
    let mut scale = moments.scale();
    for round in 1..=MOST_ROUNDS {
        let thresholds = magnitudes.thresholds(scale);
        let moments = kernels::moments(isa, problem, side, magnitudes, thresholds.values());
        if !has_scale(&moments) {
            return (scale, round);
        }
        let change = (moments.scale() - scale).abs();
        scale = moments.scale();
        if change <= SCALE_TOLERANCE {
            return (scale, round);
        }
    }
    (scale, MOST_ROUNDS)
}
