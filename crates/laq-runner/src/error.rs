//! The errors of runs.

use std::path::{Path, PathBuf};

use laq_datasets::{ImageError, SequencesError, Split, SymbolError, TextError};
use laq_models::ModelError;
use laq_packed::{NetworkError, OutError, PackedFileError, ThreadsError};
use laq_tensor::BackendError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::files::FileError;

/// The errors of a run, an evaluation or an estimate. Messages have one paragraph: what was found,
/// where, and what to do.
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
    /// A split is shorter than one batch.
    #[error(
        "the {split} split of {data} is too short for data.length = {length} and data.batch = {batch}: {source}"
    )]
    TooShort {
        /// The split.
        split: Split,
        /// The name of the data.
        data: String,
        /// Characters per sequence.
        length: usize,
        /// Sequences per batch.
        batch: usize,
        /// The sizes found and expected.
        source: SequencesError,
    },
    /// The training split has fewer images than a batch.
    #[error(
        "the train split of {data} has {found} images, expected at least data.batch = {batch}: lower data.batch"
    )]
    TooFewImages {
        /// The name of the data.
        data: String,
        /// Images per batch.
        batch: usize,
        /// Images of the split.
        found: usize,
    },
    /// A text was given to a network that was trained on images.
    #[error("{checkpoint} was trained on images, and --text is for language models: use --split")]
    NoText {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// The text is shorter than one sequence.
    #[error(
        "{path} has {found} bytes, expected at least {needed} for one sequence: use a longer text"
    )]
    ShortText {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        found: usize,
        /// The length of a sequence plus one.
        needed: usize,
    },
    /// A byte of the text is not in the alphabet.
    #[error("{path} does not match the alphabet of {checkpoint}: {source}")]
    Symbol {
        /// The text.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The byte and its offset.
        source: SymbolError,
    },
    /// The data differ from those of the checkpoint.
    #[error(
        "{data} differs from the data of {checkpoint}; restore the old data, or train from scratch in another \
         --run-dir"
    )]
    OtherData {
        /// The name of the data.
        data: String,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tensors of the checkpoint do not match its network.
    #[error("{checkpoint} does not match the network of its experiment: {source}; delete it")]
    OtherNetwork {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What does not match.
        source: ModelError,
    },
    /// The weights to start from are of another network.
    #[error(
        "train.start = {checkpoint} does not match the network: {source}; start from a run with the same [model] on data of \
         the same shape"
    )]
    StartNetwork {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What does not match.
        source: ModelError,
    },
    /// The weights to start from are of a text in another alphabet.
    #[error(
        "train.start = {checkpoint} was trained on another alphabet ({there} symbols, {here} here): start from a run on \
         a text of the same characters"
    )]
    StartAlphabet {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The symbols of the experiment's data.
        here: usize,
        /// Those of the checkpoint.
        there: usize,
    },
    /// The weights to start from are of another kind of data.
    #[error(
        "train.start = {checkpoint} was trained on {there}, and this run is on {here}: start from a run on {here}"
    )]
    StartData {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The kind of the experiment's data.
        here: &'static str,
        /// That of the checkpoint.
        there: &'static str,
    },
    /// Latent weights are needed, and the file has quantized ones.
    #[error(
        "{checkpoint} has quantized weights alone, expected a checkpoint with latent weights, which a run keeps with \
         checkpoint.keep = \"all\""
    )]
    NoLatentWeights {
        /// The file.
        checkpoint: PathBuf,
    },
    /// A batch is too small for batch normalization.
    #[error(
        "found --batch {batch}, expected at least {least}, because the network normalizes by the statistics of a batch"
    )]
    SmallBatch {
        /// The images of a batch.
        batch: usize,
        /// The least.
        least: usize,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Out(#[from] OutError),
    /// The output would replace a file of a run.
    #[error("{out} is a file of the run in its folder: give another path to write")]
    OutIsOfRun {
        /// The file.
        out: PathBuf,
    },
    /// The run began with other weights.
    #[error(
        "{checkpoint} started from other weights than those that {start}, which train.start names, has now: restore that \
         file or move it away to continue, or train from scratch in another --run-dir"
    )]
    OtherStart {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The weights to start from.
        start: PathBuf,
    },
    /// A file of packed weights cannot be read or written.
    #[error(transparent)]
    Packed(#[from] PackedFileError),
    /// A network of packed weights cannot be run.
    #[error(transparent)]
    PackedNetwork(#[from] NetworkError),
    /// A network of packed weights has no record of the run that it comes from.
    #[error(
        "{path} does not say which run it comes from (no metadata entry {entry}); evaluate a file of `laq export`"
    )]
    NoRun {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: &'static str,
    },
    /// The run that a file of packed weights comes from is invalid.
    #[error(
        "the run that {path} comes from is invalid ({detail}); write the file again with `laq export`"
    )]
    InvalidRun {
        /// The file.
        path: PathBuf,
        /// The defect.
        detail: String,
    },
    /// The options do not fit the network.
    #[error("{0}")]
    Export(String),
    /// A file of the run cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process trains in the run folder.
    #[error(
        "the run folder {folder} is locked by {}: wait for it, stop it, or use another --run-dir",
        .holder.as_deref().unwrap_or("another process")
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process, if it is known.
        holder: Option<String>,
    },
    /// The folder has a checkpoint, and `resume` is not set.
    #[error(
        "the run folder {folder} has a checkpoint: use --resume to continue from it, or train from scratch in another \
         --run-dir"
    )]
    HasCheckpoint {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder has no checkpoint, but a file that a new run would replace.
    #[error(
        "{file} exists without a checkpoint, and a new run would replace it: use another --run-dir, or --resume to start \
         the run again in this folder"
    )]
    HasFiles {
        /// The file.
        file: PathBuf,
    },
    /// The folder has no checkpoint, but files of a run that is not known.
    #[error(
        "{file} exists without a checkpoint, {config} does not say that it is of this experiment ({detail}), and the run \
         would replace it: move it away, or use another --run-dir"
    )]
    UnknownFiles {
        /// The file.
        file: PathBuf,
        /// The configuration beside it.
        config: PathBuf,
        /// Why it does not say so.
        detail: String,
    },
    /// A file of the user's has the name of one of a run.
    #[error(
        "{path} is not a file of a run, and the run would replace it: move it away, or use another --run-dir"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The summary of a finished run is not that of its weights.
    #[error(
        "{summary} does not have the figures of {weights}: train with --resume, which writes them again from there \
         without training"
    )]
    OtherSummary {
        /// The summary.
        summary: PathBuf,
        /// The checkpoint, or the packed network.
        weights: PathBuf,
    },
    /// The weights of the best epoch are of another run or epoch.
    #[error(
        "{path} has the weights of epoch {epoch} {}, expected {}: move it away; the last weights are in last.safetensors",
        match is_of_run { true => "of this run", false => "of another run" },
        match expected { Some(epoch) => format!("epoch {epoch}, the best"), None => "none before the first evaluation".into() }
    )]
    OtherBest {
        /// The checkpoint, or the packed network.
        path: PathBuf,
        /// Its completed epochs.
        epoch: u32,
        /// Whether its experiment is that of the last checkpoint.
        is_of_run: bool,
        /// The best epoch of the run.
        expected: Option<u32>,
    },
    /// The checkpoint was trained with another kernel.
    #[error(
        "{checkpoint} was trained with the kernel {there}, and the kernel in use, {here}, rounds differently: set \
         LAQ_KERNEL={there} to continue if this processor supports it, or train from scratch in another --run-dir"
    )]
    OtherKernel {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The kernel of this process.
        here: String,
        /// That of the checkpoint.
        there: String,
    },
    /// A device cannot be used.
    #[error("{0}; use --device cpu to compute on the processor")]
    Device(#[source] BackendError),
    /// There is no GPU to check.
    #[error("{reason}; use --device cpu for a rehearsal on the processor")]
    NoGpu {
        /// Why no GPU can be used.
        reason: String,
    },
    /// The checkpoint was trained on another kind of device.
    #[error(
        "{checkpoint} was trained on {there}, and {here} rounds differently: name the device by --device (cpu or cuda:N) \
         to continue on it, or train from scratch in another --run-dir"
    )]
    OtherDevice {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The device of this process.
        here: String,
        /// That of the checkpoint.
        there: String,
    },
    /// The checkpoint belongs to another experiment.
    #[error(
        "{checkpoint} belongs to another experiment ({}); restore the old values to continue, or train from scratch in \
         another --run-dir",
        differences.join("; ")
    )]
    OtherExperiment {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// "name: value here, value there".
        differences: Vec<String>,
    },
    /// The run has ended as it was planned, and its checkpoints are gone.
    #[error(
        "{packed} is what is left of a run that has ended after {epochs} epochs, because of checkpoint.keep = \"packed\": \
         it cannot go on as this experiment plans; train from scratch in another --run-dir"
    )]
    OnlyPacked {
        /// The packed network.
        packed: PathBuf,
        /// Its epochs.
        epochs: u32,
    },
    /// The run is further than the experiment.
    #[error(
        "{checkpoint} has begun epoch {begun}, and train.epochs = {epochs}: set it to {begun} or more, or train from \
         scratch in another --run-dir"
    )]
    FewerEpochs {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Epochs that the run has begun.
        begun: u32,
        /// Epochs of the experiment.
        epochs: u32,
    },
    /// The folder has no checkpoint.
    #[error(
        "{path} has no checkpoint, expected the folder of a trained run or one of its .safetensors files"
    )]
    NoCheckpoint {
        /// The path.
        path: PathBuf,
    },
    /// A packed network alone is left of a run.
    #[error(
        "{folder} has the packed network of a finished run, but no summary.json that can be read: train in another \
         --run-dir; `laq eval {folder}` still evaluates the network"
    )]
    PackedWithoutSummary {
        /// The folder.
        folder: PathBuf,
    },
    /// The mean image that a packed network needs is missing.
    #[error(
        "the network of {checkpoint} is not packed, and its checkpoints are kept: it subtracts the mean image of its \
         training data, which are not in data.dir; download them, and repeat the command"
    )]
    NoMeanImage {
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// The checkpoint of the best epoch is missing.
    #[error(
        "best.safetensors is missing in the run folder {folder}: pass last.safetensors to use the last weights, or train \
         from scratch in another --run-dir"
    )]
    NoBest {
        /// The folder.
        folder: PathBuf,
    },
    /// The text that a network was trained on is not where it was.
    #[error("{0}; --data-dir must be the folder that has the file now")]
    NoTextFile(TextError),
    /// The backend cannot be created.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The network cannot be built.
    #[error("the network cannot be built: {0}")]
    Build(ModelError),
    /// A timed step failed.
    #[error("a step of the network failed at the learning rate {learning_rate:?}: {source}")]
    Estimate {
        /// The learning rate of the experiment.
        learning_rate: f64,
        /// The error and its layer.
        source: ModelError,
    },
    /// The network does not fit in memory.
    #[error(
        "{sizes} need at least {needed} MB of memory, and {available} MB are available ({limit}): lower one of them{}",
        match fits { 0 => String::new(), fits => format!(" (data.batch to at most {fits})") }
    )]
    Memory {
        /// The settings that determine the size, with their values.
        sizes: String,
        /// A lower bound of the memory of weights and activations in MB.
        needed: u128,
        /// The available memory in MB.
        available: u64,
        /// What limits it.
        limit: String,
        /// The largest batch that fits; 0 if none does.
        fits: u128,
    },
    /// A training step failed and changed no weight.
    #[error(
        "stopped in epoch {epoch} after {step} steps, at the learning rate {learning_rate:?}: {source}; {kept} is \
         the last checkpoint and is kept; {}",
        match source.as_ref() {
            ModelError::Backend(BackendError::DeviceMemory { .. }) => "use a smaller batch in another --run-dir",
            ModelError::Backend(_) => "continue with --resume when the device works again, or with another --device",
            _ => "use another experiment in another --run-dir",
        }
    )]
    Step {
        /// The epoch.
        epoch: u32,
        /// Completed steps of the epoch.
        step: usize,
        /// The learning rate of the epoch.
        learning_rate: f64,
        /// The checkpoint.
        kept: PathBuf,
        /// The error and its layer.
        source: Box<ModelError>,
    },
    /// The network computes values that are not finite.
    #[error(
        "{checkpoint} cannot be evaluated: {source}; use an earlier checkpoint, or train from scratch"
    )]
    Evaluation {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The error and its layer.
        source: ModelError,
    },
    /// The threads cannot be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A bug in this program.
    #[error("a bug in this program, please report it: {0}")]
    Internal(String),
}

impl From<ImageError> for RunError {
    fn from(error: ImageError) -> Self {
        Self::Images(Box::new(error))
    }
}

impl RunError {
    /// The error of computing with the network of a checkpoint; the device may have failed, and not the checkpoint.
    pub(crate) fn not_evaluated(checkpoint: &Path, source: ModelError) -> Self {
        match source {
            ModelError::Backend(error) => Self::Device(error),
            source => Self::Evaluation {
                checkpoint: checkpoint.to_path_buf(),
                source,
            },
        }
    }

    /// The error of loading a checkpoint into a network: the tensors do not match, or the device
    /// failed.
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
