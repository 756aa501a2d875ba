//! Everything that can go wrong in a run.

use std::path::{Path, PathBuf};

use laq_datasets::{ImageError, SequencesError, Split, SymbolError, TextError};
use laq_models::ModelError;
use laq_tensor::BackendError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::files::FileError;

/// Why a run, an evaluation or an estimate stopped. Each message is one paragraph: what, where, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The experiment cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The text cannot be loaded.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The images cannot be loaded.
    #[error(transparent)]
    Images(Box<ImageError>),
    /// A split that does not fill a batch.
    #[error(
        "the {split} split of {data} is too short for data.length = {length} and data.batch = {batch}: {source}"
    )]
    TooShort {
        /// The split.
        split: Split,
        /// The data's name.
        data: String,
        /// Characters a sequence.
        length: usize,
        /// Sequences a batch.
        batch: usize,
        /// What there is and what is needed.
        source: SequencesError,
    },
    /// Fewer images to train on than a batch has.
    #[error(
        "the train split of {data} has {found} images, fewer than data.batch = {batch}: lower data.batch"
    )]
    TooFewImages {
        /// The data's name.
        data: String,
        /// Images a batch.
        batch: usize,
        /// Images that there are.
        found: usize,
    },
    /// A text for a network that looks at images.
    #[error(
        "{checkpoint} was trained on images, and --text is for language models: give a --split instead"
    )]
    NoText {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// A text for evaluation that is shorter than one sequence.
    #[error("{path} has {found} bytes, and one sequence needs {needed}: use a longer text")]
    ShortText {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: usize,
        /// One sequence and the character after it.
        needed: usize,
    },
    /// A text with a byte that the network does not know.
    #[error("{path} does not fit the alphabet that {checkpoint} was trained with: {source}")]
    Symbol {
        /// The text.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The byte and where it stands.
        source: SymbolError,
    },
    /// The data are not those that the checkpoint was trained with.
    #[error(
        "{data} is not what {checkpoint} was trained with: the content differs; bring the old data back, or use another \
         --run-dir to train anew on these"
    )]
    OtherData {
        /// The data's name.
        data: String,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// A checkpoint that cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint whose tensors are not this network's.
    #[error(
        "{checkpoint} does not fit the network that its own experiment describes: {source}; delete it"
    )]
    OtherNetwork {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What does not fit.
        source: ModelError,
    },
    /// A file of the run cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process holds the run folder.
    #[error(
        "the run folder {folder} is held by {}: wait until it is done, stop it, or use another --run-dir",
        .pid.map_or("another process".into(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process, if it is known.
        pid: Option<u32>,
    },
    /// A checkpoint is there, and nobody asked to go on from it.
    #[error(
        "the run folder {folder} already has a checkpoint: add --resume to go on from it, or use another --run-dir to \
         train anew"
    )]
    HasCheckpoint {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is there that a new run would replace, without a checkpoint to go on from.
    #[error(
        "{file} is there, and no checkpoint beside it: a new run would replace it; use another --run-dir, or add --resume \
         if it is left from a run that may begin again in this folder"
    )]
    HasFiles {
        /// The file.
        file: PathBuf,
    },
    /// The checkpoint was trained with another kernel.
    #[error(
        "{checkpoint} was trained with the kernel {there}, and {here}, which is in use here, rounds differently: set \
         LAQ_KERNEL={there} to go on (`laq doctor` tells whether this processor has it), or use another --run-dir to \
         train anew"
    )]
    OtherKernel {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The kernel in use.
        here: String,
        /// The checkpoint's.
        there: String,
    },
    /// A device cannot be used.
    #[error("{0}; --device cpu computes on the processor")]
    Device(#[source] BackendError),
    /// There is no GPU to check.
    #[error("{reason}; `laq gpu-check --device cpu` rehearses on the processor")]
    NoGpu {
        /// Why none can be used.
        reason: String,
    },
    /// The checkpoint is that of a run on a device of another kind.
    #[error(
        "{checkpoint} was trained on {there}, and this would go on on {here}, with other bits: give --device (cpu, or \
         cuda:N) to go on all the same, or use another --run-dir to train anew"
    )]
    OtherDevice {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The device in use.
        here: String,
        /// The checkpoint's.
        there: String,
    },
    /// The checkpoint is that of another experiment.
    #[error(
        "{checkpoint} belongs to another experiment ({}); restore the old values to go on, or use another --run-dir to \
         train anew",
        differences.join("; ")
    )]
    OtherExperiment {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// "name: value here, value there".
        differences: Vec<String>,
    },
    /// No checkpoint where one is needed.
    #[error(
        "{path} has no checkpoint: give the folder of a run that has been trained, or a .safetensors file from one"
    )]
    NoCheckpoint {
        /// What was given.
        path: PathBuf,
    },
    /// A run whose best epoch's checkpoint is gone.
    #[error(
        "the run folder {folder} has had a best epoch, and its best.safetensors is missing: give last.safetensors by name \
         to use the last weights, or train anew in another --run-dir"
    )]
    NoBest {
        /// The folder.
        folder: PathBuf,
    },
    /// A data folder for a network that was trained on a file.
    #[error(
        "{checkpoint} was trained on a file of its own, and --data-dir is for downloaded data: leave it out, or give a \
         file with --text"
    )]
    NoDataDir {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// The kernels cannot be picked.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The network cannot be built.
    #[error("this network cannot be built: {0}")]
    Build(ModelError),
    /// A step that was to be timed cannot be done.
    #[error(
        "a step of this network cannot be timed, at a learning rate of {learning_rate:?}: {source}"
    )]
    Estimate {
        /// The experiment's rate.
        learning_rate: f64,
        /// What went wrong, and in which layer.
        source: ModelError,
    },
    /// The network does not fit in memory.
    #[error(
        "{sizes} need at least {needed} MB of memory, and {available} MB are there: lower one of them{}",
        match fits { 0 => String::new(), fits => format!(" (data.batch to {fits} at most)") }
    )]
    Memory {
        /// The settings that decide it, with their values.
        sizes: String,
        /// What weights and activations take at least.
        needed: u128,
        /// What there is.
        available: u64,
        /// The largest batch that these would not refuse.
        fits: u128,
    },
    /// A step could not be done; no weight was changed by it.
    #[error(
        "stopped in epoch {epoch} after {step} of its steps, at a learning rate of {learning_rate:?}: {source}; {kept} is \
         the last good checkpoint and stays as it is, and {}",
        match source.as_ref() {
            ModelError::Backend(BackendError::DeviceMemory { .. }) => "another --run-dir is the place for a smaller batch",
            ModelError::Backend(_) => "--resume goes on from it once the device works again, or elsewhere with another --device",
            _ => "another --run-dir is the place for another experiment",
        }
    )]
    Step {
        /// The epoch.
        epoch: u32,
        /// Steps done in it.
        step: usize,
        /// The schedule's rate in this epoch.
        learning_rate: f64,
        /// The checkpoint.
        kept: PathBuf,
        /// What went wrong, and in which layer.
        source: Box<ModelError>,
    },
    /// The network computes something that is not a number.
    #[error("{checkpoint} cannot be evaluated: {source}; use an earlier checkpoint, or train anew")]
    Evaluation {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What went wrong, and in which layer.
        source: ModelError,
    },
    /// The threads cannot be started.
    #[error("cannot start {threads} threads: {source}; use a smaller --threads")]
    Threads {
        /// How many.
        threads: usize,
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },
    /// A mistake in this program.
    #[error("a mistake in this program, please report it: {0}")]
    Internal(String),
}

impl From<ImageError> for RunError {
    fn from(error: ImageError) -> Self {
        Self::Images(Box::new(error))
    }
}

impl RunError {
    /// Why a network could not take over the state of a checkpoint: it is another's, or the device has failed.
    pub(crate) fn not_loaded(checkpoint: &Path, source: ModelError) -> Self {
        match source {
            ModelError::Backend(
                error @ (BackendError::Device { .. } | BackendError::DeviceMemory { .. }),
            ) => Self::Device(error),
            source => Self::OtherNetwork {
                checkpoint: checkpoint.to_path_buf(),
                source,
            },
        }
    }
}
