//! Batch normalization.

use laq_tensor::{BackendError, NormShape};

use super::{CudaBackend, Record, Tensor, chunk_of, int, long};
use crate::device::Device;

/// What a batch normalization keeps of a batch, and works in.
#[derive(Debug)]
pub struct NormSpace<D: Device> {
    /// N each, in f64.
    mean: D::Memory,
    variance: D::Memory,
    /// y = x · factor + offset, N each.
    factor: D::Memory,
    offset: D::Memory,
    /// ∂x = ∂y · factor + x · slope + base, N each.
    slope: D::Memory,
    base: D::Memory,
}

pub(super) fn space<D: Device>(
    backend: &CudaBackend<D>,
    shape: NormShape,
) -> Result<NormSpace<D>, BackendError> {
    let channels = shape.channels;
    Ok(NormSpace {
        mean: backend.doubles(channels)?,
        variance: backend.doubles(channels)?,
        factor: backend.floats(channels)?,
        offset: backend.floats(channels)?,
        slope: backend.floats(channels)?,
        base: backend.floats(channels)?,
    })
}

pub(super) fn forward<D: Device>(
    backend: &CudaBackend<D>,
    shape: NormShape,
    input: &Tensor<D>,
    scale: &Tensor<D>,
    shift: &Tensor<D>,
    space: &mut NormSpace<D>,
    output: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let NormShape { rows, channels, .. } = shape;
    let chunk = chunk_of(rows);
    let chunks = rows.div_ceil(chunk);
    let partial = backend.scratch(chunks * 2 * channels)?;
    backend.launch(
        "norm_moments",
        [channels.div_ceil(32) as u32, chunks as u32, 1],
        [32, 8, 1],
        &[
            backend.pointer(input, rows * channels).into(),
            partial.into(),
            int(rows),
            int(channels),
            int(chunk),
        ],
    )?;
    backend.each(
        "norm_factors",
        channels,
        &[
            partial.into(),
            int(chunks),
            backend.pointer(scale, channels).into(),
            backend.pointer(shift, channels).into(),
            backend.device.address(&space.mean).into(),
            backend.device.address(&space.variance).into(),
            backend.device.address(&space.factor).into(),
            backend.device.address(&space.offset).into(),
            int(rows),
            int(channels),
            shape.epsilon.into(),
        ],
    )?;
    norm_apply(backend, shape, input, space, output)
}

pub(super) fn backward<D: Device>(
    backend: &CudaBackend<D>,
    shape: NormShape,
    input: &Tensor<D>,
    scale: &Tensor<D>,
    space: &mut NormSpace<D>,
    gradient: &mut Tensor<D>,
    scale_gradient: &mut Tensor<D>,
    shift_gradient: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let NormShape { rows, channels, .. } = shape;
    let count = rows * channels;
    let chunk = chunk_of(rows);
    let chunks = rows.div_ceil(chunk);
    let partial = backend.scratch(chunks * 2 * channels)?;
    let [mean, variance, factor, offset, slope, base] = [
        &space.mean,
        &space.variance,
        &space.factor,
        &space.offset,
        &space.slope,
        &space.base,
    ]
    .map(|memory| backend.device.address(memory));
    let (input, gradient) = (
        backend.pointer(input, count),
        backend.pointer(gradient, count),
    );
    backend.launch(
        "norm_products",
        [channels.div_ceil(32) as u32, chunks as u32, 1],
        [32, 8, 1],
        &[
            input.into(),
            gradient.into(),
            factor.into(),
            offset.into(),
            partial.into(),
            int(rows),
            int(channels),
            int(chunk),
            shape.relu.into(),
        ],
    )?;
    backend.each(
        "norm_slopes",
        channels,
        &[
            partial.into(),
            int(chunks),
            backend.pointer(scale, channels).into(),
            mean.into(),
            variance.into(),
            backend.pointer(scale_gradient, channels).into(),
            backend.pointer(shift_gradient, channels).into(),
            slope.into(),
            base.into(),
            int(rows),
            int(channels),
            shape.epsilon.into(),
        ],
    )?;
    backend.each(
        "norm_through",
        count,
        &[
            input.into(),
            factor.into(),
            offset.into(),
            slope.into(),
            base.into(),
            gradient.into(),
            long(count),
            int(channels),
            shape.relu.into(),
        ],
    )
}

pub(super) fn average<D: Device>(
    backend: &CudaBackend<D>,
    shape: NormShape,
    factor: f32,
    space: &NormSpace<D>,
    record: &Record<D>,
    mean: &mut Tensor<D>,
    variance: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let NormShape { rows, channels, .. } = shape;
    backend.each(
        "norm_average",
        channels,
        &[
            backend.record_at(record).into(),
            backend.device.address(&space.mean).into(),
            backend.device.address(&space.variance).into(),
            backend.pointer(mean, channels).into(),
            backend.pointer(variance, channels).into(),
            int(rows),
            int(channels),
            factor.into(),
        ],
    )
}

pub(super) fn evaluate<D: Device>(
    backend: &CudaBackend<D>,
    shape: NormShape,
    input: &Tensor<D>,
    scale: &Tensor<D>,
    shift: &Tensor<D>,
    mean: &Tensor<D>,
    variance: &Tensor<D>,
    space: &mut NormSpace<D>,
    output: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let channels = shape.channels;
    backend.each(
        "norm_running_factors",
        channels,
        &[
            backend.pointer(mean, channels).into(),
            backend.pointer(variance, channels).into(),
            backend.pointer(scale, channels).into(),
            backend.pointer(shift, channels).into(),
            backend.device.address(&space.factor).into(),
            backend.device.address(&space.offset).into(),
            int(channels),
            shape.epsilon.into(),
        ],
    )?;
    norm_apply(backend, shape, input, space, output)
}

fn norm_apply<D: Device>(
    backend: &CudaBackend<D>,
    shape: NormShape,
    input: &Tensor<D>,
    space: &NormSpace<D>,
    output: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let count = shape.rows * shape.channels;
    let arguments = [
        backend.pointer(input, count).into(),
        backend.device.address(&space.factor).into(),
        backend.device.address(&space.offset).into(),
        backend.pointer(output, count).into(),
        long(count),
        int(shape.channels),
        shape.relu.into(),
    ];
    backend.each("norm_apply", count, &arguments)
}
