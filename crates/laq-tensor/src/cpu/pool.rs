//! 2 × 2 max pooling.

use rayon::prelude::*;

use super::kernel::{Kernel, for_each_set};
use crate::PoolShape;

pub(crate) fn forward(
    kernel: Kernel,
    shape: PoolShape,
    input: &[f32],
    places: &mut [u8],
    output: &mut [f32],
) {
    let PoolShape {
        batch,
        height,
        width,
        channels,
    } = shape;
    assert_eq!(input.len(), batch * height * width * channels);
    assert!(output.len() == shape.outputs() && places.len() == output.len());
    let row = width * channels;
    // A row of the output for each two of the input.
    let out_row = width / 2 * channels;
    if out_row == 0 || height < 2 {
        return;
    }
    output
        .par_chunks_exact_mut(out_row)
        .zip(places.par_chunks_exact_mut(out_row))
        .enumerate()
        .for_each(|(index, (output, places))| {
            let (image, i) = (index / (height / 2), index % (height / 2));
            let rows = &input[(image * height + 2 * i) * row..][..2 * row];
            pool_row(kernel, channels, &rows[..row], &rows[row..], places, output);
        });
}

for_each_set! {
    fn pool_row(channels: usize, upper: &[f32], lower: &[f32], places: &mut [u8], output: &mut [f32]) {
        for ((j, output), places) in output.chunks_exact_mut(channels).enumerate().zip(places.chunks_exact_mut(channels)) {
            let pair = 2 * j * channels..2 * (j + 1) * channels;
            let (a, b) = upper[pair.clone()].split_at(channels);
            let (c, d) = lower[pair].split_at(channels);
            for k in 0..channels {
                let (mut most, mut place) = (a[k], 0);
                for (number, x) in [(1, b[k]), (2, c[k]), (3, d[k])] {
                    // A NaN is taken, and then kept.
                    let larger = x > most || (x.is_nan() && !most.is_nan());
                    most = if larger { x } else { most };
                    place = if larger { number } else { place };
                }
                output[k] = most;
                places[k] = place;
            }
        }
    }
}

pub(crate) fn backward(
    kernel: Kernel,
    shape: PoolShape,
    places: &[u8],
    output_gradient: &[f32],
    input_gradient: &mut [f32],
) {
    let PoolShape {
        batch,
        height,
        width,
        channels,
    } = shape;
    assert_eq!(input_gradient.len(), batch * height * width * channels);
    assert!(output_gradient.len() == shape.outputs() && places.len() == output_gradient.len());
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
            let (places, gradient) = (&places[start..], &output_gradient[start..]);
            let upper = 2 * (i % 2) as u8;
            spread_row(
                kernel,
                channels,
                upper,
                &places[..out_row],
                &gradient[..out_row],
                target,
            );
        });
}

for_each_set! {
    /// A row of the input: places `upper` and `upper + 1` are in it.
    fn spread_row(channels: usize, upper: u8, places: &[u8], gradient: &[f32], target: &mut [f32]) {
        let pairs = target.chunks_exact_mut(2 * channels);
        let mut done = 0;
        for ((pair, places), gradient) in pairs.zip(places.chunks_exact(channels)).zip(gradient.chunks_exact(channels)) {
            let (left, right) = pair.split_at_mut(channels);
            for k in 0..channels {
                left[k] = if places[k] == upper { gradient[k] } else { 0.0 };
                right[k] = if places[k] == upper + 1 { gradient[k] } else { 0.0 };
            }
            done += 2 * channels;
        }
        target[done..].fill(0.0);
    }
}
