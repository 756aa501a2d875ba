//! The training loop: epochs, schedule, evaluation, checkpoints, resuming.
//!
//! After each epoch the network is evaluated on the validation split with quantized weights. The
//! best epoch has the lowest validation loss, or error for images; the latest wins ties. Its test
//! loss or error is the result of the run (paper, section 4).

mod dataset;
mod run;

use std::fs::{self, remove_file};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use laq_datasets::{Preprocessing, Split};
use laq_packed::network::MEAN_IMAGE;
use laq_packed::thread_pool;

use self::dataset::Dataset;
use self::run::{Pending, Run};
use crate::checkpoint::Checkpoint;
use crate::config::{Experiment, Keep, agree, differences, key};
use crate::device::{DeviceChoice, DeviceOptions, OpenDevice, was_on_cuda};
use crate::environment::Environment;
use crate::examples::{Examples, Input, load};
use crate::export::{ExportOptions, export_packed};
use crate::files::{FileError, write_atomically};
use crate::record::EarlierPlan;
use crate::record::{EpochRecord, Status, Summary};
use crate::run_folder::{
    RunFolder, best_checkpoint, check_best, check_new, last_checkpoint, packed_network,
    packed_state, read_summary,
};
use crate::run_state::{Progress, RunState};
use crate::session::{method, network};
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
    /// Something is missing or defective, and the run goes on.
    Warning {
        /// What, and what follows from it.
        text: &'a str,
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
    // A refused run leaves nothing in the folder, not even its lock.
    check_folder(experiment, options)?;
    let mut folder = RunFolder::open(&options.run_dir)?;
    check_folder(experiment, options)?;
    let run_dir = folder.path().to_owned();
    let found = read_checkpoint(experiment, &run_dir)?;
    if let Found::Checkpoint(found) = &found {
        verify_best(experiment, &run_dir, &found.checkpoint.run, observer)?;
    }
    let finished = finished_summary(experiment, &folder, &found, observer)?;
    let found = match found {
        Found::Nothing => None,
        Found::Checkpoint(found) => Some(*found),
        Found::Packed(_) if finished.is_some() => None,
        Found::Packed(_) => return Err(RunError::PackedWithoutSummary { folder: run_dir }),
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
    let [best, packed] = [best_checkpoint(run_dir), packed_network(run_dir)];
    let last = last_checkpoint(run_dir);
    // The checkpoints give way to it.
    if let Some(found) = packed_state(&packed)? {
        check_best(&packed, &found, &RunState::read(&last)?)?;
    }
    if best.is_file() {
        plan_as(&best, &RunState::read(&last)?)?;
        let options = ExportOptions {
            threads: Some(rayon::current_num_threads()),
            ..ExportOptions::default()
        };
        let exported = export_packed(&best, &packed, options)?;
        let mean_image = Some(Preprocessing::MeanImage.name());
        let subtracts_mean = experiment.data.preprocessing.as_deref() == mean_image;
        let has_mean = exported
            .tensors
            .iter()
            .any(|tensor| tensor.name == MEAN_IMAGE);
        if subtracts_mean && !has_mean {
            remove_file(&packed).map_err(FileError::on("remove", &packed))?;
            return Err(RunError::NoMeanImage { checkpoint: best });
        }
        remove_file(&best).map_err(FileError::on("remove", &best))?;
    }
    // A run that is killed in between has its last checkpoint, and packs again.
    if packed.is_file() {
        remove_file(&last).map_err(FileError::on("remove", &last))?;
    }
    Ok(())
}

/// Writes the checkpoint `path` with the plan of `run`, which got another number of epochs since.
fn plan_as(path: &Path, run: &RunState) -> Result<(), RunError> {
    let mut checkpoint = Checkpoint::read(path)?;
    if checkpoint.run.earlier_plans == run.earlier_plans {
        return Ok(());
    }
    checkpoint.run.key.clone_from(&run.key);
    checkpoint.run.experiment = run.experiment.clone();
    checkpoint.run.earlier_plans.clone_from(&run.earlier_plans);
    Ok(checkpoint.write(path)?)
}

/// What a folder has of a run.
enum Found {
    Nothing,
    Checkpoint(Box<Resumed>),
    /// The packed network of a finished run.
    Packed(Box<RunState>),
}

/// A checkpoint to go on from.
struct Resumed {
    path: PathBuf,
    checkpoint: Checkpoint,
    /// Whether its file has another number of epochs or schedule.
    is_replanned: bool,
}

impl Resumed {
    /// The checkpoint `path` as one of `experiment`.
    fn read(experiment: &Experiment, path: PathBuf) -> Result<Self, RunError> {
        let mut checkpoint = Checkpoint::read(&path)?;
        let run = &mut checkpoint.run;
        let is_replanned = !is_of(experiment, &path, run)?;
        if is_replanned {
            run.earlier_plans.push(EarlierPlan {
                epochs: run.experiment.train.epochs,
                epochs_done: run.epochs_done(),
            });
            run.key = key(experiment);
            run.experiment = experiment.clone();
        }
        Ok(Self {
            path,
            checkpoint,
            is_replanned,
        })
    }
}

/// The checkpoint to go on from: the newest, or, where that was deleted, the best epoch's.
fn checkpoint_to_resume(run_dir: &Path) -> Option<PathBuf> {
    [last_checkpoint(run_dir), best_checkpoint(run_dir)]
        .into_iter()
        .find(|path| path.exists())
}

/// An error if the run would replace files of another.
fn check_folder(experiment: &Experiment, options: &Options) -> Result<(), RunError> {
    let folder = &options.run_dir;
    match checkpoint_to_resume(folder) {
        Some(_) if options.resume => Ok(()),
        Some(_) => Err(RunError::HasCheckpoint {
            folder: folder.into(),
        }),
        None => {
            if options.resume {
                read_packed(experiment, folder)?;
            }
            check_new(folder, experiment, options.resume)
        }
    }
}

/// What there is to resume from; an error if it is of another experiment.
fn read_checkpoint(experiment: &Experiment, run_dir: &Path) -> Result<Found, RunError> {
    if let Some(path) = checkpoint_to_resume(run_dir) {
        return Ok(Found::Checkpoint(Box::new(Resumed::read(
            experiment, path,
        )?)));
    }
    let run = read_packed(experiment, run_dir)?;
    Ok(run.map_or(Found::Nothing, |run| Found::Packed(Box::new(run))))
}

/// The state of a finished run of `experiment` whose packed network is all that is left; `None` without one.
fn read_packed(experiment: &Experiment, run_dir: &Path) -> Result<Option<RunState>, RunError> {
    let packed = packed_network(run_dir);
    let Some(run) = packed_state(&packed)? else {
        return Ok(None);
    };
    // There is nothing to go on from to more epochs.
    match is_of(experiment, &packed, &run)? {
        true => Ok(Some(run)),
        false => Err(RunError::OnlyPacked {
            packed,
            epochs: run.experiment.train.epochs,
        }),
    }
}

/// Verifies the checkpoint of the best epoch of `last`, a state of `experiment`. One that is gone is written again if the last
/// checkpoint is of that epoch; otherwise the run goes on without it, with a warning.
fn verify_best(
    experiment: &Experiment,
    run_dir: &Path,
    last: &RunState,
    observer: &mut Observer<'_>,
) -> Result<(), RunError> {
    let path = best_checkpoint(run_dir);
    if path.exists() {
        let best = Checkpoint::read(&path)?.run;
        check_best(&path, &best, last)?;
        return is_of(experiment, &path, &best).map(drop);
    }
    let Some(best) = last.progress.best else {
        return Ok(());
    };
    // A process that was killed while the checkpoints gave way to it.
    if packed_network(run_dir).is_file() {
        return Ok(());
    }
    if (best.epoch, 0) == (last.epochs_done(), last.progress.step) {
        let last = last_checkpoint(run_dir);
        let bytes = fs::read(&last).map_err(FileError::on("read", &last))?;
        return Ok(write_atomically(&path, &bytes)?);
    }
    observer(Event::Warning {
        text: &format!(
            "{} is missing: the weights of epoch {}, the best so far, are lost, and its figures are kept",
            path.display(),
            best.epoch
        ),
    });
    Ok(())
}

/// The summary of a finished run, with the figures of its weights; `None` if there is something left to do.
fn finished_summary(
    experiment: &Experiment,
    folder: &RunFolder,
    found: &Found,
    observer: &mut Observer<'_>,
) -> Result<Option<Summary>, RunError> {
    let (key, best) = match found {
        Found::Nothing => (key(experiment), None),
        Found::Packed(run) => (run.key.clone(), Some(run.progress.best)),
        Found::Checkpoint(found) => {
            let run = &found.checkpoint.run;
            (run.key.clone(), Some(run.progress.best))
        }
    };
    let is_done = match found {
        Found::Checkpoint(found) => found.checkpoint.run.epochs_done() >= experiment.train.epochs,
        Found::Nothing | Found::Packed(_) => true,
    };
    let summary = read_summary(folder.path());
    let summary =
        summary.filter(|summary| summary.status == Status::Finished && summary.key == key);
    let Some(mut summary) = summary.filter(|_| is_done) else {
        return Ok(None);
    };
    let mut warn = |text: &str| observer(Event::Warning { text });
    match best {
        None => warn(
            "the run is finished, and its weights are gone: train in another --run-dir to have them again",
        ),
        Some(best) if summary.best() != best => {
            warn("summary.json did not have the figures of the run's weights: it is written again");
            summary.set_best(best);
            folder.write_summary(&summary)?;
        }
        Some(_) => {}
    }
    if let Some(missing) = folder.missing_epochs(summary.epochs) {
        warn(&missing);
    }
    folder.write_config(experiment)?;
    Ok(Some(summary))
}

/// Whether `run`, in `file`, is planned as `experiment`; false if another number of epochs or other learning rates were planned,
/// and all that it has done are those of `experiment`. An error if it is of another experiment.
fn is_of(experiment: &Experiment, file: &Path, run: &RunState) -> Result<bool, RunError> {
    let here = key(experiment);
    let is_same_version = run.training_version == TRAINING_VERSION;
    let is_planned = run.key == here || is_same_version && key(&run.experiment) == here;
    let begun = run.epochs_begun();
    let agrees = is_same_version && agree(experiment, &run.experiment, begun);
    if !is_planned && !agrees {
        return Err(other_experiment(experiment, file, run));
    }
    if experiment.train.epochs < begun {
        return Err(RunError::FewerEpochs {
            checkpoint: file.into(),
            begun,
            epochs: experiment.train.epochs,
        });
    }
    same_text(experiment, file, run)?;
    same_start(experiment, file, run)?;
    Ok(is_planned)
}

fn other_experiment(experiment: &Experiment, file: &Path, run: &RunState) -> RunError {
    let there = run.training_version;
    let mut differences = differences(experiment, &run.experiment);
    if there != TRAINING_VERSION {
        differences.push(format!(
            "training version: {TRAINING_VERSION} here, {there} there"
        ));
    }
    RunError::OtherExperiment {
        checkpoint: file.into(),
        differences,
    }
}

/// An error if `run`, in `file`, has another text than the one that the experiment names. A finished run does not need it.
fn same_text(experiment: &Experiment, file: &Path, run: &RunState) -> Result<(), RunError> {
    let Some(path) = &experiment.data.path else {
        return Ok(());
    };
    if run.experiment.data.path.as_ref() == Some(path) && !path.exists() {
        return Ok(());
    }
    same_data(&load(&experiment.data, &mut |_| {})?, file, run)
}

/// An error if the data of `run`, in `file`, are others.
fn same_data(examples: &Examples, file: &Path, run: &RunState) -> Result<(), RunError> {
    match examples.fingerprint() == run.data_sha256 {
        true => Ok(()),
        false => Err(RunError::OtherData {
            data: examples.name().into(),
            checkpoint: file.into(),
        }),
    }
}

fn run(
    experiment: &Experiment,
    folder: &mut RunFolder,
    found: Option<Resumed>,
    requested: DeviceOptions,
    stop: &AtomicBool,
    observer: &mut Observer<'_>,
) -> Result<Summary, RunError> {
    let before = found.as_ref();
    let before = before.map(|found| found.checkpoint.run.kernel.as_str());
    let (device, reason) = OpenDevice::open(requested, before)?;
    observer(Event::Device {
        name: &device.to_string(),
        reason: &reason,
    });
    let kernel = device.kernel();
    if let Some(found) = &found {
        let there = &found.checkpoint.run.kernel;
        same_device(&found.path, there, &kernel, requested.choice)?;
    }
    let (report_interval, on_gpu) = (device.report_interval(), device.is_cuda());
    let mut held = Ok(());
    let examples = load(&experiment.data, &mut |what| {
        observer(Event::Preparing { what });
        held = folder.beat(None);
    })?;
    held?;
    let data_sha256 = examples.fingerprint();
    let input = Input::of(&examples);
    // Splits that are too short for a batch are an error of their own, whatever memory there is.
    let dataset = Dataset::new(&examples, experiment, on_gpu)?;
    let mut network = network(device, experiment, input, experiment.data.batch)?;
    let resumed = found.is_some();
    let is_saved = found.as_ref().is_some_and(|found| !found.is_replanned);
    let (progress, start, earlier_plans) = match found {
        None => {
            let path = experiment.train.start.as_deref();
            let started = path.map(|path| start(path, examples.alphabet(), &mut network));
            (
                Progress::at_the_beginning(),
                started.transpose()?,
                Vec::new(),
            )
        }
        Some(Resumed {
            path,
            checkpoint:
                Checkpoint {
                    run,
                    network: state,
                },
            ..
        }) => {
            same_data(&examples, &path, &run)?;
            network
                .load(&state)
                .map_err(|source| RunError::not_loaded(&path, source))?;
            (run.progress, run.start, run.earlier_plans)
        }
    };
    let environment = Environment::detect(&kernel, rayon::current_num_threads());
    let mut run = Run {
        pending: Pending::new(report_interval),
        dataset,
        experiment,
        alphabet: examples.alphabet(),
        data_sha256,
        start,
        earlier_plans,
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
    let outcome = run.begin(resumed, is_saved).and_then(|()| run.epochs());
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
