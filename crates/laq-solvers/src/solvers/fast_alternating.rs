//! The alternating solver within training, starting near the previous scale.
//!
//! An iteration needs `Σ d b w` and `Σ d b²` for the levels of a scale.
//! [`alternating`](super::alternating::alternating) reads all weights for it. Between training
//! steps the scale changes little, so one pass sums up all weights whose level is the same at every
//! scale within [`WIDTH`] of the previous one and collects the few others, and each iteration then
//! reads only these. The pass also takes the square root of Adam's second moment, checks the
//! values, and computes the error of all zeros, which with the sums of the last levels gives the
//! returned error.
//!
//! Scales equal those of the general solver up to the order of sums. The general solver takes over
//! if there is no previous scale or an iteration leaves the width.

use std::ops::Add;

use laq_simd::Isa;

use super::alternating::{MAX_ITERATIONS, SCALE_TOLERANCE};
use crate::codebook::{Codebook, Magnitudes, Scale, floor_f32, to_f32};
use crate::passes::assign::assign_and_decode;
use crate::passes::curvature::CURVATURE_FLOOR;
use crate::passes::fused::{Candidates, MAX_THRESHOLDS, PassSums, fused_pass};
use crate::passes::parallel::{self, OnePerPart, Parts};
use crate::passes::sums::Sums;
use crate::problem::Solution;

/// Largest relative change of the scale that the pass covers.
const WIDTH: f64 = 1.0 / 64.0;

/// Buffers of the pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct FastWorkspace {
    parts: Vec<[Candidates; MAX_THRESHOLDS]>,
}

/// Weights, second moments and levels of a part, and its candidates.
type Part<'a> = (
    ((&'a [f32], &'a [f32]), &'a [i8]),
    OnePerPart<'a, [Candidates; MAX_THRESHOLDS]>,
);

/// The solution of [`alternating`](super::alternating::alternating) from `levels` with the scale
/// `previous`, for the curvature `√second_moment +` [`CURVATURE_FLOOR`]. Writes the decoded levels
/// to `quantized`. Returns `None`, with `levels` and `quantized` unchanged, if the general solver
/// has to be used; values that are not finite are such a case.
pub(crate) fn alternating(
    (weights, second_moment): (&[f32], &[f32]),
    codebook: &Codebook,
    previous: Option<Scale>,
    levels: &mut [i8],
    quantized: &mut [f32],
    workspace: &mut FastWorkspace,
) -> Option<Solution> {
    let magnitudes = codebook.magnitudes();
    let thresholds = magnitudes.values().len() - 1;
    let Some(Scale::One(previous)) = previous else {
        return None;
    };
    let equal_lengths = weights.len() == second_moment.len()
        && weights.len() == levels.len()
        && weights.len() == quantized.len();
    // Near the limits of f32 the borders of a band would coincide.
    let in_range = (1e-30..1e30).contains(&previous);
    if !equal_lengths || !in_range || !(1..=MAX_THRESHOLDS).contains(&thresholds) {
        return None;
    }
    let isa = Isa::selected();
    let bands = ThresholdBands::new(&magnitudes, f64::from(previous));
    let pass = bands.run_pass(isa, weights, second_moment, codebook, levels, workspace);
    let sums = |scale: f64| bands.sums(&pass, &workspace.parts, scale);
    let (scale, iterations) = fixed_point(pass.current, sums)?;
    let scale = to_f32(scale);
    let wide = f64::from(scale);
    let last = sums(wide).filter(|_| pass.energy.is_finite())?;
    let error = 0.5 * (pass.energy - wide * (2.0 * last.product - wide * last.square));
    let (thresholds, scale) = (magnitudes.thresholds(wide), Scale::One(scale));
    let nearest = (&magnitudes, &thresholds);
    assign_and_decode(isa, weights, codebook, nearest, scale, levels, quantized);
    Some(Solution {
        scale,
        // Rounding can make a zero error negative.
        weighted_error: error.max(0.0),
        iterations,
    })
}

/// The iterations from the sums of the previous levels; `None` if `sums` has none for a scale or
/// there is no positive scale.
fn fixed_point(start: Sums, sums: impl Fn(f64) -> Option<Sums>) -> Option<(f64, u32)> {
    let mut scale = Some(start).filter(Sums::has_scale)?.scale();
    for iteration in 1..=MAX_ITERATIONS {
        let next = sums(scale).filter(Sums::has_scale)?.scale();
        let change = (next - scale).abs();
        scale = next;
        if change <= SCALE_TOLERANCE {
            return Some((scale, iteration));
        }
    }
    Some((scale, MAX_ITERATIONS))
}

/// A band around each threshold, from its first border to below the second. Only magnitudes inside
/// a band can change their level within [`WIDTH`].
struct ThresholdBands<'a> {
    magnitudes: &'a Magnitudes,
    borders: [[f32; 2]; MAX_THRESHOLDS],
    count: usize,
}

impl<'a> ThresholdBands<'a> {
    fn new(magnitudes: &'a Magnitudes, previous: f64) -> Self {
        let mut borders = [[0.0; 2]; MAX_THRESHOLDS];
        let mut count = 0;
        for midpoint in magnitudes.midpoints() {
            let threshold = midpoint * previous;
            borders[count] = [1.0 - WIDTH, 1.0 + WIDTH].map(|by| floor_f32(by * threshold));
            count += 1;
        }
        Self {
            magnitudes,
            borders,
            count,
        }
    }

    fn run_pass(
        &self,
        isa: Isa,
        weights: &[f32],
        second_moment: &[f32],
        codebook: &Codebook,
        levels: &[i8],
        workspace: &mut FastWorkspace,
    ) -> PassSums {
        let parts = Parts::of(weights.len());
        workspace.parts.resize_with(parts.count, Default::default);
        let bands = (self.magnitudes, &self.borders[..self.count]);
        let pass = |(((weights, second_moment), levels), OnePerPart(part)): Part<'_>| {
            let candidates = &mut part[0][..self.count];
            candidates.iter_mut().for_each(Candidates::clear);
            let values = (weights, second_moment, CURVATURE_FLOOR);
            fused_pass(isa, values, (codebook, levels), bands, candidates)
        };
        let all = (
            ((weights, second_moment), levels),
            OnePerPart(&mut workspace.parts[..parts.count]),
        );
        parallel::reduce(all, parts, &pass, &PassSums::add)
    }

    /// The sums of the levels at `scale`; `None` for a scale outside of the width.
    fn sums(
        &self,
        pass: &PassSums,
        parts: &[[Candidates; MAX_THRESHOLDS]],
        scale: f64,
    ) -> Option<Sums> {
        let thresholds = self.magnitudes.thresholds(scale);
        let mut sums = pass.outside;
        let steps = self.magnitudes.values().windows(2);
        for (band, (&threshold, step)) in thresholds.values().iter().zip(steps).enumerate() {
            let [low, high] = self.borders[band];
            if !(low <= threshold && threshold < high) {
                return None;
            }
            let mut above_threshold = [0.0; 2];
            for part in parts {
                part[band].add_above(threshold, &mut above_threshold);
            }
            let [product, square] = above_threshold;
            let [below, above] = [step[0], step[1]].map(f64::from);
            sums.product += (above - below) * product;
            sums.square += (above * above - below * below) * square;
        }
        Some(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::super::alternating::alternating as general;
    use super::*;
    use crate::problem::Problem;
    use laq_test_support::Random;
    use proptest::prelude::*;

    /// Weights and second moments that change a little per step, some of them by more than the
    /// width.
    fn values(count: usize, seed: u64, step: u64) -> (Vec<f32>, Vec<f32>) {
        let mut random = Random(seed);
        let mut next = || random.uniform() as f32 - 0.5;
        (0..count)
            .map(|_| {
                let (at, speed, v) = (next() + next(), next(), next());
                (at + 0.01 * speed * step as f32, v * v * 1e-4)
            })
            .unzip()
    }

    /// The number of steps solved in one pass.
    fn check(codebook: Codebook, count: usize, seed: u64) -> usize {
        let (mut levels, mut scale) = (vec![0i8; count], None);
        let mut quantized = vec![0.0; count];
        let mut workspace = FastWorkspace::default();
        let mut in_one_pass = 0;
        for step in 0..6 {
            let (weights, second_moment) = values(count, seed, step);
            let curvature: Vec<f32> = second_moment
                .iter()
                .map(|v| v.sqrt() + CURVATURE_FLOOR)
                .collect();
            let problem = Problem::new(&weights, Some(&curvature)).unwrap();
            let mut expected_levels = levels.clone();
            let expected =
                general(problem, &codebook, scale.is_some(), &mut expected_levels).unwrap();
            let found = alternating(
                (&weights, &second_moment),
                &codebook,
                scale,
                &mut levels,
                &mut quantized,
                &mut workspace,
            );
            match found {
                None => levels.clone_from(&expected_levels),
                Some(found) => {
                    in_one_pass += 1;
                    let ([a, _], [b, _]) = (found.scale.pair(), expected.scale.pair());
                    assert!((a - b).abs() <= 2e-7 * b, "{a} and {b}");
                    assert_eq!(found.iterations, expected.iterations);
                    let error = problem
                        .weighted_error(&codebook, found.scale, &levels)
                        .unwrap();
                    let mut decoded = vec![0.0; count];
                    codebook.decode(&levels, found.scale, &mut decoded);
                    assert_eq!(quantized, decoded);
                    // Only one of the two rounds the product of scale and level to f32.
                    let zeros = vec![0; count];
                    let energy = problem.weighted_error(&Codebook::Ternary, found.scale, &zeros);
                    let energy = energy.unwrap();
                    let rounding = 1e-7 * (error * energy).sqrt() + 1e-12 * energy;
                    assert!(
                        (found.weighted_error - error).abs() <= rounding,
                        "{} and {error}",
                        found.weighted_error
                    );
                    if a == b {
                        assert_eq!(levels, expected_levels);
                    }
                }
            }
            levels.clone_from(&expected_levels);
            scale = Some(expected.scale);
        }
        in_one_pass
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_agrees_with_the_general_solver(count in 1usize..9000, seed: u64) {
            for codebook in [
                Codebook::Ternary,
                Codebook::linear(3).unwrap(),
                Codebook::logarithmic(3).unwrap(),
                Codebook::linear(4).unwrap(),
            ] {
                check(codebook, count, seed);
            }
        }
    }

    #[test]
    fn most_steps_take_one_pass() {
        for codebook in [Codebook::Ternary, Codebook::linear(3).unwrap()] {
            assert!(check(codebook, 700_000, 5) >= 4);
        }
        assert_eq!(check(Codebook::linear(4).unwrap(), 1000, 5), 0);
    }

    #[test]
    fn values_that_are_not_finite_use_the_general_solver() {
        for (weight, moment) in [
            (f32::NAN, 1.0),
            (f32::INFINITY, 1.0),
            (0.1, f32::NAN),
            (0.0, f32::INFINITY),
            (0.1, -1.0),
        ] {
            let (mut weights, mut second_moment) = values(100, 3, 0);
            (weights[70], second_moment[70]) = (weight, moment);
            let (mut levels, mut quantized) = (vec![1; 100], vec![0.5; 100]);
            let (codebook, scale) = (&Codebook::Ternary, Some(Scale::One(0.5)));
            let mut workspace = FastWorkspace::default();
            let found = alternating(
                (&weights, &second_moment),
                codebook,
                scale,
                &mut levels,
                &mut quantized,
                &mut workspace,
            );
            assert_eq!(found, None, "{weight} {moment}");
            assert!(levels.iter().all(|&level| level == 1));
            assert!(quantized.iter().all(|&weight| weight == 0.5));
        }
    }
}
