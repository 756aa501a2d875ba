//! Computes a report from the run folders of a plan.

use std::path::{Path, absolute};

use laq_runner::record::{EpochRecord, Summary};
use laq_runner::run_folder::{read_comparisons, read_epochs};

use super::{Column, Entry, Mean, Report, Row, Run, claims, exact};
use crate::plan::{Cell, Plan, State};
use crate::text::duration;

pub(super) fn report(plan: &Plan) -> Report {
    let cells: Vec<Run> = plan.cells.iter().map(|cell| Run::of(plan, cell)).collect();
    let mut notes = Vec::new();
    let rows: Vec<Row> = plan
        .rows
        .iter()
        .map(|row| {
            let entries = plan.columns.iter().map(|column| {
                let runs = cells
                    .iter()
                    .filter(|run| run.row == *row && run.column == *column);
                Entry::of(
                    &runs.collect::<Vec<_>>(),
                    plan.table.paper(row, column),
                    &mut notes,
                )
            });
            let bits = cells.iter().find(|run| run.row == *row).map(|run| run.bits);
            Row {
                name: row.clone(),
                is_papers: plan.table.has_row(row),
                bits: bits.unwrap_or_default(),
                entries: entries.collect(),
            }
        })
        .collect();
    let columns: Vec<Column> = plan
        .columns
        .iter()
        .map(|name| Column::of(plan, &cells, name))
        .collect();
    let means = |row: &str, column: usize| -> Option<f64> {
        let entry = &rows.iter().find(|candidate| candidate.name == row)?.entries[column];
        // An unfinished run is no evidence.
        let ended = cells
            .iter()
            .any(|run| run.row == row && run.column == columns[column].name && run.is_finished());
        entry.ours.filter(|_| ended).map(|ours| ours.mean)
    };
    let papers = |row: &str, column: usize| plan.table.paper(row, &plan.columns[column]);
    let claims = claims::judge(&plan.table, &plan.columns, means, papers);
    // The paper's network follows the first comma, and a preset may change it.
    let caption = plan.table.caption.split(", ").next().unwrap_or_default();
    let id = plan.table.id.name();
    Report {
        title: format!("Table {}", id.trim_start_matches("table")),
        caption: caption.into(),
        preset: plan.preset.clone(),
        seeds: plan.seeds,
        status: plan.table.status.clone(),
        provenance: provenance(&cells),
        folder: plan.out.join("report"),
        every_row: plan.rows == plan.table.rows,
        solvers: exact::collect(plan.table.measure, &plan.columns, &plan.rows, &cells),
        measure: plan.table.measure,
        id,
        columns,
        rows,
        notes,
        claims,
        cells,
    }
}

impl Column {
    fn of(plan: &Plan, cells: &[Run], name: &str) -> Self {
        let is_papers = plan.table.has_column(name);
        let mut runs = cells.iter().filter(|run| run.column == name);
        let stand_in = runs.find_map(|run| run.summary.as_ref()?.stand_in.clone());
        let note = (!is_papers).then(|| match stand_in {
            Some(stand_in) => format!("{name} is not the paper's data: {stand_in}"),
            None => format!("{name} is not one of the paper's data sets"),
        });
        Self {
            name: name.into(),
            is_papers,
            note,
        }
    }
}

impl Entry {
    /// The field of the runs of some seeds. New footnotes are added to `notes`.
    fn of(runs: &[&Run], paper: Option<f64>, notes: &mut Vec<String>) -> Self {
        let with_status = |status: &str| -> Vec<&Run> {
            let runs = runs.iter().copied();
            runs.filter(|run| run.status == status).collect()
        };
        let finished = with_status("finished");
        // Where nothing is finished, the figure of an interrupted run is shown, with a footnote.
        let shown = if finished.is_empty() {
            with_status("interrupted")
        } else {
            finished.clone()
        };
        let figures: Vec<f64> = shown.iter().filter_map(|run| run.test).collect();
        let mut entry = Self {
            ours: Mean::of(&figures),
            otherwise: "–",
            notes: Vec::new(),
            paper,
        };
        let mut note = |text: String| {
            let known = notes.iter().position(|note| *note == text);
            let index = known.unwrap_or_else(|| {
                notes.push(text);
                notes.len() - 1
            });
            if !entry.notes.contains(&index) {
                entry.notes.push(index);
            }
        };
        for run in &shown {
            if !run.cut_short.is_empty() && run.test.is_some() {
                note(format!("cut short: {}", run.cut_short));
            }
        }
        if !finished.is_empty() && finished.len() < runs.len() {
            note(format!(
                "{} of {} seeds finished",
                finished.len(),
                runs.len()
            ));
        }
        for run in runs {
            let summary = run.summary.as_ref();
            match run.status {
                "interrupted" => {
                    let done = summary.map_or(0, |summary| summary.epochs_done);
                    note(format!(
                        "interrupted after {done} of {} epochs; not final",
                        run.epochs
                    ));
                }
                "failed" => {
                    let reason = summary.and_then(|summary| summary.reason.as_deref());
                    note(format!("failed: {}", reason.unwrap_or("no reason given")));
                }
                _ => {}
            }
        }
        if runs.iter().any(|run| run.status == "failed") {
            entry.otherwise = "failed";
        }
        entry
    }
}

impl Mean {
    fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self {
            mean,
            deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
            seeds: values.len(),
        })
    }
}

impl Run {
    fn of(plan: &Plan, cell: &Cell) -> Self {
        let (status, mut summary) = match cell.state() {
            State::Finished(summary) => ("finished", Some(summary)),
            State::Begun(summary) => ("interrupted", Some(summary)),
            State::Failed(summary) => ("failed", Some(summary)),
            State::ToDo => ("to do", None),
        };
        if let Some(reason) = summary.as_mut().and_then(|summary| summary.reason.as_mut()) {
            let here = std::env::current_dir().unwrap_or_default();
            let out = absolute(&plan.out).unwrap_or_default();
            *reason = without_folders(reason, &[&plan.out, &out, &here]);
        }
        let (epochs, comparisons) = match &summary {
            None => Default::default(),
            Some(_) => (read_epochs(&cell.folder), read_comparisons(&cell.folder)),
        };
        let measure = plan.table.measure;
        let validation = |epoch: &EpochRecord| Some((epoch.epoch, (measure.epoch)(epoch)?));
        Self {
            row: cell.row.clone(),
            column: cell.column.clone(),
            seed: cell.seed,
            key: cell.key.clone(),
            bits: cell.bits,
            folder: plan.relative_folder(cell).display().to_string(),
            exact: cell.exact.clone(),
            comparisons,
            status,
            test: summary.as_ref().and_then(measure.test),
            validation: summary.as_ref().and_then(measure.validation),
            curve: epochs.iter().filter_map(validation).collect(),
            summary,
            cut_short: cell.cut_short.clone(),
            epochs: cell.epochs(),
            is_papers: plan.table.has_row(&cell.row),
            paper: plan.table.paper(&cell.row, &cell.column),
        }
    }
}

/// Commit, machine and time of the runs.
fn provenance(cells: &[Run]) -> String {
    let finished = cells.iter().filter(|run| run.is_finished());
    let summaries = || cells.iter().filter_map(|run| run.summary.as_ref());
    let distinct = |field: &dyn Fn(&Summary) -> String| {
        let mut values: Vec<String> = summaries().map(field).collect();
        values.retain(|value| !value.is_empty());
        values.sort();
        values.dedup();
        if values.is_empty() {
            "unknown".to_string()
        } else {
            values.join(", ")
        }
    };
    let seconds = finished
        .clone()
        .filter_map(|run| Some(run.summary.as_ref()?.seconds));
    format!(
        "{} of {} cells finished, {} of training. Commit {}. {}, threads: {}, kernel: {}.",
        finished.count(),
        cells.len(),
        duration(seconds.sum()),
        distinct(&|summary| summary.commit.clone()),
        distinct(&|summary| summary.cpu.clone()),
        distinct(&|summary| match summary.threads {
            0 => String::new(),
            threads => threads.to_string(),
        }),
        distinct(&|summary| summary.kernel.clone()),
    )
}

/// A message without the folders of this machine: paths below a folder of `known` become relative
/// to it, and other absolute paths are cut to the name of their file.
fn without_folders(message: &str, known: &[&Path]) -> String {
    let mut text = message.to_string();
    for folder in known.iter().filter(|folder| folder.parent().is_some()) {
        text = text.replace(&format!("{}/", folder.display()), "");
    }
    // A path ends at a blank, a quotation mark or a bracket; no address starts with a slash.
    let ends = |c: char| c.is_whitespace() || "\"'`()[]<>,;".contains(c);
    text.split_inclusive(ends)
        .map(|word| match word.trim_end_matches(':').rsplit_once('/') {
            Some((folder, _)) if word.starts_with('/') => format!("…{}", &word[folder.len()..]),
            _ => word.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(Mean::of(&[]), None);
        let single = Mean::of(&[1.5]).expect("a mean");
        assert_eq!(
            (single.mean, single.deviation, single.seeds),
            (1.5, None, 1)
        );
        // By hand: mean 2, squares 1 + 0 + 1, divided by n − 1 = 2.
        let three = Mean::of(&[1.0, 2.0, 3.0]).expect("a mean");
        assert_eq!(
            (three.mean, three.deviation, three.seeds),
            (2.0, Some(1.0), 3)
        );
    }

    #[test]
    fn messages_keep_files_and_lose_folders() {
        let known = [Path::new("/home/a b/laq/runs"), Path::new("/home/a b/laq")];
        for (message, expected) in [
            ("no figure here", "no figure here"),
            (
                "cannot write /home/a b/laq/runs/demo/full-seed1-0/last.safetensors: No space left",
                "cannot write demo/full-seed1-0/last.safetensors: No space left",
            ),
            (
                "/home/a b/laq/configs/x.toml (from \"/mnt/data/y.txt\"), line 1/2",
                "configs/x.toml (from \"…/y.txt\"), line 1/2",
            ),
            (
                "see https://a.org/b: /mnt/z: gone",
                "see https://a.org/b: …/z: gone",
            ),
        ] {
            assert_eq!(without_folders(message, &known), expected);
        }
        assert_eq!(without_folders("a/b", &[Path::new("/")]), "a/b");
    }
}
