//! The network and the threads of training, evaluation and estimates.

use laq_models::{AdamSettings, ModelError, TextShape, Training};
use laq_packed::{AvailableMemory, memory_for_data};
use laq_solvers::{Method, ParseGranularityError};
use laq_tensor::Backend;

use crate::RunError;
use crate::config::Experiment;
use crate::device::{Network, OpenDevice};
use crate::examples::Input;
use crate::memory::{MemoryEstimate, MemorySite};
use crate::spec::{Spec, spec};

/// The network of `experiment` at its first step on `device`, for batches of `batch` sequences or
/// images.
pub(crate) fn network(
    device: OpenDevice,
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
    let available = match &device {
        OpenDevice::Cpu(_) => memory_for_data(rayon::current_num_threads()),
        OpenDevice::Cuda(backend) => Some(AvailableMemory {
            bytes: backend.device().memory().map_err(RunError::Device)?.free,
            limit: "what is free on the GPU".into(),
        }),
    };
    if let Some(available) = available {
        let site = match &device {
            OpenDevice::Cpu(_) => MemorySite::Cpu,
            OpenDevice::Cuda(backend) => MemorySite::Gpu {
                im2col: !backend.device().has_cudnn(),
            },
        };
        let estimate = MemoryEstimate::of(&parts.spec, parts.length, site)?;
        estimate.check(&parts.spec, parts.length, batch, &available)?;
    }
    let network = match device {
        OpenDevice::Cpu(backend) => parts.build(backend),
        OpenDevice::Cuda(backend) => parts.build(*backend),
    };
    let mut network = network.map_err(RunError::Build)?;
    if let Some(clip) = experiment.quantize.clip {
        network.set_clip(clip as f32).map_err(RunError::Build)?;
    }
    Ok(network)
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
    let quantize = &experiment.quantize;
    let mut method = Method::try_from(quantize.method.as_str())
        .map_err(|error| RunError::Internal(error.to_string()))?;
    if let Some(granularity) = &quantize.granularity {
        let granularity = (granularity.parse())
            .map_err(|error: ParseGranularityError| RunError::Internal(error.to_string()))?;
        method = (method.with_granularity(granularity))
            .map_err(|error| RunError::Internal(error.to_string()))?;
    }
    Ok(match quantize.scale_start {
        Some(start) => method.with_scale_start(start as f32),
        None => method,
    })
}
