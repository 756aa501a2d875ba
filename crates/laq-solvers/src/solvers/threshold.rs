//! Methods whose thresholds follow from a statistic of the weights, not from problem (1): TWN, TTQ
//! and DoReFa, with the gradients of the latter two.

use laq_simd::Isa;

use super::assign;
use crate::codebook::{Codebook, Scale, floor_f32, to_f32};
use crate::error::SolveError;
use crate::passes::lanes::Side;
use crate::passes::parallel::{self, Parts};
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

/// TTQ: `∂loss/∂w` is `W_p·g` for level 1, `W_n·g` for −1, and `g` for 0.
pub(crate) fn trained_latent_gradient(scale: Scale, levels: &[i8], gradient: &mut [f32]) {
    let [positive, negative] = scale.pair();
    let scale = |(gradient, levels): (&mut [f32], &[i8])| {
        for (gradient, &level) in gradient.iter_mut().zip(levels) {
            let of_side = if level > 0 { positive } else { negative };
            *gradient *= if level == 0 { 1.0 } else { of_side };
        }
    };
    parallel::for_each((gradient, levels), Parts::of(levels.len()), &scale);
}

/// TTQ: `∂W_p = Σ g` over the levels 1 and `∂W_n = −Σ g` over the levels −1, because `ŵ = −W_n`
/// there.
pub(crate) fn trained_scale_gradient(levels: &[i8], gradient: &[f32]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (&gradient, &level) in gradient.iter().zip(levels) {
        // Without branches, which random levels would mispredict.
        let gradient = f64::from(gradient);
        sums[0] += if level > 0 { gradient } else { 0.0 };
        sums[1] -= if level < 0 { gradient } else { 0.0 };
    }
    sums
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

/// DoReFa with straight-through rounding: `ŵ_i = t_i / M`, `t = tanh w`, and `M = |t_m|` for the
/// first index m with the largest magnitude, so
/// `∂loss/∂w_i = (1 − t_i²) / M · (g_i − [i = m] · Σ_j g_j t_j / t_m)`.
pub(crate) fn tanh_latent_gradient(weights: &[f32], gradient: &mut [f32]) {
    let length = weights.len().min(gradient.len());
    let (weights, gradient) = (&weights[..length], &mut gradient[..length]);
    let mut largest = (0, 0.0);
    for (index, &w) in weights.iter().enumerate() {
        if w.abs() > largest.1 {
            largest = (index, w.abs());
        }
    }
    let (index, magnitude) = (largest.0, f64::from(largest.1).tanh());
    if magnitude == 0.0 {
        // All weights are zero, where the derivative is unbounded. The gradient stays unchanged.
        return;
    }
    let at_largest = gradient[index];
    let mut product = 0.0;
    for (gradient, &w) in gradient.iter_mut().zip(weights) {
        let t = f64::from(w).tanh();
        product += f64::from(*gradient) * t;
        let passed = f64::from(*gradient) * (1.0 - t * t) / magnitude;
        *gradient = to_f32(passed);
    }
    // The weight of largest magnitude is at ±1 for every value; it only changes the others.
    let t = f64::from(weights[index]).tanh();
    let others = product - f64::from(at_largest) * t;
    gradient[index] = to_f32(-(1.0 - t * t) / magnitude * others / t);
}
