//! 2 × 2 max pooling.

use crate::PoolShape;

/// [`Pool::max_pool_forward`](crate::Pool::max_pool_forward): the outputs, and the index of each in
/// the input.
pub fn max_pool_forward(shape: PoolShape, input: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let PoolShape {
        batch,
        height,
        width,
        channels,
    } = shape;
    let mut argmax = Vec::with_capacity(shape.outputs());
    for n in 0..batch {
        for i in 0..height / 2 {
            for j in 0..width / 2 {
                for c in 0..channels {
                    let at = |p, q| ((n * height + 2 * i + p) * width + 2 * j + q) * channels + c;
                    let mut largest = at(0, 0);
                    for other in [at(0, 1), at(1, 0), at(1, 1)] {
                        let (x, most) = (input[other], input[largest]);
                        if x > most || x.is_nan() && !most.is_nan() {
                            largest = other;
                        }
                    }
                    argmax.push(largest);
                }
            }
        }
    }
    (argmax.iter().map(|&at| input[at]).collect(), argmax)
}

/// [`Pool::max_pool_backward`](crate::Pool::max_pool_backward), with the indices of
/// [`max_pool_forward`].
pub fn max_pool_backward(inputs: usize, argmax: &[usize], output_gradient: &[f64]) -> Vec<f64> {
    let mut of_input = vec![0.0; inputs];
    for (&at, gradient) in argmax.iter().zip(output_gradient) {
        of_input[at] += gradient;
    }
    of_input
}
