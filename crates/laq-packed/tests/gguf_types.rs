//! Element types of GGUF, compared with the decoders of the Python package gguf; see `python/gguf_types.py`.
#![cfg(feature = "std")]

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use laq_packed::gguf::{BlockType, BlockTypeError, ElementType, TargetType};
use laq_solvers::Problem;
use serde::Deserialize;

#[derive(Deserialize)]
struct Decoded {
    /// In hexadecimal.
    bytes: String,
    /// FNV-1a of the bytes of the decoded f32, in hexadecimal.
    hash: String,
    /// The bits of every 23rd.
    every_23rd: Vec<u32>,
}

#[derive(Deserialize)]
struct Fixture {
    /// In hexadecimal, by type; F32 is what was rounded.
    rounded: BTreeMap<String, String>,
    #[serde(flatten)]
    decoded: BTreeMap<String, Decoded>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/gguf_types.json")).expect("JSON")
}

fn bytes_of(digits: &str) -> Vec<u8> {
    let digits = digits.as_bytes().chunks_exact(2);
    let byte = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).expect("ASCII"), 16);
    digits.map(|digits| byte(digits).expect("a byte")).collect()
}

fn fnv_1a(weights: &[f32]) -> u64 {
    let bytes = weights.iter().flat_map(|weight| weight.to_le_bytes());
    let start = 0xcbf2_9ce4_8422_2325_u64;
    bytes.fold(start, |found, byte| {
        (found ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn types_decode_as_by_the_package_gguf() {
    let all = fixture().decoded;
    // All types that are read, but the two that the package does not have.
    let read = ElementType::all().filter(|element| element.is_read());
    let mut names: Vec<&str> = read.map(|element| element.name).collect();
    names.retain(|name| !["Q1_0", "Q2_0"].contains(name));
    names.sort_unstable();
    assert_eq!(all.keys().collect::<Vec<_>>(), names);
    for (name, expected) in all {
        let element = ElementType::named(&name).expect("a type");
        let found = element.decode(&bytes_of(&expected.bytes)).expect("blocks");
        assert_eq!(found.len(), 4 * element.weights);
        for (place, bits) in expected.every_23rd.into_iter().enumerate() {
            let (found, expected) = (found[23 * place], f32::from_bits(bits));
            assert_eq!(
                found.to_bits(),
                bits,
                "{name}, weight {}: {found}, expected {expected}",
                23 * place
            );
        }
        assert_eq!(format!("{:016x}", fnv_1a(&found)), expected.hash, "{name}");
        if let Ok(of) = name.parse::<BlockType>() {
            assert_eq!(of.decode(&bytes_of(&expected.bytes)), Ok(found));
        }
    }
}

fn check_rounded(weights: &[u8], rounded: &BTreeMap<String, Vec<u8>>) {
    let f32s = ElementType::named("F32").expect("a type");
    let weights = f32s.decode(weights).expect("numbers");
    let problem = Problem::new(&weights, None).expect("finite");
    for (name, expected) in rounded {
        let of: TargetType = name.parse().expect("a type");
        let (found, error) = of.quantize(problem, 32).expect("whole blocks");
        assert_eq!(found.len(), expected.len());
        let different = (0..found.len()).find(|place| found[*place] != expected[*place]);
        assert_eq!(different, None, "{name}");
        let decoded = of.element().decode(&found).expect("blocks");
        let squares = weights.iter().zip(&decoded).map(|(w, v)| (w - v).powi(2));
        let sum: f64 = squares.map(f64::from).sum();
        assert!((error - 0.5 * sum).abs() <= 1e-5 * error, "{name}: {error}");
    }
}

#[test]
fn weights_are_rounded_as_by_the_package_gguf() {
    let rounded: BTreeMap<String, Vec<u8>> = (fixture().rounded.iter())
        .map(|(name, digits)| (name.clone(), bytes_of(digits)))
        .collect();
    assert_eq!(
        rounded.keys().collect::<Vec<_>>(),
        ["BF16", "F16", "F32", "Q8_0"]
    );
    check_rounded(&rounded["F32"], &rounded);
}

/// Where the package has infinity the largest numbers of the type are stored.
#[test]
fn large_weights_stay_finite() {
    let mut weights = [f32::MAX; 32];
    weights[1] = -f32::MAX;
    weights[2] = 1.0;
    let problem = Problem::new(&weights, None).expect("finite");
    for of in [
        TargetType::Q8_0,
        TargetType::F16,
        TargetType::Bf16,
        TargetType::F32,
    ] {
        let (bytes, _) = of.quantize(problem, 32).expect("whole blocks");
        let decoded = of.element().decode(&bytes).expect("blocks");
        let largest = match of {
            TargetType::Q8_0 => 127.0 * 65504.0,
            TargetType::F16 => 65504.0,
            TargetType::Bf16 => f32::from_bits(0x7f7f_0000),
            _ => f32::MAX,
        };
        assert_eq!((decoded[0], decoded[1]), (largest, -largest), "{of}");
    }
    let error = TargetType::Q8_0
        .quantize(problem, 16)
        .expect_err("an error");
    assert!(
        matches!(error, BlockTypeError::Rounded { columns: 16, .. }),
        "{error}"
    );
    let error = "q5_0".parse::<TargetType>().expect_err("an error");
    assert!(
        error
            .to_string()
            .contains("nvfp4, q2_k, q3_k, q4_k, iq4_xs, q8_0, f16, bf16, f32"),
        "{error}"
    );
    for of in TargetType::ALL {
        assert_eq!(of.to_string().parse(), Ok(of));
    }
}

/// Any bytes are numbers or none, and bytes that are no whole blocks are errors.
#[test]
fn any_bytes_decode() {
    for element in ElementType::all().filter(|element| element.is_read()) {
        for byte in 0..=255 {
            let found = element.decode(&vec![byte; 2 * element.bytes]);
            assert_eq!(found.map(|found| found.len()), Ok(2 * element.weights));
        }
        for length in (0..2 * element.bytes).filter(|length| length % element.bytes > 0) {
            assert!(element.decode(&vec![0; length]).is_err(), "{element}");
        }
    }
}

/// The folder that `python/gguf_types.py` wrote.
#[test]
#[ignore = "needs files of the package gguf"]
fn many_blocks_are_those_of_the_package_gguf() {
    let folder = env::var_os("LAQ_GGUF_TYPES").expect("the folder");
    let read = |name: String| fs::read(Path::new(&folder).join(name)).expect("a file");
    let rounded =
        ["Q8_0", "F16", "BF16"].map(|name| (name.into(), read(format!("{name}.rounded"))));
    check_rounded(&read("weights.f32".into()), &rounded.into());
    for name in fixture().decoded.into_keys() {
        let element = ElementType::named(&name).expect("a type");
        let found = element
            .decode(&read(format!("{name}.blocks")))
            .expect("blocks");
        let expected = read(format!("{name}.f32"));
        let expected = expected
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes));
        let (mut compared, mut not_numbers) = (0, 0);
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            compared += 1;
            if expected.is_nan() {
                assert!(found.is_nan(), "{name}, weight {index}");
                not_numbers += 1;
                continue;
            }
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{name}, weight {index}: {found}, expected {expected}"
            );
        }
        assert_eq!(compared, found.len());
        println!("{name}: {compared} weights, {not_numbers} of them NaN");
    }
}
