//! The start of a run from the weights of another.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::RunError;
use crate::checkpoint::Checkpoint;
use crate::config::Experiment;
use crate::device::Network;
use crate::evaluate::find_checkpoint;
use crate::files::FileError;
use crate::packed::run_of;
use crate::run_state::{RunState, Start};

/// A checkpoint with latent weights.
pub(crate) struct Latent {
    pub(crate) path: PathBuf,
    pub(crate) checkpoint: Checkpoint,
    /// SHA-256 of the file.
    sha256: String,
}

impl Latent {
    /// Reads `path`, a checkpoint or a run folder, of which the best epoch is taken.
    pub(crate) fn read(path: &Path) -> Result<Self, RunError> {
        let file = find_checkpoint(path)?;
        if run_of(&file)?.is_some() {
            return Err(RunError::NoLatentWeights { checkpoint: file });
        }
        let bytes = fs::read(&file).map_err(FileError::on("read", &file))?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let checkpoint = Checkpoint::from_bytes(bytes, &file)?;
        Ok(Self {
            path: file,
            checkpoint,
            sha256,
        })
    }
}

/// Loads the weights of `path`, a run folder or a checkpoint, into a network at its first step.
pub(crate) fn start(
    path: &Path,
    alphabet: &[u8],
    network: &mut Network,
) -> Result<Start, RunError> {
    let Latent {
        path,
        checkpoint,
        sha256,
    } = Latent::read(path)?;
    let run = checkpoint.run;
    let [here, there] = [alphabet, &run.alphabet].map(|alphabet| match alphabet {
        [] => "images",
        _ => "a text",
    });
    if here != there {
        return Err(RunError::StartData {
            checkpoint: path,
            here,
            there,
        });
    }
    if run.alphabet != alphabet {
        return Err(RunError::StartAlphabet {
            checkpoint: path,
            here: alphabet.len(),
            there: run.alphabet.len(),
        });
    }
    network
        .start_from(&checkpoint.network)
        .map_err(|source| RunError::not_started(path, source))?;
    Ok(Start {
        sha256,
        key: run.key,
        method: run.experiment.quantize.method,
        epochs_done: run.progress.epoch - 1,
    })
}

/// An error if `run`, in `file`, did not start from the weights that the experiment names. If these are gone, or packed
/// since, they are not needed.
pub(crate) fn same_start(
    experiment: &Experiment,
    file: &Path,
    run: &RunState,
) -> Result<(), RunError> {
    let (Some(path), Some(start)) = (&experiment.train.start, &run.start) else {
        return Ok(());
    };
    let Ok(path) = find_checkpoint(path) else {
        return Ok(());
    };
    if run_of(&path)?.is_some() {
        return Ok(());
    }
    let bytes = fs::read(&path).map_err(FileError::on("read", &path))?;
    match hex::encode(Sha256::digest(&bytes)) == start.sha256 {
        true => Ok(()),
        false => Err(RunError::OtherStart {
            checkpoint: file.into(),
            start: path,
        }),
    }
}

impl RunError {
    /// The error of starting from `checkpoint`: the tensors do not match, or the device failed.
    fn not_started(checkpoint: PathBuf, source: laq_models::ModelError) -> Self {
        match Self::not_loaded(&checkpoint, source) {
            Self::OtherNetwork { checkpoint, source } => Self::StartNetwork { checkpoint, source },
            error => error,
        }
    }
}
