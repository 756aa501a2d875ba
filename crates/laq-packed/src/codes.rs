//! Packed codes of levels: one to eight bits per weight, or five trits per byte.
//!
//! The code of a level is its rank in the codebook, from 0 for the lowest. Rows are packed
//! separately and padded to bytes with zeros, so that a row starts at a byte:
//!
//! | packing | bytes of a row of n codes | code i |
//! |---|---|---|
//! | [`Packing::Bits`] with b bits | ⌈n·b / 8⌉ | bits i·b to i·b + b − 1, least significant bit first |
//! | [`Packing::Trits`] | ⌈n / 5⌉ | digit i mod 5 of byte i / 5 to base 3, least significant digit first |
//!
//! The bit order is that of ONNX and compressed-tensors, and of
//! `numpy.unpackbits(bitorder="little")`.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::str::FromStr;

use laq_solvers::Codebook;
use serde::{Deserialize, Serialize};

use crate::pack_error::PackError;

/// The layout of the codes of a row. Its name in a file is `bits1` to `bits8`, or `trits5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Packing {
    /// Bits per code, 1 to 8; made by [`Packing::bits`].
    Bits(CodeBits),
    /// Five codes from 0 to 2 per byte: 1.6 bits per weight.
    Trits,
}

impl fmt::Display for Packing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packing::Bits(bits) => write!(formatter, "bits{}", bits.0),
            Packing::Trits => formatter.write_str("trits5"),
        }
    }
}

impl FromStr for Packing {
    type Err = PackError;

    fn from_str(name: &str) -> Result<Self, PackError> {
        let bits = (1..=8).filter_map(|bits| Packing::bits(bits).ok());
        let mut all = bits.chain([Packing::Trits]);
        all.find(|packing| packing.to_string() == name)
            .ok_or_else(|| PackError::Name { name: name.into() })
    }
}

impl From<Packing> for String {
    fn from(packing: Packing) -> String {
        packing.to_string()
    }
}

impl TryFrom<String> for Packing {
    type Error = PackError;

    fn try_from(name: String) -> Result<Self, PackError> {
        name.parse()
    }
}

/// Bits per code, 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeBits(u8);

impl CodeBits {
    /// The number of bits.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// 3^0 to 3^4.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
/// The number of values of five trits.
const TRIT_BYTES: usize = 243;

/// Codes that are unpacked at a time: whole bytes of codes of any number of bits and of trits, and whole
/// words of a matrix.
pub(crate) const BLOCK: usize = 480;

/// Unpacks codes of `BITS` bits, and sets all others to zero.
fn unpack_bits<const BITS: usize>(packed: &[u8], codes: &mut [u8; BLOCK]) {
    let (eights, _) = codes.as_chunks_mut::<8>();
    let (whole, rest) = packed.as_chunks::<BITS>();
    let last = (!rest.is_empty()).then(|| {
        let mut last = [0; BITS];
        last[..rest.len()].copy_from_slice(rest);
        last
    });
    let mut packed = whole.iter().copied().chain(last);
    for codes in eights {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(&packed.next().unwrap_or([0; BITS]));
        *codes = spread(BITS, u64::from_le_bytes(word)).to_le_bytes();
    }
}

/// Moves eight codes of `bits` bits each, the first in the lowest bits, to a byte each.
fn spread(bits: usize, mut codes: u64) -> u64 {
    // First each half to half a word, then each pair, then each code.
    for (width, every_second) in [(32, 1), (16, 0x1_0000_0001), (8, 0x1_0001_0001_0001)] {
        let size = width / 8 * bits;
        let low = ((1 << size) - 1) * every_second;
        codes = (codes & low) | ((codes & !low) << (width - size));
    }
    codes
}

/// The five trits of each byte.
const TRITS: [[u8; 5]; TRIT_BYTES] = {
    let mut table = [[0; 5]; TRIT_BYTES];
    let mut byte = 0;
    while byte < TRIT_BYTES {
        let mut digit = 0;
        while digit < 5 {
            table[byte][digit] = (byte / POWERS[digit] as usize % 3) as u8;
            digit += 1;
        }
        byte += 1;
    }
    table
};

impl Packing {
    /// `bits` bits per code.
    ///
    /// # Errors
    /// [`PackError::Bits`] if `bits` is not 1 to 8.
    pub fn bits(bits: u8) -> Result<Packing, PackError> {
        match bits {
            1..=8 => Ok(Packing::Bits(CodeBits(bits))),
            _ => Err(PackError::Bits { bits }),
        }
    }

    /// The packing with the fewest bits that fits the levels of `codebook`, with codes of whole
    /// bits.
    ///
    /// # Errors
    /// None for the codebooks of [`laq_solvers`], which have at most 8 bits.
    pub fn of(codebook: &Codebook) -> Result<Packing, PackError> {
        Packing::bits(codebook.storage_bits().max(1))
    }

    /// The number of codes.
    pub fn codes(self) -> usize {
        match self {
            Packing::Bits(bits) => 1 << bits.0,
            Packing::Trits => 3,
        }
    }

    /// Bits of a code: 1 to 8, or 1.6.
    pub fn bits_per_code(self) -> f64 {
        match self {
            Packing::Bits(bits) => bits.0.into(),
            Packing::Trits => 1.6,
        }
    }

    /// Bytes of a row of `columns` codes; `None` if the size overflows.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        match self {
            Packing::Bits(bits) => Some(columns.checked_mul(bits.0.into())?.div_ceil(8)),
            Packing::Trits => Some(columns.div_ceil(5)),
        }
    }

    /// Whether every level of `codebook` has a code.
    pub(crate) fn check_codebook(self, codebook: &Codebook) -> Result<(), PackError> {
        Ranks::new(self, codebook).map(drop)
    }

    /// Packs `rows` rows of `columns` levels, row-major.
    ///
    /// ```
    /// use laq_packed::Packing;
    /// use laq_solvers::Codebook;
    ///
    /// let levels = [1, 0, -1, 1, 0, 0];
    /// let packed = Packing::bits(2)?.pack(&levels, 2, 3, &Codebook::Ternary)?;
    /// assert_eq!(packed, [0b00_01_10, 0b01_01_10]); // codes 2, 1, 0 and 2, 1, 1
    /// let trits = Packing::Trits.pack(&levels, 2, 3, &Codebook::Ternary)?;
    /// assert_eq!(trits, [2 + 3, 2 + 3 + 9]);
    /// # Ok::<(), laq_packed::PackError>(())
    /// ```
    ///
    /// # Errors
    /// [`PackError`] if the codebook has too many levels, the length is not rows × columns, or a
    /// level is not in the codebook.
    pub fn pack(
        self,
        levels: &[i8],
        rows: usize,
        columns: usize,
        codebook: &Codebook,
    ) -> Result<Vec<u8>, PackError> {
        let ranks = Ranks::new(self, codebook)?;
        self.check(levels.len(), "levels", rows, columns, Some)?;
        self.pack_with(rows, columns, |row, column| {
            let level = levels[row * columns + column];
            ranks
                .code(level)
                .ok_or(PackError::Level { level, row, column })
        })
    }

    /// Packs the codes that `code` has for each row and column, of a matrix that exists in memory.
    pub(crate) fn pack_with(
        self,
        rows: usize,
        columns: usize,
        code: impl Fn(usize, usize) -> Result<u8, PackError>,
    ) -> Result<Vec<u8>, PackError> {
        let row_bytes = self.row_bytes(columns).expect("fewer than the codes");
        let mut packed = vec![0; rows * row_bytes];
        if packed.is_empty() {
            return Ok(packed);
        }
        for (row, packed) in packed.chunks_exact_mut(row_bytes).enumerate() {
            let code = |column: usize| code(row, column);
            match self {
                Packing::Bits(bits) => {
                    let (mut word, mut filled, mut next) = (0u32, 0, 0);
                    for column in 0..columns {
                        word |= u32::from(code(column)?) << filled;
                        filled += u32::from(bits.0);
                        if filled >= 8 {
                            packed[next] = word as u8;
                            (word, filled, next) = (word >> 8, filled - 8, next + 1);
                        }
                    }
                    if filled > 0 {
                        packed[next] = word as u8;
                    }
                }
                Packing::Trits => {
                    for column in 0..columns {
                        packed[column / 5] += code(column)? * POWERS[column % 5];
                    }
                }
            }
        }
        Ok(packed)
    }

    /// Unpacks `rows` rows of `columns` levels, row-major.
    ///
    /// # Errors
    /// [`PackError`] if the codebook has too many levels, a length does not match, a code is not
    /// that of a level, or the padding of a row is not zero.
    pub fn unpack(
        self,
        packed: &[u8],
        rows: usize,
        columns: usize,
        codebook: &Codebook,
        levels: &mut [i8],
    ) -> Result<(), PackError> {
        let ranks = Ranks::new(self, codebook)?;
        self.check(levels.len(), "levels", rows, columns, Some)?;
        self.unpack_with(packed, rows, columns, ranks.count, |row, part, codes| {
            let levels = &mut levels[row * columns..][part];
            for (level, code) in levels.iter_mut().zip(codes) {
                *level = ranks.levels[usize::from(*code)];
            }
        })
    }

    /// Calls `put` with the codes of `rows` rows of `columns` weights, in order: with a row, some of its
    /// columns, of which the first is a multiple of 32, and their codes, followed by zeros. All codes are
    /// below `count`.
    ///
    /// # Errors
    /// [`PackError`] if the length does not match, a code is not below `count`, or the padding of a
    /// row is not zero. The codes before the invalid block have been passed on.
    pub(crate) fn unpack_with(
        self,
        packed: &[u8],
        rows: usize,
        columns: usize,
        count: usize,
        mut put: impl FnMut(usize, Range<usize>, &[u8; BLOCK]),
    ) -> Result<(), PackError> {
        let row_bytes = self.check_packed(packed, rows, columns)?;
        if packed.is_empty() {
            return Ok(());
        }
        let block_bytes = self.row_bytes(BLOCK).expect("a small number");
        let mut unpacked = [0; BLOCK];
        for (row, packed) in packed.chunks_exact(row_bytes).enumerate() {
            for (block, packed) in packed.chunks(block_bytes).enumerate() {
                let byte_error = |index: usize| PackError::Byte {
                    byte: packed[index],
                    row,
                    column: block * block_bytes + index,
                };
                if let Some(index) = self.unpack_block(packed, &mut unpacked) {
                    return Err(byte_error(index));
                }
                let first = block * BLOCK;
                let (codes, padding) = unpacked.split_at((columns - first).min(BLOCK));
                // The largest code is found eight or more codes at a time, the first invalid one by one.
                let largest = codes.iter().fold(0, |largest, code| largest.max(*code));
                let is_invalid = |code: &u8| usize::from(*code) >= count;
                if is_invalid(&largest) {
                    let index = codes.iter().position(is_invalid).expect("the largest");
                    return Err(PackError::Code {
                        code: codes[index],
                        row,
                        column: first + index,
                        levels: count,
                    });
                }
                if padding.iter().any(|&code| code != 0) {
                    return Err(byte_error(packed.len() - 1));
                }
                put(row, first..first + codes.len(), &unpacked);
            }
        }
        Ok(())
    }

    /// Unpacks the codes of some bytes, and sets all others to zero. Returns the index of the first byte
    /// that is not five trits.
    fn unpack_block(self, packed: &[u8], codes: &mut [u8; BLOCK]) -> Option<usize> {
        match self {
            Packing::Bits(CodeBits(bits)) => {
                match bits {
                    1 => unpack_bits::<1>(packed, codes),
                    2 => unpack_bits::<2>(packed, codes),
                    3 => unpack_bits::<3>(packed, codes),
                    4 => unpack_bits::<4>(packed, codes),
                    5 => unpack_bits::<5>(packed, codes),
                    6 => unpack_bits::<6>(packed, codes),
                    7 => unpack_bits::<7>(packed, codes),
                    _ => unpack_bits::<8>(packed, codes),
                }
                None
            }
            Packing::Trits => {
                let mut packed = packed.iter();
                for (index, codes) in codes.chunks_exact_mut(5).enumerate() {
                    let byte = packed.next().copied().unwrap_or_default();
                    let Some(trits) = TRITS.get(usize::from(byte)) else {
                        return Some(index);
                    };
                    codes.copy_from_slice(trits);
                }
                None
            }
        }
    }

    /// Checks the length of packed rows.
    pub(crate) fn check_packed(
        self,
        packed: &[u8],
        rows: usize,
        columns: usize,
    ) -> Result<usize, PackError> {
        self.check(packed.len(), "packed bytes", rows, columns, |columns| {
            self.row_bytes(columns)
        })
    }

    /// Checks that `found` is rows × `per_row(columns)`; returns the packed bytes of a row.
    fn check(
        self,
        found: usize,
        what: &'static str,
        rows: usize,
        columns: usize,
        per_row: impl Fn(usize) -> Option<usize>,
    ) -> Result<usize, PackError> {
        let expected = per_row(columns).and_then(|per_row| per_row.checked_mul(rows));
        match (expected == Some(found), self.row_bytes(columns)) {
            (true, Some(row_bytes)) => Ok(row_bytes),
            _ => Err(PackError::Length {
                what,
                found,
                rows,
                columns,
            }),
        }
    }
}

/// The codes of the levels of a codebook.
struct Ranks {
    /// The levels in rising order; only the first `count`.
    levels: [i8; 256],
    count: usize,
    /// The code of level i at i + 128.
    codes: [Option<u8>; 256],
}

impl Ranks {
    fn new(packing: Packing, codebook: &Codebook) -> Result<Ranks, PackError> {
        let (count, codes) = (codebook.levels().count(), packing.codes());
        if count > codes {
            return Err(PackError::Codebook {
                levels: count,
                codes,
            });
        }
        let mut ranks = Ranks {
            levels: [0; 256],
            count,
            codes: [None; 256],
        };
        for (code, level) in codebook.levels().enumerate() {
            ranks.levels[code] = level;
            ranks.codes[usize::from(level.cast_unsigned() ^ 128)] = Some(code as u8);
        }
        Ok(ranks)
    }

    fn code(&self, level: i8) -> Option<u8> {
        self.codes[usize::from(level.cast_unsigned() ^ 128)]
    }
}
