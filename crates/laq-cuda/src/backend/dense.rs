//! Dense layers: products, biases and their gradients.

use laq_tensor::{BackendError, DenseShape};

use super::{CudaBackend, Tensor, chunks_of, int, long, plain, transposed};
use crate::device::{Device, Product};

pub(super) fn forward<D: Device>(
    backend: &CudaBackend<D>,
    shape: DenseShape,
    input: &Tensor<D>,
    weight: &Tensor<D>,
    bias: Option<&Tensor<D>>,
    output: &mut Tensor<D>,
) -> Result<(), BackendError> {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let operands = [
        backend.pointer(input, rows * inputs),
        backend.pointer(weight, outputs * inputs),
        backend.pointer(output, rows * outputs),
    ];
    let bias = bias.map(|bias| backend.pointer(bias, outputs));
    affine(backend, shape, operands, bias)
}

pub(super) fn backward<D: Device>(
    backend: &CudaBackend<D>,
    shape: DenseShape,
    input: &Tensor<D>,
    weight: &Tensor<D>,
    output_gradient: &Tensor<D>,
    input_gradient: Option<&mut Tensor<D>>,
    weight_gradient: &mut Tensor<D>,
    bias_gradient: Option<&mut Tensor<D>>,
) -> Result<(), BackendError> {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    let from_above = backend.pointer(output_gradient, rows * outputs);
    if let Some(input_gradient) = input_gradient {
        backend.multiply(Product {
            m: rows,
            n: inputs,
            k: outputs,
            a: plain(from_above),
            b: plain(backend.pointer(weight, outputs * inputs)),
            c: backend.pointer(input_gradient, rows * inputs),
            add: false,
        })?;
    }
    let operands = [
        backend.pointer(input, rows * inputs),
        from_above,
        backend.pointer(weight_gradient, outputs * inputs),
    ];
    let bias_gradient = bias_gradient.map(|bias| backend.pointer(bias, outputs));
    affine_gradients(backend, shape, operands, bias_gradient)
}

/// y ← x Wᵀ + b.
pub(super) fn affine<D: Device>(
    backend: &CudaBackend<D>,
    shape: DenseShape,
    [input, weight, output]: [u64; 3],
    bias: Option<u64>,
) -> Result<(), BackendError> {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    if let Some(bias) = bias {
        spread(backend, bias, output, rows, outputs)?;
    }
    backend.multiply(Product {
        m: rows,
        n: outputs,
        k: inputs,
        a: plain(input),
        b: transposed(weight),
        c: output,
        add: bias.is_some(),
    })
}

/// ∂W ← ∂yᵀ x, and ∂b where there is a place for it.
pub(super) fn affine_gradients<D: Device>(
    backend: &CudaBackend<D>,
    shape: DenseShape,
    [input, output_gradient, weight_gradient]: [u64; 3],
    bias_gradient: Option<u64>,
) -> Result<(), BackendError> {
    let DenseShape {
        rows,
        inputs,
        outputs,
    } = shape;
    backend.multiply(Product {
        m: outputs,
        n: inputs,
        k: rows,
        a: transposed(output_gradient),
        b: plain(input),
        c: weight_gradient,
        add: false,
    })?;
    match bias_gradient {
        Some(bias_gradient) => sum_columns(backend, output_gradient, rows, outputs, bias_gradient),
        None => Ok(()),
    }
}

/// Every row of the output becomes the bias.
pub(super) fn spread<D: Device>(
    backend: &CudaBackend<D>,
    bias: u64,
    output: u64,
    rows: usize,
    columns: usize,
) -> Result<(), BackendError> {
    let count = rows * columns;
    let arguments = [bias.into(), output.into(), long(count), int(columns)];
    backend.each("spread_bias", count, &arguments)
}

/// The sums of all rows of a matrix.
pub(super) fn sum_columns<D: Device>(
    backend: &CudaBackend<D>,
    values: u64,
    rows: usize,
    columns: usize,
    sums: u64,
) -> Result<(), BackendError> {
    let (chunk, chunks) = chunks_of(rows);
    let partial = backend.scratch(chunks * columns)?.into();
    let arguments = [values.into(), partial, int(rows), int(columns), int(chunk)];
    backend.columns("column_sums", columns, chunks, &arguments)?;
    let arguments = [partial, int(chunks), int(columns), sums.into()];
    backend.columns("add_chunks", columns, 1, &arguments)
}
