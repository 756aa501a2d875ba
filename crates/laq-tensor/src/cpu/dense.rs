//! Dense layers and ReLU.

use rayon::prelude::*;

use super::CpuBackend;
use super::gemm::{Matrix, bounded_gemm, gemm};
use super::memory::{Buffer, CHUNK};
use crate::{BackendError, Dense, DenseShape};

impl Dense for CpuBackend {
    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: Option<&Buffer<f32>>,
        output: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let output = output.as_mut_slice();
        if let Some(bias) = bias {
            assert_eq!(bias.len(), outputs);
            broadcast_bias(bias.as_slice(), output);
        }
        let input = Matrix::new(input.as_slice(), rows, inputs);
        let weight = Matrix::new(weight.as_slice(), outputs, inputs);
        gemm(self.isa, input, weight.transposed(), bias.is_some(), output);
        Ok(())
    }

    fn dense_backward(
        &self,
        shape: DenseShape,
        input: &Buffer<f32>,
        weight: &Buffer<f32>,
        output_gradient: &Buffer<f32>,
        input_gradient: Option<&mut Buffer<f32>>,
        weight_gradient: &mut Buffer<f32>,
        bias_gradient: Option<&mut Buffer<f32>>,
    ) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let gradient = Matrix::new(output_gradient.as_slice(), rows, outputs);
        if let Some(input_gradient) = input_gradient {
            let weight = Matrix::new(weight.as_slice(), outputs, inputs);
            let input_gradient = input_gradient.as_mut_slice();
            gemm(self.isa, gradient, weight, false, input_gradient);
        }
        let input = Matrix::new(input.as_slice(), rows, inputs);
        let target = weight_gradient.as_mut_slice();
        let bounded = bounded_gemm(self.isa, gradient.transposed(), input, target);
        weight_gradient.set_known_bounded(bounded);
        if let Some(bias_gradient) = bias_gradient {
            column_sums(output_gradient.as_slice(), bias_gradient.as_mut_slice());
        }
        Ok(())
    }

    fn relu(&self, values: &mut Buffer<f32>) -> Result<(), BackendError> {
        let chunks = values.as_mut_slice().par_chunks_mut(CHUNK);
        chunks.for_each(|values| {
            for value in values {
                // Unlike f32::max, this propagates NaN.
                *value = if *value < 0.0 { 0.0 } else { *value };
            }
        });
        Ok(())
    }

    fn relu_backward(
        &self,
        output: &Buffer<f32>,
        gradient: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        assert_eq!(output.len(), gradient.len());
        let output = output.as_slice().par_chunks(CHUNK);
        let chunks = output.zip(gradient.as_mut_slice().par_chunks_mut(CHUNK));
        chunks.for_each(|(output, gradient)| {
            for (gradient, &output) in gradient.iter_mut().zip(output) {
                *gradient = if output > 0.0 { *gradient } else { 0.0 };
            }
        });
        Ok(())
    }
}

/// Sets every row of a matrix to the bias.
pub(super) fn broadcast_bias(bias: &[f32], matrix: &mut [f32]) {
    matrix
        .par_chunks_exact_mut(bias.len())
        .for_each(|row| row.copy_from_slice(bias));
}

/// Sums each column of a matrix of `sums.len()` columns.
pub(super) fn column_sums(matrix: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    // Sixteen columns are one cache line of every row.
    sums.par_chunks_mut(16)
        .enumerate()
        .for_each(|(chunk, sums)| {
            let mut wide = [0.0f64; 16];
            for row in matrix.chunks_exact(columns) {
                for (sum, &value) in wide.iter_mut().zip(&row[chunk * 16..]) {
                    *sum += f64::from(value);
                }
            }
            for (sum, wide) in sums.iter_mut().zip(wide) {
                *sum = wide as f32;
            }
        });
}
