//! The 3 × 3 convolution.

use super::Suite;
use crate::{Backend, BackendError, ConvolutionShape, reference};

impl<B: Backend> Suite<'_, B> {
    /// Images of one pixel, one row and one column; channels below, at and above the widths of
    /// vectors and tiles; batches that fill tiles and batches that do not.
    pub(super) fn convolutions(&mut self) -> Result<(), BackendError> {
        for (batch, height, width, in_channels, out_channels) in [
            (1, 1, 1, 1, 1),
            (2, 1, 1, 40, 33),
            (1, 5, 3, 1, 10),
            (3, 1, 7, 16, 5),
            (3, 7, 1, 17, 3),
            (2, 4, 4, 3, 35),
            (23, 6, 5, 3, 7),
            (11, 3, 4, 32, 64),
            (4, 9, 2, 33, 31),
            (1, 12, 13, 20, 24),
            (31, 2, 2, 48, 16),
            (2, 2, 3, 150, 140),
            // Sizes that the processor computes by tiles of 4 × 4 pixels, whole and at edges.
            (2, 16, 16, 32, 64),
            (3, 13, 15, 64, 48),
        ] {
            self.convolution(ConvolutionShape {
                batch,
                height,
                width,
                in_channels,
                out_channels,
            })?;
        }
        Ok(())
    }

    fn convolution(&mut self, shape: ConvolutionShape) -> Result<(), BackendError> {
        let ConvolutionShape {
            batch,
            height,
            width,
            in_channels,
            out_channels,
        } = shape;
        let input = self.uniform(shape.pixels() * in_channels, 1.0);
        let weight = self.uniform(out_channels * shape.filter(), 1.0);
        let bias = self.uniform(out_channels, 1.0);
        let output_gradient = self.uniform(shape.pixels() * out_channels, 1.0);
        let with_bias = reference::convolution_forward(shape, &input, &weight, &bias);
        let without =
            reference::convolution_forward(shape, &input, &weight, &vec![0.0; out_channels]);
        let gradients = reference::convolution_backward(shape, &input, &weight, &output_gradient);

        let backend = self.backend;
        let (input, weight) = (self.tensor(&input)?, self.tensor(&weight)?);
        let (bias, output_gradient) = (self.tensor(&bias)?, self.tensor(&output_gradient)?);
        let mut workspace = backend.convolution_workspace(shape)?;
        let name = |what: &str| {
            format!(
                "convolution B={batch} {height}x{width} C={in_channels} F={out_channels}: {what}"
            )
        };
        // With all operands, then without the optional ones on used buffers.
        let mut output = backend.zeros(&[batch, height, width, out_channels])?;
        let mut of_input = backend.zeros(&[batch, height, width, in_channels])?;
        let mut of_weight = backend.zeros(&[out_channels, 3, 3, in_channels])?;
        let mut of_bias = backend.zeros(&[out_channels])?;
        for all in [true, false] {
            let case = |what: &str| {
                name(&format!(
                    "{what}{}",
                    if all { "" } else { " without options" }
                ))
            };
            let (bias, expected) = if all {
                (Some(&bias), &with_bias)
            } else {
                (None, &without)
            };
            backend.convolution_inference(
                shape,
                &input,
                &weight,
                bias,
                &mut workspace,
                &mut output,
            )?;
            self.compare(case("output in evaluation"), &output, expected, 2e-6)?;
            backend.convolution_forward(
                shape,
                &input,
                &weight,
                bias,
                &mut workspace,
                &mut output,
            )?;
            self.compare(case("output"), &output, expected, 2e-6)?;
            backend.convolution_backward(
                shape,
                &input,
                &weight,
                &output_gradient,
                &mut workspace,
                all.then_some(&mut of_input),
                &mut of_weight,
                all.then_some(&mut of_bias),
            )?;
            self.compare(case("∂weight"), &of_weight, &gradients[1], 2e-6)?;
        }
        self.compare(name("∂input"), &of_input, &gradients[0], 2e-6)?;
        self.compare(name("∂bias"), &of_bias, &gradients[2], 2e-6)
    }
}
