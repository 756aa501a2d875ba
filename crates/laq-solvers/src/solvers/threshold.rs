//! Methods whose thresholds follow from a statistic of the weights, not from problem (1): TWN, TTQ
//! and DoReFa. The gradients of the latter two are in `gradients`.

use laq_simd::Isa;

use super::assign;
use crate::codebook::{Codebook, Scale, floor_f32, to_f32};
use crate::error::SolveError;
use crate::passes::lanes::Side;
use crate::passes::sums;
use crate::problem::{Problem, Solution};

/// The threshold of TWN, relative to the mean magnitude. Source: PAPER.md §2.
const TWN_THRESHOLD: f64 = 0.7;

/// The threshold of TTQ, relative to the largest magnitude. Source: PAPER.md §2.
const TTQ_THRESHOLD: f64 = 0.05;

/// TWN: ternary levels with `|w| > Δ = 0.7 · mean |w|`, `α` the mean magnitude above `Δ`. Ignores
/// the curvature.
pub(crate) fn mean_threshold(
    problem: Problem<'_>,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let (threshold, scale) = mean_threshold_and_scale(isa, problem);
    let (thresholds, scale) = ([threshold; 2], Scale::One(scale));
    Ok(assign::ternary_at(
        isa, problem, thresholds, scale, 0, levels,
    ))
}

/// `Δ`, and the mean magnitude above it; infinity and zero if all weights are zero.
fn mean_threshold_and_scale(isa: Isa, problem: Problem<'_>) -> (f32, f32) {
    let problem = problem.unweighted();
    let all = sums::totals(isa, problem, Side::Both);
    if all.product == 0.0 {
        return (f32::INFINITY, 0.0);
    }
    let threshold = floor_f32(TWN_THRESHOLD * all.scale());
    let above = sums::sums_above(isa, problem, threshold);
    (threshold, to_f32(above.scale()))
}

/// TTQ: levels {−W_n, 0, W_p} with trained scales, `Δ = 0.05 · max |w|`. The scales start at that
/// of TWN.
pub(crate) fn trained(
    problem: Problem<'_>,
    previous: Option<Scale>,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let [positive, negative] = match previous {
        Some(trained) => trained.pair(),
        None => [mean_threshold_and_scale(isa, problem).1; 2],
    };
    if let Some(&value) = [positive, negative].iter().find(|scale| !scale.is_finite()) {
        return Err(SolveError::Scale { value });
    }
    let largest = f32::from_bits(problem.span().largest);
    let thresholds = [floor_f32(TTQ_THRESHOLD * f64::from(largest)); 2];
    let scale = Scale::Two { positive, negative };
    Ok(assign::ternary_at(
        isa, problem, thresholds, scale, 0, levels,
    ))
}

/// DoReFa: the level nearest to `tanh w / M`, `M = max |tanh w|`, with scale 1.
///
/// tanh rises, so the border between two levels is the weight `|w| = artanh(M · midpoint)`,
/// computed once per slice instead of a tanh per weight.
pub(crate) fn tanh(
    problem: Problem<'_>,
    codebook: &Codebook,
    levels: &mut [i8],
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let largest = f64::from(f32::from_bits(problem.span().largest)).tanh();
    let magnitudes = codebook.magnitudes();
    let thresholds = magnitudes.thresholds_by(|midpoint| (largest * midpoint).atanh());
    let (nearest, scale) = ((&magnitudes, &thresholds), Scale::One(1.0));
    Ok(assign::at_thresholds(
        isa, problem, codebook, nearest, scale, 0, levels,
    ))
}
