//! The 3 × 3 convolution: directly, or in training by Winograd's transforms where they pay.

mod direct;
mod tiles;
mod transform;
mod vector;
mod winograd;

use super::CpuBackend;
use super::dense::column_sums;
use super::memory::Buffer;
use crate::{BackendError, Convolution, ConvolutionShape};

impl Convolution for CpuBackend {
    type ConvolutionWorkspace = ();

    fn convolution_workspace(&self, _shape: ConvolutionShape) -> Result<(), BackendError> {
        Ok(())
    }

    fn convolution_algorithm(&self, shape: ConvolutionShape) -> Option<&'static str> {
        Some(match winograd::applies(shape) {
            true => "Winograd F(4 × 4, 3 × 3)",
            false => "direct",
        })
    }

    fn convolution_forward(
        &self,
        shape: ConvolutionShape,
        input: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: Option<&Buffer<f32>>,
        _workspace: &mut (),
        output: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let forward = match winograd::applies(shape) {
            true => winograd::forward,
            false => direct::forward,
        };
        let (input, weight) = (input.as_slice(), weight.as_slice());
        let bias = bias.map_or(&[][..], |bias| bias.as_slice());
        forward(self.isa, shape, input, weight, bias, output.as_mut_slice());
        Ok(())
    }

    /// Always directly.
    fn convolution_inference(
        &self,
        shape: ConvolutionShape,
        input: &Buffer<f32>,
        weight: &Buffer<f32>,
        bias: Option<&Buffer<f32>>,
        _workspace: &mut (),
        output: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let (input, weight) = (input.as_slice(), weight.as_slice());
        let bias = bias.map_or(&[][..], |bias| bias.as_slice());
        direct::forward(self.isa, shape, input, weight, bias, output.as_mut_slice());
        Ok(())
    }

    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &Buffer<f32>,
        weight: &Buffer<f32>,
        output_gradient: &Buffer<f32>,
        _workspace: &mut (),
        input_gradient: Option<&mut Buffer<f32>>,
        weight_gradient: &mut Buffer<f32>,
        bias_gradient: Option<&mut Buffer<f32>>,
    ) -> Result<(), BackendError> {
        let applies = winograd::applies(shape);
        let (input, weight) = (input.as_slice(), weight.as_slice());
        let output_gradient = output_gradient.as_slice();
        if let Some(gradient) = input_gradient {
            let of_input = match applies {
                true => winograd::input_gradient,
                false => direct::input_gradient,
            };
            of_input(
                self.isa,
                shape,
                weight,
                output_gradient,
                gradient.as_mut_slice(),
            );
        }
        let of_weight = match applies {
            true => winograd::weight_gradient,
            false => direct::weight_gradient,
        };
        of_weight(
            self.isa,
            shape,
            input,
            output_gradient,
            weight_gradient.as_mut_slice(),
        );
        if let Some(gradient) = bias_gradient {
            column_sums(output_gradient, gradient.as_mut_slice());
        }
        Ok(())
    }
}
