//! Dense layers and ReLU.

use laq_tensor::{BackendError, Dense, DenseShape};

use super::{CudaBackend, chunks_of, plain, transposed};
use crate::buffer::{Buffer, Slice, SliceMut};
use crate::device::Device;
use crate::kernels;

impl<D: Device> Dense for CudaBackend<D> {
    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &Buffer<D, f32>,
        weight: &Buffer<D, f32>,
        bias: Option<&Buffer<D, f32>>,
        output: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        self.affine(
            shape,
            input.exactly(rows * inputs),
            weight.exactly(outputs * inputs),
            bias.map(|bias| bias.exactly(outputs)),
            output.exactly_mut(rows * outputs),
        )
    }

    fn dense_backward(
        &self,
        shape: DenseShape,
        input: &Buffer<D, f32>,
        weight: &Buffer<D, f32>,
        output_gradient: &Buffer<D, f32>,
        input_gradient: Option<&mut Buffer<D, f32>>,
        weight_gradient: &mut Buffer<D, f32>,
        bias_gradient: Option<&mut Buffer<D, f32>>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let dy = output_gradient.exactly(rows * outputs);
        if let Some(input_gradient) = input_gradient {
            self.multiply(
                [rows, inputs, outputs],
                plain(dy),
                plain(weight.exactly(outputs * inputs)),
                input_gradient.exactly_mut(rows * inputs),
                false,
            )?;
        }
        self.affine_gradients(
            shape,
            input.exactly(rows * inputs),
            dy,
            weight_gradient.exactly_mut(outputs * inputs),
            bias_gradient.map(|gradient| gradient.exactly_mut(outputs)),
        )
    }

    fn relu(&self, values: &mut Buffer<D, f32>) -> Result<(), BackendError> {
        let numel = values.len();
        let values = values.slice_mut();
        self.each(kernels::relu { values, numel }, numel)
    }

    fn relu_backward(
        &self,
        output: &Buffer<D, f32>,
        gradient: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let numel = output.len();
        let kernel = kernels::relu_backward {
            output: output.slice(),
            gradient: gradient.exactly_mut(numel),
            numel,
        };
        self.each(kernel, numel)
    }
}

impl<D: Device> CudaBackend<D> {
    /// y ← x Wᵀ + b.
    pub(super) fn affine(
        &self,
        shape: DenseShape,
        input: Slice<'_, f32>,
        weight: Slice<'_, f32>,
        bias: Option<Slice<'_, f32>>,
        output: SliceMut<'_, f32>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        if let Some(bias) = bias {
            self.broadcast_bias(bias, output, outputs)?;
        }
        self.multiply(
            [rows, outputs, inputs],
            plain(input),
            transposed(weight),
            output,
            bias.is_some(),
        )
    }

    /// ∂W ← ∂yᵀ x, and ∂b if present.
    pub(super) fn affine_gradients(
        &self,
        shape: DenseShape,
        input: Slice<'_, f32>,
        output_gradient: Slice<'_, f32>,
        weight_gradient: SliceMut<'_, f32>,
        bias_gradient: Option<SliceMut<'_, f32>>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        self.multiply(
            [outputs, inputs, rows],
            transposed(output_gradient),
            plain(input),
            weight_gradient,
            false,
        )?;
        match bias_gradient {
            Some(bias_gradient) => self.sum_rows(output_gradient, rows, outputs, bias_gradient),
            None => Ok(()),
        }
    }

    /// Every row of `output` becomes the bias.
    pub(super) fn broadcast_bias(
        &self,
        bias: Slice<'_, f32>,
        output: SliceMut<'_, f32>,
        columns: usize,
    ) -> Result<(), BackendError> {
        let numel = output.len();
        let kernel = kernels::broadcast_bias {
            bias,
            output,
            numel,
            columns,
        };
        self.each(kernel, numel)
    }

    /// The sum of all rows of a matrix.
    pub(super) fn sum_rows(
        &self,
        values: Slice<'_, f32>,
        rows: usize,
        columns: usize,
        sums: SliceMut<'_, f32>,
    ) -> Result<(), BackendError> {
        let (chunk, chunks) = chunks_of(rows);
        let mut partial = self.scratch(chunks * columns)?;
        let partial = partial.slice_mut();
        let kernel = kernels::column_sums {
            values,
            partial,
            rows,
            columns,
            chunk,
        };
        self.columns(kernel, columns, chunks)?;
        let kernel = kernels::sum_chunks {
            partial: partial.read(),
            chunks,
            columns,
            sums,
        };
        self.columns(kernel, columns, 1)
    }
}
