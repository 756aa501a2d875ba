//! Contrast normalization: an image is compared with itself alone, as a whole and around every pixel.

use super::{ImageShape, RawImages};

/// The Euclidean norm of an image after [`global`].
const NORM: f64 = 55.0;

/// The Gaussian window of [`local`] reaches so many pixels to each side: 7 × 7.
const REACH: usize = 3;
/// Its standard deviation in pixels.
const WIDTH: f64 = 2.0;
/// No deviation below this divides. It matters only where a colour is the same all over the image.
const LEAST_DEVIATION: f32 = 1e-4;

/// The mean of the bytes, and the Euclidean norm of what they differ from it; sums are exact.
fn mean_and_norm(image: &[u8]) -> (f64, f64) {
    let count = image.len() as u128;
    let sum: u128 = image.iter().map(|&byte| u128::from(byte)).sum();
    let squares: u128 = image.iter().map(|&byte| u128::from(byte).pow(2)).sum();
    let count_times_square = count * squares - sum * sum;
    let count = count as f64;
    (
        sum as f64 / count,
        (count_times_square as f64 / count).sqrt(),
    )
}

/// The number of the first image that is the same byte everywhere, from 0.
pub(super) fn first_constant(images: &RawImages) -> Option<usize> {
    images
        .pixels
        .chunks_exact(images.shape.numbers())
        .position(|image| image.iter().all(|&byte| byte == image[0]))
}

/// Global contrast normalization: x ↦ 55 (x − mean(x)) / ‖x − mean(x)‖, over all colours of the image together.
///
/// The image must not be [constant](first_constant).
pub(super) fn global(image: &[u8]) -> impl Iterator<Item = f64> {
    let (mean, norm) = mean_and_norm(image);
    let factor = NORM / norm;
    image
        .iter()
        .map(move |&byte| (f64::from(byte) - mean) * factor)
}

/// Local contrast normalization of every colour by itself: with G the weighted mean over a Gaussian window of 7 × 7
/// pixels (σ = 2, weights that sum to one, zeros outside the image) and c = x − G x,
///
/// x ↦ c / max(√(G c²), mean(√(G c²)), 1e-4), the mean being that of the colour over the image.
///
/// After Jarrett and others, *What is the best multi-stage architecture for object recognition?* (ICCV 2009).
///
/// `scratch` holds twice as many numbers as the image.
pub(super) fn local(shape: ImageShape, image: &mut [f32], scratch: &mut [f32]) {
    let (around, rows) = scratch.split_at_mut(image.len());
    let window = window();
    around.copy_from_slice(image);
    smooth(shape, &window, around, rows);
    for (x, mean) in image.iter_mut().zip(&mut *around) {
        *x -= *mean;
        *mean = *x * *x;
    }
    smooth(shape, &window, around, rows);
    let pixels = (shape.height * shape.width) as f64;
    for channel in 0..shape.channels {
        let of_channel = around.iter_mut().skip(channel).step_by(shape.channels);
        let mut sum = 0.0;
        for square in of_channel {
            *square = square.sqrt();
            sum += f64::from(*square);
        }
        let least = LEAST_DEVIATION.max((sum / pixels) as f32);
        let pairs = image.iter_mut().zip(&*around).skip(channel);
        for (x, deviation) in pairs.step_by(shape.channels) {
            *x /= deviation.max(least);
        }
    }
}

type Window = [f32; 2 * REACH + 1];

/// One side of the window: its product with itself, row by column, is the window.
fn window() -> Window {
    let weight = |place: usize| {
        let distance = place as f64 - REACH as f64;
        (-distance * distance / (2.0 * WIDTH * WIDTH)).exp()
    };
    let sum: f64 = (0..=2 * REACH).map(weight).sum();
    std::array::from_fn(|place| (weight(place) / sum) as f32)
}

/// The weighted mean around every pixel, in place; `rows` is for the means along the rows.
fn smooth(shape: ImageShape, window: &Window, values: &mut [f32], rows: &mut [f32]) {
    let row = shape.width * shape.channels;
    for (values, means) in values.chunks_exact(row).zip(rows.chunks_exact_mut(row)) {
        add_shifted(window, shape.channels, values, means);
    }
    add_shifted(window, row, rows, values);
}

/// `means[i]` becomes the sum of `window[k] · values[i + (k − REACH) · stride]`, as far as these exist.
fn add_shifted(window: &Window, stride: usize, values: &[f32], means: &mut [f32]) {
    means.fill(0.0);
    let count = values.len();
    for (place, &weight) in window.iter().enumerate() {
        let shift = place.abs_diff(REACH) * stride;
        let Some(shared) = count.checked_sub(shift) else {
            continue;
        };
        let (values, means) = match place < REACH {
            true => (&values[..shared], &mut means[shift..]),
            false => (&values[shift..], &mut means[..shared]),
        };
        for (mean, value) in means.iter_mut().zip(values) {
            *mean += weight * value;
        }
    }
}
