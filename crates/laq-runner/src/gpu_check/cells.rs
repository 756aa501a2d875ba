//! Cells of the paper's tables, as many as the time allows.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::several::best_count;
use super::{Check, Limits, Request};
use crate::RunError;
use crate::config;
use crate::record::Status;
use crate::run_folder::read_summary;
use crate::train::{Options, train};

/// Rows of the tables in the order in which they are trained.
const ROWS: [&str; 12] = [
    "lat-a",
    "full",
    "lat-e",
    "twn",
    "lat2-a",
    "ttq",
    "laq-log-3",
    "laq-linear-3",
    "lat2-e",
    "lab",
    "bwn",
    "binary-connect",
];
/// The columns, and the data that they need.
const COLUMNS: [(&str, &str); 3] = [
    ("table2", "war-and-peace"),
    ("table1", "mnist"),
    ("table1", "cifar10-jpeg"),
];

/// How many cells came how far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cells {
    pub(super) finished: usize,
    pub(super) cut_short: usize,
    pub(super) failed: usize,
}

impl Cells {
    /// All that there are.
    pub(super) const ALL: usize = COLUMNS.len() * ROWS.len();
}

/// How far a cell came.
enum State {
    Finished,
    CutShort,
    Failed,
}

/// What a thread that trains cells tells: the number of a cell, and how far it came once it is done.
enum Told {
    Begun(usize),
    Done(usize, State, String),
}

impl Check<'_> {
    /// Cells of the tables, several at the same time, until the time is over.
    pub(super) fn cells(&mut self, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), RunError> {
        let jobs = match (self.request.jobs, self.findings.times_matter) {
            (Some(jobs), _) => jobs.max(1),
            (None, true) => best_count(&self.findings.paces),
            (None, false) => 1,
        };
        let _ = writeln!(
            self.text,
            "\n## Cells\n\nPreset `paper`, {jobs} at the same time; what is not finished goes on with the same command.\n\n\
             | table | column | row | state | epochs | ms a step | test | seconds |\n|---|---|---|---|---|---|---|---|"
        );
        let all: Vec<_> = (COLUMNS.iter())
            .flat_map(|&(table, column)| ROWS.map(|row| (table, column, row)))
            .collect();
        let training = Training {
            request: self.request,
            limits: self.limits,
        };
        let (next, (tell, told)) = (AtomicUsize::new(0), mpsc::channel());
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (tell, all, next, training) = (tell.clone(), &all, &next, &training);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&(table, column, row)) = all.get(number) else {
                            return;
                        };
                        if training.limits.is_over() || tell.send(Told::Begun(number)).is_err() {
                            return;
                        }
                        let (state, line) = training.cell(table, column, row);
                        if tell.send(Told::Done(number, state, line)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(tell);
            for told in told {
                match told {
                    Told::Begun(number) => {
                        let (table, column, row) = all[number];
                        say(&format!("{table}: {row} on {column}"));
                    }
                    Told::Done(number, state, line) => {
                        let (table, column, row) = all[number];
                        let cells = &mut self.findings.cells;
                        *match state {
                            State::Finished => &mut cells.finished,
                            State::CutShort => &mut cells.cut_short,
                            State::Failed => &mut cells.failed,
                        } += 1;
                        let _ = writeln!(self.text, "| {table} | {column} | {row} | {line} |");
                        self.write()?;
                    }
                }
            }
            Ok::<(), RunError>(())
        })?;
        if self.is_over() {
            self.text.push_str("\nThe time was over.\n");
        }
        Ok(())
    }
}

/// What the threads that train cells look at.
struct Training<'a> {
    request: &'a Request,
    limits: Limits<'a>,
}

impl Training<'_> {
    /// Trains a cell as far as the time allows; what the table says of it.
    fn cell(&self, table: &str, column: &str, row: &str) -> (State, String) {
        let folder = self.request.configs.join(table);
        let path = folder.join(column).join(format!("{row}.toml"));
        let preset = |name: &Path| folder.join("presets").join(name);
        let overlays: Vec<PathBuf> = [
            preset(Path::new("paper.toml")),
            preset(&Path::new("paper").join(format!("{column}.toml"))),
        ]
        .into_iter()
        .filter(|overlay| overlay.is_file())
        .collect();
        let data = format!("data.dir={:?}", self.request.data_dir.display().to_string());
        let experiment = match config::load(&path, &overlays, &[data]) {
            Ok(experiment) => experiment,
            Err(error) => return failed("not trained", &error.to_string()),
        };
        let run_dir = (self.request.out.join("runs").join(table))
            .join(column)
            .join(row);
        let options = Options {
            run_dir: run_dir.clone(),
            resume: true,
            threads: None,
            device: self.request.device,
        };
        let over = AtomicBool::new(false);
        let done = train(&experiment, &options, &over, &mut |_| {
            if self.limits.is_over() {
                over.store(true, Ordering::Relaxed);
            }
        });
        if let Err(error) = &done {
            return failed("failed", &error.to_string());
        }
        let Some(summary) = read_summary(&run_dir) else {
            return failed("failed", "it left no summary");
        };
        let test = match (summary.test_error, summary.test_loss) {
            (Some(error), _) => format!("{error:.2} %"),
            (None, Some(loss)) => format!("{loss:.4}"),
            _ => String::new(),
        };
        let (state, name) = match summary.status {
            Status::Finished => (State::Finished, "finished"),
            _ => (State::CutShort, "cut short"),
        };
        let line = format!(
            "{name} | {} of {} | {:.3} | {test} | {:.0}",
            summary.epochs_done,
            summary.epochs,
            1e3 * summary.seconds_per_step,
            summary.seconds
        );
        (state, line)
    }
}

/// What the table says of a cell that was not trained.
fn failed(how: &str, why: &str) -> (State, String) {
    let why = why.replace('|', "/").replace('\n', " ");
    (State::Failed, format!("{how}: {why} | | | |"))
}
