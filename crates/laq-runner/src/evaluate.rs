//! The loss of a trained network on a split of its own data, or on any text.

use std::fs;
use std::path::{Path, PathBuf};

use laq_datasets::{Alphabet, Sequences, Split};
use serde::Serialize;

use crate::RunError;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::FILE;
use crate::files::FileError;
use crate::run_folder::{best_checkpoint, last_checkpoint};
use crate::session::{fingerprint, mean_loss, network, pool, sequences, text};

/// What a checkpoint is evaluated on.
#[derive(Clone, Debug)]
pub enum Source {
    /// A split of the data that it was trained on.
    Split {
        /// Which one.
        split: Split,
        /// The folder of downloaded data, where it is not the one of the experiment.
        data_dir: Option<PathBuf>,
    },
    /// The whole of a text file, in the alphabet of the checkpoint.
    File(PathBuf),
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Epochs that it had been trained for.
    pub epochs_done: u32,
    /// The method's id.
    pub method: String,
    /// The split's name, or the path of the text.
    pub source: String,
    /// Mean cross-entropy per character, in nats.
    pub loss: f64,
    /// Characters predicted: those of whole batches.
    pub characters: usize,
    /// Characters that do not fill a batch, and were left out.
    pub left_out: usize,
}

/// The checkpoint that `path` means: itself if it is a file; the best one of a run folder, or the last if there is no
/// best one.
fn find_checkpoint(path: &Path) -> Result<PathBuf, RunError> {
    [
        path.to_path_buf(),
        best_checkpoint(path),
        last_checkpoint(path),
    ]
    .into_iter()
    .find(|candidate| candidate.is_file())
    .ok_or_else(|| RunError::NoCheckpoint { path: path.into() })
}

/// Evaluates the network of `path`, a run folder or a checkpoint, with quantized weights. `progress` hears of every
/// batch before it is evaluated, and of how many there are.
///
/// A run folder stands for its best epoch; while there is none yet, for its last checkpoint. A split is cut into the batches of its training. A text of its own is cut into sequences of the same length, in
/// batches no larger than the text fills.
///
/// # Errors
///
/// See [`RunError`].
pub fn evaluate(
    path: &Path,
    source: &Source,
    threads: Option<usize>,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Evaluation, RunError> {
    let checkpoint = find_checkpoint(path)?;
    let found = Checkpoint::read(&checkpoint)?;
    if checkpoint != path
        && checkpoint != best_checkpoint(path)
        && found.run.progress.best.is_some()
    {
        return Err(RunError::NoBest {
            folder: path.into(),
        });
    }
    let experiment = &found.run.experiment;
    let mut data = experiment.data.clone();
    let alphabet = Alphabet::from_bytes(found.run.alphabet.clone()).map_err(|error| {
        CheckpointError::Altered {
            path: checkpoint.clone(),
            detail: error.to_string(),
        }
    })?;
    let (text, symbols);
    let (sequences, available, name) =
        match source {
            Source::Split { split, data_dir } => {
                if let Some(dir) = data_dir {
                    if data.name == FILE {
                        return Err(RunError::NoDataDir { checkpoint });
                    }
                    data.dir.clone_from(dir);
                }
                text = self::text(&data)?;
                if fingerprint(&text) != found.run.data_sha256 {
                    return Err(RunError::OtherText {
                        data: text.name,
                        checkpoint,
                    });
                }
                (
                    sequences(&text, *split, &data)?,
                    text.split(*split).len(),
                    split.to_string(),
                )
            }
            Source::File(path) => {
                let bytes = fs::read(path).map_err(FileError::on("read", path))?;
                symbols = alphabet.encode(&bytes).map_err(|source| RunError::Symbol {
                    path: path.clone(),
                    checkpoint: checkpoint.clone(),
                    source,
                })?;
                let whole = symbols.len().saturating_sub(1) / data.length;
                let sequences = Sequences::new(&symbols, data.length, data.batch.min(whole))
                    .map_err(|_| RunError::ShortText {
                        path: path.clone(),
                        found: bytes.len(),
                        needed: data.length + 1,
                    })?;
                (sequences, symbols.len(), path.display().to_string())
            }
        };
    let loss = pool(threads)?.install(|| {
        let mut network = network(experiment, alphabet.len(), sequences.batch_size())?;
        network
            .load(&found.network)
            .map_err(|source| RunError::OtherNetwork {
                checkpoint: checkpoint.clone(),
                source,
            })?;
        let batches = sequences.batches();
        mean_loss(&mut network, &sequences, &mut |batch| {
            progress(batch, batches);
            true
        })
        .map_err(|source| RunError::Evaluation {
            checkpoint: checkpoint.clone(),
            source,
        })
    })?;
    let characters = sequences.count() * sequences.length();
    Ok(Evaluation {
        epochs_done: found.run.progress.epoch - 1,
        method: experiment.quantize.method.clone(),
        source: name,
        loss: loss.expect("every batch was let through"),
        characters,
        // The first character is given, not predicted.
        left_out: available - 1 - characters,
        checkpoint,
    })
}
