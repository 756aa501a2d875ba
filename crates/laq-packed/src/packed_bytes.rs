//! The file of packed weights in memory.

use alloc::string::String;
use alloc::vec::Vec;

use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::dense::Matrix;
use crate::float::Float;
use crate::matrix::MAX_CODES;
use crate::packed_format::{Header, PackedFormatError, Stored, Tensor};

/// Bytes of the header length, which precedes the header.
const LENGTH_BYTES: usize = 8;

/// A file of packed weights in memory, such as one of `include_bytes!` in the flash of a small device,
/// or a mapped one; only its header is copied.
#[derive(Debug)]
pub struct PackedBytes<D> {
    bytes: D,
    /// Where the tensors begin.
    data_start: usize,
    header: Header,
}

impl<D: AsRef<[u8]>> PackedBytes<D> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`PackedFormatError`] if the bytes are no valid safetensors file, have no packed weights or a
    /// newer format, or if a tensor does not match its description.
    pub fn new(bytes: D) -> Result<Self, PackedFormatError> {
        let (length, tensors) =
            SafeTensors::read_metadata(bytes.as_ref()).map_err(PackedFormatError::Safetensors)?;
        Self::with_header(bytes, LENGTH_BYTES + length, tensors)
    }

    /// Of a file whose header was read: `tensors`, which end within `bytes`.
    pub(crate) fn with_header(
        bytes: D,
        data_start: usize,
        tensors: Metadata,
    ) -> Result<Self, PackedFormatError> {
        Ok(Self {
            bytes,
            data_start,
            header: Header::new(tensors)?,
        })
    }

    /// The entries of the metadata that do not describe tensors.
    pub fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        self.header.metadata()
    }

    /// The names of all tensors, packed or not, without those of codes and steps.
    pub fn names(&self) -> Vec<String> {
        self.header.names()
    }

    /// The shape of a tensor, packed or not; `None` if there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.shape(name)
    }

    /// Whether a tensor is packed.
    pub fn is_packed(&self, name: &str) -> bool {
        self.header.is_packed(name)
    }

    /// The header entry of a tensor, or of the dequantized copy of a packed one.
    #[cfg(feature = "std")]
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// Copies a tensor, packed or in full precision (F32, F16 or BF16).
    ///
    /// # Errors
    /// [`PackedFormatError`] if the tensor is missing or of another type, or its codes or steps are
    /// invalid.
    pub fn tensor(&self, name: &str) -> Result<Tensor, PackedFormatError> {
        match self.header.find(name)? {
            Stored::Full { info, float } => Ok(Tensor::F32 {
                shape: info.shape.clone(),
                values: self.floats(info, float),
            }),
            Stored::Packed {
                entry,
                codes,
                steps,
            } => {
                let (packed, steps) = (self.bytes(codes), self.floats(steps.0, steps.1));
                let tensor = entry.tensor(name, codes.shape[0], packed.to_vec(), steps)?;
                Ok(Tensor::Packed(tensor))
            }
        }
    }

    /// The matrix of a tensor: its first dimension by all others. Unlike [`Matrix::of`] this needs no
    /// copy of the codes.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn matrix(&self, name: &str) -> Result<Matrix, PackedFormatError> {
        match self.header.find(name)? {
            Stored::Packed {
                entry,
                codes,
                steps,
            } if entry.values.len() <= MAX_CODES && entry.has_rows() => {
                let steps = self.floats(steps.0, steps.1);
                let matrix = entry.matrix(name, codes.shape[0], self.bytes(codes), &steps)?;
                Ok(Matrix::Packed(matrix))
            }
            _ => Ok(Matrix::of(&self.tensor(name)?).expect("a tensor that was read")),
        }
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (start, end) = info.data_offsets;
        &self.bytes.as_ref()[self.data_start..][start..end]
    }

    fn floats(&self, info: &TensorInfo, float: Float) -> Vec<f32> {
        let mut values = Vec::new();
        float.decode(self.bytes(info), &mut values);
        values
    }
}
