//! The plan of a table: its cells, their configurations and run folders, and the state of each.
//!
//! A cell is one row, one column and one seed. The name of its folder contains the key of the
//! configuration, which covers the version of the training code too. A finished run is reused
//! exactly if training it again would give the same numbers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use laq_runner::config::{self, Experiment};
use laq_runner::record::{Status, Summary};
use laq_runner::run_folder::{check_summary, last_checkpoint, read_summary};
use laq_solvers::Method;
use serde_json::{Value, json};

use crate::LabError;
use crate::configs::Configs;
use crate::differences::differences;
use crate::failure;
use crate::measure::Measure;
use crate::table::{Selection, Table};

/// The selected cells, with what they share.
#[derive(Debug)]
pub struct Plan {
    /// The table.
    pub table: Table,
    /// The preset.
    pub preset: String,
    /// Selected rows, in the table's order.
    pub rows: Vec<String>,
    /// Selected columns, in the table's order.
    pub columns: Vec<String>,
    /// Number of seeds.
    pub seeds: u32,
    /// Folder of the runs and of the report.
    pub out: PathBuf,
    /// Seed by seed, so that a whole table is complete before the second seed starts; then column
    /// by column.
    pub cells: Vec<Cell>,
}

/// One run.
#[derive(Debug)]
pub struct Cell {
    /// The row.
    pub row: String,
    /// The column.
    pub column: String,
    /// The seed.
    pub seed: u32,
    /// See [`laq_runner::config::key`].
    pub key: String,
    /// The run folder.
    pub folder: PathBuf,
    /// The resolved configuration.
    pub experiment: Experiment,
    /// Bits of a weight as a packed level; 32 in full precision.
    pub bits: u32,
    /// The row with the exact solver of the same problem, for a row whose solver alternates.
    pub exact: Option<String>,
    /// What differs from the paper's setting; empty if nothing does.
    pub cut_short: String,
    measure: &'static Measure,
}

/// The state of a run.
#[derive(Debug)]
pub enum State {
    /// Every epoch is done.
    Finished(Summary),
    /// It has a checkpoint: interrupted, killed, or running in another process.
    Begun(Summary),
    /// It ended with an error.
    Failed(Summary),
    /// There is no run.
    ToDo,
}

impl Plan {
    /// The cells of `selection`.
    ///
    /// # Errors
    ///
    /// Names that the table does not have, and invalid configurations.
    pub fn new(configs: Configs, selection: &Selection) -> Result<Self, LabError> {
        let table = Table::load(configs, selection.table)?;
        let (rows, columns, preset) = table.choose(selection)?;
        let default = || Path::new("runs").join(table.id.name()).join(&preset);
        let mut plan = Self {
            out: selection.out.clone().unwrap_or_else(default),
            table,
            preset,
            rows,
            columns,
            seeds: selection.seeds,
            cells: Vec::new(),
        };
        for seed in 1..=plan.seeds {
            for column in &plan.columns {
                for row in &plan.rows {
                    plan.cells.push(Cell::new(&plan, row, column, seed)?);
                }
            }
        }
        Ok(plan)
    }

    /// Adds every other cell of the table and preset that has a run in the plan's folder, with any
    /// seed, under the key that its configuration has now.
    ///
    /// # Errors
    ///
    /// Invalid configurations.
    pub fn with_begun(mut self) -> Result<Self, LabError> {
        for (row, column, seed) in self.folders() {
            let planned =
                |cell: &Cell| cell.row == row && cell.column == column && cell.seed == seed;
            if self.cells.iter().any(planned) {
                continue;
            }
            let cell = Cell::new(&self, &row, &column, seed)?;
            // A folder with another key is a run of another configuration.
            if !matches!(cell.state(), State::ToDo) {
                self.cells.push(cell);
            }
        }
        let cells = &self.cells;
        let begun = |names: &[String], name: fn(&Cell) -> &str| -> Vec<String> {
            let used = |wanted: &&String| cells.iter().any(|cell| name(cell) == **wanted);
            names.iter().filter(used).cloned().collect()
        };
        self.rows = begun(&self.table.rows, |cell| &cell.row);
        self.columns = begun(&self.table.columns, |cell| &cell.column);
        self.seeds = cells.iter().map(|cell| cell.seed).max().unwrap_or_default();
        let position = |names: &[String], name: &str| names.iter().position(|other| other == name);
        self.cells.sort_by_key(|cell| {
            let column = position(&self.columns, &cell.column);
            (cell.seed, column, position(&self.rows, &cell.row))
        });
        Ok(self)
    }

    /// The run folder of `cell`, relative to that of the plan.
    #[must_use]
    pub fn relative_folder<'a>(&self, cell: &'a Cell) -> &'a Path {
        cell.folder.strip_prefix(&self.out).unwrap_or(&cell.folder)
    }

    /// How many cells are finished.
    #[must_use]
    pub fn finished(&self) -> usize {
        let finished = |cell: &&Cell| matches!(cell.state(), State::Finished(_));
        self.cells.iter().filter(finished).count()
    }

    /// Row, column and seed of the run folders, each once, with any key.
    fn folders(&self) -> BTreeSet<(String, String, u32)> {
        let mut found = BTreeSet::new();
        for column in &self.table.columns {
            let entries = fs::read_dir(self.out.join(column)).into_iter().flatten();
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let seed = |row: &String| -> Option<u32> {
                    let rest = name.strip_prefix(row)?.strip_prefix("-seed")?;
                    rest.split_once('-')?.0.parse().ok()
                };
                let rows = self.table.rows.iter();
                found
                    .extend(rows.filter_map(|row| Some((row.clone(), column.clone(), seed(row)?))));
            }
        }
        found
    }
}

impl Cell {
    fn new(plan: &Plan, row: &str, column: &str, seed: u32) -> Result<Self, LabError> {
        let table = &plan.table;
        let resolve = |preset: &str| {
            let overlays = table.preset(preset, column);
            let seed = format!("train.seed={seed}");
            config::load(&table.config(row, column), &overlays, &[seed])
        };
        let experiment = resolve(&plan.preset)?;
        let papers = resolve("paper")?;
        let key = config::key(&experiment);
        let method = Method::try_from(experiment.quantize.method.as_str())
            .map_err(|error| LabError::configs(table.config(row, column), error))?;
        let exact = method.exact_counterpart().map(|exact| exact.id());
        let value = |experiment: &Experiment| -> Value { json!(experiment) };
        Ok(Self {
            row: row.into(),
            column: column.into(),
            seed,
            folder: plan
                .out
                .join(column)
                .join(format!("{row}-seed{seed}-{key}")),
            key,
            bits: method.storage_bits(),
            exact: exact.filter(|exact| table.rows.contains(exact)),
            cut_short: differences(&value(&experiment), &value(&papers)),
            experiment,
            measure: table.measure,
        })
    }

    /// Such as `lat-a on war-and-peace (seed 1)`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} on {} (seed {})", self.row, self.column, self.seed)
    }

    /// Epochs of the whole run.
    #[must_use]
    pub fn epochs(&self) -> u32 {
        self.experiment.train.epochs
    }

    /// The state of the run, from the files of its folder. A finished run has the figure that the
    /// table shows.
    #[must_use]
    pub fn state(&self) -> State {
        let summary = read_summary(&self.folder).filter(|summary| summary.key == self.key);
        let begun = last_checkpoint(&self.folder).exists();
        match summary {
            Some(summary) if summary.status == Status::Finished => {
                let reason = match check_summary(&self.folder, &summary) {
                    Ok(()) if (self.measure.test)(&summary).is_some() => {
                        return State::Finished(summary);
                    }
                    Ok(()) => format!(
                        "summary.json has the status \"finished\" and no {}; remove it to train the cell again",
                        self.measure.field
                    ),
                    Err(error) => error.to_string(),
                };
                State::Failed(Summary {
                    reason: Some(reason),
                    ..summary
                })
            }
            Some(summary) if summary.status == Status::Failed => State::Failed(summary),
            summary => match failure::reason(&self.folder) {
                Some(reason) => State::Failed(Summary {
                    reason: Some(reason),
                    ..summary.unwrap_or_default()
                }),
                None if begun => State::Begun(summary.unwrap_or_default()),
                None => State::ToDo,
            },
        }
    }
}
