//! All passes: instruction sets against each other, sums against plain loops.

use laq_simd::Isa;

use super::assign::*;
use super::check::span;
use super::lanes::Side;
use super::sums::*;
use crate::codebook::{Codebook, Scale};
use crate::problem::{Problem, Span};

/// Values of either sign over a few decades, with zeros.
fn values(count: usize, step: f32) -> Vec<f32> {
    let value = |i: usize| (i as f32 * step).sin() * 10_f32.powi((i % 5) as i32 - 2);
    (0..count)
        .map(|i| if i % 11 == 3 { 0.0 } else { value(i) })
        .collect()
}

/// All results of the passes for one problem, as bits.
fn all_results(isa: Isa, problem: Problem<'_>, codebook: &Codebook) -> Vec<u64> {
    let weights = problem.weights();
    let magnitudes = codebook.magnitudes();
    let thresholds = magnitudes.thresholds(0.7);
    let mut levels = vec![0; weights.len()];
    let mut quantized = vec![0.0; weights.len()];
    let scale = Scale::Two {
        positive: 0.7,
        negative: 0.3,
    };
    let Span { smallest, largest } = span(isa, weights);
    let mut results = vec![smallest.into(), largest.into()];
    let nearest = Assignment::Nearest(&magnitudes, &thresholds);
    let error = assign_with_error(isa, problem, nearest, codebook, scale, &mut levels);
    results.push(error.to_bits());
    for side in [Side::Both, Side::Positive, Side::Negative] {
        for sums in [
            totals(isa, problem, side),
            at_thresholds(isa, problem, side, &magnitudes, thresholds.values()),
            sums_of_levels(isa, problem, side, codebook, &levels),
            sums_above(isa, problem, 0.2),
        ] {
            results.extend([sums.product.to_bits(), sums.square.to_bits()]);
        }
    }
    results.push(weighted_error(isa, problem, codebook, scale, &levels).to_bits());
    decode(isa, codebook, &levels, scale, &mut quantized);
    results.extend(levels.iter().map(|&level| level as u64));
    results.extend(quantized.iter().map(|value| u64::from(value.to_bits())));
    let ternary = Assignment::Ternary(0.2, 0.4);
    let error = assign_with_error(isa, problem, ternary, codebook, scale, &mut levels);
    results.push(error.to_bits());
    results.extend(levels.iter().map(|&level| level as u64));
    results
}

#[test]
fn every_isa_returns_the_same_bits() {
    let others: Vec<Isa> = Isa::available().collect();
    assert!(others.contains(&Isa::PORTABLE));
    for count in [0, 1, 63, 64, 65, 127, 128, 200, 1000] {
        let (weights, curvature) = (values(count, 0.7), values(count, 0.3));
        let curvature: Vec<f32> = curvature.iter().map(|d| d.abs()).collect();
        for given in [None, Some(&curvature[..])] {
            let problem = Problem::new(&weights, given).unwrap();
            for codebook in [
                Codebook::Binary,
                Codebook::Ternary,
                Codebook::linear(3).unwrap(),
                Codebook::logarithmic(4).unwrap(),
                Codebook::linear(6).unwrap(),
                Codebook::uniform(8).unwrap(),
                Codebook::custom([0.0, 0.1, 0.7]).unwrap(),
                Codebook::custom([0.1, 0.7, 0.8, 1.0]).unwrap(),
            ] {
                let expected = all_results(Isa::PORTABLE, problem, &codebook);
                for &isa in &others {
                    let found = all_results(isa, problem, &codebook);
                    assert_eq!(found, expected, "{isa:?}, {count} of {codebook:?}");
                }
            }
        }
    }
}

#[test]
fn sums_agree_with_a_plain_loop() {
    let magnitudes = Codebook::Ternary.magnitudes();
    for count in [0, 1, 64, 100, 777] {
        let (mut weights, curvature) = (values(count, 0.7), values(count, 0.3));
        let curvature: Vec<f32> = curvature.iter().map(|d| d.abs()).collect();
        // Some weights at a threshold, and levels that are independent of their weights.
        weights
            .iter_mut()
            .skip(5)
            .step_by(9)
            .for_each(|w| *w = 0.1 * w.signum());
        let levels: Vec<i8> = (0..count).map(|i| (i * i % 3) as i8 - 1).collect();
        let problem = Problem::new(&weights, Some(&curvature)).unwrap();
        let agree = |found: Sums, expected: &dyn Fn(f64, f64) -> (f64, f64)| {
            let (mut product, mut square) = (0.0, 0.0);
            for (index, (&w, &d)) in weights.iter().zip(&curvature).enumerate() {
                let (x, b) = expected(f64::from(w), f64::from(levels[index]));
                product += f64::from(d) * b * x;
                square += f64::from(d) * b * b;
            }
            assert!((found.product - product).abs() <= 1e-12 * product.abs());
            assert!((found.square - square).abs() <= 1e-12 * square);
        };
        let both = (Side::Both, 0.0);
        for (side, sign) in [both, (Side::Positive, 1.0), (Side::Negative, -1.0)] {
            let magnitude = |w: f64| {
                if side == Side::Both {
                    w.abs()
                } else {
                    sign * w
                }
            };
            for threshold in [0.1_f32, 1.0] {
                let threshold = f64::from(threshold);
                let thresholds = magnitudes.thresholds(2.0 * threshold);
                let found = at_thresholds(
                    Isa::PORTABLE,
                    problem,
                    side,
                    &magnitudes,
                    thresholds.values(),
                );
                agree(found, &|w, _| {
                    (magnitude(w), f64::from(magnitude(w) > threshold))
                });
            }
            let codebook = &Codebook::Ternary;
            let found = sums_of_levels(Isa::PORTABLE, problem, side, codebook, &levels);
            agree(found, &|w, b| match side {
                Side::Both => (w, b),
                _ => (sign * w, f64::from(sign * w > 0.0 && sign * b > 0.0)),
            });
        }
    }
}
