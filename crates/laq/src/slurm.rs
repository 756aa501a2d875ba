//! `laq reproduce --launcher slurm`.

use std::env;
use std::io::Write;
use std::path::{Path, absolute};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use laq_lab::launcher::{Needs, Stop};
use laq_lab::plan::Plan;
use laq_lab::reproduce::{Event, Options};
use laq_lab::slurm::{self, Request, Settings, Submitted};

use crate::args::{ReproduceArgs, wrong_arguments};
use crate::output::{INTERRUPTED, Output, log, log_error, shell_words, stop_flag};
use crate::progress::{Transfer, show_cells};

pub(crate) fn reproduce(args: &ReproduceArgs) -> Result<ExitCode> {
    if args.jobs > 1 || args.minutes.is_some() || args.json {
        let message = "--jobs, --minutes and --json are for cells of this machine; --array-limit and --time limit those of \
                       --launcher slurm";
        return Err(wrong_arguments(message));
    }
    let plan = Plan::new(
        args.selection.configs()?,
        &args.selection.selection(args.table),
    )?;
    if args.slurm.cancel {
        let jobs = slurm::cancel(&plan.out)?;
        match jobs.as_slice() {
            [] => writeln!(Output, "nothing of {} is in the queue", plan.out.display())?,
            jobs => writeln!(Output, "cancelled: {}", list(jobs))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options {
        needs: Needs {
            device: args.device.options(),
            threads: args.threads.map(usize::from),
        },
        mirror: args.mirror.mirror.clone(),
        compare_with_exact: args.compare_with_exact,
        keep: args.keep.map(Into::into),
    };
    let request = Request {
        settings: Settings::load(&plan.table.configs)?.with(args.slurm.settings()),
        program: env::current_exe().context("cannot find this program")?,
        report: report(args, &plan)?,
    };
    let stop = Stop {
        interrupted: stop_flag()?,
        deadline: None,
    };
    let mut transfer = Transfer::new();
    let mut observer = |event: Event<'_>| show_cells(&event, &mut transfer);
    let submitted = slurm::submit(
        &plan,
        &options,
        &request,
        args.dry_run,
        &stop,
        &mut observer,
    )?;
    print(args, &plan, &submitted)?;
    if stop.is_set() && submitted.commands.is_empty() {
        log("stopped before anything was submitted");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if args.slurm.wait && !args.dry_run && !slurm::wait(&plan, &stop)? {
        log("cancelled; the same command submits what is not finished");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let all_submitted = submitted.problems.is_empty();
    let ended = !args.slurm.wait || plan.finished() == plan.cells.len();
    Ok(match all_submitted && ended {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The arguments that report the same cells, on a node that starts in another folder.
fn report(args: &ReproduceArgs, plan: &Plan) -> Result<Vec<String>> {
    let mut words: Vec<String> = ["report", plan.table.id.name(), "--preset", &plan.preset]
        .map(String::from)
        .into();
    words.extend(["--rows".into(), plan.rows.join(",")]);
    words.extend(["--columns".into(), plan.columns.join(",")]);
    words.extend(["--seeds".into(), plan.seeds.to_string()]);
    let path = |path: &Path| -> Result<String> {
        let found = absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
        let found = found.into_os_string().into_string();
        found.map_err(|path| anyhow!("the path {path:?} is not UTF-8, which the scripts of Slurm have to be: use another folder"))
    };
    words.extend(["--out".into(), path(&plan.out)?]);
    if let Some(configs) = args.selection.configs_folder() {
        words.extend(["--configs".into(), path(configs)?]);
    }
    Ok(words)
}

fn print(args: &ReproduceArgs, plan: &Plan, submitted: &Submitted) -> Result<()> {
    let Submitted {
        submission,
        queued,
        finished,
        ..
    } = submitted;
    let (all, tasks) = (plan.cells.len(), submission.tasks.len());
    let queued = queued.map_or("the queue is unknown".into(), |queued| {
        format!("{queued} in the queue")
    });
    writeln!(
        Output,
        "{all} cells: {finished} finished, {queued}, {tasks} to submit"
    )?;
    if submitted.commands.is_empty() {
        return Ok(());
    }
    for (index, task) in submission.tasks.iter().enumerate() {
        writeln!(Output, "  task {index}: {}", task.name)?;
    }
    for command in &submitted.commands {
        writeln!(Output, "sbatch {command}")?;
    }
    if args.dry_run {
        for (path, text) in &submitted.scripts {
            writeln!(Output, "\n{}:\n{text}", path.display())?;
        }
        return Ok(());
    }
    let jobs: Vec<u64> = [submission.job, submission.report_job]
        .into_iter()
        .flatten()
        .collect();
    writeln!(Output, "submitted: {}", list(&jobs))?;
    if let Some(error) = &submitted.report_error {
        log_error(&format!(
            "the report is not submitted: {error}; `laq report` writes it at any time"
        ));
    }
    let status = ["laq", "status", &plan.out.to_string_lossy()].map(String::from);
    writeln!(Output, "`{}` shows how far they are", shell_words(&status))?;
    Ok(())
}

fn list(jobs: &[u64]) -> String {
    let jobs: Vec<String> = jobs.iter().map(|job| format!("job {job}")).collect();
    jobs.join(", ")
}
