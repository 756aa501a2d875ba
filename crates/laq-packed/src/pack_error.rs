//! Errors of packed weights in memory.

use alloc::string::String;
use alloc::vec::Vec;

/// Errors of packing, unpacking and products.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The number of bits is not supported.
    #[error("found {bits} bits per code, expected 1 to 8")]
    Bits {
        /// The number found.
        bits: u8,
    },
    /// The name of a packing is unknown.
    #[error("found the packing {name:?}, expected bits1 to bits8 or trits5")]
    Name {
        /// The name.
        name: String,
    },
    /// The codebook has more levels than codes.
    #[error(
        "the codebook has {levels} levels, expected at most {codes} for this packing: take whole bits (--packing bits) or a \
         method with fewer levels"
    )]
    Codebook {
        /// Levels of the codebook.
        levels: usize,
        /// Codes of the packing.
        codes: usize,
    },
    /// A buffer has the wrong length, or the size of the matrix overflows.
    #[error("found {found} {what}, expected {rows} rows of {columns} columns")]
    Length {
        /// What the buffer contains: `levels` or `packed bytes`.
        what: &'static str,
        /// Its length.
        found: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// A level is not in the codebook.
    #[error("found level {level} in row {row}, column {column}, which is not in the codebook")]
    Level {
        /// The level.
        level: i8,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// A code is not that of a level.
    #[error("found code {code} in row {row}, column {column}, expected a code below {levels}")]
    Code {
        /// The code.
        code: u8,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// Levels of the codebook.
        levels: usize,
    },
    /// The multipliers are not a table of codes.
    #[error(
        "found the multipliers {multipliers:?}, expected 1 to 256 finite numbers in rising order"
    )]
    Table {
        /// The multipliers.
        multipliers: Vec<f32>,
    },
    /// The rows are not the first dimension of the shape, or the number of elements overflows.
    #[error(
        "found the shape {shape:?} in {rows} rows, expected one row for each index of the first dimension"
    )]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// Rows of the codes.
        rows: usize,
    },
    /// There are too many codes for a product.
    #[error(
        "found {found} multipliers, expected at most 16 for a product; decode the weights instead"
    )]
    TooManyCodes {
        /// The number found.
        found: usize,
    },
    /// The number of steps does not match.
    #[error(
        "found {found} steps, expected {per_group} for each group of rows, and groups that divide the {rows} rows"
    )]
    Steps {
        /// The number found.
        found: usize,
        /// Steps of a group.
        per_group: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// A number of weights that no block has.
    #[error("found blocks of {length} weights, expected 1 to 65536")]
    Block {
        /// The number found.
        length: usize,
    },
    /// The number of steps is not that of the blocks.
    #[error("found {found} steps, expected {expected} for the blocks of all rows")]
    BlockSteps {
        /// The number found.
        found: usize,
        /// The number of blocks, times the steps of a block.
        expected: usize,
    },
    /// A product needs rows with one step.
    #[error(
        "blocks have steps of their own, which products do not take; decode the weights instead"
    )]
    NoBlocks,
    /// A product needs rows of the tensor.
    #[error(
        "the steps are those of axis {axis}, and products take those of axis 0; decode the weights instead"
    )]
    OtherAxis {
        /// The axis.
        axis: usize,
    },
    /// An axis that a tensor does not have.
    #[error("found axis {axis}, expected one of the {} of shape {shape:?}", .shape.len())]
    NoAxis {
        /// The axis.
        axis: usize,
        /// The shape.
        shape: Vec<usize>,
    },
    /// A step is not finite.
    #[error("step {index} is {value}, expected a finite number")]
    Step {
        /// Its index.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The multipliers are not integers that fit the product with activations of 8 bits.
    #[error(
        "the multipliers {multipliers:?} are not integers up to 64 times a power of two, or have two steps; \
         multiply in f32"
    )]
    NotIntegers {
        /// The multipliers.
        multipliers: Vec<f32>,
    },
    /// An activation is not finite.
    #[error("element {index} of the vector is {value}, expected a finite number")]
    Activation {
        /// Its index.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The padding of a row is not zero, or a byte is not five trits.
    #[error("found byte {byte} in row {row}, byte {column}, which is not a valid end of the row")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its row.
        row: usize,
        /// Its index in the row.
        column: usize,
    },
}
