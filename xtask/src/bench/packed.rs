//! Products of packed matrices and a vector.

use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    PackedOptions, Timing, align, build, cargo_run, commit, cpu, medians, publish, timings,
};

/// The program that times this project's products.
const PRODUCTS: [&str; 4] = ["--package", "laq-benches", "--bin", "packed_table"];

/// A timing of `packed_table`, or of a program in `benches/onnxruntime` or `benches/ggml`.
#[derive(Clone, Deserialize, Serialize)]
struct Timed {
    size: usize,
    product: String,
    codebook: String,
    isa: String,
    bytes: usize,
    median_seconds: f64,
}

impl Timing for Timed {
    fn is_same(&self, other: &Self) -> bool {
        (self.size, &self.product, &self.codebook, &self.isa)
            == (other.size, &other.product, &other.codebook, &other.isa)
    }

    fn median_seconds(&mut self) -> &mut f64 {
        &mut self.median_seconds
    }
}

pub(super) fn packed(options: &PackedOptions) -> Result<()> {
    build(&PRODUCTS)?;
    let mut arguments = vec![options.repetitions.to_string()];
    arguments.extend(options.sizes.iter().map(ToString::to_string));
    let script = crate::root().join("benches/onnxruntime/matvec.py");
    let mut rounds: Vec<Vec<Timed>> = Vec::new();
    // The programs take turns.
    for _ in 0..options.rounds {
        let mut round = timings(cargo_run(&PRODUCTS).args(&arguments))?;
        if let Some(python) = &options.onnxruntime {
            round.extend(timings(Command::new(python).arg(&script).args(&arguments))?);
        }
        if let Some(program) = &options.ggml {
            round.extend(timings(Command::new(program).args(&arguments))?);
        }
        rounds.push(round);
    }
    let rows = medians(&rounds);
    publish(
        "packed",
        &table(&rows, options),
        &rows,
        options.out.as_deref(),
    )
}

fn table(rows: &[Timed], options: &PackedOptions) -> String {
    let header = [
        "size",
        "product",
        "weights",
        "kernel",
        "µs",
        "Gweights/s",
        "GB/s",
        "× dense",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let weights = (row.size * row.size) as f64;
        let dense = rows.iter().find(|other| {
            other.product == "dense" && other.size == row.size && other.isa == row.isa
        });
        let is_read = row.product == "read";
        let or_empty = |text: String| if is_read { String::new() } else { text };
        lines.push(vec![
            or_empty(format!("{0}²", row.size)),
            row.product.clone(),
            row.codebook.clone(),
            row.isa.clone(),
            format!("{:.1}", 1e6 * row.median_seconds),
            or_empty(format!("{:.1}", 1e-9 * weights / row.median_seconds)),
            format!("{:.1}", 1e-9 * row.bytes as f64 / row.median_seconds),
            dense.map_or(String::new(), |dense| {
                format!("{:.1}", dense.median_seconds / row.median_seconds)
            }),
        ]);
    }
    format!(
        "A matrix of packed weights times a vector on one thread of {}; commit {}; medians of {} rounds of {} \
         repetitions\n\n```text\n{}```\n",
        cpu(),
        commit(),
        options.rounds,
        options.repetitions,
        align(&lines, 4..8)
    )
}
