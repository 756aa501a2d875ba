//! The types that tensors are stored in: blocks and super-blocks that are solved for, and types to which weights are
//! rounded.

use std::fmt;
use std::str::FromStr;

use half::f16;
use laq_solvers::Problem;
use thiserror::Error;

use super::{BlockType, BlockTypeError, ElementType, SuperBlockType};

/// The number of types with one level of scales.
const BLOCKS: usize = BlockType::ALL.len();

/// The number of types that are solved for.
const SOLVED: usize = BLOCKS + SuperBlockType::ALL.len();

/// The weights that are decoded at a time; whole blocks of every type.
const DECODED: usize = 1 << 12;

/// An error of a [`TargetType`].
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum TargetTypeError {
    /// The name is unknown.
    #[error("unknown type `{found}`, expected one of {}", list_of_ids())]
    Unknown {
        /// The name.
        found: String,
    },
}

fn list_of_ids() -> String {
    TargetType::ALL.map(TargetType::id).join(", ")
}

/// A type that a tensor of a GGUF file is stored in.
///
/// | type | weights | bytes | ŵ |
/// |---|---|---|---|
/// | those of [`BlockType`] | | | the optimum of `½ Σ d (w − ŵ)²` |
/// | those of [`SuperBlockType`] | 256 | | the least found of the same |
/// | `q8_0` | 32 | 34 | `s · round(w / s)`, `s = max \|w\| / 127` |
/// | `f16`, `bf16`, `f32` | 1 | 2, 2, 4 | the nearest float |
///
/// The last two rows round each weight, whatever its curvature d is. Floats are rounded to nearest, ties to even. The integers
/// of `q8_0` are rounded with s in f32, ties away from zero, and then s to f16: the bytes of llama.cpp and of
/// `gguf.quants.quantize` of the Python package gguf, which are not the optimum. Beyond the largest float, or scale of
/// `q8_0`, of the type a finite weight becomes the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetType {
    /// Blocks that are solved for.
    Blocks(BlockType),
    /// Super-blocks that are solved for.
    SuperBlocks(SuperBlockType),
    /// Integers of 8 bits with a scale in f16 for each 32.
    Q8_0,
    /// Half precision.
    F16,
    /// The higher half of f32.
    Bf16,
    /// Single precision.
    F32,
}

impl TargetType {
    /// Every type.
    pub const ALL: [Self; SOLVED + 4] = {
        let mut all = [Self::F32; SOLVED + 4];
        let mut index = 0;
        while index < BLOCKS {
            all[index] = Self::Blocks(BlockType::ALL[index]);
            index += 1;
        }
        while index < SOLVED {
            all[index] = Self::SuperBlocks(SuperBlockType::ALL[index - BLOCKS]);
            index += 1;
        }
        [all[SOLVED], all[SOLVED + 1], all[SOLVED + 2]] = [Self::Q8_0, Self::F16, Self::Bf16];
        all
    };

    /// The name, such as `q4_0`.
    pub fn id(self) -> &'static str {
        match self {
            Self::Blocks(of) => of.id(),
            Self::SuperBlocks(of) => of.id(),
            Self::Q8_0 => "q8_0",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// Whether the type is solved for, instead of rounding each weight.
    pub fn is_solved(self) -> bool {
        matches!(self, Self::Blocks(_) | Self::SuperBlocks(_))
    }

    /// The element type in a file.
    pub fn element(self) -> ElementType {
        ElementType::named(self.id()).expect("the table has all types")
    }

    /// Quantizes or rounds rows of `columns` weights. Returns the bytes, and `½ Σ d (w − ŵ)²`.
    ///
    /// ```
    /// use laq_packed::gguf::TargetType;
    /// use laq_solvers::Problem;
    ///
    /// let weights = [1.0, -0.5, 1e6];
    /// let (bytes, error) = TargetType::F16.quantize(Problem::new(&weights, None)?, 3)?;
    /// assert_eq!(bytes, [0x00, 0x3c, 0x00, 0xb8, 0xff, 0x7b]); // the last is 65504
    /// assert_eq!(error, 0.5 * (1e6f64 - 65504.0).powi(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`BlockType::quantize`]; [`BlockTypeError::Rounded`] if a row is not whole super-blocks, or
    /// blocks of `q8_0`.
    pub fn quantize(
        self,
        problem: Problem<'_>,
        columns: usize,
    ) -> Result<(Vec<u8>, f64), BlockTypeError> {
        match self {
            Self::Blocks(of) => return of.quantize(problem, columns),
            Self::SuperBlocks(of) => return of.quantize(problem, columns),
            _ => {}
        }
        let (element, weights) = (self.element(), problem.weights());
        if !columns.is_multiple_of(element.weights)
            || !weights.len().is_multiple_of(element.weights)
        {
            return Err(BlockTypeError::Rounded {
                of: element,
                columns,
            });
        }
        let mut bytes = Vec::with_capacity(weights.len() / element.weights * element.bytes);
        match element.float() {
            Some(float) => float.encode(weights, &mut bytes),
            None => encode_q8_0(weights, &mut bytes),
        }
        let error = sum_of_errors(problem, element, &bytes);
        Ok((bytes, 0.5 * error))
    }
}

impl From<BlockType> for TargetType {
    fn from(of: BlockType) -> Self {
        Self::Blocks(of)
    }
}

impl From<SuperBlockType> for TargetType {
    fn from(of: SuperBlockType) -> Self {
        Self::SuperBlocks(of)
    }
}

impl fmt::Display for TargetType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.id())
    }
}

impl FromStr for TargetType {
    type Err = TargetTypeError;

    fn from_str(name: &str) -> Result<Self, TargetTypeError> {
        let named = |of: &TargetType| of.id().eq_ignore_ascii_case(name);
        let found = Self::ALL.into_iter().find(named);
        found.ok_or_else(|| TargetTypeError::Unknown { found: name.into() })
    }
}

/// `Σ d (w − ŵ)²` of the weights stored in `bytes`.
fn sum_of_errors(problem: Problem<'_>, element: ElementType, bytes: &[u8]) -> f64 {
    let (mut sum, mut decoded) = (0.0, Vec::new());
    let mut weights = problem.weights().iter().enumerate();
    for bytes in bytes.chunks(DECODED / element.weights * element.bytes) {
        decoded.clear();
        let done = element.decode_to(bytes, &mut decoded);
        done.expect("whole blocks");
        for (v, (index, w)) in decoded.iter().zip(weights.by_ref()) {
            let d = problem
                .curvature()
                .map_or(1.0, |curvature| curvature[index]);
            sum += f64::from(d) * (f64::from(*w) - f64::from(*v)).powi(2);
        }
    }
    sum
}

/// Appends blocks of 32 weights: the scale, then integers.
fn encode_q8_0(weights: &[f32], bytes: &mut Vec<u8>) {
    for block in weights.chunks_exact(32) {
        let largest = block.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let mut scale = largest / 127.0;
        if f16::from_f32(scale).is_infinite() {
            scale = f16::MAX.to_f32();
        }
        // The scale is 0 in f16 where its inverse is beyond f32.
        let inverse = 1.0 / scale;
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        bytes.extend(f16::from_f32(scale).to_le_bytes());
        let integer = |w: &f32| (w * inverse).round().clamp(-127.0, 127.0) as i8;
        bytes.extend(block.iter().map(|w| integer(w) as u8));
    }
}
