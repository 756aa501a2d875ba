//! The report of a table: the figures of the finished cells and the paper's, as terminal text,
//! Markdown, CSV, JSON and HTML.
//!
//! The terminal shows the selected cells. The files show every cell that has a run, so that a table
//! can be trained part by part. They contain no folder of this machine and can be published.
//!
//! `collect` computes everything; the modules of the formats only render it. [`runs`] is the page
//! of single runs, which needs no plan.

mod cells;
pub(crate) mod claims;
mod collect;
mod curves;
mod exact;
mod html;
mod markdown;
mod picture;
pub mod runs;
mod svg;
mod terminal;

use std::fs;
use std::path::PathBuf;

use laq_runner::files::{FileError, write_atomically};
use laq_runner::record::{ComparisonRecord, Summary};
use serde_json::Value;

use crate::LabError;
use crate::measure::Measure;
use crate::plan::Plan;
use claims::Claim;
use exact::Solvers;

/// Everything that a report shows.
#[derive(Debug)]
pub struct Report {
    /// Such as `Table 2`.
    title: String,
    /// What is measured, in which unit.
    caption: String,
    measure: &'static Measure,
    preset: String,
    seeds: u32,
    /// How far the paper's figures have been checked.
    status: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
    /// Whether these are all rows of the table.
    every_row: bool,
    /// The footnotes.
    notes: Vec<String>,
    claims: Vec<Claim>,
    solvers: Solvers,
    cells: Vec<Run>,
    /// Commit, machine and time of the runs.
    provenance: String,
    /// Folder of the files.
    folder: PathBuf,
    /// `table2`
    id: &'static str,
}

/// The heading of the rows that the paper's table does not have.
const NOT_IN_PAPER: &str = "not in the paper";

#[derive(Debug)]
struct Column {
    name: String,
    /// Whether the paper has it; only then its figures are shown.
    is_papers: bool,
    /// What the column is, if it is not one of the paper's.
    note: Option<String>,
}

#[derive(Debug)]
struct Row {
    name: String,
    /// Whether the paper's table has it. The others are shown under [`NOT_IN_PAPER`].
    is_papers: bool,
    bits: u32,
    /// One for each column.
    entries: Vec<Entry>,
}

/// One field of the table, over the seeds.
#[derive(Debug)]
struct Entry {
    ours: Option<Mean>,
    /// Shown where there is no figure: "failed" or a dash.
    otherwise: &'static str,
    /// Indices of footnotes.
    notes: Vec<usize>,
    paper: Option<f64>,
}

/// A mean over n seeds, with the sample standard deviation from two on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    mean: f64,
    deviation: Option<f64>,
    seeds: usize,
}

/// One cell with its run.
#[derive(Debug)]
struct Run {
    row: String,
    column: String,
    seed: u32,
    key: String,
    bits: u32,
    /// The run folder, relative to the folder of all runs.
    folder: String,
    /// "finished", "interrupted", "failed" or "to do"
    status: &'static str,
    /// None for a cell to do.
    summary: Option<Summary>,
    cut_short: String,
    epochs: u32,
    /// Whether the paper's table has the row.
    is_papers: bool,
    paper: Option<f64>,
    /// The row with the exact solver, for one whose solver alternates.
    exact: Option<String>,
    comparisons: Vec<ComparisonRecord>,
    /// The test and validation figures of the best epoch.
    test: Option<f64>,
    validation: Option<f64>,
    /// The validation figure after each epoch.
    curve: Vec<(u32, f64)>,
}

/// Writes `<out>/report/<table>.{md,csv,html,svg}` with every cell of the table and preset that has
/// a run, and returns the report of the selected cells.
///
/// # Errors
///
/// Invalid configurations, and files that cannot be written.
pub fn write(plan: Plan) -> Result<Report, LabError> {
    let report = collect::report(&plan);
    let whole = collect::report(&plan.with_begun()?);
    fs::create_dir_all(&whole.folder).map_err(|source| FileError {
        action: "create the folder",
        path: whole.folder.clone(),
        source,
    })?;
    for (extension, content) in [
        ("md", markdown::render(&whole)),
        ("csv", cells::csv(&whole)),
        ("html", html::render(&whole)),
        ("svg", picture::render(&whole)),
    ] {
        write_atomically(&whole.file(extension), content.as_bytes())?;
    }
    Ok(report)
}

impl Report {
    /// The table for the terminal.
    #[must_use]
    pub fn render(&self) -> String {
        terminal::render(self)
    }

    /// The cells, one object each, with the fields of the CSV.
    #[must_use]
    pub fn json(&self) -> Value {
        cells::json(self)
    }

    /// The files that [`write()`] has written.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        ["md", "csv", "html", "svg"]
            .into_iter()
            .map(|extension| self.file(extension))
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.id))
    }

    /// The command that reproduces these cells.
    fn command(&self) -> String {
        let columns: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let mut command = format!(
            "laq reproduce {} --preset {} --columns {}",
            self.id,
            self.preset,
            columns.join(",")
        );
        if !self.every_row {
            let rows: Vec<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
            command += &format!(" --rows {}", rows.join(","));
        }
        if self.seeds > 1 {
            command += &format!(" --seeds {}", self.seeds);
        }
        command
    }

    /// The rows of the paper's table, and the others.
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

    /// The remarks under the table, before the footnotes.
    fn remarks(&self) -> impl Iterator<Item = String> {
        let columns = self.columns.iter().filter_map(|column| column.note.clone());
        self.spread().into_iter().chain(columns)
    }
}

impl Entry {
    /// Such as `1.402 ± 0.003`, `failed` or a dash.
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
            }) => {
                format!("{} ± {}", measure.figure(mean), measure.figure(deviation))
            }
        }
    }

    /// The paper's figure, and ours minus the paper's; empty where the paper has none.
    fn paper_texts(&self, measure: &Measure) -> [String; 2] {
        let Some(paper) = self.paper else {
            return Default::default();
        };
        let difference = self.ours.map(|ours| measure.signed(ours.mean - paper));
        [measure.figure(paper), difference.unwrap_or("–".into())]
    }

    /// The letters of the footnotes, such as `a` or `a b`.
    fn marks(&self) -> String {
        let letters = self.notes.iter().map(|&note| letter(note));
        letters.collect::<Vec<_>>().join(" ")
    }
}

impl Run {
    fn is_finished(&self) -> bool {
        self.status == "finished"
    }
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

#[cfg(test)]
mod tests {
    use super::letter;

    #[test]
    fn letters_continue_after_z() {
        let letters = [0, 25, 26, 27, 701, 702].map(letter);
        assert_eq!(letters, ["a", "z", "aa", "ab", "zz", "aaa"]);
    }
}
