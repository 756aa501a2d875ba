//! Errors as Python's exceptions.

use std::fmt::Display;

use laq_packed::files::FileError;
use laq_packed::gguf::GgufError;
use laq_packed::{PackedFileError, TensorFileError};
use laq_solvers::SolveError;
use numpy::{AsSliceError, BorrowError};
use pyo3::PyErr;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyValueError};

/// A `ValueError` of one line.
pub(crate) fn value(error: impl Display) -> PyErr {
    let lines = error.to_string();
    let lines: Vec<&str> = lines.split_whitespace().collect();
    PyValueError::new_err(lines.join(" "))
}

/// A `MemoryError`.
pub(crate) fn memory(what: impl Display) -> PyErr {
    PyMemoryError::new_err(format!("there is no memory for {what}"))
}

/// For `map_err`: the array `name` is not contiguous.
pub(crate) fn slice(name: &'static str) -> impl FnOnce(AsSliceError) -> PyErr {
    move |_| value(format!("{name} is not contiguous"))
}

/// For `map_err`: the array `name` is in use, or read-only.
pub(crate) fn borrow(name: &'static str) -> impl FnOnce(BorrowError) -> PyErr {
    move |error| match error {
        BorrowError::NotWriteable => value(format!("{name} is read-only")),
        _ => value(format!(
            "{name} is in use by another call of laq, which reads or writes it"
        )),
    }
}

/// For `map_err`: an error of a solver after `what`, with the index of a weight in an array of `shape`, whose axis
/// `axis` was moved to the front.
pub(crate) fn solve(what: &str, shape: &[usize], axis: usize) -> impl Fn(SolveError) -> PyErr {
    let at = place(shape, axis);
    move |error| match error {
        SolveError::Weight { index, value: w } => value(format!(
            "{what}w[{}] is {w}, expected finite numbers",
            at(index)
        )),
        SolveError::Curvature { index, value: d } => value(format!(
            "{what}d[{}] is {d}, expected finite numbers that are not negative",
            at(index)
        )),
        SolveError::BlockLength { length } => value(format!(
            "{what}{length} weights share a scale, expected at most {} for values that are not symmetric around 0 within \
             -1 to 1; pass block=",
            laq_solvers::MAX_BLOCK
        )),
        error => value(format!("{what}{error}")),
    }
}

/// The indices of element `index` of an array.
fn place(shape: &[usize], axis: usize) -> impl Fn(usize) -> String {
    let shape = shape.to_vec();
    move |mut index| {
        let mut indices: Vec<usize> = Vec::new();
        for &length in shape.iter().rev() {
            indices.push(index % length.max(1));
            index /= length.max(1);
        }
        indices.reverse();
        if axis < indices.len() {
            let first = indices.remove(0);
            indices.insert(axis, first);
        }
        let indices: Vec<_> = indices.iter().map(usize::to_string).collect();
        indices.join(", ")
    }
}

/// An error of a file of packed weights: `OSError` or a subclass if the system has it.
pub(crate) fn file(error: PackedFileError) -> PyErr {
    match error {
        PackedFileError::TensorFile(TensorFileError::File(error)) => system(&error),
        error => value(error),
    }
}

/// An error of a GGUF file, likewise.
pub(crate) fn gguf(error: GgufError) -> PyErr {
    match error {
        GgufError::File(error) => system(&error),
        error => value(error),
    }
}

/// An error of the system.
pub(crate) fn system(error: &FileError) -> PyErr {
    match error.source.raw_os_error() {
        // With a number Python chooses the subclass, such as `FileNotFoundError`.
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}
