//! Convolutions: by a library if the device has one for the shape, otherwise as products (im2col).

use std::sync::Arc;

use laq_tensor::{BackendError, Convolution, ConvolutionShape, DenseShape};

use super::{CudaBackend, plain};
use crate::buffer::{Buffer, Slice};
use crate::device::{Device, Pass};
use crate::kernels;

/// What a convolution is computed by.
#[derive(Debug)]
pub struct ConvolutionWorkspace<D: Device>(Algorithm<D>);

#[derive(Debug)]
enum Algorithm<D: Device> {
    Library(Arc<D::Convolution>),
    /// Products, with the im2col matrix of the last forward pass.
    Products(Buffer<D, f32>),
}

impl<D: Device> Convolution for CudaBackend<D> {
    type ConvolutionWorkspace = ConvolutionWorkspace<D>;

    fn convolution_workspace(
        &self,
        shape: ConvolutionShape,
    ) -> Result<ConvolutionWorkspace<D>, BackendError> {
        let algorithm = match self.device.convolution(shape)? {
            Some(convolution) => Algorithm::Library(Arc::new(convolution)),
            None => Algorithm::Products(self.buffer(shape.pixels() * shape.filter())?),
        };
        Ok(ConvolutionWorkspace(algorithm))
    }

    fn convolution_forward(
        &self,
        shape: ConvolutionShape,
        input: &Buffer<D, f32>,
        weight: &Buffer<D, f32>,
        bias: Option<&Buffer<D, f32>>,
        workspace: &mut ConvolutionWorkspace<D>,
        output: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let ConvolutionShape {
            height,
            width,
            in_channels: channels,
            out_channels,
            ..
        } = shape;
        let (pixels, filter) = (shape.pixels(), shape.filter());
        let input = input.exactly(pixels * channels);
        let weight = weight.exactly(out_channels * filter);
        let output = output.exactly_mut(pixels * out_channels);
        let bias = bias.map(|bias| bias.exactly(out_channels));
        match &mut workspace.0 {
            Algorithm::Library(convolution) => {
                if let Some(bias) = bias {
                    self.broadcast_bias(bias, output, out_channels)?;
                }
                let pass = Pass::Output {
                    input: input.address().0,
                    weight: weight.address().0,
                    output: output.read().address().0,
                    add: bias.is_some(),
                };
                self.convolve(convolution, &pass, [input, weight, output.read()])
            }
            Algorithm::Products(columns) => {
                let numel = pixels * filter;
                let columns = columns.exactly_mut(numel);
                let kernel = kernels::im2col {
                    input,
                    columns,
                    numel,
                    height,
                    width,
                    channels,
                };
                self.each(kernel, numel)?;
                self.affine(as_dense(shape), columns.read(), weight, bias, output)
            }
        }
    }

    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &Buffer<D, f32>,
        weight: &Buffer<D, f32>,
        output_gradient: &Buffer<D, f32>,
        workspace: &mut ConvolutionWorkspace<D>,
        input_gradient: Option<&mut Buffer<D, f32>>,
        weight_gradient: &mut Buffer<D, f32>,
        bias_gradient: Option<&mut Buffer<D, f32>>,
    ) -> Result<(), BackendError> {
        let ConvolutionShape {
            height,
            width,
            in_channels: channels,
            out_channels,
            ..
        } = shape;
        let (pixels, filter) = (shape.pixels(), shape.filter());
        let input = input.exactly(pixels * channels);
        let weight = weight.exactly(out_channels * filter);
        let dy = output_gradient.exactly(pixels * out_channels);
        let dw = weight_gradient.exactly_mut(out_channels * filter);
        let dx = input_gradient.map(|gradient| gradient.exactly_mut(pixels * channels));
        let db = bias_gradient.map(|gradient| gradient.exactly_mut(out_channels));
        match &mut workspace.0 {
            Algorithm::Library(convolution) => {
                let pass = Pass::Weight {
                    input: input.address().0,
                    output_gradient: dy.address().0,
                    weight_gradient: dw.read().address().0,
                };
                self.convolve(convolution, &pass, [input, dy, dw.read()])?;
                if let Some(db) = db {
                    self.sum_rows(dy, pixels, out_channels, db)?;
                }
                let Some(dx) = dx else {
                    return Ok(());
                };
                let pass = Pass::Input {
                    output_gradient: dy.address().0,
                    weight: weight.address().0,
                    input_gradient: dx.read().address().0,
                };
                self.convolve(convolution, &pass, [dy, weight, dx.read()])
            }
            Algorithm::Products(columns) => {
                let columns = columns.exactly_mut(pixels * filter);
                self.affine_gradients(as_dense(shape), columns.read(), dy, dw, db)?;
                let Some(dx) = dx else {
                    return Ok(());
                };
                // The gradient of the im2col matrix overwrites the matrix.
                let sizes = [pixels, filter, out_channels];
                self.multiply(sizes, plain(dy), plain(weight), columns, false)?;
                let numel = pixels * channels;
                let kernel = kernels::col2im {
                    columns: columns.read(),
                    input: dx,
                    numel,
                    height,
                    width,
                    channels,
                };
                self.each(kernel, numel)
            }
        }
    }
}

impl<D: Device> CudaBackend<D> {
    /// One pass of a library's convolution on these operands.
    fn convolve(
        &self,
        convolution: &Arc<D::Convolution>,
        pass: &Pass,
        operands: [Slice<'_, f32>; 3],
    ) -> Result<(), BackendError> {
        self.retain(convolution);
        for operand in operands {
            self.retain(operand.owner());
        }
        // SAFETY: the caller has compared the sizes of the operands with the shape; operands and
        // convolution live as in `submit`.
        unsafe { self.device.convolve(convolution, pass) }
    }
}

/// The product that the convolution of an im2col matrix is.
fn as_dense(shape: ConvolutionShape) -> DenseShape {
    DenseShape {
        rows: shape.pixels(),
        inputs: shape.filter(),
        outputs: shape.out_channels,
    }
}
