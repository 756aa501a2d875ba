//! Weights of every element type that the Python package gguf reads, with its operations in its order, so that the bits
//! are the same.

mod grids;
mod iq;
mod k;
mod of_32;

use half::f16;
use thiserror::Error;

use super::{BlockType, ElementType};
use crate::float::Float;

/// An error of decoding elements.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The type is not read.
    #[error("found elements of type {of}, expected one of {}", list_of_names())]
    Unread {
        /// The type.
        of: ElementType,
    },
    /// The bytes are not whole blocks.
    #[error("found {found} bytes, expected whole blocks of {} in {of}", of.bytes)]
    Bytes {
        /// The type.
        of: ElementType,
        /// The number of bytes.
        found: usize,
    },
}

fn list_of_names() -> String {
    let names = ElementType::all().filter(|element| element.is_read());
    names
        .map(|element| element.name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// How a type is decoded.
enum Decoder {
    Float(Float),
    Blocks(BlockType),
    /// Appends the weights of a block.
    Block(fn(&[u8], &mut Vec<f32>)),
}

impl Decoder {
    fn of(element: ElementType) -> Option<Self> {
        if let Some(float) = element.float() {
            return Some(Self::Float(float));
        }
        if let Ok(of) = element.name.parse() {
            return Some(Self::Blocks(of));
        }
        Some(Self::Block(match element.name {
            "Q4_1" => of_32::q4_1,
            "Q5_0" => of_32::q5_0,
            "Q5_1" => of_32::q5_1,
            "Q8_0" => of_32::q8_0,
            "Q2_K" => k::q2_k,
            "Q3_K" => k::q3_k,
            "Q4_K" => k::q4_k,
            "Q5_K" => k::q5_k,
            "Q6_K" => k::q6_k,
            "IQ1_S" => iq::iq1_s,
            "IQ1_M" => iq::iq1_m,
            "IQ2_XXS" => iq::iq2_xxs,
            "IQ2_XS" => iq::iq2_xs,
            "IQ2_S" => iq::iq2_s,
            "IQ3_XXS" => iq::iq3_xxs,
            "IQ3_S" => iq::iq3_s,
            "IQ4_XS" => iq::iq4_xs,
            _ => return None,
        }))
    }
}

impl ElementType {
    /// Whether [`decode`](Self::decode) reads the type: all floats and blocks of weights, but no integers, no F64, and
    /// neither Q8_1 nor Q8_K, which are types of activations.
    pub fn is_read(self) -> bool {
        Decoder::of(self).is_some()
    }

    /// Whether it is a type of blocks that [`decode`](Self::decode) reads.
    pub fn is_quantized(self) -> bool {
        self.is_read() && self.float().is_none()
    }

    /// The weights of whole blocks, with the bits of the function `gguf.quants.dequantize` of the Python package gguf 0.19
    /// where they are numbers. Q1_0 and Q2_0, which it does not read, are [`BlockType::decode`].
    ///
    /// ```
    /// use laq_packed::gguf::ElementType;
    ///
    /// let q8_0 = ElementType::named("Q8_0").expect("a type");
    /// let block: Vec<u8> = [0x00, 0x3c].into_iter().chain(0..32).collect(); // the scale 1, and 32 integers
    /// let weights = q8_0.decode(&block)?;
    /// assert_eq!((weights.len(), weights[31]), (32, 31.0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DecodeError::Unread`] if the type is not read, [`DecodeError::Bytes`] if the bytes are not whole blocks.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<f32>, DecodeError> {
        let mut weights = Vec::new();
        self.decode_to(bytes, &mut weights)?;
        Ok(weights)
    }

    /// Appends the weights of whole blocks.
    pub(super) fn decode_to(self, bytes: &[u8], weights: &mut Vec<f32>) -> Result<(), DecodeError> {
        let decoder = Decoder::of(self).ok_or(DecodeError::Unread { of: self })?;
        if !bytes.len().is_multiple_of(self.bytes) {
            let found = bytes.len();
            return Err(DecodeError::Bytes { of: self, found });
        }
        let blocks = bytes.chunks_exact(self.bytes);
        weights.reserve_exact(blocks.len() * self.weights);
        match decoder {
            Decoder::Float(float) => float.decode(bytes, weights),
            Decoder::Blocks(of) => of.decode_to(blocks, weights),
            Decoder::Block(decode) => blocks.for_each(|block| decode(block, weights)),
        }
        Ok(())
    }
}

/// The number in f16 at a byte.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The byte and the lowest bit of code `index` of `BITS` bits: each run of `RUN` bytes has codes in its lowest bits, the
/// following ones in the next bits, and so on.
pub(super) fn place<const BITS: usize, const RUN: usize>(index: usize) -> (usize, usize) {
    let parts = 8 / BITS;
    let byte = index / (RUN * parts) * RUN + index % RUN;
    (byte, index / RUN % parts * BITS)
}

/// The code at its [`place`].
fn code<const BITS: usize, const RUN: usize>(bytes: &[u8], index: usize) -> u8 {
    let (byte, shift) = place::<BITS, RUN>(index);
    bytes[byte] >> shift & ((1 << BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the package gguf reads, Q1_0 and Q2_0.
    #[test]
    fn types_of_weights_are_read() {
        let unread = ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"];
        for element in ElementType::all() {
            assert_eq!(element.is_read(), !unread.contains(&element.name));
            let mut weights = Vec::new();
            let two = vec![0; 2 * element.bytes];
            match element.decode_to(&two, &mut weights) {
                Ok(()) => assert_eq!(weights, vec![0.0; 2 * element.weights], "{element}"),
                Err(error) => assert_eq!(error, DecodeError::Unread { of: element }),
            }
            if element.is_read() && element.bytes > 1 {
                let found = element.bytes + 1;
                let error = element.decode(&vec![0; found]);
                assert_eq!(error, Err(DecodeError::Bytes { of: element, found }));
            }
        }
    }
}
