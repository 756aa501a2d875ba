//! `laq`: trains, evaluates and looks at networks with low-bit weights.
//!
//! The definition of the command line is in `args`, what a command prints in `commands`, how progress looks in
//! `progress`; what a command does is left to the library.
//!
//! Exit codes: 0 done, 1 an error, 2 a wrong command line, 130 interrupted and saved.

mod args;
mod commands;
mod progress;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Command::Train(args) => commands::train(&args),
        Command::Eval(args) => commands::eval(&args),
        Command::Config(args) => commands::config(&args),
        Command::Estimate(args) => commands::estimate(&args),
        Command::Methods(args) => commands::methods(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::Download(args) => commands::download(&args),
    };
    match done {
        Ok(code) => code,
        // Whoever closes the pipe early, as `head` does, has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
