//! The 3 × 3 convolution.

use super::kernel::Kernel;
use crate::ConvolutionShape;

/// What a convolution needs beside its operands.
#[derive(Debug)]
pub struct ConvolutionSpace {}

impl ConvolutionSpace {
    pub(crate) fn new(_kernel: Kernel, _shape: ConvolutionShape) -> Self {
        ConvolutionSpace {}
    }
}

pub(crate) fn forward(
    _kernel: Kernel,
    _shape: ConvolutionShape,
    _input: &[f32],
    _weight: &[f32],
    _bias: Option<&[f32]>,
    _space: &mut ConvolutionSpace,
    _output: &mut [f32],
) {
    todo!()
}

pub(crate) fn backward(
    _kernel: Kernel,
    _shape: ConvolutionShape,
    _input: &[f32],
    _weight: &[f32],
    _output_gradient: &[f32],
    _space: &mut ConvolutionSpace,
    _input_gradient: Option<&mut [f32]>,
    _weight_gradient: &mut [f32],
    _bias_gradient: Option<&mut [f32]>,
) {
    todo!()
}
