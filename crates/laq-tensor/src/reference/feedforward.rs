//! The layers of images but the convolution: batch normalization, pooling, ReLU, squared hinge.

use crate::{NormShape, PoolShape};

/// μ and σ² of each channel.
pub fn norm_statistics(shape: NormShape, input: &[f64]) -> [Vec<f64>; 2] {
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

/// [`Backend::norm_evaluate`](crate::Backend::norm_evaluate); with the batch's own [`norm_statistics`],
/// [`Backend::norm_forward`](crate::Backend::norm_forward).
pub fn norm_forward(
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
            output.push(if shape.relu { y.max(0.0) } else { y });
        }
    }
    output
}

/// [`Backend::norm_backward`](crate::Backend::norm_backward): gradients of input, scale, shift.
pub fn norm_backward(
    shape: NormShape,
    input: &[f64],
    scale: &[f64],
    shift: &[f64],
    output_gradient: &[f64],
) -> [Vec<f64>; 3] {
    let NormShape { rows, channels, .. } = shape;
    let [mean, variance] = norm_statistics(shape, input);
    let output = norm_forward(shape, input, scale, shift, [&mean, &variance]);
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

/// [`Backend::max_pool_forward`](crate::Backend::max_pool_forward): the outputs, and for each the index of the input
/// that it is.
pub fn max_pool_forward(shape: PoolShape, input: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let PoolShape {
        batch,
        height,
        width,
        channels,
    } = shape;
    let mut chosen = Vec::with_capacity(shape.outputs());
    for n in 0..batch {
        for i in 0..height / 2 {
            for j in 0..width / 2 {
                for c in 0..channels {
                    let at = |p, q| ((n * height + 2 * i + p) * width + 2 * j + q) * channels + c;
                    let mut most = at(0, 0);
                    for other in [at(0, 1), at(1, 0), at(1, 1)] {
                        if input[other] > input[most] {
                            most = other;
                        }
                    }
                    chosen.push(most);
                }
            }
        }
    }
    (chosen.iter().map(|&at| input[at]).collect(), chosen)
}

/// [`Backend::max_pool_backward`](crate::Backend::max_pool_backward), with the indices of [`max_pool_forward`].
pub fn max_pool_backward(inputs: usize, chosen: &[usize], output_gradient: &[f64]) -> Vec<f64> {
    let mut of_input = vec![0.0; inputs];
    for (&at, gradient) in chosen.iter().zip(output_gradient) {
        of_input[at] += gradient;
    }
    of_input
}

/// [`Backend::relu`](crate::Backend::relu).
pub fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|x| x.max(0.0)).collect()
}

/// [`Backend::relu_backward`](crate::Backend::relu_backward).
pub fn relu_backward(output: &[f64], gradient: &[f64]) -> Vec<f64> {
    let pairs = output.iter().zip(gradient);
    pairs
        .map(|(&y, &gradient)| if y > 0.0 { gradient } else { 0.0 })
        .collect()
}

/// [`Backend::squared_hinge`](crate::Backend::squared_hinge): loss and gradient.
pub fn squared_hinge(targets: &[u8], outputs: &[f64]) -> (f64, Vec<f64>) {
    let classes = outputs.len() / targets.len();
    let count = outputs.len() as f64;
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(outputs.len());
    for (at, y) in outputs.iter().enumerate() {
        let hit = usize::from(targets[at / classes]) == at % classes;
        let t = if hit { 1.0 } else { -1.0 };
        let missing = (1.0 - t * y).max(0.0);
        loss += missing * missing / count;
        gradient.push(-2.0 * t * missing / count);
    }
    (loss, gradient)
}
