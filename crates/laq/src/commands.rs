//! One function a command: calls the library and prints what it says.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use laq_datasets::{DownloadOptions, Split, catalogue, download as fetch, find};
use laq_packed::{Granularity, Plan, QuantizeError, Request, Scales, TensorRecord};
use laq_runner::TRAINING_VERSION;
use laq_runner::config::{self, Experiment};
use laq_runner::doctor::diagnose;
#[cfg(unix)]
use laq_runner::environment::ignores_hang_ups;
use laq_runner::evaluate::{Source, evaluate};
use laq_runner::record::Status;
use laq_runner::train::{Options, train as run_training};
use laq_solvers::families;
use serde::Serialize;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::args::{
    ConfigArgs, DoctorArgs, DownloadArgs, EstimateArgs, EvalArgs, ExperimentArgs, GpuCheckArgs,
    MethodsArgs, OverArgs, QuantizeArgs, SplitName, SummaryArgs, TrainArgs,
};
use crate::progress::{Progress, Transfer, duration, tell};

/// What a shell reports for a program that Ctrl-C stopped.
const INTERRUPTED: u8 = 130;

/// The standard output. Whoever closes it early, as `head` does, has seen enough: what the command does, and its exit
/// code, stay the same.
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match stdout().write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match stdout().flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

/// A flag that Ctrl-C, a plain kill or a hang-up sets; Ctrl-C once it is set ends the process.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    // The order counts: the signal that sets the flag must not find it set.
    flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), stop.clone())?;
    flag::register(SIGINT, stop.clone())?;
    flag::register(SIGTERM, stop.clone())?;
    // Under `nohup` the run outlives its terminal.
    #[cfg(unix)]
    if !ignores_hang_ups() {
        flag::register(signal_hook::consts::SIGHUP, stop.clone())?;
    }
    Ok(stop)
}

/// Refuses a run folder whose `config.toml` is one of the files that describe the experiment: the run would replace it.
fn keep_inputs(args: &ExperimentArgs, run_dir: &Path) -> Result<()> {
    let Ok(replaced) = run_dir.join("config.toml").canonicalize() else {
        return Ok(());
    };
    for input in [&args.config].into_iter().chain(&args.over.overlay) {
        if input.canonicalize().is_ok_and(|input| input == replaced) {
            bail!(
                "the run folder {} is where {} lies, which the run would replace by its own config.toml: use another \
                 --run-dir",
                run_dir.display(),
                input.display()
            );
        }
    }
    Ok(())
}

fn load(config: &Path, over: &OverArgs) -> Result<Experiment> {
    Ok(config::load(config, &over.overlay, &over.set)?)
}

fn experiment(args: &ExperimentArgs) -> Result<Experiment> {
    load(&args.config, &args.over)
}

fn print_json(value: &impl Serialize) -> Result<()> {
    writeln!(Output, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

pub(crate) fn train(args: &TrainArgs) -> Result<ExitCode> {
    let experiment = experiment(&args.experiment)?;
    let name = args.experiment.config.file_stem().unwrap_or_default();
    let run_dir = args
        .run_dir
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(name));
    keep_inputs(&args.experiment, &run_dir)?;
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let options = Options {
        run_dir,
        resume: args.resume,
        threads: args.threads.count(),
        device: args.device.options(),
    };
    let mut progress = Progress::new(args.progress);
    let done = run_training(&experiment, &options, &stop, &mut |event| {
        progress.show(event)
    });
    progress.end();
    let summary = done?;
    let folder = options.run_dir.display();
    if summary.status == Status::Interrupted {
        writeln!(
            Output,
            "interrupted and saved in {folder} after {} steps; go on with: {}",
            summary.steps,
            command_to_resume()
        )?;
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let pair = |validation: Option<f64>, test: Option<f64>| Some((validation?, test?));
    let errors = pair(summary.validation_error, summary.test_error)
        .map(|(validation, test)| format!("validation {validation:.2}, test {test:.2} % errors"));
    let losses = pair(summary.validation_loss, summary.test_loss).map(|(validation, test)| {
        format!("validation {validation:.4}, test {test:.4} nats per character")
    });
    if let (Some(epoch), Some(reached)) = (summary.best_epoch, errors.or(losses)) {
        writeln!(
            Output,
            "finished in {}: {}, best epoch {epoch} of {}, {reached}; {folder}",
            duration(summary.seconds),
            summary.title,
            summary.epochs,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// This command once more, with `--resume`, ready for a shell.
fn command_to_resume() -> String {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if !arguments.iter().any(|argument| argument == "--resume") {
        arguments.push("--resume".into());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    let quoted = |argument: OsString| {
        let argument = argument.to_string_lossy().into_owned();
        if argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    arguments
        .into_iter()
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

pub(crate) fn eval(args: &EvalArgs) -> Result<ExitCode> {
    let source = match &args.text {
        Some(path) => Source::File(path.clone()),
        None => Source::Split {
            split: match args.split {
                SplitName::Train => Split::Train,
                SplitName::Validation => Split::Validation,
                SplitName::Test => Split::Test,
            },
            data_dir: args.data_dir.clone(),
        },
    };
    let found = evaluate(
        &args.path,
        &source,
        args.device.options(),
        args.threads.count(),
        &mut |_, _| {},
    )?;
    if args.json {
        print_json(&found)?;
    } else {
        let what = match found.error {
            Some(error) => format!(
                "{error:.2} % errors on {} ({} images, mean loss {:.4})",
                found.source, found.examples, found.loss
            ),
            None => format!(
                "{:.4} nats per character on {} ({} characters, {} left out)",
                found.loss, found.source, found.examples, found.left_out
            ),
        };
        writeln!(
            Output,
            "{what}, {}, epoch {}, {}",
            found.method,
            found.epochs_done,
            found.checkpoint.display(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn config(args: &ConfigArgs) -> Result<ExitCode> {
    let Some(path) = &args.config else {
        let defaults =
            config::defaults(&args.kind).context("a kind that the arguments let through")?;
        write!(Output, "{defaults}")?;
        return Ok(ExitCode::SUCCESS);
    };
    let experiment = load(path, &args.over)?;
    if args.json {
        print_json(&json!({
            "key": config::key(&experiment),
            "training_version": TRAINING_VERSION,
            "config": experiment,
        }))?;
    } else {
        write!(Output, "{}", toml::to_string(&experiment)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn summary(args: &SummaryArgs) -> Result<ExitCode> {
    let found = laq_runner::summary::summarize(&experiment(&args.experiment)?)?;
    if args.json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = Output;
    writeln!(
        out,
        "{} ({}, {} bits a quantized weight)",
        found.title, found.method, found.bits
    )?;
    let header = [
        "layer",
        "output",
        "quantized",
        "others",
        "f32",
        "packed",
        "operations",
        "kind",
    ];
    let mut rows = vec![header.map(String::from)];
    for layer in found.layers.iter().chain([&found.total]) {
        let sizes: Vec<_> = layer.output.iter().map(ToString::to_string).collect();
        rows.push([
            layer.name.clone(),
            sizes.join("×"),
            layer.quantized_weights.to_string(),
            layer.other_weights.to_string(),
            bytes(layer.f32_bytes),
            bytes(layer.quantized_bytes),
            layer.operations.to_string(),
            layer.kind.clone(),
        ]);
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &rows {
        let [
            name,
            output,
            quantized,
            others,
            float,
            packed,
            operations,
            kind,
        ] = row;
        let [n, o, q, r, f, p, x, _] = widths;
        let line = format!(
            "{name:<n$}  {output:<o$}  {quantized:>q$}  {others:>r$}  {float:>f$}  {packed:>p$}  {operations:>x$}  {kind}"
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes as a reader takes them in.
fn bytes(count: usize) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

pub(crate) fn estimate(args: &EstimateArgs) -> Result<ExitCode> {
    let experiment = experiment(&args.experiment)?;
    let found =
        laq_runner::estimate::estimate(&experiment, args.device.options(), args.threads.count())?;
    if args.json {
        print_json(&found)?;
    } else {
        writeln!(
            Output,
            "{}: about {} for {} steps of {:.3} s ({:.1} % of it quantizing) and the evaluations",
            experiment.title,
            duration(found.seconds),
            found.steps,
            found.seconds_per_step,
            100.0 * found.quantize_share,
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let found = diagnose(&args.data_dir, Path::new("runs"))?;
    if args.json {
        print_json(&found)?;
    } else {
        let gigabytes = |bytes: Option<u64>| {
            bytes.map_or("unknown".into(), |bytes| {
                format!("{:.1} GB", bytes as f64 / 1e9)
            })
        };
        let mut out = Output;
        let environment = &found.environment;
        writeln!(
            out,
            "laq        {} (commit {})",
            environment.laq, environment.commit
        )?;
        writeln!(
            out,
            "processor  {}, {} threads",
            environment.cpu, environment.threads
        )?;
        writeln!(out, "extensions {}", found.features.join(" "))?;
        writeln!(
            out,
            "kernel     {} (LAQ_KERNEL forces another)",
            environment.kernel
        )?;
        for cuda in &found.cuda {
            writeln!(out, "CUDA       {:<8} {}", cuda.name, cuda.state)?;
        }
        writeln!(out, "device     {} (--device takes another)", found.device)?;
        writeln!(out, "memory     {}", gigabytes(found.memory_bytes))?;
        writeln!(
            out,
            "free disk  {} where runs/ goes",
            gigabytes(found.free_disk_bytes)
        )?;
        for file in &found.data {
            let path = file
                .path
                .as_ref()
                .map(|path| format!("  {}", path.display()));
            writeln!(
                out,
                "data       {:<18} {}{}",
                file.dataset,
                file.state,
                path.unwrap_or_default()
            )?;
        }
    }
    if let Some(bad) = found.data.iter().find(|file| file.bad) {
        bail!(
            "{} is {}: `laq download {}` fetches it again",
            bad.path.as_ref().unwrap_or(&PathBuf::new()).display(),
            bad.state,
            bad.dataset
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn gpu_check(args: &GpuCheckArgs) -> Result<ExitCode> {
    let request = laq_runner::gpu_check::Request {
        device: args.device.options(),
        minutes: args.minutes,
        out: args.out.clone(),
        configs: args.configs.clone(),
        data_dir: args.data_dir.clone(),
        python: args.python.clone(),
        small: args.small,
        jobs: args.jobs.map(usize::from),
        program: std::env::current_exe().ok(),
    };
    if let Some(network) = &args.keep_pace {
        let (input, output) = (&mut io::stdin().lock(), &mut io::stdout().lock());
        laq_runner::gpu_check::keep_pace(&request, network, input, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let found = laq_runner::gpu_check::gpu_check(&request, &stop, &mut |line| tell(line))?;
    write!(Output, "{}", found.summary)?;
    let readme = args.out.join("README.md");
    if !found.good {
        bail!(
            "not everything that was checked is right; {} tells what",
            readme.display()
        );
    }
    tell(&format!("{} has the details", readme.display()));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let plan = Plan::new(Request {
        weights: args.weights.clone(),
        curvature: args.curvature.clone(),
        out: args.out.clone(),
        method: laq_packed::method(&args.method, args.bits)?,
        granularity: if args.per_channel {
            Granularity::PerChannel
        } else {
            Granularity::PerTensor
        },
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        threads: args.threads.count(),
    })?;
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let width = plan.names().map(|name| name.chars().count()).max();
    let width = width.unwrap_or_default().max("tensor".len());
    let mut printed = Ok(());
    if !args.json {
        printed = writeln!(
            Output,
            "{:<width$} {:>12} {:>21} {:>14} {:>14} {:>8} {:>4} {:>9}",
            "tensor",
            "weights",
            "scale",
            "weighted error",
            "relative error",
            "sparsity",
            "bits",
            "ms"
        );
    }
    let done = plan.run(&stop, &mut |record| {
        let line = if args.json {
            serde_json::to_string(record).map_err(io::Error::from)
        } else {
            Ok(quantized_line(record, width))
        };
        // A line that cannot be printed keeps no tensor from being quantized; it is told in the end.
        let line = line.and_then(|line| writeln!(Output, "{line}"));
        if printed.is_ok() {
            printed = line;
        }
    });
    let totals = match done {
        Err(error @ QuantizeError::Interrupted { .. }) => {
            tell(&error.to_string());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        done => done?,
    };
    if !args.json {
        let weights = totals.weights.max(1) as f64;
        writeln!(
            Output,
            "{} tensors quantized, {} copied; {} weights, {:.2} bits each before, {:.2} as packed levels with their \
             scales; relative error {}; {}",
            totals.tensors,
            totals.copied,
            totals.weights,
            totals.bits_before / weights,
            totals.bits_after / weights,
            figure(totals.relative_error()),
            args.out.display(),
        )?;
    }
    printed.context("the file is written, but not all of what was to be said about it")?;
    Ok(ExitCode::SUCCESS)
}

/// A row of the table, whose names are `width` characters wide.
fn quantized_line(record: &TensorRecord, width: usize) -> String {
    let scale = match &record.scale {
        Scales::Flat(scales) if scales.len() <= 2 => scales
            .iter()
            .map(|&scale| figure(Some(scale)))
            .collect::<Vec<_>>()
            .join(" "),
        Scales::Flat(scales) => format!("{} channels", scales.len()),
        Scales::Pairs(scales) => format!("{} channels", scales.len()),
    };
    format!(
        "{:<width$} {:>12} {scale:>21} {:>14} {:>14} {:>8.4} {:>4} {:>9.1}",
        record.name,
        record.n,
        figure(Some(record.weighted_error)),
        figure(record.relative_error),
        record.sparsity,
        record.bits,
        record.milliseconds,
    )
}

/// Five digits, or a dash where there is no number.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value == 0.0 || (1e-3..1e4).contains(&value.abs()) => format!("{value:.5}"),
        Some(value) => format!("{value:.4e}"),
    }
}

pub(crate) fn methods(args: &MethodsArgs) -> Result<ExitCode> {
    if args.json {
        let families: Vec<_> = families()
            .iter()
            .map(|family| {
                json!({
                    "id": family.id,
                    "aliases": family.aliases,
                    "bits": family.bits.as_ref().map(|bits| [bits.start(), bits.end()]),
                    "codebook": family.codebook,
                    "scale": family.scale,
                    "solver": family.solver,
                    "source": family.source,
                })
            })
            .collect();
        print_json(&families)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = Output;
    for family in families() {
        let bits = family
            .bits
            .as_ref()
            .map(|bits| format!(", M = {} to {}", bits.start(), bits.end()));
        writeln!(out, "{}{}", family.id, bits.unwrap_or_default())?;
        writeln!(out, "    levels   {}", family.codebook)?;
        writeln!(out, "    scale    {}", family.scale)?;
        writeln!(out, "    solver   {}", family.solver)?;
        if !family.aliases.is_empty() {
            writeln!(out, "    aliases  {}", family.aliases.join(", "))?;
        }
        writeln!(out, "    source   {}", family.source)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn download(args: &DownloadArgs) -> Result<ExitCode> {
    let datasets = match args.names.as_slice() {
        [] => catalogue().iter().collect(),
        names => names
            .iter()
            .map(|name| find(name))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let options = DownloadOptions {
        mirror: args.mirror.clone(),
        ..Default::default()
    };
    let mut failed = Vec::new();
    for dataset in datasets {
        let has_address = dataset.files.iter().all(|file| !file.urls.is_empty());
        if args.names.is_empty() && args.mirror.is_none() && !has_address {
            writeln!(
                Output,
                "{}: left out, because it comes from a --mirror alone",
                dataset.name
            )?;
            continue;
        }
        let mut transfer = Transfer::new();
        let done = fetch(dataset, &args.data_dir, &options, &mut |progress| {
            transfer.show(progress)
        });
        transfer.end();
        // One data set that cannot be had does not keep the others from coming.
        match done {
            Ok(outcome) => writeln!(Output, "{outcome}")?,
            Err(error) => failed.push(error.to_string()),
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\nerror: "));
    }
    Ok(ExitCode::SUCCESS)
}
