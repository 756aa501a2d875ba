//! One function for each command: calls the library and prints the result.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use laq_datasets::{DownloadOptions, Split, catalogue, download as fetch, find};
use laq_lab::text::{duration, table};
use laq_runner::config::{self, Experiment};
use laq_runner::doctor::diagnose;
use laq_runner::evaluate::{Source, evaluate};
use laq_runner::record::Status;
use laq_runner::train::{Options, train as run_training};
use laq_runner::{RunError, TRAINING_VERSION};
use laq_solvers::{families, formats};
use serde_json::json;

use crate::args::{
    Args, CompletionsArgs, ConfigArgs, DATA_DIR, DoctorArgs, DownloadArgs, EstimateArgs, EvalArgs,
    ExperimentArgs, GpuCheckArgs, ManArgs, MethodsArgs, OverArgs, ProgressStyle, SplitName,
    SummaryArgs, TrainArgs, wrong_arguments,
};
use crate::gpu_check;
use crate::output::{INTERRUPTED, LOCKED, Output, log, print, print_json, shell_words, stop_flag};
use crate::progress::{Progress, Transfer};

/// Refuses a run folder whose `config.toml` is an input of the experiment: the run would overwrite
/// it.
fn keep_inputs(args: &ExperimentArgs, run_dir: &Path) -> Result<()> {
    let Ok(replaced) = run_dir.join("config.toml").canonicalize() else {
        return Ok(());
    };
    for input in config::inputs(&args.config, &args.over.overlay)? {
        if input.canonicalize().is_ok_and(|input| input == replaced) {
            bail!(
                "the run folder {} contains the input {}, which the run would overwrite: use another --run-dir",
                run_dir.display(),
                input.display()
            );
        }
    }
    Ok(())
}

/// The path of the standard input.
const STDIN: &str = "-";

fn load(config: &Path, over: &OverArgs) -> Result<Experiment> {
    if config == Path::new(STDIN) {
        return Ok(read_stdin(over)?.0);
    }
    Ok(config::load(config, &over.overlay, &over.set)?)
}

/// The configuration on the standard input, and whether it ends with a zero byte instead of the input. Then the process
/// that wrote it wants the run to stop when the input ends.
fn read_stdin(over: &OverArgs) -> Result<(Experiment, bool)> {
    if !over.overlay.is_empty() || !over.set.is_empty() {
        let message = "a configuration from the standard input takes no --overlay and no --set";
        return Err(wrong_arguments(message));
    }
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_until(0, &mut bytes);
    read.context("cannot read the standard input")?;
    let is_attended = bytes.pop_if(|byte| *byte == 0).is_some();
    let text = String::from_utf8(bytes).context("cannot read the standard input")?;
    Ok((config::parse(&text, "the standard input")?, is_attended))
}

/// Sets `stop` at the end of the standard input.
fn stop_with_input(stop: Arc<AtomicBool>) {
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stop.store(true, Ordering::Relaxed);
    });
}

pub(crate) fn experiment(args: &ExperimentArgs) -> Result<Experiment> {
    load(&args.config, &args.over)
}

pub(crate) fn train(args: &TrainArgs, quiet: bool) -> Result<ExitCode> {
    let from_stdin = args.experiment.config == Path::new(STDIN);
    let name = args.experiment.config.file_stem().unwrap_or_default();
    let run_dir = match &args.run_dir {
        Some(run_dir) => run_dir.clone(),
        None if from_stdin => {
            let message = "a configuration from the standard input needs --run-dir";
            return Err(wrong_arguments(message));
        }
        None => Path::new("runs").join(name),
    };
    let (experiment, is_attended) = match from_stdin {
        true => read_stdin(&args.experiment.over)?,
        false => (experiment(&args.experiment)?, false),
    };
    if !from_stdin {
        keep_inputs(&args.experiment, &run_dir)?;
    }
    let stop = stop_flag()?;
    if is_attended {
        stop_with_input(stop.clone());
    }
    let options = Options {
        run_dir,
        resume: args.resume,
        threads: args.threads.count(),
        device: args.device.options(),
    };
    let progress = if quiet {
        ProgressStyle::None
    } else {
        args.progress
    };
    let mut progress = Progress::new(progress);
    let done = run_training(&experiment, &options, &stop, &mut |event| {
        progress.show(event)
    });
    progress.end();
    if is_attended && matches!(done, Err(RunError::Locked { .. })) {
        // The process that started this one says so.
        return Ok(ExitCode::from(LOCKED));
    }
    let summary = done?;
    let folder = options.run_dir.display();
    if summary.status == Status::Interrupted {
        let command = if from_stdin {
            String::new()
        } else {
            format!("; resume with: {}", command_to_resume(std::env::args_os()))
        };
        writeln!(
            Output,
            "interrupted and saved in {folder} after {} steps{command}",
            summary.steps
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

/// The command of `words` with `--resume`, ready for a shell.
fn command_to_resume(words: impl Iterator<Item = OsString>) -> String {
    let mut words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let train = words.iter().skip(1).position(|word| word == "train");
    if let Some(train) = train
        && !words.iter().any(|word| word == "--resume")
    {
        words.insert(train + 2, "--resume".into());
    }
    shell_words(&words)
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
    let path = if args.path.is_dir() {
        args.path.join("config.toml")
    } else {
        args.path.clone()
    };
    let found = laq_runner::summary::summarize(&load(&path, &args.over)?)?;
    if args.json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "{} ({}, {} bits a quantized weight, a scale a {})\n",
        found.title, found.method, found.bits, found.granularity
    ))?;
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
    print(&table(rows, |column| (2..7).contains(&column)))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes in a readable unit.
pub(crate) fn bytes(count: usize) -> String {
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
        print(&format!(
            "{}: about {} for {} steps of {:.3} s ({:.1} % of it quantizing) and the evaluations, without {}\n",
            experiment.title,
            duration(found.seconds),
            found.steps,
            found.seconds_per_step,
            100.0 * found.quantize_share,
            found.left_out.join(" and "),
        ))?;
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
        let limit = found.memory_limit.as_deref().unwrap_or("unknown");
        writeln!(out, "memory     {}, {limit}", gigabytes(found.memory_bytes))?;
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
        let mut words = ["laq", "download", bad.dataset].map(String::from).to_vec();
        if args.data_dir != Path::new(DATA_DIR) {
            words.extend(["--data-dir".into(), args.data_dir.display().to_string()]);
        }
        bail!(
            "{} is {}: `{}` fetches it again",
            bad.path.as_ref().unwrap_or(&PathBuf::new()).display(),
            bad.state,
            shell_words(&words)
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn gpu_check(args: &GpuCheckArgs) -> Result<ExitCode> {
    let request = gpu_check::Request {
        device: args.device.options(),
        minutes: args.minutes,
        out: args.out.clone(),
        python: args.python.clone(),
        small: args.small,
        program: std::env::current_exe().ok(),
    };
    if let Some(network) = &args.throughput_worker {
        let (input, output) = (&mut io::stdin().lock(), &mut io::stdout().lock());
        gpu_check::throughput_worker(&request, network, input, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_flag()?;
    let found = gpu_check::gpu_check(&request, &stop, &mut |line| log(line))?;
    write!(Output, "{}", found.summary)?;
    let readme = args.out.join("README.md");
    if !found.good {
        bail!("some checks failed; see {}", readme.display());
    }
    log(&format!("{} has the details", readme.display()));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn methods(args: &MethodsArgs) -> Result<ExitCode> {
    if args.json {
        let families: Vec<_> = families()
            .iter()
            .chain(formats())
            .map(|family| {
                json!({
                    "id": family.id,
                    "aliases": family.aliases,
                    "bits": family.bits.as_ref().map(|bits| [bits.start(), bits.end()]),
                    "codebook": family.codebook,
                    "scale": family.scale,
                    "solver": family.solver,
                    "source": family.source,
                    "block": family.block,
                })
            })
            .collect();
        print_json(&families)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = Output;
    for family in families().iter().chain(formats()) {
        let bits = family
            .bits
            .as_ref()
            .map(|bits| format!(", M = {} to {}", bits.start(), bits.end()));
        writeln!(out, "{}{}", family.id, bits.unwrap_or_default())?;
        writeln!(out, "    levels   {}", family.codebook)?;
        match family.block {
            None => writeln!(out, "    scale    {}", family.scale)?,
            Some(block) => writeln!(out, "    scale    for {block} weights, {}", family.scale)?,
        }
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
        mirror: args.mirror.mirror.clone(),
        ..Default::default()
    };
    let mut failed = Vec::new();
    for dataset in datasets {
        let has_address = dataset.files.iter().all(|file| !file.urls.is_empty());
        if args.names.is_empty() && args.mirror.mirror.is_none() && !has_address {
            writeln!(
                Output,
                "{}: skipped, because it has no address; use --mirror",
                dataset.name
            )?;
            continue;
        }
        let mut transfer = Transfer::new();
        let done = fetch(dataset, &args.data_dir, &options, &mut |progress| {
            transfer.show(progress)
        });
        transfer.end();
        // A data set that cannot be downloaded does not stop the others.
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

pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    clap_complete::generate(args.shell, &mut Args::command(), "laq", &mut Output);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> Result<ExitCode> {
    match &args.out {
        None => clap_mangen::Man::new(Args::command()).render(&mut Output)?,
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(Args::command(), folder))
                .with_context(|| format!("cannot write man pages to {}", folder.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resume_is_an_option_of_train() {
        let command = |words: &str| command_to_resume(words.split(' ').map(OsString::from));
        assert_eq!(
            command("laq -q train --run-dir train -- d.toml"),
            "laq -q train --resume --run-dir train -- d.toml"
        );
        let resumed = "laq train d.toml --resume";
        assert_eq!(command(resumed), resumed);
    }
}
