//! Dense layers and ReLU.

use super::Suite;
use crate::{Backend, BackendError, DenseShape, reference};

impl<B: Backend> Suite<'_, B> {
    pub(super) fn dense(&mut self, shape: DenseShape) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let input = self.uniform(rows * inputs, 1.0);
        let weight = self.uniform(outputs * inputs, 1.0);
        let bias = self.uniform(outputs, 1.0);
        let output_gradient = self.uniform(rows * outputs, 1.0);
        let expected = reference::dense_forward(shape, &input, &weight, &bias);
        let without = reference::dense_forward(shape, &input, &weight, &vec![0.0; outputs]);
        let gradients = reference::dense_backward(shape, &input, &weight, &output_gradient);

        let backend = self.backend;
        let (input, weight) = (self.tensor(&input)?, self.tensor(&weight)?);
        let (bias, output_gradient) = (self.tensor(&bias)?, self.tensor(&output_gradient)?);
        let mut output = backend.zeros(&[rows, outputs])?;
        let mut of_input = backend.zeros(&[rows, inputs])?;
        let mut of_weight = backend.zeros(&[outputs, inputs])?;
        let mut of_bias = backend.zeros(&[outputs])?;
        backend.dense_forward(shape, &input, &weight, Some(&bias), &mut output)?;
        backend.dense_backward(
            shape,
            &input,
            &weight,
            &output_gradient,
            Some(&mut of_input),
            &mut of_weight,
            Some(&mut of_bias),
        )?;
        let name = |what: &str| format!("dense R={rows} K={inputs} N={outputs}: {what}");
        self.compare(name("output"), &output, &expected, 2e-6)?;
        self.compare(name("∂input"), &of_input, &gradients[0], 2e-6)?;
        self.compare(name("∂weight"), &of_weight, &gradients[1], 2e-6)?;
        self.compare(name("∂bias"), &of_bias, &gradients[2], 2e-6)?;
        // Again without the optional operands, on used buffers.
        backend.dense_forward(shape, &input, &weight, None, &mut output)?;
        backend.dense_backward(
            shape,
            &input,
            &weight,
            &output_gradient,
            None,
            &mut of_weight,
            None,
        )?;
        self.compare(name("output without bias"), &output, &without, 2e-6)?;
        self.compare(name("∂weight only"), &of_weight, &gradients[1], 2e-6)
    }

    pub(super) fn relu(&mut self, count: usize) -> Result<(), BackendError> {
        let mut input = self.uniform(count, 1.0);
        // The gradient at zero is zero.
        input[count / 2] = 0.0;
        if count > 3 {
            input[count / 3] = f64::NAN;
        }
        let output_gradient = self.uniform(count, 1.0);
        let output = reference::relu(&input);
        let gradient = reference::relu_backward(&output, &output_gradient);
        let mut found = self.tensor(&input)?;
        let mut of_input = self.tensor(&output_gradient)?;
        self.backend.relu(&mut found)?;
        self.backend.relu_backward(&found, &mut of_input)?;
        let name = |what: &str| format!("relu n={count}: {what}");
        self.compare(name("output"), &found, &output, 0.0)?;
        self.compare(name("∂input"), &of_input, &gradient, 0.0)
    }
}
