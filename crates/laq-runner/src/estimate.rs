//! Estimates the duration of a run from a few steps of its network on random input, without its
//! data.

use std::hint::black_box;
use std::time::Instant;

use laq_models::ModelError;
use laq_packed::thread_pool;
use serde::Serialize;

use crate::RunError;
use crate::config::{Experiment, key};
use crate::device::{DeviceOptions, OpenDevice};
use crate::examples::{Input, sizes};
use crate::random_batch::RandomBatch;
use crate::run_state::StepTimes;
use crate::session::{method, network};

/// The minimal and maximal number of timed steps; between them, timing ends after
/// [`TIMED_SECONDS`].
const TIMED_STEPS: (u64, u64) = (3, 50);
const TIMED_SECONDS: f64 = 3.0;

/// The estimated duration of a run on this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// See [`key`].
    pub key: String,
    /// Mean wall-clock seconds of a training step.
    pub seconds_per_step: f64,
    /// The fraction of them spent quantizing.
    pub quantize_share: f64,
    /// Mean wall-clock seconds of the evaluation of a batch.
    pub seconds_per_evaluation: f64,
    /// Mean wall-clock seconds of a comparison with the exact solver; 0 without comparisons.
    pub seconds_per_comparison: f64,
    /// Training steps of the run.
    pub steps: u64,
    /// Wall-clock seconds of the run without what is left out, including evaluation of the test split after every
    /// epoch: an upper bound.
    pub seconds: f64,
    /// What the run does besides.
    pub left_out: [&'static str; 2],
    /// Batches per epoch.
    pub batches: Batches,
    /// Threads used.
    pub threads: usize,
    /// The device that was timed.
    pub device: String,
}

/// Whole batches of each split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Batches {
    /// Training batches per epoch.
    pub train: usize,
    /// Validation batches.
    pub validation: usize,
    /// Test batches, evaluated after an epoch that is the best so far.
    pub test: usize,
}

/// Times a few steps of `experiment` after a warm-up step.
///
/// # Errors
///
/// Splits shorter than a batch, and networks that cannot be built or computed. Data are needed only
/// for a text file.
pub fn estimate(
    experiment: &Experiment,
    device: DeviceOptions,
    threads: Option<usize>,
) -> Result<Estimate, RunError> {
    let (batches, input) = sizes(&experiment.data)?;
    let limit = experiment.train.max_batches.unwrap_or(usize::MAX);
    let [train, validation, test] = batches;
    let batches = Batches {
        train: train.min(limit),
        validation,
        test,
    };
    let pool = thread_pool(threads)?;
    let (device, _) = OpenDevice::open(device, None)?;
    let name = device.to_string();
    let [times, evaluations, comparisons] = pool.install(|| time(device, experiment, input))?;
    let epochs = experiment.train.epochs;
    let steps = u64::from(epochs) * batches.train as u64;
    let evaluated = f64::from(epochs) * (batches.validation + batches.test) as f64;
    let compared = steps.checked_div(experiment.comparison.every).unwrap_or(0);
    Ok(Estimate {
        key: key(experiment),
        seconds_per_step: times.per_step(),
        quantize_share: times.quantize_share(),
        seconds_per_evaluation: evaluations.per_step(),
        seconds_per_comparison: comparisons.per_step(),
        steps,
        seconds: steps as f64 * times.per_step()
            + evaluated * evaluations.per_step()
            + compared as f64 * comparisons.per_step(),
        left_out: ["reading the data", "writing checkpoints"],
        batches,
        threads: pool.current_num_threads(),
        device: name,
    })
}

/// The times of training steps, of evaluations and of comparisons.
fn time(
    device: OpenDevice,
    experiment: &Experiment,
    input: Input,
) -> Result<[StepTimes; 3], RunError> {
    let exact = method(experiment)?
        .exact_counterpart()
        .filter(|_| experiment.comparison.every > 0);
    let batch = experiment.data.batch;
    let mut network = network(device, experiment, input, batch)?;
    let random = RandomBatch::new(experiment, input);
    let batch = random.batch();
    let rate = experiment.train.learning_rate;
    let mut run = || -> Result<_, ModelError> {
        let [mut steps, mut evaluations, mut comparisons] = [StepTimes::default(); 3];
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
        while let Some(exact) = &exact
            && comparisons.steps < TIMED_STEPS.0
        {
            let begin = Instant::now();
            black_box(network.compare(exact)?);
            comparisons.add(1, begin.elapsed().as_secs_f64(), 0.0);
        }
        Ok([steps, evaluations, comparisons])
    };
    run().map_err(|source| RunError::Estimate {
        learning_rate: rate,
        source,
    })
}
