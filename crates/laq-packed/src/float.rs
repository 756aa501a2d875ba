//! Element types of weights in full precision.

use alloc::vec::Vec;

use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// Element types of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Appends the values of whole elements; f32 represents them exactly.
    pub(crate) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F32 => {
                let elements = bytes.as_chunks().0.iter();
                values.extend(elements.map(|bytes| f32::from_le_bytes(*bytes)));
            }
            Self::F16 => {
                let elements = bytes.as_chunks().0.iter();
                values.extend(elements.map(|bytes| f16::from_le_bytes(*bytes).to_f32()));
            }
            Self::Bf16 => {
                let elements = bytes.as_chunks().0.iter();
                values.extend(elements.map(|bytes| bf16::from_le_bytes(*bytes).to_f32()));
            }
        }
    }

    /// Appends the values rounded to nearest, ties to even. Finite values beyond the largest finite
    /// element saturate.
    pub(crate) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        let saturate = |value: f32, max: f32| value.clamp(-max, max);
        match self {
            Self::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|&value| {
                f16::from_f32(saturate(value, f16::MAX.to_f32())).to_le_bytes()
            })),
            Self::Bf16 => bytes.extend(values.iter().flat_map(|&value| {
                bf16::from_f32(saturate(value, bf16::MAX.to_f32())).to_le_bytes()
            })),
        }
    }
}
