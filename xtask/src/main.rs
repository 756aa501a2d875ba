//! The project's own commands, run as `cargo xtask …`.
//!
//! `bench`, `ci`, `gpu_kit`, `python` and `torture` are modules of their own. The other commands build the release binary `laq` and
//! run its command of the same name. xtask links none of the project's crates.

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod gpu_kit;
mod laq;
mod python;
#[cfg(unix)]
mod torture;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build `laq` and run `laq download`: fetch and verify data sets into data/
    #[command(disable_help_flag = true)]
    Download(Arguments),
    /// Build `laq` and run `laq reproduce`: train the cells of a table, and report them
    #[command(disable_help_flag = true)]
    Reproduce(Arguments),
    /// Build `laq` and run `laq report`: report the finished cells of a table
    #[command(disable_help_flag = true)]
    Report(Arguments),
    /// Build `laq` and run `laq gpu-check`: check a GPU
    #[command(disable_help_flag = true)]
    GpuCheck(Arguments),
    /// Make a folder for a machine with a GPU and no Rust: laq, configurations, data, run.sh
    GpuKit(gpu_kit::Options),
    /// Time the solvers, or training steps of several methods, interleaved
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build a wheel of the Python package for every Linux since 2014, into target/wheels
    Wheel,
    /// Install the Python package into target/python-venv and run its tests
    TestPython,
    /// Attack `laq`: kills, errors of the disk, damaged files, crowds, hostile servers
    #[cfg(unix)]
    Torture(torture::Options),
    /// Run every check of the project: format, lints, documentation, tests, benches, demo
    Ci,
}

#[derive(clap::Args)]
struct Arguments {
    /// The arguments of `laq`; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Download(Arguments { arguments }) => laq::run("download", &arguments),
        Command::Reproduce(Arguments { arguments }) => laq::run("reproduce", &arguments),
        Command::Report(Arguments { arguments }) => laq::run("report", &arguments),
        Command::GpuCheck(Arguments { arguments }) => laq::run("gpu-check", &arguments),
        Command::GpuKit(options) => gpu_kit::run(&options),
        Command::Bench(bench) => bench::run(&bench),
        Command::Wheel => python::wheel(),
        Command::TestPython => python::test(),
        #[cfg(unix)]
        Command::Torture(options) => torture(&options),
        Command::Ci => ci::run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(unix)]
fn torture(options: &torture::Options) -> Result<ExitCode> {
    let outcomes = torture::run(options, || laq::build(&root(), &[]))?;
    let is_found = outcomes.iter().any(|outcome| outcome.findings > 0);
    Ok(ExitCode::from(u8::from(is_found)))
}

/// The root of the workspace. Cargo passes the manifest's folder at run time; a binary started by
/// hand uses that of its build.
fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo, in the root of the workspace.
fn cargo() -> process::Command {
    let mut command = process::Command::new(program_of_cargo());
    command.current_dir(root());
    without_package(&mut command);
    command
}

fn program_of_cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Leaves out the variables by which cargo tells this program its package. Build scripts that
/// watch them (of `ring`, under downloads) would run again whenever `cargo` follows `cargo xtask`.
fn without_package(command: &mut process::Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// `path`, relative to the current folder, as an absolute path: programs are started in the root.
fn from_here(path: &Path) -> Result<PathBuf> {
    Ok(env::current_dir()?.join(path))
}

/// This command line, quoted for a shell.
fn command_line() -> String {
    let words: Vec<String> = env::args().skip(1).collect();
    let quoted = words
        .iter()
        .map(|word| shlex::try_quote(word).unwrap_or(word.into()));
    ["cargo".into(), "xtask".into()]
        .into_iter()
        .chain(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}
