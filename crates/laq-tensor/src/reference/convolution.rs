//! The 3 × 3 convolution.

use crate::ConvolutionShape;

/// Calls `visit` with the indices of output, weight and input for every product of the convolution.
fn for_each_product(shape: ConvolutionShape, mut visit: impl FnMut(usize, usize, usize)) {
    let ConvolutionShape {
        batch,
        height,
        width,
        in_channels,
        out_channels,
    } = shape;
    for n in 0..batch {
        for i in 0..height {
            for j in 0..width {
                for (p, q) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                    // Row i + p − 1 and column j + q − 1, where they are inside the image.
                    if (1..=height).contains(&(i + p)) && (1..=width).contains(&(j + q)) {
                        let to = (n * height + i) * width + j;
                        let from = (n * height + i + p - 1) * width + j + q - 1;
                        for f in 0..out_channels {
                            for c in 0..in_channels {
                                let weight = ((f * 3 + p) * 3 + q) * in_channels + c;
                                visit(to * out_channels + f, weight, from * in_channels + c);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// [`Convolution::convolution_forward`](crate::Convolution::convolution_forward).
pub fn convolution_forward(
    shape: ConvolutionShape,
    input: &[f64],
    weight: &[f64],
    bias: &[f64],
) -> Vec<f64> {
    let mut output = bias.repeat(shape.pixels());
    for_each_product(shape, |y, w, x| output[y] += weight[w] * input[x]);
    output
}

/// [`Convolution::convolution_backward`](crate::Convolution::convolution_backward): gradients of
/// input, weight, bias.
pub fn convolution_backward(
    shape: ConvolutionShape,
    input: &[f64],
    weight: &[f64],
    output_gradient: &[f64],
) -> [Vec<f64>; 3] {
    let mut of_input = vec![0.0; shape.pixels() * shape.in_channels];
    let mut of_weight = vec![0.0; shape.out_channels * shape.filter()];
    let mut of_bias = vec![0.0; shape.out_channels];
    for_each_product(shape, |y, w, x| {
        of_input[x] += output_gradient[y] * weight[w];
        of_weight[w] += output_gradient[y] * input[x];
    });
    for pixel in output_gradient.chunks_exact(shape.out_channels) {
        for (sum, gradient) in of_bias.iter_mut().zip(pixel) {
            *sum += gradient;
        }
    }
    [of_input, of_weight, of_bias]
}
