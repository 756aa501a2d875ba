//! Buckets against sorting, on random problems of every kind.

use super::*;
use laq_test_support::Random;
use proptest::prelude::*;

const KINDS: usize = 10;

/// Weights and curvatures of one kind.
fn problem(kind: usize, length: usize, seed: u64) -> (Vec<f32>, Option<Vec<f32>>) {
    let mut random = Random(seed);
    // Not zero.
    let mut uniform = || 1.0 - random.uniform();
    let mut weights = Vec::new();
    let mut curvature = Vec::new();
    for _ in 0..length {
        let (a, b, c) = (uniform(), uniform(), uniform());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let sign = (b - 0.5).signum();
        weights.push(match kind {
            0..=2 => 0.3 * normal,
            3 => 2.0 * a - 1.0,
            4 => sign * a.powf(-3.0),
            5 => sign * (5.0 * a).floor() / 4.0,
            6 => (2.0 * normal).clamp(-1.0, 1.0),
            7 => sign * f64::from(f32::from_bits((a * 2_f64.powi(23)) as u32)),
            8 => sign * f64::from(f32::from_bits((a * 2_f64.powi(31)) as u32).min(1e30)),
            // Zeros of either sign, and denormals within the first bucket.
            _ => sign * f64::from(f32::from_bits((40.0 * a - 10.0).max(0.0) as u32)),
        } as f32);
        curvature.push(match kind {
            0 => 0.7,
            1 => 10_f64.powf(-20.0 * c),
            5 => (3.0 * c).floor(),
            8 => f64::from(f32::from_bits((c * 2_f64.powi(31)) as u32).min(1e30)),
            _ => (2.0 * c).exp(),
        } as f32);
    }
    (weights, (kind != 3).then_some(curvature))
}

fn all_codebooks() -> Vec<Codebook> {
    let sized = (2..=8).flat_map(|bits| {
        [
            Codebook::linear(bits).unwrap(),
            Codebook::logarithmic(bits).unwrap(),
            Codebook::uniform(bits).unwrap(),
        ]
    });
    [Codebook::Ternary, Codebook::Binary]
        .into_iter()
        .chain(sized)
        .collect()
}

/// Buckets, for any number of weights, against sorting: twice the error to 1e-9, plus the rounding
/// of the sums in f64, which matters if the error is close to zero.
fn check(
    weights: &[f32],
    curvature: Option<&[f32]>,
    codebook: &Codebook,
) -> Result<(), TestCaseError> {
    let problem = Problem::new(weights, curvature).unwrap();
    let magnitudes = codebook.magnitudes();
    let mut workspace = Workspace::default();
    for side in [Side::Both, Side::Positive, Side::Negative] {
        let expected =
            sorting::best_state(Isa::PORTABLE, problem, side, &magnitudes, &mut workspace);
        let mut found = Vec::new();
        for isa in Isa::available() {
            let work = 1 << 14;
            found.push(by_buckets(
                isa,
                problem,
                side,
                &magnitudes,
                work,
                &mut workspace,
            ));
        }
        prop_assert!(found.iter().all(|best| *best == found[0]), "{found:?}");
        let Best { gain, scale } = found[0];
        let of_zeros = squares(problem, side);
        // Both add one term per weight and level.
        let terms = (weights.len() * magnitudes.values().len()) as f64;
        let slack = 1e-9 * (of_zeros - expected.gain) + terms * f64::EPSILON * of_zeros;
        prop_assert!(
            (gain - expected.gain).abs() <= slack,
            "{codebook:?}, {side:?}: {gain} at {scale} of {of_zeros}, by sorting {expected:?}"
        );
    }
    Ok(())
}

/// `Σ d x²`, or `Σ x²` if all curvatures are zero.
fn squares(problem: Problem<'_>, side: Side) -> f64 {
    let of = |d: &dyn Fn(usize) -> f64| -> f64 {
        let x = |w: f32| f64::from(side.magnitude(w).max(0.0));
        let weights = problem.weights().iter().enumerate();
        weights.map(|(index, &w)| d(index) * x(w).powi(2)).sum()
    };
    let weighted = problem
        .curvature()
        .map_or(0.0, |d| of(&|index| f64::from(d[index])));
    if weighted > 0.0 {
        weighted
    } else {
        of(&|_| 1.0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn buckets_agree_with_sorting(
        kind in 0..KINDS,
        length in prop_oneof![1_usize..9, 9_usize..600],
        seed: u64,
        codebook in 0_usize..23,
    ) {
        let (weights, curvature) = problem(kind, length, seed);
        check(&weights, curvature.as_deref(), &all_codebooks()[codebook])?;
    }
}

/// Covers fine buckets, several parts, and buckets with a single magnitude.
#[test]
fn buckets_agree_with_sorting_for_many_weights() {
    for (length, codebook) in [
        (30_000, Codebook::Ternary),
        (30_000, Codebook::linear(4).unwrap()),
        (30_000, Codebook::logarithmic(5).unwrap()),
        (700_000, Codebook::Ternary),
        (700_000, Codebook::logarithmic(3).unwrap()),
    ] {
        for kind in 0..KINDS {
            let (weights, curvature) = problem(kind, length, 7);
            check(&weights, curvature.as_deref(), &codebook).unwrap();
        }
    }
}

/// The bucket of the denormals begins at zero.
#[test]
fn negative_zeros_are_not_gathered() {
    let weights: Vec<f32> = (0..5000)
        .map(|i| {
            if i % 3 == 0 {
                0.0
            } else {
                -f32::from_bits(1 + i * i % 40)
            }
        })
        .collect();
    check(&weights, None, &Codebook::Ternary).unwrap();
    let mirrored: Vec<f32> = weights.iter().map(|w| -w).collect();
    check(&mirrored, None, &Codebook::Ternary).unwrap();
}

/// Many weights at ±1: sums of equal terms round in one direction, and decide between assignments.
#[test]
fn ties_at_one_with_eight_bits() {
    for seed in 0..50 {
        let (weights, curvature) = problem(6, 552, seed);
        let codebook = Codebook::uniform(8).unwrap();
        check(&weights, curvature.as_deref(), &codebook).unwrap();
    }
}
