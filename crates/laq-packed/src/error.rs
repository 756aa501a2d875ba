//! Errors of quantizing a model.

use std::path::PathBuf;

use laq_solvers::{ParseMethodError, SolveError};
use thiserror::Error;

use crate::files::FileError;
use crate::memory::{MemoryShortage, check_memory};
use crate::pack_error::PackError;
use crate::selection::only;
use crate::{ModelIndexError, PackedFileError, SelectionError, TensorFileError, ThreadsError};

/// An output that cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutError {
    /// The output would replace an input.
    #[error("--out {out} is an input file: give another path")]
    IsInput {
        /// The file.
        out: PathBuf,
    },
    /// The output path exists and is not a file, or ends as that of a folder.
    #[error(
        "--out {out} is not a regular file, or ends as the path of a folder: give the path of a file"
    )]
    IsNoFile {
        /// The path.
        out: PathBuf,
    },
    /// The output folder is that of the model.
    #[error("--out {out} is the folder of the model: give another folder")]
    IsInputFolder {
        /// The folder.
        out: PathBuf,
    },
    /// The output of a model in shards exists and is not a folder.
    #[error("--out {out} is a file, and the model is in shards: give the path of a folder")]
    IsNoFolder {
        /// The path.
        out: PathBuf,
    },
    /// Nothing is known of the path.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Too little memory to quantize a tensor.
#[derive(Debug, Error)]
#[error(
    "{name} with {weights} weights {source}: quantize it on a machine with more, or copy it with {}",
    only("--exclude", .name)
)]
pub struct TensorShortage {
    /// The tensor.
    pub name: String,
    /// Its weights.
    pub weights: usize,
    /// The memory.
    pub source: MemoryShortage,
}

impl TensorShortage {
    /// Checks that the bytes can be taken that it takes to quantize a tensor with so many threads.
    pub(crate) fn check(
        name: &str,
        weights: usize,
        needed: u64,
        threads: usize,
    ) -> Result<(), Self> {
        check_memory(needed, threads).map_err(|source| Self {
            name: name.into(),
            weights,
            source,
        })
    }
}

/// An error of quantizing a model. Each message is one paragraph: what was found, where, and the
/// remedy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// Unknown method.
    #[error(transparent)]
    Method(#[from] ParseMethodError),
    /// Bits for a method without a choice of bits.
    #[error("{method} has a fixed number of bits: omit --bits {bits}")]
    NoBits {
        /// The method.
        method: String,
        /// The bits requested.
        bits: u8,
    },
    /// Contradicting numbers of bits.
    #[error("{method} has {own} bits but --bits is {bits}: omit one of them")]
    OtherBits {
        /// The method.
        method: String,
        /// Its bits.
        own: u8,
        /// The bits requested.
        bits: u8,
    },
    /// A method without quantization.
    #[error("{method} does not quantize: choose another method")]
    FullPrecision {
        /// The method.
        method: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not a valid safetensors file.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// The tensors of a file that are packed already do not match their descriptions.
    #[error(transparent)]
    Packed(#[from] PackedFileError),
    /// A folder has no model, or an index and its shards differ.
    #[error(transparent)]
    ModelIndex(#[from] ModelIndexError),
    /// The globs select no valid set of tensors.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The output would replace an input, or is no file.
    #[error(transparent)]
    Out(#[from] OutError),
    /// The input already has a tensor with the name of an output.
    #[error(
        "{path} already has a tensor {taken}, the name of an output of {name}: copy {name} with {} or rename one of them (was the \
         file written by `laq quantize`?)", only("--exclude", .name)
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// The tensor to be quantized.
        name: String,
        /// The existing tensor.
        taken: String,
    },
    /// The packing does not fit the codebook.
    #[error("{0}")]
    Packing(#[from] PackError),
    /// A tensor without dimensions has no rows.
    #[error(
        "{name} has no dimensions and therefore no rows: copy it with {}, or give its tensor one scale with \
         --granularity tensor", only("--exclude", .name)
    )]
    NoRows {
        /// The tensor.
        name: String,
    },
    /// The axis of the channels is not one of the tensor.
    #[error(
        "{name} has the shape {shape:?} and no axis {axis}, which --channel-axis gives for it: the first axis is 0"
    )]
    NoAxis {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The axis.
        axis: usize,
    },
    /// Missing curvature.
    #[error(
        "{path} has no curvature for {name}{}: expected a tensor of the same name and shape for each quantized tensor",
        and_more(*.others)
    )]
    NoCurvature {
        /// The curvature's file.
        path: PathBuf,
        /// The first missing tensor.
        name: String,
        /// Number of other missing tensors.
        others: usize,
    },
    /// Curvature of another shape or element type.
    #[error("{name} has {found} in {path}, expected {expected}")]
    OtherCurvature {
        /// The tensor.
        name: String,
        /// The curvature's file.
        path: PathBuf,
        /// Shape or element type found.
        found: String,
        /// Shape or element type expected.
        expected: String,
    },
    /// A weight or curvature that is not finite, or a negative curvature.
    #[error("{location} in {path} is {value}, expected {expected}")]
    Number {
        /// The tensor and the index.
        location: String,
        /// The file.
        path: PathBuf,
        /// The value found.
        value: f32,
        /// The values allowed.
        expected: &'static str,
    },
    /// Too little memory for a tensor.
    #[error(transparent)]
    Memory(#[from] TensorShortage),
    /// The solver failed.
    #[error("{name} cannot be quantized: {source}")]
    Solve {
        /// The tensor.
        name: String,
        /// The solver's error.
        source: SolveError,
    },
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// Stopped by the caller.
    #[error("interrupted: {out} is unchanged")]
    Interrupted {
        /// The file or folder that was not written.
        out: PathBuf,
    },
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        _ => format!(" and {others} more"),
    }
}
