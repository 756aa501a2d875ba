//! Dense layers and ReLU.

use crate::DenseShape;

/// [`Dense::dense_forward`](crate::Dense::dense_forward).
pub fn dense_forward(shape: DenseShape, input: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let mut output = Vec::with_capacity(rows * outputs);
    for r in 0..rows {
        for n in 0..outputs {
            let products = (0..inputs).map(|k| input[r * inputs + k] * weight[n * inputs + k]);
            output.push(bias[n] + products.sum::<f64>());
        }
    }
    output
}

/// [`Dense::dense_backward`](crate::Dense::dense_backward): gradients of input, weight, bias.
pub fn dense_backward(
    shape: DenseShape,
    input: &[f64],
    weight: &[f64],
    output_gradient: &[f64],
) -> [Vec<f64>; 3] {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let mut of_input = vec![0.0; rows * inputs];
    let mut of_weight = vec![0.0; outputs * inputs];
    let mut of_bias = vec![0.0; outputs];
    for r in 0..rows {
        for n in 0..outputs {
            let gradient = output_gradient[r * outputs + n];
            of_bias[n] += gradient;
            for k in 0..inputs {
                of_input[r * inputs + k] += gradient * weight[n * inputs + k];
                of_weight[n * inputs + k] += gradient * input[r * inputs + k];
            }
        }
    }
    [of_input, of_weight, of_bias]
}

/// max(0, x), and NaN of NaN, which [`f64::max`] would drop.
pub(super) fn positive_part(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// [`Dense::relu`](crate::Dense::relu).
pub fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&x| positive_part(x)).collect()
}

/// [`Dense::relu_backward`](crate::Dense::relu_backward).
pub fn relu_backward(output: &[f64], gradient: &[f64]) -> Vec<f64> {
    let pairs = output.iter().zip(gradient);
    pairs
        .map(|(&y, &gradient)| if y > 0.0 { gradient } else { 0.0 })
        .collect()
}
