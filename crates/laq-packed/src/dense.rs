//! A matrix in full precision, and one of either kind.

use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;

use laq_simd::Isa;

use crate::kernels::{PANEL_ROWS, multiply_dense};
use crate::matrix::{DENSE_DEPTH, MAX_CODES, PackedMatrix, has_products};
use crate::pack_error::PackError;
use crate::packed_format::Tensor;

/// A matrix of f32, whose products have the bits of the dense product of training.
#[derive(Clone, Debug)]
pub struct DenseMatrix {
    rows: usize,
    columns: usize,
    /// For each panel of 16 rows and each column, the elements of the rows.
    panels: Vec<[f32; PANEL_ROWS]>,
}

impl DenseMatrix {
    /// A matrix of row-major `weights`.
    ///
    /// # Panics
    /// If `weights` does not have rows × columns elements.
    pub fn new(rows: usize, columns: usize, weights: &[f32]) -> Self {
        assert_eq!(Some(weights.len()), rows.checked_mul(columns));
        let mut panels = vec![[0.0; PANEL_ROWS]; rows.div_ceil(PANEL_ROWS) * columns];
        for (row, weights) in weights.chunks_exact(columns.max(1)).enumerate() {
            let panel = &mut panels[row / PANEL_ROWS * columns..][..columns];
            for (lanes, &weight) in panel.iter_mut().zip(weights) {
                lanes[row % PANEL_ROWS] = weight;
            }
        }
        Self {
            rows,
            columns,
            panels,
        }
    }

    /// Y ← X·Wᵀ, or Y ← Y + X·Wᵀ with `accumulate`; see [`PackedMatrix::product`].
    ///
    /// # Panics
    /// If a length does not match.
    pub fn product(
        &self,
        isa: Isa,
        x: &[f32],
        batch: usize,
        depth: usize,
        accumulate: bool,
        y: &mut [f32],
    ) {
        if !has_products((self.rows, self.columns), x, batch, accumulate, y) {
            return;
        }
        let four = 4 * PANEL_ROWS;
        for (x, y) in x
            .chunks_exact(self.columns)
            .zip(y.chunks_exact_mut(self.rows))
        {
            for (y, panels) in y.chunks_mut(four).zip(self.panels.chunks(4 * self.columns)) {
                let mut sums = [[0.0; PANEL_ROWS]; 4];
                let sums = &mut sums[..panels.len() / self.columns];
                if accumulate {
                    sums.as_flattened_mut()[..y.len()].copy_from_slice(y);
                }
                for start in (0..self.columns).step_by(depth) {
                    let slice = start..self.columns.min(start + depth);
                    let add = accumulate || start > 0;
                    let place = (self.columns, start);
                    multiply_dense(isa, panels, place, &x[slice], add, sums);
                }
                y.copy_from_slice(&sums.as_flattened()[..y.len()]);
            }
        }
    }
}

/// The weights of a layer.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Packed codes.
    Packed(PackedMatrix),
    /// Full precision, or more than 16 codes, or steps of blocks or of another axis.
    Dense(DenseMatrix),
}

impl Matrix {
    /// The matrix of a tensor: its first dimension by all others.
    ///
    /// # Errors
    /// None for a tensor that was read from a file.
    pub fn of(tensor: &Tensor) -> Result<Self, PackError> {
        let weights = match tensor {
            Tensor::Packed(packed)
                if packed.table().multipliers().len() <= MAX_CODES && packed.has_rows() =>
            {
                return packed.matrix().map(Self::Packed);
            }
            Tensor::Packed(packed) => Cow::Owned(packed.decode()),
            Tensor::F32 { values, .. } => Cow::Borrowed(&values[..]),
        };
        let rows = tensor.shape().first().copied().unwrap_or(1);
        let columns = weights.len().checked_div(rows).unwrap_or(0);
        Ok(Self::Dense(DenseMatrix::new(rows, columns, &weights)))
    }

    /// The number of outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.rows(),
            Self::Dense(matrix) => matrix.rows,
        }
    }

    /// The number of inputs.
    pub fn columns(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.columns(),
            Self::Dense(matrix) => matrix.columns,
        }
    }

    /// `y = W·x`. With [`Activations::Int8`], x is rounded to 8 bits where the weights are packed integers;
    /// see [`PackedMatrix::multiply_int8`].
    ///
    /// # Errors
    /// [`PackError::Activation`] if an element of x is not finite, with [`Activations::Int8`].
    ///
    /// # Panics
    /// If `x` does not have one element per column, or `y` one per row.
    pub fn multiply(
        &self,
        activations: Activations,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<(), PackError> {
        self.product((Isa::selected(), activations), x, 1, DENSE_DEPTH, false, y)
    }

    /// `Y = X·Wᵀ` in f32: `x` is `batch` × columns and `y` `batch` × rows, row-major.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn multiply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        let kind = (Isa::selected(), Activations::F32);
        let product = self.product(kind, x, batch, DENSE_DEPTH, false, y);
        product.expect("any activation in f32");
    }

    /// Y ← X·Wᵀ, or Y ← Y + X·Wᵀ with `accumulate`, of `batch` rows of X. With
    /// [`Activations::Int8`] each row of X is rounded to 8 bits where the weights are packed.
    ///
    /// # Errors
    /// As [`PackedMatrix::product_int8`].
    ///
    /// # Panics
    /// If a length does not match.
    pub(crate) fn product(
        &self,
        (isa, activations): (Isa, Activations),
        x: &[f32],
        batch: usize,
        depth: usize,
        accumulate: bool,
        y: &mut [f32],
    ) -> Result<(), PackError> {
        let matrix = match self {
            Self::Dense(matrix) => {
                matrix.product(isa, x, batch, depth, accumulate, y);
                return Ok(());
            }
            Self::Packed(matrix) => matrix,
        };
        if activations == Activations::F32 || !matrix.has_integers() {
            matrix.product(isa, x, batch, depth, accumulate, y);
            return Ok(());
        }
        let mut sums = vec![0.0; matrix.rows()];
        let rows = x.chunks_exact(matrix.columns().max(1));
        for (x, y) in rows.zip(y.chunks_exact_mut(matrix.rows().max(1))) {
            matrix.product_int8(isa, x, &mut sums)?;
            for (y, sum) in y.iter_mut().zip(&sums) {
                *y = if accumulate { *y + sum } else { *sum };
            }
        }
        Ok(())
    }
}

/// The precision of activations in products with packed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// f32: the results have the bits of training.
    #[default]
    F32,
    /// 8 bits, with a scale for each vector. Matrices whose codes are not integers use f32.
    Int8,
}

/// The depth of a slice for sums that are not rounded in between.
pub(crate) fn whole(columns: usize) -> usize {
    columns.next_multiple_of(DENSE_DEPTH)
}
