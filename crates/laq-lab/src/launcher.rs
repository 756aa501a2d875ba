//! How runs are launched: the interface between a plan and the machines that train its cells.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use laq_runner::config::Experiment;
use laq_runner::device::DeviceOptions;

use crate::LabError;

/// The exit code of `laq train` after the run was stopped and saved: what a shell reports for a program
/// that Ctrl-C stopped.
pub const STOPPED: u8 = 130;

/// The exit code of `laq train` where another process trains the run: the same command succeeds later.
pub const LOCKED: u8 = 75;

/// One cell, as a launcher gets it.
#[derive(Clone, Debug)]
pub struct Job {
    /// For messages and queues, such as `lat-a on war-and-peace (seed 1)`.
    pub name: String,
    /// The run folder. A run that has a checkpoint there is resumed from it.
    pub folder: PathBuf,
    /// The resolved configuration.
    pub experiment: Experiment,
    /// What the run needs of its machine.
    pub needs: Needs,
}

/// What a run needs of its machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// The device and the precision of its products.
    pub device: DeviceOptions,
    /// Threads; one for each processor where it is not given.
    pub threads: Option<usize>,
}

/// A change of a job's state, with the job's index.
#[derive(Clone, Debug)]
pub enum Change {
    /// The job has started.
    Started(usize),
    /// The job has ended. Its result is in the run folder; the message, which a job that was stopped
    /// does not have, is used where the files there explain nothing.
    Ended(usize, Option<String>),
    /// The job was not trained, because another process trains its run.
    Locked(usize),
}

/// Trains jobs: in processes or threads of this machine ([`crate::local::Local`]), or elsewhere.
///
/// A launcher decides where and when a job is trained, and nothing else. Results are read from the
/// run folders.
pub trait Launcher {
    /// Trains `jobs`, and calls `report` when one starts and when it ends. Returns when all have
    /// ended. Once `stop` is set, it starts no more jobs, has the running ones save and end,
    /// and returns.
    ///
    /// # Errors
    ///
    /// [`LabError::Launch`] where no job can be started. The failure of a job is not an error.
    fn launch(
        &self,
        jobs: &[Job],
        stop: &Stop,
        report: &mut (dyn FnMut(Change) + Send),
    ) -> Result<(), LabError>;
}

/// A request to stop: a flag that a signal handler sets, or a deadline.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Set on an interruption.
    pub interrupted: Arc<AtomicBool>,
    /// When to stop in any case.
    pub deadline: Option<Instant>,
}

impl Stop {
    /// Whether it is time to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.is_interrupted()
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Sets the flag.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}
