//! The dry run: what would be trained, how long it would take on this machine, and how that is known.
//!
//! Time is counted in seconds per training step with everything in it (evaluation, checkpoints), times the steps that are
//! left. Finished cells of the same row and network give it best; where there are none, `laq estimate` times a few real
//! steps, once a row and network.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use serde::Deserialize;

use crate::cells::{Cell, Network, Plan, State, Summary};
use crate::download;
use crate::laq::Laq;
use crate::report::text::align;
use crate::reproduce::{Options, needed_data};

/// What `laq estimate --json` prints, as far as it is used.
#[derive(Deserialize)]
struct Estimate {
    /// Training steps of the whole run.
    steps: u64,
    /// Of the whole run, evaluation included.
    seconds: f64,
    /// Whole batches by split.
    batches: BTreeMap<String, u64>,
}

/// The time of a training step of one row, and where the figure comes from.
struct Speed {
    row: String,
    network: Network,
    /// Sum over the runs it is taken from.
    seconds: f64,
    steps: u64,
    runs: usize,
    timed: bool,
}

/// Steps of a run, known by data and shape of the batches whatever the row.
struct Length {
    column: String,
    steps: u64,
    batches: BTreeMap<String, u64>,
}

/// What is left of a row in the columns that share a speed.
struct Part<'a> {
    speed: &'a Speed,
    seconds: f64,
    columns: Vec<&'a str>,
}

/// Prints the plan and the estimate.
pub(crate) fn print(laq: &Laq, plan: &Plan, options: &Options) -> Result<()> {
    let machine = download::doctor(laq)?;
    let threads = options.threads.map_or(machine.threads, u64::from);
    let left: Vec<&Cell> = plan
        .cells
        .iter()
        .filter(|cell| remaining(cell) > 0.0)
        .collect();
    println!(
        "{}, preset {}: {} cells, {} to do",
        plan.table.id,
        plan.preset,
        plan.cells.len(),
        left.len()
    );
    println!("{}\n", plan.out.display());
    println!("{}", cells_text(plan));
    let finished = plan.cells.iter().filter_map(|cell| match cell.state() {
        State::Finished(summary) => Some(summary.seconds.unwrap_or_default()),
        _ => None,
    });
    let finished: Vec<f64> = finished.collect();
    if !finished.is_empty() {
        println!(
            "Finished and kept: {} of {} cells, which took {}.\n",
            finished.len(),
            plan.cells.len(),
            duration(finished.iter().sum())
        );
    }

    let on_gpu = match options.device.as_deref() {
        None | Some("auto") => machine.device.starts_with(GPU),
        Some(device) => device.starts_with(GPU),
    };
    let mut speeds = finished_speeds(plan, &machine.cpu, threads, on_gpu);
    let lengths = measure(laq, plan, &left, options, &mut speeds)?;
    let heading = [
        "column",
        "cells to do",
        "epochs",
        "batches: train",
        "validation",
        "test",
        "data",
    ];
    let mut columns = vec![heading.map(String::from).to_vec()];
    for length in &lengths {
        let cells: Vec<_> = left
            .iter()
            .filter(|cell| cell.column == length.column)
            .collect();
        let data = cells[0].data();
        let batches = |split: &str| length.batches.get(split).map_or("?".into(), u64::to_string);
        columns.push(vec![
            length.column.clone(),
            cells.len().to_string(),
            cells[0].epochs().to_string(),
            batches("train"),
            batches("validation"),
            batches("test"),
            machine.trouble(data).unwrap_or("present").into(),
        ]);
    }
    if left.is_empty() {
        println!("Nothing to do: every cell is finished.");
        return Ok(());
    }
    print!("{}", align(&columns, 1..6));
    for data in needed_data(plan)
        .iter()
        .filter(|data| !machine.is_present(data))
    {
        println!(
            "The data of {data} are not there: the run fetches them first, as `cargo xtask download {data} [--mirror DIR|URL]` does."
        );
    }
    println!(
        "\nTime on this machine ({}, {threads} threads):",
        machine.cpu
    );
    let mut rows = vec![
        ["row", "s/step", "time", "known from"]
            .map(String::from)
            .to_vec(),
    ];
    let mut total = 0.0;
    for row in &plan.rows {
        // The row's networks may differ from column to column, and so may what is known of them.
        let mut parts: Vec<Part<'_>> = Vec::new();
        for cell in left.iter().filter(|cell| cell.row == *row) {
            let length = lengths.iter().find(|length| length.column == cell.column);
            let (Some(speed), Some(length)) = (speed_of(&speeds, cell), length) else {
                continue;
            };
            let place = parts
                .iter()
                .position(|part| std::ptr::eq(part.speed, speed));
            let place = place.unwrap_or_else(|| {
                parts.push(Part {
                    speed,
                    seconds: 0.0,
                    columns: Vec::new(),
                });
                parts.len() - 1
            });
            let part = &mut parts[place];
            part.seconds += remaining(cell) * length.steps as f64 * speed.per_step();
            if !part.columns.contains(&cell.column.as_str()) {
                part.columns.push(&cell.column);
            }
        }
        for part in &parts {
            let columns = if parts.len() > 1 {
                format!(", {}", part.columns.join(", "))
            } else {
                String::new()
            };
            rows.push(vec![
                row.clone(),
                format!("{:.3}", part.speed.per_step()),
                duration(part.seconds),
                part.speed.source() + &columns,
            ]);
            total += part.seconds;
        }
    }
    println!("{}", align(&rows, 1..3));
    println!(
        "Together about {}. A step's time includes its share of the evaluation.",
        duration(total)
    );
    Ok(())
}

impl Speed {
    fn per_step(&self) -> f64 {
        self.seconds / self.steps.max(1) as f64
    }

    fn source(&self) -> String {
        match (self.timed, self.runs) {
            (true, _) => "a few timed steps (`laq estimate`)".into(),
            (false, 1) => "1 finished cell".into(),
            (false, runs) => format!("{runs} finished cells"),
        }
    }
}

fn speed_of<'a>(speeds: &'a [Speed], cell: &Cell) -> Option<&'a Speed> {
    let network = Network::of(&cell.config);
    speeds
        .iter()
        .find(|speed| speed.row == cell.row && speed.network == network)
}

/// How the name of a GPU begins, and the kernel of a run on one.
const GPU: &str = "cuda";

/// Speeds of every finished run beside the plan's, whatever its column, seed or preset, on this machine.
fn finished_speeds(plan: &Plan, cpu: &str, threads: u64, on_gpu: bool) -> Vec<Speed> {
    // Runs of other presets lie in the neighbouring folders of the default place: runs/<table>/<preset>.
    let siblings = plan
        .out
        .parent()
        .filter(|parent| parent.ends_with(plan.table.id));
    let presets = siblings.map_or_else(|| vec![plan.out.clone()], folders);
    let mut speeds: Vec<Speed> = Vec::new();
    for folder in presets
        .iter()
        .flat_map(folders)
        .flat_map(|column| folders(&column))
    {
        let Some(summary) = Summary::read(&folder) else {
            continue;
        };
        let was_on_gpu = (summary.kernel.as_deref()).is_some_and(|kernel| kernel.starts_with(GPU));
        let here = summary.cpu.as_deref() == Some(cpu)
            && summary.threads == Some(threads)
            && was_on_gpu == on_gpu;
        let (Some(row), Some(seconds), Some(steps)) =
            (summary.method, summary.seconds, summary.steps)
        else {
            continue;
        };
        let Ok(network) = Network::of_run(&folder) else {
            continue;
        };
        if summary.status != "finished" || !here || steps == 0 {
            continue;
        }
        match speeds
            .iter_mut()
            .find(|speed| speed.row == row && speed.network == network)
        {
            Some(speed) => {
                speed.seconds += seconds;
                speed.steps += steps;
                speed.runs += 1;
            }
            None => speeds.push(Speed {
                row,
                network,
                seconds,
                steps,
                runs: 1,
                timed: false,
            }),
        }
    }
    speeds
}

fn folders(folder: impl AsRef<std::path::Path>) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Calls `laq estimate` as often as it takes to know the speed of every row and the length of every column, which is less
/// than once a cell: the cells on the diagonal of the table first, then those that still tell something new.
fn measure(
    laq: &Laq,
    plan: &Plan,
    left: &[&Cell],
    options: &Options,
    speeds: &mut Vec<Speed>,
) -> Result<Vec<Length>> {
    let mut lengths: Vec<Length> = Vec::new();
    let mut order = left.to_vec();
    order.sort_by_key(|cell| {
        let row = plan
            .rows
            .iter()
            .position(|row| *row == cell.row)
            .unwrap_or_default();
        let column = plan
            .columns
            .iter()
            .position(|column| *column == cell.column)
            .unwrap_or_default();
        row % plan.columns.len() != column % plan.rows.len()
    });
    for cell in order {
        let known = speed_of(speeds, cell).is_some();
        if known && lengths.iter().any(|length| length.column == cell.column) {
            continue;
        }
        eprintln!("timing {} on {} …", cell.row, cell.column);
        let mut arguments = cell.arguments("estimate");
        arguments.push("--json".into());
        arguments.extend(options.machine());
        let estimate: Estimate = laq.ask(&arguments)?;
        if !known {
            speeds.push(Speed {
                row: cell.row.clone(),
                network: Network::of(&cell.config),
                seconds: estimate.seconds,
                steps: estimate.steps,
                runs: 1,
                timed: true,
            });
        }
        if !lengths.iter().any(|length| length.column == cell.column) {
            lengths.push(Length {
                column: cell.column.clone(),
                steps: estimate.steps,
                batches: estimate.batches,
            });
        }
    }
    lengths.sort_by_key(|length| {
        plan.columns
            .iter()
            .position(|column| *column == length.column)
    });
    Ok(lengths)
}

/// The share of a cell's epochs that is still to be trained.
fn remaining(cell: &Cell) -> f64 {
    match cell.state() {
        State::Finished(_) => 0.0,
        State::Begun(summary) => {
            1.0 - summary.epochs_done.unwrap_or_default() as f64 / cell.epochs().max(1) as f64
        }
        State::Failed(_) | State::ToDo => 1.0,
    }
}

/// The state of every cell as a table, with the seeds of a cell in one field.
fn cells_text(plan: &Plan) -> String {
    let mut lines = vec![
        std::iter::once("row".to_string())
            .chain(plan.columns.iter().cloned())
            .collect::<Vec<_>>(),
    ];
    for row in &plan.rows {
        let mut line = vec![row.clone()];
        for column in &plan.columns {
            let cells = plan
                .cells
                .iter()
                .filter(|cell| cell.row == *row && cell.column == *column);
            let mut states: Vec<(String, usize)> = Vec::new();
            for cell in cells {
                let state = match cell.state() {
                    State::Finished(_) => "finished".to_string(),
                    State::Begun(summary) => {
                        format!(
                            "{} of {} epochs",
                            summary.epochs_done.unwrap_or_default(),
                            cell.epochs()
                        )
                    }
                    State::Failed(_) => "failed".to_string(),
                    State::ToDo => "to do".to_string(),
                };
                match states.iter_mut().find(|(name, _)| *name == state) {
                    Some((_, count)) => *count += 1,
                    None => states.push((state, 1)),
                }
            }
            let text = |(state, count): &(String, usize)| match count {
                1 => state.clone(),
                count => format!("{count} × {state}"),
            };
            line.push(states.iter().map(text).collect::<Vec<_>>().join(", "));
        }
        lines.push(line);
    }
    align(&lines, 0..0)
}

/// "3 h 05 min", "12 min", "40 s"
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", (whole + 30) / 60),
        7200..172_800 => format!(
            "{} h {:02} min",
            (whole + 30) / 3600,
            (whole + 30) / 60 % 60
        ),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_round() {
        for (seconds, text) in [
            (0.2, "0 s"),
            (119.0, "119 s"),
            (120.0, "2 min"),
            (7199.0, "120 min"),
            (7200.0, "2 h 00 min"),
            (10_799.0, "3 h 00 min"),
            (864_000.0, "10.0 days"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
