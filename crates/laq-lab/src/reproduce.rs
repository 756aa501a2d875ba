//! Trains the cells of a plan that are not finished, with a [`Launcher`].
//!
//! A cell that fails, or a column whose data cannot be downloaded, does not stop the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use laq_datasets::Progress;
use laq_runner::config::Keep;
use laq_runner::record::Status;
use laq_runner::run_folder::{last_checkpoint, trained_by};

use crate::launcher::{Change, Job, Launcher, Needs, Stop};
use crate::plan::{Cell, Plan, State};
use crate::{LabError, data, failure, status};

/// How often a cell that another process trains is looked at.
const POLL: Duration = Duration::from_secs(1);

/// How cells are trained.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What each run needs of its machine.
    pub needs: Needs,
    /// A folder or an address that is tried first for missing data.
    pub mirror: Option<String>,
    /// Steps between two comparisons with the exact solver, for rows whose solver alternates.
    pub compare_with_exact: Option<u64>,
    /// What is left of the weights of the cells; by default what their configurations say.
    pub keep: Option<Keep>,
}

/// What happens while a table is reproduced.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Cells that are finished already, of all.
    Kept(usize, usize),
    /// A download advances.
    Download(Progress<'a>),
    /// The downloads are over.
    Downloaded,
    /// A data set cannot be downloaded; its cells are skipped.
    NoData(&'a str, &'a str),
    /// A cell starts: its number from 1, of all.
    Started(usize, usize, &'a Cell),
    /// A cell has failed.
    Failed(&'a Cell, &'a str),
    /// Another process trains a cell: its name, if it is known. The cell's turn comes again after the others.
    Elsewhere(&'a Cell, Option<&'a str>),
    /// All that is left are so many cells, which other processes train.
    Waiting(usize),
}

/// How a reproduction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every cell is finished.
    Complete,
    /// Cells failed, or their data are missing: the reasons by cell or data set.
    Incomplete(BTreeMap<String, String>),
    /// It was interrupted; runs are saved.
    Interrupted,
    /// The time is over; runs are saved.
    OutOfTime,
}

/// Downloads missing data and trains every cell of `plan` that is not finished. Cells that other processes train are waited for at
/// the end, and trained if those leave them unfinished.
///
/// # Errors
///
/// Unknown data sets, and errors of `launcher`.
pub fn reproduce(
    plan: &Plan,
    options: &Options,
    launcher: &dyn Launcher,
    stop: &Stop,
    observer: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Outcome, LabError> {
    let mut problems = prepare(plan, options, stop, observer)?;
    let all = plan.cells.len();
    let finished = plan.finished();
    if finished > 0 {
        observer(Event::Kept(finished, all));
    }
    let trainable =
        |cell: &Cell| !problems.contains_key(&cell.experiment.data.name) && !is_done(cell, options);
    let cells = plan.cells.iter().enumerate();
    let mut cells: Vec<(usize, &Cell)> = cells.filter(|(_, cell)| trainable(cell)).collect();
    let mut first_time = true;
    while !cells.is_empty() && !stop.is_set() {
        let jobs: Vec<Job> = cells.iter().map(|(_, cell)| job(cell, options)).collect();
        let mut before = vec![None; cells.len()];
        let mut elsewhere = Vec::new();
        launcher.launch(&jobs, stop, &mut |change| match change {
            Change::Started(index) => {
                let (number, cell) = cells[index];
                before[index] = written(&cell.folder);
                failure::forget(&cell.folder);
                observer(Event::Started(number + 1, all, cell));
            }
            Change::Locked(index) => {
                let (_, cell) = cells[index];
                if first_time {
                    observer(Event::Elsewhere(cell, trained_by(&cell.folder).as_deref()));
                }
                elsewhere.push(cells[index]);
            }
            Change::Ended(index, message) => {
                let (_, cell) = cells[index];
                let has_written = written(&cell.folder) != before[index];
                let ending = match message {
                    Some(message) if is_finished(cell) && has_to_be_packed(cell, options) => {
                        Ending::Failed(message)
                    }
                    message => ending(cell, has_written, message, stop),
                };
                match ending {
                    Ending::Finished => {}
                    // A signal that reached one run alone was meant for all.
                    Ending::Interrupted if !stop.is_set() => stop.interrupt(),
                    Ending::Interrupted => {}
                    Ending::Failed(reason) => {
                        record(cell, &reason);
                        observer(Event::Failed(cell, &reason));
                        problems.insert(cell.name(), reason);
                    }
                }
            }
        })?;
        let is_left = |(_, cell): &(usize, &Cell)| !is_done(cell, options);
        elsewhere.retain(is_left);
        if first_time && !elsewhere.is_empty() && !stop.is_set() {
            observer(Event::Waiting(elsewhere.len()));
        }
        first_time = false;
        wait_for_one(&elsewhere, stop);
        elsewhere.retain(is_left);
        cells = elsewhere;
    }
    Ok(if stop.is_interrupted() {
        Outcome::Interrupted
    } else if !problems.is_empty() {
        Outcome::Incomplete(problems)
    } else if stop.is_set() && plan.finished() < all {
        Outcome::OutOfTime
    } else {
        Outcome::Complete
    })
}

/// Waits until one of the cells is trained by no other process any more.
fn wait_for_one(cells: &[(usize, &Cell)], stop: &Stop) {
    while !cells.is_empty() && !stop.is_set() {
        thread::sleep(POLL);
        if (cells.iter()).any(|(_, cell)| trained_by(&cell.folder).is_none()) {
            return;
        }
    }
}

/// Writes the cells for [`status`] and downloads missing data. Returns the data sets that cannot be
/// downloaded, with the reason.
pub(crate) fn prepare(
    plan: &Plan,
    options: &Options,
    stop: &Stop,
    observer: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<BTreeMap<String, String>, LabError> {
    status::write_cells(plan)?;
    let problems = data::fetch(
        plan,
        options.mirror.as_deref(),
        &|| stop.is_set(),
        &mut |progress| observer(Event::Download(progress)),
    )?;
    observer(Event::Downloaded);
    for (name, reason) in &problems {
        observer(Event::NoData(name, reason));
        for cell in (plan.cells.iter()).filter(|cell| cell.experiment.data.name == *name) {
            record(cell, reason);
        }
    }
    Ok(problems)
}

pub(crate) fn job(cell: &Cell, options: &Options) -> Job {
    let mut experiment = cell.experiment.clone();
    if let (Some(every), Some(_)) = (options.compare_with_exact, &cell.exact) {
        experiment.comparison.every = every;
    }
    experiment.checkpoint.keep = keep(cell, options);
    Job {
        name: cell.name(),
        folder: cell.folder.clone(),
        experiment,
        needs: options.needs,
    }
}

/// What is left of the weights of a cell.
fn keep(cell: &Cell, options: &Options) -> Keep {
    options.keep.unwrap_or(cell.experiment.checkpoint.keep)
}

/// Whether a cell is finished, and packed if it is to be.
pub(crate) fn is_done(cell: &Cell, options: &Options) -> bool {
    is_finished(cell) && !has_to_be_packed(cell, options)
}

fn is_finished(cell: &Cell) -> bool {
    matches!(cell.state(), State::Finished(_))
}

/// Whether the checkpoints of a cell have to give way to its packed network once it is finished.
fn has_to_be_packed(cell: &Cell, options: &Options) -> bool {
    keep(cell, options) == Keep::Packed && last_checkpoint(&cell.folder).is_file()
}

/// Records why a cell without a run has none, in place of an earlier reason. A run that has begun has its own files.
fn record(cell: &Cell, reason: &str) {
    let has_reason = failure::reason(&cell.folder).is_some();
    if has_reason || matches!(cell.state(), State::ToDo) {
        let _ = failure::record(&cell.folder, reason);
    }
}

/// When the summary of a run was written.
fn written(folder: &Path) -> Option<SystemTime> {
    fs::metadata(folder.join("summary.json"))
        .ok()?
        .modified()
        .ok()
}

enum Ending {
    Finished,
    Interrupted,
    Failed(String),
}

/// How a run ended, from its folder. A summary that this run has not written describes an earlier
/// one.
fn ending(cell: &Cell, has_written: bool, message: Option<String>, stop: &Stop) -> Ending {
    match cell.state() {
        State::Finished(_) => Ending::Finished,
        State::Failed(summary) if has_written => Ending::Failed(
            summary
                .reason
                .or(message)
                .unwrap_or_else(|| "no reason given".into()),
        ),
        State::Begun(summary) if has_written && summary.status == Status::Interrupted => {
            Ending::Interrupted
        }
        _ if message.is_none() && stop.is_set() => Ending::Interrupted,
        _ => Ending::Failed(message.unwrap_or_else(|| {
            let path = cell.folder.join("summary.json");
            format!(
                "{} has not the status \"finished\" with the key {}",
                path.display(),
                cell.key
            )
        })),
    }
}
