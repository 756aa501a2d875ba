//! `laq`: trains, evaluates and quantizes networks with low-bit weights, and reproduces tables of
//! results.
//!
//! `args` defines the command line; `calibrate`, `commands`, `inspect`, `packed`, `profile`, `quantize` and `reproduce` call
//! the libraries and print; `progress` draws progress; `output` writes to the standard streams and handles signals.
//!
//! Exit codes: 0 success, 1 an error, 2 a wrong command line, 75 a run that another process trains, 130 interrupted (and
//! saved).

#![forbid(unsafe_code)]

mod args;
#[cfg(test)]
mod book;
mod calibrate;
mod commands;
mod gpu_check;
mod inspect;
mod output;
mod packed;
mod profile;
mod progress;
mod quantize;
mod reproduce;
mod slurm;

use std::process::ExitCode;

use anyhow::Context;

use args::{Args, Command};
use laq_datasets::UnknownDataset;
use laq_lab::LabError;
use laq_runner::RunError;

use crate::output::{LOCKED, described};

/// Checks the variables and limits that no command checks itself.
fn environment() -> anyhow::Result<()> {
    laq_simd::Isa::from_environment()?;
    laq_packed::default_threads()?;
    laq_packed::check_program_memory().context("laq")?;
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::from_command_line();
    let quiet = args.quiet;
    output::set_quiet(quiet);
    output::survive_size_limit();
    let prints_result = args.command.prints_result();
    let record_failure = match &args.command {
        Command::Train(args) if args.record_failure => args.run_dir.clone(),
        _ => None,
    };
    // Whether it is another process's lock, which is no failure of the run.
    let fail = |error: &anyhow::Error| {
        let reason = described(error);
        output::log_error(&format!("error: {reason}"));
        let locked = matches!(error.downcast_ref(), Some(RunError::Locked { .. }));
        if let Some(folder) = record_failure.as_ref().filter(|_| !locked) {
            let _ = laq_lab::failure::record(folder, &reason);
        }
        locked
    };
    if let Err(error) = environment() {
        fail(&error);
        return ExitCode::FAILURE;
    }
    let done = match args.command {
        Command::Train(args) => match args.profile {
            Some(steps) => profile::profile(&args, steps),
            None => commands::train(&args, quiet),
        },
        Command::Eval(args) => commands::eval(&args),
        Command::Export(args) => packed::export(&args),
        Command::Sample(args) => packed::sample(&args),
        Command::Classify(args) => packed::classify(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Config(args) => commands::config(&args),
        Command::Summary(args) => commands::summary(&args),
        Command::Estimate(args) => commands::estimate(&args),
        Command::Calibrate(args) => calibrate::calibrate(&args),
        Command::Quantize(args) => quantize::quantize(&args),
        Command::Methods(args) => commands::methods(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::GpuCheck(args) => commands::gpu_check(&args),
        Command::Download(args) => commands::download(&args),
        Command::Reproduce(args) => reproduce::reproduce(&args, quiet),
        Command::Report(args) => reproduce::report(&args),
        Command::Status(args) => reproduce::status(&args),
        Command::Completions(args) => commands::completions(&args),
        Command::Man(args) => commands::man(&args),
    };
    match (done, output::end_output()) {
        (Ok(_), Some(error)) if prints_result => {
            output::log_error(&format!(
                "error: cannot write to the standard output: {error}"
            ));
            ExitCode::FAILURE
        }
        (Ok(code), failed) => {
            if let Some(error) = failed {
                output::log(&format!(
                    "warning: the work is done and its files are written, but not all of this could be printed: {error}"
                ));
            }
            code
        }
        (Err(error), _) => {
            if let Some(error) = error.downcast_ref::<clap::Error>() {
                error.exit();
            }
            // A name that does not exist is a wrong command line.
            let wrong = matches!(error.downcast_ref(), Some(LabError::Unknown(_)))
                || error.is::<UnknownDataset>();
            ExitCode::from(match (wrong, fail(&error)) {
                (true, _) => 2,
                (_, true) => LOCKED,
                _ => 1,
            })
        }
    }
}
