//! Blocks with one factor for all of them.

use laq_test_support::Random;

use super::*;
use crate::blocks::{BlockFormat, solve_blocks};

/// NVFP4.
fn nvfp4() -> BlockFormat {
    BlockFormat::new(Codebook::e2m1(), ScaleGrid::E4m3, 16).expect("a format")
}

/// Solves with a tensor scale; checks that codes and scales have the error returned.
fn solve_tensor(weights: &[f32], curvature: Option<&[f32]>, columns: usize) -> (f32, f64) {
    let format = nvfp4();
    let problem = Problem::new(weights, curvature).expect("a problem");
    let blocks = weights.len() / columns * format.blocks(columns);
    let (mut codes, mut scales) = (vec![0; weights.len()], vec![0.0; blocks]);
    let (t, error) =
        solve_tensor_scale(&format, problem, columns, &mut codes, &mut scales).expect("solved");
    let values = format.codebook().values();
    let decoded = codes.iter().enumerate().map(|(index, code)| {
        let block = index / columns * format.blocks(columns) + index % columns / 16;
        f64::from(t) * f64::from(scales[block]) * f64::from(values[usize::from(*code)])
    });
    let decoded: Vec<f64> = decoded.collect();
    let of_outputs = error_of(weights, curvature, &decoded);
    assert!(
        (error - of_outputs).abs() <= 1e-9 * of_outputs,
        "{error} {of_outputs}"
    );
    assert!(t.is_normal() && t > 0.0 && scales.iter().all(|s| (0.0..=448.0).contains(s)));
    (t, error)
}

#[test]
fn a_tensor_scale_is_no_worse_than_that_of_the_largest_block() {
    for case in 0..12 {
        let (weights, curvature) = problem(&mut Random(case), 3 * 100);
        let curvature = curvature.as_deref();
        let (_, error) = solve_tensor(&weights, curvature, 100);
        // The largest weight over the largest scale and value, as usual.
        let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
        let t = largest / (448.0 * 6.0);
        let over: Vec<f32> = weights
            .iter()
            .map(|w| w / t.max(f32::MIN_POSITIVE))
            .collect();
        let problem = Problem::new(&over, curvature).expect("a problem");
        let (mut codes, mut scales) = ([0; 300], [0.0; 21]);
        let usual = solve_blocks(&nvfp4(), problem, 100, &mut codes, &mut scales).expect("solved");
        let usual = usual * f64::from(t).powi(2);
        assert!(
            error <= usual * (1.0 + 1e-6),
            "case {case}: {error} {usual}"
        );
    }
}

#[test]
fn tensors_that_can_be_stored_have_their_scale() {
    let mut random = Random(1);
    let (t, values) = (1.2345e-5f32, Codebook::e2m1().values());
    let mut weights = Vec::new();
    for block in 0..24 {
        let eighths = (8.0 + 8.0 * random.uniform()).floor() as f32;
        let scale = if block == 5 {
            448.0
        } else {
            eighths * 2f32.powi(block % 12 - 6)
        };
        for index in 0..16 {
            let value = if index == 3 {
                6.0
            } else {
                values[(random.uniform() * 15.0) as usize]
            };
            weights.push(t * scale * value);
        }
    }
    let (found, error) = solve_tensor(&weights, None, 64);
    let zeros = error_of(&weights, None, &vec![0.0; weights.len()]);
    assert!(
        (found / t - 1.0).abs() < 1e-6 && error < 1e-12 * zeros,
        "{found} {error} {zeros}"
    );
}

#[test]
fn tensors_of_any_weights_have_a_scale() {
    assert_eq!(solve_tensor(&[0.0; 32], None, 32), (1.0, 0.0));
    assert_eq!(solve_tensor(&[1.0; 32], Some(&[0.0; 32]), 32).1, 0.0);
    for size in [1e30, 1e-30, f32::from_bits(1)] {
        let (_, error) = solve_tensor(&[size, -size, 0.0, 0.5 * size], None, 2);
        assert!(error <= f64::from(size).powi(2), "{size} {error}");
    }
    let problem = Problem::new(&[], None).expect("a problem");
    assert_eq!(
        solve_tensor_scale(&nvfp4(), problem, 0, &mut [], &mut []),
        Ok((1.0, 0.0))
    );
    let problem = Problem::new(&[1.0; 6], None).expect("a problem");
    let (expected, found) = (2, 3);
    let scales = SolveError::BlockOutput {
        what: "scales",
        expected,
        found,
    };
    let solved = solve_tensor_scale(&nvfp4(), problem, 3, &mut [0; 6], &mut [0.0; 3]);
    assert_eq!(solved, Err(scales));
}
