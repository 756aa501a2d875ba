//! Batch normalization.

use laq_tensor::{BackendError, Norm, NormShape};

use super::{CudaBackend, StepLog, chunks_of};
use crate::buffer::{Buffer, Slice, SliceMut};
use crate::device::Device;
use crate::kernels;

/// Statistics of the batch, and scratch.
#[derive(Debug)]
pub struct NormWorkspace<D: Device> {
    mean: Buffer<D, f64>,
    variance: Buffer<D, f64>,
    /// y = x · factor + offset.
    factor: Buffer<D, f32>,
    offset: Buffer<D, f32>,
    /// ∂x = ∂y · factor + x · slope + base.
    slope: Buffer<D, f32>,
    base: Buffer<D, f32>,
}

impl<D: Device> Norm for CudaBackend<D> {
    type NormWorkspace = NormWorkspace<D>;

    fn norm_workspace(&self, shape: NormShape) -> Result<NormWorkspace<D>, BackendError> {
        let channels = shape.channels;
        Ok(NormWorkspace {
            mean: self.buffer(channels)?,
            variance: self.buffer(channels)?,
            factor: self.buffer(channels)?,
            offset: self.buffer(channels)?,
            slope: self.buffer(channels)?,
            base: self.buffer(channels)?,
        })
    }

    fn batch_norm_forward(
        &self,
        shape: NormShape,
        input: &Buffer<D, f32>,
        scale: &Buffer<D, f32>,
        shift: &Buffer<D, f32>,
        workspace: &mut NormWorkspace<D>,
        output: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let NormShape {
            rows,
            channels,
            epsilon,
            relu,
        } = shape;
        let (chunk, chunks) = chunks_of(rows);
        let input = input.exactly(rows * channels);
        let output = output.exactly_mut(rows * channels);
        let [scale, shift] = [scale, shift].map(|tensor| tensor.exactly(channels));
        let [mean, variance] =
            [&mut workspace.mean, &mut workspace.variance].map(|buffer| buffer.slice_mut());
        let [factor, offset] =
            [&mut workspace.factor, &mut workspace.offset].map(|buffer| buffer.slice_mut());
        if chunks == 1 {
            let kernel = kernels::batch_norm_fused {
                input,
                scale,
                shift,
                mean,
                variance,
                factor,
                offset,
                output,
                rows,
                channels,
                epsilon,
                relu,
            };
            return self.columns(kernel, channels, 1);
        }
        let mut partial = self.scratch(chunks * 2 * channels)?;
        let partial = partial.slice_mut();
        let kernel = kernels::batch_norm_sums {
            input,
            partial,
            rows,
            channels,
            chunk,
        };
        self.columns(kernel, channels, chunks)?;
        let kernel = kernels::batch_norm_coefficients {
            partial: partial.read(),
            chunks,
            scale,
            shift,
            mean,
            variance,
            factor,
            offset,
            rows,
            channels,
            epsilon,
        };
        self.columns(kernel, channels, 1)?;
        self.batch_norm_apply(shape, input, [factor.read(), offset.read()], output)
    }

    fn batch_norm_backward(
        &self,
        shape: NormShape,
        input: &Buffer<D, f32>,
        scale: &Buffer<D, f32>,
        workspace: &mut NormWorkspace<D>,
        gradient: &mut Buffer<D, f32>,
        scale_gradient: &mut Buffer<D, f32>,
        shift_gradient: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let NormShape {
            rows,
            channels,
            epsilon,
            relu,
        } = shape;
        let (numel, (chunk, chunks)) = (rows * channels, chunks_of(rows));
        let input = input.exactly(numel);
        let gradient = gradient.exactly_mut(numel);
        let scale = scale.exactly(channels);
        let scale_gradient = scale_gradient.exactly_mut(channels);
        let shift_gradient = shift_gradient.exactly_mut(channels);
        let [mean, variance] = [&workspace.mean, &workspace.variance].map(Buffer::slice);
        let [factor, offset] = [&workspace.factor, &workspace.offset].map(Buffer::slice);
        if chunks == 1 {
            let kernel = kernels::batch_norm_backward_fused {
                input,
                factor,
                offset,
                scale,
                mean,
                variance,
                scale_gradient,
                shift_gradient,
                gradient,
                rows,
                channels,
                epsilon,
                relu,
            };
            return self.columns(kernel, channels, 1);
        }
        let mut partial = self.scratch(chunks * 2 * channels)?;
        let partial = partial.slice_mut();
        let kernel = kernels::batch_norm_backward_sums {
            input,
            gradient: gradient.read(),
            factor,
            offset,
            partial,
            rows,
            channels,
            chunk,
            relu,
        };
        self.columns(kernel, channels, chunks)?;
        let [slope, base] =
            [&mut workspace.slope, &mut workspace.base].map(|buffer| buffer.slice_mut());
        let kernel = kernels::batch_norm_backward_coefficients {
            partial: partial.read(),
            chunks,
            scale,
            mean,
            variance,
            scale_gradient,
            shift_gradient,
            slope,
            base,
            rows,
            channels,
            epsilon,
        };
        self.columns(kernel, channels, 1)?;
        let kernel = kernels::batch_norm_backward_apply {
            input,
            factor,
            offset,
            slope: slope.read(),
            base: base.read(),
            gradient,
            numel,
            channels,
            relu,
        };
        self.each(kernel, numel)
    }

    fn update_running_stats(
        &self,
        shape: NormShape,
        momentum: f32,
        workspace: &NormWorkspace<D>,
        log: &StepLog<D>,
        mean: &mut Buffer<D, f32>,
        variance: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let NormShape { rows, channels, .. } = shape;
        let kernel = kernels::update_running_stats {
            log: log.read(),
            batch_mean: workspace.mean.slice(),
            batch_variance: workspace.variance.slice(),
            mean: mean.exactly_mut(channels),
            variance: variance.exactly_mut(channels),
            rows,
            channels,
            momentum,
        };
        self.each(kernel, channels)
    }

    fn batch_norm_inference(
        &self,
        shape: NormShape,
        input: &Buffer<D, f32>,
        scale: &Buffer<D, f32>,
        shift: &Buffer<D, f32>,
        mean: &Buffer<D, f32>,
        variance: &Buffer<D, f32>,
        workspace: &mut NormWorkspace<D>,
        output: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let channels = shape.channels;
        let numel = shape.rows * channels;
        let [factor, offset] =
            [&mut workspace.factor, &mut workspace.offset].map(|buffer| buffer.slice_mut());
        let kernel = kernels::batch_norm_running_coefficients {
            mean: mean.exactly(channels),
            variance: variance.exactly(channels),
            scale: scale.exactly(channels),
            shift: shift.exactly(channels),
            factor,
            offset,
            channels,
            epsilon: shape.epsilon,
        };
        self.each(kernel, channels)?;
        let coefficients = [factor.read(), offset.read()];
        let (input, output) = (input.exactly(numel), output.exactly_mut(numel));
        self.batch_norm_apply(shape, input, coefficients, output)
    }
}

impl<D: Device> CudaBackend<D> {
    fn batch_norm_apply(
        &self,
        shape: NormShape,
        input: Slice<'_, f32>,
        [factor, offset]: [Slice<'_, f32>; 2],
        output: SliceMut<'_, f32>,
    ) -> Result<(), BackendError> {
        let numel = shape.rows * shape.channels;
        let kernel = kernels::batch_norm_apply {
            input,
            factor,
            offset,
            output,
            numel,
            channels: shape.channels,
            relu: shape.relu,
        };
        self.each(kernel, numel)
    }
}
