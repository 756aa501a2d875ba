//! Contrast normalization of single images: global and local.

use super::{ImageSize, RawImages};

/// The Euclidean norm of an image after [`global`].
const NORM: f64 = 55.0;

/// Radius of the Gaussian window of [`local`] in pixels: 7 × 7.
const RADIUS: usize = 3;
/// Standard deviation of the window in pixels.
const SIGMA: f64 = 2.0;
/// The smallest divisor. It takes effect only if a channel is constant in the image.
const MIN_DEVIATION: f32 = 1e-4;

/// mean(x) and ‖x − mean(x)‖; sums are exact.
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

/// The index of the first constant image.
pub(super) fn first_constant(images: &RawImages) -> Option<usize> {
    images
        .pixels
        .chunks_exact(images.shape.elements())
        .position(|image| image.iter().all(|&byte| byte == image[0]))
}

/// Global contrast normalization: x ↦ 55 (x − mean(x)) / ‖x − mean(x)‖, over all channels of the
/// image.
///
/// The image must not be [constant](first_constant).
pub(super) fn global(image: &[u8]) -> impl Iterator<Item = f64> {
    let (mean, norm) = mean_and_norm(image);
    let factor = NORM / norm;
    image
        .iter()
        .map(move |&byte| (f64::from(byte) - mean) * factor)
}

/// Local contrast normalization per channel: with G the weighted mean over a Gaussian window of 7 ×
/// 7 pixels (σ = 2, weights of sum one, zero padding) and c = x − G x,
///
/// x ↦ c / max(√(G c²), mean(√(G c²)), 1e-4), where the mean is over the channel.
///
/// Source: Jarrett et al., *What is the best multi-stage architecture for object recognition?*
/// (ICCV 2009).
///
/// `scratch` has twice the elements of the image.
pub(super) fn local(shape: ImageSize, image: &mut [f32], scratch: &mut [f32]) {
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
        let floor = MIN_DEVIATION.max((sum / pixels) as f32);
        let pairs = image.iter_mut().zip(&*around).skip(channel);
        for (x, deviation) in pairs.step_by(shape.channels) {
            *x /= deviation.max(floor);
        }
    }
}

type Window = [f32; 2 * RADIUS + 1];

/// The one-dimensional window; the outer product with itself is the window.
fn window() -> Window {
    let weight = |place: usize| {
        let distance = place as f64 - RADIUS as f64;
        (-distance * distance / (2.0 * SIGMA * SIGMA)).exp()
    };
    let sum: f64 = (0..=2 * RADIUS).map(weight).sum();
    std::array::from_fn(|place| (weight(place) / sum) as f32)
}

/// Replaces every pixel by the weighted mean of its window; `rows` is scratch.
fn smooth(shape: ImageSize, window: &Window, values: &mut [f32], rows: &mut [f32]) {
    let row = shape.width * shape.channels;
    for (values, means) in values.chunks_exact(row).zip(rows.chunks_exact_mut(row)) {
        add_shifted(window, shape.channels, values, means);
    }
    add_shifted(window, row, rows, values);
}

/// `means[i]` ← Σ_k `window[k] · values[i + (k − RADIUS) · stride]` with zero padding.
fn add_shifted(window: &Window, stride: usize, values: &[f32], means: &mut [f32]) {
    means.fill(0.0);
    let count = values.len();
    for (place, &weight) in window.iter().enumerate() {
        let shift = place.abs_diff(RADIUS) * stride;
        let Some(shared) = count.checked_sub(shift) else {
            continue;
        };
        let (values, means) = match place < RADIUS {
            true => (&values[..shared], &mut means[shift..]),
            false => (&values[shift..], &mut means[..shared]),
        };
        for (mean, value) in means.iter_mut().zip(values) {
            *mean += weight * value;
        }
    }
}
