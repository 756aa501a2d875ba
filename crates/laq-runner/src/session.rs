//! What training, evaluation and estimates share: the network and the threads.

use laq_models::{
    AdamSettings, CharLstmSpec, FeedforwardSpec, ImageShape, Loss, ModelError, TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::Backend;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::RunError;
use crate::config::{self, Experiment, Model};
use crate::device::{OpenDevice, Trainer};
use crate::environment::total_memory_bytes;
use crate::examples::Examples;

/// The network in training.
pub(crate) type Network = Box<dyn Trainer>;

/// A pool of `threads` threads, by default one for each processor.
///
/// # Errors
///
/// The system does not start the threads.
pub fn thread_pool(threads: Option<usize>) -> Result<ThreadPool, RunError> {
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
    computer: OpenDevice,
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
    let available = match &computer {
        OpenDevice::Cpu(_) => total_memory_bytes(),
        OpenDevice::Cuda(backend) => {
            Some(backend.device().memory().map_err(RunError::Device)?.free)
        }
    };
    if let Some(available) = available {
        let place = match &computer {
            OpenDevice::Cpu(_) => Place::Processor,
            OpenDevice::Cuda(backend) => Place::Gpu {
                neighbours: !backend.device().has_cudnn(),
            },
        };
        let need = Need::of(&parts.spec, parts.length, place)?;
        need.check(&parts.spec, parts.length, batch, available)?;
    }
    match computer {
        OpenDevice::Cpu(backend) => parts.build(backend),
        OpenDevice::Cuda(backend) => parts.build(*backend),
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

/// Where the memory is that a network takes.
#[derive(Clone, Copy)]
enum Place {
    Processor,
    Gpu {
        /// Whether convolutions are done by products with the neighbours of every pixel.
        neighbours: bool,
    },
}

/// What a network takes of memory, at the least, in numbers of four bytes.
struct Need {
    /// However large a batch is. Of every weight there are itself, its gradient and Adam's two moments; on a processor the
    /// copies of three of these in a checkpoint, on a GPU its quantized value.
    fixed: u128,
    /// For every image or sequence of a batch. Of every character there are four gates, the cell, the output, its gradient and
    /// the logits (on a GPU the one-hot input too); of every layer of an image its output and the gradient by it, and on a
    /// GPU without cuDNN the neighbours of every pixel of a convolution.
    of_example: u128,
}

impl Need {
    fn of(spec: &Spec, length: usize, place: Place) -> Result<Self, RunError> {
        let (on_gpu, with_neighbours) = match place {
            Place::Processor => (false, false),
            Place::Gpu { neighbours } => (true, neighbours),
        };
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
            Spec::CharLstm(spec) => {
                let symbols = wide(spec.symbols) * if on_gpu { 2 } else { 1 };
                wide(length) * (7 * wide(spec.hidden) + symbols)
            }
            Spec::Feedforward(spec) => {
                let outputs = layers
                    .iter()
                    .map(|layer| wide(layer.output.iter().product()));
                let convolutions = layers.iter().filter(|layer| layer.output.len() == 3);
                // A filter is multiplied with the neighbours of every pixel once.
                let neighbours = convolutions
                    .filter(|_| with_neighbours)
                    .map(|layer| wide(layer.multiplications / layer.output[2].max(1)));
                wide(spec.input.numbers()) + 2 * outputs.sum::<u128>() + neighbours.sum::<u128>()
            }
        };
        Ok(Need {
            fixed: weights * if on_gpu { 5 } else { 7 },
            of_example,
        })
    }

    /// Refuses what cannot fit into so many bytes.
    fn check(
        &self,
        spec: &Spec,
        length: usize,
        batch: usize,
        available: u64,
    ) -> Result<(), RunError> {
        let needed = 4 * (batch as u128 * self.of_example + self.fixed);
        if needed <= u128::from(available) {
            return Ok(());
        }
        let room = (u128::from(available) / 4).saturating_sub(self.fixed);
        Err(RunError::Memory {
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
            fits: room / self.of_example.max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Place = Place::Gpu { neighbours: true };

    /// The batch that the message names fits, and one more does not.
    #[test]
    fn the_largest_batch_is_named() {
        let specs = [
            Spec::CharLstm(CharLstmSpec::paper(87)),
            Spec::Feedforward(FeedforwardSpec::mnist()),
            Spec::Feedforward(FeedforwardSpec::cifar10()),
        ];
        for spec in specs {
            for place in [Place::Processor, GPU] {
                let need = Need::of(&spec, 100, place).expect("a good network");
                let check = |batch: usize| need.check(&spec, 100, batch, 2_000_000_000);
                let Err(RunError::Memory { fits, .. }) = check(1 << 40) else {
                    panic!("no memory is so large");
                };
                let fits = usize::try_from(fits).expect("a small number");
                assert!(fits > 10);
                assert!(check(fits).is_ok() && check(fits + 1).is_err());
            }
        }
        // The neighbours are by far the most of a convolution.
        let vgg = Spec::Feedforward(FeedforwardSpec::cifar10());
        let [cpu, gpu] =
            [Place::Processor, GPU].map(|place| Need::of(&vgg, 0, place).expect("good").of_example);
        let neighbours = 9 * (1024 * (3 + 128) + 256 * (128 + 256) + 64 * (256 + 512));
        assert_eq!(gpu - cpu, neighbours);
    }
}
