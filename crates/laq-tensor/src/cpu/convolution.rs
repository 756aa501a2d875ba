//! The 3 × 3 convolution: image by image, the pixels that each filter sees are laid out as the rows of a matrix, and
//! the rest is a product.

use super::dense::column_sums;
use super::gemm::{Matrix, gemm};
use super::kernel::Kernel;
use crate::ConvolutionShape;

/// What a convolution needs beside its operands.
#[derive(Debug)]
pub struct ConvolutionSpace {
    shape: ConvolutionShape,
    kernel: Kernel,
    /// height·width × 9·max(C, F): the neighbourhoods of an image's pixels.
    neighbours: Vec<f32>,
    /// C × 9·F: the filters of the backward pass, with the roles of inputs and outputs exchanged and the taps turned
    /// round.
    turned: Vec<f32>,
}

impl ConvolutionSpace {
    pub(crate) fn new(kernel: Kernel, shape: ConvolutionShape) -> Self {
        let ConvolutionShape {
            height,
            width,
            inputs,
            outputs,
            ..
        } = shape;
        ConvolutionSpace {
            shape,
            kernel,
            neighbours: vec![0.0; height * width * 9 * inputs.max(outputs)],
            turned: vec![0.0; outputs * shape.filter()],
        }
    }
}

/// Writes a pixel's 3 × 3 neighbours, channels innermost, row by row of `rows`; zeros outside of the image.
fn gather(height: usize, width: usize, channels: usize, image: &[f32], rows: &mut [f32]) {
    let neighbours = rows.chunks_exact_mut(channels);
    for (index, target) in neighbours.enumerate() {
        let (pixel, tap) = (index / 9, index % 9);
        let (i, j) = (pixel / width + tap / 3, pixel % width + tap % 3);
        if (1..=height).contains(&i) && (1..=width).contains(&j) {
            let start = ((i - 1) * width + j - 1) * channels;
            target.copy_from_slice(&image[start..start + channels]);
        } else {
            target.fill(0.0);
        }
    }
}

pub(crate) fn forward(
    kernel: Kernel,
    shape: ConvolutionShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    space: &mut ConvolutionSpace,
    output: &mut [f32],
) {
    let ConvolutionShape {
        height,
        width,
        inputs,
        outputs,
        ..
    } = shape;
    assert_eq!((shape, kernel), (space.shape, space.kernel));
    assert_eq!(input.len(), shape.pixels() * inputs);
    assert_eq!(output.len(), shape.pixels() * outputs);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), outputs);
        output
            .chunks_exact_mut(outputs)
            .for_each(|pixel| pixel.copy_from_slice(bias));
    }
    let pixels = height * width;
    let filters = Matrix::new(weight, outputs, shape.filter()).transposed();
    let neighbours = &mut space.neighbours[..pixels * shape.filter()];
    let images = input.chunks_exact(pixels * inputs);
    for (image, output) in images.zip(output.chunks_exact_mut(pixels * outputs)) {
        gather(height, width, inputs, image, neighbours);
        let neighbours = Matrix::new(neighbours, pixels, shape.filter());
        gemm(kernel, neighbours, filters, bias.is_some(), output);
    }
}

pub(crate) fn backward(
    kernel: Kernel,
    shape: ConvolutionShape,
    input: &[f32],
    weight: &[f32],
    output_gradient: &[f32],
    space: &mut ConvolutionSpace,
    input_gradient: Option<&mut [f32]>,
    weight_gradient: &mut [f32],
    bias_gradient: Option<&mut [f32]>,
) {
    let ConvolutionShape {
        height,
        width,
        inputs,
        outputs,
        ..
    } = shape;
    assert_eq!((shape, kernel), (space.shape, space.kernel));
    assert_eq!(input.len(), shape.pixels() * inputs);
    assert_eq!(output_gradient.len(), shape.pixels() * outputs);
    let pixels = height * width;
    let gradients = || output_gradient.chunks_exact(pixels * outputs);
    if let Some(input_gradient) = input_gradient {
        for (index, target) in space.turned.iter_mut().enumerate() {
            let (c, tap, f) = (index / (9 * outputs), index / outputs % 9, index % outputs);
            *target = weight[(f * 9 + 8 - tap) * inputs + c];
        }
        let filters = Matrix::new(&space.turned, inputs, 9 * outputs).transposed();
        let neighbours = &mut space.neighbours[..pixels * 9 * outputs];
        let targets = input_gradient.chunks_exact_mut(pixels * inputs);
        for (image, target) in gradients().zip(targets) {
            gather(height, width, outputs, image, neighbours);
            let neighbours = Matrix::new(neighbours, pixels, 9 * outputs);
            gemm(kernel, neighbours, filters, false, target);
        }
    }
    let neighbours = &mut space.neighbours[..pixels * shape.filter()];
    let images = input.chunks_exact(pixels * inputs).zip(gradients());
    weight_gradient.fill(0.0);
    for (image, gradient) in images {
        gather(height, width, inputs, image, neighbours);
        let gradient = Matrix::new(gradient, pixels, outputs).transposed();
        let neighbours = Matrix::new(neighbours, pixels, shape.filter());
        gemm(kernel, gradient, neighbours, true, weight_gradient);
    }
    if let Some(bias_gradient) = bias_gradient {
        assert_eq!(bias_gradient.len(), outputs);
        column_sums(output_gradient, bias_gradient);
    }
}
