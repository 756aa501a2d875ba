//! What training, evaluation and estimates share: the text, the network and the threads.

use laq_datasets::{Fractions, Sequences, Split, Text, identity_order};
use laq_models::{AdamSettings, CharLstmSpec, ModelError, TextShape, Training};
use laq_solvers::Method;
use laq_tensor::CpuBackend;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sha2::{Digest, Sha256};

use crate::RunError;
use crate::checkpoint::hex;
use crate::config::{Data, Experiment, FILE, Model};
use crate::environment::total_memory_bytes;

/// The network in training on this machine.
pub(crate) type Network = Training<CpuBackend>;

/// A pool of `threads` threads; of one for each processor where `threads` is not given.
pub(crate) fn pool(threads: Option<usize>) -> Result<ThreadPool, RunError> {
    let threads = threads.unwrap_or(0);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|source| RunError::Threads { threads, source })
}

/// The text that `data` describes.
pub(crate) fn text(data: &Data) -> Result<Text, RunError> {
    let Some(path) = data.path.as_ref().filter(|_| data.name == FILE) else {
        return Ok(Text::load(&data.name, &data.dir)?);
    };
    let share = |share: Option<f64>| share.unwrap_or_default();
    let fractions = Fractions {
        train: share(data.train_fraction),
        validation: share(data.validation_fraction),
    };
    Ok(Text::from_file(path, fractions)?)
}

/// What tells one text from another: the SHA-256 of alphabet and splits, each after its length.
pub(crate) fn fingerprint(text: &Text) -> String {
    let mut digest = Sha256::new();
    for part in [
        text.alphabet.bytes(),
        &text.train,
        &text.validation,
        &text.test,
    ] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

/// `split` of `text` in whole batches.
pub(crate) fn sequences<'a>(
    text: &'a Text,
    split: Split,
    data: &Data,
) -> Result<Sequences<'a>, RunError> {
    Sequences::new(text.split(split), data.length, data.batch).map_err(|source| {
        RunError::TooShort {
            split,
            data: text.name.clone(),
            length: data.length,
            batch: data.batch,
            source,
        }
    })
}

/// The network of `experiment` at its first step, for `symbols` symbols and batches of `batch` sequences.
pub(crate) fn network(
    experiment: &Experiment,
    symbols: usize,
    batch: usize,
) -> Result<Network, RunError> {
    let Model::CharLstm(model) = &experiment.model;
    let train = &experiment.train;
    let shape = TextShape {
        length: experiment.data.length,
        batch,
    };
    check_memory(model.hidden, symbols, shape)?;
    let spec = CharLstmSpec {
        symbols,
        hidden: model.hidden,
        forget_bias: model.forget_bias as f32,
        init_range: model.init_range as f32,
        output_std: model.output_std as f32,
        gate_clip: model.gate_clip as f32,
    };
    let adam = AdamSettings {
        beta1: train.beta1,
        beta2: train.beta2,
        epsilon: train.epsilon,
    };
    let method = method(experiment)?;
    Training::char_lstm(CpuBackend::new()?, &spec, shape, &method, adam, train.seed)
        .map_err(RunError::Build)
}

/// The method of `experiment`, whose name has been read before.
pub(crate) fn method(experiment: &Experiment) -> Result<Method, RunError> {
    Method::try_from(experiment.quantize.method.as_str())
        .map_err(|error| RunError::Internal(error.to_string()))
}

/// Refuses what cannot fit. For every character of a batch there are four gates, the cell, the output, its gradient and the
/// logits; for every weight itself, its gradient, Adam's two moments, and the copies of three of these in a checkpoint.
fn check_memory(hidden: usize, symbols: usize, shape: TextShape) -> Result<(), RunError> {
    let (cells, symbols) = (hidden as u128, symbols as u128);
    let characters = shape.length as u128 * shape.batch as u128;
    let weights = 4 * cells * (cells + symbols);
    let needed = 4 * (characters * (7 * cells + symbols) + 7 * weights);
    match total_memory_bytes() {
        Some(available) if needed > u128::from(available) => Err(RunError::Memory {
            hidden,
            length: shape.length,
            batch: shape.batch,
            needed: needed / 1_000_000,
            available: available / 1_000_000,
        }),
        _ => Ok(()),
    }
}

/// The mean loss of `network` over the whole batches of `sequences`, in nats per character; `None` as soon as
/// `go_on`, which hears of every batch before it is evaluated, says no.
pub(crate) fn mean_loss(
    network: &mut Network,
    sequences: &Sequences<'_>,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<f64>, ModelError> {
    let order = identity_order(sequences.count());
    let size = sequences.length() * sequences.batch_size();
    let (mut inputs, mut targets) = (vec![0; size], vec![0; size]);
    let mut sum = 0.0;
    for batch in 0..sequences.batches() {
        if !go_on(batch) {
            return Ok(None);
        }
        sequences.fill(&order, batch, &mut inputs, &mut targets);
        sum += network.evaluate(&inputs, &targets)?;
    }
    Ok(Some(sum / sequences.batches() as f64))
}
