//! How long a run will take here: a few real steps of its network on random symbols, without its data.

use std::hint::black_box;
use std::time::Instant;

use laq_datasets::{Alphabet, Split, Text, TextError, epoch_order};
use laq_models::ModelError;
use serde::Serialize;

use crate::RunError;
use crate::checkpoint::StepTimes;
use crate::config::{Data, Experiment, FILE, key};
use crate::session::{network, pool, sequences, text};

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
pub fn estimate(experiment: &Experiment, threads: Option<usize>) -> Result<Estimate, RunError> {
    let text = text_of_the_same_size(&experiment.data)?;
    let count =
        |split| sequences(&text, split, &experiment.data).map(|sequences| sequences.batches());
    let most = experiment.train.max_batches.unwrap_or(usize::MAX);
    let batches = Batches {
        train: count(Split::Train)?.min(most),
        validation: count(Split::Validation)?,
        test: count(Split::Test)?,
    };
    let pool = pool(threads)?;
    let (times, evaluations) = pool.install(|| time(experiment, text.alphabet.len()))?;
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
    })
}

/// A text with the sizes and the number of symbols that the catalogue promises.
fn text_of_the_same_size(data: &Data) -> Result<Text, RunError> {
    if data.name == FILE {
        return text(data);
    }
    let dataset = laq_datasets::find(&data.name).map_err(TextError::Unknown)?;
    let symbols = dataset
        .symbols()
        .ok_or_else(|| TextError::not_text(dataset.name))?;
    let alphabet = (0..=u8::MAX).take(symbols).collect();
    let of = |split| vec![0; dataset.expected_symbols(split)];
    Ok(Text {
        name: dataset.name.into(),
        alphabet: Alphabet::from_bytes(alphabet)
            .map_err(|error| RunError::Internal(error.to_string()))?,
        train: of(Split::Train),
        validation: of(Split::Validation),
        test: of(Split::Test),
    })
}

/// The times of training steps and of evaluations.
fn time(experiment: &Experiment, symbols: usize) -> Result<(StepTimes, StepTimes), RunError> {
    let (length, batch) = (experiment.data.length, experiment.data.batch);
    let mut network = network(experiment, symbols, batch)?;
    // A shuffled pack of symbols, dealt again where a batch is larger.
    let pack = epoch_order(1 << 16, 0, 0);
    let random: Vec<u8> = pack
        .iter()
        .map(|&place| (place as usize % symbols) as u8)
        .cycle()
        .take(length * batch + 1)
        .collect();
    let (inputs, targets) = (&random[..length * batch], &random[1..]);
    let rate = experiment.train.learning_rate;
    let mut run = || -> Result<_, ModelError> {
        let (mut steps, mut evaluations) = (StepTimes::default(), StepTimes::default());
        network.step(inputs, targets, rate)?;
        while steps.steps < TIMED_STEPS.0
            || (steps.steps < TIMED_STEPS.1 && steps.seconds < TIMED_SECONDS)
        {
            let report = network.step(inputs, targets, rate)?;
            steps.add(report.seconds, report.quantize_seconds);
        }
        while evaluations.steps < TIMED_STEPS.0 {
            let begin = Instant::now();
            black_box(network.evaluate(inputs, targets)?);
            evaluations.add(begin.elapsed().as_secs_f64(), 0.0);
        }
        Ok((steps, evaluations))
    };
    run().map_err(|source| RunError::Estimate {
        learning_rate: rate,
        source,
    })
}
