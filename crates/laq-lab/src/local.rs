//! Runs on this machine, several at a time.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use laq_runner::RunError;
use laq_runner::run_folder::trained_by;
use laq_runner::train::{Options, train};

use crate::launcher::{Change, Job, LOCKED, Launcher, STOPPED, Stop};
use crate::{LabError, failure};

/// How often a child process is checked.
const POLL: Duration = Duration::from_millis(50);

/// Trains jobs on this machine.
#[derive(Clone, Debug)]
pub struct Local {
    /// How many jobs run at a time.
    pub jobs: usize,
    /// In what each of them runs.
    pub workers: Workers,
}

/// In what a job runs.
///
/// Processes are the default: a crash ends one run, and each run's peak memory is its own. On a
/// GPU, threads of one process share a context and their kernels overlap, while processes take
/// turns.
#[derive(Clone, Debug)]
pub enum Workers {
    /// In threads of this process.
    Threads,
    /// In child processes, which save and end with this one, however it ends.
    Processes {
        /// The `laq` program.
        program: PathBuf,
        /// Whether they show no progress. Several never do.
        quiet: bool,
    },
}

impl Launcher for Local {
    fn launch(
        &self,
        jobs: &[Job],
        stop: &Stop,
        report: &mut (dyn FnMut(Change) + Send),
    ) -> Result<(), LabError> {
        let (next, report) = (AtomicUsize::new(0), Mutex::new(report));
        let notify = |change| (report.lock().expect("no observer panics"))(change);
        let work = || {
            while !stop.is_set() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(index) else { break };
                if trained_by(&job.folder).is_some() {
                    notify(Change::Locked(index));
                    continue;
                }
                notify(Change::Started(index));
                let ended = match &self.workers {
                    Workers::Threads => run_here(job, stop),
                    Workers::Processes { program, quiet } => {
                        let quiet = *quiet || self.jobs > 1;
                        run_child(job, program, quiet, stop)
                            .unwrap_or_else(|error| Err(Failure::Other(error.to_string())))
                    }
                };
                notify(match ended {
                    Ok(()) => Change::Ended(index, None),
                    Err(Failure::Other(message)) => Change::Ended(index, Some(message)),
                    Err(Failure::Locked) => Change::Locked(index),
                });
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, jobs.len().max(1)) {
                scope.spawn(work);
            }
        });
        Ok(())
    }
}

/// Why a job was not trained to its end.
enum Failure {
    /// Another process trains the run.
    Locked,
    Other(String),
}

/// Trains `job` in this thread.
fn run_here(job: &Job, stop: &Stop) -> Result<(), Failure> {
    let options = Options {
        run_dir: job.folder.clone(),
        resume: true,
        threads: job.needs.threads,
        device: job.needs.device,
    };
    let over = AtomicBool::new(false);
    let run = || {
        train(&job.experiment, &options, &over, &mut |_| {
            if stop.is_set() {
                over.store(true, Ordering::Relaxed);
            }
        })
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RunError::Locked { .. })) => Err(Failure::Locked),
        Ok(Err(error)) => {
            let _ = failure::record(&job.folder, &error.to_string());
            Err(Failure::Other(error.to_string()))
        }
        Err(_) => Err(Failure::Other(
            "the run panicked: please report its message as a bug".into(),
        )),
    }
}

/// Trains `job` with `laq train -`, which reads the configuration from its standard input, up to a zero byte. When the input
/// ends after that, it saves and ends: because of `stop`, or because this process was killed.
fn run_child(
    job: &Job,
    program: &PathBuf,
    quiet: bool,
    stop: &Stop,
) -> io::Result<Result<(), Failure>> {
    let config = toml::to_string(&job.experiment).map_err(io::Error::other)? + "\0";
    let mut command = Command::new(program);
    command.args(["train", "-", "--record-failure", "--resume", "--run-dir"]);
    command.arg(&job.folder);
    command.args(["--device", &job.needs.device.choice.to_string()]);
    command.args(["--precision", &job.needs.device.precision.to_string()]);
    if let Some(threads) = job.needs.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if quiet {
        command.args(["--progress", "none"]);
    }
    // The standard output is that of the table.
    let output = match quiet {
        true => Stdio::null(),
        false => io::stderr().into(),
    };
    let started = command.stdin(Stdio::piped()).stdout(output).spawn();
    let named = |error| io::Error::other(format!("cannot start {}: {error}", program.display()));
    let mut child = started.map_err(named)?;
    let mut input = child.stdin.take();
    let written = match &mut input {
        Some(input) => input.write_all(config.as_bytes()),
        None => Ok(()),
    };
    let status = loop {
        // `Child::wait` would close the input.
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stop.is_set() {
            drop(input.take());
        }
        thread::sleep(POLL);
    };
    let failed = |message| Err(Failure::Other(message));
    Ok(match written {
        _ if status.code() == Some(LOCKED.into()) => Err(Failure::Locked),
        _ if status.code() == Some(STOPPED.into()) => Ok(()),
        // The signal came before it could listen.
        _ if status.code().is_none() && stop.is_set() => Ok(()),
        _ if !status.success() => failed(
            failure::reason(&job.folder)
                .unwrap_or_else(|| format!("`laq train` ended with {status}")),
        ),
        Err(error) => failed(format!(
            "`laq train` did not read its configuration: {error}"
        )),
        Ok(()) => Ok(()),
    })
}
