//! Max pooling.

use laq_tensor::{BackendError, PoolShape};

use super::{CudaBackend, Symbols, Tensor, int, long};
use crate::device::Device;

pub(super) fn forward<D: Device>(
    backend: &CudaBackend<D>,
    shape: PoolShape,
    input: &Tensor<D>,
    places: &mut Symbols<D>,
    output: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let PoolShape {
        batch,
        height,
        width,
        channels,
    } = shape;
    let outputs = shape.outputs();
    assert!(places.bound >= PoolShape::WINDOW);
    backend.each(
        "max_pool",
        outputs,
        &[
            backend
                .pointer(input, batch * height * width * channels)
                .into(),
            backend.symbols_at(places, outputs).into(),
            backend.pointer(output, outputs).into(),
            long(outputs),
            int(height),
            int(width),
            int(channels),
        ],
    )
}

pub(super) fn backward<D: Device>(
    backend: &CudaBackend<D>,
    shape: PoolShape,
    places: &Symbols<D>,
    output_gradient: &Tensor<D>,
    input_gradient: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let PoolShape {
        batch,
        height,
        width,
        channels,
    } = shape;
    let (inputs, outputs) = (batch * height * width * channels, shape.outputs());
    places.assert_bound(PoolShape::WINDOW);
    backend.each(
        "max_pool_backward",
        inputs,
        &[
            backend.symbols_at(places, outputs).into(),
            backend.pointer(output_gradient, outputs).into(),
            backend.pointer(input_gradient, inputs).into(),
            long(inputs),
            int(height),
            int(width),
            int(channels),
        ],
    )
}
