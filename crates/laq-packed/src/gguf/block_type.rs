//! Types of blocks: their bytes, and the problem whose optimum they store.

use std::fmt;
use std::slice::ChunksExact;
use std::str::FromStr;

use half::f16;
use laq_solvers::blocks::{BlockFormat, solve_blocks};
use laq_solvers::{Method, Problem, SolveError};
use thiserror::Error;

use super::ElementType;

/// An error of a block type.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum BlockTypeError {
    /// The name is unknown.
    #[error("unknown block type `{found}`, expected one of {}", list_of_ids())]
    Unknown {
        /// The name.
        found: String,
    },
    /// A row is not made of whole blocks.
    #[error(
        "a row has {columns} weights, and {of} stores whole blocks of {block}: expected a multiple of it"
    )]
    Row {
        /// The block type.
        of: BlockType,
        /// The weights of a row.
        columns: usize,
        /// The weights of a block.
        block: usize,
    },
    /// A row is not made of whole blocks of another type.
    #[error(
        "a row has {columns} weights, and {of} stores whole blocks of {}: expected a multiple of it",
        .of.weights
    )]
    Rounded {
        /// The type.
        of: ElementType,
        /// The weights of a row.
        columns: usize,
    },
    /// The bytes are not whole blocks.
    #[error("there are {found} bytes, and {of} stores blocks of {block} bytes")]
    Bytes {
        /// The block type.
        of: BlockType,
        /// The number of bytes.
        found: usize,
        /// The bytes of a block.
        block: usize,
    },
    /// The weights or curvatures are invalid.
    #[error(transparent)]
    Solve(#[from] SolveError),
}

fn list_of_ids() -> String {
    BlockType::ALL.map(BlockType::id).join(", ")
}

/// A block type of GGUF with one scale for each block, or for NVFP4 for each quarter of it.
///
/// | type | weights | bytes | values | scale |
/// |---|---|---|---|---|
/// | `q1_0` | 128 | 18 | −1, 1 | f16 |
/// | `q2_0` | 64 | 18 | −1 to 2 | f16 of either sign |
/// | `tq1_0` | 256 | 54 | −1 to 1 | f16 |
/// | `tq2_0` | 256 | 66 | −1 to 1 | f16 |
/// | `q4_0` | 32 | 18 | −8 to 7 | f16 of either sign |
/// | `iq4_nl` | 32 | 18 | a table of 16 | f16 of either sign |
/// | `mxfp4` | 32 | 17 | E2M1 | power of two |
/// | `nvfp4` | 64 | 36 | E2M1 | E4M3 for each 16 weights |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The types are described above.
pub enum BlockType {
    Q1_0,
    Q2_0,
    Tq1_0,
    Tq2_0,
    Q4_0,
    Iq4Nl,
    Mxfp4,
    Nvfp4,
}

/// The runs of TQ1_0: first byte, bytes, first weight. A byte has a weight of each part of its run of as
/// many weights as the run has bytes.
const TQ1_0_RUNS: [[usize; 3]; 3] = [[0, 32, 0], [32, 16, 160], [48, 4, 240]];

impl BlockType {
    /// Every type.
    pub const ALL: [Self; 8] = [
        Self::Q1_0,
        Self::Q2_0,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Q4_0,
        Self::Iq4Nl,
        Self::Mxfp4,
        Self::Nvfp4,
    ];

    /// The name, such as `q4_0`.
    pub fn id(self) -> &'static str {
        match self {
            Self::Q1_0 => "q1_0",
            Self::Q2_0 => "q2_0",
            Self::Tq1_0 => "tq1_0",
            Self::Tq2_0 => "tq2_0",
            Self::Q4_0 => "q4_0",
            Self::Iq4Nl => "iq4_nl",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// The number of the type in a GGUF file.
    pub fn number(self) -> u32 {
        match self {
            Self::Q1_0 => 41,
            Self::Q2_0 => 42,
            Self::Tq1_0 => 34,
            Self::Tq2_0 => 35,
            Self::Q4_0 => 2,
            Self::Iq4Nl => 20,
            Self::Mxfp4 => 39,
            Self::Nvfp4 => 40,
        }
    }

    /// The number of weights of a block.
    pub fn weights(self) -> usize {
        match self {
            Self::Q1_0 => 128,
            Self::Q2_0 | Self::Nvfp4 => 64,
            Self::Tq1_0 | Self::Tq2_0 => 256,
            Self::Q4_0 | Self::Iq4Nl | Self::Mxfp4 => 32,
        }
    }

    /// The number of bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q1_0 | Self::Q2_0 | Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Tq1_0 => 54,
            Self::Tq2_0 => 66,
            Self::Mxfp4 => 17,
            Self::Nvfp4 => 36,
        }
    }

    /// Bits of a weight with its share of the scale.
    pub fn bits_per_weight(self) -> f64 {
        8.0 * self.bytes() as f64 / self.weights() as f64
    }

    /// The problem of a scale: values, scales, and the weights that share one.
    pub fn format(self) -> BlockFormat {
        let method: Method = self.id().parse().expect("a method has this name");
        method.block_format().expect("it is a format")
    }

    /// The scales of a block.
    fn scales(self) -> usize {
        if self == Self::Nvfp4 { 4 } else { 1 }
    }

    /// Quantizes rows of `columns` weights: the scales and codes with the least `½ Σ d (w − ŵ)²`.
    /// Returns the bytes and that error.
    ///
    /// ```
    /// use laq_packed::gguf::BlockType;
    /// use laq_solvers::Problem;
    ///
    /// let weights: Vec<f32> = (0..64).map(|i| (i % 16 - 8) as f32 / 16.0).collect();
    /// let (bytes, error) = BlockType::Q4_0.quantize(Problem::new(&weights, None)?, 32)?;
    /// assert_eq!((bytes.len(), error), (36, 0.0));
    /// assert_eq!(BlockType::Q4_0.decode(&bytes)?, weights);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BlockTypeError::Row`] if a row is not made of whole blocks, [`BlockTypeError::Solve`] if
    /// `columns` does not divide the weights.
    pub fn quantize(
        self,
        problem: Problem<'_>,
        columns: usize,
    ) -> Result<(Vec<u8>, f64), BlockTypeError> {
        let (format, weights) = (self.format(), problem.weights().len());
        self.check_row(columns)?;
        let mut codes = vec![0; weights];
        let mut scales = vec![0.0; weights / format.length()];
        let error = solve_blocks(&format, problem, columns, &mut codes, &mut scales)?;
        Ok((self.encode(&codes, &scales), error))
    }

    /// An error if a row is not made of whole blocks.
    ///
    /// # Errors
    /// [`BlockTypeError::Row`].
    pub fn check_row(self, columns: usize) -> Result<(), BlockTypeError> {
        let block = self.weights();
        match columns.is_multiple_of(block) {
            true => Ok(()),
            false => Err(BlockTypeError::Row {
                of: self,
                columns,
                block,
            }),
        }
    }

    /// The bytes of whole blocks, from the outputs of
    /// [`solve_blocks`] for [`format`](Self::format), whose scales the type can store.
    ///
    /// # Panics
    /// If the codes are not whole blocks with their scales, or a code has no value.
    pub fn encode(self, codes: &[u8], scales: &[f32]) -> Vec<u8> {
        let count = codes.len() / self.weights();
        assert_eq!(
            (codes.len(), scales.len()),
            (count * self.weights(), count * self.scales())
        );
        let values = self.format().codebook().values().len();
        assert!(codes.iter().all(|code| usize::from(*code) < values));
        let mut bytes = vec![0; count * self.bytes()];
        let parts = codes
            .chunks_exact(self.weights())
            .zip(scales.chunks_exact(self.scales()));
        for (block, (codes, scales)) in bytes.chunks_exact_mut(self.bytes()).zip(parts) {
            self.put_scales(scales, block);
            let block = &mut block[self.codes_start()..];
            if self == Self::Tq1_0 {
                put_trits(codes, block);
                continue;
            }
            for (index, code) in codes.iter().enumerate() {
                let (byte, shift) = self.place(index);
                block[byte] |= self.stored(*code) << shift;
            }
        }
        bytes
    }

    /// The weights of whole blocks: `scale · value`, rounded once to f32.
    ///
    /// # Errors
    /// [`BlockTypeError::Bytes`] if they are not whole blocks.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<f32>, BlockTypeError> {
        if !bytes.len().is_multiple_of(self.bytes()) {
            return Err(BlockTypeError::Bytes {
                of: self,
                found: bytes.len(),
                block: self.bytes(),
            });
        }
        let mut weights = Vec::with_capacity(bytes.len() / self.bytes() * self.weights());
        self.decode_to(bytes.chunks_exact(self.bytes()), &mut weights);
        Ok(weights)
    }

    /// Appends the weights of blocks.
    pub(super) fn decode_to(self, blocks: ChunksExact<'_, u8>, weights: &mut Vec<f32>) {
        let format = self.format();
        let values = &format.codebook().values()[..];
        for block in blocks {
            let scales: Vec<f32> = (0..self.scales())
                .map(|index| self.scale(block, index))
                .collect();
            let block = &block[self.codes_start()..];
            for index in 0..self.weights() {
                let value = match self {
                    Self::Tq1_0 => values[usize::from(trit(block, index))],
                    _ => {
                        let (byte, shift) = self.place(index);
                        self.value(values, block[byte] >> shift)
                    }
                };
                weights.push(scales[index / format.length()] * value);
            }
        }
    }

    /// Where the codes begin: after the scales, except in TQ1_0 and TQ2_0.
    fn codes_start(self) -> usize {
        match self {
            Self::Tq1_0 | Self::Tq2_0 => 0,
            Self::Q1_0 | Self::Q2_0 | Self::Q4_0 | Self::Iq4Nl => 2,
            Self::Mxfp4 => 1,
            Self::Nvfp4 => 4,
        }
    }

    /// The byte and the lowest bit of a code.
    fn place(self, index: usize) -> (usize, usize) {
        match self {
            Self::Q1_0 => (index / 8, index % 8),
            Self::Q2_0 => (index / 4, 2 * (index % 4)),
            // Four quarters of 128 weights share 32 bytes.
            Self::Tq1_0 | Self::Tq2_0 => (index / 128 * 32 + index % 32, 2 * (index % 128 / 32)),
            // Two halves share their bytes.
            Self::Q4_0 | Self::Iq4Nl | Self::Mxfp4 => (index % 16, index / 16 * 4),
            Self::Nvfp4 => (index / 16 * 8 + index % 8, index % 16 / 8 * 4),
        }
    }

    /// The bits of a code: those of the float E2M1 where the values are, or else the code.
    fn stored(self, code: u8) -> u8 {
        match (self, code) {
            (Self::Mxfp4 | Self::Nvfp4, 0..7) => 8 | (7 - code),
            (Self::Mxfp4 | Self::Nvfp4, _) => code - 7,
            _ => code,
        }
    }

    /// The value of a code in the lowest bits.
    fn value(self, values: &[f32], bits: u8) -> f32 {
        let code = match self {
            Self::Q1_0 => bits & 1,
            Self::Q2_0 => bits & 3,
            // 3 is no code of a writer; llama.cpp reads it as 2.
            Self::Tq1_0 | Self::Tq2_0 if bits & 3 == 3 => return 2.0,
            Self::Tq1_0 | Self::Tq2_0 => bits & 3,
            Self::Q4_0 | Self::Iq4Nl => bits & 15,
            Self::Mxfp4 | Self::Nvfp4 if bits & 8 == 0 => 7 + (bits & 7),
            Self::Mxfp4 | Self::Nvfp4 => 7 - (bits & 7),
        };
        let value = values[usize::from(code)];
        // Its scale is read as half of what it is.
        if self == Self::Mxfp4 {
            2.0 * value
        } else {
            value
        }
    }

    fn put_scales(self, scales: &[f32], block: &mut [u8]) {
        match self {
            Self::Mxfp4 => block[0] = e8m0(scales[0]),
            Self::Nvfp4 => {
                for (byte, scale) in block.iter_mut().zip(scales) {
                    *byte = e4m3(*scale);
                }
            }
            _ => {
                let start = self.half_start();
                block[start..start + 2].copy_from_slice(&f16::from_f32(scales[0]).to_le_bytes());
            }
        }
    }

    fn scale(self, block: &[u8], index: usize) -> f32 {
        match self {
            Self::Mxfp4 => half_of_e8m0(block[0]),
            Self::Nvfp4 => f32_of_e4m3(block[index]),
            _ => {
                let start = self.half_start();
                f16::from_le_bytes([block[start], block[start + 1]]).to_f32()
            }
        }
    }

    /// Where the scale in f16 is: first, except in TQ1_0 and TQ2_0.
    fn half_start(self) -> usize {
        match self {
            Self::Tq1_0 | Self::Tq2_0 => self.bytes() - 2,
            _ => 0,
        }
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.id())
    }
}

impl FromStr for BlockType {
    type Err = BlockTypeError;

    fn from_str(name: &str) -> Result<Self, BlockTypeError> {
        let named = |of: &BlockType| of.id().eq_ignore_ascii_case(name);
        let found = Self::ALL.into_iter().find(named);
        found.ok_or_else(|| BlockTypeError::Unknown { found: name.into() })
    }
}

/// The byte and the digit of a trit of TQ1_0; the first digit is the highest.
fn trit_place(index: usize) -> (usize, u32) {
    let run = TQ1_0_RUNS
        .iter()
        .rfind(|run| index >= run[2])
        .expect("the first begins at 0");
    let [first_byte, bytes, first] = *run;
    let within = index - first;
    (first_byte + within % bytes, (within / bytes) as u32)
}

/// Five trits v a byte, or four with a fifth of zero, as `⌈v · 256 / 243⌉`: the whole part of each
/// third of the byte is a trit.
fn put_trits(codes: &[u8], block: &mut [u8]) {
    let mut numbers = [0u16; 52];
    for (index, code) in codes.iter().enumerate() {
        let (byte, digit) = trit_place(index);
        numbers[byte] += u16::from(*code) * 3u16.pow(4 - digit);
    }
    for (byte, number) in block.iter_mut().zip(numbers) {
        *byte = (number * 256).div_ceil(243) as u8;
    }
}

fn trit(block: &[u8], index: usize) -> u8 {
    let (byte, digit) = trit_place(index);
    let shifted = block[byte].wrapping_mul(3u8.pow(digit));
    ((u16::from(shifted) * 3) >> 8) as u8
}

/// The exponent of a power of two from 2⁻¹²⁷ to 2¹²⁷, plus 127.
fn e8m0(scale: f32) -> u8 {
    (scale.to_bits() >> 23) as u8
}

/// Half of the power of two, as llama.cpp reads it: 255, which is no number, is read as 2¹²⁸.
fn half_of_e8m0(byte: u8) -> f32 {
    match byte {
        0 | 1 => f32::from_bits((1 << 21) << byte),
        _ => f32::from_bits((u32::from(byte) - 1) << 23),
    }
}

/// E4M3 without sign of a number that it has.
fn e4m3(scale: f32) -> u8 {
    let subnormal = scale * 512.0;
    match subnormal < 8.0 {
        true => subnormal as u8,
        false => ((scale.to_bits() >> 20) - ((127 - 7) << 3)) as u8,
    }
}

/// 0x7F, which is no number, is read as 0.
fn f32_of_e4m3(byte: u8) -> f32 {
    match (byte, byte & 0x7f) {
        (0x7f, _) => 0.0,
        (_, byte @ ..8) => f32::from(byte) / 512.0,
        (_, byte) => f32::from_bits((u32::from(byte) + ((127 - 7) << 3)) << 20),
    }
}
