//! How long a run will take here: a few real steps of its network on random input, without its data.

use std::hint::black_box;
use std::time::Instant;

use laq_datasets::epoch_order;
use laq_models::{Batch, ModelError};
use serde::Serialize;

use crate::RunError;
use crate::checkpoint::StepTimes;
use crate::config::{Experiment, key};
use crate::device::{DeviceOptions, OpenDevice};
use crate::examples::{Input, sizes};
use crate::session::{network, thread_pool};

/// The fewest and the most steps that are timed, and the seconds after which a number in between is enough.
const TIMED_STEPS: (u64, u64) = (3, 50);
const TIMED_SECONDS: f64 = 3.0;

/// What a run takes on this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// See [`key`].
    pub key: String,
    /// Mean wall-clock seconds of a training step.
    pub seconds_per_step: f64,
    /// The share of them spent quantizing.
    pub quantize_share: f64,
    /// Mean wall-clock seconds of a batch's evaluation.
    pub seconds_per_evaluation: f64,
    /// Training steps of the whole run.
    pub steps: u64,
    /// Wall-clock seconds of the whole run, evaluation included; as if the test split were evaluated after every
    /// epoch, so rather too many.
    pub seconds: f64,
    /// Batches an epoch.
    pub batches: Batches,
    /// Threads used.
    pub threads: usize,
    /// The device that was timed.
    pub device: String,
}

/// Whole batches of each split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Batches {
    /// Trained on in an epoch.
    pub train: usize,
    /// Evaluated after an epoch.
    pub validation: usize,
    /// Evaluated after an epoch with a lower validation loss than all before.
    pub test: usize,
}

/// Times a few steps of `experiment`, after one that is not counted.
///
/// # Errors
///
/// Splits that do not fill a batch, networks that cannot be built or do not compute; of the data, only a file of the
/// user's has to be there.
pub fn estimate(
    experiment: &Experiment,
    device: DeviceOptions,
    threads: Option<usize>,
) -> Result<Estimate, RunError> {
    let (batches, input) = sizes(&experiment.data)?;
    let most = experiment.train.max_batches.unwrap_or(usize::MAX);
    let [train, validation, test] = batches;
    let batches = Batches {
        train: train.min(most),
        validation,
        test,
    };
    let pool = thread_pool(threads)?;
    let (device, _) = OpenDevice::open(device, None)?;
    let name = device.to_string();
    let (times, evaluations) = pool.install(|| time(device, experiment, input))?;
    let epochs = experiment.train.epochs;
    let steps = u64::from(epochs) * batches.train as u64;
    let evaluated = f64::from(epochs) * (batches.validation + batches.test) as f64;
    Ok(Estimate {
        key: key(experiment),
        seconds_per_step: times.per_step(),
        quantize_share: times.quantize_share(),
        seconds_per_evaluation: evaluations.per_step(),
        steps,
        seconds: steps as f64 * times.per_step() + evaluated * evaluations.per_step(),
        batches,
        threads: pool.current_num_threads(),
        device: name,
    })
}

/// The times of training steps and of evaluations.
fn time(
    device: OpenDevice,
    experiment: &Experiment,
    input: Input,
) -> Result<(StepTimes, StepTimes), RunError> {
    let batch = experiment.data.batch;
    let mut network = network(device, experiment, input, batch)?;
    // A shuffled pack of numbers, dealt again where a batch is larger.
    let pack = epoch_order(1 << 16, 0, 0);
    let below = |bound: usize, count: usize| -> Vec<u8> {
        let dealt = pack.iter().map(|&place| (place as usize % bound) as u8);
        dealt.cycle().take(count).collect()
    };
    let (random, pixels);
    let batch = match input {
        Input::Symbols(symbols) => {
            let characters = experiment.data.length.unwrap_or_default() * batch;
            random = below(symbols, characters + 1);
            Batch::text(&random[..characters], &random[1..])
        }
        Input::Images { shape, classes } => {
            random = below(classes, batch);
            let bytes = below(256, batch * shape.elements());
            // Of about the size that preprocessed images have.
            pixels = bytes
                .iter()
                .map(|&byte| f32::from(byte) / 128.0 - 1.0)
                .collect::<Vec<_>>();
            Batch::images(&pixels, &random)
        }
    };
    let rate = experiment.train.learning_rate;
    let mut run = || -> Result<_, ModelError> {
        let (mut steps, mut evaluations) = (StepTimes::default(), StepTimes::default());
        network.step(batch, rate)?;
        while steps.steps < TIMED_STEPS.0
            || (steps.steps < TIMED_STEPS.1 && steps.seconds < TIMED_SECONDS)
        {
            let report = network.step(batch, rate)?;
            steps.add(1, report.seconds, report.quantize_seconds);
        }
        while evaluations.steps < TIMED_STEPS.0 {
            let begin = Instant::now();
            black_box(network.evaluate(batch)?);
            evaluations.add(1, begin.elapsed().as_secs_f64(), 0.0);
        }
        Ok((steps, evaluations))
    };
    run().map_err(|source| RunError::Estimate {
        learning_rate: rate,
        source,
    })
}
