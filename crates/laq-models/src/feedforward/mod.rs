//! Feedforward networks on images (PAPER.md §4): stages of 3 × 3 convolutions with max pooling,
//! then dense layers. The MLP has no convolutions.
//!
//! A network is a list of layers over a list of buffers. Every layer knows the buffers of its
//! input, its output and their gradients from the time the network is built.

mod layers;
mod spec;

use std::collections::BTreeMap;

use laq_solvers::Method;
use laq_tensor::{Backend, BackendError, ConvolutionShape, Loss, Tensor};

use self::layers::{BatchNorm, BufferSlots, Layer, Operation, Statistics};
pub use self::spec::FeedforwardSpec;
pub(crate) use self::spec::{LayerKind, LayerSpec};
use crate::ModelError;
use crate::batch::{Batch, ImageShape};
use crate::dataset::{DeviceDataset, DeviceExamples, Examples, IndexRange};
use crate::network::{Network, mean_squares, setting, wrong_kind};
use crate::parameter::{Parameter, StateTensor, f32s, find, numbers, values};
use crate::profile::{Profiler, floats};

/// The buffer with the images.
const PIXELS: usize = 0;

/// A feedforward network with the buffers for one batch.
pub(crate) struct Feedforward<B: Backend> {
    /// In the order of the layers.
    parameters: Vec<Parameter<B>>,
    layers: Vec<Layer<B>>,
    /// The images, then activations and gradients; see [`BufferSlots`].
    buffers: Vec<Tensor<B>>,
    /// The buffer with the outputs, which the loss replaces by their gradient.
    output: usize,
    input: ImageShape,
    batch: usize,
    classes: usize,
    momentum: f32,
    /// In training, a batch normalization has one value per channel, so that its output does not depend on its input.
    is_constant: bool,
    loss: Loss,
    targets: B::Buffer<u8>,
    /// Images in the loaded batch; fewer than `batch` only in an evaluation.
    batch_rows: usize,
    padded: Padded,
}

/// Staging for a batch with fewer images than the buffers hold.
#[derive(Default)]
struct Padded {
    pixels: Vec<f32>,
    labels: Vec<u8>,
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
        let quantized = method.quantizer().is_some();
        let buffer = |shape: ImageShape| backend.zeros(&[batch, shape.elements()]);
        let mut parameters = Vec::new();
        let mut buffers = vec![buffer(spec.input)?];
        let mut layers = Vec::new();
        let mut output = PIXELS;
        let specs = spec.layer_specs()?;
        for layer in &specs {
            let first = parameters.len();
            for parameter in layer.parameters(quantized) {
                parameters.push(Parameter::new(backend, parameter, method, seed)?);
            }
            let operation = Operation::new(backend, layer, batch, spec.norm_epsilon)?;
            let input = output;
            if !matches!(operation, Operation::Relu(_)) {
                output = buffers.len();
                buffers.push(buffer(layer.output())?);
            }
            layers.push(Layer {
                name: layer.name.clone(),
                parameters: first..parameters.len(),
                slots: BufferSlots {
                    input,
                    output,
                    output_gradient: output,
                    input_gradient: None,
                },
                operation,
            });
        }
        let mut gradient = output;
        for (layer, spec) in layers.iter_mut().zip(&specs).rev() {
            layer.slots.output_gradient = gradient;
            let in_place = matches!(
                layer.operation,
                Operation::Relu(_) | Operation::BatchNorm(_)
            );
            if layer.slots.input == PIXELS {
                break;
            }
            if !in_place {
                gradient = buffers.len();
                buffers.push(buffer(spec.input)?);
            }
            layer.slots.input_gradient = Some(gradient);
        }
        Ok(Feedforward {
            parameters,
            layers,
            buffers,
            output,
            input: spec.input,
            batch,
            classes: spec.classes,
            momentum: spec.norm_momentum,
            is_constant: batch == 1 && specs.iter().any(LayerSpec::normalizes_one_value),
            loss: spec.loss,
            targets: backend.indices(batch, spec.classes)?,
            batch_rows: 0,
            padded: Padded::default(),
        })
    }

    fn check_training(&self, is_training: bool) -> Result<(), ModelError> {
        setting(
            !is_training || !self.is_constant,
            "batch",
            self.batch,
            "at least 2: batch normalization of one value per channel is constant",
        )
    }

    fn run(
        &mut self,
        backend: &B,
        statistics: Statistics,
        profiler: &mut Profiler,
    ) -> Result<(), BackendError> {
        for layer in &mut self.layers {
            let start = profiler.start();
            layer.forward(backend, &self.parameters, statistics, &mut self.buffers)?;
            let (kind, work) = layer.forward_work();
            profiler.stop(start, &layer.name, kind, work);
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
            return Err(ModelError::Batch("expected images, found text".into()));
        };
        let (count, numbers) = (labels.len(), self.input.elements());
        let fits = count == self.batch || !whole && (1..self.batch).contains(&count);
        if !fits || pixels.len() != count * numbers {
            let fewer = if whole { "" } else { " or fewer, but not none" };
            return Err(ModelError::Batch(format!(
                "{count} labels and {} numbers, expected {}{fewer} labels and {numbers} numbers for each",
                pixels.len(),
                self.batch,
            )));
        }
        self.check_training(whole)?;
        self.index_range().check(labels, "")?;
        self.batch_rows = count;
        if count == self.batch {
            backend.write(pixels, &mut self.buffers[PIXELS])?;
            backend.write(labels, &mut self.targets)?;
        } else {
            // Evaluation treats images independently, so the remaining rows may hold old ones.
            let padded = &mut self.padded;
            padded.pixels.resize(self.batch * numbers, 0.0);
            padded.pixels[..pixels.len()].copy_from_slice(pixels);
            padded.labels.resize(self.batch, 0);
            padded.labels[..count].copy_from_slice(labels);
            backend.write(&padded.pixels, &mut self.buffers[PIXELS])?;
            backend.write(&padded.labels, &mut self.targets)?;
        }
        Ok(())
    }

    fn upload(&self, backend: &B, examples: Examples<'_>) -> Result<DeviceDataset<B>, ModelError> {
        match &examples {
            Examples::Images { numbers, .. } if *numbers == self.input.elements() => {
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
        self.check_training(whole)?;
        let chosen = dataset.batch(index, self.batch, whole)?;
        self.batch_rows = chosen.len();
        let (images, targets) = (&mut self.buffers[PIXELS], &mut self.targets);
        let (first, rows) = (chosen.start, chosen.len());
        Ok(backend.gather_images(pixels, labels, &dataset.order, first, rows, images, targets)?)
    }

    fn forward(
        &mut self,
        backend: &B,
        log: &mut B::StepLog,
        profiler: &mut Profiler,
    ) -> Result<(), BackendError> {
        self.run(backend, Statistics::Batch, profiler)?;
        let outputs = &mut self.buffers[self.output];
        let start = profiler.start();
        backend.loss_and_gradient(self.loss, &self.targets, outputs, log)?;
        profiler.stop(start, "all", "loss", floats(self.batch * self.classes, 2));
        Ok(())
    }

    fn backward(&mut self, backend: &B, profiler: &mut Profiler) -> Result<(), BackendError> {
        for layer in self.layers.iter_mut().rev() {
            let start = profiler.start();
            layer.backward(backend, &mut self.parameters, &mut self.buffers)?;
            let (kind, work) = layer.backward_work();
            profiler.stop(start, &layer.name, kind, work);
        }
        Ok(())
    }

    fn evaluate(&mut self, backend: &B, log: &mut B::StepLog) -> Result<(), BackendError> {
        self.run(backend, Statistics::Running, &mut Profiler::default())?;
        let outputs = &self.buffers[self.output];
        backend.evaluate_outputs(self.loss, self.batch_rows, &self.targets, outputs, log)
    }

    fn squared_inputs(
        &self,
        backend: &B,
        _batch: Batch<'_>,
    ) -> Result<Vec<(usize, Vec<f64>)>, BackendError> {
        let mut squares = Vec::new();
        for layer in &self.layers {
            let input = &self.buffers[layer.slots.input];
            let of_columns = match &layer.operation {
                Operation::Dense(shape) => {
                    mean_squares(&numbers(backend, input)?, shape.inputs, shape.rows)
                }
                Operation::Convolution(shape, _) => {
                    convolution_squares(&numbers(backend, input)?, *shape)
                }
                _ => continue,
            };
            squares.push((layer.parameters.start, of_columns));
        }
        Ok(squares)
    }

    fn has_classes(&self) -> bool {
        true
    }

    /// Updates the running averages of batch normalization.
    fn finish_step(&mut self, backend: &B, log: &B::StepLog) -> Result<(), BackendError> {
        for layer in &mut self.layers {
            if let Operation::BatchNorm(norm) = &mut layer.operation {
                backend.update_running_stats(
                    norm.shape,
                    self.momentum,
                    &norm.workspace,
                    log,
                    &mut norm.mean,
                    &mut norm.variance,
                )?;
            }
        }
        Ok(())
    }

    fn algorithms(&self, backend: &B) -> Vec<String> {
        let algorithm = |layer: &Layer<B>| match &layer.operation {
            Operation::Convolution(shape, _) => backend
                .convolution_algorithm(*shape)
                .map(|algorithm| format!("{}: {algorithm} convolution", layer.name)),
            _ => None,
        };
        self.layers.iter().filter_map(algorithm).collect()
    }

    fn locate_non_finite_output(&self, backend: &B) -> Result<Option<String>, BackendError> {
        for layer in &self.layers {
            let output = &self.buffers[layer.slots.output];
            if backend.first_not_finite(output)?.is_some() {
                return Ok(Some(layer.name.clone()));
            }
        }
        Ok(None)
    }

    fn save(&self, backend: &B) -> Result<Vec<StateTensor>, BackendError> {
        let mut state = Vec::new();
        for layer in &self.layers {
            let Operation::BatchNorm(norm) = &layer.operation else {
                continue;
            };
            for (part, tensor) in [(MEAN, &norm.mean), (VARIANCE, &norm.variance)] {
                state.push(StateTensor {
                    name: format!("{}.{part}", layer.name),
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
        for layer in &mut self.layers {
            let Operation::BatchNorm(BatchNorm {
                shape,
                mean,
                variance,
                ..
            }) = &mut layer.operation
            else {
                continue;
            };
            for (part, tensor) in [(MEAN, mean), (VARIANCE, variance)] {
                let part = format!(".{part}");
                let found = find(state, &layer.name, &part, Some(&[shape.channels]))?;
                backend.write(values(found)?, tensor)?;
            }
        }
        Ok(())
    }
}

/// The mean square of what each weight of a filter, 3 × 3 × C, is multiplied by: x of the pixels that it meets, and
/// zeros outside of the images.
fn convolution_squares(input: &[f32], shape: ConvolutionShape) -> Vec<f64> {
    let (height, width, channels) = (shape.height, shape.width, shape.in_channels);
    let mut sums = vec![0.0; shape.filter()];
    for (index, pixel) in input.chunks_exact(channels).enumerate() {
        let (row, column) = (index / width % height, index % width);
        for (tap, sums) in sums.chunks_exact_mut(channels).enumerate() {
            // The pixel is met by the weight of this tap where the output lies in the image.
            let (row, column) = (
                (row + 1).wrapping_sub(tap / 3),
                (column + 1).wrapping_sub(tap % 3),
            );
            if row >= height || column >= width {
                continue;
            }
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += f64::from(value).powi(2) / shape.pixels() as f64;
            }
        }
    }
    sums
}

/// Names of the running averages in a saved state.
const MEAN: &str = "norm.mean";
const VARIANCE: &str = "norm.variance";
