//! The end that every solver shares: from a scale to levels and error, so that what is returned belongs
//! together; and the rule for curvatures that are zero.

use crate::codebook::{Codebook, Magnitudes, Scale, Thresholds, at_most};
use crate::kernels::{self, Assignment, Moments, Side};
use crate::problem::{Problem, SolveError};
use crate::quantizer::Solution;
use laq_simd::Isa;

/// The nearest f32 that is finite.
pub(crate) fn to_f32(scale: f64) -> f32 {
    (scale as f32).clamp(f32::MIN, f32::MAX)
}

/// The problem to solve for one side, and its totals: without curvature where that is zero throughout,
/// and `None` where there is no weight but zeros, so that the best scale is zero.
pub(crate) fn weighted_or_not<'a>(
    isa: Isa,
    problem: Problem<'a>,
    side: Side,
) -> Option<(Problem<'a>, Moments)> {
    [problem, problem.unweighted()]
        .into_iter()
        .map(|problem| (problem, kernels::totals(isa, problem, side)))
        .find(|(_, totals)| totals.square > 0.0)
        .filter(|(_, totals)| totals.product > 0.0)
}

/// What the solvers with one scale have in common: `solve` finds the scale and says how many rounds it took, and may
/// look at the levels, which then become the nearest ones for the scale.
pub(crate) fn with_scale(
    problem: Problem<'_>,
    codebook: Codebook,
    levels: &mut [i8],
    solve: impl FnOnce(Isa, &Magnitudes, &[i8]) -> (f64, u32),
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    codebook.check()?;
    let isa = Isa::selected();
    let magnitudes = codebook.magnitudes();
    let (scale, rounds) = solve(isa, &magnitudes, levels);
    let scale = to_f32(scale);
    Ok(one_scale(
        isa,
        problem,
        codebook,
        &magnitudes,
        scale,
        rounds,
        levels,
    ))
}

/// The nearest levels for one scale, and their error.
pub(crate) fn one_scale(
    isa: Isa,
    problem: Problem<'_>,
    codebook: Codebook,
    magnitudes: &Magnitudes,
    scale: f32,
    rounds: u32,
    levels: &mut [i8],
) -> Solution {
    let thresholds = magnitudes.thresholds(f64::from(scale));
    at_thresholds(
        isa,
        problem,
        codebook,
        magnitudes,
        &thresholds,
        Scale::One(scale),
        rounds,
        levels,
    )
}

/// The levels that some thresholds on `|w|` give, and their error.
pub(crate) fn at_thresholds(
    isa: Isa,
    problem: Problem<'_>,
    codebook: Codebook,
    magnitudes: &Magnitudes,
    thresholds: &Thresholds,
    scale: Scale,
    rounds: u32,
    levels: &mut [i8],
) -> Solution {
    let nearest = Assignment::Nearest(magnitudes, thresholds);
    Solution {
        scale,
        weighted_error: kernels::assign_with_error(isa, problem, nearest, codebook, scale, levels),
        rounds,
    }
}

/// The nearest levels for ternary codes with a scale for each sign, and their error.
pub(crate) fn two_scales(
    isa: Isa,
    problem: Problem<'_>,
    scale: Scale,
    rounds: u32,
    levels: &mut [i8],
) -> Solution {
    // A side of scale zero is a side without weights worth a level.
    let threshold = |scale: f32| {
        if scale > 0.0 {
            at_most(0.5 * f64::from(scale))
        } else {
            f32::INFINITY
        }
    };
    let [above, below] = scale.pair().map(threshold);
    ternary_at(isa, problem, above, below, scale, rounds, levels)
}

/// Ternary levels at given thresholds, and their error.
pub(crate) fn ternary_at(
    isa: Isa,
    problem: Problem<'_>,
    above: f32,
    below: f32,
    scale: Scale,
    rounds: u32,
    levels: &mut [i8],
) -> Solution {
    let ternary = Assignment::Ternary(above, below);
    let codebook = Codebook::Ternary;
    Solution {
        scale,
        weighted_error: kernels::assign_with_error(isa, problem, ternary, codebook, scale, levels),
        rounds,
    }
}
