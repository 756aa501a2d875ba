//! Closed forms and thresholds against their formulas in f64.

use crate::common::*;
use laq_solvers::{Problem, Scale, SolveError, Workspace};
use proptest::prelude::*;

fn moderate() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-1.0_f32..1.0, 1..200)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / count
}

fn sign(w: f32) -> i8 {
    if w < 0.0 { -1 } else { 1 }
}

proptest! {
    #[test]
    fn binary_methods(w in moderate(), seed: u64) {
        let d: Vec<f32> = bell(w.len(), seed).iter().map(|x| x.abs() + 1e-3).collect();
        let signs: Vec<i8> = w.iter().map(|&w| sign(w)).collect();
        let weighted = w.iter().zip(&d).map(|(&w, &d)| f64::from(d) * f64::from(w.abs())).sum::<f64>();
        let total: f64 = d.iter().copied().map(f64::from).sum();
        for (id, scale) in [
            ("binary-connect", 1.0),
            ("bwn", mean(w.iter().map(|w| f64::from(w.abs())))),
            ("lab", weighted / total),
        ] {
            let (levels, solution) = solve(id, &w, Some(&d));
            prop_assert_eq!(&levels, &signs);
            prop_assert_eq!(solution.scale, Scale::One(scale as f32));
        }
    }

    #[test]
    fn rounding_at_the_mean_and_at_the_largest_magnitude(w in moderate(), bits in 2_u8..=8) {
        let magnitude = |w: &f32| f64::from(w.abs());
        let largest = w.iter().map(magnitude).fold(0.0, f64::max);
        let steps = f64::from((1_u32 << (bits - 1)) - 1);
        for (id, scale, steps) in [
            ("absmean".to_owned(), mean(w.iter().map(magnitude)), 1.0),
            (format!("absmax-{bits}"), largest, steps),
        ] {
            let (levels, solution) = solve(&id, &w, None);
            prop_assert_eq!(solution.scale, Scale::One(scale as f32));
            for (&w, &level) in w.iter().zip(&levels) {
                let position = (steps * f64::from(w) / f64::from(scale as f32)).clamp(-steps, steps);
                // At a border either level is nearest.
                if scale > 0.0 && (position - position.floor() - 0.5).abs() > 1e-6 {
                    prop_assert_eq!(f64::from(level), position.round(), "{} of {}", w, id);
                }
            }
        }
    }

    #[test]
    fn twn_and_the_start_of_ttq(w in moderate()) {
        let magnitude = |w: &f32| f64::from(w.abs());
        let threshold = 0.7 * mean(w.iter().map(magnitude));
        let above = mean(w.iter().map(magnitude).filter(|&w| w > threshold));
        let (levels, solution) = solve("twn", &w, None);
        prop_assert_eq!(solution.scale, Scale::One(above as f32));
        for (w, &level) in w.iter().zip(&levels) {
            prop_assert_eq!(level, if magnitude(w) > threshold { sign(*w) } else { 0 });
        }

        let (levels, solution) = solve("ttq", &w, None);
        let scale = above as f32;
        prop_assert_eq!(solution.scale, Scale::Two { positive: scale, negative: scale });
        let threshold = 0.05 * w.iter().map(magnitude).fold(0.0, f64::max);
        for (w, &level) in w.iter().zip(&levels) {
            prop_assert_eq!(level, if magnitude(w) > threshold { sign(*w) } else { 0 });
        }
    }

    #[test]
    fn twn_ignores_the_curvature((w, d) in problems(0..100)) {
        let (levels, solution) = solve("twn", &w, d.as_deref());
        let (plain_levels, plain) = solve("twn", &w, None);
        prop_assert_eq!(levels, plain_levels);
        prop_assert_eq!(solution.scale, plain.scale);
    }

    #[test]
    fn dorefa(w in moderate(), bits in 2_u8..=8) {
        let (levels, solution) = solve(&format!("dorefa-{bits}"), &w, None);
        prop_assert_eq!(solution.scale, Scale::One(1.0));
        let steps = f64::from((1_u32 << bits) - 1);
        let largest = w.iter().map(|&w| f64::from(w).tanh().abs()).fold(0.0, f64::max);
        for (&w, &level) in w.iter().zip(&levels) {
            let position = steps * (f64::from(w).tanh() / (2.0 * largest) + 0.5);
            // At a border the rounding of tanh decides.
            if (position - position.floor() - 0.5).abs() > 1e-4 {
                let expected = position.round() - f64::from(1_u32 << (bits - 1));
                prop_assert_eq!(f64::from(level), expected, "{} of {:?}", w, largest);
            }
        }
    }
}

/// Trained scales of any size and sign are used; NaN is an error.
#[test]
fn ttq_uses_the_trained_scales() {
    let method: laq_solvers::Method = "ttq".parse().unwrap();
    let quantizer = method.quantizer().unwrap();
    let weights = [0.5, -0.5, 0.01];
    let problem = Problem::new(&weights, None).unwrap();
    let mut levels = [0; 3];
    let mut workspace = Workspace::default();
    let mut solve = |positive, negative| {
        let trained = Scale::Two { positive, negative };
        quantizer.solve(problem, Some(trained), &mut levels, &mut workspace)
    };
    let solution = solve(0.25, -2.0).unwrap();
    assert_eq!(
        solution.scale,
        Scale::Two {
            positive: 0.25,
            negative: -2.0
        }
    );
    // 0.5 → 0.25, −0.5 → 2, 0.01 → 0.
    let expected = 0.5 * (0.25_f64.powi(2) + 2.5_f64.powi(2) + f64::from(0.01_f32).powi(2));
    assert!((solution.weighted_error - expected).abs() < 1e-12);
    let error = solve(0.25, f32::NAN).unwrap_err();
    assert!(matches!(error, SolveError::Scale { value } if value.is_nan()));
}
