//! Errors of the solvers.

use alloc::string::String;

/// An invalid problem, codebook or argument of a solver.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A weight is NaN or infinite.
    #[error(
        "weight {index} is {value}, expected a finite number; training has probably diverged: \
         go back to the last good checkpoint, or lower the learning rate"
    )]
    Weight {
        /// Index of the weight.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A curvature is NaN, infinite or negative.
    #[error(
        "curvature {index} is {value}, expected a finite number that is not negative; \
         pass the square root of Adam's second moment plus a small constant"
    )]
    Curvature {
        /// Index of the curvature.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// Weights and curvature differ in length.
    #[error(
        "there are {weights} weights and {curvature} curvatures; pass one curvature per weight, or none"
    )]
    CurvatureLength {
        /// Number of weights.
        weights: usize,
        /// Number of curvatures.
        curvature: usize,
    },
    /// Weights and levels differ in length.
    #[error("there are {weights} weights and {levels} levels; pass one level per weight")]
    LevelsLength {
        /// Number of weights.
        weights: usize,
        /// Number of levels.
        levels: usize,
    },
    /// The number of weights is not a multiple of the number of rows.
    #[error("{weights} weights do not form {rows} rows of equal length")]
    Rows {
        /// Number of weights.
        weights: usize,
        /// Number of rows.
        rows: usize,
    },
    /// A trained scale is NaN or infinite.
    #[error(
        "the trained scale is {value}, expected a finite number; training has probably diverged: \
         go back to the last good checkpoint, or lower the learning rate"
    )]
    Scale {
        /// Its value.
        value: f32,
    },
    /// A number of bits that no sized codebook has.
    #[error("a codebook of {bits} bits does not exist, expected 2 to 8 bits")]
    Bits {
        /// The number of bits.
        bits: u8,
    },
    /// Values that do not form a codebook.
    #[error(
        "invalid values of a codebook: {reason}; expected two or more numbers that rise, at most 128 below zero and \
         128 others, the largest magnitude within 2^-16 and 2^16"
    )]
    Values {
        /// The violated condition.
        reason: String,
    },
    /// A codebook of values that a solver for symmetric ones does not take.
    #[error("the values are a table, which only blocks have; use `solve_blocks`")]
    Table,
    /// A number of weights that no block has.
    #[error("a block of {length} weights is not possible, expected 1 to 65536 weights")]
    BlockLength {
        /// The number of weights.
        length: usize,
    },
    /// The number of weights is not a multiple of the number of columns.
    #[error("{weights} weights do not form rows of {columns} columns")]
    Columns {
        /// The number of weights.
        weights: usize,
        /// The number of columns.
        columns: usize,
    },
    /// The codes or scales of blocks have another length.
    #[error(
        "there are {found} {what}, expected {expected}: a code for each weight, a scale for each block of a row"
    )]
    BlockOutput {
        /// `codes` or `scales`.
        what: &'static str,
        /// Their expected number.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// The codes, factors or integers of super-blocks have another length.
    #[error(
        "there are {found} {what}, expected {expected}: a code for each weight, a pair of integers for each block and a \
         pair of factors for each super-block of a row"
    )]
    SuperBlockOutput {
        /// `codes`, `pairs of factors` or `pairs of integers`.
        what: &'static str,
        /// Their expected number.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// Magnitudes that do not form a codebook.
    #[error(
        "invalid magnitudes of a codebook: {reason}; expected up to 128 of them, rising, within 0 to 1, the last \
         above 0"
    )]
    Magnitudes {
        /// The violated condition.
        reason: String,
    },
}
