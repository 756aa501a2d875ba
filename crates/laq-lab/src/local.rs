//! Runs on this machine, several at a time.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use laq_runner::train::{Options, train};

use crate::LabError;
use crate::launcher::{Change, Job, Launcher, Stop};

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
    /// In child processes.
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
                notify(Change::Started(index));
                let message = match &self.workers {
                    Workers::Threads => run_here(job, stop),
                    Workers::Processes { program, quiet } => {
                        let quiet = *quiet || self.jobs > 1;
                        run_child(job, program, quiet, stop)
                            .unwrap_or_else(|error| Some(error.to_string()))
                    }
                };
                notify(Change::Ended(index, message));
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

/// Trains `job` in this thread.
fn run_here(job: &Job, stop: &Stop) -> Option<String> {
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
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the run panicked; its message is above".into()),
    }
}

/// Trains `job` with `laq train -`, which reads the configuration from its standard input.
fn run_child(job: &Job, program: &PathBuf, quiet: bool, stop: &Stop) -> io::Result<Option<String>> {
    let config = toml::to_string(&job.experiment).map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.args(["train", "-", "--resume", "--run-dir"]);
    command.arg(&job.folder);
    command.args(["--device", &job.needs.device.choice.to_string()]);
    command.args(["--precision", &job.needs.device.precision.to_string()]);
    if let Some(threads) = job.needs.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if quiet {
        command.args(["--progress", "none"]);
    }
    let started = command.stdin(Stdio::piped()).spawn();
    let named = |error| io::Error::other(format!("cannot start {}: {error}", program.display()));
    let mut child = started.map_err(named)?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(config.as_bytes()));
    let mut stopping = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stop.is_set() && !stopping {
            stopping = true;
            terminate(&mut child);
        }
        thread::sleep(POLL);
    };
    Ok(match written {
        _ if !status.success() => Some(format!(
            "`laq train` ended with {status}; its message is above"
        )),
        Err(error) => Some(format!(
            "`laq train` did not read its configuration: {error}"
        )),
        Ok(()) => None,
    })
}

/// Asks the child to save and end. After Ctrl-C in a terminal it has been asked already, and a
/// second request of this kind changes nothing.
fn terminate(child: &mut Child) {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_child(child),
        rustix::process::Signal::TERM,
    );
    // Without signals the run resumes from its last checkpoint.
    #[cfg(not(unix))]
    let _ = child.kill();
}
