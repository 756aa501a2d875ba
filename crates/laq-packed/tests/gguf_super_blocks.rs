//! Super-blocks of GGUF: what is stored decodes to the solution; `gguf_types.rs` compares the decoders with the Python
//! package gguf.
#![cfg(feature = "std")]

#[path = "fixtures/gguf.rs"]
mod gguf;

use gguf::{Folder, bytes, file, floats, quantize, random};
use laq_packed::gguf::{BlockTypeError, GgufFile, GgufValue, SuperBlockType, TargetType};
use laq_solvers::Problem;
use laq_solvers::super_blocks::SuperBlockFormat;
use laq_test_support::Random;
use proptest::prelude::*;

/// `½ Σ κ (w − ŵ)²`
fn error_of(weights: &[f32], curvature: &[f32], decoded: &[f32]) -> f64 {
    let of_weight = |((w, v), d): ((&f32, &f32), &f32)| {
        0.5 * f64::from(*d) * (f64::from(*w) - f64::from(*v)).powi(2)
    };
    let weights = weights.iter().zip(decoded).zip(curvature);
    weights.map(of_weight).sum()
}

#[test]
fn quantized_rows_decode_to_the_solution() {
    let mut random = Random(11);
    for of in SuperBlockType::ALL {
        for size in [0.02, 3.0] {
            let mut normal = || (size * random.normal()) as f32;
            let weights: Vec<f32> = (0..3 * 512).map(|_| normal()).collect();
            let curvature: Vec<f32> = (0..3 * 512).map(|_| random.uniform() as f32).collect();
            let problem = Problem::new(&weights, Some(&curvature)).expect("a problem");
            let (bytes, error) = of.quantize(problem, 512).expect("quantized");
            assert_eq!(bytes.len(), 6 * of.element().bytes);
            let decoded = of.element().decode(&bytes).expect("blocks");
            let found = error_of(&weights, &curvature, &decoded);
            assert!(
                (found - error).abs() <= 1e-5 * error,
                "{of} {size}: {found}, {error}"
            );
            let zeros = error_of(&weights, &curvature, &vec![0.0; weights.len()]);
            assert!(error < 0.08 * zeros, "{of} {size}: {}", error / zeros);
            // Quantized again little changes.
            let again = Problem::new(&decoded, Some(&curvature)).expect("a problem");
            let (_, error) = of.quantize(again, 512).expect("quantized");
            assert!(error <= 0.1 * found, "{of} {size}: {error} {found}");
        }
    }
}

/// Any codes, integers and factors decode to the weights that the format defines.
#[test]
fn everything_that_can_be_stored_is() {
    let mut random = Random(5);
    let mut below = |count: usize| (random.uniform() * count as f64) as usize;
    for of in SuperBlockType::ALL {
        let format: SuperBlockFormat = of.format();
        let (values, [low, high]) = (format.codebook().values().len(), format.integers());
        let counts = 1 + usize::from(high.abs_diff(low));
        let (count, blocks) = (50, format.length() / format.block_length());
        let codes: Vec<u8> = (0..count * 256).map(|_| below(values) as u8).collect();
        let factors: Vec<[f32; 2]> = (0..count)
            .map(|_| [0, 1].map(|_| (below(2048) as f32 - 1024.0) / 4096.0))
            .map(|[d, m]| [d, if format.has_minima() { m } else { 0.0 }])
            .collect();
        let mut integer = || low.wrapping_add_unsigned(below(counts) as u8);
        let integers: Vec<[i8; 2]> = (0..count * blocks)
            .map(|_| [integer(), integer()])
            .map(|[s, t]| [s, if format.has_minima() { t } else { 0 }])
            .collect();
        let bytes = of.encode(&codes, &factors, &integers);
        let decoded = of.element().decode(&bytes).expect("blocks");
        for (index, (found, code)) in decoded.into_iter().zip(codes).enumerate() {
            let of_block = integers[index / format.block_length()];
            let expected = format.value(factors[index / 256], of_block, code);
            assert_eq!(found, expected, "{of}, weight {index}");
        }
    }
}

#[test]
fn files_have_them_by_name() {
    let weights = random(3 * 256, 1);
    let model = file(
        3,
        &[],
        &[
            ("a.weight", &[256, 2], 0, floats(&weights[..512])),
            ("b.weight", &[256, 1], 0, floats(&weights[512..])),
        ],
    );
    let folder = Folder::new(&model);
    for (of, file_type) in SuperBlockType::ALL.into_iter().zip([10, 11, 14, 30]) {
        let mut request = folder.request(of);
        request.types = vec![("b.*".into(), TargetType::from(SuperBlockType::Q4K))];
        quantize(request).expect("a file");
        let new = GgufFile::open(&folder.path("out.gguf")).expect("a file");
        let expected = Some(GgufValue::Integer(file_type));
        assert_eq!(new.value("general.file_type").cloned(), expected);
        let parts = weights.chunks(512).zip([of, SuperBlockType::Q4K]);
        for (tensor, (w, of)) in new.tensors().iter().zip(parts) {
            let d: Vec<f32> = w.iter().map(|w| w * w).collect();
            let problem = Problem::new(w, Some(&d)).expect("numbers");
            let (expected, _) = of.quantize(problem, 256).expect("whole blocks");
            assert_eq!(tensor.element, of.element());
            assert_eq!(bytes(&new, &tensor.name), expected, "{of}");
        }
    }
}

#[test]
fn rows_of_other_lengths_are_errors() {
    for of in SuperBlockType::ALL {
        assert_eq!(
            of.to_string().to_uppercase().parse(),
            Ok(TargetType::from(of))
        );
        let problem = Problem::new(&[1.0; 384], None).expect("a problem");
        let error = of.quantize(problem, 128).expect_err("an error");
        assert!(
            matches!(error, BlockTypeError::Rounded { columns: 128, .. }),
            "{error}"
        );
        let error = of.quantize(problem, 256).expect_err("an error");
        assert!(matches!(error, BlockTypeError::Solve(_)), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_weights_are_stored(
        weights in prop::collection::vec(
            prop_oneof![-1f32..1.0, Just(0.0), Just(f32::MAX), Just(-1e30), Just(1e-40)],
            256,
        ),
    ) {
        for of in SuperBlockType::ALL {
            let problem = Problem::new(&weights, None).expect("finite");
            let (bytes, _) = of.quantize(problem, 256).expect("whole blocks");
            let decoded = of.element().decode(&bytes).expect("blocks");
            prop_assert!(decoded.iter().all(|v| v.is_finite()));
        }
    }
}
