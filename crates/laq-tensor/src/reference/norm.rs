//! Batch normalization.

use super::dense::positive_part;
use crate::NormShape;

/// μ and σ² of each channel.
pub fn batch_statistics(shape: NormShape, input: &[f64]) -> [Vec<f64>; 2] {
    let NormShape { rows, channels, .. } = shape;
    let average = |c: usize, value: &dyn Fn(f64) -> f64| {
        let column = (0..rows).map(|r| value(input[r * channels + c]));
        column.sum::<f64>() / rows as f64
    };
    let mean: Vec<f64> = (0..channels).map(|c| average(c, &|x| x)).collect();
    let variance = (0..channels)
        .map(|c| average(c, &|x| (x - mean[c]).powi(2)))
        .collect();
    [mean, variance]
}

/// [`Norm::batch_norm_inference`](crate::Norm::batch_norm_inference); with the [`batch_statistics`]
/// of the input, [`Norm::batch_norm_forward`](crate::Norm::batch_norm_forward).
pub fn batch_norm_forward(
    shape: NormShape,
    input: &[f64],
    scale: &[f64],
    shift: &[f64],
    [mean, variance]: [&[f64]; 2],
) -> Vec<f64> {
    let mut output = Vec::with_capacity(input.len());
    for row in input.chunks_exact(shape.channels) {
        for (c, x) in row.iter().enumerate() {
            let deviation = (variance[c] + f64::from(shape.epsilon)).sqrt();
            let y = scale[c] * (x - mean[c]) / deviation + shift[c];
            output.push(if shape.relu { positive_part(y) } else { y });
        }
    }
    output
}

/// [`Norm::batch_norm_backward`](crate::Norm::batch_norm_backward): gradients of input, scale,
/// shift.
pub fn batch_norm_backward(
    shape: NormShape,
    input: &[f64],
    scale: &[f64],
    shift: &[f64],
    output_gradient: &[f64],
) -> [Vec<f64>; 3] {
    let NormShape { rows, channels, .. } = shape;
    let [mean, variance] = batch_statistics(shape, input);
    let output = batch_norm_forward(shape, input, scale, shift, [&mean, &variance]);
    let mut of_input = vec![0.0; input.len()];
    let (mut of_scale, mut of_shift) = (vec![0.0; channels], vec![0.0; channels]);
    for c in 0..channels {
        let deviation = (variance[c] + f64::from(shape.epsilon)).sqrt();
        let normalized = |at: usize| (input[at] - mean[c]) / deviation;
        // ∂ at the output of the normalization, before ReLU.
        let gradient = |at: usize| match shape.relu && output[at] == 0.0 {
            true => 0.0,
            false => output_gradient[at],
        };
        let column = || (0..rows).map(|r| r * channels + c);
        of_shift[c] = column().map(gradient).sum();
        of_scale[c] = column().map(|at| gradient(at) * normalized(at)).sum();
        for at in column() {
            let average = (of_shift[c] + normalized(at) * of_scale[c]) / rows as f64;
            of_input[at] = scale[c] / deviation * (gradient(at) - average);
        }
    }
    [of_input, of_scale, of_shift]
}
