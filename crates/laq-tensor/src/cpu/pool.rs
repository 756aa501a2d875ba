//! 2 × 2 max pooling.

use super::kernel::Kernel;
use crate::PoolShape;

pub(crate) fn forward(
    _kernel: Kernel,
    _shape: PoolShape,
    _input: &[f32],
    _places: &mut [u8],
    _output: &mut [f32],
) {
    todo!()
}

pub(crate) fn backward(
    _kernel: Kernel,
    _shape: PoolShape,
    _places: &[u8],
    _output_gradient: &[f32],
    _input_gradient: &mut [f32],
) {
    todo!()
}
