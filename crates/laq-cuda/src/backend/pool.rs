//! Max pooling.

use laq_tensor::{BackendError, Pool, PoolShape};

use super::{CudaBackend, check_bound};
use crate::buffer::Buffer;
use crate::device::Device;
use crate::kernels;

impl<D: Device> Pool for CudaBackend<D> {
    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Buffer<D, f32>,
        argmax: &mut Buffer<D, u8>,
        output: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        assert!(argmax.bound() >= PoolShape::WINDOW);
        let numel = shape.outputs();
        let kernel = kernels::max_pool {
            input: input.exactly(batch * height * width * channels),
            argmax: argmax.exactly_mut(numel),
            output: output.exactly_mut(numel),
            numel,
            height,
            width,
            channels,
        };
        self.each(kernel, numel)
    }

    fn max_pool_backward(
        &self,
        shape: PoolShape,
        argmax: &Buffer<D, u8>,
        output_gradient: &Buffer<D, f32>,
        input_gradient: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        check_bound(argmax, PoolShape::WINDOW);
        let (numel, outputs) = (batch * height * width * channels, shape.outputs());
        let kernel = kernels::max_pool_backward {
            argmax: argmax.exactly(outputs),
            output_gradient: output_gradient.exactly(outputs),
            input_gradient: input_gradient.exactly_mut(numel),
            numel,
            height,
            width,
            channels,
        };
        self.each(kernel, numel)
    }
}
