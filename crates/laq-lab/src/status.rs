//! The state of all cells below a folder, from files alone: also while other machines train them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use laq_runner::files::FileError;
use laq_runner::record::{Status as RunStatus, Summary};
use laq_runner::run_folder::{check_summary, last_checkpoint, read_summary, write_json};
use laq_runner::running::{Running, read_running};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::slurm::submission::Submissions;
use crate::text::{duration, table};
use crate::{LabError, failure};

/// The cells of a plan, in its folder.
const CELLS: &str = "cells.json";
/// Run folders are at most this deep below the folder that is examined.
const MAX_DEPTH: usize = 4;

/// A cell as [`CELLS`] has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct KnownCell {
    row: String,
    column: String,
    seed: u32,
    epochs: u32,
    /// Relative to the file.
    folder: PathBuf,
}

/// Writes the cells of `plan` to its folder, beside those that are there already, so that [`Status`]
/// knows the ones that have not begun.
///
/// # Errors
///
/// A file that cannot be written, or that is none of ours.
pub fn write_cells(plan: &Plan) -> Result<(), LabError> {
    fs::create_dir_all(&plan.out).map_err(FileError::on("make", &plan.out))?;
    let path = plan.out.join(CELLS);
    // Until the end of this function; a file system without locks has none.
    let lock = path.with_extension("lock");
    let file = File::options().append(true).create(true).open(&lock);
    let lock = file.map_err(FileError::on("write", &lock))?;
    let _ = lock.lock();
    let mut cells = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(FileError::on("read", &path)(error).into()),
        Ok(text) => serde_json::from_slice(&text).map_err(|_| LabError::Foreign(path.clone()))?,
    };
    for cell in &plan.cells {
        let name = |known: &KnownCell| (known.row.clone(), known.column.clone(), known.seed);
        cells.retain(|known| name(known) != (cell.row.clone(), cell.column.clone(), cell.seed));
        cells.push(KnownCell {
            row: cell.row.clone(),
            column: cell.column.clone(),
            seed: cell.seed,
            epochs: cell.epochs(),
            folder: plan.relative_folder(cell).into(),
        });
    }
    Ok(write_json(&path, &cells)?)
}

fn known_cells(folder: &Path) -> Vec<KnownCell> {
    let found = fs::read(folder.join(CELLS)).ok();
    let cells = found.and_then(|text| serde_json::from_slice(&text).ok());
    cells.unwrap_or_default()
}

/// The cells below a folder.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The cells of plans in their order, then other runs.
    pub cells: Vec<CellStatus>,
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellStatus {
    /// Such as `lat-a on mnist (seed 1)`; the run folder for other runs.
    pub name: String,
    /// The run folder.
    pub folder: PathBuf,
    /// What it is doing.
    pub state: CellState,
    /// Completed epochs.
    pub epochs_done: u32,
    /// Of so many.
    pub epochs: u32,
    /// Test error in percent, or test loss, of the best epoch so far.
    pub test: Option<f64>,
    /// Who trains it, and how far it is.
    pub running: Option<Running>,
    /// The newest task of Slurm that was submitted for it, such as `12_3`.
    pub job: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// What a cell is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CellState {
    /// Every epoch is done.
    Finished,
    /// A process trains it.
    Running,
    /// Saved and stopped; the same command continues.
    Interrupted,
    /// Its process is gone without a word; the same command continues from the last checkpoint.
    Killed,
    /// It ended with an error.
    Failed,
    /// It has not begun.
    Waiting,
}

impl CellState {
    const ALL: [Self; 6] = [
        Self::Finished,
        Self::Running,
        Self::Interrupted,
        Self::Killed,
        Self::Failed,
        Self::Waiting,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Killed => "killed",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
        }
    }
}

impl Status {
    /// Examines `folder`: one run, a preset of a table, or anything above.
    ///
    /// # Errors
    ///
    /// A folder that cannot be read, or without any run.
    pub fn of(folder: &Path) -> Result<Self, LabError> {
        fs::read_dir(folder).map_err(FileError::on("read", folder))?;
        let mut cells = Vec::new();
        let mut runs = Vec::new();
        collect(folder, MAX_DEPTH, &mut cells, &mut runs);
        runs.retain(|run| cells.iter().all(|cell: &CellStatus| cell.folder != *run));
        cells.extend(runs.into_iter().map(|run| {
            let name = run.strip_prefix(folder).unwrap_or(&run);
            let name = if name == Path::new("") { &run } else { name };
            CellStatus::of(name.display().to_string(), run.clone(), 0)
        }));
        if cells.is_empty() {
            return Err(LabError::NoRuns(folder.into()));
        }
        Ok(Self { cells })
    }

    /// How many cells are in a state.
    #[must_use]
    pub fn count(&self, state: CellState) -> usize {
        self.cells.iter().filter(|cell| cell.state == state).count()
    }

    /// The text for the terminal.
    #[must_use]
    pub fn render(&self) -> String {
        let mut rows =
            vec![["cell", "state", "epoch", "test", "ms/step", "left", "where"].map(String::from)];
        rows.extend(self.cells.iter().map(CellStatus::fields));
        let mut text = table(rows, |index| (2..=5).contains(&index));
        for cell in &self.cells {
            if let (CellState::Failed, Some(reason)) = (cell.state, &cell.reason) {
                text += &format!("\n{}: {reason}", cell.name);
            }
        }
        let counts = CellState::ALL.map(|state| (self.count(state), state.name()));
        let counts: Vec<String> = (counts.into_iter())
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        text + &format!("\n{} of {} cells\n", counts.join(", "), self.cells.len())
    }
}

impl CellStatus {
    /// The state of the run in `folder`; `epochs` where it has not begun.
    fn of(name: String, folder: PathBuf, epochs: u32) -> Self {
        let mut summary = read_summary(&folder);
        if let Some(found) = &mut summary
            && found.status == RunStatus::Finished
            && let Err(error) = check_summary(&folder, found)
        {
            found.status = RunStatus::Failed;
            found.reason = Some(error.to_string());
        }
        let running = read_running(&folder)
            .filter(|(running, age)| running.is_current(*age))
            .map(|(running, _)| running);
        let state = match &summary {
            _ if running.is_some() => CellState::Running,
            Some(summary) => match summary.status {
                RunStatus::Finished => CellState::Finished,
                RunStatus::Interrupted => CellState::Interrupted,
                RunStatus::Failed => CellState::Failed,
                RunStatus::Running => CellState::Killed,
            },
            None if last_checkpoint(&folder).exists() => CellState::Killed,
            None => CellState::Waiting,
        };
        let Summary {
            epochs_done,
            epochs: of_run,
            test_error,
            test_loss,
            reason,
            ..
        } = summary.unwrap_or_default();
        let status = Self {
            name,
            folder,
            state,
            epochs_done,
            epochs: if of_run > 0 { of_run } else { epochs },
            test: test_error.or(test_loss),
            running,
            job: None,
            reason: reason.filter(|_| state == CellState::Failed),
        };
        let failure = failure::reason(&status.folder);
        status.with_failure(failure)
    }

    /// Adds what a queue knows: a task that failed before it began or resumed may have a log alone.
    fn with(mut self, submissions: &Submissions) -> Self {
        self.job = submissions.job(&self.folder);
        let failure = submissions.failure(&self.folder);
        self.with_failure(failure)
    }

    /// Adds why the last try failed, where the files of the run do not have that.
    fn with_failure(mut self, reason: Option<String>) -> Self {
        use CellState::{Interrupted, Killed, Waiting};
        if reason.is_some() && matches!(self.state, Waiting | Killed | Interrupted) {
            self.state = CellState::Failed;
            self.reason = reason;
        }
        self
    }

    fn fields(&self) -> [String; 7] {
        let position = self
            .running
            .as_ref()
            .and_then(|running| running.position.as_ref());
        let epoch = match position {
            Some(here) => {
                let percent = here.step.saturating_mul(100) / here.steps.max(1);
                format!("{} of {}, {percent} %", here.epoch, here.epochs)
            }
            None if self.state == CellState::Waiting => String::new(),
            None => format!("{} of {}", self.epochs_done, self.epochs),
        };
        let step = position.filter(|here| here.seconds_per_step > 0.0);
        let left = position.and_then(|here| here.seconds_left);
        let place = match (&self.running, &self.job) {
            (Some(running), _) => match &running.job {
                Some(job) => format!("{}, job {job}", running.host),
                None => format!("{}, process {}", running.host, running.pid),
            },
            (None, Some(job)) if self.state != CellState::Finished => format!("job {job}"),
            _ => String::new(),
        };
        [
            self.name.clone(),
            self.state.name().into(),
            epoch,
            self.test
                .map_or_else(String::new, |test| format!("{test:.4}")),
            step.map_or_else(String::new, |here| {
                format!("{:.1}", 1e3 * here.seconds_per_step)
            }),
            left.map_or_else(String::new, duration),
            place,
        ]
    }
}

/// Adds the cells of plans, and all run folders, at most `depth` below `folder`.
fn collect(folder: &Path, depth: usize, cells: &mut Vec<CellStatus>, runs: &mut Vec<PathBuf>) {
    let submissions = Submissions::of(folder);
    cells.extend(known_cells(folder).into_iter().map(|cell| {
        let name = format!("{} on {} (seed {})", cell.row, cell.column, cell.seed);
        let run = folder.join(cell.folder);
        CellStatus::of(name, run, cell.epochs).with(&submissions)
    }));
    let is_run = read_summary(folder).is_some() || last_checkpoint(folder).exists();
    if is_run || read_running(folder).is_some() {
        runs.push(folder.into());
        return;
    }
    if depth == 0 {
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    for path in folders {
        collect(&path, depth - 1, cells, runs);
    }
}
