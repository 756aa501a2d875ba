//! The training loop: epochs, schedule, evaluation, checkpoints, and going on after an interruption.
//!
//! After every epoch the network is evaluated on the validation split, with quantized weights. The epoch with the
//! lowest validation loss, or error for images, is the best, of equal ones the latest; what it does on the test split is
//! the run's result (paper, section 4).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use laq_datasets::{Split, epoch_order};
use laq_models::{DatasetHandle, ModelError};
use laq_solvers::Method;

use crate::checkpoint::{Best, Checkpoint, Progress, RunState, StepTimes};
use crate::config::{Experiment, differences, key};
use crate::device::{DeviceChoice, DeviceOptions, OpenDevice, was_on_cuda};
use crate::environment::{Environment, peak_memory_bytes};
use crate::examples::{Batches, Examples, Room, Score, load, score};
use crate::files::write_atomically;
use crate::record::{ComparisonRecord, EpochRecord, LayerRecord, Status, Summary};
use crate::run_folder::{RunFolder, best_checkpoint, last_checkpoint, read_summary};
use crate::session::{Input, Network, method, network, thread_pool};
use crate::{RunError, TRAINING_VERSION};

/// Where and how a run is trained; nothing here changes its numbers.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Go on from the folder's checkpoint, if it has one.
    pub resume: bool,
    /// Threads; one for each processor where it is not given.
    pub threads: Option<usize>,
    /// Where the network is computed. Another device gives other bits.
    pub device: DeviceOptions,
}

/// What an observer hears of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The device that computes.
    Device {
        /// Its name.
        name: &'a str,
        /// Why it was taken.
        because: &'a str,
    },
    /// The data are being made ready, which takes its time.
    Preparing {
        /// What is being done.
        what: &'a str,
    },
    /// Training begins, or goes on.
    Started {
        /// The epoch under way.
        epoch: u32,
        /// Steps done in it.
        step: usize,
        /// All epochs.
        epochs: u32,
        /// Batches of an epoch, of the validation split and of the test split.
        batches: [usize; 3],
        /// Whether it goes on from a checkpoint.
        resumed: bool,
    },
    /// Steps are done: one on a processor, as many as a tenth of a second holds on a GPU.
    Step {
        /// Their epoch.
        epoch: u32,
        /// Steps done in it, these included.
        step: usize,
        /// The mean loss of the epoch so far.
        loss: f64,
    },
    /// Batches are about to be evaluated: one on a processor, several on a GPU.
    Evaluating {
        /// Of which split.
        split: Split,
        /// The first of them, from 0.
        batch: usize,
    },
    /// An epoch is done and evaluated.
    Epoch(&'a EpochRecord),
    /// A checkpoint is on the disk.
    Saved {
        /// The epoch under way.
        epoch: u32,
        /// Steps done in it.
        step: usize,
    },
    /// The run was told to stop, and is about to be saved.
    Stopping,
}

/// Hears what happens in a run.
pub type Observer<'a> = dyn FnMut(Event<'_>) + Send + 'a;

/// Trains `experiment` to its end, or until `stop` is set: then the step under way is finished, the run is saved, and
/// the summary says so. The loss of a step, and so every number of the run but its times, depends on the experiment
/// alone: not on the threads, and not on how often the run was stopped and resumed.
///
/// A run that is finished already is left as it is.
///
/// # Errors
///
/// See [`RunError`]. Whatever happens, the last checkpoint stays usable, and the summary gives the reason.
pub fn train(
    experiment: &Experiment,
    options: &Options,
    stop: &AtomicBool,
    observer: &mut Observer<'_>,
) -> Result<Summary, RunError> {
    let pool = thread_pool(options.threads)?;
    let folder = RunFolder::open(&options.run_dir)?;
    let found = read_checkpoint(experiment, &folder, options.resume)?;
    if let Some(summary) = read_summary(folder.path()).filter(|summary| {
        let done = found
            .as_ref()
            .is_some_and(|(_, found)| found.run.progress.epoch > experiment.train.epochs);
        done && summary.status == Status::Finished && summary.key == key(experiment)
    }) {
        return Ok(summary);
    }
    // Every parallel loop inside runs on the pool's threads, this one included.
    pool.install(|| run(experiment, folder, found, options.device, stop, observer))
}

/// The checkpoint to go on from, if there is one and it is this experiment's.
fn read_checkpoint(
    experiment: &Experiment,
    folder: &RunFolder,
    resume: bool,
) -> Result<Option<(PathBuf, Checkpoint)>, RunError> {
    let Some(path) = folder.checkpoint_to_resume() else {
        return match folder.file_of_a_run().filter(|_| !resume) {
            None => Ok(None),
            Some(file) => Err(RunError::HasFiles { file }),
        };
    };
    if !resume {
        return Err(RunError::HasCheckpoint {
            folder: folder.path().into(),
        });
    }
    let found = Checkpoint::read(&path)?;
    if found.run.key == key(experiment) {
        return Ok(Some((path, found)));
    }
    let mut differences = differences(experiment, &found.run.experiment);
    let there = found.run.training_version;
    if there != TRAINING_VERSION {
        differences.push(format!(
            "the training's version: {TRAINING_VERSION} here, {there} there"
        ));
    }
    Err(RunError::OtherExperiment {
        checkpoint: path,
        differences,
    })
}

fn run(
    experiment: &Experiment,
    folder: RunFolder,
    found: Option<(PathBuf, Checkpoint)>,
    device: DeviceOptions,
    stop: &AtomicBool,
    observer: &mut Observer<'_>,
) -> Result<Summary, RunError> {
    let before = found.as_ref().map(|(_, found)| found.run.kernel.as_str());
    let (computer, because) = OpenDevice::open(device, before)?;
    observer(Event::Device {
        name: &computer.to_string(),
        because: &because,
    });
    let kernel = computer.kernel();
    if let Some((checkpoint, found)) = &found {
        same_device(checkpoint, &found.run.kernel, &kernel, device.choice)?;
    }
    let (between_reports, on_gpu) = (computer.between_reports(), computer.is_cuda());
    let examples = load(&experiment.data, &mut |what| {
        observer(Event::Preparing { what })
    })?;
    let data_sha256 = examples.fingerprint();
    let input = Input::of(&examples);
    let mut network = network(computer, experiment, input, experiment.data.batch)?;
    let resumed = found.is_some();
    let progress = match found {
        None => Progress::at_the_beginning(),
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
            found.run.progress
        }
    };
    let environment = Environment::found(&kernel, rayon::current_num_threads());
    let splits = Splits::new(&examples, experiment)?;
    let mut run = Run {
        steps_before_holding: on_gpu.then_some(STEPS_BEFORE_HOLDING),
        held: Held::default(),
        between_reports,
        reported: Instant::now(),
        unreported: 0,
        splits,
        experiment,
        alphabet: examples.alphabet(),
        data_sha256,
        folder,
        environment,
        exact: method(experiment)?
            .exact_counterpart()
            .filter(|_| experiment.comparison.every > 0),
        network,
        progress,
        clock: Instant::now(),
        saved: Instant::now(),
        stop,
        observer,
    };
    let outcome = run.begin(resumed).and_then(|()| run.epochs());
    run.tick();
    let (status, reason) = match &outcome {
        Ok(true) => (Status::Finished, None),
        Ok(false) => (
            Status::Interrupted,
            Some("stopped by the user; --resume goes on".to_string()),
        ),
        Err(error) => (Status::Failed, Some(error.to_string())),
    };
    let summary = run.summary(status, reason);
    let written = run.folder.write_summary(&summary);
    // A full disk stops both; the first error is the one to tell.
    outcome?;
    written?;
    Ok(summary)
}

/// Refuses to go on with other bits than before, unless that was asked for by naming another kind of device.
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

/// The data in batches.
struct Splits<'a> {
    train: Batches<'a>,
    validation: Batches<'a>,
    test: Batches<'a>,
    /// Batches of an epoch.
    batches: usize,
}

impl<'a> Splits<'a> {
    fn new(examples: &'a Examples, experiment: &Experiment) -> Result<Self, RunError> {
        let of = |split| examples.batches(split, &experiment.data);
        let train = of(Split::Train)?;
        let most = experiment.train.max_batches.unwrap_or(usize::MAX);
        Ok(Self {
            batches: train.trained().min(most),
            train,
            validation: of(Split::Validation)?,
            test: of(Split::Test)?,
        })
    }

    /// Copies what there is room for to the device of `network`.
    fn hold(&self, network: &mut Network) -> Result<Held, ModelError> {
        Ok(Held {
            train: self.train.hold(network)?,
            validation: self.validation.hold(network)?,
            test: self.test.hold(network)?,
        })
    }
}

/// The steps that make what a network needs on a device: one done as it is, and one recorded.
const STEPS_BEFORE_HOLDING: usize = 2;

/// The examples that are on the device, split by split.
#[derive(Clone, Copy, Default)]
struct Held {
    train: Option<DatasetHandle>,
    validation: Option<DatasetHandle>,
    test: Option<DatasetHandle>,
}

/// A run under way.
struct Run<'a> {
    experiment: &'a Experiment,
    splits: Splits<'a>,
    alphabet: &'a [u8],
    data_sha256: String,
    folder: RunFolder,
    environment: Environment,
    network: Network,
    held: Held,
    /// On a GPU the examples lie beside the network, where they fit: once the first steps have made room for all that they
    /// need. How many of these are still to come; none where nothing is to be held any more.
    steps_before_holding: Option<usize>,
    /// How long steps may go unreported, when they last were, and how many have been begun since.
    between_reports: Duration,
    reported: Instant,
    unreported: usize,
    /// What the solver is compared with, if the experiment asks for it.
    exact: Option<Method>,
    progress: Progress,
    /// When the progress's seconds were last brought up to date.
    clock: Instant,
    /// When the last checkpoint was written.
    saved: Instant,
    stop: &'a AtomicBool,
    observer: &'a mut Observer<'a>,
}

impl Run<'_> {
    /// Leaves a complete folder behind before the first step, so that a disk that cannot take a checkpoint is found
    /// now and not after the first epoch.
    fn begin(&mut self, resumed: bool) -> Result<(), RunError> {
        let (epochs, steps) = (self.progress.epoch - 1, self.network.steps_taken());
        self.folder
            .cut_records(epochs, steps, self.experiment.log.tensorboard)?;
        self.folder.write_config(self.experiment)?;
        self.folder.write_environment(&self.environment)?;
        let summary = self.summary(Status::Running, None);
        self.folder.write_summary(&summary)?;
        if !resumed {
            self.save()?;
        }
        (self.observer)(Event::Started {
            epoch: self.progress.epoch,
            step: self.progress.step,
            epochs: self.experiment.train.epochs,
            batches: [
                self.splits.batches,
                self.splits.validation.evaluated(),
                self.splits.test.evaluated(),
            ],
            resumed,
        });
        Ok(())
    }

    /// Whether all epochs are done; false where the run was stopped and saved.
    fn epochs(&mut self) -> Result<bool, RunError> {
        while self.progress.epoch <= self.experiment.train.epochs {
            if !self.train_epoch()? {
                return self.stop_here();
            }
            self.write_notes()?;
            let Some((record, improved)) = self.evaluate_epoch()? else {
                return self.stop_here();
            };
            self.end_epoch(&record, improved)?;
        }
        Ok(true)
    }

    /// Keeps how the device does its work beside what else the numbers come from.
    fn write_notes(&mut self) -> Result<(), RunError> {
        let notes = self.network.diagnostics();
        if self.environment.notes == notes {
            return Ok(());
        }
        self.environment.notes = notes;
        self.folder.write_environment(&self.environment)
    }

    fn stop_here(&mut self) -> Result<bool, RunError> {
        (self.observer)(Event::Stopping);
        self.save()?;
        Ok(false)
    }

    fn learning_rate(&self) -> f64 {
        let train = &self.experiment.train;
        train.learning_rate * train.schedule.factor(self.progress.epoch)
    }

    /// The steps of the epoch that are left; false where the run was stopped.
    fn train_epoch(&mut self) -> Result<bool, RunError> {
        let batches = self.splits.train;
        let order = epoch_order(
            batches.examples(),
            self.experiment.train.seed,
            self.progress.epoch,
        );
        let learning_rate = self.learning_rate();
        if let Some(train) = self.held.train {
            let ordered = self.network.set_order(train, &order);
            ordered.map_err(|error| self.step_failed(error))?;
        }
        let mut room = Room::default();
        let interval = Duration::from_secs_f64(self.experiment.checkpoint.minutes * 60.0);
        while self.progress.step + self.unreported < self.splits.batches {
            if self.stop.load(Ordering::Relaxed) {
                self.report()?;
                return Ok(false);
            }
            self.compare()?;
            let begun = self.progress.step + self.unreported;
            self.hold(&order)?;
            let step = match self.held.train {
                Some(train) => self.network.begin_dataset_step(train, begun, learning_rate),
                None => {
                    let batch = room.fill(&batches, &order, begun);
                    self.network.begin_step(batch, learning_rate)
                }
            };
            if let Err(error) = step {
                return Err(self.step_failed(error));
            }
            self.unreported += 1;
            if self.reported.elapsed() >= self.between_reports {
                self.report()?;
            }
            if self.saved.elapsed() >= interval {
                self.report()?;
                self.save()?;
            }
        }
        self.report()?;
        Ok(true)
    }

    /// Before a step: copies the examples to the device when the time has come.
    fn hold(&mut self, order: &[u32]) -> Result<(), RunError> {
        let Some(left) = &mut self.steps_before_holding else {
            return Ok(());
        };
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        self.steps_before_holding = None;
        self.report()?;
        let held = self.splits.hold(&mut self.network);
        self.held = held.map_err(|error| self.failed(error))?;
        if let Some(train) = self.held.train {
            let ordered = self.network.set_order(train, order);
            ordered.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Waits for the steps that were begun, and counts them.
    fn report(&mut self) -> Result<(), RunError> {
        self.reported = Instant::now();
        if self.unreported == 0 {
            return Ok(());
        }
        let report = match self.network.report() {
            Ok(report) => report,
            Err(error) => return Err(self.step_failed(error)),
        };
        let progress = &mut self.progress;
        for loss in report.losses {
            progress.loss_sum += loss;
        }
        progress.step += report.losses.len();
        let (steps, seconds) = (report.losses.len() as u64, report.seconds);
        let quantizing = report.quantize_seconds;
        progress.epoch_times.add(steps, seconds, quantizing);
        progress.times.add(steps, seconds, quantizing);
        self.unreported = 0;
        (self.observer)(Event::Step {
            epoch: progress.epoch,
            step: progress.step,
            loss: progress.loss_sum / progress.step as f64,
        });
        Ok(())
    }

    /// The error of a step, with the number of those before it that were finished.
    fn step_failed(&mut self, error: ModelError) -> RunError {
        let steps_of_epochs_before = self.progress.times.steps - self.progress.epoch_times.steps;
        let finished = self
            .network
            .steps_taken()
            .saturating_sub(steps_of_epochs_before);
        self.progress.step = finished as usize;
        self.failed(error)
    }

    /// Writes down how near the solver of the coming step is to the optimum, where the step is one of those to compare.
    fn compare(&mut self) -> Result<(), RunError> {
        let step = self.network.steps_taken() + 1;
        let Some(exact) = &self.exact else {
            return Ok(());
        };
        if !step.is_multiple_of(self.experiment.comparison.every) {
            return Ok(());
        }
        let layers = self.network.compare(exact);
        let layers = layers.map_err(|error| self.failed(error))?;
        self.folder
            .append_comparison(&ComparisonRecord::new(step, layers))
    }

    /// The epoch's record and whether it is the best so far; `None` where the run was stopped.
    fn evaluate_epoch(&mut self) -> Result<Option<(EpochRecord, bool)>, RunError> {
        if self.progress.layers.is_none() {
            let layers = self.network.layers().map_err(|error| self.failed(error))?;
            self.progress.layers = Some(layers.into_iter().map(LayerRecord::from).collect());
        }
        let Some(validation) = self.score_of(Split::Validation)? else {
            return Ok(None);
        };
        let improved =
            self.progress
                .best
                .is_none_or(|best| match (validation.error, best.validation_error) {
                    (Some(error), Some(best)) => error <= best,
                    _ => validation.loss <= best.validation_loss,
                });
        let mut test = None;
        if improved {
            test = self.score_of(Split::Test)?;
            if test.is_none() {
                return Ok(None);
            }
        }
        self.tick();
        let progress = &self.progress;
        let record = EpochRecord {
            epoch: progress.epoch,
            train_loss: progress.loss_sum / progress.step as f64,
            validation_loss: validation.loss,
            test_loss: test.map(|test| test.loss),
            validation_error: validation.error,
            test_error: test.and_then(|test| test.error),
            learning_rate: self.learning_rate(),
            seconds: progress.epoch_seconds,
            seconds_per_step: progress.epoch_times.per_step(),
            quantize_share: progress.epoch_times.quantize_share(),
            layers: progress.layers.clone().unwrap_or_default(),
        };
        Ok(Some((record, improved)))
    }

    fn score_of(&mut self, split: Split) -> Result<Option<Score>, RunError> {
        let (batches, held) = match split {
            Split::Train => (self.splits.train, None),
            Split::Validation => (self.splits.validation, self.held.validation),
            Split::Test => (self.splits.test, self.held.test),
        };
        let (stop, observer) = (self.stop, &mut self.observer);
        let found = score(&mut self.network, &batches, held, &mut |batch| {
            observer(Event::Evaluating { split, batch });
            !stop.load(Ordering::Relaxed)
        });
        found.map_err(|error| self.failed(error))
    }

    /// Writes the epoch down: its line, then the best checkpoint, then the last, which alone says that it is done. So
    /// a crash in between repeats the epoch, with the same bits.
    fn end_epoch(&mut self, record: &EpochRecord, improved: bool) -> Result<(), RunError> {
        self.folder.append_epoch(record)?;
        if self.experiment.log.tensorboard {
            self.folder.append_event(record)?;
        }
        let progress = &mut self.progress;
        if let Some(test_loss) = record.test_loss.filter(|_| improved) {
            progress.best = Some(Best {
                epoch: record.epoch,
                train_loss: record.train_loss,
                validation_loss: record.validation_loss,
                test_loss,
                validation_error: record.validation_error,
                test_error: record.test_error,
            });
        }
        progress.epoch += 1;
        progress.step = 0;
        progress.loss_sum = 0.0;
        progress.layers = None;
        progress.epoch_seconds = 0.0;
        progress.epoch_times = StepTimes::default();
        if improved {
            self.save_as(&[best_checkpoint, last_checkpoint])?;
        } else {
            self.save()?;
        }
        let summary = self.summary(Status::Running, None);
        self.folder.write_summary(&summary)?;
        (self.observer)(Event::Epoch(record));
        Ok(())
    }

    fn save(&mut self) -> Result<(), RunError> {
        self.save_as(&[last_checkpoint])
    }

    fn save_as(&mut self, names: &[fn(&Path) -> PathBuf]) -> Result<(), RunError> {
        self.tick();
        let bytes = self.checkpoint()?;
        for name in names {
            write_atomically(&name(self.folder.path()), &bytes)?;
        }
        self.saved = Instant::now();
        (self.observer)(Event::Saved {
            epoch: self.progress.epoch,
            step: self.progress.step,
        });
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Vec<u8>, RunError> {
        let network = self.network.save().map_err(|error| self.failed(error))?;
        let run = RunState {
            key: key(self.experiment),
            training_version: TRAINING_VERSION,
            experiment: self.experiment.clone(),
            alphabet: self.alphabet.to_vec(),
            data_sha256: self.data_sha256.clone(),
            kernel: self.environment.kernel.clone(),
            progress: self.progress.clone(),
        };
        Ok(Checkpoint { run, network }.to_bytes()?)
    }

    /// Brings the seconds up to date.
    fn tick(&mut self) {
        let seconds = self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
        self.progress.seconds += seconds;
        self.progress.epoch_seconds += seconds;
    }

    fn failed(&self, source: ModelError) -> RunError {
        RunError::Step {
            epoch: self.progress.epoch,
            step: self.progress.step,
            learning_rate: self.learning_rate(),
            kept: last_checkpoint(self.folder.path()),
            source: source.into(),
        }
    }

    fn summary(&self, status: Status, reason: Option<String>) -> Summary {
        let (experiment, progress) = (self.experiment, &self.progress);
        let dataset = laq_datasets::find(&experiment.data.name).ok();
        Summary {
            status,
            reason,
            key: key(experiment),
            training_version: TRAINING_VERSION,
            title: experiment.title.clone(),
            method: experiment.quantize.method.clone(),
            data: experiment.data.name.clone(),
            stand_in: dataset.and_then(|dataset| dataset.stand_in).map(Into::into),
            epochs: experiment.train.epochs,
            epochs_done: progress.epoch - 1,
            best_epoch: progress.best.map(|best| best.epoch),
            train_loss: progress.best.map(|best| best.train_loss),
            validation_loss: progress.best.map(|best| best.validation_loss),
            test_loss: progress.best.map(|best| best.test_loss),
            validation_error: progress.best.and_then(|best| best.validation_error),
            test_error: progress.best.and_then(|best| best.test_error),
            seconds: progress.seconds,
            seconds_per_step: progress.times.per_step(),
            quantize_share: progress.times.quantize_share(),
            steps: progress.times.steps,
            max_batches: experiment.train.max_batches,
            paper: experiment.paper.clone(),
            commit: self.environment.commit.clone(),
            cpu: self.environment.cpu.clone(),
            threads: self.environment.threads,
            kernel: self.environment.kernel.clone(),
            peak_memory_bytes: peak_memory_bytes(),
        }
    }
}
