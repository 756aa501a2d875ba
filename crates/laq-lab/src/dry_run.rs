//! The dry run: the state of every cell, the data that are missing, and how long training would
//! take.
//!
//! Times come from finished cells with the same network and data on the same kind of machine, of
//! the same row where there is one. A cell without such a relative has no estimate; `laq estimate`
//! times a single configuration.

use std::fs;
use std::path::{Path, PathBuf};

use laq_runner::config::{Experiment, parse};
use laq_runner::environment::Environment;
use laq_runner::record::{Status, Summary};
use laq_runner::run_folder::{last_checkpoint, read_summary};
use serde::Serialize;

use crate::LabError;
use crate::data::{defect, needed};
use crate::plan::{Cell, Plan, State};
use crate::text::{duration, table};

/// What a plan would do.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// `table1` or `table2`.
    pub table: &'static str,
    /// The preset.
    pub preset: String,
    /// Folder of the runs and of the report.
    pub out: PathBuf,
    /// The cells.
    pub cells: Vec<PlannedCell>,
    /// Data sets that have to be downloaded, with what is wrong with them.
    pub missing_data: Vec<(String, String)>,
}

/// A cell of a dry run.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedCell {
    /// The row.
    pub row: String,
    /// The column.
    pub column: String,
    /// The seed.
    pub seed: u32,
    /// `finished`, `to do`, `failed`, or `3 of 8 epochs`.
    pub state: String,
    /// Whether nothing is left to do.
    pub finished: bool,
    /// Seconds of training that are left; none where they are unknown.
    pub seconds_left: Option<f64>,
}

/// A finished run, from which times are estimated.
struct Finished {
    experiment: Experiment,
    seconds_per_epoch: f64,
}

impl DryRun {
    /// Examines the cells of `plan` and the runs of its other presets. `machine` and `on_gpu`
    /// describe the device of training.
    ///
    /// # Errors
    ///
    /// Data sets that the catalogue does not have.
    pub fn new(plan: &Plan, machine: &Environment, on_gpu: bool) -> Result<Self, LabError> {
        let finished = finished_runs(plan, machine, on_gpu);
        let cells = plan.cells.iter().map(|cell| {
            let state = cell.state();
            let (text, share) = match &state {
                State::Finished(_) => ("finished".into(), 0.0),
                State::ToDo => ("to do".into(), 1.0),
                State::Failed(_) if !last_checkpoint(&cell.folder).is_file() => {
                    ("failed".into(), 1.0)
                }
                State::Failed(summary) | State::Begun(summary) => {
                    let (done, all) = (summary.epochs_done, cell.epochs());
                    let left = 1.0 - f64::from(done) / f64::from(all.max(1));
                    let text = match state {
                        State::Failed(_) => "failed".into(),
                        _ => format!("{done} of {all} epochs"),
                    };
                    (text, left)
                }
            };
            let is_finished = matches!(state, State::Finished(_));
            let whole = seconds(cell, &finished);
            PlannedCell {
                row: cell.row.clone(),
                column: cell.column.clone(),
                seed: cell.seed,
                finished: is_finished,
                seconds_left: whole
                    .map(|seconds| share * seconds)
                    .or((share == 0.0).then_some(0.0)),
                state: text,
            }
        });
        let cells = cells.collect();
        let mut missing_data = Vec::new();
        for needed in needed(plan) {
            missing_data.extend(defect(&needed)?.map(|defect| (needed.name, defect)));
        }
        Ok(Self {
            table: plan.table.id.name(),
            preset: plan.preset.clone(),
            out: plan.out.clone(),
            cells,
            missing_data,
        })
    }

    /// The text for the terminal.
    #[must_use]
    pub fn render(&self) -> String {
        let left: Vec<_> = self.cells.iter().filter(|cell| !cell.finished).collect();
        let mut text = format!(
            "{}, preset {}: {} cells, {} to do\n{}\n\n",
            self.table,
            self.preset,
            self.cells.len(),
            left.len(),
            self.out.display()
        );
        let mut rows = vec![["row", "column", "seed", "state", "time left"].map(String::from)];
        rows.extend(self.cells.iter().map(|cell| {
            [
                cell.row.clone(),
                cell.column.clone(),
                cell.seed.to_string(),
                cell.state.clone(),
                cell.seconds_left
                    .map_or("unknown".into(), |left| match cell.finished {
                        true => String::new(),
                        false => duration(left),
                    }),
            ]
        }));
        text += &table(rows, |index| index == 2 || index == 4);
        for (name, defect) in &self.missing_data {
            text +=
                &format!("\nThe data set {name} is {defect}; it is downloaded before training.");
        }
        let known: Vec<f64> = left.iter().filter_map(|cell| cell.seconds_left).collect();
        let total = duration(known.iter().sum());
        text += &match (left.len(), known.len()) {
            (0, _) => "\nNothing to do: every cell is finished.\n".into(),
            (_, 0) => "\nTime left: unknown, because no cell like these is finished here. `laq estimate` times a \
                       configuration.\n"
                .into(),
            (all, known) if all > known => {
                format!("\nTime left: {total} for {known} of {all} cells, unknown for the others.\n")
            }
            _ => format!("\nTime left: {total}, one cell at a time.\n"),
        };
        text
    }
}

/// Seconds of the whole run of `cell`, from the runs most like it.
fn seconds(cell: &Cell, finished: &[Finished]) -> Option<f64> {
    let wanted = &cell.experiment;
    let alike = |run: &&Finished| {
        run.experiment.model == wanted.model
            && run.experiment.data == wanted.data
            && run.experiment.train.max_batches == wanted.train.max_batches
    };
    let same_method = |run: &&Finished| run.experiment.quantize == wanted.quantize;
    let mean =
        |runs: Vec<f64>| (!runs.is_empty()).then(|| runs.iter().sum::<f64>() / runs.len() as f64);
    let per_epoch = |run: &Finished| run.seconds_per_epoch;
    let own = finished
        .iter()
        .filter(alike)
        .filter(same_method)
        .map(per_epoch);
    let others = finished.iter().filter(alike).map(per_epoch);
    let per_epoch = mean(own.collect()).or_else(|| mean(others.collect()))?;
    Some(per_epoch * f64::from(cell.epochs()))
}

/// How the name of a GPU starts, where a summary names the kernel.
const GPU: &str = "cuda";

/// Finished runs of the table on such a machine, of any column, seed and preset.
fn finished_runs(plan: &Plan, machine: &Environment, on_gpu: bool) -> Vec<Finished> {
    // Other presets are next to this one in the default folder, runs/<table>/<preset>.
    let siblings = plan.out.parent();
    let siblings = siblings.filter(|parent| parent.ends_with(plan.table.id.name()));
    let presets = siblings.map_or_else(|| vec![plan.out.clone()], folders);
    let columns = presets.iter().flat_map(|preset| folders(preset));
    let runs = columns.flat_map(|column| folders(&column));
    runs.filter_map(|folder| {
        let summary = read_summary(&folder)?;
        let same_machine = summary.cpu == machine.cpu
            && summary.threads == machine.threads
            && summary.kernel.starts_with(GPU) == on_gpu;
        let Summary {
            status,
            seconds,
            epochs_done,
            ..
        } = summary;
        if status != Status::Finished || !same_machine || epochs_done == 0 {
            return None;
        }
        let path = folder.join("config.toml");
        let text = fs::read_to_string(&path).ok()?;
        Some(Finished {
            experiment: parse(&text, &path.display().to_string()).ok()?,
            seconds_per_epoch: seconds / f64::from(epochs_done),
        })
    })
    .collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}
