//! Cells as a job array of Slurm.
//!
//! A submission is a folder `slurm/N` next to the runs: a manifest with a line for each cell, its
//! configuration, the script of a task, the logs, and what was submitted. A task trains one cell with
//! `laq train --resume`. When Slurm asks it to end, because its time is over, it saves and is queued
//! again. Results are read from the run folders, as with any launcher.

mod queue;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::thread::sleep;
use std::time::Duration;

use laq_runner::files::{FileError, write_atomically};
use laq_runner::memory_needed;
use laq_runner::run_folder::write_json;
use serde::{Deserialize, Serialize};

use self::script::quoted;
use crate::LabError;
use crate::configs::Configs;
use crate::launcher::{Job, Stop};
use crate::plan::{Cell, Plan};
use crate::reproduce::{Event, Options, is_done, job, prepare};

/// The folder of submissions, in that of a plan.
const FOLDER: &str = "slurm";
const SUBMISSION: &str = "submission.json";
/// The file of a cancelled submission: its tasks are not queued again.
const CANCELLED: &str = "cancelled";
/// Threads of a task whose network is worth several.
const THREADS: usize = 4;
/// A network that needs less memory trains on one thread.
const SMALL_BYTES: u64 = 64 << 20;
/// What the program and the data need beside the network.
const OTHER_BYTES: u64 = 1 << 30;

/// How jobs are submitted: `[launcher.slurm]` in `launcher.toml` of the configurations, and options of
/// the command line, which win.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `--partition` of sbatch.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--time`, such as `12:00:00`.
    pub time: Option<String>,
    /// `--gres`, such as `gpu:1`.
    pub gres: Option<String>,
    /// How many tasks run at a time, at most.
    pub array_limit: Option<u32>,
    /// Further arguments of sbatch.
    pub sbatch_args: Vec<String>,
}

impl Settings {
    /// The settings of `configs`; none without a `launcher.toml`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or with other keys.
    pub fn load(configs: &Configs) -> Result<Self, LabError> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct File {
            launcher: Launchers,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Launchers {
            slurm: Settings,
        }
        let path = configs.folder().join("launcher.toml");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).map_err(FileError::on("read", &path))?;
        let file: File =
            toml::from_str(&text).map_err(|error| LabError::configs(&path, error.message()))?;
        Ok(file.launcher.slurm)
    }

    /// These settings, with those of `over` where it has any.
    #[must_use]
    pub fn with(self, over: Self) -> Self {
        Self {
            partition: over.partition.or(self.partition),
            account: over.account.or(self.account),
            time: over.time.or(self.time),
            gres: over.gres.or(self.gres),
            array_limit: over.array_limit.or(self.array_limit),
            sbatch_args: [self.sbatch_args, over.sbatch_args].concat(),
        }
    }
}

/// What is submitted beside the cells.
#[derive(Clone, Debug)]
pub struct Request {
    /// How.
    pub settings: Settings,
    /// The `laq` program, on a path that the nodes have too.
    pub program: PathBuf,
    /// The arguments of `laq` that report the table.
    pub report: Vec<String>,
}

/// What a submission consists of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Submission {
    /// The number of the array; null if it is not submitted.
    pub job: Option<u64>,
    /// The number of the job that reports the table.
    pub report_job: Option<u64>,
    /// The cells, by the number of their task.
    pub tasks: Vec<Task>,
}

/// A cell of a submission.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Such as `lat-a on mnist (seed 1)`.
    pub name: String,
    /// The run folder, relative to that of the plan.
    pub folder: PathBuf,
}

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
    let folder = new_folder(&out.join(FOLDER))?;
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

/// What the submissions of a plan's folder know of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Submissions {
    /// By the run folder: the newest task.
    tasks: BTreeMap<PathBuf, KnownTask>,
}

#[derive(Clone, Debug)]
struct KnownTask {
    /// Such as `12_3`.
    name: String,
    log: PathBuf,
    /// Whether it ended, and was not queued again, without a finished run.
    has_failed: bool,
}

impl Submissions {
    pub(crate) fn of(out: &Path) -> Self {
        let mut tasks = BTreeMap::new();
        for (folder, submission) in submissions(out) {
            let Some(job) = submission.job else { continue };
            for (index, task) in submission.tasks.iter().enumerate() {
                let known = KnownTask {
                    name: format!("{job}_{index}"),
                    log: script::log(&folder, index),
                    has_failed: script::failure(&folder, index).exists(),
                };
                tasks.insert(out.join(&task.folder), known);
            }
        }
        Self { tasks }
    }

    /// The job of the run in `folder`, such as `12_3`.
    pub(crate) fn job(&self, folder: &Path) -> Option<String> {
        Some(self.tasks.get(folder)?.name.clone())
    }

    /// The last line of the log of a task that has failed.
    pub(crate) fn failure(&self, folder: &Path) -> Option<String> {
        let task = self.tasks.get(folder).filter(|task| task.has_failed)?;
        let log = fs::read_to_string(&task.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        Some(last.unwrap_or("its log is empty").to_owned())
    }
}

/// The submissions of a plan's folder, oldest first.
fn submissions(out: &Path) -> Vec<(PathBuf, Submission)> {
    let entries = fs::read_dir(out.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten();
    let number = |path: &Path| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let mut folders: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((number(&entry.path())?, entry.path())))
        .collect();
    folders.sort();
    let read =
        |folder: &Path| serde_json::from_slice(&fs::read(folder.join(SUBMISSION)).ok()?).ok();
    let folders = folders.into_iter();
    folders
        .filter_map(|(_, folder)| {
            let submission = read(&folder)?;
            Some((folder, submission))
        })
        .collect()
}

fn write_submission(folder: &Path, submission: &Submission) -> Result<(), LabError> {
    Ok(write_json(&folder.join(SUBMISSION), submission)?)
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

/// Makes the folder with the next number.
fn new_folder(parent: &Path) -> Result<PathBuf, LabError> {
    fs::create_dir_all(parent).map_err(FileError::on("make", parent))?;
    let mut number = 1;
    loop {
        let folder = parent.join(number.to_string());
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(FileError::on("make", &folder)(error).into()),
        }
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
        format!("--output={}", script::log_pattern(folder).display()),
    ];
    words.extend(settings.gres.iter().map(|gres| format!("--gres={gres}")));
    words.extend(common(settings));
    words.push(script::task(folder).display().to_string());
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
