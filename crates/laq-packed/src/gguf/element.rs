//! The element types of a GGUF file.

use std::fmt;

use super::BlockType;
use crate::float::Float;

/// An element type: its number in a file, its name, and the weights and bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementType {
    /// The number in a file.
    pub number: u32,
    /// The name, such as `Q4_0`.
    pub name: &'static str,
    /// The weights of a block; 1 for types without blocks.
    pub weights: usize,
    /// The bytes of a block.
    pub bytes: usize,
}

const fn element(number: u32, name: &'static str, weights: usize, bytes: usize) -> ElementType {
    ElementType {
        number,
        name,
        weights,
        bytes,
    }
}

/// The types of llama.cpp's `ggml.h`, without those that were removed.
const ELEMENT_TYPES: [ElementType; 35] = [
    element(0, "F32", 1, 4),
    element(1, "F16", 1, 2),
    element(2, "Q4_0", 32, 18),
    element(3, "Q4_1", 32, 20),
    element(6, "Q5_0", 32, 22),
    element(7, "Q5_1", 32, 24),
    element(8, "Q8_0", 32, 34),
    element(9, "Q8_1", 32, 36),
    element(10, "Q2_K", 256, 84),
    element(11, "Q3_K", 256, 110),
    element(12, "Q4_K", 256, 144),
    element(13, "Q5_K", 256, 176),
    element(14, "Q6_K", 256, 210),
    element(15, "Q8_K", 256, 292),
    element(16, "IQ2_XXS", 256, 66),
    element(17, "IQ2_XS", 256, 74),
    element(18, "IQ3_XXS", 256, 98),
    element(19, "IQ1_S", 256, 50),
    element(20, "IQ4_NL", 32, 18),
    element(21, "IQ3_S", 256, 110),
    element(22, "IQ2_S", 256, 82),
    element(23, "IQ4_XS", 256, 136),
    element(24, "I8", 1, 1),
    element(25, "I16", 1, 2),
    element(26, "I32", 1, 4),
    element(27, "I64", 1, 8),
    element(28, "F64", 1, 8),
    element(29, "IQ1_M", 256, 56),
    element(30, "BF16", 1, 2),
    element(34, "TQ1_0", 256, 54),
    element(35, "TQ2_0", 256, 66),
    element(39, "MXFP4", 32, 17),
    element(40, "NVFP4", 64, 36),
    element(41, "Q1_0", 128, 18),
    element(42, "Q2_0", 64, 18),
];

impl ElementType {
    /// The type with this number; `None` if it is unknown.
    pub fn of_number(number: u32) -> Option<Self> {
        Self::all().find(|element| element.number == number)
    }

    /// The type with this name, such as `Q4_0`; `None` if it is unknown.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|element| element.name.eq_ignore_ascii_case(name))
    }

    /// Every type.
    pub fn all() -> impl Iterator<Item = Self> {
        ELEMENT_TYPES.into_iter()
    }

    /// The type of blocks.
    pub fn of_blocks(of: BlockType) -> Self {
        Self::of_number(of.number()).expect("the table has all block types")
    }

    /// The float, if the type is one in which weights are stored.
    pub(super) fn float(self) -> Option<Float> {
        match self.name {
            "F32" => Some(Float::F32),
            "F16" => Some(Float::F16),
            "BF16" => Some(Float::Bf16),
            _ => None,
        }
    }

    /// Bits of an element with its share of what a block has besides.
    pub fn bits(self) -> f64 {
        8.0 * self.bytes as f64 / self.weights as f64
    }

    /// The bytes of rows of `columns` elements; `None` if a row is not whole blocks, or if they overflow.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let blocks = columns
            .is_multiple_of(self.weights)
            .then(|| columns / self.weights);
        blocks?.checked_mul(self.bytes)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_types_have_their_sizes() {
        for of in BlockType::ALL {
            let element = ElementType::of_blocks(of);
            assert_eq!((element.weights, element.bytes), (of.weights(), of.bytes()));
            assert!(element.name.eq_ignore_ascii_case(of.id()));
        }
        assert_eq!(ElementType::of_number(4), None);
    }
}
