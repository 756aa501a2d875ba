//! Types of super-blocks: their bytes, and the problem whose best solution found they store.

use std::fmt;

use half::f16;
use laq_solvers::Problem;
use laq_solvers::super_blocks::{SuperBlockFormat, solve_super_blocks};

use super::decode::place;
use super::{BlockTypeError, ElementType};

/// A type of GGUF with super-blocks of 256 weights: an integer scale `s` for each block, with `t` an integer minimum, and
/// factors `d` and `m` in f16.
///
/// | type | blocks | bytes | ŵ |
/// |---|---|---|---|
/// | `q2_k` | 16 of 16 | 84 | `d·s·q − m·t`, s and t from 0 to 15, q from 0 to 3 |
/// | `q3_k` | 16 of 16 | 110 | `d·s·q`, s from −32 to 31, q from −4 to 3 |
/// | `q4_k` | 8 of 32 | 144 | `d·s·q − m·t`, s and t from 0 to 63, q from 0 to 15 |
/// | `iq4_xs` | 8 of 32 | 136 | `d·s·v`, s from −32 to 31, v of the table of `iq4_nl` |
///
/// [`ElementType::decode`] reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The types are described above.
pub enum SuperBlockType {
    Q2K,
    Q3K,
    Q4K,
    Iq4Xs,
}

impl SuperBlockType {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::Q2K, Self::Q3K, Self::Q4K, Self::Iq4Xs];

    /// The name, such as `q4_k`.
    pub fn id(self) -> &'static str {
        match self {
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Iq4Xs => "iq4_xs",
        }
    }

    /// The problem of a super-block.
    pub fn format(self) -> SuperBlockFormat {
        SuperBlockFormat::named(self.id()).expect("a format has this name")
    }

    /// The element type in a file.
    pub fn element(self) -> ElementType {
        ElementType::named(self.id()).expect("the table has all types")
    }

    /// Quantizes rows of `columns` weights: scales, minima and codes with the least `½ Σ κ (w − ŵ)²` found, which need not be
    /// the least. Returns the bytes and that error.
    ///
    /// ```
    /// use laq_packed::gguf::SuperBlockType;
    /// use laq_solvers::Problem;
    ///
    /// let weights: Vec<f32> = (0..256).map(|i| (i as f32).sin()).collect();
    /// let (bytes, error) = SuperBlockType::Q4K.quantize(Problem::new(&weights, None)?, 256)?;
    /// let decoded = SuperBlockType::Q4K.element().decode(&bytes)?;
    /// assert!((decoded[1] - weights[1]).abs() < 0.07 && error < 0.2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BlockTypeError::Rounded`] if a row is not made of whole super-blocks, [`BlockTypeError::Solve`] if
    /// `columns` does not divide the weights.
    pub fn quantize(
        self,
        problem: Problem<'_>,
        columns: usize,
    ) -> Result<(Vec<u8>, f64), BlockTypeError> {
        let (format, of) = (self.format(), self.element());
        if !columns.is_multiple_of(of.weights) {
            return Err(BlockTypeError::Rounded { of, columns });
        }
        let weights = problem.weights().len();
        let mut codes = vec![0; weights];
        let mut factors = vec![[0.0; 2]; weights / format.length()];
        let mut integers = vec![[0; 2]; weights / format.block_length()];
        let error = solve_super_blocks(
            &format,
            problem,
            columns,
            &mut codes,
            &mut factors,
            &mut integers,
        )?;
        Ok((self.encode(&codes, &factors, &integers), error))
    }

    /// The bytes of whole super-blocks, from the outputs of [`solve_super_blocks`] for [`format`](Self::format).
    ///
    /// # Panics
    /// If the codes are not whole super-blocks with their factors and integers, or a code or an integer is none of the
    /// format.
    pub fn encode(self, codes: &[u8], factors: &[[f32; 2]], integers: &[[i8; 2]]) -> Vec<u8> {
        let (format, size) = (self.format(), self.element().bytes);
        let count = codes.len() / format.length();
        let blocks = format.length() / format.block_length();
        assert_eq!(
            (codes.len(), factors.len(), integers.len()),
            (count * format.length(), count, count * blocks)
        );
        let (values, [low, high]) = (format.codebook().values().len(), format.integers());
        let last = if format.has_minima() { high } else { 0 };
        assert!(codes.iter().all(|code| usize::from(*code) < values));
        let is_valid = |[s, t]: &[i8; 2]| (low..=high).contains(s) && (0..=last).contains(t);
        assert!(integers.iter().all(is_valid));
        let mut bytes = vec![0; count * size];
        let parts = codes.chunks_exact(format.length()).zip(factors);
        let parts = parts.zip(integers.chunks_exact(blocks));
        for (block, ((codes, factors), integers)) in bytes.chunks_exact_mut(size).zip(parts) {
            let factors = factors.map(|factor| f16::from_f32(factor).to_le_bytes());
            // From 0 on, as they are stored.
            let integers = integers.iter().map(|[s, t]| [s - low, *t].map(|n| n as u8));
            match self {
                Self::Q2K => put_q2_k(block, codes, factors, integers),
                Self::Q3K => put_q3_k(block, codes, factors, integers),
                Self::Q4K => put_q4_k(block, codes, factors, integers),
                Self::Iq4Xs => put_iq4_xs(block, codes, factors, integers),
            }
        }
        bytes
    }
}

impl fmt::Display for SuperBlockType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.id())
    }
}

/// The bytes of `d` and of `m`.
type Factors = [[u8; 2]; 2];

/// Scales and minima in four bits each, codes, d, m.
fn put_q2_k(
    block: &mut [u8],
    codes: &[u8],
    [d, m]: Factors,
    integers: impl Iterator<Item = [u8; 2]>,
) {
    for (part, [s, t]) in block.iter_mut().zip(integers) {
        *part = s | t << 4;
    }
    for (index, code) in codes.iter().enumerate() {
        put::<2, 32>(&mut block[16..80], index, *code);
    }
    block[80..82].copy_from_slice(&d);
    block[82..].copy_from_slice(&m);
}

/// The highest bit of codes, their others, scales, d.
fn put_q3_k(
    block: &mut [u8],
    codes: &[u8],
    [d, _]: Factors,
    integers: impl Iterator<Item = [u8; 2]>,
) {
    for (index, code) in codes.iter().enumerate() {
        put::<1, 32>(&mut block[..32], index, code >> 2);
        put::<2, 32>(&mut block[32..96], index, code & 3);
    }
    for (part, [s, _]) in integers.enumerate() {
        put::<4, 8>(&mut block[96..104], part, s & 15);
        put::<2, 4>(&mut block[104..108], part, s >> 4);
    }
    block[108..].copy_from_slice(&d);
}

/// d, m, scales and minima, codes. Of the first four blocks both are the lowest six bits of eight bytes; of the others
/// four bits of each are in the last four bytes, and the highest two above those six.
fn put_q4_k(
    block: &mut [u8],
    codes: &[u8],
    [d, m]: Factors,
    integers: impl Iterator<Item = [u8; 2]>,
) {
    block[..2].copy_from_slice(&d);
    block[2..4].copy_from_slice(&m);
    let bytes = &mut block[4..16];
    for (part, [s, t]) in integers.enumerate() {
        if part < 4 {
            bytes[part] = s;
            bytes[part + 4] = t;
        } else {
            bytes[part + 4] = s & 15 | (t & 15) << 4;
            bytes[part - 4] |= s >> 4 << 6;
            bytes[part] |= t >> 4 << 6;
        }
    }
    for (index, code) in codes.iter().enumerate() {
        put::<4, 32>(&mut block[16..], index, *code);
    }
}

/// d, the highest two bits of scales, their others, codes.
fn put_iq4_xs(
    block: &mut [u8],
    codes: &[u8],
    [d, _]: Factors,
    integers: impl Iterator<Item = [u8; 2]>,
) {
    block[..2].copy_from_slice(&d);
    for (part, [s, _]) in integers.enumerate() {
        put::<2, 1>(&mut block[2..4], part, s >> 4);
        put::<4, 1>(&mut block[4..8], part, s & 15);
    }
    for (index, code) in codes.iter().enumerate() {
        put::<4, 16>(&mut block[8..], index, *code);
    }
}

/// Adds code `index` of `BITS` bits to bytes that are zero at its [`place`].
fn put<const BITS: usize, const RUN: usize>(bytes: &mut [u8], index: usize, code: u8) {
    let (byte, shift) = place::<BITS, RUN>(index);
    bytes[byte] |= code << shift;
}
