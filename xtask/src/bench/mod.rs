//! `cargo xtask bench`: solvers compared in one run, and training steps of several methods,
//! interleaved.
//!
//! Cargo builds and runs the timed programs, which are in the package `laq-benches` and in an
//! example of `laq-models`. They print seconds; this module makes tables of them.

mod blocks;
mod networks;
mod packed;
mod peers;
mod solvers;
mod steps;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Exact solvers, sorting and alternation on the same weights, in one run
    Solvers(SolverOptions),
    /// Training steps of several methods, interleaved
    Step(StepOptions),
    /// Products and training steps beside PyTorch, burn and candle, interleaved
    Peers(PeerOptions),
    /// Products of packed matrices and a vector, on one thread
    Packed(PackedOptions),
    /// The optimum of blocks as GGUF stores them: time, and error beside the package gguf
    Blocks(BlockOptions),
    /// Exported networks, one character or one image at a time, on one thread
    Networks(NetworkOptions),
}

#[derive(Args)]
pub(crate) struct NetworkOptions {
    /// Files of `laq export`: packed, safetensors-f32, or ONNX
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A Python with onnxruntime, for the ONNX files; with torch it also times an LSTM of the same size
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Repetitions of a round; each runs every network
    #[arg(long, value_name = "N", default_value = "15", value_parser = up_to(10_000))]
    repetitions: u32,
    /// Rounds; in each, every program runs once
    #[arg(long, value_name = "N", default_value = "5", value_parser = up_to(1000))]
    rounds: u32,
    /// Write networks.md and networks.json there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args, Clone)]
pub(crate) struct BlockOptions {
    /// The number of weights, in rows of 1024
    #[arg(long, value_name = "N", default_value = "1048576", value_parser = up_to(1 << 28))]
    weights: u32,
    /// Threads
    #[arg(long, value_name = "N", default_value = "2", value_parser = up_to(1024))]
    threads: u32,
    /// Repetitions; each solves every type
    #[arg(long, value_name = "N", default_value = "7", value_parser = up_to(10_000))]
    repetitions: u32,
    /// A Python with the package gguf: also its errors
    #[arg(long, value_name = "PYTHON")]
    gguf: Option<PathBuf>,
    /// Write blocks.md and blocks.json there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct PackedOptions {
    /// Rows and columns of the matrices
    #[arg(long, value_delimiter = ',', value_name = "N,…", default_value = "2048,4096", value_parser = up_to(16_384))]
    sizes: Vec<u32>,
    /// Repetitions of a round; each runs every product
    #[arg(long, value_name = "N", default_value = "15", value_parser = up_to(10_000))]
    repetitions: u32,
    /// Rounds; in each, every program runs once
    #[arg(long, value_name = "N", default_value = "5", value_parser = up_to(1000))]
    rounds: u32,
    /// A Python with onnx and onnxruntime: also time its MatMulNBits
    #[arg(long, value_name = "PYTHON")]
    onnxruntime: Option<PathBuf>,
    /// The program of benches/ggml/matvec.c: also time ggml's products
    #[arg(long, value_name = "PROGRAM")]
    ggml: Option<PathBuf>,
    /// Write packed.md and packed.json there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct SolverOptions {
    /// Numbers of weights; k is 2^10 and M is 2^20 [default: 1k,16k,256k,1M,4M,16M]
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = count)]
    sizes: Vec<usize>,
    /// Exact methods, each compared with sorting and alternation on its codebook
    #[arg(long, value_delimiter = ',', value_name = "METHOD,…", default_values = METHODS)]
    methods: Vec<String>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', value_name = "N,…", default_value = "1,2", value_parser = up_to(1024))]
    threads: Vec<u32>,
    /// Repetitions; each runs every solver [default: 7]
    #[arg(long, value_name = "N", value_parser = up_to(10_000))]
    repetitions: Option<u32>,
    /// Small sizes and few repetitions by default: a trial run
    #[arg(long)]
    quick: bool,
    /// A Python with torch: also compare lat-e with PyTorch, at 4M and ten million weights
    #[arg(long, value_name = "PYTHON", conflicts_with = "json")]
    pytorch: Option<PathBuf>,
    /// Print a line of JSON for each timing instead of the table
    #[arg(long)]
    json: bool,
    /// Write solvers.csv and solvers.md there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct StepOptions {
    /// Networks
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NETWORK,…",
        default_value = "char-lstm,mnist"
    )]
    networks: Vec<Network>,
    /// Methods; the others are compared with the first
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "METHOD,…",
        default_value = "lat-a,lat-e"
    )]
    methods: Vec<String>,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = up_to(1024))]
    threads: Option<u32>,
    /// Repetitions; in each, every method takes a step
    #[arg(long, value_name = "N", default_value = "15", value_parser = up_to(10_000))]
    repetitions: u32,
}

#[derive(Args)]
pub(crate) struct PeerOptions {
    /// A Python with torch
    #[arg(long, value_name = "PYTHON")]
    python: PathBuf,
    /// Networks, after the products of their layers; burn and candle have the feedforward ones
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NETWORK,…",
        default_value = "mnist,cifar10,char-lstm"
    )]
    networks: Vec<Network>,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = up_to(1024))]
    threads: Option<u32>,
    /// Repetitions; in each, every program takes a step
    #[arg(long, value_name = "N", default_value = "9", value_parser = up_to(10_000))]
    repetitions: u32,
    /// Untimed repetitions; the alternating solvers start near their last solution after some twenty steps
    #[arg(long, value_name = "N", default_value = "20", value_parser = up_to(1000))]
    warm_up: u32,
    /// Write peers.md and peers.json there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const METHODS: [&str; 7] = [
    "lat-e",
    "lat2-e",
    "laq-linear-3-e",
    "laq-linear-4-e",
    "laq-log-3-e",
    "laq-log-4-e",
    "laq-linear-8-e",
];

const SIZES: [usize; 6] = [1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22, 1 << 24];

/// The largest problem: weights, curvature and the memory of sorting are about ten gigabytes.
const MOST_WEIGHTS: usize = 1 << 28;

/// Sizes and repetitions of a quick run.
const QUICK: (&[usize], u32) = (&[1 << 10, 1 << 16], 3);

/// Untimed repetitions of steps: the alternating solvers need some for their warm starts.
const WARM_UP: u32 = 3;

#[derive(Clone, Copy, ValueEnum)]
enum Network {
    /// The paper's character LSTM: 512 cells, 87 symbols, 100 steps, batch 100
    CharLstm,
    /// The paper's MLP: 784–2048–2048–2048–10, ten million weights, batch 100
    Mnist,
    /// The paper's network for CIFAR-10, batch 50
    Cifar10,
}

impl Network {
    /// Its name for [`STEPS`].
    fn name(self) -> &'static str {
        match self {
            Network::CharLstm => "char-lstm",
            Network::Mnist => "mnist",
            Network::Cifar10 => "cifar10",
        }
    }
}

/// The program that takes steps.
const STEPS: [&str; 4] = ["--package", "laq-models", "--example", "step_server"];

/// The command.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Solvers(options) => solvers::solvers(options)?,
        Bench::Step(options) => steps::step(options)?,
        Bench::Peers(options) => peers::peers(options)?,
        Bench::Packed(options) => packed::packed(options)?,
        Bench::Blocks(options) => blocks::blocks(options)?,
        Bench::Networks(options) => networks::networks(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A number from 1 to `most`.
fn up_to(most: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=most)
}

/// A number of threads, by default one for each processor.
fn threads(number: Option<u32>) -> Result<usize> {
    Ok(match number {
        Some(number) => number as usize,
        None => available_parallelism()?.get(),
    })
}

/// "64k", "16M" or a plain number.
fn count(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'M']) {
        Some(digits) if text.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (text, 1),
    };
    let number = digits.parse::<usize>().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .filter(|&number| (1..=MOST_WEIGHTS).contains(&number))
        .ok_or_else(|| "expected a number of weights such as 1000, 64k or 16M, up to 256M".into())
}

/// A table without lines, the columns `right` aligned to the right.
fn align(lines: &[Vec<String>], right: Range<usize>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .add_rows(lines);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// The median of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        0.5 * (values[middle - 1] + values[middle])
    }
}

/// The processor's name, on Linux.
fn cpu() -> String {
    let known = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = known.lines().find(|line| line.starts_with("model name"));
    name.and_then(|line| line.split_once(':'))
        .map_or("unknown processor".into(), |(_, name)| name.trim().into())
}

/// The commit of the working tree, marked if there are uncommitted changes.
fn commit() -> String {
    let output = Command::new("git")
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .current_dir(crate::root())
        .stderr(Stdio::null())
        .output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or("unknown".into(), |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        })
}

/// A timing that a program prints, as an element of a JSON array.
trait Timing: Clone {
    /// Whether both are of the same thing.
    fn is_same(&self, other: &Self) -> bool;
    fn median_seconds(&mut self) -> &mut f64;
}

/// The timings of a program.
fn timings<T: DeserializeOwned>(command: &mut Command) -> Result<Vec<T>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start a benchmark")?;
    ensure!(
        output.status.success(),
        "the benchmark failed; its messages are above"
    );
    serde_json::from_slice(&output.stdout).context("the benchmark printed no timings")
}

/// The medians over rounds, of the timings of the first round.
fn medians<T: Timing>(rounds: &[Vec<T>]) -> Vec<T> {
    let first = rounds.first().into_iter().flatten();
    let mut rows: Vec<T> = first.cloned().collect();
    for row in &mut rows {
        let same = rounds.iter().flatten().filter(|other| row.is_same(other));
        *row.median_seconds() = median(same.map(|same| *same.clone().median_seconds()).collect());
    }
    rows
}

/// Prints a table, and with `out` writes it there with its rows as JSON.
fn publish<T: Serialize>(name: &str, text: &str, rows: &[T], out: Option<&Path>) -> Result<()> {
    print!("{text}");
    let Some(out) = out else {
        return Ok(());
    };
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let json = serde_json::to_string_pretty(rows)? + "\n";
    for (ending, content) in [("md", text), ("json", &json)] {
        let path = out.join(format!("{name}.{ending}"));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Builds a program, with cargo's messages on the terminal.
fn build(program: &[&str]) -> Result<()> {
    let status = crate::cargo()
        .args(["build", "--release"])
        .args(program)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "`cargo build --release {}` failed; its messages are above",
            program.join(" ")
        );
    }
    Ok(())
}

/// Runs a program that is built, with the arguments that follow and the input and output of this
/// command.
fn cargo_run(program: &[&str]) -> Command {
    let mut command = crate::cargo();
    command
        .args(["run", "--quiet", "--release"])
        .args(program)
        .arg("--");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units() {
        for (text, expected) in [
            ("1000", Some(1000)),
            ("64k", Some(65_536)),
            ("16M", Some(16_777_216)),
            ("256M", Some(MOST_WEIGHTS)),
            ("257M", None),
            ("0", None),
            ("1.5M", None),
            ("M", None),
            ("-1", None),
            ("99999999999999M", None),
        ] {
            assert_eq!(count(text).ok(), expected, "{text}");
        }
    }
}
