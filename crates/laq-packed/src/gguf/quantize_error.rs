//! The errors of quantizing a GGUF file.

use std::path::PathBuf;

use thiserror::Error;

use super::{BlockTypeError, ElementType, GgufError, ImportanceError, TargetType};
use crate::files::FileError;
use crate::selection::only;
use crate::tensor_file::TensorFileError;
use crate::{OutError, SelectionError, TensorShortage, ThreadsError};

/// The errors of quantizing a GGUF file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufQuantizeError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The importance matrix cannot be read.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
    /// The curvature cannot be read.
    #[error(transparent)]
    Curvature(#[from] TensorFileError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The output would replace an input, or is no file.
    #[error(transparent)]
    Out(#[from] OutError),
    /// The globs select no valid set of tensors.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// Nothing but tensors that are quantized already, and they are not asked for.
    #[error(
        "{path} has no tensor in F32, F16 or BF16 to quantize; quantized already: {name}{}; take the model as it was before, \
         or decode and quantize it again with --requantize, which adds to its error",
        and_more(*.others)
    )]
    Quantized {
        /// The file.
        path: PathBuf,
        /// The first tensor.
        name: String,
        /// How many others there are.
        others: usize,
    },
    /// All matrices have the type already.
    #[error("the matrices of {path} are {of} already: there is nothing to quantize")]
    HasType {
        /// The file.
        path: PathBuf,
        /// The type.
        of: TargetType,
    },
    /// A tensor that is selected by name has elements that are not read.
    #[error(
        "{name} has elements of type {element}, expected floats or blocks of weights: copy it with {}",
        only("--exclude", .name)
    )]
    Element {
        /// The tensor.
        name: String,
        /// Its type.
        element: ElementType,
    },
    /// The rows of a tensor are not whole blocks.
    #[error(
        "{name} cannot be quantized to {of}: a row has {columns} weights, and {of} stores whole blocks of {}: expected a \
         multiple of it; {}copy it with {}",
        .of.element().weights, fitting(*.columns), only("--exclude", .name)
    )]
    Rows {
        /// The tensor.
        name: String,
        /// The type.
        of: TargetType,
        /// The length of a row.
        columns: usize,
    },
    /// The curvature lacks a tensor, or the importance matrix all of them.
    #[error(
        "{path} has nothing for {name}{}: is it of another model? It has {}; copy the tensor with --exclude, or quantize \
         without this file",
        and_more(*.others), .names.join(", ")
    )]
    Missing {
        /// The file of the curvature.
        path: PathBuf,
        /// The first tensor.
        name: String,
        /// How many others are missing.
        others: usize,
        /// Some names that it has.
        names: Vec<String>,
    },
    /// The curvature has another size.
    #[error("{path} has {found} for {name}, expected {expected}: it is of another model")]
    Size {
        /// The file of the curvature.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A weight or curvature is not a finite number.
    #[error("row {row}, column {column} of {name} in {path} is {value}, expected {expected}")]
    Number {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
        /// The place.
        row: usize,
        /// The place.
        column: usize,
        /// The value.
        value: f32,
        /// What was expected.
        expected: &'static str,
    },
    /// The solver failed.
    #[error("{name} cannot be quantized: {source}")]
    Solve {
        /// The tensor.
        name: String,
        /// The error.
        source: BlockTypeError,
    },
    /// Too little memory for a tensor.
    #[error(transparent)]
    Memory(#[from] TensorShortage),
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// Stopped by the caller.
    #[error("interrupted; {out} is unchanged")]
    Interrupted {
        /// The output.
        out: PathBuf,
    },
}

/// The types that rows of this length fit.
fn fitting(columns: usize) -> String {
    let fits = |of: &TargetType| columns.is_multiple_of(of.element().weights);
    let names: Vec<&str> = TargetType::ALL
        .into_iter()
        .filter(fits)
        .map(TargetType::id)
        .collect();
    format!("give it --type '…={}', or ", names.join("|"))
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        _ => format!(" and {others} others"),
    }
}
