//! Solves blocks for `cargo xtask bench blocks`.
//!
//! Takes a folder, the number of weights (whole rows of 1024) and the number of repetitions. Writes the weights and their curvature to the folder
//! as raw f32, for `benches/gguf/quantize.py`, and prints a JSON array of [`Row`]s. Every repetition solves all types in turn, on
//! the threads of `RAYON_NUM_THREADS`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use laq_benches::{Candidate, Data, Failure, end};
use laq_packed::gguf::BlockType;
use laq_solvers::Problem;
use serde::Serialize;

/// Weights of a row.
const COLUMNS: usize = 1024;

/// Time of the calls within a repetition.
const REPETITION_SECONDS: f64 = 1e-2;

/// One result.
#[derive(Serialize)]
struct Row {
    block_type: &'static str,
    quantizer: &'static str,
    /// Σ d (w − ŵ)² / Σ d w².
    weighted_error: f64,
    /// The same with d = 1, of a solution for d = 1.
    plain_error: f64,
    median_seconds: f64,
}

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().ok_or(format!("expected {what}"));
    let folder = next("a folder")?;
    let count: usize = next("the number of weights")?.parse()?;
    let repetitions: usize = next("the number of repetitions")?.parse()?;
    let Data {
        weights, curvature, ..
    } = Data::new(count);
    for (name, values) in [("weights.f32", &weights), ("curvature.f32", &curvature)] {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        fs::write(Path::new(&folder).join(name), bytes)?;
    }
    let (weighted, plain) = (
        Problem::new(&weights, Some(&curvature))?,
        Problem::new(&weights, None)?,
    );
    let relative = |of: BlockType, problem: Problem<'_>| -> Result<f64, Failure> {
        let ones = vec![1.0; count];
        let d = problem.curvature().unwrap_or(&ones);
        let products = weights
            .iter()
            .zip(d)
            .map(|(w, d)| f64::from(*d) * f64::from(*w).powi(2));
        Ok(2.0 * of.quantize(problem, COLUMNS)?.1 / products.sum::<f64>())
    };
    let mut candidates = Vec::new();
    for of in BlockType::ALL {
        let row = Row {
            block_type: of.id(),
            quantizer: "laq",
            weighted_error: relative(of, weighted)?,
            plain_error: relative(of, plain)?,
            median_seconds: 0.0,
        };
        let solve = move || {
            let solved = of.quantize(weighted, COLUMNS).expect("whole blocks");
            std::hint::black_box(solved);
        };
        candidates.push((row, Candidate::new(REPETITION_SECONDS, solve)));
    }
    for _ in 0..repetitions {
        (candidates.iter_mut()).for_each(|(_, candidate)| candidate.time());
    }
    let finish = |(row, candidate): (Row, Candidate<'_>)| Row {
        median_seconds: candidate.median_and_minimum().0,
        ..row
    };
    let rows: Vec<Row> = candidates.into_iter().map(finish).collect();
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}
