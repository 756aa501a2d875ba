//! The contract between a network and the device that computes it.
//!
//! One trait for each subject; [`Backend`] is all of them. The calls have the granularity of a
//! layer's kernel, not of an array library, so that a backend is free to fuse: a whole sequence of
//! the LSTM is one call. Forward and backward are explicit; there is no tape. Which parameters
//! exist and in which order they are used is decided in `laq-models`; what a method does with a
//! weight is decided in `laq-solvers`.
//!
//! # Contract of every call
//!
//! - Buffers are dense and row-major.
//! - An operand of the wrong size is a bug in the caller and panics: sizes come from `laq-models`,
//!   never from a file. So does an index buffer whose [bound](Memory::indices) exceeds the number
//!   of rows, classes or tokens that it indexes.
//! - A call may return before the device has executed it. Calls execute in the order of submission.
//!   What the host learns from a step passes through its [`StepLog`](Steps::StepLog).
//! - Every call may return [`BackendError::Device`] when the device fails, now or in an earlier
//!   call. Calls that allocate may return [`BackendError::DeviceMemory`].

mod convolution;
mod dense;
mod gather;
mod losses;
mod lstm;
mod memory;
mod norm;
mod optimizer;
mod pool;
mod quantize;
mod steps;

use laq_solvers::SolveError;

pub use convolution::{Convolution, ConvolutionShape};
pub use dense::{Dense, DenseShape};
pub use gather::Gather;
pub use losses::{Loss, Losses};
pub use lstm::{GateBlock, Lstm, LstmGradients, LstmParameters, LstmShape};
pub use memory::{Element, Index, Memory, Tensor, check_indices};
pub use norm::{Norm, NormShape};
pub use optimizer::{AdamSettings, LARGEST_GRADIENT, Optimizer, UpdateJob};
pub use pool::{Pool, PoolShape};
pub use quantize::{GroupReport, Quantize, QuantizeJob, QuantizerSnapshot};
pub use steps::{STEP_LOG_CAPACITY, StepStatus, Steps, Stop};

/// A device that stores buffers and computes layers on them.
pub trait Backend:
    Memory + Steps + Gather + Dense + Lstm + Convolution + Pool + Norm + Losses + Optimizer + Quantize
{
}

impl<B> Backend for B where
    B: Memory
        + Steps
        + Gather
        + Dense
        + Lstm
        + Convolution
        + Pool
        + Norm
        + Losses
        + Optimizer
        + Quantize
{
}

/// An error of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// `LAQ_KERNEL` names an instruction set that this processor does not have.
    #[error(transparent)]
    Isa(#[from] laq_simd::UnknownIsa),
    /// A solver rejected a group of weights.
    #[error("parameter {parameter}, group {group}: {source}")]
    Solve {
        /// Index of the parameter among those quantized by the call.
        parameter: usize,
        /// Index of the group of rows within the parameter.
        group: usize,
        /// The solver's error.
        source: SolveError,
    },
    /// An index is not below the bound of its buffer.
    #[error("index {value} at position {position} is out of range: expected 0 to {}", bound - 1)]
    IndexOutOfRange {
        /// Position of the first such index in the uploaded slice.
        position: usize,
        /// The index.
        value: usize,
        /// The bound of the buffer.
        bound: usize,
    },
    /// A device failed or cannot be used.
    #[error("{device}: {what}")]
    Device {
        /// The device.
        device: String,
        /// The failure and its remedy.
        what: String,
    },
    /// An allocation failed.
    #[error(
        "{device} is out of memory: {} MB requested, {} MB of {} MB free; use a smaller batch or \
         network, or stop other processes on the device",
        requested / 1_000_000, free / 1_000_000, total / 1_000_000
    )]
    DeviceMemory {
        /// The device.
        device: String,
        /// Bytes requested.
        requested: u64,
        /// Bytes free.
        free: u64,
        /// Bytes in total.
        total: u64,
    },
    /// A stored quantizer state does not match the parameter that it is loaded into.
    #[error("the stored quantizer state does not fit: {0}")]
    StateMismatch(String),
}
