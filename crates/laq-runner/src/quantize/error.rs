//! Everything that keeps a file from being quantized.

use std::path::PathBuf;

use laq_solvers::{ParseMethodError, SolveError};
use thiserror::Error;

use super::{SelectionError, TensorFileError};
use crate::files::FileError;

/// Why a file cannot be quantized. Each message is one paragraph: what, where, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// No such method.
    #[error(transparent)]
    Method(#[from] ParseMethodError),
    /// Bits for a method that has none.
    #[error("{method} has no number of bits to choose: leave --bits {bits} out")]
    NoBits {
        /// The method.
        method: String,
        /// What was asked for.
        bits: u8,
    },
    /// Bits twice, and different ones.
    #[error("{method} has {own} bits, and --bits asks for {bits}: leave one of them out")]
    OtherBits {
        /// The method.
        method: String,
        /// Its bits.
        own: u8,
        /// What was asked for.
        bits: u8,
    },
    /// A method that leaves weights as they are.
    #[error("{method} quantizes nothing: take another method of `laq methods`")]
    FullPrecision {
        /// The method.
        method: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not what it should be.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// The tensors cannot be picked.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The output would replace an input.
    #[error("--out {out} is the file that is read: give another")]
    OutIsInput {
        /// The file.
        out: PathBuf,
    },
    /// Something is in the output's place that is no file.
    #[error("--out {out} is there and is not a plain file: give the path of a file")]
    OutIsNoFile {
        /// What was given.
        out: PathBuf,
    },
    /// A name that is needed for levels or scales.
    #[error(
        "{path} already has {taken}, where the result of {name} would go: leave {name} out with --exclude, or rename one \
         of them (was the file written by `laq quantize`?)"
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// The tensor to be quantized.
        name: String,
        /// The one that is in the way.
        taken: String,
    },
    /// A tensor without a first dimension cannot be cut along it.
    #[error(
        "{name} has no dimension, and so no channels: leave it out with --exclude, or quantize per tensor"
    )]
    NoChannels {
        /// The tensor.
        name: String,
    },
    /// A quantized tensor without curvature.
    #[error(
        "{path} has no curvature for {name}{}: it must have a tensor of the same name and shape for every one that is \
         quantized",
        and_more(*.others)
    )]
    NoCurvature {
        /// The curvature's file.
        path: PathBuf,
        /// The first tensor that it lacks.
        name: String,
        /// How many others it lacks.
        others: usize,
    },
    /// Curvature that does not fit.
    #[error("{name} has {found} in {path}, expected {expected}")]
    OtherCurvature {
        /// The tensor.
        name: String,
        /// The curvature's file.
        path: PathBuf,
        /// Its shape or element type there.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A number that no problem can have.
    #[error("{place} in {path} is {value}, expected {expected}")]
    Number {
        /// The tensor and the index in it.
        place: String,
        /// The file.
        path: PathBuf,
        /// What stands there.
        value: f32,
        /// What could.
        expected: &'static str,
    },
    /// A tensor for which there is no memory.
    #[error("{name} does not fit in memory: it has {elements} elements")]
    Memory {
        /// The tensor.
        name: String,
        /// How many numbers it has.
        elements: usize,
    },
    /// A problem that cannot be solved.
    #[error("{name} cannot be quantized: {source}")]
    Solve {
        /// The tensor.
        name: String,
        /// Why not.
        source: SolveError,
    },
    /// Stopped from outside.
    #[error("interrupted: {out} is as it was")]
    Interrupted {
        /// The file that was not written.
        out: PathBuf,
    },
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        _ => format!(" and {others} more"),
    }
}
