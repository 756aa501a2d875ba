//! Element types of GGUF, compared with the decoders of the Python package gguf; see `python/gguf_types.py`.
#![cfg(feature = "std")]

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use laq_packed::gguf::{BlockType, ElementType};
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

fn fixture() -> BTreeMap<String, Decoded> {
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
    let all = fixture();
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
fn many_blocks_decode_as_by_the_package_gguf() {
    let folder = env::var_os("LAQ_GGUF_TYPES").expect("the folder");
    let read = |name: String| fs::read(Path::new(&folder).join(name)).expect("a file");
    for name in fixture().into_keys() {
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
