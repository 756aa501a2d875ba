//! Codebooks and the decode rule.

use crate::common::*;
use laq_solvers::{Bits, Codebook, Problem, Scale, SolveError, Workspace, exact, exact_by_sorting};
use proptest::prelude::*;

#[test]
fn values_are_those_of_the_specification() {
    let third = 1.0 / 3.0;
    assert_eq!(Codebook::Binary.values(), [-1.0, 1.0]);
    assert_eq!(Codebook::Ternary.values(), [-1.0, 0.0, 1.0]);
    assert_eq!(
        Codebook::linear(3).unwrap().values(),
        [-1.0, -2.0 / 3.0, -third, 0.0, third, 2.0 / 3.0, 1.0]
    );
    assert_eq!(
        Codebook::logarithmic(3).unwrap().values(),
        [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    );
    assert_eq!(
        Codebook::uniform(2).unwrap().values(),
        [-1.0, -third, third, 1.0]
    );
    assert_eq!(
        Codebook::linear(2).unwrap().values(),
        Codebook::Ternary.values()
    );
    assert_eq!(
        Codebook::logarithmic(2).unwrap().values(),
        Codebook::Ternary.values()
    );
    assert_eq!(Codebook::logarithmic(8).unwrap().value(1), 2_f32.powi(-126));
}

#[test]
fn every_codebook_is_rising_symmetric_and_within_one() {
    for codebook in all_codebooks() {
        let values = codebook.values();
        assert!(values.is_sorted_by(|a, b| a < b), "{codebook:?}");
        assert_eq!(
            (values[0], values[values.len() - 1]),
            (-1.0, 1.0),
            "{codebook:?}"
        );
        let mirrored: Vec<f32> = values.iter().rev().map(|value| -value).collect();
        assert_eq!(values, mirrored, "{codebook:?}");
        assert!(values.len() <= 1 << codebook.storage_bits(), "{codebook:?}");
        assert!(
            values.len() > 1 << (codebook.storage_bits() - 1),
            "{codebook:?}"
        );
        let levels: Vec<i8> = codebook.levels().collect();
        assert_eq!(levels.len(), values.len());
        assert!(levels.is_sorted());
    }
}

#[test]
fn bits_are_checked() {
    for bits in [0, 1, 9, 255] {
        assert_eq!(Bits::new(bits), Err(SolveError::Bits { bits }));
        for made in [
            Codebook::linear(bits),
            Codebook::logarithmic(bits),
            Codebook::uniform(bits),
        ] {
            assert_eq!(made, Err(SolveError::Bits { bits }));
        }
    }
    assert_eq!(Bits::new(8), Ok(Bits::MAX));
}

#[test]
fn look_ups_clamp_the_index() {
    for codebook in all_codebooks() {
        assert_eq!(codebook.value(i8::MAX), 1.0);
        assert_eq!(codebook.value(i8::MIN), -1.0);
    }
}

proptest! {
    #[test]
    fn decoding_is_step_times_multiplier(
        levels in prop::collection::vec(any::<i8>(), 0..200),
        which in 0_usize..23,
        positive in -2.0_f32..2.0,
        negative in -2.0_f32..2.0,
        two: bool,
    ) {
        let codebook = &all_codebooks()[which];
        let scale = if two { Scale::Two { positive, negative } } else { Scale::One(positive) };
        let mut quantized = vec![7.0; levels.len()];
        codebook.decode(&levels, scale, &mut quantized);
        for (&level, &quantized) in levels.iter().zip(&quantized) {
            let factor = if two && level < 0 { negative } else { positive };
            let divisor = match &codebook {
                Codebook::Linear { bits } => (1 << (bits.get() - 1)) - 1,
                Codebook::Uniform { bits } => (1 << bits.get()) - 1,
                _ => 1,
            };
            // Integers up to 255 are exact in f32.
            let multiplier = (codebook.value(level) * divisor as f32).round();
            let multiplier = if divisor == 1 { codebook.value(level) } else { multiplier };
            let expected = factor / divisor as f32 * multiplier;
            prop_assert_eq!(quantized.to_bits(), expected.to_bits());
            prop_assert!(codebook.value(level).abs() <= 1.0);
        }
    }

    /// A scaled codebook is its own exact solution.
    #[test]
    fn quantized_weights_are_unchanged(which in 0_usize..23, exponent in -20_i32..20) {
        let codebook = match all_codebooks().swap_remove(which) {
            // The smallest values of more bits are lost in sums of f64.
            Codebook::Logarithmic { bits } => Codebook::logarithmic(bits.get().min(5)).unwrap(),
            other => other,
        };
        let scale = 2_f32.powi(exponent);
        let levels: Vec<i8> = codebook.levels().collect();
        let mut weights = vec![0.0; levels.len()];
        codebook.decode(&levels, Scale::One(scale), &mut weights);
        let mut found = vec![0; levels.len()];
        let problem = Problem::new(&weights, None).unwrap();
        let solution = exact_by_sorting(problem, &codebook, &mut found, &mut Workspace::default()).unwrap();
        prop_assert_eq!(found, levels);
        if codebook.divisor() == 1.0 {
            prop_assert_eq!(solution.scale, Scale::One(scale));
            prop_assert_eq!(solution.weighted_error, 0.0);
        } else {
            // The step is rounded, so the decoded weights are not exactly scale · value.
            let gap = solution.scale.pair()[0] / scale - 1.0;
            prop_assert!(gap.abs() < 1e-6, "{gap}");
            prop_assert!(solution.weighted_error <= 1e-12 * f64::from(scale).powi(2));
        }
    }
}

#[test]
fn decoding_stops_at_the_end_of_the_shorter_slice() {
    let mut quantized = [9.0; 3];
    Codebook::Ternary.decode(&[1, -1], Scale::One(2.0), &mut quantized);
    assert_eq!(quantized, [2.0, -2.0, 9.0]);
    Codebook::Ternary.decode(&[0; 5], Scale::One(2.0), &mut quantized);
    assert_eq!(quantized, [0.0; 3]);
}

/// A custom codebook with the magnitudes of a named one has the same levels and scale. The decoded
/// weights differ in rounding where the named one has a divisor.
#[test]
fn custom_codebooks_equal_named_ones() {
    let weights = bell(500, 11);
    let problem = Problem::new(&weights, None).unwrap();
    for named in [
        Codebook::Binary,
        Codebook::Ternary,
        Codebook::linear(8).unwrap(),
        Codebook::logarithmic(4).unwrap(),
        Codebook::uniform(8).unwrap(),
    ] {
        let mut magnitudes = named.values();
        magnitudes.retain(|value| *value >= 0.0);
        let custom = Codebook::custom(magnitudes).unwrap();
        assert_eq!(custom.values(), named.values());
        assert_eq!(custom.storage_bits(), named.storage_bits());
        let solve = |codebook: &Codebook| {
            let (mut levels, mut quantized) = (vec![0; 500], vec![0.0; 500]);
            let solution =
                exact(problem, codebook, &mut levels, &mut Workspace::default()).unwrap();
            codebook.decode(&levels, solution.scale, &mut quantized);
            (solution.scale, quantized)
        };
        let ((scale, quantized), (named_scale, named_quantized)) = (solve(&custom), solve(&named));
        assert_eq!(scale, named_scale, "{named:?}");
        for (a, b) in quantized.iter().zip(named_quantized) {
            let tolerance = if named.divisor() == 1.0 { 0.0 } else { 2e-7 };
            assert!((a - b).abs() <= tolerance * b.abs(), "{named:?}: {a} {b}");
        }
    }
    let custom = Codebook::custom([0.0, 0.5]);
    assert_eq!(custom, Codebook::custom(vec![0.0, 0.25 + 0.25]));
    assert_ne!(custom, Codebook::custom([0.5]));
}

#[test]
fn invalid_magnitudes() {
    let many: Vec<f32> = (0..129).map(|i| i as f32 / 128.0).collect();
    for magnitudes in [
        &[][..],
        &[0.0],
        &[-0.0, 1.0],
        &[-0.5, 1.0],
        &[0.5, 0.5],
        &[0.5, f32::NAN],
        &[f32::NAN],
        &[0.5, 1.5],
        &many,
    ] {
        let made = Codebook::custom(magnitudes);
        assert!(
            matches!(made, Err(SolveError::Magnitudes { .. })),
            "{made:?}"
        );
    }
    assert!(Codebook::custom(&many[1..]).is_ok());
}
