//! The check of a problem's values.

use laq_simd::{Isa, multiversion};

use super::lanes::{LANES, padded};
use super::parallel::{self, Parts};
use crate::error::SolveError;
use crate::problem::{Problem, Span};

impl<'a> Problem<'a> {
    /// Checks the values of both slices.
    ///
    /// # Errors
    /// The lengths differ, a weight is NaN or infinite, or a curvature is NaN, infinite or
    /// negative. The error contains the first such index.
    pub fn new(weights: &'a [f32], curvature: Option<&'a [f32]>) -> Result<Self, SolveError> {
        let isa = Isa::selected();
        let span = span(isa, weights);
        if span.largest > f32::MAX.to_bits() {
            let invalid = |(_, value): &(usize, f32)| !value.is_finite();
            let found = weights.iter().copied().enumerate().find(invalid);
            if let Some((index, value)) = found {
                return Err(SolveError::Weight { index, value });
            }
        }
        if let Some(curvature) = curvature {
            if curvature.len() != weights.len() {
                return Err(SolveError::CurvatureLength {
                    weights: weights.len(),
                    curvature: curvature.len(),
                });
            }
            if !all_finite_and_non_negative(isa, curvature) {
                let invalid = |(_, value): &(usize, f32)| !value.is_finite() || *value < 0.0;
                let found = curvature.iter().copied().enumerate().find(invalid);
                if let Some((index, value)) = found {
                    return Err(SolveError::Curvature { index, value });
                }
            }
        }
        Ok(Self::from_parts(weights, curvature, span))
    }
}

/// The bit patterns of the smallest and largest magnitude other than zero. If an element is not
/// finite, the largest exceeds that of [`f32::MAX`].
pub(super) fn span(isa: Isa, values: &[f32]) -> Span {
    let union = |a: Span, b: Span| Span {
        smallest: a.smallest.min(b.smallest),
        largest: a.largest.max(b.largest),
    };
    let parts = Parts::of(values.len());
    parallel::reduce(
        values,
        parts,
        &|part: &[f32]| span_of_part(isa, part),
        &union,
    )
}

multiversion! {
    fn span_of_part(values: &[f32]) -> Span {
        let (chunks, tail) = values.as_chunks::<LANES>();
        let mut largest = [0_u32; LANES];
        // Minus one, so that zero wraps to the largest value.
        let mut smallest_less_one = [f32::MAX.to_bits() - 1; LANES];
        let mut update = |chunk: &[f32; LANES]| {
            for lane in 0..LANES {
                let magnitude = chunk[lane].to_bits() & (!0 >> 1);
                largest[lane] = largest[lane].max(magnitude);
                smallest_less_one[lane] = smallest_less_one[lane].min(magnitude.wrapping_sub(1));
            }
        };
        // Two loops: in a loop over a chain the compiler keeps the lanes in memory.
        chunks.iter().for_each(&mut update);
        update(&padded(tail));
        Span {
            smallest: smallest_less_one.into_iter().fold(u32::MAX, u32::min) + 1,
            largest: largest.into_iter().fold(0, u32::max),
        }
    }
}

/// Whether every element is finite and its sign bit is clear; false for negative zero.
fn all_finite_and_non_negative(isa: Isa, values: &[f32]) -> bool {
    let largest = |part: &[f32]| largest_bits(isa, part);
    let parts = Parts::of(values.len());
    parallel::reduce(values, parts, &largest, &u32::max) <= f32::MAX.to_bits()
}

multiversion! {
    /// The largest bit pattern; the sign is the top bit.
    fn largest_bits(values: &[f32]) -> u32 {
        let (chunks, tail) = values.as_chunks::<LANES>();
        let mut largest = [0_u32; LANES];
        let mut update = |chunk: &[f32; LANES]| {
            for lane in 0..LANES {
                largest[lane] = largest[lane].max(chunk[lane].to_bits());
            }
        };
        chunks.iter().for_each(&mut update);
        update(&padded(tail));
        largest.into_iter().fold(0, u32::max)
    }
}
