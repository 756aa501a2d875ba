//! The feedforward networks on images (PAPER.md §4): stages of 3 × 3 convolutions that end in max pooling, then dense
//! layers. The MLP is the network without convolutions.
//!
//! A network is a row of blocks. A block is a convolution or a dense layer, then max pooling at the end of a stage, then
//! batch normalization or a bias, then ReLU; the last block has no ReLU.

use std::collections::BTreeMap;

use laq_solvers::Method;
use laq_tensor::{
    Backend, BackendError, ConvolutionShape, DenseShape, Loss, NormShape, PoolShape, Tensor,
};

use crate::ModelError;
use crate::batch::{Batch, ImageShape};
use crate::dataset::{DeviceDataset, DeviceExamples, Examples, IndexRange};
use crate::init::Init;
use crate::network::{Network, locate_non_finite_weights, setting, wrong_kind};
use crate::parameter::{Parameter, ParameterSpec, StateTensor, WHOLE, f32s, find, values};

/// The settings of a feedforward network.
///
/// | setting | MNIST | CIFAR-10 | CIFAR-100 | SVHN |
/// |---|---|---|---|---|
/// | `input` | 28 × 28 × 1 | 32 × 32 × 3 | 32 × 32 × 3 | 32 × 32 × 3 |
/// | `filters` | – | 128, 256, 512 | 128, 256, 512 | 64, 128, 256 |
/// | `units` | 2048, 2048, 2048 | 1024, 1024 | 1024, 1024 | 1024, 1024 |
/// | `output_batch_norm` | yes | yes | no | yes |
/// | `loss` | squared hinge | squared hinge | cross-entropy | squared hinge |
#[derive(Clone, Debug, PartialEq)]
pub struct FeedforwardSpec {
    /// The size of an image.
    pub input: ImageShape,
    /// Classes of images, which are the outputs; at most 256.
    pub classes: usize,
    /// Filters of the convolutions of each stage; a stage ends in 2 × 2 max pooling.
    pub filters: Vec<usize>,
    /// Convolutions of a stage. Default 2.
    pub convolutions: usize,
    /// Units of each hidden dense layer.
    pub units: Vec<usize>,
    /// Whether the hidden layers are normalized before ReLU; otherwise they have a bias. Default: they are.
    pub batch_norm: bool,
    /// Whether the outputs are normalized; otherwise they have a bias. Default: they are.
    pub output_batch_norm: bool,
    /// ε of batch normalization. Default 1e-4.
    pub norm_epsilon: f32,
    /// The weight of the newest batch in the running averages. Default 0.1.
    pub norm_factor: f32,
    /// The loss. Default: the squared hinge.
    pub loss: Loss,
}

impl FeedforwardSpec {
    /// The paper's MLP 784–2048–2048–2048–10 for MNIST.
    pub fn mnist() -> Self {
        FeedforwardSpec {
            input: ImageShape {
                height: 28,
                width: 28,
                channels: 1,
            },
            classes: 10,
            filters: Vec::new(),
            convolutions: 2,
            units: vec![2048; 3],
            batch_norm: true,
            output_batch_norm: true,
            norm_epsilon: 1e-4,
            norm_factor: 0.1,
            loss: Loss::SquaredHinge,
        }
    }

    /// The paper's VGG for CIFAR-10.
    pub fn cifar10() -> Self {
        FeedforwardSpec {
            input: ImageShape {
                height: 32,
                width: 32,
                channels: 3,
            },
            filters: vec![128, 256, 512],
            units: vec![1024; 2],
            ..Self::mnist()
        }
    }

    /// The paper's VGG for CIFAR-100: biases and softmax at the end.
    pub fn cifar100() -> Self {
        FeedforwardSpec {
            classes: 100,
            output_batch_norm: false,
            loss: Loss::CrossEntropy,
            ..Self::cifar10()
        }
    }

    /// The paper's VGG for SVHN, with half the filters.
    pub fn svhn() -> Self {
        FeedforwardSpec {
            filters: vec![64, 128, 256],
            ..Self::cifar10()
        }
    }

    fn check(&self) -> Result<(), ModelError> {
        let ImageShape {
            height,
            width,
            channels,
        } = self.input;
        setting(
            height > 0 && width > 0 && channels > 0,
            "input",
            format!("{height} × {width} × {channels}"),
            "at least one pixel and one channel",
        )?;
        setting(
            (2..=256).contains(&self.classes),
            "classes",
            self.classes,
            "2 to 256",
        )?;
        let list = |sizes: &[usize]| format!("{sizes:?}");
        setting(
            !self.filters.contains(&0),
            "filters",
            list(&self.filters),
            "at least 1 each",
        )?;
        let halvings = u32::try_from(self.filters.len()).unwrap_or(u32::MAX);
        let smaller = height.min(width);
        setting(
            smaller.checked_shr(halvings).unwrap_or(0) > 0,
            "filters",
            list(&self.filters),
            "fewer stages: each halves the image, and nothing would be left of it",
        )?;
        setting(
            self.convolutions > 0,
            "convolutions",
            self.convolutions,
            "at least 1",
        )?;
        setting(
            !self.units.contains(&0),
            "units",
            list(&self.units),
            "at least 1 each",
        )?;
        setting(
            self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite(),
            "norm_epsilon",
            self.norm_epsilon,
            "a number above 0",
        )?;
        setting(
            self.norm_factor > 0.0 && self.norm_factor <= 1.0,
            "norm_factor",
            self.norm_factor,
            "above 0, and at most 1",
        )
    }

    /// The blocks from the image to the outputs.
    pub(crate) fn blocks(&self) -> Result<Vec<BlockSpec>, ModelError> {
        self.check()?;
        let mut blocks = Vec::new();
        let mut image = self.input;
        for (stage, &filters) in self.filters.iter().enumerate() {
            for number in 1..=self.convolutions {
                let pooled = number == self.convolutions;
                let block = BlockSpec {
                    name: format!("conv{}", stage * self.convolutions + number),
                    linear: LinearSpec::Convolution(image),
                    outputs: filters,
                    pooled,
                    batch_norm: self.batch_norm,
                    relu: true,
                };
                image = block.output();
                blocks.push(block);
            }
        }
        let mut inputs = image.numbers();
        let outputs = (self.units.iter()).chain(std::iter::once(&self.classes));
        for (index, &outputs) in outputs.enumerate() {
            let last = index == self.units.len();
            blocks.push(BlockSpec {
                name: if last {
                    "output".into()
                } else {
                    format!("dense{}", index + 1)
                },
                linear: LinearSpec::Dense(inputs),
                outputs,
                pooled: false,
                batch_norm: if last {
                    self.output_batch_norm
                } else {
                    self.batch_norm
                },
                relu: !last,
            });
            inputs = outputs;
        }
        Ok(blocks)
    }
}

/// The linear map of a block, by what goes in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinearSpec {
    /// A 3 × 3 convolution of images.
    Convolution(ImageShape),
    /// A product with so many numbers an image.
    Dense(usize),
}

/// A block before it has values.
#[derive(Clone, Debug)]
pub(crate) struct BlockSpec {
    pub(crate) name: String,
    pub(crate) linear: LinearSpec,
    /// Filters or units.
    pub(crate) outputs: usize,
    pub(crate) pooled: bool,
    pub(crate) batch_norm: bool,
    pub(crate) relu: bool,
}

impl BlockSpec {
    /// What comes out of the linear map for each image; a dense layer's is one pixel.
    fn product(&self) -> ImageShape {
        let (height, width) = match self.linear {
            LinearSpec::Convolution(image) => (image.height, image.width),
            LinearSpec::Dense(_) => (1, 1),
        };
        ImageShape {
            height,
            width,
            channels: self.outputs,
        }
    }

    /// What comes out of the block.
    pub(crate) fn output(&self) -> ImageShape {
        let product = self.product();
        let halve = |size: usize| if self.pooled { size / 2 } else { size };
        ImageShape {
            height: halve(product.height),
            width: halve(product.width),
            channels: product.channels,
        }
    }

    pub(crate) fn weight_shape(&self) -> Vec<usize> {
        match self.linear {
            LinearSpec::Convolution(image) => vec![self.outputs, 3, 3, image.channels],
            LinearSpec::Dense(inputs) => vec![self.outputs, inputs],
        }
    }

    pub(crate) fn weights(&self) -> usize {
        self.weight_shape().iter().product()
    }

    /// Multiplications with a weight for one image.
    pub(crate) fn multiplications(&self) -> usize {
        let product = self.product();
        product.height * product.width * self.weights()
    }

    /// The weight first; then the bias, or scale and shift of the normalization.
    ///
    /// The weight starts uniform in ±√(1.5/(fan_in + fan_out)), without quantization in ±√(6/(fan_in + fan_out)); the
    /// fans of a convolution count its nine taps (PAPER.md §4).
    fn parameters(&self, quantized: bool) -> Vec<ParameterSpec> {
        let (fan_in, fan_out) = match self.linear {
            LinearSpec::Convolution(image) => (9 * image.channels, 9 * self.outputs),
            LinearSpec::Dense(inputs) => (inputs, self.outputs),
        };
        let spread = if quantized { 1.5 } else { 6.0 };
        let range = (spread / (fan_in + fan_out) as f64).sqrt() as f32;
        let of_channels = |part: &str, value| ParameterSpec {
            name: format!("{}.{part}", self.name),
            shape: vec![self.outputs],
            init: Init::Blocks(vec![value]),
            blocks: Vec::new(),
        };
        let mut parameters = vec![ParameterSpec {
            name: format!("{}.weight", self.name),
            shape: self.weight_shape(),
            init: Init::Uniform { range },
            blocks: vec![WHOLE],
        }];
        if self.batch_norm {
            parameters.extend([
                of_channels("norm.scale", 1.0),
                of_channels("norm.shift", 0.0),
            ]);
        } else {
            parameters.push(of_channels("bias", 0.0));
        }
        parameters
    }
}

/// The network and the buffers of one batch.
pub(crate) struct Feedforward<B: Backend> {
    /// Block by block, in the order of [`BlockSpec::parameters`].
    parameters: Vec<Parameter<B>>,
    blocks: Vec<Block<B>>,
    input: ImageShape,
    batch: usize,
    classes: usize,
    norm_factor: f32,
    loss: Loss,
    pixels: Tensor<B>,
    targets: B::Buffer<u8>,
    /// Images of the batch that was taken; an evaluation may have fewer than there is room for.
    batch_rows: usize,
    /// A whole batch in host memory, for one that is not.
    padded: Padded,
}

#[derive(Default)]
struct Padded {
    pixels: Vec<f32>,
    labels: Vec<u8>,
}

/// A block with its buffers; its parameters are among those of the network.
struct Block<B: Backend> {
    name: String,
    /// How many of the network's parameters are this block's.
    parameters: usize,
    linear: Linear<B>,
    /// What comes out of the linear map, and the loss's gradient by it.
    product: Tensor<B>,
    product_gradient: Tensor<B>,
    pool: Option<Pool<B>>,
    norm: Option<Norm<B>>,
    /// Whether ReLU follows; after a normalization, that does it.
    relu: bool,
}

enum Linear<B: Backend> {
    Convolution(ConvolutionShape, B::ConvolutionWorkspace),
    Dense(DenseShape),
}

struct Pool<B: Backend> {
    shape: PoolShape,
    argmax: B::Buffer<u8>,
    output: Tensor<B>,
    gradient: Tensor<B>,
}

struct Norm<B: Backend> {
    shape: NormShape,
    workspace: B::NormWorkspace,
    mean: Tensor<B>,
    variance: Tensor<B>,
    output: Tensor<B>,
}

/// Where the batch normalizations of a pass have their statistics from.
#[derive(Clone, Copy, PartialEq)]
enum Statistics {
    OfBatch,
    Running,
}

impl<B: Backend> Block<B> {
    fn new(
        backend: &B,
        spec: &BlockSpec,
        parameters: usize,
        batch: usize,
        epsilon: f32,
    ) -> Result<Self, BackendError> {
        let (product, output) = (spec.product(), spec.output());
        let tensor = |image: ImageShape| backend.zeros(&[batch, image.numbers()]);
        let linear = match spec.linear {
            LinearSpec::Convolution(image) => {
                let shape = ConvolutionShape {
                    batch,
                    height: image.height,
                    width: image.width,
                    in_channels: image.channels,
                    out_channels: spec.outputs,
                };
                Linear::Convolution(shape, backend.convolution_workspace(shape)?)
            }
            LinearSpec::Dense(inputs) => Linear::Dense(DenseShape {
                rows: batch,
                inputs,
                outputs: spec.outputs,
            }),
        };
        let pool = if spec.pooled {
            let shape = PoolShape {
                batch,
                height: product.height,
                width: product.width,
                channels: product.channels,
            };
            Some(Pool {
                argmax: backend.indices(shape.outputs(), PoolShape::WINDOW)?,
                output: tensor(output)?,
                gradient: tensor(output)?,
                shape,
            })
        } else {
            None
        };
        let norm = if spec.batch_norm {
            let shape = NormShape {
                rows: batch * output.height * output.width,
                channels: output.channels,
                epsilon,
                relu: spec.relu,
            };
            let mut variance = backend.zeros(&[shape.channels])?;
            backend.write(&vec![1.0; shape.channels], &mut variance)?;
            Some(Norm {
                workspace: backend.norm_workspace(shape)?,
                mean: backend.zeros(&[shape.channels])?,
                variance,
                output: tensor(output)?,
                shape,
            })
        } else {
            None
        };
        Ok(Block {
            name: spec.name.clone(),
            parameters,
            linear,
            product: tensor(product)?,
            product_gradient: tensor(product)?,
            pool,
            norm,
            relu: spec.relu,
        })
    }

    /// What the block hands on.
    fn output(&self) -> &Tensor<B> {
        match (&self.norm, &self.pool) {
            (Some(norm), _) => &norm.output,
            (None, Some(pool)) => &pool.output,
            (None, None) => &self.product,
        }
    }

    fn output_mut(&mut self) -> &mut Tensor<B> {
        match (&mut self.norm, &mut self.pool) {
            (Some(norm), _) => &mut norm.output,
            (None, Some(pool)) => &mut pool.output,
            (None, None) => &mut self.product,
        }
    }

    /// Swaps the outputs with the room for their gradient.
    fn trade_places(&mut self) {
        match &mut self.norm {
            Some(norm) => std::mem::swap(&mut norm.output, &mut self.product_gradient),
            None => std::mem::swap(&mut self.product, &mut self.product_gradient),
        }
    }

    /// [`Block::output`], and where the block above writes the loss's gradient by it.
    fn output_and_gradient(&mut self) -> (&Tensor<B>, &mut Tensor<B>) {
        match (&self.norm, &mut self.pool) {
            (Some(norm), Some(pool)) => (&norm.output, &mut pool.gradient),
            (Some(norm), None) => (&norm.output, &mut self.product_gradient),
            (None, Some(pool)) => (&pool.output, &mut pool.gradient),
            (None, None) => (&self.product, &mut self.product_gradient),
        }
    }

    fn forward(
        &mut self,
        backend: &B,
        parameters: &[Parameter<B>],
        statistics: Statistics,
        input: &Tensor<B>,
    ) -> Result<(), BackendError> {
        let (weight, rest) = (parameters[0].value(), &parameters[1..]);
        let bias = self.norm.is_none().then(|| rest[0].value());
        match &mut self.linear {
            Linear::Convolution(shape, workspace) => backend.convolution_forward(
                *shape,
                input,
                weight,
                bias,
                workspace,
                &mut self.product,
            )?,
            Linear::Dense(shape) => {
                backend.dense_forward(*shape, input, weight, bias, &mut self.product)?;
            }
        }
        let mut values = &self.product;
        if let Some(pool) = &mut self.pool {
            backend.max_pool_forward(pool.shape, values, &mut pool.argmax, &mut pool.output)?;
            values = &pool.output;
        }
        let Some(norm) = &mut self.norm else {
            return match self.relu {
                true => backend.relu(self.output_mut()),
                false => Ok(()),
            };
        };
        let (scale, shift) = (rest[0].value(), rest[1].value());
        match statistics {
            Statistics::OfBatch => backend.batch_norm_forward(
                norm.shape,
                values,
                scale,
                shift,
                &mut norm.workspace,
                &mut norm.output,
            ),
            Statistics::Running => backend.batch_norm_inference(
                norm.shape,
                values,
                scale,
                shift,
                &norm.mean,
                &norm.variance,
                &mut norm.workspace,
                &mut norm.output,
            ),
        }
    }

    /// From the gradient by the output to the gradients of the parameters and, where there is a place for it, by the
    /// input.
    fn backward(
        &mut self,
        backend: &B,
        parameters: &mut [Parameter<B>],
        input: &Tensor<B>,
        input_gradient: Option<&mut Tensor<B>>,
    ) -> Result<(), BackendError> {
        let (weight, rest) = parameters.split_first_mut().expect("a block has a weight");
        let (values, gradient) = match &mut self.pool {
            Some(pool) => (&pool.output, &mut pool.gradient),
            None => (&self.product, &mut self.product_gradient),
        };
        let mut bias = None;
        match (&mut self.norm, rest) {
            (Some(norm), [scale, shift]) => {
                let (scale, scale_gradient) = scale.value_and_gradient();
                backend.batch_norm_backward(
                    norm.shape,
                    values,
                    scale,
                    &mut norm.workspace,
                    gradient,
                    scale_gradient,
                    shift.value_and_gradient().1,
                )?;
            }
            (_, rest) => {
                if self.relu {
                    backend.relu_backward(values, gradient)?;
                }
                bias = rest.first_mut();
            }
        }
        if let Some(pool) = &self.pool {
            backend.max_pool_backward(
                pool.shape,
                &pool.argmax,
                &pool.gradient,
                &mut self.product_gradient,
            )?;
        }
        let (weight, weight_gradient) = weight.value_and_gradient();
        let bias_gradient = bias.map(|bias| bias.value_and_gradient().1);
        let gradient = &self.product_gradient;
        match &mut self.linear {
            Linear::Convolution(shape, workspace) => backend.convolution_backward(
                *shape,
                input,
                weight,
                gradient,
                workspace,
                input_gradient,
                weight_gradient,
                bias_gradient,
            ),
            Linear::Dense(shape) => backend.dense_backward(
                *shape,
                input,
                weight,
                gradient,
                input_gradient,
                weight_gradient,
                bias_gradient,
            ),
        }
    }
}

impl<B: Backend> Feedforward<B> {
    pub(crate) fn new(
        backend: &B,
        spec: &FeedforwardSpec,
        batch: usize,
        method: &Method,
        seed: u64,
    ) -> Result<Self, ModelError> {
        setting(batch > 0, "batch", batch, "at least 1")?;
        let (mut parameters, mut blocks) = (Vec::new(), Vec::new());
        for block in spec.blocks()? {
            let own = block.parameters(method.quantizer().is_some());
            let count = own.len();
            for parameter in own {
                parameters.push(Parameter::new(backend, parameter, method, seed)?);
            }
            blocks.push(Block::new(
                backend,
                &block,
                count,
                batch,
                spec.norm_epsilon,
            )?);
        }
        Ok(Feedforward {
            parameters,
            blocks,
            input: spec.input,
            batch,
            classes: spec.classes,
            norm_factor: spec.norm_factor,
            loss: spec.loss,
            pixels: backend.zeros(&[batch, spec.input.numbers()])?,
            targets: backend.indices(batch, spec.classes)?,
            batch_rows: 0,
            padded: Padded::default(),
        })
    }

    /// All blocks one after the other; the outputs are left in the last.
    fn run(&mut self, backend: &B, statistics: Statistics) -> Result<(), BackendError> {
        let mut parameters = self.parameters.as_slice();
        for index in 0..self.blocks.len() {
            let (below, from) = self.blocks.split_at_mut(index);
            let block = &mut from[0];
            let input = below.last().map_or(&self.pixels, Block::output);
            let own;
            (own, parameters) = parameters.split_at(block.parameters);
            block.forward(backend, own, statistics, input)?;
        }
        Ok(())
    }

    fn index_range(&self) -> IndexRange {
        IndexRange {
            one: "label",
            all: "classes",
            count: self.classes,
        }
    }

    fn last(&mut self) -> &mut Block<B> {
        self.blocks.last_mut().expect("a network has an output")
    }
}

impl<B: Backend> Network<B> for Feedforward<B> {
    fn parameters(&self) -> &[Parameter<B>] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter<B>] {
        &mut self.parameters
    }

    fn load_batch(&mut self, backend: &B, batch: Batch<'_>, whole: bool) -> Result<(), ModelError> {
        let Batch::Images { pixels, labels } = batch else {
            return Err(ModelError::Batch(
                "a text was given, but this network looks at images".into(),
            ));
        };
        let (count, numbers) = (labels.len(), self.input.numbers());
        let fits = count == self.batch || !whole && (1..self.batch).contains(&count);
        if !fits || pixels.len() != count * numbers {
            let fewer = if whole { "" } else { " or fewer, but not none" };
            return Err(ModelError::Batch(format!(
                "{count} labels and {} numbers, expected {}{fewer} labels and {numbers} numbers for each",
                pixels.len(),
                self.batch,
            )));
        }
        self.index_range().check(labels, "")?;
        self.batch_rows = count;
        if count == self.batch {
            backend.write(pixels, &mut self.pixels)?;
            backend.write(labels, &mut self.targets)?;
        } else {
            // Images do not see each other in an evaluation, so those of the batch before may stay in the rest.
            let padded = &mut self.padded;
            padded.pixels.resize(self.batch * numbers, 0.0);
            padded.pixels[..pixels.len()].copy_from_slice(pixels);
            padded.labels.resize(self.batch, 0);
            padded.labels[..count].copy_from_slice(labels);
            backend.write(&padded.pixels, &mut self.pixels)?;
            backend.write(&padded.labels, &mut self.targets)?;
        }
        Ok(())
    }

    fn upload(&self, backend: &B, examples: Examples<'_>) -> Result<DeviceDataset<B>, ModelError> {
        match &examples {
            Examples::Images { numbers, .. } if *numbers == self.input.numbers() => {
                DeviceDataset::new(backend, examples, 1, self.index_range())
            }
            _ => Err(wrong_kind("images of its size")),
        }
    }

    fn load_dataset_batch(
        &mut self,
        backend: &B,
        dataset: &DeviceDataset<B>,
        index: usize,
        whole: bool,
    ) -> Result<(), ModelError> {
        let DeviceExamples::Images { pixels, labels } = &dataset.set else {
            return Err(wrong_kind("images of its size"));
        };
        let chosen = dataset.batch(index, self.batch, whole)?;
        self.batch_rows = chosen.len();
        let (own, targets) = (&mut self.pixels, &mut self.targets);
        let (first, rows) = (chosen.start, chosen.len());
        Ok(backend.gather_images(pixels, labels, &dataset.order, first, rows, own, targets)?)
    }

    /// Leaves the loss's gradient where the last block expects it.
    fn forward(&mut self, backend: &B, log: &mut B::StepLog) -> Result<(), BackendError> {
        self.run(backend, Statistics::OfBatch)?;
        let last = self.blocks.last_mut().expect("a network has an output");
        backend.loss_and_gradient(self.loss, &self.targets, last.output_mut(), log)
    }

    fn backward(&mut self, backend: &B) -> Result<(), BackendError> {
        // The loss has put its gradient in the place of the outputs, which nobody needs any more: they trade places
        // with the room for the gradient.
        self.last().trade_places();
        let mut parameters = self.parameters.as_mut_slice();
        for index in (0..self.blocks.len()).rev() {
            let (below, from) = self.blocks.split_at_mut(index);
            let block = &mut from[0];
            let own;
            (parameters, own) = parameters.split_at_mut(parameters.len() - block.parameters);
            match below.last_mut() {
                None => block.backward(backend, own, &self.pixels, None)?,
                Some(below) => {
                    let (input, gradient) = below.output_and_gradient();
                    block.backward(backend, own, input, Some(gradient))?;
                }
            }
        }
        // Every step finds its operands where the one before did.
        self.last().trade_places();
        Ok(())
    }

    fn evaluate(&mut self, backend: &B, log: &mut B::StepLog) -> Result<(), BackendError> {
        self.run(backend, Statistics::Running)?;
        let last = self.blocks.last().expect("a network has an output");
        backend.evaluate_outputs(
            self.loss,
            self.batch_rows,
            &self.targets,
            last.output(),
            log,
        )
    }

    fn has_classes(&self) -> bool {
        true
    }

    /// Moves the running averages of the normalizations.
    fn finish_step(&mut self, backend: &B, log: &B::StepLog) -> Result<(), BackendError> {
        for norm in self
            .blocks
            .iter_mut()
            .filter_map(|block| block.norm.as_mut())
        {
            backend.update_running_stats(
                norm.shape,
                self.norm_factor,
                &norm.workspace,
                log,
                &mut norm.mean,
                &mut norm.variance,
            )?;
        }
        Ok(())
    }

    fn locate_non_finite(&self, backend: &B) -> Result<(&'static str, String), ModelError> {
        if let Some(found) = locate_non_finite_weights(backend, &self.parameters)? {
            return Ok(found);
        }
        for block in &self.blocks {
            if backend.first_not_finite(block.output())?.is_some() {
                return Ok(("the output", block.name.clone()));
            }
        }
        Ok(("the output", "loss".into()))
    }

    fn save(&self, backend: &B) -> Result<Vec<StateTensor>, BackendError> {
        let mut state = Vec::new();
        for block in &self.blocks {
            let Some(norm) = &block.norm else { continue };
            for (part, tensor) in [(MEAN, &norm.mean), (VARIANCE, &norm.variance)] {
                state.push(StateTensor {
                    name: format!("{}.{part}", block.name),
                    shape: vec![norm.shape.channels],
                    data: f32s(backend.read(tensor)?),
                });
            }
        }
        Ok(state)
    }

    fn load(
        &mut self,
        backend: &B,
        state: &BTreeMap<&str, &StateTensor>,
    ) -> Result<(), ModelError> {
        for block in &mut self.blocks {
            let Some(norm) = &mut block.norm else {
                continue;
            };
            for (part, tensor) in [(MEAN, &mut norm.mean), (VARIANCE, &mut norm.variance)] {
                let part = format!(".{part}");
                let found = find(state, &block.name, &part, Some(&[norm.shape.channels]))?;
                backend.write(values(found)?, tensor)?;
            }
        }
        Ok(())
    }
}

/// The running averages among the tensors of a state.
const MEAN: &str = "norm.mean";
const VARIANCE: &str = "norm.variance";
