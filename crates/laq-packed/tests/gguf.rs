//! Block types of GGUF, compared with their definition; `gguf_types.rs` compares them with the Python package gguf.
#![cfg(feature = "std")]

use laq_packed::gguf::{BlockType, BlockTypeError};
use laq_solvers::Problem;
use laq_test_support::Random;

#[test]
fn one_and_two_bits_decode_in_order() {
    let mut random = Random(3);
    let block: Vec<u8> = (0..16).map(|_| (256.0 * random.uniform()) as u8).collect();
    // 0.75 in f16.
    let bytes = [&[0x00, 0x3a][..], &block].concat();
    let bit = |i: usize| block[i / 8] >> (i % 8) & 1;
    let one: Vec<f32> = (0..128)
        .map(|i| if bit(i) == 1 { 0.75 } else { -0.75 })
        .collect();
    assert_eq!(BlockType::Q1_0.decode(&bytes), Ok(one));
    let two = |i: usize| bit(2 * i) + 2 * bit(2 * i + 1);
    let two: Vec<f32> = (0..64).map(|i| 0.75 * (f32::from(two(i)) - 1.0)).collect();
    assert_eq!(BlockType::Q2_0.decode(&bytes), Ok(two));
}

/// What is stored decodes to the scales and codes that were solved for.
#[test]
fn quantized_rows_decode_to_the_solution() {
    let mut random = Random(11);
    for of in BlockType::ALL {
        for size in [0.02, 3.0, 1e-6] {
            let columns = 2 * of.weights();
            let weights: Vec<f32> = (0..3 * columns)
                .map(|_| (size * random.normal()) as f32)
                .collect();
            let curvature: Vec<f32> = (0..3 * columns).map(|_| random.uniform() as f32).collect();
            let problem = Problem::new(&weights, Some(&curvature)).expect("a problem");
            let (bytes, error) = of.quantize(problem, columns).expect("quantized");
            assert_eq!(bytes.len(), 6 * of.bytes());
            let decoded = of.decode(&bytes).expect("blocks");
            let of_weight = |((w, v), d): ((&f32, &f32), &f32)| {
                0.5 * f64::from(*d) * (f64::from(*w) - f64::from(*v)).powi(2)
            };
            let found: f64 = weights
                .iter()
                .zip(&decoded)
                .zip(&curvature)
                .map(of_weight)
                .sum();
            assert!(
                (found - error).abs() <= 1e-6 * error,
                "{of} {size}: {found}, {error}"
            );
            // Quantized again nothing changes.
            let again = Problem::new(&decoded, Some(&curvature)).expect("a problem");
            let (again, error) = of.quantize(again, columns).expect("quantized");
            let decoded_again = of.decode(&again).expect("blocks");
            assert!(error <= 1e-12 * found, "{of} {size}: {error}");
            assert_eq!(decoded_again, decoded, "{of} {size}");
        }
    }
}

#[test]
fn wrong_sizes_and_names_are_errors() {
    for of in BlockType::ALL {
        assert_eq!(of.id().to_uppercase().parse(), Ok(of));
        let weights = vec![1.0; of.weights() + 1];
        let problem = Problem::new(&weights, None).expect("a problem");
        let error = of.quantize(problem, weights.len()).expect_err("an error");
        assert!(matches!(error, BlockTypeError::Row { .. }), "{error}");
        let error = of.decode(&vec![0; of.bytes() - 1]).expect_err("an error");
        assert!(matches!(error, BlockTypeError::Bytes { .. }), "{error}");
    }
    let error = "q5_0".parse::<BlockType>().expect_err("an error");
    assert!(error.to_string().contains("q4_0, iq4_nl"), "{error}");
}
