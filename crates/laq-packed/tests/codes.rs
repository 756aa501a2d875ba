//! Packed codes, compared with one big integer per row.

use laq_packed::{PackError, Packing};
use laq_solvers::Codebook;
use proptest::prelude::*;

/// Codebooks of up to 256 levels.
fn codebooks() -> Vec<Codebook> {
    let custom = |magnitudes: &[f32]| Codebook::custom(magnitudes).expect("a codebook");
    let sized = |bits| {
        [
            Codebook::linear(bits),
            Codebook::logarithmic(bits),
            Codebook::uniform(bits),
        ]
    };
    let mut all: Vec<Codebook> = (2..=8)
        .flat_map(sized)
        .map(|codebook| codebook.expect("a codebook"))
        .collect();
    all.extend([Codebook::Binary, Codebook::Ternary]);
    all.extend([custom(&[0.2, 1.0]), custom(&[0.0, 0.3, 0.5, 1.0])]);
    all
}

/// All packings that fit the codebook.
fn packings(codebook: &Codebook) -> Vec<Packing> {
    let bits = (1..=8).map(|bits| Packing::bits(bits).expect("1 to 8 bits"));
    bits.chain([Packing::Trits])
        .filter(|packing| codebook.levels().count() <= packing.codes())
        .collect()
}

#[test]
fn names_are_those_that_are_written() {
    for packing in packings(&Codebook::Ternary) {
        assert_eq!(packing.to_string().parse(), Ok(packing));
    }
    for name in [
        "bits", "bits0", "bits9", "bits04", "bits+4", "bits 4", "trits", "trits05", "",
    ] {
        let error = PackError::Name { name: name.into() };
        assert_eq!(name.parse::<Packing>(), Err(error));
    }
}

/// The bytes of a row by the definition: bit or digit i of the row, one at a time.
fn reference(packing: Packing, codes: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Bits(bits) => {
            let bits = usize::from(bits.get());
            let mut bytes = vec![0; (codes.len() * bits).div_ceil(8)];
            for place in 0..codes.len() * bits {
                let bit = codes[place / bits] >> (place % bits) & 1;
                bytes[place / 8] |= bit << (place % 8);
            }
            bytes
        }
        Packing::Trits => codes
            .chunks(5)
            .map(|codes| codes.iter().rev().fold(0, |byte, code| 3 * byte + code))
            .collect(),
    }
}

#[test]
fn the_smallest_packing_fits() {
    for codebook in codebooks() {
        let packing = Packing::of(&codebook).expect("at most 16 levels");
        let count = codebook.levels().count();
        assert!(count <= packing.codes() && count > packing.codes() / 2);
    }
    for bits in [0, 9, 255] {
        assert_eq!(Packing::bits(bits), Err(PackError::Bits { bits }));
    }
}

#[test]
fn sizes_that_overflow_are_errors() {
    let packing = Packing::bits(4).expect("4 bits");
    assert_eq!(packing.row_bytes(usize::MAX), None);
    let rows = usize::MAX / 2;
    for (rows, columns) in [(1, usize::MAX), (rows, 3), (usize::MAX, usize::MAX)] {
        let error = packing.pack(&[0; 6], rows, columns, &Codebook::Ternary);
        assert!(matches!(error, Err(PackError::Length { .. })), "{error:?}");
        let error = packing.unpack(&[0; 6], rows, columns, &Codebook::Ternary, &mut [0; 6]);
        assert!(matches!(error, Err(PackError::Length { .. })), "{error:?}");
    }
}

#[test]
fn invalid_codes_and_padding_are_errors() {
    let two = Packing::bits(2).expect("2 bits");
    let unpack = |packing: Packing, packed: &[u8], columns: usize| {
        let mut levels = vec![0; columns];
        packing
            .unpack(packed, 1, columns, &Codebook::Ternary, &mut levels)
            .map(|()| levels)
    };
    assert_eq!(unpack(two, &[0b00_10_01], 3), Ok(vec![0, 1, -1]));
    let code = PackError::Code {
        code: 3,
        row: 0,
        column: 1,
        levels: 3,
    };
    assert_eq!(unpack(two, &[0b00_11_01], 3), Err(code));
    let byte = |byte| PackError::Byte {
        byte,
        row: 0,
        column: 0,
    };
    assert_eq!(unpack(two, &[0b01_00_10_01], 3), Err(byte(0b01_00_10_01)));
    assert_eq!(unpack(Packing::Trits, &[243], 5), Err(byte(243)));
    assert_eq!(unpack(Packing::Trits, &[9], 2), Err(byte(9)));
    assert_eq!(unpack(Packing::Trits, &[7], 2), Ok(vec![0, 1]));
    let error = two.pack(&[0, 2], 1, 2, &Codebook::Ternary);
    let level = PackError::Level {
        level: 2,
        row: 0,
        column: 1,
    };
    assert_eq!(error, Err(level));
    let error = Packing::Trits.pack(&[0], 1, 1, &Codebook::linear(3).expect("a codebook"));
    let codebook = PackError::Codebook {
        levels: 7,
        codes: 3,
    };
    assert_eq!(error, Err(codebook));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packed_rows_equal_the_definition_and_are_unpacked(
        rows in 0usize..5, columns in prop_oneof![0usize..70, 470usize..490, 955usize..965], seed: u64,
    ) {
        for codebook in codebooks() {
            let values: Vec<i8> = codebook.levels().collect();
            let mut state = seed;
            let codes: Vec<u8> = (0..rows * columns)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 33) as usize % values.len()) as u8
                })
                .collect();
            let levels: Vec<i8> = codes.iter().map(|&code| values[usize::from(code)]).collect();
            for packing in packings(&codebook) {
                let packed = packing.pack(&levels, rows, columns, &codebook).expect("packed");
                let expected: Vec<u8> = match columns {
                    0 => Vec::new(),
                    _ => codes.chunks(columns).flat_map(|row| reference(packing, row)).collect(),
                };
                prop_assert_eq!(&packed, &expected, "{:?} {:?}", packing, codebook);
                let mut unpacked = vec![0; levels.len()];
                packing
                    .unpack(&packed, rows, columns, &codebook, &mut unpacked)
                    .expect("unpacked");
                prop_assert_eq!(&unpacked, &levels);
            }
        }
    }

    /// Any bytes are an error or are packed to the same bytes again.
    #[test]
    fn unpacked_bytes_are_valid_or_an_error(
        packed in proptest::collection::vec(any::<u8>(), 0..12), columns in 1usize..24,
    ) {
        for codebook in codebooks() {
            for packing in packings(&codebook) {
                let row_bytes = packing.row_bytes(columns).expect("a size");
                let rows = packed.len() / row_bytes;
                let packed = &packed[..rows * row_bytes];
                let mut levels = vec![0; rows * columns];
                let result = packing.unpack(packed, rows, columns, &codebook, &mut levels);
                if result.is_ok() {
                    let again = packing.pack(&levels, rows, columns, &codebook).expect("packed");
                    prop_assert_eq!(&again, packed);
                }
            }
        }
    }
}
