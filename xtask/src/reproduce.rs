//! `cargo xtask reproduce`: trains the cells of a table that are not finished, one after the other or several at a time, and
//! prints the table.
//!
//! A cell that fails, or a column whose data cannot be had, does not hold up the others; the exit code tells. Ctrl-C stops
//! the run after `laq` has saved.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use clap::Args;

use crate::cells::{Cell, Plan, State, Summary};
use crate::download::{self, Mirror};
use crate::laq::{self, Laq};
use crate::{Selection, estimate, report};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Print the plan and an estimate of its time, and train nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) mirror: Mirror,
    /// Where the networks are computed: auto, cpu or cuda:N, as `laq train --device`
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// How exact products are on a GPU: tf32 or float32, as `laq train --precision`
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<String>,
    /// Cells that are trained at the same time, each by a process of its own: small networks do not fill a large GPU
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) jobs: u32,
    /// Threads of a run [default: every core, shared out to the --jobs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) threads: Option<u32>,
    /// Before every N-th step of a row whose solver alternates, run the exact solver on the same weights and keep both
    /// weighted errors for the report. No figure changes, so finished cells are kept and stay without; the time of
    /// --dry-run leaves it out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    compare_with_exact: Option<u32>,
}

/// The command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    laq::outlive_interruptions()?;
    let root = crate::root();
    let laq = Laq::build(&root)?;
    let plan = Plan::new(&root, &laq, &options.selection)?;
    if options.dry_run {
        estimate::print(&laq, &plan, options)?;
        return Ok(ExitCode::SUCCESS);
    }

    let mut problems = fetch_data(&laq, &plan, &options.mirror)?;
    let without_data: Vec<String> = problems.keys().cloned().collect();
    let trainable = |cell: &&Cell| !without_data.iter().any(|data| data == cell.data());
    let finished = plan
        .cells
        .iter()
        .filter(|cell| matches!(cell.state(), State::Finished(_)))
        .count();
    if finished > 0 {
        println!(
            "{finished} of {} cells are finished and kept",
            plan.cells.len()
        );
    }
    let cells: Vec<(usize, &Cell)> = (plan.cells.iter().enumerate())
        .filter(|(_, cell)| trainable(cell) && !matches!(cell.state(), State::Finished(_)))
        .collect();
    match train_all(&laq, &cells, plan.cells.len(), options)? {
        Some(failures) => problems.extend(failures),
        None => return stop(plan, &laq),
    }
    report::print(&report::write(plan, &laq)?);
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\nnot everything is done:");
    for (name, reason) in &problems {
        eprintln!("  {name}: {reason}");
    }
    eprintln!("The same command tries these again and keeps what is finished.");
    Ok(ExitCode::FAILURE)
}

/// Trains cells, `--jobs` of them at a time: what failed, and why; none where they were interrupted.
fn train_all(
    laq: &Laq,
    cells: &[(usize, &Cell)],
    all: usize,
    options: &Options,
) -> Result<Option<BTreeMap<String, String>>> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    let interrupted = AtomicBool::new(false);
    let is_over = || interrupted.load(Ordering::SeqCst) || laq::interrupted();
    let work = || -> Result<()> {
        while let Some((index, cell)) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
            if is_over() {
                break;
            }
            println!("[{}/{all}] {}", index + 1, cell.name());
            match train(laq, cell, options)? {
                Outcome::Finished => {}
                Outcome::Interrupted => interrupted.store(true, Ordering::SeqCst),
                Outcome::Failed(reason) => {
                    eprintln!("{} failed: {reason}", cell.name());
                    let mut failures = failures.lock().expect("no thread panics");
                    failures.insert(cell.name(), reason);
                }
            }
        }
        Ok(())
    };
    let jobs = (options.jobs as usize).min(cells.len());
    if jobs <= 1 {
        work()?;
    } else {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let results: Vec<_> = (workers.into_iter())
                .map(|worker| worker.join().expect("no thread panics"))
                .collect();
            results.into_iter().collect::<Result<()>>()
        })?;
    }
    let failures = failures.into_inner().expect("no thread panics");
    Ok((!is_over()).then_some(failures))
}

impl Options {
    /// What `laq train` and `laq estimate` are told of the machine.
    pub(crate) fn machine(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| {
            arguments.extend([OsString::from(name), OsString::from(value)]);
        };
        if let Some(device) = &self.device {
            add("--device", device.clone());
        }
        if let Some(precision) = &self.precision {
            add("--precision", precision.clone());
        }
        let shared = || {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            (self.jobs > 1).then(|| (cores / self.jobs as usize).max(1) as u32)
        };
        if let Some(threads) = self.threads.or_else(shared) {
            add("--threads", threads.to_string());
        }
        arguments
    }
}

enum Outcome {
    Finished,
    Interrupted,
    Failed(String),
}

/// Trains one cell, going on from its checkpoint if it has one.
fn train(laq: &Laq, cell: &Cell, options: &Options) -> Result<Outcome> {
    let mut arguments = cell.arguments("train");
    arguments.extend([
        "--run-dir".into(),
        cell.folder.clone().into(),
        "--resume".into(),
    ]);
    arguments.extend(options.machine());
    if options.jobs > 1 {
        // Several bars would overwrite each other; what a run has reached is printed all the same.
        arguments.extend(["--progress".into(), "none".into()]);
    }
    if let Some(steps) = options.compare_with_exact.filter(|_| cell.exact.is_some()) {
        arguments.extend(["--set".into(), format!("comparison.every={steps}").into()]);
    }
    let written =
        || fs::metadata(cell.folder.join("summary.json")).and_then(|file| file.modified());
    let before = written().ok();
    let status = laq.run(&arguments)?;
    // A summary that `laq` has not touched tells of an earlier failure.
    let is_news = status.success() || written().ok() != before;
    // A second Ctrl-C ends laq without a code; it was an interruption all the same.
    if status.code() == Some(laq::INTERRUPTED.into()) || (laq::interrupted() && !status.success()) {
        return Ok(Outcome::Interrupted);
    }
    Ok(match cell.state() {
        State::Finished(_) if status.success() => Outcome::Finished,
        State::Failed(Summary {
            reason: Some(reason),
            ..
        }) if is_news => Outcome::Failed(reason),
        _ if status.success() => Outcome::Failed(format!(
            "`laq train` succeeded, but {} does not say \"finished\" with the key {}",
            cell.folder.join("summary.json").display(),
            cell.key
        )),
        _ => Outcome::Failed(format!(
            "`laq train` ended with {status}; its message is above"
        )),
    })
}

/// Fetches the data of the columns that still have something to train. What cannot be had is returned by its name.
fn fetch_data(laq: &Laq, plan: &Plan, mirror: &Mirror) -> Result<BTreeMap<String, String>> {
    let mut missing = BTreeMap::new();
    let machine = download::doctor(laq)?;
    for data in needed_data(plan) {
        if laq::interrupted() || machine.is_present(&data) {
            continue;
        }
        println!("fetching {data}");
        if !download::fetch(laq, std::slice::from_ref(&data), mirror)?.success()
            && !laq::interrupted()
        {
            let reason = format!(
                "the data cannot be had (the message is above); `cargo xtask download {data} --mirror DIR|URL` takes \
                 them from a copy"
            );
            eprintln!("{data}: its cells are left out");
            missing.insert(data, reason);
        }
    }
    Ok(missing)
}

/// The data sets of the cells that are not finished, each once.
pub(crate) fn needed_data(plan: &Plan) -> Vec<String> {
    let mut needed = Vec::new();
    for cell in &plan.cells {
        let data = cell.data().to_string();
        if !needed.contains(&data) && !matches!(cell.state(), State::Finished(_)) {
            needed.push(data);
        }
    }
    needed
}

/// After an interruption: how to go on, and the report of what there is.
fn stop(plan: Plan, laq: &Laq) -> Result<ExitCode> {
    let finished = plan
        .cells
        .iter()
        .filter(|cell| matches!(cell.state(), State::Finished(_)))
        .count();
    eprintln!(
        "\ninterrupted; {finished} of {} cells are finished. The same command goes on where it stopped:\n  {}",
        plan.cells.len(),
        crate::command_line()
    );
    report::write(plan, laq)?;
    Ok(ExitCode::from(laq::INTERRUPTED))
}
