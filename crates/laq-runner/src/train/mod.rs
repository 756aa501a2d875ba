//! The training loop: epochs, schedule, evaluation, checkpoints, resuming.
//!
//! After each epoch the network is evaluated on the validation split with quantized weights. The
//! best epoch has the lowest validation loss, or error for images; the latest wins ties. Its test
//! loss or error is the result of the run (paper, section 4).

mod dataset;
mod run;

use std::fs::remove_file;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use laq_datasets::{Preprocessing, Split};
use laq_packed::network::MEAN_IMAGE;

use self::dataset::Dataset;
use self::run::{Pending, Run};
use crate::checkpoint::{Checkpoint, Progress, RunState};
use crate::config::{Experiment, Keep, differences, key};
use crate::device::{DeviceChoice, DeviceOptions, OpenDevice, was_on_cuda};
use crate::environment::Environment;
use crate::examples::{Input, load};
use crate::export::{ExportOptions, export_packed};
use crate::files::FileError;
use crate::packed::run_of;
use crate::record::{EpochRecord, Status, Summary};
use crate::run_folder::{
    RunFolder, best_checkpoint, last_checkpoint, packed_network, read_summary,
};
use crate::session::{method, network, thread_pool};
use crate::start::{same_start, start};
use crate::{RunError, TRAINING_VERSION};

/// Options of a run that do not change its results.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run folder.
    pub run_dir: PathBuf,
    /// Resume from the checkpoint in the folder, if there is one.
    pub resume: bool,
    /// The number of threads; by default one for each processor.
    pub threads: Option<usize>,
    /// The device. Results are bit-identical on the same device only.
    pub device: DeviceOptions,
}

/// An event of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The device is open.
    Device {
        /// Its name.
        name: &'a str,
        /// The reason for the choice.
        reason: &'a str,
    },
    /// The data are being prepared.
    Preparing {
        /// The step of preparation.
        what: &'a str,
    },
    /// Training starts or resumes.
    Started {
        /// The current epoch.
        epoch: u32,
        /// Steps done in the epoch.
        step: usize,
        /// The number of epochs.
        epochs: u32,
        /// Batches of an epoch, of the validation split and of the test split.
        batches: [usize; 3],
        /// Whether the run resumes from a checkpoint.
        resumed: bool,
    },
    /// Steps are done: one on a CPU, those of a tenth of a second on a GPU.
    Step {
        /// The epoch.
        epoch: u32,
        /// Steps done in the epoch, including these.
        step: usize,
        /// The mean loss of the epoch so far.
        loss: f64,
    },
    /// The evaluation of batches starts: of one on a CPU, of several on a GPU.
    Evaluating {
        /// The split.
        split: Split,
        /// The first batch, from 0.
        batch: usize,
    },
    /// An epoch is trained and evaluated.
    Epoch(&'a EpochRecord),
    /// A checkpoint is written.
    Saved {
        /// The current epoch.
        epoch: u32,
        /// Steps done in the epoch.
        step: usize,
    },
    /// The run was interrupted and is about to be saved.
    Stopping,
}

/// A callback that receives the events of a run.
pub type Observer<'a> = dyn FnMut(Event<'_>) + Send + 'a;

/// Trains `experiment` to the end or until `stop` is set, which saves the run after the current
/// step. All results but times depend on the experiment alone, not on the number of threads or
/// interruptions.
///
/// Returns the summary of a finished run without training; with `checkpoint.keep = "packed"` its
/// checkpoints give way to its packed network.
///
/// # Errors
///
/// See [`RunError`]. The last checkpoint stays valid, and the summary has the reason.
pub fn train(
    experiment: &Experiment,
    options: &Options,
    stop: &AtomicBool,
    observer: &mut Observer<'_>,
) -> Result<Summary, RunError> {
    let pool = thread_pool(options.threads)?;
    let mut folder = RunFolder::open(&options.run_dir)?;
    let run_dir = folder.path().to_owned();
    let found = read_checkpoint(experiment, &folder, options.resume)?;
    let finished = read_summary(&run_dir).filter(|summary| {
        let done = match &found {
            Found::Nothing => false,
            Found::Checkpoint(_, found) => found.run.progress.epoch > experiment.train.epochs,
            Found::Packed => true,
        };
        done && summary.status == Status::Finished && summary.key == key(experiment)
    });
    let found = match found {
        Found::Nothing => None,
        Found::Checkpoint(path, found) => Some((path, *found)),
        Found::Packed if finished.is_some() => None,
        Found::Packed => return Err(RunError::PackedWithoutSummary { folder: run_dir }),
    };
    // All parallel loops run on the threads of the pool.
    pool.install(|| {
        let summary = match finished {
            Some(summary) => summary,
            None => run(
                experiment,
                &mut folder,
                found,
                options.device,
                stop,
                observer,
            )?,
        };
        let has_checkpoint = last_checkpoint(&run_dir).is_file();
        let packs = experiment.checkpoint.keep == Keep::Packed && has_checkpoint;
        if packs && summary.status == Status::Finished {
            pack(experiment, &run_dir)?;
        }
        Ok(summary)
    })
}

/// Replaces the checkpoints of a finished run by its packed network.
fn pack(experiment: &Experiment, run_dir: &Path) -> Result<(), RunError> {
    let best = best_checkpoint(run_dir);
    if best.is_file() {
        let options = ExportOptions {
            threads: Some(rayon::current_num_threads()),
            ..ExportOptions::default()
        };
        let exported = export_packed(&best, &packed_network(run_dir), options)?;
        let mean_image = Some(Preprocessing::MeanImage.name());
        let subtracts_mean = experiment.data.preprocessing.as_deref() == mean_image;
        let has_mean = exported
            .tensors
            .iter()
            .any(|tensor| tensor.name == MEAN_IMAGE);
        if subtracts_mean && !has_mean {
            let packed = packed_network(run_dir);
            remove_file(&packed).map_err(FileError::on("remove", &packed))?;
            return Err(RunError::NoMeanImage { checkpoint: best });
        }
        remove_file(&best).map_err(FileError::on("remove", &best))?;
    }
    // A run that is killed in between has its last checkpoint, and packs again.
    if packed_network(run_dir).is_file() {
        let last = last_checkpoint(run_dir);
        remove_file(&last).map_err(FileError::on("remove", &last))?;
    }
    Ok(())
}

/// What a folder has of a run.
enum Found {
    Nothing,
    Checkpoint(PathBuf, Box<Checkpoint>),
    /// The packed network of a finished run.
    Packed,
}

/// What there is to resume from; an error if it is of another experiment.
fn read_checkpoint(
    experiment: &Experiment,
    folder: &RunFolder,
    resume: bool,
) -> Result<Found, RunError> {
    let Some(path) = folder.checkpoint_to_resume() else {
        if let Some(file) = folder.file_of_a_run().filter(|_| !resume) {
            return Err(RunError::HasFiles { file });
        }
        let packed = packed_network(folder.path());
        if !packed.is_file() {
            return Ok(Found::Nothing);
        }
        if let Some(run) = run_of(&packed)? {
            is_of(experiment, &packed, &run)?;
        }
        return Ok(Found::Packed);
    };
    if !resume {
        return Err(RunError::HasCheckpoint {
            folder: folder.path().into(),
        });
    }
    let found = Checkpoint::read(&path)?;
    is_of(experiment, &path, &found.run)?;
    Ok(Found::Checkpoint(path, Box::new(found)))
}

/// An error if `file` is of another experiment.
fn is_of(experiment: &Experiment, file: &Path, run: &RunState) -> Result<(), RunError> {
    if run.key == key(experiment) {
        return same_start(experiment, file, run);
    }
    let mut differences = differences(experiment, &run.experiment);
    let there = run.training_version;
    if there != TRAINING_VERSION {
        differences.push(format!(
            "training version: {TRAINING_VERSION} here, {there} there"
        ));
    }
    Err(RunError::OtherExperiment {
        checkpoint: file.into(),
        differences,
    })
}

fn run(
    experiment: &Experiment,
    folder: &mut RunFolder,
    found: Option<(PathBuf, Checkpoint)>,
    requested: DeviceOptions,
    stop: &AtomicBool,
    observer: &mut Observer<'_>,
) -> Result<Summary, RunError> {
    let before = found.as_ref().map(|(_, found)| found.run.kernel.as_str());
    let (device, reason) = OpenDevice::open(requested, before)?;
    observer(Event::Device {
        name: &device.to_string(),
        reason: &reason,
    });
    let kernel = device.kernel();
    if let Some((checkpoint, found)) = &found {
        same_device(checkpoint, &found.run.kernel, &kernel, requested.choice)?;
    }
    let (report_interval, on_gpu) = (device.report_interval(), device.is_cuda());
    let examples = load(&experiment.data, &mut |what| {
        observer(Event::Preparing { what })
    })?;
    let data_sha256 = examples.fingerprint();
    let input = Input::of(&examples);
    let mut network = network(device, experiment, input, experiment.data.batch)?;
    let resumed = found.is_some();
    let (progress, start) = match found {
        None => {
            let path = experiment.train.start.as_deref();
            let started = path.map(|path| start(path, examples.alphabet(), &mut network));
            (Progress::at_the_beginning(), started.transpose()?)
        }
        Some((checkpoint, found)) => {
            if found.run.data_sha256 != data_sha256 {
                return Err(RunError::OtherData {
                    data: examples.name().into(),
                    checkpoint,
                });
            }
            network
                .load(&found.network)
                .map_err(|source| RunError::not_loaded(&checkpoint, source))?;
            (found.run.progress, found.run.start)
        }
    };
    let environment = Environment::detect(&kernel, rayon::current_num_threads());
    let dataset = Dataset::new(&examples, experiment, on_gpu)?;
    let mut run = Run {
        pending: Pending::new(report_interval),
        dataset,
        experiment,
        alphabet: examples.alphabet(),
        data_sha256,
        start,
        folder,
        environment,
        exact: method(experiment)?
            .exact_counterpart()
            .filter(|_| experiment.comparison.every > 0),
        network,
        progress,
        clock: Instant::now(),
        saved: Instant::now(),
        unsaved_best: None,
        stop,
        observer,
    };
    let outcome = run.begin(resumed).and_then(|()| run.epochs());
    run.tick();
    if let Err(error @ RunError::Locked { .. }) = outcome {
        // The files belong to the process that took the folder.
        return Err(error);
    }
    if outcome.is_err() {
        // The figures of the best epoch are in the summary; the error that ended the run is reported.
        let _ = run.save_best();
    }
    let (status, reason) = match &outcome {
        Ok(true) => (Status::Finished, None),
        Ok(false) => (
            Status::Interrupted,
            Some("stopped by the user; --resume continues".to_string()),
        ),
        Err(error) => (Status::Failed, Some(error.to_string())),
    };
    let summary = run.summary(status, reason);
    let written = run.folder.write_summary(&summary);
    // A full disk fails both; report the first error.
    outcome?;
    written?;
    Ok(summary)
}

/// Refuses to resume with other bits than before, unless another kind of device was named.
fn same_device(
    checkpoint: &Path,
    there: &str,
    here: &str,
    choice: DeviceChoice,
) -> Result<(), RunError> {
    if there == here {
        return Ok(());
    }
    let (checkpoint, here, there) = (checkpoint.to_path_buf(), here.to_owned(), there.to_owned());
    match (was_on_cuda(&there), was_on_cuda(&here)) {
        (false, false) => Err(RunError::OtherKernel {
            checkpoint,
            here,
            there,
        }),
        _ if choice != DeviceChoice::Auto => Ok(()),
        _ => Err(RunError::OtherDevice {
            checkpoint,
            here,
            there,
        }),
    }
}
