//! What a file has of each tensor.

use std::collections::BTreeMap;

use crate::packed_format::Tensor;

/// A tensor as a format stores it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredTensor {
    /// Bits of a weight: 32 in full precision.
    pub bits: f64,
    /// Bytes of the weights, of their scales, and of what else the format has of the tensor.
    pub bytes: usize,
}

/// The tensors of a file, by name.
pub type StoredTensors = BTreeMap<String, StoredTensor>;

impl StoredTensor {
    /// As a file of packed weights has it.
    pub fn packed(tensor: &Tensor) -> Self {
        Self {
            bits: match tensor {
                Tensor::Packed(tensor) => tensor.packing().bits_per_code(),
                Tensor::F32 { .. } => 32.0,
            },
            bytes: tensor.bytes(),
        }
    }
}
