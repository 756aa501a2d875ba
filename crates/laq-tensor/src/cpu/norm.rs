//! Batch normalization.

use super::kernel::Kernel;
use crate::NormShape;

/// What a batch normalization keeps of a batch.
#[derive(Debug)]
pub struct NormSpace {}

impl NormSpace {
    pub(crate) fn new(_shape: NormShape) -> Self {
        NormSpace {}
    }
}

pub(crate) fn forward(
    _kernel: Kernel,
    _shape: NormShape,
    _input: &[f32],
    _scale: &[f32],
    _shift: &[f32],
    _space: &mut NormSpace,
    _output: &mut [f32],
) {
    todo!()
}

pub(crate) fn backward(
    _kernel: Kernel,
    _shape: NormShape,
    _input: &[f32],
    _scale: &[f32],
    _output: &[f32],
    _space: &mut NormSpace,
    _gradient: &mut [f32],
    _scale_gradient: &mut [f32],
    _shift_gradient: &mut [f32],
) {
    todo!()
}

pub(crate) fn average(
    _shape: NormShape,
    _factor: f32,
    _space: &NormSpace,
    _mean: &mut [f32],
    _variance: &mut [f32],
) {
    todo!()
}

pub(crate) fn evaluate(
    _kernel: Kernel,
    _shape: NormShape,
    _input: &[f32],
    _scale: &[f32],
    _shift: &[f32],
    _mean: &[f32],
    _variance: &[f32],
    _output: &mut [f32],
) {
    todo!()
}
