//! Batch normalization.

use laq_tensor::{BackendError, NormShape};

use super::{CudaBackend, Record, Tensor, chunks_of, int, long};
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
    let (chunk, chunks) = chunks_of(rows);
    let [scale, shift] = [scale, shift].map(|tensor| backend.pointer(tensor, channels).into());
    let [mean, variance, factor, offset] =
        [&space.mean, &space.variance, &space.factor, &space.offset]
            .map(|memory| backend.device.address(memory).into());
    let (of_input, epsilon) = (
        backend.pointer(input, rows * channels).into(),
        shape.epsilon.into(),
    );
    if chunks == 1 {
        let arguments = [
            of_input,
            scale,
            shift,
            mean,
            variance,
            factor,
            offset,
            backend.pointer(output, rows * channels).into(),
            int(rows),
            int(channels),
            epsilon,
            shape.relu.into(),
        ];
        return backend.columns("norm_whole", channels, 1, &arguments);
    }
    let partial = backend.scratch(chunks * 2 * channels)?.into();
    let arguments = [of_input, partial, int(rows), int(channels), int(chunk)];
    backend.columns("norm_moments", channels, chunks, &arguments)?;
    let arguments = [
        partial,
        int(chunks),
        scale,
        shift,
        mean,
        variance,
        factor,
        offset,
        int(rows),
        int(channels),
        epsilon,
    ];
    backend.columns("norm_factors", channels, 1, &arguments)?;
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
    let (count, (chunk, chunks)) = (rows * channels, chunks_of(rows));
    let [mean, variance, factor, offset, slope, base] = [
        &space.mean,
        &space.variance,
        &space.factor,
        &space.offset,
        &space.slope,
        &space.base,
    ]
    .map(|memory| backend.device.address(memory).into());
    let [input, gradient] = [input, &*gradient].map(|tensor| backend.pointer(tensor, count).into());
    let [scale, scale_gradient, shift_gradient] = [scale, &*scale_gradient, &*shift_gradient]
        .map(|tensor| backend.pointer(tensor, channels).into());
    let (epsilon, relu) = (shape.epsilon.into(), shape.relu.into());
    if chunks == 1 {
        let arguments = [
            input,
            factor,
            offset,
            scale,
            mean,
            variance,
            scale_gradient,
            shift_gradient,
            gradient,
            int(rows),
            int(channels),
            epsilon,
            relu,
        ];
        return backend.columns("norm_whole_backward", channels, 1, &arguments);
    }
    let partial = backend.scratch(chunks * 2 * channels)?.into();
    let arguments = [
        input,
        gradient,
        factor,
        offset,
        partial,
        int(rows),
        int(channels),
        int(chunk),
        relu,
    ];
    backend.columns("norm_products", channels, chunks, &arguments)?;
    let arguments = [
        partial,
        int(chunks),
        scale,
        mean,
        variance,
        scale_gradient,
        shift_gradient,
        slope,
        base,
        int(rows),
        int(channels),
        epsilon,
    ];
    backend.columns("norm_slopes", channels, 1, &arguments)?;
    let arguments = [
        input,
        factor,
        offset,
        slope,
        base,
        gradient,
        long(count),
        int(channels),
        relu,
    ];
    backend.each("norm_through", count, &arguments)
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
