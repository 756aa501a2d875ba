//! Exported networks, beside onnxruntime and PyTorch.

use std::path::{self, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    NetworkOptions, Timing, align, build, cargo_run, commit, cpu, medians, publish, timings,
};

/// The program that times this project's networks.
const NETWORKS: [&str; 4] = ["--package", "laq-benches", "--bin", "network_table"];

/// A timing of `network_table` or of `benches/onnxruntime/networks.py`.
#[derive(Clone, Deserialize, Serialize)]
struct Timed {
    file: PathBuf,
    program: String,
    unit: String,
    bytes: u64,
    median_seconds: f64,
}

impl Timing for Timed {
    fn is_same(&self, other: &Self) -> bool {
        (&self.file, &self.program) == (&other.file, &other.program)
    }

    fn median_seconds(&mut self) -> &mut f64 {
        &mut self.median_seconds
    }
}

pub(super) fn networks(options: &NetworkOptions) -> Result<()> {
    build(&NETWORKS)?;
    let files: Vec<PathBuf> = (options.files.iter())
        .map(|file| path::absolute(file).with_context(|| format!("no path: {}", file.display())))
        .collect::<Result<_>>()?;
    let is_onnx = |file: &&PathBuf| file.extension().is_some_and(|ending| ending == "onnx");
    let (models, own): (Vec<_>, Vec<_>) = files.iter().partition(is_onnx);
    ensure!(
        models.is_empty() || options.python.is_some(),
        "ONNX files are run by onnxruntime: pass --python PYTHON"
    );
    let repetitions = options.repetitions.to_string();
    let script = crate::root().join("benches/onnxruntime/networks.py");
    let mut rounds: Vec<Vec<Timed>> = Vec::new();
    // The programs take turns.
    for _ in 0..options.rounds {
        let mut round = timings(cargo_run(&NETWORKS).arg(&repetitions).args(&own))?;
        if let Some(python) = options.python.as_ref().filter(|_| !models.is_empty()) {
            let mut command = Command::new(python);
            round.extend(timings(
                command.arg(&script).arg(&repetitions).args(&models),
            )?);
        }
        rounds.push(round);
    }
    let mut rows = medians(&rounds);
    for row in &mut rows {
        row.file = row.file.file_name().unwrap_or_default().into();
    }
    publish(
        "networks",
        &table(&rows, options),
        &rows,
        options.out.as_deref(),
    )
}

fn table(rows: &[Timed], options: &NetworkOptions) -> String {
    let header = ["file", "program", "kB", "µs", "for"];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        lines.push(vec![
            row.file.display().to_string(),
            row.program.clone(),
            format!("{:.1}", 1e-3 * row.bytes as f64),
            format!("{:.1}", 1e6 * row.median_seconds),
            format!("one {}", row.unit),
        ]);
    }
    format!(
        "Networks on one thread of {}; commit {}; medians of {} rounds of {} repetitions\n\n```text\n{}```\n",
        cpu(),
        commit(),
        options.rounds,
        options.repetitions,
        align(&lines, 2..4)
    )
}
