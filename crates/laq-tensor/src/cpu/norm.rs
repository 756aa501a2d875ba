//! Batch normalization, with ReLU behind it.
//!
//! Both passes are bound by memory: forward reads the input twice and writes the output, backward reads input and
//! gradient twice and writes the gradient. Sums are in f64, by chunks of rows that depend on the sizes alone, added in
//! order.

use rayon::prelude::*;

use super::kernel::{Kernel, for_each_set};
use crate::NormShape;

/// What a batch normalization keeps of a batch, channel by channel, and its scratch.
#[derive(Debug)]
pub struct NormSpace {
    /// Two sums for each chunk of rows and channel.
    partial: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    /// With these, y = x·factor + offset before ReLU.
    factor: Vec<f32>,
    offset: Vec<f32>,
    /// With these, ∂x = ∂y·factor + x·slope + base.
    slope: Vec<f32>,
    base: Vec<f32>,
}

/// At most so many chunks of rows.
const CHUNKS: usize = 64;

/// Rows of a chunk: enough that its sums are little beside it.
fn chunk_rows(shape: NormShape) -> usize {
    shape.rows.div_ceil(CHUNKS).max(8)
}

impl NormSpace {
    pub(crate) fn new(shape: NormShape) -> Self {
        let chunks = shape.rows.div_ceil(chunk_rows(shape));
        let (wide, narrow) = (vec![0.0; shape.channels], vec![0.0; shape.channels]);
        NormSpace {
            partial: vec![0.0; chunks * 2 * shape.channels],
            mean: wide.clone(),
            variance: wide,
            factor: narrow.clone(),
            offset: narrow.clone(),
            slope: narrow.clone(),
            base: narrow,
        }
    }
}

/// Adds up the two sums of all chunks, in order: those of channel c.
fn total(partial: &[f64], channels: usize, c: usize) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for chunk in partial.chunks_exact(2 * channels) {
        sums[0] += chunk[c];
        sums[1] += chunk[channels + c];
    }
    sums
}

pub(crate) fn forward(
    kernel: Kernel,
    shape: NormShape,
    input: &[f32],
    scale: &[f32],
    shift: &[f32],
    space: &mut NormSpace,
    output: &mut [f32],
) {
    let NormShape { rows, channels, .. } = shape;
    assert!(input.len() == rows * channels && output.len() == input.len());
    let chunk = chunk_rows(shape) * channels;
    space
        .partial
        .par_chunks_exact_mut(2 * channels)
        .zip(input.par_chunks(chunk))
        .for_each(|(sums, input)| moments(kernel, channels, input, sums));
    for c in 0..channels {
        let [sum, squares] = total(&space.partial, channels, c);
        let mean = sum / rows as f64;
        // Below f32's own rounding of the inputs nothing is lost by the difference of f64 sums.
        let variance = (squares / rows as f64 - mean * mean).max(0.0);
        (space.mean[c], space.variance[c]) = (mean, variance);
        let factor = f64::from(scale[c]) / (variance + f64::from(shape.epsilon)).sqrt();
        space.factor[c] = factor as f32;
        space.offset[c] = (f64::from(shift[c]) - mean * factor) as f32;
    }
    apply(kernel, shape, input, &space.factor, &space.offset, output);
}

pub(crate) fn evaluate(
    kernel: Kernel,
    shape: NormShape,
    input: &[f32],
    scale: &[f32],
    shift: &[f32],
    mean: &[f32],
    variance: &[f32],
    space: &mut NormSpace,
    output: &mut [f32],
) {
    assert!(input.len() == shape.rows * shape.channels && output.len() == input.len());
    for c in 0..shape.channels {
        let deviation = (f64::from(variance[c]) + f64::from(shape.epsilon)).sqrt();
        let factor = f64::from(scale[c]) / deviation;
        space.factor[c] = factor as f32;
        space.offset[c] = (f64::from(shift[c]) - f64::from(mean[c]) * factor) as f32;
    }
    apply(kernel, shape, input, &space.factor, &space.offset, output);
}

fn apply(
    kernel: Kernel,
    shape: NormShape,
    input: &[f32],
    factor: &[f32],
    offset: &[f32],
    output: &mut [f32],
) {
    let chunk = chunk_rows(shape) * shape.channels;
    output
        .par_chunks_mut(chunk)
        .zip(input.par_chunks(chunk))
        .for_each(|(output, input)| scale_rows(kernel, shape.relu, input, factor, offset, output));
}

pub(crate) fn backward(
    kernel: Kernel,
    shape: NormShape,
    input: &[f32],
    scale: &[f32],
    space: &mut NormSpace,
    gradient: &mut [f32],
    scale_gradient: &mut [f32],
    shift_gradient: &mut [f32],
) {
    let NormShape { rows, channels, .. } = shape;
    assert!(input.len() == rows * channels && gradient.len() == input.len());
    let chunk = chunk_rows(shape) * channels;
    let NormSpace {
        partial,
        mean,
        variance,
        factor,
        offset,
        slope,
        base,
    } = space;
    let (factor, offset) = (&factor[..], &offset[..]);
    partial
        .par_chunks_exact_mut(2 * channels)
        .zip(input.par_chunks(chunk))
        .zip(gradient.par_chunks(chunk))
        .for_each(|((sums, input), gradient)| {
            products(kernel, shape.relu, input, gradient, factor, offset, sums);
        });
    // With x̂ = (x − μ)·r, r = 1/√(σ² + ε): ∂γ = Σ ∂y x̂, ∂β = Σ ∂y, ∂x = γ r (∂y − ∂β/R − x̂ ∂γ/R).
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
            through_rows(
                kernel, shape.relu, input, factor, offset, slope, base, gradient,
            );
        });
}

pub(crate) fn average(
    shape: NormShape,
    factor: f32,
    space: &NormSpace,
    mean: &mut [f32],
    variance: &mut [f32],
) {
    let (old, new) = (1.0 - f64::from(factor), f64::from(factor));
    let unbiased = shape.rows as f64 / (shape.rows - 1).max(1) as f64;
    for c in 0..shape.channels {
        mean[c] = (old * f64::from(mean[c]) + new * space.mean[c]) as f32;
        variance[c] = (old * f64::from(variance[c]) + new * unbiased * space.variance[c]) as f32;
    }
}

/// Channels that are summed at once, in registers: one cache line of every row.
const LINE: usize = 16;

for_each_set! {
    /// Σ x and Σ x² of each channel.
    fn moments(channels: usize, input: &[f32], sums: &mut [f64]) {
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

for_each_set! {
    /// y = x·factor + offset, row by row, then ReLU.
    fn scale_rows(relu: bool, input: &[f32], factor: &[f32], offset: &[f32], output: &mut [f32]) {
        let n = factor.len();
        let offset = &offset[..n];
        for (output, input) in output.chunks_exact_mut(n).zip(input.chunks_exact(n)) {
            if relu {
                for c in 0..n {
                    let y = input[c] * factor[c] + offset[c];
                    // Unlike max, this keeps a NaN.
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

for_each_set! {
    /// Σ ∂y and Σ ∂y·x of each channel; with ReLU only where it let y through.
    fn products(
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

for_each_set! {
    /// ∂x = ∂y·factor + x·slope + base, in the place of ∂y; with ReLU, ∂y is zero where it let nothing through.
    fn through_rows(
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
