//! Batch normalization, fused with ReLU.
//!
//! Both passes are memory-bound: forward reads the input twice and writes the output, backward
//! reads input and gradient twice and writes the gradient. Sums are in f64, by chunks of rows that
//! depend on the sizes alone, combined in order.

use rayon::prelude::*;

use super::CpuBackend;
use super::memory::Buffer;
use super::steps::StepLog;
use crate::{BackendError, Norm, NormShape};
use laq_simd::{Isa, multiversion};

/// Statistics of a batch by channel, and scratch.
#[derive(Debug)]
pub struct NormWorkspace {
    /// Two sums for each chunk of rows and channel.
    partial: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    /// y = x·factor + offset before ReLU.
    factor: Vec<f32>,
    offset: Vec<f32>,
    /// ∂x = ∂y·factor + x·slope + base.
    slope: Vec<f32>,
    base: Vec<f32>,
}

/// The largest number of chunks of rows.
const MAX_CHUNKS: usize = 64;

/// Rows of a chunk: enough to amortize its sums.
fn chunk_rows(shape: NormShape) -> usize {
    shape.rows.div_ceil(MAX_CHUNKS).max(8)
}

impl Norm for CpuBackend {
    type NormWorkspace = NormWorkspace;

    fn norm_workspace(&self, shape: NormShape) -> Result<NormWorkspace, BackendError> {
        let chunks = shape.rows.div_ceil(chunk_rows(shape));
        let (wide, narrow) = (vec![0.0; shape.channels], vec![0.0; shape.channels]);
        Ok(NormWorkspace {
            partial: vec![0.0; chunks * 2 * shape.channels],
            mean: wide.clone(),
            variance: wide,
            factor: narrow.clone(),
            offset: narrow.clone(),
            slope: narrow.clone(),
            base: narrow,
        })
    }

    fn batch_norm_forward(
        &self,
        shape: NormShape,
        input: &Buffer<f32>,
        scale: &Buffer<f32>,
        shift: &Buffer<f32>,
        workspace: &mut NormWorkspace,
        output: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let NormShape { rows, channels, .. } = shape;
        assert!(input.len() == rows * channels && output.len() == input.len());
        let (input, output) = (input.as_slice(), output.as_mut_slice());
        let (scale, shift) = (scale.as_slice(), shift.as_slice());
        let chunk = chunk_rows(shape) * channels;
        workspace
            .partial
            .par_chunks_exact_mut(2 * channels)
            .zip(input.par_chunks(chunk))
            .for_each(|(sums, input)| sums_of_squares(self.isa, channels, input, sums));
        for c in 0..channels {
            let [sum, squares] = total(&workspace.partial, channels, c);
            let mean = sum / rows as f64;
            // The difference of f64 sums loses nothing above the rounding of the f32 inputs.
            let variance = (squares / rows as f64 - mean * mean).max(0.0);
            (workspace.mean[c], workspace.variance[c]) = (mean, variance);
            let factor = f64::from(scale[c]) / (variance + f64::from(shape.epsilon)).sqrt();
            workspace.factor[c] = factor as f32;
            workspace.offset[c] = (f64::from(shift[c]) - mean * factor) as f32;
        }
        apply(self.isa, shape, input, workspace, output);
        Ok(())
    }

    fn batch_norm_backward(
        &self,
        shape: NormShape,
        input: &Buffer<f32>,
        scale: &Buffer<f32>,
        workspace: &mut NormWorkspace,
        gradient: &mut Buffer<f32>,
        scale_gradient: &mut Buffer<f32>,
        shift_gradient: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let NormShape { rows, channels, .. } = shape;
        assert!(input.len() == rows * channels && gradient.len() == input.len());
        let (input, gradient) = (input.as_slice(), gradient.as_mut_slice());
        let scale = scale.as_slice();
        let (scale_gradient, shift_gradient) =
            (scale_gradient.as_mut_slice(), shift_gradient.as_mut_slice());
        let chunk = chunk_rows(shape) * channels;
        let NormWorkspace {
            partial,
            mean,
            variance,
            factor,
            offset,
            slope,
            base,
        } = workspace;
        let (factor, offset) = (&factor[..], &offset[..]);
        partial
            .par_chunks_exact_mut(2 * channels)
            .zip(input.par_chunks(chunk))
            .zip(gradient.par_chunks(chunk))
            .for_each(|((sums, input), gradient)| {
                let isa = self.isa;
                gradient_sums(isa, shape.relu, input, gradient, factor, offset, sums);
            });
        // With x̂ = (x − μ)·r, r = 1/√(σ² + ε): ∂γ = Σ ∂y x̂, ∂β = Σ ∂y, ∂x = γ r (∂y − ∂β/R − x̂
        // ∂γ/R).
        for c in 0..channels {
            let [sum, with_input] = total(partial, channels, c);
            let r = 1.0 / (variance[c] + f64::from(shape.epsilon)).sqrt();
            let of_scale = (with_input - mean[c] * sum) * r;
            scale_gradient[c] = of_scale as f32;
            shift_gradient[c] = sum as f32;
            let (gain, rows) = (f64::from(scale[c]) * r, rows as f64);
            let of_input = -gain * r * of_scale / rows;
            slope[c] = of_input as f32;
            base[c] = (-gain * sum / rows - of_input * mean[c]) as f32;
        }
        let (slope, base) = (&slope[..], &base[..]);
        gradient
            .par_chunks_mut(chunk)
            .zip(input.par_chunks(chunk))
            .for_each(|(gradient, input)| {
                input_gradient_rows(
                    self.isa, shape.relu, input, factor, offset, slope, base, gradient,
                );
            });
        Ok(())
    }

    fn update_running_stats(
        &self,
        shape: NormShape,
        momentum: f32,
        workspace: &NormWorkspace,
        log: &StepLog,
        mean: &mut Buffer<f32>,
        variance: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        if log.is_stopped() {
            return Ok(());
        }
        let (mean, variance) = (mean.as_mut_slice(), variance.as_mut_slice());
        let (old, new) = (1.0 - f64::from(momentum), f64::from(momentum));
        let unbiased = shape.rows as f64 / (shape.rows - 1).max(1) as f64;
        for c in 0..shape.channels {
            mean[c] = (old * f64::from(mean[c]) + new * workspace.mean[c]) as f32;
            let newest = new * unbiased * workspace.variance[c];
            let moved = old * f64::from(variance[c]) + newest;
            variance[c] = moved.min(f64::from(f32::MAX)) as f32;
        }
        Ok(())
    }

    fn batch_norm_inference(
        &self,
        shape: NormShape,
        input: &Buffer<f32>,
        scale: &Buffer<f32>,
        shift: &Buffer<f32>,
        mean: &Buffer<f32>,
        variance: &Buffer<f32>,
        workspace: &mut NormWorkspace,
        output: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        assert!(input.len() == shape.rows * shape.channels && output.len() == input.len());
        let (scale, shift) = (scale.as_slice(), shift.as_slice());
        let (mean, variance) = (mean.as_slice(), variance.as_slice());
        for c in 0..shape.channels {
            let deviation = (f64::from(variance[c]) + f64::from(shape.epsilon)).sqrt();
            let factor = f64::from(scale[c]) / deviation;
            workspace.factor[c] = factor as f32;
            workspace.offset[c] = (f64::from(shift[c]) - f64::from(mean[c]) * factor) as f32;
        }
        let output = output.as_mut_slice();
        apply(self.isa, shape, input.as_slice(), workspace, output);
        Ok(())
    }
}

/// The two sums of channel c over all chunks, in order.
fn total(partial: &[f64], channels: usize, c: usize) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for chunk in partial.chunks_exact(2 * channels) {
        sums[0] += chunk[c];
        sums[1] += chunk[channels + c];
    }
    sums
}

/// y = x·factor + offset, then ReLU.
fn apply(isa: Isa, shape: NormShape, input: &[f32], workspace: &NormWorkspace, output: &mut [f32]) {
    let (factor, offset) = (&workspace.factor[..], &workspace.offset[..]);
    let chunk = chunk_rows(shape) * shape.channels;
    output
        .par_chunks_mut(chunk)
        .zip(input.par_chunks(chunk))
        .for_each(|(output, input)| scale_rows(isa, shape.relu, input, factor, offset, output));
}

/// Channels that are summed at a time, in registers: one cache line of every row.
const LINE: usize = 16;

multiversion! {
    /// Σ x and Σ x² of each channel.
    fn sums_of_squares(channels: usize, input: &[f32], sums: &mut [f64]) {
        let (sums, squares) = sums.split_at_mut(channels);
        let mut c = 0;
        while c < channels {
            let width = LINE.min(channels - c);
            let (mut s, mut q) = ([0.0f64; LINE], [0.0f64; LINE]);
            for row in input.chunks_exact(channels) {
                if width == LINE {
                    let row = &row[c..c + LINE];
                    for k in 0..LINE {
                        let x = f64::from(row[k]);
                        s[k] += x;
                        q[k] += x * x;
                    }
                } else {
                    for (k, &x) in row[c..].iter().enumerate() {
                        let x = f64::from(x);
                        s[k] += x;
                        q[k] += x * x;
                    }
                }
            }
            sums[c..c + width].copy_from_slice(&s[..width]);
            squares[c..c + width].copy_from_slice(&q[..width]);
            c += LINE;
        }
    }
}

multiversion! {
    /// y = x·factor + offset, row by row, then ReLU.
    fn scale_rows(relu: bool, input: &[f32], factor: &[f32], offset: &[f32], output: &mut [f32]) {
        let n = factor.len();
        let offset = &offset[..n];
        for (output, input) in output.chunks_exact_mut(n).zip(input.chunks_exact(n)) {
            if relu {
                for c in 0..n {
                    let y = input[c] * factor[c] + offset[c];
                    // Unlike f32::max, this propagates NaN.
                    output[c] = if y < 0.0 { 0.0 } else { y };
                }
            } else {
                for c in 0..n {
                    output[c] = input[c] * factor[c] + offset[c];
                }
            }
        }
    }
}

multiversion! {
    /// Σ ∂y and Σ ∂y·x of each channel; with ReLU, ∂y is masked where y is 0.
    fn gradient_sums(
        relu: bool, input: &[f32], gradient: &[f32], factor: &[f32], offset: &[f32], sums: &mut [f64],
    ) {
        let channels = factor.len();
        let (sums, with_input) = sums.split_at_mut(channels);
        let mut c = 0;
        while c < channels {
            let width = LINE.min(channels - c);
            let (mut s, mut q) = ([0.0f64; LINE], [0.0f64; LINE]);
            let (mut a, mut b) = ([0.0f32; LINE], [0.0f32; LINE]);
            a[..width].copy_from_slice(&factor[c..c + width]);
            b[..width].copy_from_slice(&offset[c..c + width]);
            for (x, g) in input.chunks_exact(channels).zip(gradient.chunks_exact(channels)) {
                if width == LINE {
                    let (x, g) = (&x[c..c + LINE], &g[c..c + LINE]);
                    for k in 0..LINE {
                        let open = !relu || x[k] * a[k] + b[k] > 0.0;
                        let g = f64::from(if open { g[k] } else { 0.0 });
                        s[k] += g;
                        q[k] += g * f64::from(x[k]);
                    }
                } else {
                    for k in 0..width {
                        let (x, g) = (x[c + k], g[c + k]);
                        let open = !relu || x * a[k] + b[k] > 0.0;
                        let g = f64::from(if open { g } else { 0.0 });
                        s[k] += g;
                        q[k] += g * f64::from(x);
                    }
                }
            }
            sums[c..c + width].copy_from_slice(&s[..width]);
            with_input[c..c + width].copy_from_slice(&q[..width]);
            c += LINE;
        }
    }
}

multiversion! {
    /// ∂x = ∂y·factor + x·slope + base, in place of ∂y; with ReLU, ∂y is masked where y is 0.
    fn input_gradient_rows(
        relu: bool, input: &[f32], factor: &[f32], offset: &[f32], slope: &[f32], base: &[f32],
        gradient: &mut [f32],
    ) {
        let n = factor.len();
        let (offset, slope, base) = (&offset[..n], &slope[..n], &base[..n]);
        for (gradient, input) in gradient.chunks_exact_mut(n).zip(input.chunks_exact(n)) {
            for c in 0..n {
                let x = input[c];
                let open = !relu || x * factor[c] + offset[c] > 0.0;
                let g = if open { gradient[c] } else { 0.0 };
                gradient[c] = g * factor[c] + x * slope[c] + base[c];
            }
        }
    }
}
