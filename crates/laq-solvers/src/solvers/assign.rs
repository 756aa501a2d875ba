//! From a scale to a [`Solution`]: levels, and the error of the returned levels and scale.

use laq_simd::Isa;

use crate::codebook::{Codebook, Magnitudes, Scale, Thresholds, floor_f32, to_f32};
use crate::error::SolveError;
use crate::passes::assign::{Assignment, assign_with_error};
use crate::problem::{Problem, Solution};

/// A solver with one scale: `solve` returns the scale and the iterations, from the previous levels
/// if it uses them. The levels become the nearest ones for the scale.
pub(super) fn with_scale(
    problem: Problem<'_>,
    codebook: &Codebook,
    levels: &mut [i8],
    solve: impl FnOnce(Isa, &Magnitudes, &[i8]) -> (f64, u32),
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    if matches!(codebook, Codebook::Table(_)) {
        return Err(SolveError::Table);
    }
    let isa = Isa::selected();
    let magnitudes = codebook.magnitudes();
    let (scale, iterations) = solve(isa, &magnitudes, levels);
    let scale = to_f32(scale);
    let thresholds = magnitudes.thresholds(f64::from(scale));
    let (scale, nearest) = (Scale::One(scale), (&magnitudes, &thresholds));
    Ok(at_thresholds(
        isa, problem, codebook, nearest, scale, iterations, levels,
    ))
}

/// The levels that thresholds on `|w|` select.
pub(super) fn at_thresholds(
    isa: Isa,
    problem: Problem<'_>,
    codebook: &Codebook,
    (magnitudes, thresholds): (&Magnitudes, &Thresholds),
    scale: Scale,
    iterations: u32,
    levels: &mut [i8],
) -> Solution {
    let nearest = Assignment::Nearest(magnitudes, thresholds);
    Solution {
        scale,
        weighted_error: assign_with_error(isa, problem, nearest, codebook, scale, levels),
        iterations,
    }
}

/// The nearest ternary levels for a scale per sign.
pub(super) fn two_scales(
    isa: Isa,
    problem: Problem<'_>,
    [positive, negative]: [f64; 2],
    iterations: u32,
    levels: &mut [i8],
) -> Solution {
    let [positive, negative] = [positive, negative].map(to_f32);
    // A side with scale zero has no weights worth a level.
    let thresholds = [positive, negative].map(|scale| {
        if scale > 0.0 {
            floor_f32(0.5 * f64::from(scale))
        } else {
            f32::INFINITY
        }
    });
    let scale = Scale::Two { positive, negative };
    ternary_at(isa, problem, thresholds, scale, iterations, levels)
}

/// Ternary levels: 1 if `w > above`, −1 if `−w > below`.
pub(super) fn ternary_at(
    isa: Isa,
    problem: Problem<'_>,
    [above, below]: [f32; 2],
    scale: Scale,
    iterations: u32,
    levels: &mut [i8],
) -> Solution {
    let ternary = Assignment::Ternary(above, below);
    let codebook = &Codebook::Ternary;
    Solution {
        scale,
        weighted_error: assign_with_error(isa, problem, ternary, codebook, scale, levels),
        iterations,
    }
}
