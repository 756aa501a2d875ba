//! Products of panels of codes, per instruction set.
//!
//! # Layout
//!
//! A panel is [`PANEL_ROWS`] rows of the matrix. Its codes are words of 16 lanes of 32 bits, lane = row.
//! A word has 32, 16 or 8 consecutive columns for codes of 1, 2 or 4 bits; column k of a word is at bit
//! `8·(k mod 4) + bits·(k div 4)` of its lane. The same words serve two kernels:
//!
//! - in f32, a shift and a permutation look the codes up in a table of at most 16 values, and the
//!   product is fused multiply-adds in the order of the columns, so its bits are those of the dense
//!   product of the decoded weights;
//! - with activations of 8 bits, a mask leaves four codes of a lane in place, as the unsigned operand of
//!   a dot product of bytes.

#[cfg(all(feature = "std", target_arch = "x86_64"))]
mod dense;
#[cfg_attr(not(feature = "std"), path = "scalar.rs")]
#[cfg_attr(
    target_arch = "aarch64",
    allow(dead_code, reason = "NEON has its own product")
)]
mod gemm;
#[cfg(all(feature = "std", target_arch = "aarch64", target_feature = "neon"))]
mod neon;
#[cfg_attr(
    target_arch = "aarch64",
    allow(dead_code, reason = "NEON has its own product")
)]
mod portable;
#[cfg(test)]
mod tests;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
mod x86;

use core::array;
use core::ops::Range;

use laq_simd::Isa;
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use laq_simd::Set;

#[cfg(all(feature = "std", target_arch = "aarch64", target_feature = "neon"))]
use self::neon::{multiply as multiply_panel, multiply_int8 as multiply_panel_int8};
#[cfg(not(all(feature = "std", target_arch = "aarch64", target_feature = "neon")))]
use self::{gemm::multiply as multiply_panel, portable::multiply_int8 as multiply_panel_int8};

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;

/// Vectors of a batch that a call multiplies, at most.
pub(crate) const MAX_BATCH: usize = 8;

/// Panels of a call, at most.
pub(crate) const MAX_PANELS: usize = 4;

/// The codes of some consecutive columns of a panel: a cache line, a lane per row.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Word(pub(crate) [u32; PANEL_ROWS]);

/// Consecutive panels of codes.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    /// `words_per_panel` for each panel, and one more, since kernels read some bytes too far.
    pub(crate) words: &'a [Word],
    pub(crate) words_per_panel: usize,
    /// Bits of a code: 1, 2 or 4.
    pub(crate) bits: usize,
}

impl<'a> Panels<'a> {
    pub(crate) fn count(self) -> usize {
        (self.words.len() - 1) / self.words_per_panel.max(1)
    }

    /// Columns of a word.
    pub(crate) fn columns_per_word(self) -> usize {
        32 / self.bits
    }

    /// Words `words` of panels `first..first + count`, which must exist.
    fn check(self, first: usize, count: usize, words: &Range<usize>) {
        assert!(matches!(self.bits, 1 | 2 | 4) && first + count <= self.count());
        assert!(words.start <= words.end && words.end <= self.words_per_panel);
    }

    /// The words `words` of a panel.
    pub(crate) fn of(self, panel: usize, words: Range<usize>) -> &'a [Word] {
        &self.words[panel * self.words_per_panel..][words]
    }
}

/// The values of codes, prepared for the kernels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lookup {
    values: [f32; 16],
    /// Entry n of table s is the value of the code at bits `bits·s` of n.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    nibbles: [[f32; 16]; 4],
}

impl Lookup {
    /// The values of the codes of `bits` bits.
    pub(crate) fn new(bits: usize, values: [f32; 16]) -> Self {
        let mask = (1 << bits) - 1;
        Self {
            values,
            nibbles: array::from_fn(|s| {
                array::from_fn(|nibble| values[(nibble >> (bits * s)) & mask])
            }),
        }
    }
}

/// The weights of the codes of some panels.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    /// One value per code.
    Shared(&'a Lookup),
    /// `multiplier · step`, with a step for each row and sign. The second table has the negative
    /// multipliers, the first the others; both are zero elsewhere.
    PerRow {
        multipliers: &'a [Lookup; 2],
        steps: &'a [[f32; PANEL_ROWS]; 2],
    },
}

#[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "as above"))]
impl Values<'_> {
    /// The decoded weight of a code in a row.
    fn of(&self, code: usize, row: usize) -> f32 {
        match self {
            Values::Shared(lookup) => lookup.values[code],
            Values::PerRow { multipliers, steps } => {
                let sign = usize::from(multipliers[1].values[code] < 0.0);
                multipliers[sign].values[code] * steps[sign][row]
            }
        }
    }
}

/// Sums of products in f32: for each of `count` panels from `first` and each of `batch` vectors, 16
/// rows of `sums`, which `add` adds to.
///
/// `x` has `batch` interleaved vectors, for the columns of `words`.
pub(crate) fn multiply(
    isa: Isa,
    panels: Panels<'_>,
    (first, count): (usize, usize),
    words: Range<usize>,
    values: Values<'_>,
    (x, batch): (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    panels.check(first, count, &words);
    assert_eq!(
        x.len(),
        words.len() * panels.columns_per_word() * batch,
        "one element per column and vector"
    );
    assert_eq!(sums.len(), count * batch, "16 rows per panel and vector");
    match isa.set() {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Set::Avx2 | Set::Avx512 => {
            x86::multiply(
                isa,
                panels,
                (first, count),
                words,
                values,
                (x, batch),
                add,
                sums,
            );
        }
        _ => {
            for (panel, sums) in (first..first + count).zip(sums.chunks_exact_mut(batch)) {
                let words = panels.of(panel, words.clone());
                multiply_panel(panels.bits, words, values, (x, batch), add, sums);
            }
        }
    }
}

/// Columns of a panel of f32: for each column, its 16 rows.
pub(crate) type DensePanel<'a> = &'a [[f32; PANEL_ROWS]];

/// Sums of products of one vector and at most four panels of f32, which `add` adds to: the bits of the
/// dense product of training.
///
/// The panels are consecutive, with `columns` columns each; those of `x` begin at `first`.
pub(crate) fn multiply_dense(
    isa: Isa,
    panels: DensePanel<'_>,
    (columns, first): (usize, usize),
    x: &[f32],
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    assert!(panels.len() == sums.len() * columns && first + x.len() <= columns);
    match isa.set() {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Set::Avx2 | Set::Avx512 => dense::multiply(isa, panels, (columns, first), x, add, sums),
        _ => {
            let panels = panels.chunks_exact(columns);
            for (panel, sums) in panels.zip(sums.chunks_exact_mut(1)) {
                gemm::multiply_dense(&panel[first..first + x.len()], (x, 1), add, sums);
            }
        }
    }
}

/// How the codes of a matrix are integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntegerCodes {
    /// `table[code] = integer + offset`, from 0 to 128.
    pub(crate) table: [u8; 16],
    /// Whether `table[code] = code`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) identity: bool,
}

/// Words of a panel whose integer sums fit into 32 bits: each adds at most 240·127·4.
pub(crate) const INT8_BLOCK: usize = 16_384;

/// The integer sums of two panels: `Σ table[code]·x`, and the sum of x over the columns of the highest
/// of three codes, by panel.
pub(crate) type IntegerSums = [[[i32; PANEL_ROWS]; 2]; 2];

/// Sums of integer products of at most [`INT8_BLOCK`] words of two panels, which may be the same. The
/// second sums are computed with `positive`.
///
/// `x` has four columns per element, as bytes; columns from the end of the matrix on are zero.
pub(crate) fn multiply_int8(
    isa: Isa,
    panels: Panels<'_>,
    pair: [usize; 2],
    words: Range<usize>,
    integers: &IntegerCodes,
    positive: bool,
    x: &[i32],
    sums: &mut IntegerSums,
) {
    let words = pair.map(|panel| panels.of(panel, words.clone()));
    assert!(words[0].len() <= INT8_BLOCK);
    assert_eq!(
        4 * x.len(),
        words[0].len() * panels.columns_per_word(),
        "one byte per column"
    );
    match isa.set() {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Set::Avx2 | Set::Avx512 => {
            x86::multiply_int8(isa, panels.bits, words, integers, positive, x, sums);
        }
        _ => {
            for (words, sums) in words.iter().zip(sums) {
                multiply_panel_int8(panels.bits, words, integers, positive, x, sums);
            }
        }
    }
}
