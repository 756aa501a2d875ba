//! The check of a problem's values.

use laq_simd::{Isa, multiversion};

use super::curvature::root;
use super::lanes::{BLOCK, LANES, padded};
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

/// The problem of curvature `√second_moment + floor`, which is written to `curvature`: root, check and
/// span in one pass.
///
/// # Errors
/// As [`Problem::new`].
pub(crate) fn with_roots<'a>(
    isa: Isa,
    weights: &'a [f32],
    second_moment: &[f32],
    floor: f32,
    curvature: &'a mut [f32],
) -> Result<Problem<'a>, SolveError> {
    let of_part = |((weights, second_moment), curvature): ((&[f32], &[f32]), &mut [f32])| {
        let (mut span, mut largest) = (Span::EMPTY, 0);
        // By blocks, so that the roots are checked while they are in the cache.
        let blocks = weights.chunks(BLOCK).zip(second_moment.chunks(BLOCK));
        for ((weights, second_moment), curvature) in blocks.zip(curvature.chunks_mut(BLOCK)) {
            root(isa, second_moment, floor, curvature);
            span = span.union(span_of_part(isa, weights));
            largest = largest.max(largest_bits(isa, curvature));
        }
        (span, largest)
    };
    let both = |a: (Span, u32), b: (Span, u32)| (a.0.union(b.0), a.1.max(b.1));
    let parts = Parts::of(weights.len());
    let all = ((weights, second_moment), &mut *curvature);
    let (span, largest) = parallel::reduce(all, parts, &of_part, &both);
    let limit = f32::MAX.to_bits();
    let equal_lengths = weights.len() == second_moment.len() && weights.len() == curvature.len();
    if equal_lengths && span.largest <= limit && largest <= limit {
        return Ok(Problem::from_parts(weights, Some(curvature), span));
    }
    // Finds the first invalid value.
    Problem::new(weights, Some(curvature))
}

/// The bit patterns of the smallest and largest magnitude other than zero. If an element is not
/// finite, the largest exceeds that of [`f32::MAX`].
pub(crate) fn span(isa: Isa, values: &[f32]) -> Span {
    let parts = Parts::of(values.len());
    parallel::reduce(
        values,
        parts,
        &|part: &[f32]| span_of_part(isa, part),
        &Span::union,
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

#[cfg(test)]
mod tests {
    use laq_test_support::Random;
    use proptest::prelude::*;

    use super::super::curvature::CURVATURE_FLOOR;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn one_pass_equals_root_and_check(
            length in 0usize..10_000,
            seed: u64,
            invalid in proptest::option::of((0usize..10_000, 0usize..5)),
        ) {
            let mut random = Random(seed);
            let mut next = || random.uniform() as f32 - 0.5;
            let mut weights: Vec<f32> = (0..length).map(|_| next()).collect();
            let mut second_moment: Vec<f32> = (0..length).map(|_| next().powi(2)).collect();
            if let Some((index, what)) = invalid.filter(|_| length > 0) {
                let values = if what < 2 { &mut weights } else { &mut second_moment };
                values[index % length] =
                    [f32::NAN, f32::INFINITY, f32::NAN, f32::INFINITY, -1.0][what];
            }
            let expected: Vec<f32> = second_moment.iter().map(|v| v.sqrt() + CURVATURE_FLOOR).collect();
            let expected = Problem::new(&weights, Some(&expected));
            for isa in Isa::available() {
                let mut curvature = vec![7.0; length];
                let found = with_roots(isa, &weights, &second_moment, CURVATURE_FLOOR, &mut curvature);
                match (&found, &expected) {
                    (Ok(found), Ok(expected)) => {
                        prop_assert_eq!(found.span(), expected.span());
                        prop_assert_eq!(found.curvature(), expected.curvature());
                    }
                    (Err(found), Err(expected)) => prop_assert_eq!(found.to_string(), expected.to_string()),
                    _ => prop_assert!(false, "{found:?} and {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn lengths_that_differ_are_an_error() {
        let mut curvature = [0.0; 2];
        let found = with_roots(Isa::selected(), &[1.0; 3], &[1.0; 2], 0.0, &mut curvature);
        assert!(matches!(
            found,
            Err(SolveError::CurvatureLength {
                weights: 3,
                curvature: 2
            })
        ));
    }
}
