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

use self::script::{check_path, quoted, report_file, scripts, task_file};
pub use self::settings::{Request, Settings};
use self::submission::{
    CANCELLED, discard, new_folder, next_folder, submissions, write_submission,
};
pub use self::submission::{Submission, Task};
use crate::launcher::{Job, Stop};
use crate::plan::{Cell, Plan};
use crate::reproduce::{Event, Options, is_done, job, prepare};
use crate::{LabError, failure};

/// Threads of a task whose network is worth several.
const THREADS: usize = 4;
/// A network that needs less memory trains on one thread.
const SMALL_BYTES: u64 = 64 << 20;
/// What the program and the data need beside the network.
const OTHER_BYTES: u64 = 1 << 30;

/// What happened to the cells of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// What was submitted.
    pub submission: Submission,
    /// Cells that are in the queue already; none if Slurm does not answer a dry run.
    pub queued: Option<usize>,
    /// Cells that are finished.
    pub finished: usize,
    /// Data sets that cannot be downloaded, with the reason.
    pub problems: BTreeMap<String, String>,
    /// Why the report is not submitted.
    pub report_error: Option<String>,
    /// The commands of sbatch; none if there was nothing to submit.
    pub commands: Vec<String>,
    /// The scripts, and their files.
    pub scripts: Vec<(PathBuf, String)>,
}

/// Downloads missing data, and submits every cell of `plan` that is neither finished nor in the queue:
/// an array with a task for each, and a job that reports the table when these and those in the queue have ended.
/// With `dry_run` it writes and submits nothing.
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
    let out = absolute(&plan.out).map_err(FileError::on("find", &plan.out))?;
    check_path(&out)?;
    check_path(&request.program)?;
    for cell in &plan.cells {
        check_path(&cell.folder)?;
    }
    let (problems, queue) = match dry_run {
        true => (BTreeMap::new(), Queued::of(&out).ok()),
        false => (
            prepare(plan, options, stop, observer)?,
            Some(Queued::of(&out)?),
        ),
    };
    let is_known = queue.is_some();
    let queue = queue.unwrap_or_default();
    let (finished, open): (Vec<&Cell>, Vec<&Cell>) =
        plan.cells.iter().partition(|cell| is_done(cell, options));
    let (in_queue, open): (Vec<&Cell>, Vec<&Cell>) = open
        .into_iter()
        .partition(|cell| queue.runs.contains(plan.relative_folder(cell)));
    let cells: Vec<&Cell> = (open.into_iter())
        .filter(|cell| !problems.contains_key(&cell.experiment.data.name))
        .collect();
    let mut submitted = Submitted {
        submission: Submission::default(),
        queued: is_known.then_some(in_queue.len()),
        finished: finished.len(),
        problems,
        report_error: None,
        commands: Vec::new(),
        scripts: Vec::new(),
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
    let folder = match dry_run {
        true => next_folder(&out),
        false => new_folder(&out)?,
    };
    let scripts = scripts(&folder, request, options);
    let array = array_command(&folder, &jobs, plan, &request.settings, options);
    let report = |job: &str| {
        let jobs = queue.arrays.iter().map(u64::to_string);
        let jobs: Vec<String> = jobs.chain([job.to_owned()]).collect();
        report_command(&folder, plan, &request.settings, &jobs.join(":"))
    };
    if dry_run {
        submitted.commands = [array, report("JOB")].map(|words| quoted(&words)).into();
    } else {
        let reasons = cells.iter().map(|cell| failure::reason(&cell.folder));
        let reasons: Vec<_> = reasons.collect();
        for cell in &cells {
            failure::forget(&cell.folder);
        }
        let answer = script::write(&folder, &out, &jobs, &submission, &scripts)
            .and_then(|()| queue::sbatch(&array))
            .inspect_err(|_| {
                discard(&folder);
                for (cell, reason) in cells.iter().zip(&reasons) {
                    let reason = reason.as_ref();
                    let _ = reason.map(|reason| failure::record(&cell.folder, reason));
                }
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
    submitted.scripts = scripts.into();
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
        let queued = Queued::of(&plan.out);
        if stop.is_set() {
            cancel(&plan.out)?;
            return Ok(false);
        }
        match queued {
            Ok(queued) if queued.runs.is_empty() => return Ok(true),
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
        // Before the jobs are told to end, so that they are not queued again.
        let path = folder.join(CANCELLED);
        let is_new = !path.exists();
        write_atomically(&path, b"")?;
        queue::scancel(&jobs).inspect_err(|_| {
            if is_new {
                let _ = fs::remove_file(&path);
            }
        })?;
        cancelled.extend(jobs);
    }
    Ok(cancelled)
}

/// The tasks of a plan that are in the queue and not cancelled.
#[derive(Default)]
struct Queued {
    /// The run folders, relative to that of the plan.
    runs: BTreeSet<PathBuf>,
    /// The numbers of the arrays.
    arrays: BTreeSet<u64>,
}

impl Queued {
    /// Those of the plan whose folder is `out`.
    fn of(out: &Path) -> Result<Self, LabError> {
        let submissions = submissions(out);
        let mut queued = Self::default();
        if submissions.is_empty() {
            return Ok(queued);
        }
        let tasks = queue::tasks()?;
        for (folder, submission) in submissions {
            if folder.join(CANCELLED).exists() {
                continue;
            }
            for (array, index) in &tasks {
                if let Some(task) = submission.tasks.get(*index)
                    && submission.job == Some(*array)
                {
                    queued.runs.insert(task.folder.clone());
                    queued.arrays.insert(*array);
                }
            }
        }
        Ok(queued)
    }
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
        output(folder, "logs/%a.log"),
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
        output(folder, "report.log"),
    ];
    words.extend(common(settings));
    words.push(report_file(folder).display().to_string());
    words
}

/// The option for a file in `folder`. In its name sbatch replaces % with a letter.
fn output(folder: &Path, name: &str) -> String {
    let folder = folder.display().to_string().replace('%', "%%");
    format!("--output={folder}/{name}")
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
