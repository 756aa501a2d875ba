//! The alternating solver within training, where it knows about where its scale will be.
//!
//! A round needs `Σ d b w` and `Σ d b²` for the levels that belong to a scale, and as [`alternating`](crate::alternating)
//! does it, it reads all weights and curvatures for it. Between two training steps the scale moves by little. So one
//! pass takes the sums for all weights whose level is the same at every scale within [`WIDTH`] of the previous one, and
//! gathers the few others, from which every round then takes the rest of its sums. The pass also takes the square root
//! of Adam's second moment, a piece at a time that stays in the cache, checks the numbers, and adds up the error of all
//! zeros; from that and the sums of the last levels follows the error that is returned.
//!
//! The scales are those of the plain solver but for the order of sums. Where a round leaves the width, or there is no
//! previous scale, the plain solver does it all.

use crate::alternating::{MOST_ROUNDS, SCALE_TOLERANCE};
use crate::codebook::{Codebook, Magnitudes, Scale, at_most};
use crate::finish;
use crate::kernels::{self, Moments};
use crate::parallel::{self, OnePerPart, Parts};
use crate::problem::SolveError;
use crate::quantizer::Solution;
use crate::survey::{self, Gathered, MOST_THRESHOLDS, Survey};
use laq_simd::Isa;

/// Added to √v, so that the curvature d = √v + 1e-8 is positive. Source: PAPER.md §1.
pub const CURVATURE_FLOOR: f32 = 1e-8;

/// How far the scale may move from the previous one, relative to it, before the plain solver takes over.
const WIDTH: f64 = 1.0 / 64.0;

/// Memory of the pass, kept from step to step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    parts: Vec<[Gathered; MOST_THRESHOLDS]>,
}

/// A part of the weights: these, second moments, levels, and where its weights near the thresholds go.
type Part<'a> = (
    ((&'a [f32], &'a [f32]), &'a [i8]),
    OnePerPart<'a, [Gathered; MOST_THRESHOLDS]>,
);

/// The solution as [`alternating`](crate::alternating) finds it from `levels`, whose scale was `previous`, for the
/// curvature `√second_moment +` [`CURVATURE_FLOOR`], and in `quantized` what it decodes to. `None` where the plain solver
/// has to do it, with `levels` and `quantized` as they were. Numbers that are not finite are among the cases that are left
/// to it.
pub(crate) fn alternating(
    (weights, second_moment): (&[f32], &[f32]),
    codebook: Codebook,
    previous: Option<Scale>,
    levels: &mut [i8],
    quantized: &mut [f32],
    memory: &mut Memory,
) -> Result<Option<Solution>, SolveError> {
    let magnitudes = codebook.magnitudes();
    let thresholds = magnitudes.values().len() - 1;
    let Some(Scale::One(previous)) = previous else {
        return Ok(None);
    };
    let fits = weights.len() == second_moment.len()
        && weights.len() == levels.len()
        && weights.len() == quantized.len();
    // Near the ends of f32 the borders of the width would meet.
    let usual = (1e-30..1e30).contains(&previous);
    if !fits || !usual || !(1..=MOST_THRESHOLDS).contains(&thresholds) {
        return Ok(None);
    }
    let isa = Isa::selected();
    let zones = Zones::new(&magnitudes, f64::from(previous));
    let survey = zones.survey(isa, weights, second_moment, codebook, levels, memory);
    let sums = |scale: f64| zones.moments(&survey, &memory.parts, scale);
    let Some((scale, rounds)) = rounds(survey.of_levels, sums) else {
        return Ok(None);
    };
    let scale = finish::to_f32(scale);
    let wide = f64::from(scale);
    let Some(last) = sums(wide).filter(|_| survey.energy.is_finite()) else {
        return Ok(None);
    };
    let error = 0.5 * (survey.energy - wide * (2.0 * last.product - wide * last.square));
    let (thresholds, scale) = (magnitudes.thresholds(wide), Scale::One(scale));
    let nearest = (&magnitudes, &thresholds);
    kernels::assign_and_decode(isa, weights, codebook, nearest, scale, levels, quantized);
    Ok(Some(Solution {
        scale,
        // Where nothing is left but rounding, that may be below zero.
        weighted_error: error.max(0.0),
        rounds,
    }))
}

/// The turns of the alternating solver from the sums of the previous levels; `None` where `sums` has none for a scale, or
/// there is no best scale for them.
fn rounds(start: Moments, sums: impl Fn(f64) -> Option<Moments>) -> Option<(f64, u32)> {
    let has_scale = |moments: &Moments| moments.product > 0.0 && moments.square > 0.0;
    let mut scale = Some(start).filter(has_scale)?.scale();
    for round in 1..=MOST_ROUNDS {
        let next = sums(scale).filter(has_scale)?.scale();
        let change = (next - scale).abs();
        scale = next;
        if change <= SCALE_TOLERANCE {
            return Some((scale, round));
        }
    }
    Some((scale, MOST_ROUNDS))
}

/// Around each threshold, the magnitudes from the first border up to below the second change their level within the
/// width; no other does.
struct Zones<'a> {
    magnitudes: &'a Magnitudes,
    borders: [[f32; 2]; MOST_THRESHOLDS],
    count: usize,
}

impl<'a> Zones<'a> {
    fn new(magnitudes: &'a Magnitudes, previous: f64) -> Self {
        let mut borders = [[0.0; 2]; MOST_THRESHOLDS];
        let mut count = 0;
        for midpoint in magnitudes.midpoints() {
            let threshold = midpoint * previous;
            borders[count] = [1.0 - WIDTH, 1.0 + WIDTH].map(|by| at_most(by * threshold));
            count += 1;
        }
        Self {
            magnitudes,
            borders,
            count,
        }
    }

    fn survey(
        &self,
        isa: Isa,
        weights: &[f32],
        second_moment: &[f32],
        codebook: Codebook,
        levels: &[i8],
        memory: &mut Memory,
    ) -> Survey {
        let parts = Parts::of(weights.len());
        memory.parts.resize_with(parts.count, Default::default);
        let zones = (self.magnitudes, &self.borders[..self.count]);
        let look = |(((weights, second_moment), levels), OnePerPart(part)): Part<'_>| {
            let gathered = &mut part[0][..self.count];
            gathered.iter_mut().for_each(Gathered::clear);
            let numbers = (weights, second_moment, CURVATURE_FLOOR);
            survey::survey(isa, numbers, (codebook, levels), zones, gathered)
        };
        let all = (
            ((weights, second_moment), levels),
            OnePerPart(&mut memory.parts[..parts.count]),
        );
        parallel::reduce(all, parts, &look, &Survey::plus)
    }

    /// `Σ d b |w|` and `Σ d b²` of the levels at `scale`; none for a scale outside of the width.
    fn moments(
        &self,
        survey: &Survey,
        parts: &[[Gathered; MOST_THRESHOLDS]],
        scale: f64,
    ) -> Option<Moments> {
        let thresholds = self.magnitudes.thresholds(scale);
        let mut sums = survey.outside;
        let steps = self.magnitudes.values().windows(2);
        for (zone, (&threshold, step)) in thresholds.values().iter().zip(steps).enumerate() {
            let [low, high] = self.borders[zone];
            if !(low <= threshold && threshold < high) {
                return None;
            }
            let mut above_threshold = [0.0; 2];
            for part in parts {
                part[zone].add_above(threshold, &mut above_threshold);
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
    use super::*;
    use crate::alternating as plain;
    use crate::problem::Problem;
    use proptest::prelude::*;

    /// Weights and moments that move a little from step to step, some of them further than the width.
    fn numbers(count: usize, seed: u64, step: u64) -> (Vec<f32>, Vec<f32>) {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count)
            .map(|_| {
                let (at, speed, v) = (next() + next(), next(), next());
                (at + 0.01 * speed * step as f32, v * v * 1e-4)
            })
            .unzip()
    }

    fn check(codebook: Codebook, count: usize, seed: u64) -> usize {
        let (mut levels, mut scale) = (vec![0i8; count], None);
        let mut quantized = vec![0.0; count];
        let mut memory = Memory::default();
        let mut in_one_pass = 0;
        for step in 0..6 {
            let (weights, second_moment) = numbers(count, seed, step);
            let curvature: Vec<f32> = second_moment
                .iter()
                .map(|v| v.sqrt() + CURVATURE_FLOOR)
                .collect();
            let problem = Problem::new(&weights, Some(&curvature)).unwrap();
            let mut expected_levels = levels.clone();
            let expected = plain(problem, codebook, scale.is_some(), &mut expected_levels).unwrap();
            let found = alternating(
                (&weights, &second_moment),
                codebook,
                scale,
                &mut levels,
                &mut quantized,
                &mut memory,
            );
            match found.unwrap() {
                None => levels.clone_from(&expected_levels),
                Some(found) => {
                    in_one_pass += 1;
                    let ([a, _], [b, _]) = (found.scale.pair(), expected.scale.pair());
                    assert!((a - b).abs() <= 2e-7 * b, "{a} and {b}");
                    assert_eq!(found.rounds, expected.rounds);
                    let error = problem
                        .weighted_error(codebook, found.scale, &levels)
                        .unwrap();
                    let mut decoded = vec![0.0; count];
                    codebook.decode(&levels, found.scale, &mut decoded);
                    assert_eq!(quantized, decoded);
                    // A product of scale and level is rounded to f32 in the one, and not in the other.
                    let zeros = vec![0; count];
                    let energy = problem.weighted_error(Codebook::Ternary, found.scale, &zeros);
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
        fn it_does_what_the_plain_solver_does(count in 1usize..9000, seed: u64) {
            for codebook in [
                Codebook::Ternary,
                Codebook::Linear { bits: 3 },
                Codebook::Logarithmic { bits: 3 },
                Codebook::Linear { bits: 4 },
            ] {
                check(codebook, count, seed);
            }
        }
    }

    #[test]
    fn most_steps_take_one_pass() {
        for codebook in [Codebook::Ternary, Codebook::Linear { bits: 3 }] {
            assert!(check(codebook, 700_000, 5) >= 4);
        }
        assert_eq!(check(Codebook::Linear { bits: 4 }, 1000, 5), 0);
    }

    #[test]
    fn numbers_that_are_not_finite_are_left_to_the_plain_solver() {
        for (weight, moment) in [
            (f32::NAN, 1.0),
            (f32::INFINITY, 1.0),
            (0.1, f32::NAN),
            (0.0, f32::INFINITY),
            (0.1, -1.0),
        ] {
            let (mut weights, mut second_moment) = numbers(100, 3, 0);
            (weights[70], second_moment[70]) = (weight, moment);
            let (mut levels, mut quantized) = (vec![1; 100], vec![0.5; 100]);
            let (codebook, scale) = (Codebook::Ternary, Some(Scale::One(0.5)));
            let mut memory = Memory::default();
            let found = alternating(
                (&weights, &second_moment),
                codebook,
                scale,
                &mut levels,
                &mut quantized,
                &mut memory,
            );
            assert_eq!(found, Ok(None), "{weight} {moment}");
            assert!(levels.iter().all(|&level| level == 1));
            assert!(quantized.iter().all(|&weight| weight == 0.5));
        }
    }
}
