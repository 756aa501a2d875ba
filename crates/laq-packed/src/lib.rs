#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

extern crate alloc;

mod codes;
mod compressed_tensors;
mod dense;
mod error;
pub mod files;
mod float;
mod inspect;
mod int8;
mod integers;
#[allow(unsafe_code)] // Intrinsics, and the product of matrixmultiply.
mod kernels;
mod matrix;
pub mod network;
mod npz;
pub mod onnx;
mod packed_bytes;
mod packed_file;
mod packed_format;
mod plan;
mod record;
mod request;
mod run;
mod selection;
mod tensor;
mod tensor_file;

pub use codes::{CodeBits, PackError, Packing};
pub use compressed_tensors::write_compressed_tensors;
pub use dense::{Activations, DenseMatrix, Matrix};
pub use error::QuantizeError;
pub use inspect::{FileSummary, InspectError, Level, Quantization, TensorSummary, inspect};
pub use matrix::{CodeTable, DENSE_DEPTH, PackedMatrix};
pub use network::{Network, NetworkError};
pub use npz::to_npz;
pub use packed_bytes::PackedBytes;
pub use packed_file::{PackedFile, PackedFileError};
pub use packed_format::{PACKED_FORMAT_KEY, PACKED_FORMAT_VERSION, PackedFormatError, Tensor};
pub use plan::Plan;
pub use record::{Scales, TensorRecord, Totals};
pub use request::{Granularity, Request, method};
pub use selection::SelectionError;
pub use tensor::PackedTensor;
pub use tensor_file::TensorFileError;
