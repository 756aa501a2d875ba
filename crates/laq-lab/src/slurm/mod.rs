//! Cells as a job array of Slurm.
//!
//! A submission is a folder `slurm/N` next to the runs: a manifest with a line for each cell, its
//! configuration, the script of a task, the logs, and what was submitted. A task trains one cell with
//! `laq train --resume`. When Slurm asks it to end, because its time is over, it saves and is queued
//! again. Results are read from the run folders, as with any launcher.

mod queue;
mod script;
mod settings;
pub(crate) mod submission;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::thread::sleep;
use std::time::Duration;

use laq_runner::files::{FileError, write_atomically};
use laq_runner::memory_needed;

use self::script::quoted;
pub use self::settings::{Request, Settings};
use self::submission::{
    CANCELLED, log_pattern, new_folder, submissions, task_file, write_submission,
};
pub use self::submission::{Submission, Task};
use crate::LabError;
use crate::launcher::{Job, Stop};
use crate::plan::{Cell, Plan};
use crate::reproduce::{Event, Options, is_done, job, prepare};

/// Threads of a task whose network is worth several.
const THREADS: usize = 4;
/// A network that needs less memory trains on one thread.
const SMALL_BYTES: u64 = 64 << 20;
/// What the program and the data need beside the network.
const OTHER_BYTES: u64 = 1 << 30;

/// What happened to the cells of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// The folder of the submission; none if there was nothing to submit.
    pub folder: Option<PathBuf>,
    /// What was submitted.
    pub submission: Submission,
    /// Cells that are in the queue already.
    pub queued: usize,
    /// Cells that are finished.
    pub finished: usize,
    /// Data sets that cannot be downloaded, with the reason.
    pub problems: BTreeMap<String, String>,
    /// Why the report is not submitted.
    pub report_error: Option<String>,
    /// The commands of sbatch.
    pub commands: Vec<String>,
}

/// Downloads missing data, and submits every cell of `plan` that is neither finished nor in the queue:
/// an array with a task for each, and a job that reports the table when all have ended. With `dry_run`
/// it writes the folder of the submission and submits nothing.
///
/// # Errors
///
/// Files that cannot be written, and Slurm's commands where they are missing or fail.
pub fn submit(
    plan: &Plan,
    options: &Options,
    request: &Request,
    dry_run: bool,
    stop: &Stop,
    observer: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Submitted, LabError> {
    let (problems, queued) = match dry_run {
        true => Default::default(),
        false => (
            prepare(plan, options, stop, observer)?,
            queued_runs(&plan.out)?,
        ),
    };
    let out = absolute(&plan.out).map_err(FileError::on("find", &plan.out))?;
    let (finished, open): (Vec<&Cell>, Vec<&Cell>) =
        plan.cells.iter().partition(|cell| is_done(cell, options));
    let (in_queue, open): (Vec<&Cell>, Vec<&Cell>) = open
        .into_iter()
        .partition(|cell| queued.contains(plan.relative_folder(cell)));
    let cells: Vec<&Cell> = (open.into_iter())
        .filter(|cell| !problems.contains_key(&cell.experiment.data.name))
        .collect();
    let mut submitted = Submitted {
        folder: None,
        submission: Submission::default(),
        queued: in_queue.len(),
        finished: finished.len(),
        problems,
        report_error: None,
        commands: Vec::new(),
    };
    if cells.is_empty() || stop.is_set() {
        return Ok(submitted);
    }
    let jobs: Vec<Job> = cells.iter().map(|cell| job(cell, options)).collect();
    let mut submission = Submission {
        tasks: cells
            .iter()
            .map(|cell| Task {
                name: cell.name(),
                folder: plan.relative_folder(cell).into(),
            })
            .collect(),
        ..Submission::default()
    };
    let folder = new_folder(&out)?;
    script::write(&folder, &out, &jobs, &submission, request, options)?;
    let array = array_command(&folder, &jobs, plan, &request.settings, options);
    let report = |job: &str| report_command(&folder, plan, &request.settings, job);
    if dry_run {
        submitted.commands = [array, report("JOB")].map(|words| quoted(&words)).into();
    } else {
        let answer = queue::sbatch(&array).inspect_err(|_| {
            // Nothing was submitted.
            let _ = fs::remove_dir_all(&folder);
        })?;
        let job = queue::number(&answer)?;
        submission.job = Some(job);
        // What is in the queue must be on record, whatever happens next.
        write_submission(&folder, &submission)?;
        let report = report(&job.to_string());
        match queue::sbatch(&report).and_then(|answer| queue::number(&answer)) {
            Ok(job) => submission.report_job = Some(job),
            Err(error) => submitted.report_error = Some(error.to_string()),
        }
        write_submission(&folder, &submission)?;
        submitted.commands = [array, report].map(|words| quoted(&words)).into();
    }
    submitted.folder = Some(folder);
    submitted.submission = submission;
    Ok(submitted)
}

/// Waits until no task of the plan's submissions is in the queue. Once `stop` is set, it cancels them.
/// Returns false if it did.
///
/// # Errors
///
/// Slurm's commands.
pub fn wait(plan: &Plan, stop: &Stop) -> Result<bool, LabError> {
    const POLL: Duration = Duration::from_secs(2);
    /// A busy controller may not answer for a while.
    const MAX_FAILURES: u32 = 30;
    let mut failures = 0;
    loop {
        let queued = queued_runs(&plan.out);
        if stop.is_set() {
            cancel(&plan.out)?;
            return Ok(false);
        }
        match queued {
            Ok(queued) if queued.is_empty() => return Ok(true),
            Ok(_) => failures = 0,
            Err(error) if failures == MAX_FAILURES => return Err(error),
            Err(_) => failures += 1,
        }
        sleep(POLL);
    }
}

/// Cancels what the submissions of the folder `out` have in the queue. Returns the numbers of the jobs.
/// Running tasks save.
///
/// # Errors
///
/// Slurm's commands, and files that cannot be written.
pub fn cancel(out: &Path) -> Result<Vec<u64>, LabError> {
    let in_queue = queue::jobs()?;
    let mut cancelled = Vec::new();
    for (folder, submission) in submissions(out) {
        let jobs = [submission.job, submission.report_job];
        let jobs = jobs
            .into_iter()
            .flatten()
            .filter(|job| in_queue.contains(job));
        let jobs: Vec<u64> = jobs.collect();
        if jobs.is_empty() {
            continue;
        }
        let path = folder.join(CANCELLED);
        write_atomically(&path, b"")?;
        queue::scancel(&jobs)?;
        cancelled.extend(jobs);
    }
    Ok(cancelled)
}

/// The run folders whose tasks are in the queue and not cancelled, relative to `out`.
fn queued_runs(out: &Path) -> Result<BTreeSet<PathBuf>, LabError> {
    let submissions = submissions(out);
    if submissions.is_empty() {
        return Ok(BTreeSet::new());
    }
    let tasks = queue::tasks()?;
    let mut runs = BTreeSet::new();
    for (folder, submission) in submissions {
        let Some(job) = submission.job else { continue };
        if folder.join(CANCELLED).exists() {
            continue;
        }
        let of_array = tasks.iter().filter(|(array, _)| *array == job);
        let found = of_array.filter_map(|(_, index)| submission.tasks.get(*index));
        runs.extend(found.map(|task| task.folder.clone()));
    }
    Ok(runs)
}

/// The command of the array. Every task may use what the largest cell needs.
fn array_command(
    folder: &Path,
    jobs: &[Job],
    plan: &Plan,
    settings: &Settings,
    options: &Options,
) -> Vec<String> {
    // A configuration without a network fails in its task, beside the others.
    let memory = jobs
        .iter()
        .filter_map(|job| memory_needed(&job.experiment).ok());
    let memory = memory.max().unwrap_or_default();
    let threads = match options.needs.threads {
        Some(threads) => threads,
        None if memory < SMALL_BYTES => 1,
        None => THREADS,
    };
    // The estimate is a lower bound.
    let megabytes = (2 * memory + OTHER_BYTES) >> 20;
    let limit = settings.array_limit.map(|limit| format!("%{limit}"));
    let mut words = vec![
        format!("--job-name=laq-{}", plan.table.id.name()),
        format!("--array=0-{}{}", jobs.len() - 1, limit.unwrap_or_default()),
        format!("--cpus-per-task={threads}"),
        format!("--mem={megabytes}M"),
        // The script is told two minutes before the time is over.
        "--signal=B:TERM@120".into(),
        "--requeue".into(),
        "--open-mode=append".into(),
        format!("--output={}", log_pattern(folder).display()),
    ];
    words.extend(settings.gres.iter().map(|gres| format!("--gres={gres}")));
    words.extend(common(settings));
    words.push(task_file(folder).display().to_string());
    words
}

/// The command of the report, which starts when every task has ended.
fn report_command(folder: &Path, plan: &Plan, settings: &Settings, job: &str) -> Vec<String> {
    let mut words = vec![
        format!("--job-name=laq-{}-report", plan.table.id.name()),
        format!("--dependency=afterany:{job}"),
        "--mem=1024M".into(),
        format!("--output={}", folder.join("report.log").display()),
    ];
    words.extend(common(settings));
    words.push(folder.join("report.sh").display().to_string());
    words
}

fn common(settings: &Settings) -> Vec<String> {
    let Settings {
        partition,
        account,
        time,
        sbatch_args,
        ..
    } = settings;
    let options = [
        ("partition", partition),
        ("account", account),
        ("time", time),
    ];
    let options = options.into_iter();
    let options = options.filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
    options.chain(sbatch_args.iter().cloned()).collect()
}
