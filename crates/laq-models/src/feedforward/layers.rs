//! The layers of a feedforward network, with the buffers that each one reads and writes.

use std::ops::Range;

use laq_tensor::{
    Backend, BackendError, ConvolutionShape, DenseShape, NormShape, PoolShape, Tensor,
};

use super::spec::{LayerKind, LayerSpec};
use crate::parameter::Parameter;
use crate::profile::{Work, floats};

/// Statistics that batch normalization uses.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Statistics {
    Batch,
    Running,
}

/// Indices into the network's list of buffers, assigned when the network is built.
#[derive(Clone, Copy)]
pub(super) struct BufferSlots {
    pub(super) input: usize,
    /// Equal to `input` for ReLU, which works in place.
    pub(super) output: usize,
    pub(super) output_gradient: usize,
    /// Equal to `output_gradient` for layers whose backward pass works in place. `None` for the
    /// first layer.
    pub(super) input_gradient: Option<usize>,
}

/// A layer of the network.
pub(super) struct Layer<B: Backend> {
    /// Prefix of its parameters' names; the layers of one block share it.
    pub(super) name: String,
    /// Range of its parameters in the network's list.
    pub(super) parameters: Range<usize>,
    pub(super) slots: BufferSlots,
    pub(super) operation: Operation<B>,
}

pub(super) enum Operation<B: Backend> {
    Convolution(ConvolutionShape, B::ConvolutionWorkspace),
    Dense(DenseShape),
    MaxPool(PoolShape, B::Buffer<u8>),
    BatchNorm(BatchNorm<B>),
    /// Of so many numbers.
    Relu(usize),
}

/// Batch normalization, with optional ReLU.
pub(super) struct BatchNorm<B: Backend> {
    pub(super) shape: NormShape,
    pub(super) workspace: B::NormWorkspace,
    /// Running averages.
    pub(super) mean: Tensor<B>,
    pub(super) variance: Tensor<B>,
}

impl<B: Backend> Operation<B> {
    pub(super) fn new(
        backend: &B,
        spec: &LayerSpec,
        batch: usize,
        epsilon: f32,
    ) -> Result<Self, BackendError> {
        let input = spec.input;
        Ok(match spec.kind {
            LayerKind::Convolution { filters, .. } => {
                let shape = ConvolutionShape {
                    batch,
                    height: input.height,
                    width: input.width,
                    in_channels: input.channels,
                    out_channels: filters,
                };
                Operation::Convolution(shape, backend.convolution_workspace(shape)?)
            }
            LayerKind::Dense { units, .. } => Operation::Dense(DenseShape {
                rows: batch,
                inputs: input.elements(),
                outputs: units,
            }),
            LayerKind::MaxPool => {
                let shape = PoolShape {
                    batch,
                    height: input.height,
                    width: input.width,
                    channels: input.channels,
                };
                let argmax = backend.indices(shape.outputs(), PoolShape::WINDOW)?;
                Operation::MaxPool(shape, argmax)
            }
            LayerKind::BatchNorm { relu } => {
                let shape = NormShape {
                    rows: batch * input.height * input.width,
                    channels: input.channels,
                    epsilon,
                    relu,
                };
                let mut variance = backend.zeros(&[shape.channels])?;
                backend.write(&vec![1.0; shape.channels], &mut variance)?;
                Operation::BatchNorm(BatchNorm {
                    shape,
                    workspace: backend.norm_workspace(shape)?,
                    mean: backend.zeros(&[shape.channels])?,
                    variance,
                })
            }
            LayerKind::Relu => Operation::Relu(batch * input.elements()),
        })
    }
}

impl<B: Backend> Layer<B> {
    pub(super) fn forward(
        &mut self,
        backend: &B,
        parameters: &[Parameter<B>],
        statistics: Statistics,
        buffers: &mut [Tensor<B>],
    ) -> Result<(), BackendError> {
        let parameters = &parameters[self.parameters.clone()];
        let BufferSlots { input, output, .. } = self.slots;
        if let Operation::Relu(_) = self.operation {
            return backend.relu(&mut buffers[output]);
        }
        let [input, output] = disjoint(buffers, [input, output]);
        match &mut self.operation {
            Operation::Convolution(shape, workspace) => {
                let (weight, bias) = weight_and_bias(parameters);
                match statistics {
                    Statistics::Batch => {
                        backend.convolution_forward(*shape, input, weight, bias, workspace, output)
                    }
                    Statistics::Running => backend
                        .convolution_inference(*shape, input, weight, bias, workspace, output),
                }
            }
            Operation::Dense(shape) => {
                let (weight, bias) = weight_and_bias(parameters);
                backend.dense_forward(*shape, input, weight, bias, output)
            }
            Operation::MaxPool(shape, argmax) => {
                backend.max_pool_forward(*shape, input, argmax, output)
            }
            Operation::BatchNorm(norm) => {
                let (scale, shift) = (parameters[0].value(), parameters[1].value());
                let (shape, workspace) = (norm.shape, &mut norm.workspace);
                match statistics {
                    Statistics::Batch => {
                        backend.batch_norm_forward(shape, input, scale, shift, workspace, output)
                    }
                    Statistics::Running => backend.batch_norm_inference(
                        shape,
                        input,
                        scale,
                        shift,
                        &norm.mean,
                        &norm.variance,
                        workspace,
                        output,
                    ),
                }
            }
            Operation::Relu(_) => unreachable!("handled in place"),
        }
    }

    /// What [`Layer::forward`] computes.
    pub(super) fn forward_work(&self) -> (&'static str, Work) {
        match &self.operation {
            Operation::Convolution(shape, _) => ("convolution", Work::convolution(*shape, 1)),
            Operation::Dense(shape) => ("product", Work::dense(*shape, 1)),
            Operation::MaxPool(shape, _) => ("max pooling", Work::pool(*shape)),
            Operation::BatchNorm(norm) => ("batch norm", Work::norm(norm.shape)),
            Operation::Relu(count) => ("ReLU", floats(*count, 2)),
        }
    }

    /// What [`Layer::backward`] computes.
    pub(super) fn backward_work(&self) -> (&'static str, Work) {
        let passes = 1 + usize::from(self.slots.input_gradient.is_some());
        match &self.operation {
            Operation::Convolution(shape, _) => {
                let work = Work::convolution(*shape, passes);
                ("gradients of the convolution", work)
            }
            Operation::Dense(shape) => ("gradients of the product", Work::dense(*shape, passes)),
            Operation::MaxPool(shape, _) => ("gradient of max pooling", Work::pool(*shape)),
            Operation::BatchNorm(norm) => {
                let work = Work::norm_backward(norm.shape);
                ("gradients of batch norm", work)
            }
            Operation::Relu(count) => ("gradient of ReLU", floats(*count, 3)),
        }
    }

    /// Computes the gradients of the parameters and of the input from the output's gradient.
    pub(super) fn backward(
        &mut self,
        backend: &B,
        parameters: &mut [Parameter<B>],
        buffers: &mut [Tensor<B>],
    ) -> Result<(), BackendError> {
        let parameters = &mut parameters[self.parameters.clone()];
        let slots = self.slots;
        match &mut self.operation {
            Operation::Convolution(shape, workspace) => {
                let (input, gradient, input_gradient) = product_operands(buffers, slots);
                let [weight, bias @ ..] = parameters else {
                    unreachable!("a convolution has a weight");
                };
                let (weight, weight_gradient) = weight.value_and_gradient();
                backend.convolution_backward(
                    *shape,
                    input,
                    weight,
                    gradient,
                    workspace,
                    input_gradient,
                    weight_gradient,
                    bias.first_mut().map(|bias| bias.value_and_gradient().1),
                )
            }
            Operation::Dense(shape) => {
                let (input, gradient, input_gradient) = product_operands(buffers, slots);
                let [weight, bias @ ..] = parameters else {
                    unreachable!("a dense layer has a weight");
                };
                let (weight, weight_gradient) = weight.value_and_gradient();
                backend.dense_backward(
                    *shape,
                    input,
                    weight,
                    gradient,
                    input_gradient,
                    weight_gradient,
                    bias.first_mut().map(|bias| bias.value_and_gradient().1),
                )
            }
            Operation::MaxPool(shape, argmax) => {
                let input_gradient = slots
                    .input_gradient
                    .expect("pooling is not the first layer");
                let [gradient, input_gradient] =
                    disjoint(buffers, [slots.output_gradient, input_gradient]);
                backend.max_pool_backward(*shape, argmax, gradient, input_gradient)
            }
            Operation::BatchNorm(norm) => {
                let [input, gradient] = disjoint(buffers, [slots.input, slots.output_gradient]);
                let [scale, shift] = parameters else {
                    unreachable!("batch normalization has a scale and a shift");
                };
                let (scale, scale_gradient) = scale.value_and_gradient();
                backend.batch_norm_backward(
                    norm.shape,
                    input,
                    scale,
                    &mut norm.workspace,
                    gradient,
                    scale_gradient,
                    shift.value_and_gradient().1,
                )
            }
            Operation::Relu(_) => {
                let [output, gradient] = disjoint(buffers, [slots.output, slots.output_gradient]);
                backend.relu_backward(output, gradient)
            }
        }
    }
}

fn disjoint<T, const N: usize>(buffers: &mut [T], indices: [usize; N]) -> [&mut T; N] {
    buffers
        .get_disjoint_mut(indices)
        .expect("operands in different buffers")
}

fn weight_and_bias<B: Backend>(parameters: &[Parameter<B>]) -> (&Tensor<B>, Option<&Tensor<B>>) {
    (
        parameters[0].value(),
        parameters.get(1).map(Parameter::value),
    )
}

/// Input, output gradient and input gradient of a convolution or dense layer.
fn product_operands<T>(buffers: &mut [T], slots: BufferSlots) -> (&T, &T, Option<&mut T>) {
    match slots.input_gradient {
        Some(input_gradient) => {
            let indices = [slots.input, slots.output_gradient, input_gradient];
            let [input, gradient, input_gradient] = disjoint(buffers, indices);
            (input, gradient, Some(input_gradient))
        }
        None => (&buffers[slots.input], &buffers[slots.output_gradient], None),
    }
}
