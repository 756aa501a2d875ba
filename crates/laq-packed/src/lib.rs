#![cfg_attr(feature = "std", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "std"),
    doc = "Weights of one to four bits without the standard library: codes, their file in memory, and products.",
    no_std
)]
#![deny(unsafe_code)]
// Some functions serve files and exports alone; the build with `std` finds dead code.
#![cfg_attr(not(feature = "std"), allow(dead_code))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod axis;
mod code_table;
mod codes;
mod dense;
mod float;
mod int8;
mod integer_table;
mod integers;
#[allow(unsafe_code)] // Intrinsics, and the product of matrixmultiply.
mod kernels;
mod matrix;
mod pack_error;
mod packed_bytes;
mod packed_format;
mod steps;
mod tensor;
#[cfg_attr(not(feature = "std"), path = "one_thread.rs")]
mod threads;

pub use code_table::CodeTable;
pub use codes::{CodeBits, Packing};
pub use dense::{Activations, DenseMatrix, Matrix};
pub use matrix::{DENSE_DEPTH, PackedMatrix};
pub use pack_error::PackError;
pub use packed_bytes::PackedBytes;
pub use packed_format::{PACKED_FORMAT_KEY, PACKED_FORMAT_VERSION, PackedFormatError, Tensor};
pub use steps::Steps;
pub use tensor::PackedTensor;

#[cfg(feature = "std")]
mod channels;
#[cfg(feature = "std")]
mod compressed_tensors;
#[cfg(feature = "std")]
mod error;
#[cfg(feature = "std")]
pub mod files;
#[cfg(feature = "std")]
pub mod gguf;
#[cfg(feature = "std")]
mod inspect;
#[cfg(feature = "std")]
mod interrupt;
#[cfg(feature = "std")]
mod memory;
#[cfg(feature = "std")]
mod model_files;
#[cfg(feature = "std")]
pub mod network;
#[cfg(feature = "std")]
mod npz;
#[cfg(feature = "std")]
pub mod onnx;
#[cfg(feature = "std")]
mod packed_file;
#[cfg(feature = "std")]
mod plan;
#[cfg(feature = "std")]
mod record;
#[cfg(feature = "std")]
mod request;
#[cfg(feature = "std")]
mod run;
#[cfg(feature = "std")]
mod selection;
#[cfg(feature = "std")]
mod stored;
#[cfg(feature = "std")]
mod tensor_file;
#[cfg(feature = "std")]
mod tensor_header;
#[cfg(feature = "std")]
mod thread_pool;

pub use laq_solvers::Granularity;

#[cfg(feature = "std")]
pub use {
    channels::LostChannels,
    compressed_tensors::write_compressed_tensors,
    error::{OutError, QuantizeError, TensorShortage},
    inspect::{FileSummary, InspectError, Level, Quantization, TensorSummary, inspect},
    memory::{
        AvailableMemory, MemoryShortage, available_memory, check_program_memory, memory_for_data,
    },
    model_files::ModelIndexError,
    network::{Network, NetworkError},
    npz::to_npz,
    packed_file::{PackedFile, PackedFileError},
    plan::Plan,
    record::{Scales, TensorRecord, Totals},
    request::{Request, check_out, method},
    selection::SelectionError,
    stored::{StoredTensor, StoredTensors},
    tensor_file::TensorFileError,
    thread_pool::{MAX_THREADS, ThreadsError, default_threads, thread_pool},
};
