//! 2 × 2 max pooling.

use super::Suite;
use crate::{Backend, BackendError, PoolShape, reference};

impl<B: Backend> Suite<'_, B> {
    pub(super) fn max_pool(&mut self, shape: PoolShape) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        let inputs = batch * height * width * channels;
        // Five distinct values and NaN, so that many windows have several maxima.
        let input: Vec<f64> = (self.uniform(inputs, 2.5).iter().enumerate())
            .map(|(at, x)| match at % 7 {
                5 => f64::NAN,
                _ => x.round(),
            })
            .collect();
        let output_gradient = self.uniform(shape.outputs(), 1.0);
        let (expected, expected_argmax) = reference::max_pool_forward(shape, &input);
        let gradient = reference::max_pool_backward(inputs, &expected_argmax, &output_gradient);

        let backend = self.backend;
        let (input, output_gradient) = (self.tensor(&input)?, self.tensor(&output_gradient)?);
        let mut argmax = backend.indices(shape.outputs(), PoolShape::WINDOW)?;
        let mut output = backend.zeros(&[shape.outputs()])?;
        let mut of_input = self.tensor(&vec![9.0; inputs])?;
        backend.max_pool_forward(shape, &input, &mut argmax, &mut output)?;
        backend.max_pool_backward(shape, &argmax, &output_gradient, &mut of_input)?;
        let name =
            |what: &str| format!("max pooling B={batch} {height}x{width} C={channels}: {what}");
        self.compare(name("output"), &output, &expected, 0.0)?;
        self.compare(name("∂input"), &of_input, &gradient, 0.0)
    }
}
