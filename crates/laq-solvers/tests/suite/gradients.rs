//! The gradients of TTQ and DoReFa against finite differences of reference losses in f64.

use crate::common::*;
use laq_solvers::{Method, Scale};
use proptest::prelude::*;

/// `f'(x)` by central differences.
fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let step = 1e-6;
    (f(x + step) - f(x - step)) / (2.0 * step)
}

/// `Σ g_j · tanh w_j / max |tanh w|`: the loss `Σ g ŵ` without rounding.
fn dorefa_loss(weights: &[f64], gradient: &[f32]) -> f64 {
    let largest = weights.iter().map(|w| w.tanh().abs()).fold(0.0, f64::max);
    let term = |(w, &g): (&f64, &f32)| f64::from(g) * w.tanh() / largest;
    weights.iter().zip(gradient).map(term).sum()
}

/// `Σ g ŵ`
fn ttq_loss(levels: &[i8], gradient: &[f32], positive: f64, negative: f64) -> f64 {
    let term = |(&level, &g): (&i8, &f32)| {
        f64::from(g)
            * if level > 0 {
                positive
            } else if level < 0 {
                -negative
            } else {
                0.0
            }
    };
    levels.iter().zip(gradient).map(term).sum()
}

proptest! {
    #[test]
    fn dorefa_differentiates_the_tanh(
        w in prop::collection::vec(-2.0_f32..2.0, 1..40),
        seed: u64,
        bits in 2_u8..=8,
    ) {
        // There is no derivative if two weights have the largest magnitude.
        let mut magnitudes: Vec<f32> = w.iter().map(|w| w.abs()).collect();
        magnitudes.sort_by(f32::total_cmp);
        let largest = magnitudes[magnitudes.len() - 1];
        let second = magnitudes.iter().rev().nth(1).copied().unwrap_or(0.0);
        prop_assume!(largest > 0.05 && largest - second > 1e-4);

        let gradient = bell(w.len(), seed);
        let mut latent = gradient.clone();
        let method: Method = format!("dorefa-{bits}").parse().unwrap();
        method.quantizer().unwrap().latent_gradient(&w, Scale::One(1.0), &[], &mut latent);
        let exact: Vec<f64> = w.iter().copied().map(f64::from).collect();
        for index in 0..w.len() {
            let at = |x: f64| {
                let mut moved = exact.clone();
                moved[index] = x;
                dorefa_loss(&moved, &gradient)
            };
            let expected = slope(at, exact[index]);
            let found = f64::from(latent[index]);
            prop_assert!((found - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{found} {expected}");
        }
    }

    #[test]
    fn ttq_differentiates_its_scales(
        w in prop::collection::vec(-1.0_f32..1.0, 1..100),
        seed: u64,
        positive in 0.1_f32..1.0,
        negative in 0.1_f32..1.0,
    ) {
        let (levels, _) = solve("ttq", &w, None);
        let gradient = bell(w.len(), seed);
        let method: Method = "ttq".parse().unwrap();
        let quantizer = method.quantizer().unwrap();

        // The reference agrees with the decoded levels.
        let scale = Scale::Two { positive, negative };
        let mut quantized = vec![0.0; w.len()];
        quantizer.codebook().decode(&levels, scale, &mut quantized);
        let decoded: f64 =
            quantized.iter().zip(&gradient).map(|(&q, &g)| f64::from(q) * f64::from(g)).sum();
        let (p, n) = (f64::from(positive), f64::from(negative));
        prop_assert!((decoded - ttq_loss(&levels, &gradient, p, n)).abs() < 1e-9);

        let [found_p, found_n] = quantizer.scale_gradient(&levels, &gradient).unwrap();
        let expected_p = slope(|p| ttq_loss(&levels, &gradient, p, n), p);
        let expected_n = slope(|n| ttq_loss(&levels, &gradient, p, n), n);
        prop_assert!((found_p - expected_p).abs() < 1e-6, "{found_p} {expected_p}");
        prop_assert!((found_n - expected_n).abs() < 1e-6, "{found_n} {expected_n}");

        let mut latent = gradient.clone();
        quantizer.latent_gradient(&w, scale, &levels, &mut latent);
        let threshold = 0.05 * w.iter().map(|w| f64::from(w.abs())).fold(0.0, f64::max);
        for (index, &w) in w.iter().enumerate() {
            let factor = match f64::from(w) {
                w if w > threshold => positive,
                w if w < -threshold => negative,
                _ => 1.0,
            };
            prop_assert_eq!(latent[index], factor * gradient[index]);
        }
    }
}

/// Several parts and a remainder, against the formulas in plain f64 loops.
#[test]
fn gradients_of_many_weights_are_those_of_the_formulas() {
    const MANY: usize = (2 << 18) + 77;
    let weights = bell(MANY, 3);
    let gradient = bell(MANY, 4);
    let (wide, g): (Vec<f64>, Vec<f64>) = (weights.iter().zip(&gradient))
        .map(|(&w, &g)| (f64::from(w), f64::from(g)))
        .unzip();

    let method: Method = "dorefa-3".parse().unwrap();
    let mut latent = gradient.clone();
    let quantizer = method.quantizer().unwrap();
    quantizer.latent_gradient(&weights, Scale::One(1.0), &[], &mut latent);
    let magnitude = |&m: &usize| weights[m].abs().to_bits();
    let m = (0..MANY).rev().max_by_key(magnitude).unwrap();
    let t: Vec<f64> = wide.iter().map(|w| w.tanh()).collect();
    let all: f64 = g.iter().zip(&t).map(|(g, t)| g * t).sum();
    for i in 0..MANY {
        let others = if i == m { all / t[m] } else { 0.0 };
        let expected = (1.0 - t[i] * t[i]) / t[m].abs() * (g[i] - others);
        let found = f64::from(latent[i]);
        assert!(
            (found - expected).abs() <= 1e-7 * expected.abs() + 1e-30,
            "{i}: {found} {expected}"
        );
    }

    let (levels, _) = solve("ttq", &weights, None);
    let method: Method = "ttq".parse().unwrap();
    let found = method
        .quantizer()
        .unwrap()
        .scale_gradient(&levels, &gradient)
        .unwrap();
    for (found, side) in found.into_iter().zip([1, -1]) {
        let of_side = levels.iter().zip(&g).filter(|(level, _)| **level == side);
        let expected = f64::from(side) * of_side.map(|(_, g)| g).sum::<f64>();
        assert!((found - expected).abs() <= 1e-9, "{found} {expected}");
    }
}

/// tanh w = ±½ at w = ±artanh ½.
#[test]
fn dorefa_differentiates_the_largest_magnitude() {
    let method: Method = "dorefa-3".parse().unwrap();
    let weights = [0.5_f32.atanh(), -0.25_f32.atanh()];
    let mut gradient = [10.0, 1.0];
    method
        .quantizer()
        .unwrap()
        .latent_gradient(&weights, Scale::One(1.0), &[], &mut gradient);
    // ŵ = (1, −¼ / t), t = ½: ∂ŵ_2/∂t = ¼ / t² = 1, and dt/dw = 1 − ¼; ŵ_2 itself: (1 − 1/16) / ½.
    assert!((gradient[0] - 0.75).abs() < 1e-6, "{gradient:?}");
    assert!((gradient[1] - 1.875).abs() < 1e-6, "{gradient:?}");
}

/// The derivative is unbounded if all weights are zero.
#[test]
fn dorefa_does_not_change_the_gradient_of_zeros() {
    let method: Method = "dorefa-3".parse().unwrap();
    let mut gradient = [1.0, -2.0];
    method
        .quantizer()
        .unwrap()
        .latent_gradient(&[0.0; 2], Scale::One(1.0), &[0; 2], &mut gradient);
    assert_eq!(gradient, [1.0, -2.0]);
}
