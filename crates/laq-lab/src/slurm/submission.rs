//! The folder of a submission.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use laq_runner::files::FileError;
use laq_runner::run_folder::write_json;
use serde::{Deserialize, Serialize};

use crate::LabError;
use crate::failure::is_news;

/// The folder of submissions, in that of a plan.
const FOLDER: &str = "slurm";
const SUBMISSION: &str = "submission.json";
/// The file of a cancelled submission: its tasks are not queued again.
pub(super) const CANCELLED: &str = "cancelled";

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

/// The folder of the next submission of the plan whose folder is `out`.
pub(super) fn next_folder(out: &Path) -> PathBuf {
    let folders = (1..).map(|number: u32| out.join(FOLDER).join(number.to_string()));
    let mut free = folders.skip_while(|folder| folder.symlink_metadata().is_ok());
    free.next().expect("there are fewer submissions")
}

/// Makes [`next_folder`].
pub(super) fn new_folder(out: &Path) -> Result<PathBuf, LabError> {
    let parent = out.join(FOLDER);
    fs::create_dir_all(&parent).map_err(FileError::on("make", &parent))?;
    loop {
        let folder = next_folder(out);
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FileError::on("make", &folder)(error).into()),
        }
    }
}

/// Removes a folder of which nothing was submitted.
pub(super) fn discard(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    // That of all submissions, if it is empty.
    let _ = folder.parent().map(fs::remove_dir);
}

/// The log of a task.
pub(super) fn log(folder: &Path, index: usize) -> PathBuf {
    folder.join("logs").join(format!("{index}.log"))
}

/// A file with the exit code of a task that has failed.
pub(super) fn failure(folder: &Path, index: usize) -> PathBuf {
    folder.join("failed").join(index.to_string())
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
    /// Whether it ended, and was not queued again, without a finished run, and nobody trained that since.
    has_failed: bool,
}

impl Submissions {
    pub(crate) fn of(out: &Path) -> Self {
        let mut tasks = BTreeMap::new();
        for (folder, submission) in submissions(out) {
            let Some(job) = submission.job else { continue };
            for (index, task) in submission.tasks.iter().enumerate() {
                let run = out.join(&task.folder);
                let known = KnownTask {
                    name: format!("{job}_{index}"),
                    log: log(&folder, index),
                    has_failed: is_news(&failure(&folder, index), &run),
                };
                tasks.insert(run, known);
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
pub(super) fn submissions(out: &Path) -> Vec<(PathBuf, Submission)> {
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

pub(super) fn write_submission(folder: &Path, submission: &Submission) -> Result<(), LabError> {
    Ok(write_json(&folder.join(SUBMISSION), submission)?)
}
