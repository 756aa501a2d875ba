//! Convolutions: by a library where the device has one, else as products with the neighbours of every pixel.

use laq_tensor::{BackendError, ConvolutionShape, DenseShape};

use super::{CudaBackend, Tensor, dense, int, long, plain};
use crate::device::{Device, Pass, Product};

/// What a convolution is done by.
#[derive(Debug)]
pub enum ConvolutionSpace<D: Device> {
    /// A library.
    Library(D::Convolution),
    /// Products, with the neighbours of every pixel of the last forward pass.
    Products(D::Memory),
}

pub(super) fn space<D: Device>(
    backend: &CudaBackend<D>,
    shape: ConvolutionShape,
) -> Result<ConvolutionSpace<D>, BackendError> {
    Ok(match backend.device.convolution(shape)? {
        Some(convolution) => ConvolutionSpace::Library(convolution),
        None => ConvolutionSpace::Products(backend.floats(shape.pixels() * shape.filter())?),
    })
}

pub(super) fn forward<D: Device>(
    backend: &CudaBackend<D>,
    shape: ConvolutionShape,
    input: &Tensor<D>,
    weight: &Tensor<D>,
    bias: Option<&Tensor<D>>,
    space: &mut ConvolutionSpace<D>,
    output: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let ConvolutionShape {
        height,
        width,
        in_channels: inputs,
        out_channels: outputs,
        ..
    } = shape;
    let (pixels, filter) = (shape.pixels(), shape.filter());
    let input = backend.pointer(input, pixels * inputs);
    let weight = backend.pointer(weight, outputs * filter);
    let output = backend.pointer(output, pixels * outputs);
    let bias = bias.map(|bias| backend.pointer(bias, outputs));
    let columns = match space {
        ConvolutionSpace::Library(convolution) => {
            if let Some(bias) = bias {
                dense::spread(backend, bias, output, pixels, outputs)?;
            }
            let pass = Pass::Output {
                input,
                weight,
                output,
                add: bias.is_some(),
            };
            return convolve(backend, convolution, &pass);
        }
        ConvolutionSpace::Products(columns) => backend.device.address(columns),
    };
    backend.each(
        "neighbours",
        pixels * filter,
        &[
            input.into(),
            columns.into(),
            long(pixels * filter),
            int(height),
            int(width),
            int(inputs),
        ],
    )?;
    dense::affine(backend, as_dense(shape), [columns, weight, output], bias)
}

pub(super) fn backward<D: Device>(
    backend: &CudaBackend<D>,
    shape: ConvolutionShape,
    input: &Tensor<D>,
    weight: &Tensor<D>,
    output_gradient: &Tensor<D>,
    space: &mut ConvolutionSpace<D>,
    input_gradient: Option<&mut Tensor<D>>,
    weight_gradient: &mut Tensor<D>,
    bias_gradient: Option<&mut Tensor<D>>,
) -> Result<(), BackendError> {
    let ConvolutionShape {
        height,
        width,
        in_channels: inputs,
        out_channels: outputs,
        ..
    } = shape;
    let (pixels, filter) = (shape.pixels(), shape.filter());
    let from_above = backend.pointer(output_gradient, pixels * outputs);
    let weight = backend.pointer(weight, outputs * filter);
    let weight_gradient = backend.pointer(weight_gradient, outputs * filter);
    let input_gradient = input_gradient.map(|gradient| backend.pointer(gradient, pixels * inputs));
    let bias_gradient = bias_gradient.map(|bias| backend.pointer(bias, outputs));
    let columns = match space {
        ConvolutionSpace::Library(convolution) => {
            let pass = Pass::Weight {
                input: backend.pointer(input, pixels * inputs),
                output_gradient: from_above,
                weight_gradient,
            };
            convolve(backend, convolution, &pass)?;
            if let Some(bias_gradient) = bias_gradient {
                dense::sum_columns(backend, from_above, pixels, outputs, bias_gradient)?;
            }
            let Some(input_gradient) = input_gradient else {
                return Ok(());
            };
            let pass = Pass::Input {
                output_gradient: from_above,
                weight,
                input_gradient,
            };
            return convolve(backend, convolution, &pass);
        }
        ConvolutionSpace::Products(columns) => backend.device.address(columns),
    };
    let operands = [columns, from_above, weight_gradient];
    dense::affine_gradients(backend, as_dense(shape), operands, bias_gradient)?;
    let Some(input_gradient) = input_gradient else {
        return Ok(());
    };
    // The neighbours have done their work; their gradients take their place.
    backend.multiply(Product {
        m: pixels,
        n: filter,
        k: outputs,
        a: plain(from_above),
        b: plain(weight),
        c: columns,
        add: false,
    })?;
    backend.each(
        "from_neighbours",
        pixels * inputs,
        &[
            columns.into(),
            input_gradient.into(),
            long(pixels * inputs),
            int(height),
            int(width),
            int(inputs),
        ],
    )
}

fn convolve<D: Device>(
    backend: &CudaBackend<D>,
    convolution: &D::Convolution,
    pass: &Pass,
) -> Result<(), BackendError> {
    // SAFETY: as for `launch`.
    unsafe { backend.device.convolve(convolution, pass) }
}

/// The product that a convolution of its neighbours is.
fn as_dense(shape: ConvolutionShape) -> DenseShape {
    DenseShape {
        rows: shape.pixels(),
        inputs: shape.filter(),
        outputs: shape.out_channels,
    }
}
