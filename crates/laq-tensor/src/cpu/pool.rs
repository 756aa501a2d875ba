//! 2 × 2 max pooling.

use rayon::prelude::*;

use super::CpuBackend;
use super::memory::Buffer;
use crate::{BackendError, Pool, PoolShape};
use laq_simd::multiversion;

impl Pool for CpuBackend {
    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Buffer<f32>,
        argmax: &mut Buffer<u8>,
        output: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        assert_eq!(input.len(), batch * height * width * channels);
        assert!(output.len() == shape.outputs() && argmax.len() == output.len());
        assert!(argmax.bound() >= PoolShape::WINDOW);
        let (input, output) = (input.as_slice(), output.as_mut_slice());
        let argmax = argmax.as_mut_slice();
        let row = width * channels;
        // A row of the output for each two of the input.
        let out_row = width / 2 * channels;
        if out_row == 0 || height < 2 {
            return Ok(());
        }
        output
            .par_chunks_exact_mut(out_row)
            .zip(argmax.par_chunks_exact_mut(out_row))
            .enumerate()
            .for_each(|(index, (output, argmax))| {
                let (image, i) = (index / (height / 2), index % (height / 2));
                let rows = &input[(image * height + 2 * i) * row..][..2 * row];
                pool_row(
                    self.isa,
                    channels,
                    &rows[..row],
                    &rows[row..],
                    argmax,
                    output,
                );
            });
        Ok(())
    }

    fn max_pool_backward(
        &self,
        shape: PoolShape,
        argmax: &Buffer<u8>,
        output_gradient: &Buffer<f32>,
        input_gradient: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        assert_eq!(input_gradient.len(), batch * height * width * channels);
        assert!(output_gradient.len() == shape.outputs() && argmax.len() == output_gradient.len());
        let argmax = argmax.indices_below(PoolShape::WINDOW);
        let (output_gradient, input_gradient) =
            (output_gradient.as_slice(), input_gradient.as_mut_slice());
        let (row, out_row) = (width * channels, width / 2 * channels);
        input_gradient
            .par_chunks_exact_mut(row)
            .enumerate()
            .for_each(|(index, target)| {
                let (image, i) = (index / height, index % height);
                if i >= height / 2 * 2 {
                    target.fill(0.0);
                    return;
                }
                let start = (image * (height / 2) + i / 2) * out_row;
                let (argmax, gradient) = (&argmax[start..], &output_gradient[start..]);
                let upper = 2 * (i % 2) as u8;
                spread_row(
                    self.isa,
                    channels,
                    upper,
                    &argmax[..out_row],
                    &gradient[..out_row],
                    target,
                );
            });
        Ok(())
    }
}

multiversion! {
    fn pool_row(channels: usize, upper: &[f32], lower: &[f32], argmax: &mut [u8], output: &mut [f32]) {
        for ((j, output), argmax) in output.chunks_exact_mut(channels).enumerate().zip(argmax.chunks_exact_mut(channels)) {
            let pair = 2 * j * channels..2 * (j + 1) * channels;
            let (a, b) = upper[pair.clone()].split_at(channels);
            let (c, d) = lower[pair].split_at(channels);
            for k in 0..channels {
                let (mut largest, mut position) = (a[k], 0);
                for (candidate, x) in [(1, b[k]), (2, c[k]), (3, d[k])] {
                    // NaN replaces a number, and is not replaced.
                    let larger = x > largest || (x.is_nan() && !largest.is_nan());
                    largest = if larger { x } else { largest };
                    position = if larger { candidate } else { position };
                }
                output[k] = largest;
                argmax[k] = position;
            }
        }
    }
}

multiversion! {
    /// A row of the input, with positions `upper` and `upper + 1` of each window.
    fn spread_row(channels: usize, upper: u8, argmax: &[u8], gradient: &[f32], target: &mut [f32]) {
        let pairs = target.chunks_exact_mut(2 * channels);
        let mut done = 0;
        for ((pair, argmax), gradient) in pairs.zip(argmax.chunks_exact(channels)).zip(gradient.chunks_exact(channels)) {
            let (left, right) = pair.split_at_mut(channels);
            for k in 0..channels {
                left[k] = if argmax[k] == upper { gradient[k] } else { 0.0 };
                right[k] = if argmax[k] == upper + 1 { gradient[k] } else { 0.0 };
            }
            done += 2 * channels;
        }
        target[done..].fill(0.0);
    }
}
