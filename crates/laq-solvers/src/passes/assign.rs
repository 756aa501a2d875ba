//! From thresholds to levels, from levels to weights, and the error of the result.

use laq_simd::{Isa, multiversion};

use super::lanes::{BLOCK, Curvature, LANES, Table, padded, sum, with_curvature, with_rule};
use super::parallel::{self, Parts};
use crate::codebook::{Codebook, Magnitudes, Scale, Thresholds, step};
use crate::error::SolveError;
use crate::level_rule::LevelValue;
use crate::problem::Problem;

impl Problem<'_> {
    /// `½ Σ_i d_i (w_i − ŵ_i)²` in f64, with `ŵ` as [`Codebook::decode`] computes it.
    ///
    /// # Errors
    /// `levels` and the weights differ in length.
    pub fn weighted_error(
        &self,
        codebook: &Codebook,
        scale: Scale,
        levels: &[i8],
    ) -> Result<f64, SolveError> {
        self.check_length(levels)?;
        Ok(weighted_error(
            Isa::selected(),
            *self,
            codebook,
            scale,
            levels,
        ))
    }
}

impl Codebook {
    /// `ŵ_i = step(scale) · multiplier(level_i)` in f32, the one decode rule; see
    /// [`Codebook::step`]. Integer formats compute the same product from the stored step.
    ///
    /// With two scales, the sign of the level selects the scale. Stops at the end of the shorter
    /// slice.
    pub fn decode(&self, levels: &[i8], scale: Scale, quantized: &mut [f32]) {
        decode(Isa::selected(), self, levels, scale, quantized);
    }
}

/// A rule from weights to levels.
#[derive(Clone, Copy)]
pub(crate) enum Assignment<'a> {
    /// The number of thresholds below `|w|` selects the magnitude; see [`Magnitudes`] for its
    /// index.
    Nearest(&'a Magnitudes, &'a Thresholds),
    /// Ternary levels: 1 if `w` is above the first threshold, −1 if `−w` is above the second, else
    /// 0.
    Ternary(f32, f32),
}

/// Writes the levels that the thresholds select, and their decoded values.
pub(crate) fn assign_and_decode(
    isa: Isa,
    weights: &[f32],
    codebook: &Codebook,
    (magnitudes, thresholds): (&Magnitudes, &Thresholds),
    scale: Scale,
    levels: &mut [i8],
    quantized: &mut [f32],
) {
    let nearest = Nearest {
        thresholds: thresholds.values(),
        first_positive: magnitudes.first_positive,
        first_negative: magnitudes.first_negative,
    };
    let assign = |weights: &[f32], levels: &mut [i8]| {
        if let Some(nearest) = nearest.of_length::<1>() {
            assign_levels(isa, weights, nearest, levels);
        } else if let Some(nearest) = nearest.of_length::<3>() {
            assign_levels(isa, weights, nearest, levels);
        } else {
            assign_levels(isa, weights, nearest, levels);
        }
    };
    // By blocks, so that levels are decoded while they are in the cache.
    let both = |((weights, levels), quantized): ((&[f32], &mut [i8]), &mut [f32])| {
        let blocks = weights.chunks(BLOCK).zip(levels.chunks_mut(BLOCK));
        for ((weights, levels), quantized) in blocks.zip(quantized.chunks_mut(BLOCK)) {
            assign(weights, levels);
            decode(isa, codebook, levels, scale, quantized);
        }
    };
    let parts = Parts::of(levels.len());
    parallel::for_each(((weights, levels), quantized), parts, &both);
}

multiversion! {
    fn assign_levels<A: Assign>(weights: &[f32], assign: A, levels: &mut [i8]) {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks_mut::<LANES>();
        for (chunk, levels) in chunks.iter().zip(level_chunks) {
            *levels = assign.levels(chunk);
        }
        let last = assign.levels(&padded(tail));
        level_tail.copy_from_slice(&last[..level_tail.len()]);
    }
}

/// Writes the levels, and returns their error `½ Σ d (w − ŵ)²`.
pub(crate) fn assign_with_error(
    isa: Isa,
    problem: Problem<'_>,
    assignment: Assignment<'_>,
    codebook: &Codebook,
    scale: Scale,
    levels: &mut [i8],
) -> f64 {
    let scales = scale.pair();
    let of_part = |(part, levels): (Problem<'_>, &mut [i8])| {
        let w = part.weights();
        with_curvature!(part, |d| with_rule!(codebook, |rule| match assignment {
            Assignment::Ternary(above, below) => {
                assigned_error(isa, w, d, Ternary { above, below }, rule, scales, levels)
            }
            Assignment::Nearest(magnitudes, thresholds) => {
                let assign = Nearest {
                    thresholds: thresholds.values(),
                    first_positive: magnitudes.first_positive,
                    first_negative: magnitudes.first_negative,
                };
                if let Some(assign) = assign.of_length::<3>() {
                    assigned_error(isa, w, d, assign, rule, scales, levels)
                } else if let Some(assign) = assign.of_length::<7>() {
                    assigned_error(isa, w, d, assign, rule, scales, levels)
                } else {
                    assigned_error(isa, w, d, assign, rule, scales, levels)
                }
            }
        }))
    };
    let parts = Parts::of(levels.len());
    parallel::reduce((problem, levels), parts, &of_part, &|a: f64, b: f64| a + b)
}

/// [`Assignment`] as a concrete type.
trait Assign: Copy {
    fn levels(self, weights: &[f32; LANES]) -> [i8; LANES];
}

#[derive(Clone, Copy)]
struct Ternary {
    above: f32,
    below: f32,
}

impl Assign for Ternary {
    #[inline(always)]
    fn levels(self, weights: &[f32; LANES]) -> [i8; LANES] {
        weights.map(|w| i8::from(w > self.above) - i8::from(w < -self.below))
    }
}

#[derive(Clone, Copy)]
struct Nearest<T> {
    thresholds: T,
    first_positive: i8,
    first_negative: i8,
}

impl Nearest<&[f32]> {
    /// The same with a table of constant length, which stays in registers.
    fn of_length<const N: usize>(self) -> Option<Nearest<[f32; N]>> {
        Some(Nearest {
            thresholds: self.thresholds.try_into().ok()?,
            first_positive: self.first_positive,
            first_negative: self.first_negative,
        })
    }
}

impl<T: Table> Assign for Nearest<T> {
    #[inline(always)]
    fn levels(self, weights: &[f32; LANES]) -> [i8; LANES] {
        let mut number = [0_i32; LANES];
        for &threshold in self.thresholds.get() {
            for lane in 0..LANES {
                number[lane] += i32::from(weights[lane].abs() > threshold);
            }
        }
        let mut levels = [0; LANES];
        for lane in 0..LANES {
            let positive = i32::from(self.first_positive) + number[lane];
            let negative = i32::from(self.first_negative) - number[lane];
            levels[lane] = if weights[lane] < 0.0 {
                negative
            } else {
                positive
            } as i8;
        }
        levels
    }
}

multiversion! {
    fn assigned_error<C: Curvature, A: Assign, R: LevelValue>(
        weights: &[f32],
        curvature: C,
        assign: A,
        rule: R,
        scales: [f32; 2],
        levels: &mut [i8],
    ) -> f64 {
        let steps = scales.map(|scale| step(scale, rule.divisor()));
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks_mut::<LANES>();
        let mut error = [0.0_f64; LANES];
        for (index, (chunk, levels)) in chunks.iter().zip(level_chunks).enumerate() {
            *levels = assign.levels(chunk);
            let quantized = levels.map(|level| decoded(rule, level, steps));
            add_errors(&mut error, chunk, quantized, curvature.chunk(index));
        }
        let levels = assign.levels(&padded(tail));
        level_tail.copy_from_slice(&levels[..tail.len()]);
        let quantized = levels.map(|level| decoded(rule, level, steps));
        add_errors(&mut error, &padded(tail), quantized, curvature.tail());
        0.5 * sum(error)
    }
}

/// `½ Σ d (w − ŵ)²` of `levels` and `scale`.
pub(crate) fn weighted_error(
    isa: Isa,
    problem: Problem<'_>,
    codebook: &Codebook,
    scale: Scale,
    levels: &[i8],
) -> f64 {
    let scales = scale.pair();
    let of_part = |(part, levels): (Problem<'_>, &[i8])| {
        let w = part.weights();
        with_curvature!(part, |d| with_rule!(codebook, |rule| {
            level_error(isa, w, d, rule, scales, levels)
        }))
    };
    let parts = Parts::of(levels.len());
    parallel::reduce((problem, levels), parts, &of_part, &|a: f64, b: f64| a + b)
}

/// The one decode rule, with the steps of positive and negative levels.
#[inline(always)]
fn decoded<R: LevelValue>(rule: R, level: i8, [positive, negative]: [f32; 2]) -> f32 {
    rule.multiplier(level) * if level < 0 { negative } else { positive }
}

multiversion! {
    fn level_error<C: Curvature, R: LevelValue>(
        weights: &[f32],
        curvature: C,
        rule: R,
        scales: [f32; 2],
        levels: &[i8],
    ) -> f64 {
        let steps = scales.map(|scale| step(scale, rule.divisor()));
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks::<LANES>();
        let mut error = [0.0_f64; LANES];
        for (index, (chunk, levels)) in chunks.iter().zip(level_chunks).enumerate() {
            let quantized = levels.map(|level| decoded(rule, level, steps));
            add_errors(&mut error, chunk, quantized, curvature.chunk(index));
        }
        let quantized = padded(level_tail).map(|level| decoded(rule, level, steps));
        add_errors(&mut error, &padded(tail), quantized, curvature.tail());
        0.5 * sum(error)
    }
}

#[inline(always)]
fn add_errors(
    error: &mut [f64; LANES],
    weights: &[f32; LANES],
    quantized: [f32; LANES],
    curvature: [f32; LANES],
) {
    for lane in 0..LANES {
        let gap = f64::from(weights[lane]) - f64::from(quantized[lane]);
        error[lane] += f64::from(curvature[lane]) * (gap * gap);
    }
}

/// `ŵ` of `levels` and `scale`, up to the end of the shorter slice.
pub(crate) fn decode(
    isa: Isa,
    codebook: &Codebook,
    levels: &[i8],
    scale: Scale,
    quantized: &mut [f32],
) {
    let scales = scale.pair();
    let length = levels.len().min(quantized.len());
    let decode = |(levels, quantized): (&[i8], &mut [f32])| {
        with_rule!(codebook, |rule| decode_levels(
            isa, rule, levels, scales, quantized
        ));
    };
    let both = (&levels[..length], &mut quantized[..length]);
    parallel::for_each(both, Parts::of(length), &decode);
}

multiversion! {
    fn decode_levels<R: LevelValue>(
        rule: R,
        levels: &[i8],
        scales: [f32; 2],
        quantized: &mut [f32],
    ) {
        let steps = scales.map(|scale| step(scale, rule.divisor()));
        for (quantized, &level) in quantized.iter_mut().zip(levels) {
            *quantized = decoded(rule, level, steps);
        }
    }
}
