//! Codebooks and the decode rule.

use crate::common::*;
use laq_solvers::{
    Codebook, Problem, Scale, SolveError, Workspace, alternating, exact, exact_by_sorting,
};
use proptest::prelude::*;

#[test]
fn values_are_those_of_the_specification() {
    let third = 1.0 / 3.0;
    assert_eq!(Codebook::Binary.values(), [-1.0, 1.0]);
    assert_eq!(Codebook::Ternary.values(), [-1.0, 0.0, 1.0]);
    assert_eq!(
        Codebook::Linear { bits: 3 }.values(),
        [-1.0, -2.0 / 3.0, -third, 0.0, third, 2.0 / 3.0, 1.0]
    );
    assert_eq!(
        Codebook::Logarithmic { bits: 3 }.values(),
        [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    );
    assert_eq!(
        Codebook::Uniform { bits: 2 }.values(),
        [-1.0, -third, third, 1.0]
    );
    assert_eq!(
        Codebook::Linear { bits: 2 }.values(),
        Codebook::Ternary.values()
    );
    assert_eq!(
        Codebook::Logarithmic { bits: 2 }.values(),
        Codebook::Ternary.values()
    );
    assert_eq!(Codebook::Logarithmic { bits: 8 }.value(1), 2_f32.powi(-126));
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
fn bits_out_of_range_are_refused_by_solvers_and_clamped_by_lookups() {
    for bits in [0, 1, 9, 255] {
        for codebook in [
            Codebook::Linear { bits },
            Codebook::Logarithmic { bits },
            Codebook::Uniform { bits },
        ] {
            let problem = Problem::new(&[1.0], None).unwrap();
            let (mut levels, mut workspace) = ([0], Workspace::default());
            let refused = Err(SolveError::Bits { bits });
            assert_eq!(
                exact_by_sorting(problem, codebook, &mut levels, &mut workspace),
                refused
            );
            assert_eq!(alternating(problem, codebook, false, &mut levels), refused);
            assert_eq!(codebook.value(i8::MAX), 1.0);
            assert_eq!(codebook.value(i8::MIN), -1.0);
            assert!((2..=8).contains(&codebook.storage_bits()));
        }
    }
    assert_eq!(
        Codebook::Linear { bits: 0 }.values(),
        Codebook::Ternary.values()
    );
}

proptest! {
    #[test]
    fn decoding_is_scale_times_value(
        levels in prop::collection::vec(any::<i8>(), 0..200),
        which in 0_usize..23,
        positive in -2.0_f32..2.0,
        negative in -2.0_f32..2.0,
        two: bool,
    ) {
        let codebook = all_codebooks()[which];
        let scale = if two { Scale::Two { positive, negative } } else { Scale::One(positive) };
        let mut quantized = vec![7.0; levels.len()];
        codebook.decode(&levels, scale, &mut quantized);
        for (&level, &quantized) in levels.iter().zip(&quantized) {
            let factor = if two && level < 0 { negative } else { positive };
            prop_assert_eq!(quantized.to_bits(), (factor * codebook.value(level)).to_bits());
            prop_assert!(codebook.value(level).abs() <= 1.0);
        }
    }

    /// Every scaled copy of a codebook is its own exact solution.
    #[test]
    fn what_is_quantized_already_stays(which in 0_usize..23, exponent in -20_i32..20) {
        let codebook = match all_codebooks()[which] {
            // The smallest values of more bits would drown in the sums of f64.
            Codebook::Logarithmic { bits } => Codebook::Logarithmic { bits: bits.min(5) },
            other => other,
        };
        let scale = 2_f32.powi(exponent);
        let levels: Vec<i8> = codebook.levels().collect();
        let mut weights = vec![0.0; levels.len()];
        codebook.decode(&levels, Scale::One(scale), &mut weights);
        let mut found = vec![0; levels.len()];
        let problem = Problem::new(&weights, None).unwrap();
        let solution = exact_by_sorting(problem, codebook, &mut found, &mut Workspace::default()).unwrap();
        prop_assert_eq!(found, levels);
        prop_assert_eq!(solution.scale, Scale::One(scale));
        prop_assert_eq!(solution.weighted_error, 0.0);
    }
}

#[test]
fn slices_of_different_length_decode_up_to_the_shorter() {
    let mut quantized = [9.0; 3];
    Codebook::Ternary.decode(&[1, -1], Scale::One(2.0), &mut quantized);
    assert_eq!(quantized, [2.0, -2.0, 9.0]);
    Codebook::Ternary.decode(&[0; 5], Scale::One(2.0), &mut quantized);
    assert_eq!(quantized, [0.0; 3]);
}

/// What is given is what the codebook of that name would be.
#[test]
fn given_levels_are_as_good_as_named_ones() {
    let weights = bell(500, 11);
    let problem = Problem::new(&weights, None).unwrap();
    for named in [
        Codebook::Binary,
        Codebook::Ternary,
        Codebook::Linear { bits: 8 },
        Codebook::Logarithmic { bits: 4 },
        Codebook::Uniform { bits: 8 },
    ] {
        let magnitudes: Vec<f32> = named
            .values()
            .into_iter()
            .filter(|value| *value >= 0.0)
            .collect();
        let given = Codebook::given(magnitudes.leak()).unwrap();
        assert_eq!(given.values(), named.values());
        assert_eq!(given.storage_bits(), named.storage_bits());
        let solve = |codebook: Codebook| {
            let (mut levels, mut quantized) = (vec![0; 500], vec![0.0; 500]);
            let solution =
                exact(problem, codebook, &mut levels, &mut Workspace::default()).unwrap();
            codebook.decode(&levels, solution.scale, &mut quantized);
            (solution, quantized)
        };
        assert_eq!(solve(given), solve(named), "{named:?}");
        assert_eq!(given.value(i8::MAX), 1.0);
        assert_eq!(given.value(i8::MIN), -1.0);
    }
    let (a, b) = (
        Codebook::given(&[0.0, 0.5]),
        Codebook::given(&[0.0, 0.25 + 0.25]),
    );
    assert_eq!(a, b);
    assert_ne!(a, Codebook::given(&[0.5]));
}

#[test]
fn magnitudes_that_are_no_codebook_are_refused() {
    const MANY: [f32; 129] = {
        let mut many = [0.0; 129];
        let mut index = 0;
        while index < 129 {
            many[index] = index as f32 / 128.0;
            index += 1;
        }
        many
    };
    for (magnitudes, reason) in [
        (&[][..], "there are none"),
        (&[0.0], "the last is 0"),
        (&[-0.0, 1.0], "the first is -0"),
        (&[-0.5, 1.0], "the first is -0.5"),
        (&[0.5, 0.5], "0.5 is followed by 0.5"),
        (&[0.5, f32::NAN], "0.5 is followed by NaN"),
        (&[f32::NAN], "the first is NaN"),
        (&[0.5, 1.5], "the last is 1.5"),
        (&MANY, "there are 129"),
    ] {
        let message = Codebook::given(magnitudes).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
        assert!(
            message.contains("expected up to 128 of them, rising"),
            "{message}"
        );
    }
    assert!(Codebook::given(&MANY[1..]).is_ok());
}
