//! What training, evaluation and estimates share: the network and the threads.

use laq_models::{
    AdamSettings, CharLstmSpec, FeedforwardSpec, ImageShape, Loss, ModelError, TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::Backend;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::RunError;
use crate::config::{self, Experiment, Model};
use crate::device::{Computer, Trainer};
use crate::environment::total_memory_bytes;
use crate::examples::Examples;

/// The network in training.
pub(crate) type Network = Box<dyn Trainer>;

/// A pool of `threads` threads; of one for each processor where `threads` is not given.
pub(crate) fn pool(threads: Option<usize>) -> Result<ThreadPool, RunError> {
    let threads = threads.unwrap_or(0);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|source| RunError::Threads { threads, source })
}

/// What the network looks at: it decides the size of the first layer and of the last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    Symbols(usize),
    Images { shape: ImageShape, classes: usize },
}

impl Input {
    /// That of the data of a run.
    pub(crate) fn of(examples: &Examples) -> Self {
        match examples {
            Examples::Text(text) => Self::Symbols(text.alphabet.len()),
            Examples::Images(images) => Self::images(images.shape(), images.classes()),
        }
    }

    pub(crate) fn images(shape: laq_datasets::ImageShape, classes: usize) -> Self {
        let laq_datasets::ImageShape {
            height,
            width,
            channels,
        } = shape;
        let shape = ImageShape {
            height,
            width,
            channels,
        };
        Self::Images { shape, classes }
    }
}

/// The network of an experiment, as `laq-models` describes it.
pub(crate) enum Spec {
    CharLstm(CharLstmSpec),
    Feedforward(FeedforwardSpec),
}

/// The network that `model` makes of this input.
pub(crate) fn spec(model: &Model, input: Input) -> Result<Spec, RunError> {
    match (model, input) {
        (Model::CharLstm(model), Input::Symbols(symbols)) => Ok(Spec::CharLstm(CharLstmSpec {
            symbols,
            hidden: model.hidden,
            forget_bias: model.forget_bias as f32,
            init_range: model.init_range as f32,
            output_std: model.output_std as f32,
            gate_clip: model.gate_clip as f32,
        })),
        (Model::Feedforward(model), Input::Images { shape, classes }) => {
            Ok(Spec::Feedforward(FeedforwardSpec {
                input: shape,
                classes,
                filters: model.filters.clone(),
                convolutions: model.convolutions,
                units: model.units.clone(),
                batch_norm: model.batch_norm,
                output_batch_norm: model.output_batch_norm,
                norm_epsilon: model.norm_epsilon as f32,
                norm_factor: model.norm_factor as f32,
                loss: match model.loss {
                    config::Loss::SquaredHinge => Loss::SquaredHinge,
                    config::Loss::CrossEntropy => Loss::CrossEntropy,
                },
            }))
        }
        (model, _) => Err(RunError::Internal(format!(
            "{} was given data of another kind",
            model.kind()
        ))),
    }
}

/// The network of `experiment` at its first step on `computer`, for batches of `batch` sequences or images.
pub(crate) fn network(
    computer: Computer,
    experiment: &Experiment,
    input: Input,
    batch: usize,
) -> Result<Network, RunError> {
    let train = &experiment.train;
    let adam = AdamSettings {
        beta1: train.beta1,
        beta2: train.beta2,
        epsilon: train.epsilon,
    };
    let method = method(experiment)?;
    let parts = Parts {
        spec: spec(&experiment.model, input)?,
        length: experiment.data.length.unwrap_or_default(),
        batch,
        method,
        adam,
        seed: train.seed,
    };
    if !computer.is_cuda() {
        check_memory(&parts.spec, parts.length, batch)?;
    }
    match computer {
        Computer::Cpu(backend) => parts.build(backend),
        Computer::Cuda(backend) => parts.build(*backend),
    }
    .map_err(RunError::Build)
}

/// All that makes a network.
struct Parts {
    spec: Spec,
    length: usize,
    batch: usize,
    method: Method,
    adam: AdamSettings,
    seed: u64,
}

impl Parts {
    fn build<B: Backend + 'static>(&self, backend: B) -> Result<Network, ModelError> {
        let Parts {
            length,
            batch,
            adam,
            seed,
            ..
        } = *self;
        let method = &self.method;
        Ok(match &self.spec {
            Spec::CharLstm(spec) => {
                let shape = TextShape { length, batch };
                Box::new(Training::char_lstm(
                    backend, spec, shape, method, adam, seed,
                )?)
            }
            Spec::Feedforward(spec) => Box::new(Training::feedforward(
                backend, spec, batch, method, adam, seed,
            )?),
        })
    }
}

/// The method of `experiment`, whose name has been read before.
pub(crate) fn method(experiment: &Experiment) -> Result<Method, RunError> {
    Method::try_from(experiment.quantize.method.as_str())
        .map_err(|error| RunError::Internal(error.to_string()))
}

/// Refuses what cannot fit, by what weights and activations take at the least. For every weight there are itself, its
/// gradient, Adam's two moments, and the copies of three of these in a checkpoint; for every character of a batch four
/// gates, the cell, the output, its gradient and the logits; for every layer of an image its output and the gradient by it.
fn check_memory(spec: &Spec, length: usize, batch: usize) -> Result<(), RunError> {
    let layers = match spec {
        Spec::CharLstm(spec) => spec.layers(),
        Spec::Feedforward(spec) => spec.layers(),
    }
    .map_err(RunError::Build)?;
    let wide = |number: usize| number as u128;
    let weights = layers
        .iter()
        .map(|layer| wide(layer.quantized_weights) + wide(layer.other_weights))
        .sum::<u128>();
    let of_example = match spec {
        Spec::CharLstm(spec) => wide(length) * (7 * wide(spec.hidden) + wide(spec.symbols)),
        Spec::Feedforward(spec) => {
            let outputs = layers
                .iter()
                .map(|layer| wide(layer.output.iter().product()));
            wide(spec.input.numbers()) + 2 * outputs.sum::<u128>()
        }
    };
    let needed = 4 * (wide(batch) * of_example + 7 * weights);
    match total_memory_bytes() {
        Some(available) if needed > u128::from(available) => Err(RunError::Memory {
            sizes: match spec {
                Spec::CharLstm(spec) => format!(
                    "model.hidden = {}, data.length = {length} and data.batch = {batch}",
                    spec.hidden
                ),
                Spec::Feedforward(spec) => format!(
                    "model.filters = {:?}, model.units = {:?} and data.batch = {batch}",
                    spec.filters, spec.units
                ),
            },
            needed: needed / 1_000_000,
            available: available / 1_000_000,
        }),
        _ => Ok(()),
    }
}
