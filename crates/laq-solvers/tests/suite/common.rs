//! References in plain f64 loops, independent of the code of the crate, and strategies for
//! problems.

use laq_solvers::{Codebook, Method, Problem, Scale, Solution, Workspace};
use laq_test_support::Random;
use proptest::prelude::*;

/// Magnitudes of a four-bit float, divided by the largest.
pub(crate) const E2M1: &[f32] = &[
    0.0,
    1.0 / 12.0,
    1.0 / 6.0,
    0.25,
    1.0 / 3.0,
    0.5,
    2.0 / 3.0,
    1.0,
];

pub(crate) fn all_codebooks() -> Vec<Codebook> {
    let sized = (2..=8).flat_map(|bits| {
        [
            Codebook::linear(bits).unwrap(),
            Codebook::logarithmic(bits).unwrap(),
            Codebook::uniform(bits).unwrap(),
        ]
    });
    [Codebook::Binary, Codebook::Ternary]
        .into_iter()
        .chain(sized)
        .chain(
            [E2M1, &[0.05, 0.3, 0.35, 1.0]].map(|magnitudes| Codebook::custom(magnitudes).unwrap()),
        )
        .collect()
}

/// All methods that quantize.
pub(crate) fn quantizing() -> impl Iterator<Item = Method> {
    Method::all().filter(|method| method.quantizer().is_some())
}

/// The solution of a method from a cold start.
pub(crate) fn solve(
    method: &str,
    weights: &[f32],
    curvature: Option<&[f32]>,
) -> (Vec<i8>, Solution) {
    let method: Method = method.parse().expect("a method");
    let mut levels = vec![0; weights.len()];
    let solution = method
        .quantizer()
        .expect("a method that quantizes")
        .solve(
            Problem::new(weights, curvature).expect("a good problem"),
            None,
            &mut levels,
            &mut Workspace::default(),
        )
        .expect("a solution");
    (levels, solution)
}

pub(crate) fn curvature_at(curvature: Option<&[f32]>, index: usize) -> f64 {
    curvature.map_or(1.0, |curvature| f64::from(curvature[index]))
}

/// `½ Σ d (w − ŵ)²` with `ŵ` in f32.
pub(crate) fn error_of(
    weights: &[f32],
    curvature: Option<&[f32]>,
    codebook: &Codebook,
    scale: Scale,
    levels: &[i8],
) -> f64 {
    let mut error = 0.0;
    for (index, (&w, &level)) in weights.iter().zip(levels).enumerate() {
        let factor = match scale {
            Scale::One(scale) => scale,
            Scale::Two { positive, .. } if level >= 0 => positive,
            Scale::Two { negative, .. } => negative,
        };
        let quantized = codebook.step(factor) * codebook.multiplier(level);
        let gap = f64::from(w) - f64::from(quantized);
        error += 0.5 * curvature_at(curvature, index) * gap * gap;
    }
    error
}

/// The error of all zeros, `½ Σ d w²`.
pub(crate) fn error_of_zeros(weights: &[f32], curvature: Option<&[f32]>) -> f64 {
    let square =
        |(index, &w): (usize, &f32)| 0.5 * curvature_at(curvature, index) * f64::from(w).powi(2);
    weights.iter().enumerate().map(square).sum()
}

/// The smallest error over all assignments of `values`, each with its best scale.
pub(crate) fn brute_force(weights: &[f32], curvature: Option<&[f32]>, values: &[f64]) -> f64 {
    let mut choice = vec![0; weights.len()];
    let mut least = f64::INFINITY;
    loop {
        let (mut product, mut square) = (0.0, 0.0);
        for (index, &w) in weights.iter().enumerate() {
            let (d, b) = (curvature_at(curvature, index), values[choice[index]]);
            product += d * b * f64::from(w);
            square += d * b * b;
        }
        let scale = if product > 0.0 { product / square } else { 0.0 };
        let error: f64 = (0..weights.len())
            .map(|index| {
                let gap = f64::from(weights[index]) - scale * values[choice[index]];
                0.5 * curvature_at(curvature, index) * gap * gap
            })
            .sum();
        least = least.min(error);
        let Some(next) = choice.iter().position(|&value| value + 1 < values.len()) else {
            return least;
        };
        choice[next] += 1;
        choice[..next].fill(0);
    }
}

pub(crate) fn values_of(codebook: &Codebook) -> Vec<f64> {
    codebook.values().into_iter().map(f64::from).collect()
}

/// Bell-shaped values in (−1, 1).
pub(crate) fn bell(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut value = || (0..3).map(|_| random.uniform()).sum::<f64>() / 1.5 - 1.0;
    (0..count).map(|_| value() as f32).collect()
}

/// Weights of one kind: smooth, with many ties and zeros, or of any magnitude.
pub(crate) fn weights(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    prop_oneof![
        3 => prop::collection::vec(-1.0_f32..1.0, lengths.clone()),
        2 => prop::collection::vec((-4_i8..=4).prop_map(|i| f32::from(i) / 4.0), lengths.clone()),
        1 => prop::collection::vec(POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO, lengths),
    ]
}

/// Curvatures of one kind: of one scale, over twenty decades, or integers with zeros.
pub(crate) fn curvatures(length: usize) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        3 => prop::collection::vec(1e-3_f32..1.0, length),
        2 => prop::collection::vec((-20.0_f32..0.0).prop_map(|e| 10_f32.powf(e)), length),
        1 => prop::collection::vec((0_u8..4).prop_map(f32::from), length),
    ]
}

/// Weights, with or without curvature.
pub(crate) fn problems(
    lengths: std::ops::Range<usize>,
) -> impl Strategy<Value = (Vec<f32>, Option<Vec<f32>>)> {
    weights(lengths).prop_flat_map(|weights| {
        let curvature = prop::option::weighted(0.8, curvatures(weights.len()));
        (Just(weights), curvature)
    })
}

/// [`problems`] with weights whose squares do not underflow and whose scales fit an f32.
pub(crate) fn moderate_problems(
    lengths: std::ops::Range<usize>,
) -> impl Strategy<Value = (Vec<f32>, Option<Vec<f32>>)> {
    problems(lengths).prop_map(|(mut weights, curvature)| {
        let tame = |w: f32| w.signum() * w.abs().clamp(1e-30, 1e30);
        weights
            .iter_mut()
            .filter(|w| **w != 0.0)
            .for_each(|w| *w = tame(*w));
        (weights, curvature)
    })
}
