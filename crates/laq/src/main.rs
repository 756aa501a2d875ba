//! `laq`: trains, evaluates, quantizes and looks at networks with low-bit weights.
//!
//! The definition of the command line is in `args`, what a command prints in `commands`, how progress looks in
//! `progress`; what a command does is left to the library.
//!
//! Exit codes: 0 done, 1 an error, 2 a wrong command line, 130 interrupted (and saved, where there is something to save).

mod args;
mod commands;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = laq_simd::Isa::from_environment() {
        progress::tell(&format!("error: {error}"));
        return ExitCode::FAILURE;
    }
    let done = match args.command {
        Command::Train(args) => commands::train(&args),
        Command::Eval(args) => commands::eval(&args),
        Command::Config(args) => commands::config(&args),
        Command::Summary(args) => commands::summary(&args),
        Command::Estimate(args) => commands::estimate(&args),
        Command::Quantize(args) => commands::quantize(&args),
        Command::Methods(args) => commands::methods(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::GpuCheck(args) => commands::gpu_check(&args),
        Command::Download(args) => commands::download(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            progress::tell(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
