//! Progress of training and of downloads on the standard error: a bar with an ETA on a terminal,
//! plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use laq_datasets::{Phase, Split};
use laq_lab::reproduce;
use laq_lab::text::duration;
use laq_runner::record::EpochRecord;
use laq_runner::train::Event;

use crate::args::ProgressStyle;
use crate::output::{is_quiet, log, log_error};

/// The time of a training step over that of an evaluated batch: a backward pass takes about two
/// forward passes.
const STEP_WORK: u64 = 3;

/// Seconds between plain lines within an epoch.
const PLAIN_SECONDS: u64 = 30;

/// Shows the events of one run.
pub(crate) struct Progress {
    style: ProgressStyle,
    bar: ProgressBar,
    epochs: u32,
    batches: [usize; 3],
    /// Work done before this session, left out of the ETA.
    before: u64,
    /// Work done, without the evaluation of this epoch.
    trained: u64,
    begin: Instant,
    /// When the last plain line was written.
    line: Instant,
}

impl Progress {
    pub(crate) fn new(style: ProgressStyle) -> Self {
        let style = match style {
            ProgressStyle::Auto if stderr().is_terminal() => ProgressStyle::Bar,
            ProgressStyle::Auto => ProgressStyle::Plain,
            chosen => chosen,
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if style != ProgressStyle::Bar {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{bar:30} {percent:>3} %  {msg}  ETA {eta}";
        bar.set_style(
            BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar()),
        );
        let now = Instant::now();
        Self {
            style,
            bar,
            epochs: 0,
            batches: [0; 3],
            before: 0,
            trained: 0,
            begin: now,
            line: now,
        }
    }

    pub(crate) fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Device { name, reason } => self.log(&format!("using {name}: {reason}")),
            Event::Preparing { what } => self.log(what),
            Event::Started {
                epoch,
                step,
                epochs,
                batches,
                resumed,
            } => {
                (self.epochs, self.batches) = (epochs, batches);
                self.before = self.work(epoch, step);
                self.trained = self.before;
                (self.begin, self.line) = (Instant::now(), Instant::now());
                self.bar.set_length(self.work(epochs + 1, 0));
                self.bar.set_position(self.before);
                self.bar.reset_eta();
                let [train, validation, test] = batches;
                let action = if resumed { "resuming" } else { "starting" };
                self.log(&format!(
                    "{action} in epoch {epoch} of {epochs} after {step} of {train} steps; {validation} validation batches, \
                     {test} test batches"
                ));
            }
            Event::Step { epoch, step, loss } => {
                let work = self.work(epoch, step);
                self.trained = work;
                self.bar.set_position(work);
                self.bar.set_message(format!(
                    "epoch {epoch}/{}, step {step}/{}, loss {loss:.4}",
                    self.epochs, self.batches[0]
                ));
                if self.line.elapsed() >= Duration::from_secs(PLAIN_SECONDS) {
                    self.line = Instant::now();
                    self.plain(&format!("{}, ETA {}", self.bar.message(), self.eta(work)));
                }
            }
            Event::Evaluating { split, batch } => {
                let (after, before) = match split {
                    Split::Test => ("test", self.batches[1]),
                    _ => ("validation", 0),
                };
                self.bar
                    .set_position(self.trained + (before + batch) as u64);
                self.bar
                    .set_message(format!("evaluating the {after} split"));
            }
            Event::Epoch(record) => {
                let work = self.work(record.epoch + 1, 0);
                self.bar.set_position(work);
                self.log(&format!("{}, ETA {}", self.line(record), self.eta(work)));
            }
            Event::Warning { text } => self.bar.suspend(|| log(&format!("warning: {text}"))),
            Event::Stopping => self.log("stopping: saving the run; another Ctrl-C stops at once"),
            _ => {}
        }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// The work of all epochs before `epoch` and of `step` steps in it.
    fn work(&self, epoch: u32, step: usize) -> u64 {
        let [train, validation, test] = self.batches.map(|batches| batches as u64);
        u64::from(epoch - 1) * (train * STEP_WORK + validation + test) + step as u64 * STEP_WORK
    }

    fn eta(&self, work: u64) -> String {
        let done = work.saturating_sub(self.before).max(1) as f64;
        let left = self.work(self.epochs + 1, 0).saturating_sub(work) as f64;
        duration(self.begin.elapsed().as_secs_f64() / done * left)
    }

    fn line(&self, record: &EpochRecord) -> String {
        let reached = |loss: f64, error: Option<f64>| match error {
            Some(error) => format!("{error:.2} %"),
            None => format!("{loss:.4}"),
        };
        let test = record
            .test_loss
            .map(|loss| format!(", test {} (best so far)", reached(loss, record.test_error)));
        format!(
            "epoch {}/{}: train {:.4}, validation {}{}, {}",
            record.epoch,
            self.epochs,
            record.train_loss,
            reached(record.validation_loss, record.validation_error),
            test.unwrap_or_default(),
            duration(record.seconds),
        )
    }

    /// Writes a line, above the bar if there is one.
    fn log(&self, line: &str) {
        match self.style {
            ProgressStyle::Bar => self.bar.println(line),
            _ => self.plain(line),
        }
    }

    fn plain(&self, line: &str) {
        if self.style == ProgressStyle::Plain {
            log(line);
        }
    }
}

/// Shows the progress of one download.
pub(crate) struct Transfer {
    bar: ProgressBar,
    /// The activity shown last.
    activity: String,
}

impl Transfer {
    pub(crate) fn new() -> Self {
        let target = if is_quiet() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{bar:30} {bytes} of {total_bytes}  {msg}  ETA {eta}";
        bar.set_style(
            BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar()),
        );
        Self {
            bar,
            activity: String::new(),
        }
    }

    pub(crate) fn show(&mut self, progress: laq_datasets::Progress<'_>) {
        let activity = match progress.phase {
            Phase::Check => "checking local files".into(),
            Phase::Fetch(from) => format!("from {from}"),
            Phase::Retry(reason) => format!("retrying: {reason}"),
            Phase::Unpack => "unpacking".into(),
            Phase::Verify => "verifying".into(),
        };
        let activity = format!("{}/{}: {activity}", progress.dataset, progress.file);
        if activity != self.activity {
            self.bar.set_message(activity.clone());
            self.bar.reset_eta();
            if self.bar.is_hidden() {
                log(&activity);
            }
            self.activity = activity;
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Shows the events of the cells of a table.
pub(crate) fn show_cells(event: &reproduce::Event<'_>, transfer: &mut Transfer) {
    match event {
        reproduce::Event::Download(progress) => transfer.show(*progress),
        reproduce::Event::Downloaded => transfer.end(),
        reproduce::Event::NoData(name, reason) => log_error(&format!(
            "{name}: {reason}; its cells are skipped (--mirror DIR|URL downloads from a copy)"
        )),
        reproduce::Event::Kept(finished, all) => {
            log(&format!("{finished} of {all} cells are finished"))
        }
        reproduce::Event::Started(number, all, cell) => {
            log(&format!("[{number}/{all}] {}", cell.name()))
        }
        reproduce::Event::Failed(cell, reason) => {
            log_error(&format!("{} failed: {reason}", cell.name()))
        }
        reproduce::Event::Elsewhere(cell, process) => log(&format!(
            "{} is being trained by {}",
            cell.name(),
            process.unwrap_or("another process")
        )),
        reproduce::Event::Waiting(cells) => log(&format!(
            "waiting for other processes to finish {cells} of the cells; Ctrl-C ends that"
        )),
        _ => {}
    }
}
