//! The cells of a plan: what `laq` will run in each, where it is kept, and how far it is.
//!
//! A cell is one row, one column and one seed. Its folder carries the key that `laq` computes from the resolved
//! configuration and the version of the training code, so a finished run is found again exactly as long as it would come
//! out the same.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Selection;
use crate::laq::Laq;
use crate::measure::Measure;
use crate::table::Table;

/// The cells that were asked for, with what they share.
pub(crate) struct Plan {
    pub(crate) table: Table,
    pub(crate) preset: String,
    pub(crate) rows: Vec<String>,
    pub(crate) columns: Vec<String>,
    pub(crate) seeds: u32,
    /// Folder of the runs and of the report.
    pub(crate) out: PathBuf,
    /// Seed by seed, so that a whole table is there before the second seed starts; then column by column.
    pub(crate) cells: Vec<Cell>,
}

/// One run.
pub(crate) struct Cell {
    pub(crate) row: String,
    pub(crate) column: String,
    pub(crate) seed: u32,
    pub(crate) key: String,
    /// The run folder.
    pub(crate) folder: PathBuf,
    /// The resolved configuration.
    pub(crate) config: Value,
    measure: &'static Measure,
    /// The row with the exact solver, for one whose solver alternates.
    pub(crate) exact: Option<String>,
    /// What differs from the paper's setting, in words; empty if nothing does.
    pub(crate) cut_short: String,
    /// Configuration, overlay and settings as arguments of `laq`.
    arguments: Vec<OsString>,
}

/// What `laq config --json` prints.
#[derive(Deserialize)]
struct Resolved {
    key: String,
    config: Value,
}

impl Plan {
    /// Asks `laq` for the key of every cell of the selection.
    pub(crate) fn new(root: &Path, laq: &Laq, selection: &Selection) -> Result<Plan> {
        let table = Table::load(root, selection)?;
        let (rows, columns, preset) = table.choose(selection)?;
        let out = match &selection.out {
            Some(out) => crate::from_here(out)?,
            None => root.join("runs").join(table.id).join(&preset),
        };
        let mut plan = Plan {
            table,
            preset,
            rows,
            columns,
            seeds: selection.seeds,
            out,
            cells: Vec::new(),
        };
        for seed in 1..=plan.seeds {
            for column in &plan.columns {
                for row in &plan.rows {
                    plan.cells.push(Cell::new(laq, &plan, row, column, seed)?);
                }
            }
        }
        Ok(plan)
    }

    /// The plan together with every other cell of its table and preset that has been begun in its folder, whatever the
    /// seed, under the key that its configuration has now.
    pub(crate) fn with_begun(mut self, laq: &Laq) -> Result<Plan> {
        for (row, column, seed) in self.folders() {
            let planned =
                |cell: &Cell| cell.row == row && cell.column == column && cell.seed == seed;
            if self.cells.iter().any(planned) {
                continue;
            }
            let cell = Cell::new(laq, &self, &row, &column, seed)?;
            // A folder of another key is a run of another configuration.
            if !matches!(cell.state(), State::ToDo) {
                self.cells.push(cell);
            }
        }
        let cells = &self.cells;
        let begun = |names: &[String], name: fn(&Cell) -> &str| -> Vec<String> {
            let names = names.iter();
            let names = names.filter(|wanted| cells.iter().any(|cell| name(cell) == *wanted));
            names.cloned().collect()
        };
        self.rows = begun(&self.table.rows, |cell| &cell.row);
        self.columns = begun(&self.table.columns, |cell| &cell.column);
        self.seeds = cells.iter().map(|cell| cell.seed).max().unwrap_or_default();
        let place = |names: &[String], name: &str| names.iter().position(|other| other == name);
        self.cells.sort_by_key(|cell| {
            let column = place(&self.columns, &cell.column);
            (cell.seed, column, place(&self.rows, &cell.row))
        });
        Ok(self)
    }

    /// Row, column and seed of the run folders, each once, whatever their keys.
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
                let named = self.table.rows.iter();
                found.extend(
                    named.filter_map(|row| Some((row.clone(), column.clone(), seed(row)?))),
                );
            }
        }
        found
    }
}

impl Cell {
    /// Asks `laq` for the key of a cell.
    fn new(laq: &Laq, plan: &Plan, row: &str, column: &str, seed: u32) -> Result<Cell> {
        let arguments = |preset: &str| -> Vec<OsString> {
            let mut arguments: Vec<OsString> = vec![plan.table.config(row, column).into()];
            for overlay in plan.table.preset(preset, column) {
                arguments.extend(["--overlay".into(), overlay.into()]);
            }
            arguments.extend(["--set".into(), format!("train.seed={seed}").into()]);
            arguments
        };
        let resolve = |arguments: &[OsString]| -> Result<Resolved> {
            laq.ask(&[&["config".into()], arguments, &["--json".into()]].concat())
        };
        let resolved = resolve(&arguments(&plan.preset))?;
        let papers = resolve(&arguments("paper"))?;
        let folder = format!("{row}-seed{seed}-{}", resolved.key);
        Ok(Cell {
            row: row.into(),
            column: column.into(),
            seed,
            measure: plan.table.measure,
            exact: plan.table.exact(row).map(Into::into),
            folder: plan.out.join(column).join(folder),
            cut_short: differences(&resolved.config, &papers.config),
            key: resolved.key,
            config: resolved.config,
            arguments: arguments(&plan.preset),
        })
    }

    /// `laq COMMAND CONFIG --overlay … --set …`, to which the caller adds what the command needs.
    pub(crate) fn arguments(&self, command: &str) -> Vec<OsString> {
        [&[command.into()], self.arguments.as_slice()].concat()
    }

    /// "lat-a on war-and-peace (seed 1)"
    pub(crate) fn name(&self) -> String {
        format!("{} on {} (seed {})", self.row, self.column, self.seed)
    }

    /// The data set's name, as `laq download` knows it.
    pub(crate) fn data(&self) -> &str {
        self.config["data"]["name"].as_str().unwrap_or_default()
    }

    /// Epochs that the configuration asks for.
    pub(crate) fn epochs(&self) -> u64 {
        self.config["train"]["epochs"].as_u64().unwrap_or_default()
    }

    /// How far the run is. A run that is finished has the figure that the table needs.
    pub(crate) fn state(&self) -> State {
        let summary = Summary::read(&self.folder).filter(|summary| summary.key == self.key);
        let begun = self.folder.join("last.safetensors").exists();
        match summary {
            Some(summary) if summary.status == "finished" => {
                if (self.measure.test)(&summary).is_some() {
                    return State::Finished(summary);
                }
                // `laq` leaves such a run as it is, so only its removal helps.
                let reason = format!(
                    "summary.json says \"finished\", but has no {}; remove the run folder to train the cell anew",
                    self.measure.field
                );
                State::Failed(Summary {
                    reason: Some(reason),
                    ..summary
                })
            }
            Some(summary) if summary.status == "failed" => State::Failed(summary),
            summary if begun => State::Begun(summary.unwrap_or_default()),
            _ => State::ToDo,
        }
    }

    /// The epochs that the run has written down.
    pub(crate) fn epochs_seen(&self) -> Vec<Epoch> {
        self.records("metrics.jsonl")
    }

    /// The comparisons with the exact solver that the run has written down; none if it was not asked to.
    pub(crate) fn comparisons(&self) -> Vec<Comparison> {
        self.records("comparison.jsonl")
    }

    /// The lines of a file of the run folder; those that cannot be read are left out.
    fn records<Record: DeserializeOwned>(&self, name: &str) -> Vec<Record> {
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// How far a run is, with what it says about itself.
pub(crate) enum State {
    Finished(Summary),
    /// Has a checkpoint: interrupted, killed, or running in another process.
    Begun(Summary),
    Failed(Summary),
    ToDo,
}

/// `summary.json`, as far as xtask uses it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) key: String,
    pub(crate) training_version: Option<u64>,
    pub(crate) title: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) stand_in: Option<String>,
    pub(crate) epochs: Option<u64>,
    pub(crate) epochs_done: Option<u64>,
    pub(crate) best_epoch: Option<u64>,
    pub(crate) train_loss: Option<f64>,
    pub(crate) validation_loss: Option<f64>,
    pub(crate) test_loss: Option<f64>,
    pub(crate) validation_error: Option<f64>,
    pub(crate) test_error: Option<f64>,
    pub(crate) seconds: Option<f64>,
    pub(crate) seconds_per_step: Option<f64>,
    pub(crate) quantize_share: Option<f64>,
    pub(crate) steps: Option<u64>,
    pub(crate) max_batches: Option<u64>,
    pub(crate) commit: Option<String>,
    pub(crate) cpu: Option<String>,
    pub(crate) threads: Option<u64>,
    pub(crate) kernel: Option<String>,
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl Summary {
    /// The summary of a run folder; none if there is none or it cannot be read, since then the run is not finished.
    pub(crate) fn read(folder: &Path) -> Option<Summary> {
        serde_json::from_str(&fs::read_to_string(folder.join("summary.json")).ok()?).ok()
    }
}

/// The part of a line of `metrics.jsonl` that a learning curve needs.
#[derive(Deserialize)]
pub(crate) struct Epoch {
    pub(crate) epoch: u64,
    pub(crate) validation_loss: Option<f64>,
    pub(crate) validation_error: Option<f64>,
}

/// A line of `comparison.jsonl`: how far the run's solver was from the optimum in one step.
#[derive(Deserialize)]
pub(crate) struct Comparison {
    pub(crate) step: u64,
    /// Weighted error over the exact solver's, summed over all matrices; none where the latter is 0.
    pub(crate) ratio: Option<f64>,
    pub(crate) layers: Vec<LayerComparison>,
}

/// The same of one matrix.
#[derive(Deserialize)]
pub(crate) struct LayerComparison {
    pub(crate) name: String,
    pub(crate) ratio: Option<f64>,
}

/// What makes one step as long as another: the network and the shape of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Network {
    model: Value,
    batch: Value,
    /// Characters of a sequence, or the name of data whose size only `laq` knows.
    example: Value,
}

impl Network {
    /// Reads it from a resolved configuration.
    pub(crate) fn of(config: &Value) -> Network {
        let data = &config["data"];
        Network {
            model: config["model"].clone(),
            batch: data["batch"].clone(),
            example: data.get("length").unwrap_or(&data["name"]).clone(),
        }
    }

    /// Reads it from the `config.toml` of a run folder.
    pub(crate) fn of_run(folder: &Path) -> Result<Network> {
        let text = fs::read_to_string(folder.join("config.toml")).context("no config.toml")?;
        Ok(Network::of(&serde_json::to_value(toml::from_str::<
            toml::Table,
        >(&text)?)?))
    }
}

/// The settings in which a run differs from the paper's, as "train.epochs 2 (paper: 200), …".
fn differences(ours: &Value, papers: &Value) -> String {
    let mut found = Vec::new();
    for section in ["model", "data", "train"] {
        differ(section, ours.get(section), papers.get(section), &mut found);
    }
    found.join(", ")
}

/// One setting, or each within a table of settings; those of another `kind` have nothing in common.
fn differ(name: &str, ours: Option<&Value>, papers: Option<&Value>, found: &mut Vec<String>) {
    if let (Some(Value::Object(ours)), Some(Value::Object(papers))) = (ours, papers)
        && ours.get("kind") == papers.get("kind")
    {
        let others = papers.keys().filter(|key| !ours.contains_key(*key));
        for key in ours.keys().chain(others) {
            differ(
                &format!("{name}.{key}"),
                ours.get(key),
                papers.get(key),
                found,
            );
        }
        return;
    }
    let (ours, papers) = (value_text(ours), value_text(papers));
    if ours != papers {
        found.push(format!("{name} {ours} (paper: {papers})"));
    }
}

/// A setting as a reader expects it: no quotes, no null.
fn value_text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "not set".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(fields)) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", value_text(Some(value))))
            .collect::<Vec<_>>()
            .join(" "),
        Some(Value::Array(values)) => {
            let values: Vec<String> = values.iter().map(|v| value_text(Some(v))).collect();
            format!("[{}]", values.join(", "))
        }
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_settings_differ_in_nothing() {
        let config = json!({"model": {"hidden": 512}, "data": {"name": "x"}, "train": {"max_batches": null}});
        assert_eq!(
            differences(
                &config,
                &json!({"model": {"hidden": 512}, "data": {"name": "x"}, "train": {}})
            ),
            ""
        );
    }

    #[test]
    fn every_other_setting_is_named_with_both_values() {
        let ours = json!({"model": {"hidden": 96}, "train": {"epochs": 2, "max_batches": 20, "schedule": {"kind": "constant"}}});
        let papers = json!({"model": {"hidden": 512}, "train": {"epochs": 200, "schedule": {"kind": "exponential", "factor": 0.98}}});
        assert_eq!(
            differences(&ours, &papers),
            "model.hidden 96 (paper: 512), train.epochs 2 (paper: 200), train.max_batches 20 (paper: not set), \
             train.schedule kind constant (paper: kind exponential factor 0.98)"
        );
        let schedule = |epochs: &[u32]| json!({"train": {"schedule": {"kind": "milestones", "epochs": epochs, "factor": 0.1}}});
        assert_eq!(
            differences(&schedule(&[4, 7]), &schedule(&[15, 25])),
            "train.schedule.epochs [4, 7] (paper: [15, 25])"
        );
    }

    #[test]
    fn networks_are_the_same_where_a_step_is() {
        let text = |model: Value, name: &str, length: u32| json!({"model": model, "data": {"name": name, "length": length, "batch": 100}});
        let images = |filters: &[u32], name: &str| {
            let model = json!({"kind": "feedforward", "filters": filters});
            json!({"model": model, "data": {"name": name, "preprocessing": "zca", "batch": 50}})
        };
        let lstm = || json!({"kind": "char-lstm", "hidden": 512});
        let same = |a: &Value, b: &Value| Network::of(a) == Network::of(b);
        assert!(same(
            &text(lstm(), "demo", 100),
            &text(lstm(), "war-and-peace", 100)
        ));
        assert!(!same(&text(lstm(), "demo", 50), &text(lstm(), "demo", 100)));
        assert!(same(&images(&[128], "cifar10"), &images(&[128], "cifar10")));
        assert!(!same(&images(&[64], "cifar10"), &images(&[128], "cifar10")));
        // Whether two image sets have images of one size and as many classes is not known here.
        assert!(!same(&images(&[64], "cifar10"), &images(&[64], "mnist")));
    }
}
