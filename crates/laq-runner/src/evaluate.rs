//! Evaluates a trained network on a split of its data, or on any text.

use std::fs;
use std::path::{Path, PathBuf};

use laq_datasets::{Alphabet, Sequences, Split, TextError};
use laq_models::StateTensor;
use laq_packed::thread_pool;
use serde::Serialize;

use crate::RunError;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{Data, Experiment, Model};
use crate::device::{DeviceOptions, Network, OpenDevice};
use crate::examples::{self, Batches, Examples, Input, score};
use crate::files::FileError;
use crate::packed::{METHOD, PackedEvaluator, entry, open_packed, run_in};
use crate::run_folder::{
    best_checkpoint, check_best, last_checkpoint, packed_network, packed_state,
};
use crate::run_state::RunState;
use crate::session::network;

/// The data of an evaluation.
#[derive(Clone, Debug)]
pub enum Source {
    /// A split of the data of the run.
    Split {
        /// The split.
        split: Split,
        /// The folder of the data, if not that of the experiment.
        data_dir: Option<PathBuf>,
    },
    /// A text file, in the alphabet of the checkpoint.
    File(PathBuf),
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Its completed epochs.
    pub epochs_done: u32,
    /// The id of the method that quantized the weights.
    pub method: String,
    /// The name of the split, or the path of the text.
    pub source: String,
    /// Mean loss: the cross-entropy per character in nats for texts, `model.loss` for images.
    pub loss: f64,
    /// Classification error in percent; null for texts.
    pub error: Option<f64>,
    /// Number of images, or of predicted characters in whole batches.
    pub examples: usize,
    /// Characters at the end that do not fill a batch and were not evaluated.
    pub left_out: usize,
}

/// `path` itself if it is a file; of a run folder the best checkpoint, the packed network, or the last
/// checkpoint if there is none of both.
///
/// # Errors
///
/// There is none, or the best checkpoint is not that of the run.
pub fn find_checkpoint(path: &Path) -> Result<PathBuf, RunError> {
    if path.is_file() {
        return Ok(path.into());
    }
    let [best, packed] = [best_checkpoint(path), packed_network(path)];
    let last = last_checkpoint(path);
    let found = match best.is_file() {
        true => Some((RunState::read(&best)?, best)),
        false => packed_state(&packed)?.map(|run| (run, packed)),
    };
    if let Some((run, found)) = found {
        // A last checkpoint that is gone, or damaged, does not keep from using the best.
        if let Ok(last) = RunState::read(&last) {
            check_best(&found, &run, &last)?;
        }
        return Ok(found);
    }
    match last.is_file() {
        true if RunState::read(&last)?.progress.best.is_some() => Err(RunError::NoBest {
            folder: path.into(),
        }),
        true => Ok(last),
        false => Err(RunError::NoCheckpoint { path: path.into() }),
    }
}

/// The network of a checkpoint on a device, and whether that is a GPU.
pub(crate) fn load_network(
    device: DeviceOptions,
    experiment: &Experiment,
    input: Input,
    batch: usize,
    state: &[StateTensor],
    checkpoint: &Path,
) -> Result<(Network, bool), RunError> {
    let (device, _) = OpenDevice::open(device, None)?;
    let on_gpu = device.is_cuda();
    let mut network = network(device, experiment, input, batch)?;
    network
        .load(state)
        .map_err(|source| RunError::not_loaded(checkpoint, source))?;
    Ok((network, on_gpu))
}

/// The data of `run`, in the folder `data_dir` if there is one, whose text has the same name there; an error if they are
/// not those of `checkpoint`.
pub(crate) fn load_data(
    run: &RunState,
    data_dir: Option<&Path>,
    checkpoint: &Path,
) -> Result<(Data, Examples), RunError> {
    let mut data = run.experiment.data.clone();
    if let Some(dir) = data_dir {
        data.dir = dir.into();
        if let Some(path) = &mut data.path {
            *path = dir.join(path.file_name().unwrap_or_default());
        }
    }
    let examples = examples::load(&data, &mut |_| {}).map_err(|error| match error {
        RunError::Text(source @ TextError::Io { .. }) => RunError::NoTextFile(source),
        error => error,
    })?;
    if examples.fingerprint() != run.data_sha256 {
        return Err(RunError::OtherData {
            data: examples.name().into(),
            checkpoint: checkpoint.into(),
        });
    }
    Ok((data, examples))
}

/// Evaluates the network of `path`, a run folder, a checkpoint or a file of
/// [`crate::export::export_packed`], with quantized weights.
/// `progress` is called before every batch with its index and the number of batches.
///
/// For a run folder, the checkpoint of the best epoch is used, or the last if there is none. The
/// batches of a split are those of training. A text file has sequences of the same length, in
/// batches of at most its number of sequences.
///
/// # Errors
///
/// See [`RunError`].
pub fn evaluate(
    path: &Path,
    source: &Source,
    device: DeviceOptions,
    threads: Option<usize>,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Evaluation, RunError> {
    let checkpoint = find_checkpoint(path)?;
    let (run, method, state) = match open_packed(&checkpoint)? {
        Some(file) => (run_in(&file)?, entry(&file, METHOD), None),
        None => {
            let found = Checkpoint::read(&checkpoint)?;
            (found.run, None, Some(found.network))
        }
    };
    let experiment = &run.experiment;
    let length = experiment.data.length.unwrap_or_default();
    let (examples, symbols);
    let (batches, input, available, name) = match source {
        Source::Split { split, data_dir } => {
            let data;
            (data, examples) = load_data(&run, data_dir.as_deref(), &checkpoint)?;
            let batches = examples.batches(*split, &data)?;
            let available = match &examples {
                Examples::Text(text) => text.split(*split).len(),
                Examples::Images(images) => images.split(*split).len(),
            };
            (batches, Input::of(&examples), available, split.to_string())
        }
        Source::File(path) => {
            let Model::CharLstm(_) = experiment.model else {
                return Err(RunError::NoText { checkpoint });
            };
            let alphabet = Alphabet::from_bytes(run.alphabet.clone()).map_err(|error| {
                CheckpointError::Altered {
                    path: checkpoint.clone(),
                    detail: error.to_string(),
                }
            })?;
            let bytes = fs::read(path).map_err(FileError::on("read", path))?;
            symbols = alphabet.encode(&bytes).map_err(|source| RunError::Symbol {
                path: path.clone(),
                checkpoint: checkpoint.clone(),
                source,
            })?;
            let whole = symbols.len().saturating_sub(1) / length;
            let sequences = Sequences::new(&symbols, length, experiment.data.batch.min(whole))
                .map_err(|_| RunError::ShortText {
                    path: path.clone(),
                    found: bytes.len(),
                    needed: length + 1,
                })?;
            (
                Batches::Text(sequences),
                Input::Symbols(alphabet.len()),
                symbols.len(),
                path.display().to_string(),
            )
        }
    };
    let (batch, examples, left_out) = match batches {
        Batches::Text(sequences) => {
            let characters = sequences.count() * sequences.length();
            // The first character is not predicted.
            (
                sequences.batch_size(),
                characters,
                available - 1 - characters,
            )
        }
        Batches::Images { batch, .. } => (batch, available, 0),
    };
    let all = batches.evaluated();
    let mut go_on = |batch| {
        progress(batch, all);
        true
    };
    let failed = |source| RunError::not_evaluated(&checkpoint, source);
    let score = thread_pool(threads)?.install(|| {
        let Some(state) = state else {
            let mut network = PackedEvaluator::open(&checkpoint, batch)?;
            return score(&mut network, &batches, None, &mut go_on).map_err(failed);
        };
        let (mut network, on_gpu) =
            load_network(device, experiment, input, batch, &state, &checkpoint)?;
        let held = match on_gpu {
            true => batches.upload(&mut network).map_err(failed)?,
            false => None,
        };
        score(&mut *network, &batches, held, &mut go_on).map_err(failed)
    })?;
    let score = score.expect("the callback never stops the evaluation");
    Ok(Evaluation {
        epochs_done: run.progress.epoch - 1,
        method: method.unwrap_or_else(|| experiment.quantize.method.clone()),
        source: name,
        loss: score.loss,
        error: score.error,
        examples,
        left_out,
        checkpoint,
    })
}
