//! The report of a table: what the finished cells say, beside the paper, as terminal text, Markdown, CSV and one HTML page.
//!
//! The terminal shows the cells that were asked for. The files hold every cell that has been begun beside them, so that one
//! part of a table after the other can be trained; they are for publishing, and name no folder of this machine.
//!
//! This module collects the figures and writes the files; each format has a module of its own, and none of them computes.

pub(crate) mod claims;
mod csv;
mod curves;
mod exact;
mod html;
mod markdown;
mod svg;
pub(crate) mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context, Result};

use crate::Selection;
use crate::cells::{Cell, Comparison, Epoch, Plan, State, Summary};
use crate::estimate::duration;
use crate::laq::Laq;
use crate::measure::Measure;
use crate::table::bits;
use claims::Claim;
use exact::Solvers;

/// Everything that a report shows.
pub(crate) struct Report {
    /// "Table 2"
    title: String,
    /// What is measured, in which unit.
    caption: String,
    measure: &'static Measure,
    preset: String,
    seeds: u32,
    /// How far the paper's figures can be trusted, literally.
    status: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
    /// Whether these are all rows of the table.
    every_row: bool,
    /// What the letters beside the figures mean.
    notes: Vec<String>,
    claims: Vec<Claim>,
    solvers: Solvers,
    cells: Vec<Run>,
    /// Where and from which sources the figures come.
    made: String,
    /// Folder of the three files.
    folder: PathBuf,
    /// `table2`
    id: &'static str,
}

/// The heading of the rows that the paper's table does not have.
const NOT_IN_PAPER: &str = "not in the paper";

/// Data.
struct Column {
    name: String,
    /// Whether the paper has it; only then its figures are shown.
    is_papers: bool,
    /// What the column is, if it is not one of the paper's.
    note: Option<String>,
}

/// A method.
struct Row {
    name: String,
    /// Whether the paper's table has it. Those that it has not stand in a block of their own, under [`NOT_IN_PAPER`].
    is_papers: bool,
    bits: u32,
    /// One a column.
    entries: Vec<Entry>,
}

/// One field of the table, over the seeds.
struct Entry {
    ours: Option<Mean>,
    /// Shown where there is no figure: "failed" or a dash.
    otherwise: &'static str,
    /// Indices into the notes.
    notes: Vec<usize>,
    paper: Option<f64>,
}

/// A mean over n seeds, with the sample's standard deviation from two on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    mean: f64,
    deviation: Option<f64>,
    seeds: usize,
}

/// One cell with its run.
struct Run {
    row: String,
    column: String,
    seed: u32,
    key: String,
    /// The run folder, as seen from the folder of all runs.
    folder: String,
    /// "finished", "interrupted", "failed" or "to do"
    status: &'static str,
    summary: Summary,
    cut_short: String,
    epochs: u64,
    /// Whether the paper's table has the row.
    is_papers: bool,
    paper: Option<f64>,
    /// The row with the exact solver, for one whose solver alternates.
    exact: Option<String>,
    comparisons: Vec<Comparison>,
    /// The figures of the table's measure: of the best epoch, and of validation after each epoch that has one.
    test: Option<f64>,
    validation: Option<f64>,
    curve: Vec<(u64, f64)>,
}

/// The command `report`: writes and prints it from what is there.
pub(crate) fn run(selection: &Selection) -> Result<ExitCode> {
    let root = crate::root();
    let laq = Laq::build(&root)?;
    print(&write(Plan::new(&root, &laq, selection)?, &laq)?);
    Ok(ExitCode::SUCCESS)
}

/// Writes `<out>/report/<table>.{md,csv,html}` with every cell that has been begun beside those of the plan, and gives the
/// report of the plan alone.
pub(crate) fn write(plan: Plan, laq: &Laq) -> Result<Report> {
    let report = collect(&plan);
    let whole = collect(&plan.with_begun(laq)?);
    fs::create_dir_all(&whole.folder)
        .with_context(|| format!("cannot create the folder {}", whole.folder.display()))?;
    for (extension, content) in [
        ("md", markdown::render(&whole)),
        ("csv", csv::render(&whole)),
        ("html", html::render(&whole)),
    ] {
        let path = whole.file(extension);
        // Written aside, so that there is always a whole file under the name.
        let aside = path.with_extension(format!("{extension}.{}.part", process::id()));
        fs::write(&aside, content)
            .and_then(|()| fs::rename(&aside, &path))
            .inspect_err(|_| drop(fs::remove_file(&aside)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}

/// Prints the table for the terminal, and where the other forms are.
pub(crate) fn print(report: &Report) {
    println!("\n{}", text::render(report));
    for extension in ["md", "csv", "html"] {
        println!("{}", report.file(extension).display());
    }
}

fn collect(plan: &Plan) -> Report {
    let cells: Vec<Run> = plan.cells.iter().map(|cell| Run::of(plan, cell)).collect();
    let mut notes = Vec::new();
    let rows: Vec<Row> = plan
        .rows
        .iter()
        .map(|row| Row {
            name: row.clone(),
            is_papers: plan.table.has_row(row),
            bits: bits(row),
            entries: plan
                .columns
                .iter()
                .map(|column| {
                    let runs: Vec<&Run> = cells
                        .iter()
                        .filter(|run| run.row == *row && run.column == *column)
                        .collect();
                    Entry::of(&runs, plan.table.paper(row, column), &mut notes)
                })
                .collect(),
        })
        .collect();
    let columns: Vec<Column> = plan
        .columns
        .iter()
        .map(|name| Column::of(plan, &cells, name))
        .collect();
    let means = |row: &str, column: usize| -> Option<f64> {
        let entry = &rows.iter().find(|candidate| candidate.name == row)?.entries[column];
        // A run that has not ended is no evidence.
        let ended = cells
            .iter()
            .any(|run| run.row == row && run.column == columns[column].name && run.is_finished());
        entry.ours.filter(|_| ended).map(|ours| ours.mean)
    };
    let papers = |row: &str, column: usize| plan.table.paper(row, &plan.columns[column]);
    let claims = claims::judge(&plan.table, &plan.columns, means, papers);
    Report {
        title: format!("Table {}", plan.table.id.trim_start_matches("table")),
        // What follows the first comma is the paper's network, which a preset may change.
        caption: plan
            .table
            .caption
            .split(", ")
            .next()
            .unwrap_or_default()
            .into(),
        preset: plan.preset.clone(),
        seeds: plan.seeds,
        status: plan.table.status.clone(),
        made: made(&cells),
        folder: plan.out.join("report"),
        every_row: plan.rows == plan.table.rows,
        solvers: exact::collect(plan.table.measure, &plan.columns, &plan.rows, &cells),
        measure: plan.table.measure,
        id: plan.table.id,
        columns,
        rows,
        notes,
        claims,
        cells,
    }
}

impl Report {
    fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.id))
    }

    /// The command that makes these cells, or finds them made.
    fn command(&self) -> String {
        let seeds = if self.seeds > 1 {
            format!(" --seeds {}", self.seeds)
        } else {
            String::new()
        };
        let columns: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let rows: Vec<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
        let rows = if self.every_row {
            String::new()
        } else {
            format!(" --rows {}", rows.join(","))
        };
        format!(
            "cargo xtask reproduce {} --preset {} --columns {}{rows}{seeds}",
            self.id,
            self.preset,
            columns.join(",")
        )
    }

    /// The rows of the paper's table, and those that it does not have.
    fn blocks(&self) -> (&[Row], &[Row]) {
        self.rows
            .split_at(self.rows.partition_point(|row| row.is_papers))
    }

    /// What the columns "paper" are, if there are any.
    fn source(&self) -> Option<String> {
        let any = self.columns.iter().any(|column| column.is_papers);
        any.then(|| {
            format!(
                "paper: {} of arXiv:1802.08635v2, {}",
                self.title, self.status
            )
        })
    }

    /// What the figures are, over several seeds.
    fn spread(&self) -> Option<String> {
        let entries = self.rows.iter().flat_map(|row| &row.entries);
        let seeds = || entries.clone().filter_map(|entry| Some(entry.ours?.seeds));
        let (least, most) = (seeds().min()?, seeds().max()?);
        let range = if least == most {
            most.to_string()
        } else {
            format!("{least} to {most}")
        };
        (most > 1).then(|| format!("ours: mean ± sample standard deviation, n = {range} seeds"))
    }
}

impl Column {
    fn of(plan: &Plan, cells: &[Run], name: &str) -> Column {
        let is_papers = plan.table.has_column(name);
        let stand_in = cells
            .iter()
            .find(|run| run.column == name)
            .and_then(|run| run.summary.stand_in.clone());
        let note = (!is_papers).then(|| match stand_in {
            Some(stand_in) => format!("{name} is not the paper's data: {stand_in}"),
            None => format!("{name} is not one of the paper's data sets"),
        });
        Column {
            name: name.into(),
            is_papers,
            note,
        }
    }
}

impl Entry {
    /// The field of some seeds' runs. New notes are added to `notes`.
    fn of(runs: &[&Run], paper: Option<f64>, notes: &mut Vec<String>) -> Entry {
        let with_status = |status: &str| -> Vec<&Run> {
            runs.iter()
                .copied()
                .filter(|run| run.status == status)
                .collect()
        };
        let finished = with_status("finished");
        // Where nothing is finished, what an interrupted run has reached is shown, with a note that says so.
        let shown = if finished.is_empty() {
            with_status("interrupted")
        } else {
            finished.clone()
        };
        let figures: Vec<f64> = shown.iter().filter_map(|run| run.test).collect();
        let mut entry = Entry {
            ours: Mean::of(&figures),
            otherwise: "–",
            notes: Vec::new(),
            paper,
        };
        let mut note = |text: String| {
            let index = notes
                .iter()
                .position(|note| *note == text)
                .unwrap_or_else(|| {
                    notes.push(text);
                    notes.len() - 1
                });
            if !entry.notes.contains(&index) {
                entry.notes.push(index);
            }
        };
        for run in shown
            .iter()
            .filter(|run| !run.cut_short.is_empty() && run.test.is_some())
        {
            note(format!("cut short: {}", run.cut_short));
        }
        if !finished.is_empty() && finished.len() < runs.len() {
            note(format!(
                "{} of {} seeds finished",
                finished.len(),
                runs.len()
            ));
        }
        for run in runs {
            match run.status {
                "interrupted" => {
                    let done = run.summary.epochs_done.unwrap_or_default();
                    note(format!(
                        "interrupted after {done} of {} epochs; not final",
                        run.epochs
                    ));
                }
                "failed" => note(format!(
                    "failed: {}",
                    run.summary.reason.as_deref().unwrap_or("no reason given")
                )),
                _ => {}
            }
        }
        if runs.iter().any(|run| run.status == "failed") {
            entry.otherwise = "failed";
        }
        entry
    }

    /// "1.402 ± 0.003", "failed" or a dash.
    fn ours_text(&self, measure: &Measure) -> String {
        match self.ours {
            None => self.otherwise.into(),
            Some(Mean {
                mean,
                deviation: None,
                ..
            }) => measure.figure(mean),
            Some(Mean {
                mean,
                deviation: Some(deviation),
                ..
            }) => format!("{} ± {}", measure.figure(mean), measure.figure(deviation)),
        }
    }

    /// The paper's figure and ours less it; empty where the paper has none.
    fn paper_texts(&self, measure: &Measure) -> [String; 2] {
        match self.paper {
            None => Default::default(),
            Some(paper) => [
                measure.figure(paper),
                self.ours
                    .map_or("–".into(), |ours| measure.signed(ours.mean - paper)),
            ],
        }
    }

    /// The letters of the notes, as "a" or "a b".
    fn marks(&self) -> String {
        self.notes
            .iter()
            .map(|&note| letter(note))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Mean {
    fn of(values: &[f64]) -> Option<Mean> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Mean {
            mean,
            deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
            seeds: values.len(),
        })
    }
}

impl Run {
    fn of(plan: &Plan, cell: &Cell) -> Run {
        let (status, mut summary) = match cell.state() {
            State::Finished(summary) => ("finished", summary),
            State::Begun(summary) => ("interrupted", summary),
            State::Failed(summary) => ("failed", summary),
            State::ToDo => ("to do", Summary::default()),
        };
        summary.reason = summary
            .reason
            .map(|reason| without_folders(&reason, &[&plan.out, &crate::root()]));
        let (epochs_seen, comparisons) = if status == "to do" {
            Default::default()
        } else {
            (cell.epochs_seen(), cell.comparisons())
        };
        let measure = plan.table.measure;
        let validation = |epoch: &Epoch| Some((epoch.epoch, (measure.epoch)(epoch)?));
        Run {
            row: cell.row.clone(),
            column: cell.column.clone(),
            seed: cell.seed,
            key: cell.key.clone(),
            folder: cell
                .folder
                .strip_prefix(&plan.out)
                .unwrap_or(&cell.folder)
                .display()
                .to_string(),
            exact: cell.exact.clone(),
            comparisons,
            status,
            test: (measure.test)(&summary),
            validation: (measure.validation)(&summary),
            curve: epochs_seen.iter().filter_map(validation).collect(),
            summary,
            cut_short: cell.cut_short.clone(),
            epochs: cell.epochs(),
            is_papers: plan.table.has_row(&cell.row),
            paper: plan.table.paper(&cell.row, &cell.column),
        }
    }

    fn is_finished(&self) -> bool {
        self.status == "finished"
    }
}

/// Sources, machines and time of the cells, as one sentence.
fn made(cells: &[Run]) -> String {
    let finished = cells.iter().filter(|run| run.is_finished());
    let distinct = |field: &dyn Fn(&Summary) -> Option<String>| {
        // What is not finished may be shown too. A cell that is to do has an empty summary.
        let mut values: Vec<String> = cells.iter().filter_map(|run| field(&run.summary)).collect();
        values.sort();
        values.dedup();
        if values.is_empty() {
            "unknown".to_string()
        } else {
            values.join(", ")
        }
    };
    let seconds: f64 = finished.clone().filter_map(|run| run.summary.seconds).sum();
    format!(
        "{} of {} cells finished, {} of training. Commit {}. {}, threads: {}, kernel: {}.",
        finished.count(),
        cells.len(),
        duration(seconds),
        distinct(&|summary| summary.commit.clone()),
        distinct(&|summary| summary.cpu.clone()),
        distinct(&|summary| summary.threads.map(|threads| threads.to_string())),
        distinct(&|summary| summary.kernel.clone()),
    )
}

/// A message without the folders of this machine: paths in one of `known` begin below it, and of any other absolute path
/// the file's name remains.
fn without_folders(message: &str, known: &[&Path]) -> String {
    let mut text = message.to_string();
    for folder in known.iter().filter(|folder| folder.parent().is_some()) {
        text = text.replace(&format!("{}/", folder.display()), "");
    }
    // A path ends where a blank, a quotation mark or a bracket stands; no address begins with a slash.
    let ends = |c: char| c.is_whitespace() || "\"'`()[]<>,;".contains(c);
    text.split_inclusive(ends)
        .map(|word| match word.trim_end_matches(':').rsplit_once('/') {
            Some((folder, _)) if word.starts_with('/') => format!("…{}", &word[folder.len()..]),
            _ => word.to_string(),
        })
        .collect()
}

/// a, b, …, z, aa, ab, …
fn letter(index: usize) -> String {
    let last = char::from(b'a' + (index % 26) as u8);
    if index < 26 {
        last.to_string()
    } else {
        format!("{}{last}", letter(index / 26 - 1))
    }
}

/// The middle value, or the mean of the two in the middle, of at least one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        0.5 * (values[middle - 1] + values[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(Mean::of(&[]), None);
        assert_eq!(
            Mean::of(&[1.5]),
            Some(Mean {
                mean: 1.5,
                deviation: None,
                seeds: 1
            })
        );
        // By hand: mean 2, squares 1 + 0 + 1, divided by n − 1 = 2.
        assert_eq!(
            Mean::of(&[1.0, 2.0, 3.0]),
            Some(Mean {
                mean: 2.0,
                deviation: Some(1.0),
                seeds: 3
            })
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

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!(
            [
                letter(0),
                letter(25),
                letter(26),
                letter(27),
                letter(701),
                letter(702)
            ],
            ["a", "z", "aa", "ab", "zz", "aaa"]
        );
    }
}
