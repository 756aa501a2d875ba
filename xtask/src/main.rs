//! The project's own commands, run as `cargo xtask …`: `download`, `reproduce`, `report`, `bench`, `gpu-check`
//! and `ci`.
//!
//! One module a command. Training itself is the business of the `laq` binary: xtask builds it in release mode, spawns it
//! once a cell, and links none of the project's crates.

mod bench;
mod cells;
mod ci;
mod download;
mod estimate;
mod laq;
mod measure;
mod report;
mod reproduce;
mod table;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use measure::Measure;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch and verify data sets into data/
    Download(download::Options),
    /// Train every cell of a table that is not finished yet, and print it beside the paper's
    Reproduce(reproduce::Options),
    /// Write the report again from the cells that are finished, without training
    Report {
        #[command(flatten)]
        selection: Selection,
    },
    /// Time the solvers, or training steps of several methods, side by side
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build `laq` and check a GPU with it: the arguments are those of `laq gpu-check`
    #[command(disable_help_flag = true)]
    GpuCheck {
        /// As `laq gpu-check --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run every check of the project: format, lints, documentation, tests, benches, demo
    Ci,
}

/// Which cells of which table, at which size, and where they are kept.
#[derive(Args, Clone)]
struct Selection {
    /// The table of the paper
    table: TableName,
    /// Size of the runs: demo (embedded data, minutes), short (the paper's network, few epochs), paper (to the letter)
    #[arg(long, default_value = "demo")]
    preset: String,
    /// Rows, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,
    /// Columns, separated by commas [default: the paper's; with the preset demo the embedded data]
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,…")]
    columns: Vec<String>,
    /// Number of seeds: each cell is trained with the seeds 1 to N
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Folder of the runs and of the report [default: runs/TABLE/PRESET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TableName {
    /// Test error of the networks on images
    Table1,
    /// Test cross-entropy of the character LSTM
    Table2,
}

impl TableName {
    /// The name of the table on the command line, in `configs/` and in `runs/`.
    fn id(self) -> &'static str {
        match self {
            TableName::Table1 => "table1",
            TableName::Table2 => "table2",
        }
    }

    /// What its figures are.
    fn measure(self) -> &'static Measure {
        match self {
            TableName::Table1 => &measure::ERROR,
            TableName::Table2 => &measure::CROSS_ENTROPY,
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Download(options) => download::run(&options),
        Command::Reproduce(options) => reproduce::run(&options),
        Command::Report { selection } => report::run(&selection),
        Command::Bench(bench) => bench::run(&bench),
        Command::GpuCheck { arguments } => gpu_check(arguments),
        Command::Ci => ci::run(),
    };
    result.unwrap_or_else(|error| {
        // Ctrl-C has ended a child that only prepares; what it left unsaid is no error.
        if laq::interrupted() {
            eprintln!("interrupted");
            return ExitCode::from(laq::INTERRUPTED);
        }
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<table::Unknown>() { 2 } else { 1 })
    })
}

/// Hands the command over to a fresh build of `laq`, in the root of the workspace, where the configurations are.
fn gpu_check(arguments: Vec<OsString>) -> Result<ExitCode> {
    laq::outlive_interruptions()?;
    let laq = laq::Laq::build(&root())?;
    let status = laq.run(&[vec!["gpu-check".into()], arguments].concat())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// The root of the workspace. Cargo names the manifest's folder at run time; the folder of the build is the fallback for
/// a binary that is started by hand.
fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// `path` as the user meant it: relative to the folder in which the command was typed, because `laq` runs in the root.
fn from_here(path: &Path) -> Result<PathBuf> {
    Ok(env::current_dir()?.join(path))
}

/// The command line as it can be typed again.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    let quoted = env::args().skip(1).map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    ["cargo".to_string(), "xtask".to_string()]
        .into_iter()
        .chain(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}
