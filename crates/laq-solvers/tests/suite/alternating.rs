//! The alternating solvers: stopping rule, and errors between that of the start and the optimum.

use crate::common::*;
use laq_solvers::{
    Codebook, MAX_ITERATIONS, Method, Problem, SCALE_TOLERANCE, Scale, Workspace, alternating,
    exact_by_sorting,
};
use proptest::prelude::*;

/// Solved once, an alternating method is repeated until its levels stay.
#[test]
fn solved_once_no_further_step_lowers_the_error() {
    let mut lower = 0;
    for id in [
        "lat-a",
        "lat2-a",
        "laq-linear-3",
        "laq-linear-8",
        "laq-log-5",
    ] {
        let method: Method = id.parse().unwrap();
        let quantizer = method.quantizer().unwrap();
        for (seed, factor) in [(1, 1.0), (2, 1e-6), (3, 1e6)] {
            let weights: Vec<f32> = bell(3_000, seed).iter().map(|w| factor * w).collect();
            let problem = Problem::new(&weights, None).unwrap();
            let workspace = &mut Workspace::default();
            let mut levels = vec![0; weights.len()];
            let cold = quantizer
                .solve(problem, None, &mut levels, workspace)
                .unwrap();
            let once = quantizer
                .solve_once(problem, &mut levels, workspace)
                .unwrap();
            let next = quantizer
                .solve(problem, Some(once.scale), &mut levels, workspace)
                .unwrap();
            let slack = 1e-12 * cold.weighted_error;
            assert!(once.weighted_error <= cold.weighted_error + slack, "{id}");
            assert!(next.weighted_error >= once.weighted_error - slack, "{id}");
            assert!(once.iterations > cold.iterations, "{id}");
            lower += u32::from(once.weighted_error < cold.weighted_error);
        }
    }
    assert!(lower >= 5, "{lower}");
}

/// The codebooks of the alternating methods.
fn codebooks() -> impl Strategy<Value = Codebook> {
    prop_oneof![
        Just(Codebook::Ternary),
        (2_u8..=8).prop_map(|bits| Codebook::linear(bits).unwrap()),
        (2_u8..=8).prop_map(|bits| Codebook::logarithmic(bits).unwrap()),
    ]
}

/// The best scale of some levels, and its error; `None` without a positive scale that f32 has.
fn best_for(
    weights: &[f32],
    curvature: Option<&[f32]>,
    codebook: &Codebook,
    levels: &[i8],
) -> Option<(f64, f64)> {
    let (mut product, mut square) = (0.0, 0.0);
    for (index, (&w, &level)) in weights.iter().zip(levels).enumerate() {
        let (d, b) = (
            curvature_at(curvature, index),
            f64::from(codebook.value(level)),
        );
        product += d * b * f64::from(w);
        square += d * b * b;
    }
    let error = error_of_zeros(weights, curvature) - 0.5 * product * product / square;
    let scale = product / square;
    (product > 0.0 && square > 0.0 && scale <= f64::from(f32::MAX)).then_some((scale, error))
}

/// The algorithm in plain f64 loops: the scale and the iterations.
fn reference(
    weights: &[f32],
    curvature: Option<&[f32]>,
    codebook: &Codebook,
    mut scale: f64,
) -> (f64, u32) {
    let values = values_of(codebook);
    for iteration in 1..=MAX_ITERATIONS {
        let (mut product, mut square) = (0.0, 0.0);
        for (index, &w) in weights.iter().enumerate() {
            let distance = |b: &f64| (f64::from(w) - scale * b).abs();
            let b = *values
                .iter()
                .min_by(|a, b| distance(a).total_cmp(&distance(b)))
                .unwrap();
            product += curvature_at(curvature, index) * b * f64::from(w);
            square += curvature_at(curvature, index) * b * b;
        }
        let next = product / square;
        let change = (next - scale).abs();
        scale = next;
        if change <= SCALE_TOLERANCE {
            return (scale, iteration);
        }
    }
    (scale, MAX_ITERATIONS)
}

proptest! {
    #[test]
    fn the_error_is_between_that_of_the_start_and_the_optimum(
        (w, d) in problems(0..200),
        codebook in codebooks(),
        start in prop::option::of(prop::collection::vec(any::<i8>(), 200)),
    ) {
        let d = d.as_deref();
        let problem = Problem::new(&w, d).unwrap();
        let mut levels = start.clone().unwrap_or(vec![77; 200]);
        levels.truncate(w.len());
        let before = levels.clone();
        let solution = alternating(problem, &codebook, start.is_some(), &mut levels).unwrap();
        prop_assert!(solution.iterations <= MAX_ITERATIONS);
        let zeros = error_of_zeros(&w, d);
        // The scale and its products are rounded to f32.
        let slack = 3e-7 * zeros + 1e-80;
        prop_assert!(solution.weighted_error <= zeros + slack);
        let warm = start.and_then(|_| best_for(&w, d, &codebook, &before));
        let signs: Vec<i8> = w.iter().map(|&w| if w < 0.0 { i8::MIN } else { i8::MAX }).collect();
        let first = warm.or_else(|| best_for(&w, d, &codebook, &signs));
        if let Some((_, error)) = first {
            prop_assert!(solution.weighted_error <= error + slack, "{} {error}", solution.weighted_error);
        }
        let optimum = exact_by_sorting(problem, &codebook, &mut levels, &mut Workspace::default()).unwrap();
        prop_assert!(optimum.weighted_error <= solution.weighted_error + slack);
    }

    #[test]
    fn the_levels_are_the_nearest_ones_for_the_scale(w in prop::collection::vec(-1.0_f32..1.0, 1..100), codebook in codebooks()) {
        let mut levels = vec![0; w.len()];
        let solution = alternating(Problem::new(&w, None).unwrap(), &codebook, false, &mut levels).unwrap();
        let Scale::One(scale) = solution.scale else { panic!("two scales") };
        for (&w, &level) in w.iter().zip(&levels) {
            let gap = |b: f64| (f64::from(w) - f64::from(scale) * b).abs();
            let least = values_of(&codebook).into_iter().map(gap).fold(f64::INFINITY, f64::min);
            prop_assert!(gap(f64::from(codebook.value(level))) <= least * (1.0 + 1e-12) + 1e-12);
        }
    }

    #[test]
    fn a_warm_start_without_a_positive_scale_is_ignored(w in weights(0..50), codebook in codebooks()) {
        let problem = Problem::new(&w, None).unwrap();
        let mut cold = vec![0; w.len()];
        let expected = alternating(problem, &codebook, false, &mut cold).unwrap();
        let zeros = vec![0; w.len()];
        let opposed = w.iter().map(|&w| if w > 0.0 { -1 } else { 1 }).collect();
        for mut levels in [zeros, opposed] {
            let solution = alternating(problem, &codebook, true, &mut levels).unwrap();
            prop_assert_eq!(&levels, &cold);
            prop_assert_eq!(solution, expected);
        }
    }
}

/// The smallest magnitude of 8 logarithmic bits is 2⁻¹²⁶: the best scale for its level is 4.8e11 · 2¹²⁶.
#[test]
fn a_warm_start_whose_scale_is_above_the_largest_f32_is_ignored() {
    let problem = Problem::new(&[-4.8e11], None).unwrap();
    let codebook = Codebook::logarithmic(8).unwrap();
    let (mut cold, mut warm) = ([0], [-1]);
    let expected = alternating(problem, &codebook, false, &mut cold).unwrap();
    let solution = alternating(problem, &codebook, true, &mut warm).unwrap();
    assert_eq!((warm, solution), (cold, expected));
    assert_eq!(solution.weighted_error, 0.0);
}

#[test]
fn the_stopping_rule_is_that_of_the_paper() {
    assert_eq!((SCALE_TOLERANCE, MAX_ITERATIONS), (1e-6, 10));
}

#[test]
fn iterations_and_scale_are_those_of_the_reference() {
    let weights = bell(2000, 5);
    let curvature: Vec<f32> = bell(2000, 6).iter().map(|x| x * x + 1e-3).collect();
    let mut faster = 0;
    for codebook in [2, 3, 4].into_iter().flat_map(|bits| {
        [
            Codebook::linear(bits).unwrap(),
            Codebook::logarithmic(bits).unwrap(),
        ]
    }) {
        let problem = Problem::new(&weights, Some(&curvature)).unwrap();
        let mut levels = vec![0; weights.len()];
        let cold = alternating(problem, &codebook, false, &mut levels).unwrap();
        let total = |term: &dyn Fn(f32, f32) -> f32| -> f64 {
            weights
                .iter()
                .zip(&curvature)
                .map(|(&w, &d)| f64::from(term(w, d)))
                .sum()
        };
        let start = total(&|w, d| w.abs() * d) / total(&|_, d| d);
        let (scale, iterations) = reference(&weights, Some(&curvature), &codebook, start);
        assert_eq!(cold.iterations, iterations, "{codebook:?}");
        let Scale::One(found) = cold.scale else {
            panic!("two scales")
        };
        assert!(
            (f64::from(found) - scale).abs() <= 1e-6,
            "{codebook:?}: {found} {scale}"
        );

        // A warm start on slightly different weights.
        let moved: Vec<f32> = weights.iter().map(|w| w * 1.01).collect();
        let problem = Problem::new(&moved, Some(&curvature)).unwrap();
        let (start, _) = best_for(&moved, Some(&curvature), &codebook, &levels).unwrap();
        let warm = alternating(problem, &codebook, true, &mut levels).unwrap();
        let (scale, iterations) = reference(&moved, Some(&curvature), &codebook, start);
        assert_eq!(warm.iterations, iterations, "{codebook:?}");
        let Scale::One(found) = warm.scale else {
            panic!("two scales")
        };
        assert!(
            (f64::from(found) - scale).abs() <= 1e-6,
            "{codebook:?}: {found} {scale}"
        );
        faster += u32::from(warm.iterations < cold.iterations);
    }
    assert!(faster > 0, "no warm start had fewer iterations");
}

/// With two scales, each sign is solved independently of the other.
#[test]
fn two_scales_are_two_problems() {
    let weights = bell(700, 8);
    let curvature: Vec<f32> = bell(700, 9).iter().map(|x| x * x + 1e-3).collect();
    let side = |sign: f32| -> (Vec<f32>, Vec<f32>) {
        let members = weights
            .iter()
            .zip(&curvature)
            .filter(|(w, _)| **w * sign > 0.0);
        members.map(|(&w, &d)| (w, d)).unzip()
    };
    for (two, one) in [("lat2-a", "lat-a"), ("lat2-e", "lat-e")] {
        let (levels, solution) = solve(two, &weights, Some(&curvature));
        let Scale::Two { positive, negative } = solution.scale else {
            panic!("one scale")
        };
        let mut error = 0.0;
        for (sign, scale) in [(1.0, positive), (-1.0, negative)] {
            let (w, d) = side(sign);
            let (expected, alone) = solve(one, &w, Some(&d));
            let Scale::One(alone_scale) = alone.scale else {
                panic!("two scales")
            };
            assert!(
                (alone_scale - scale).abs() <= 1e-6 * scale,
                "{two}: {alone_scale} {scale}"
            );
            let found = weights
                .iter()
                .zip(&levels)
                .filter(|(w, _)| **w * sign > 0.0);
            let found: Vec<i8> = found.map(|(_, &level)| level).collect();
            assert_eq!(found, expected, "{two}");
            error += alone.weighted_error;
        }
        assert!(
            (error - solution.weighted_error).abs() <= 1e-12 * error,
            "{two}"
        );
    }
}
