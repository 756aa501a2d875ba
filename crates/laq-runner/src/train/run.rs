//! The epochs and steps of one run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use laq_datasets::{Split, epoch_order};
use laq_models::ModelError;
use laq_solvers::Method;

use super::dataset::Dataset;
use super::{Event, Observer};
use crate::checkpoint::Checkpoint;
use crate::config::{Experiment, key};
use crate::device::Network;
use crate::environment::{Environment, peak_memory_bytes};
use crate::examples::{BatchBuffer, Score};
use crate::files::write_atomically;
use crate::record::{Best, EarlierPlan};
use crate::record::{ComparisonRecord, EpochRecord, LayerRecord, Status, Summary};
use crate::run_folder::{RunFolder, best_checkpoint, last_checkpoint};
use crate::run_state::{Progress, RunState, Start, StepTimes};
use crate::running::Position;
use crate::{RunError, TRAINING_VERSION};

/// A run in progress.
pub(super) struct Run<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) dataset: Dataset<'a>,
    pub(super) alphabet: &'a [u8],
    pub(super) data_sha256: String,
    pub(super) start: Option<Start>,
    pub(super) earlier_plans: Vec<EarlierPlan>,
    pub(super) folder: &'a mut RunFolder,
    pub(super) environment: Environment,
    pub(super) network: Network,
    pub(super) pending: Pending,
    /// The exact solver for comparisons, where the experiment asks for them.
    pub(super) exact: Option<Method>,
    pub(super) progress: Progress,
    /// When the seconds of `progress` were last updated.
    pub(super) clock: Instant,
    /// When the last checkpoint was written.
    pub(super) saved: Instant,
    /// The checkpoint of the best epoch, until it is written with the next one.
    pub(super) unsaved_best: Option<Checkpoint>,
    pub(super) stop: &'a AtomicBool,
    pub(super) observer: &'a mut Observer<'a>,
}

/// Submitted steps whose losses are not read back yet.
pub(super) struct Pending {
    /// The longest time between two reads.
    interval: Duration,
    last_read: Instant,
    steps: usize,
}

impl Pending {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last_read: Instant::now(),
            steps: 0,
        }
    }
}

impl Run<'_> {
    /// Writes a complete folder before the first step, so that a full disk fails now and not after
    /// an epoch. `is_saved` says whether the last checkpoint is as it would be written now.
    pub(super) fn begin(&mut self, resumed: bool, is_saved: bool) -> Result<(), RunError> {
        // Loading may have taken so long that another machine goes on with the run.
        self.beat()?;
        let (epochs, steps) = (self.progress.epoch - 1, self.network.steps_taken());
        // The configuration says whose the other files are.
        self.folder.write_config(self.experiment)?;
        let with_events = self.experiment.log.tensorboard;
        for defect in self.folder.cut_records(epochs, steps, with_events)? {
            (self.observer)(Event::Warning { text: &defect });
        }
        self.folder.write_environment(&self.environment)?;
        let summary = self.summary(Status::Running, None);
        self.folder.write_summary(&summary)?;
        if !is_saved {
            self.save()?;
        }
        (self.observer)(Event::Started {
            epoch: self.progress.epoch,
            step: self.progress.step,
            epochs: self.experiment.train.epochs,
            batches: self.dataset.batches(),
            resumed,
        });
        Ok(())
    }

    /// Trains the remaining epochs; false if the run was interrupted, and saved.
    pub(super) fn epochs(&mut self) -> Result<bool, RunError> {
        while self.progress.epoch <= self.experiment.train.epochs {
            if !self.train_epoch()? {
                return self.stop_here();
            }
            self.write_diagnostics()?;
            let Some((record, improved)) = self.evaluate_epoch()? else {
                return self.stop_here();
            };
            self.end_epoch(&record, improved)?;
        }
        Ok(true)
    }

    /// Updates the diagnostics of the device in `environment.json`.
    fn write_diagnostics(&mut self) -> Result<(), RunError> {
        let diagnostics = self.network.diagnostics();
        if self.environment.notes == diagnostics {
            return Ok(());
        }
        self.environment.notes = diagnostics;
        self.folder.write_environment(&self.environment)
    }

    fn stop_here(&mut self) -> Result<bool, RunError> {
        (self.observer)(Event::Stopping);
        self.save()?;
        Ok(false)
    }

    /// How far the run is. What is left takes as long as what is done.
    fn position(&self) -> Position {
        let (progress, epochs) = (&self.progress, self.experiment.train.epochs);
        let steps = self.dataset.steps_per_epoch();
        let seconds = progress.seconds + self.clock.elapsed().as_secs_f64();
        let done = f64::from(progress.epoch - 1) + progress.step as f64 / steps.max(1) as f64;
        let left = f64::from(epochs) - done;
        Position {
            epoch: progress.epoch.min(epochs),
            epochs,
            step: progress.step,
            steps,
            loss: (progress.step > 0).then(|| progress.loss_sum / progress.step as f64),
            seconds_per_step: progress.times.per_step(),
            seconds_left: (done > 0.0).then(|| seconds / done * left),
        }
    }

    fn learning_rate(&self) -> f64 {
        let train = &self.experiment.train;
        train.learning_rate * train.schedule.factor(self.progress.epoch)
    }

    /// Trains the remaining steps of the epoch; false if the run was interrupted.
    fn train_epoch(&mut self) -> Result<bool, RunError> {
        let (seed, epoch) = (self.experiment.train.seed, self.progress.epoch);
        let order = epoch_order(self.dataset.training_examples(), seed, epoch);
        let learning_rate = self.learning_rate();
        let ordered = self.dataset.set_order(&mut self.network, &order);
        ordered.map_err(|error| self.step_failed(error))?;
        let mut buffer = BatchBuffer::default();
        while self.progress.step + self.pending.steps < self.dataset.steps_per_epoch() {
            if self.stop.load(Ordering::Relaxed) {
                self.report()?;
                return Ok(false);
            }
            self.compare()?;
            let index = self.progress.step + self.pending.steps;
            if self.dataset.upload_is_due() {
                self.report()?;
                let uploaded = self.dataset.upload(&mut self.network, &order);
                uploaded.map_err(|error| self.failed(error))?;
            }
            let network = &mut self.network;
            let step =
                (self.dataset).begin_step(network, &mut buffer, &order, index, learning_rate);
            step.map_err(|error| self.step_failed(error))?;
            self.pending.steps += 1;
            if self.pending.last_read.elapsed() >= self.pending.interval {
                self.report()?;
            }
            if self.save_is_due() {
                self.report()?;
                self.save()?;
            }
        }
        self.report()?;
        Ok(true)
    }

    /// Waits for the submitted steps, and reads their losses.
    fn report(&mut self) -> Result<(), RunError> {
        self.pending.last_read = Instant::now();
        if self.pending.steps == 0 {
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
        self.pending.steps = 0;
        (self.observer)(Event::Step {
            epoch: progress.epoch,
            step: progress.step,
            loss: progress.loss_sum / progress.step as f64,
        });
        self.beat()
    }

    /// Keeps the folder. [`RunError::Locked`] where another process has taken it.
    fn beat(&mut self) -> Result<(), RunError> {
        let position = self.position();
        self.folder.beat(Some(position))
    }

    /// The error of a step, with the number of finished steps.
    fn step_failed(&mut self, error: ModelError) -> RunError {
        let steps_of_epochs_before = self.progress.times.steps - self.progress.epoch_times.steps;
        let finished = self
            .network
            .steps_taken()
            .saturating_sub(steps_of_epochs_before);
        self.progress.step = finished as usize;
        self.failed(error)
    }

    /// Compares the solver with the exact one before every `comparison.every`th step.
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

    /// The record of the epoch, and whether it is the best so far; `None` if the run was
    /// interrupted.
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
        let position = self.position();
        let (stop, observer, folder) = (self.stop, &mut self.observer, &mut *self.folder);
        let mut held = Ok(());
        let found = self.dataset.score(&mut self.network, split, &mut |batch| {
            observer(Event::Evaluating { split, batch });
            held = folder.beat(Some(position));
            held.is_ok() && !stop.load(Ordering::Relaxed)
        });
        held?;
        found.map_err(|error| self.failed(error))
    }

    /// Writes the record, and when it is time, the checkpoints. The last checkpoint alone marks epochs
    /// as done: after a crash they are repeated from there, with the same bits.
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
            self.tick();
            self.unsaved_best = Some(self.checkpoint()?);
        }
        if self.progress.epoch > self.experiment.train.epochs || self.save_is_due() {
            self.save()?;
        }
        let summary = self.summary(Status::Running, None);
        self.folder.write_summary(&summary)?;
        (self.observer)(Event::Epoch(record));
        Ok(())
    }

    fn save_is_due(&self) -> bool {
        self.saved.elapsed().as_secs_f64() >= self.experiment.checkpoint.minutes * 60.0
    }

    /// Writes the best checkpoint, if it is not yet, then the last.
    fn save(&mut self) -> Result<(), RunError> {
        let last = match self.save_best()? {
            Some(best) => best,
            None => {
                self.tick();
                self.checkpoint()?.to_bytes()?
            }
        };
        write_atomically(&last_checkpoint(self.folder.path()), &last)?;
        self.saved = Instant::now();
        (self.observer)(Event::Saved {
            epoch: self.progress.epoch,
            step: self.progress.step,
        });
        Ok(())
    }

    /// Writes the checkpoint of the best epoch, if it is not yet. Returns its content if the run has made
    /// no step since then.
    pub(super) fn save_best(&mut self) -> Result<Option<Vec<u8>>, RunError> {
        let Some(best) = &self.unsaved_best else {
            return Ok(None);
        };
        let bytes = best.to_bytes()?;
        write_atomically(&best_checkpoint(self.folder.path()), &bytes)?;
        let is_last = best.run.progress.position() == self.progress.position();
        self.unsaved_best = None;
        Ok(is_last.then_some(bytes))
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, RunError> {
        let network = self.network.save().map_err(|error| self.failed(error))?;
        let run = RunState {
            key: key(self.experiment),
            training_version: TRAINING_VERSION,
            experiment: self.experiment.clone(),
            alphabet: self.alphabet.to_vec(),
            data_sha256: self.data_sha256.clone(),
            kernel: self.environment.kernel.clone(),
            start: self.start.clone(),
            earlier_plans: self.earlier_plans.clone(),
            progress: self.progress.clone(),
        };
        Ok(Checkpoint { run, network })
    }

    /// Updates the elapsed seconds.
    pub(super) fn tick(&mut self) {
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

    pub(super) fn summary(&self, status: Status, reason: Option<String>) -> Summary {
        let (experiment, progress) = (self.experiment, &self.progress);
        let dataset = laq_datasets::find(&experiment.data.name).ok();
        let mut summary = Summary {
            status,
            reason,
            key: key(experiment),
            training_version: TRAINING_VERSION,
            title: experiment.title.clone(),
            method: experiment.quantize.method.clone(),
            granularity: experiment.quantize.granularity.clone(),
            start: experiment.train.start.clone(),
            data: experiment.data.name.clone(),
            stand_in: dataset.and_then(|dataset| dataset.stand_in).map(Into::into),
            epochs: experiment.train.epochs,
            epochs_done: progress.epoch - 1,
            earlier_plans: self.earlier_plans.clone(),
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
            ..Summary::default()
        };
        summary.set_best(progress.best);
        summary
    }
}
