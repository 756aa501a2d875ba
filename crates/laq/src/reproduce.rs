//! `laq reproduce`, `laq report` and `laq status`.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use laq_lab::dry_run::DryRun;
use laq_lab::launcher::{Needs, Stop};
use laq_lab::local::{Local, Workers};
use laq_lab::plan::Plan;
use laq_lab::report::{self, Report};
use laq_lab::reproduce::{Options, Outcome};
use laq_lab::status::Status;
use laq_packed::default_threads;
use laq_runner::device::DeviceChoice;
use laq_runner::environment::Environment;
use laq_runner::files::write_atomically;
use laq_runner::run_folder::check_out;

use crate::args::{
    LauncherName, ReportArgs, ReproduceArgs, StatusArgs, TableName, wrong_arguments,
};
use crate::output::{INTERRUPTED, Output, log, log_error, print, print_json, stop_flag};
use crate::progress::{Transfer, show_cells};

pub(crate) fn reproduce(args: &ReproduceArgs, quiet: bool) -> Result<ExitCode> {
    match args.launcher {
        LauncherName::Slurm => return crate::slurm::reproduce(args),
        LauncherName::Local if !args.slurm.is_empty() => {
            let message = "options of sbatch, --wait and --cancel are for --launcher slurm";
            return Err(wrong_arguments(message));
        }
        LauncherName::Local => {}
    }
    let plan = Plan::new(
        args.selection.configs()?,
        &args.selection.selection(args.table),
    )?;
    let device = args.device.options();
    let on_gpu = match device.choice {
        DeviceChoice::Auto => laq_cuda::probe().usable().is_ok(),
        DeviceChoice::Cpu => false,
        DeviceChoice::Cuda(_) => true,
    };
    let jobs = usize::from(args.jobs);
    let all_threads = default_threads()?;
    let shared = (jobs > 1).then(|| (all_threads / jobs).max(1));
    let threads = args.threads.map(usize::from).or(shared);
    if args.dry_run {
        let machine = Environment::detect("", threads.unwrap_or(all_threads));
        let dry_run = DryRun::new(&plan, &machine, on_gpu)?;
        if args.json {
            print_json(&dry_run)?;
        } else {
            print(&dry_run.render())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options {
        needs: Needs { device, threads },
        mirror: args.mirror.mirror.clone(),
        compare_with_exact: args.compare_with_exact,
        keep: args.keep.map(Into::into),
    };
    let workers = if on_gpu && jobs > 1 {
        Workers::Threads
    } else {
        let program = env::current_exe().context("cannot find this program")?;
        Workers::Processes { program, quiet }
    };
    let stop = Stop {
        interrupted: stop_flag()?,
        deadline: args
            .minutes
            .map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes)),
    };
    let mut transfer = Transfer::new();
    let outcome = laq_lab::reproduce::reproduce(
        &plan,
        &options,
        &Local { jobs, workers },
        &stop,
        &mut |event| show_cells(&event, &mut transfer),
    )?;
    let (finished, all) = (plan.finished(), plan.cells.len());
    print_report(&report::write(plan)?, args.json)?;
    let again = || format!("The same command continues:\n  {}", command_line());
    Ok(match outcome {
        Outcome::Complete => ExitCode::SUCCESS,
        Outcome::OutOfTime => {
            log(&format!(
                "\nstopped after --minutes; {finished} of {all} cells are finished. {}",
                again()
            ));
            ExitCode::SUCCESS
        }
        Outcome::Interrupted => {
            log(&format!(
                "\ninterrupted; {finished} of {all} cells are finished. {}",
                again()
            ));
            ExitCode::from(INTERRUPTED)
        }
        Outcome::Incomplete(problems) => {
            log_error(&format!("\n{finished} of {all} cells are finished:"));
            for (name, reason) in &problems {
                log_error(&format!("  {name}: {reason}"));
            }
            log_error("The same command tries the others again.");
            ExitCode::FAILURE
        }
    })
}

pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode> {
    if let [subject] = args.subjects.as_slice()
        && let Ok(table) = TableName::from_str(subject, false)
    {
        if args.page.is_some() {
            let message = "--page is the page of single runs; the report of a table is in --out";
            return Err(wrong_arguments(message));
        }
        let selection = args.selection.selection(table);
        let plan = Plan::new(args.selection.configs()?, &selection)?;
        print_report(&report::write(plan)?, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.json || !args.selection.is_default() {
        let message = "--preset, --rows, --columns, --seeds, --out, --configs and --json are for the report of a table, \
                       not for run folders";
        return Err(wrong_arguments(message));
    }
    let folders: Vec<PathBuf> = args.subjects.iter().map(PathBuf::from).collect();
    let path = match (&args.page, folders.as_slice()) {
        (Some(path), _) => path.clone(),
        (None, [folder]) => folder.join("report.html"),
        (None, _) => "report.html".into(),
    };
    check_out(&path)?;
    let page = report::runs::page_of_runs(&folders)?;
    write_atomically(&path, page.as_bytes())?;
    writeln!(Output, "{}", path.display())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode> {
    let status = Status::of(&args.folder)?;
    if args.json {
        print_json(&status)?;
    } else {
        print(&status.render())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_report(report: &Report, json: bool) -> Result<()> {
    if json {
        return print_json(&report.json());
    }
    print(&format!("{}\n", report.render()))?;
    for path in report.files() {
        writeln!(Output, "{}", path.display())?;
    }
    Ok(())
}

/// This command, ready for a shell.
fn command_line() -> String {
    let words = env::args_os().map(|word| word.to_string_lossy().into_owned());
    crate::output::shell_words(&words.collect::<Vec<_>>())
}
