//! Blocks as GGUF stores them: the time of the optimum, and its error beside that of the package gguf.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{BlockOptions, align, build, cargo_run, commit, cpu, publish, timings};

/// The program that solves blocks.
const BLOCKS: [&str; 4] = ["--package", "laq-benches", "--bin", "block_table"];

/// Weights of a row there.
const COLUMNS: u32 = 1024;

/// A row of `block_table` or of `benches/gguf/quantize.py`.
#[derive(Deserialize, Serialize)]
struct Solved {
    block_type: String,
    quantizer: String,
    weighted_error: f64,
    plain_error: f64,
    median_seconds: f64,
}

pub(super) fn blocks(options: &BlockOptions) -> Result<()> {
    let options = &BlockOptions {
        weights: options.weights.next_multiple_of(COLUMNS),
        ..options.clone()
    };
    build(&BLOCKS)?;
    let folder = crate::root().join("target/bench-blocks");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut solve = cargo_run(&BLOCKS);
    solve.arg(&folder).arg(options.weights.to_string());
    solve.arg(options.repetitions.to_string());
    solve.env("RAYON_NUM_THREADS", options.threads.to_string());
    let mut rows: Vec<Solved> = timings(&mut solve)?;
    if let Some(python) = &options.gguf {
        let script = crate::root().join("benches/gguf/quantize.py");
        rows.extend(timings(Command::new(python).arg(script).arg(&folder))?);
    }
    publish(
        "blocks",
        &table(&rows, options),
        &rows,
        options.out.as_deref(),
    )
}

fn table(rows: &[Solved], options: &BlockOptions) -> String {
    let header = [
        "type",
        "ns a weight",
        "error",
        "d = 1",
        "gguf's error",
        "d = 1",
        "ratio",
        "d = 1",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for row in rows.iter().filter(|row| row.quantizer == "laq") {
        let is_theirs =
            |other: &&Solved| other.block_type == row.block_type && other.quantizer == "gguf";
        let mut line = vec![
            row.block_type.clone(),
            format!(
                "{:.1}",
                1e9 * row.median_seconds / f64::from(options.weights)
            ),
            format!("{:.5}", row.weighted_error),
            format!("{:.5}", row.plain_error),
        ];
        if let Some(theirs) = rows.iter().find(is_theirs) {
            line.extend([
                format!("{:.5}", theirs.weighted_error),
                format!("{:.5}", theirs.plain_error),
                format!("{:.2}", theirs.weighted_error / row.weighted_error),
                format!("{:.2}", theirs.plain_error / row.plain_error),
            ]);
        }
        lines.push(line);
    }
    format!(
        "{} weights with curvature, {} threads of {}; commit {}; medians of {} repetitions. Errors are Σ d (w − ŵ)² / Σ d w², for \
         d = 1 those of the solution without curvature; gguf's quantizers know no curvature.\n\n```text\n{}```\n",
        options.weights,
        options.threads,
        cpu(),
        commit(),
        options.repetitions,
        align(&lines, 1..8)
    )
}
