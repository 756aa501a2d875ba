//! `laq quantize`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use laq_lab::text::{duration, shown};
use laq_packed::gguf::{Curvature, GgufFile, GgufPlan, GgufQuantizeError, GgufRequest, TargetType};
use laq_packed::{Plan, QuantizeError, Request, Scales, TensorRecord};
use laq_runner::config::{nearest, with_suggestion};
use laq_runner::evaluate::find_checkpoint;
use laq_runner::export::trained_weights;
use laq_runner::run_folder::{check_out, packed_network};
use laq_solvers::super_blocks::SuperBlockFormat;
use laq_solvers::{Granularity, Method, format_ids, format_named};
use serde::Serialize;

use crate::args::{PackingChoice, QuantizeArgs};
use crate::output::{INTERRUPTED, Output, log, log_error, stop_flag, warn_of_suffix};

/// The bits of the method where neither it nor its bits are given.
const DEFAULT_BITS: u8 = 4;

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let Some(model) = args.model() else {
        bail!("found no MODEL, expected the weights to quantize");
    };
    fs::metadata(model).with_context(|| format!("cannot read {}", model.display()))?;
    check_out(&args.out)?;
    // A run that keeps its packed network alone.
    let packed = packed_network(model);
    let model = match find_checkpoint(model) {
        Ok(found) if found == packed => &packed,
        _ => model,
    };
    if GgufFile::is_gguf(model) {
        warn_of_suffix(&args.out, "gguf");
        return quantize_gguf(args, model);
    }
    warn_of_suffix(&args.out, "safetensors");
    let only_gguf = [
        ("--imatrix", args.imatrix.is_some()),
        ("--type", !args.types.is_empty()),
        ("--requantize", args.requantize),
    ];
    if let Some((flag, _)) = only_gguf.iter().find(|(_, is_there)| *is_there) {
        bail!(
            "{flag} is for GGUF, which {} is not; omit it",
            model.display()
        );
    }
    let method = method(args, model)?;
    let folder = args.out.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let trained = trained_weights(model, folder, args.threads.count())?;
    if let Some((checkpoint, _)) = &trained {
        log(&format!(
            "{} is a checkpoint of laq train: its weights are quantized, Adam's moments and the rest are left out",
            checkpoint.display()
        ));
    }
    let request = Request {
        weights: trained
            .as_ref()
            .map_or(model, |(checkpoint, _)| checkpoint)
            .into(),
        curvature: args.curvature.clone(),
        out: args.out.clone(),
        method,
        packing: args.packing.and_then(PackingChoice::packing),
        dequantized: args.dequantized,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        channel_axes: args.channel_axis.clone(),
        threads: args.threads.count(),
    };
    let plan = match trained {
        Some((_, file)) => Plan::of_file(request, file)?,
        None => Plan::new(request)?,
    };
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let width = name_width(plan.names());
    let lines = Lines { is_json: args.json };
    lines.heading(&format!(
        "{:<width$} {:>12} {:>21} {:>14} {:>14} {:>8} {:>4} {:>9}",
        "tensor", "weights", "scale", "weighted error", "relative error", "sparsity", "bits", "ms"
    ))?;
    let mut warnings = Vec::new();
    let done = plan.run(&stop, &mut |record| {
        lines.record(record, || quantized_line(record, width));
        warnings.extend(warnings_of(record));
    });
    let totals = match done {
        Err(error @ QuantizeError::Interrupted { .. }) => {
            log_error(&error.to_string());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        done => done?,
    };
    if !args.json {
        let weights = totals.weights.max(1) as f64;
        writeln!(
            Output,
            "{} tensors quantized, {} copied; {} weights, {:.2} bits each before, {:.2} packed with their scales; relative error {}; {}",
            totals.tensors,
            totals.copied,
            totals.weights,
            totals.bits_before / weights,
            totals.bits_after / weights,
            figure(totals.relative_error()),
            args.out.display(),
        )?;
    }
    for warning in warnings {
        log(&format!("warning: {warning}"));
    }
    if plan.is_sharded() {
        log(&format!(
            "{} has the shards and their index; other files of the model, such as config.json and the tokenizer, are not \
             copied",
            args.out.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines of a table, or of JSON.
struct Lines {
    is_json: bool,
}

impl Lines {
    fn heading(&self, names: &str) -> io::Result<()> {
        match self.is_json {
            true => Ok(()),
            false => writeln!(Output, "{names}"),
        }
    }

    /// A line that cannot be written stops nothing: see [`Output`].
    fn record(&self, record: &impl Serialize, row: impl FnOnce() -> String) {
        let line = match self.is_json {
            true => serde_json::to_string(record).expect("numbers and strings"),
            false => row(),
        };
        let _ = writeln!(Output, "{line}");
    }
}

/// The exact method of a number of bits.
fn exact_method(bits: u8) -> Result<Method> {
    let id = match bits {
        1 => "lab".to_owned(),
        2 => "lat-e".to_owned(),
        3..=8 => format!("laq-linear-{bits}-e"),
        _ => bail!("found --bits {bits}, expected 1 to 8"),
    };
    Ok(laq_packed::method(&id, None)?)
}

/// What a user should know of a result.
fn warnings_of(record: &TensorRecord) -> Vec<String> {
    let mut warnings = Vec::new();
    let rounding = record.rounding_error;
    if let Some(rounding) = rounding.filter(|rounding| record.weighted_error > *rounding) {
        warnings.push(format!(
            "{}: {} ends at the weighted error {}, and rounding with the largest magnitude as the scale has {}; {}-e \
             finds the optimum",
            record.name,
            record.method,
            figure(Some(record.weighted_error)),
            figure(Some(rounding)),
            record.method.trim_end_matches("-a"),
        ));
    }
    if let Some(lost) = &record.lost_channels {
        warnings.push(format!(
            "{}: of {} of the {} channels little is left, relative errors above a half and up to {:.2} (channel {}): give \
             each a scale of its own with --granularity row, or more bits",
            record.name, lost.count, lost.channels, lost.relative_error, lost.worst,
        ));
    }
    warnings
}

fn method(args: &QuantizeArgs, model: &Path) -> Result<Method> {
    let suggested = |error| match error {
        QuantizeError::Method(error) => anyhow!(with_suggestion(&error)),
        error => error.into(),
    };
    if let Some(format) = &args.format {
        if SuperBlockFormat::named(format).is_some() {
            bail!(
                "{format} is a format of GGUF files, which {} is not",
                model.display()
            );
        }
        if format_named(format).is_none() {
            let near = nearest(format, format_ids());
            let near = near.map(|id| format!(" (did you mean {id}?)"));
            bail!(
                "unknown format {format:?}{}, expected one of {}",
                near.unwrap_or_default(),
                format_ids().collect::<Vec<_>>().join(", ")
            );
        }
        return laq_packed::method(format, None).map_err(suggested);
    }
    let method = match &args.method {
        Some(method) => laq_packed::method(method, args.bits).map_err(suggested)?,
        None => exact_method(args.bits.unwrap_or(DEFAULT_BITS))?,
    };
    Ok(match args.granularity {
        Some(Granularity::Gate) => bail!(
            "found --granularity gate, expected tensor, row or block:N: a file does not say what the gates of a layer are"
        ),
        Some(granularity) => method.with_granularity(granularity)?,
        None => method,
    })
}

/// The format of a GGUF file: a type that is solved for.
fn gguf_type(format: &str) -> Result<TargetType> {
    match format.parse() {
        Ok(of) if TargetType::is_solved(of) => Ok(of),
        found => {
            let solved = TargetType::ALL.into_iter().filter(|of| of.is_solved());
            let ids = solved.map(TargetType::id).collect::<Vec<_>>().join(", ");
            let is_rounded = found.is_ok();
            let hint = if is_rounded {
                "; single tensors are rounded to it by --type"
            } else {
                ""
            };
            bail!("unknown format {format:?}, expected one of {ids}{hint}")
        }
    }
}

/// `laq quantize` of a file of llama.cpp.
fn quantize_gguf(args: &QuantizeArgs, model: &Path) -> Result<ExitCode> {
    let Some(format) = &args.format else {
        bail!(
            "{} is a GGUF file, which has formats of its own: give --format instead of --method",
            model.display()
        );
    };
    let only_safetensors = [
        ("--channel-axis", !args.channel_axis.is_empty()),
        ("--packing", args.packing.is_some()),
        ("--dequantized", args.dequantized),
    ];
    if let Some((flag, _)) = only_safetensors.iter().find(|(_, is_there)| *is_there) {
        bail!(
            "{flag} is for safetensors, and {} is GGUF; omit it",
            model.display()
        );
    }
    let curvature = match (&args.imatrix, &args.curvature) {
        (Some(path), _) => Curvature::Importance(path.clone()),
        (None, Some(path)) => Curvature::File(path.clone()),
        (None, None) => Curvature::Squares,
    };
    let is_unweighted = curvature == Curvature::Squares;
    let plan = GgufPlan::new(GgufRequest {
        weights: model.into(),
        of: gguf_type(format)?,
        types: args.types.clone(),
        curvature,
        out: args.out.clone(),
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        requantize: args.requantize,
        threads: args.threads.count(),
    })?;
    let requantized: Vec<String> = plan
        .requantized()
        .map(|tensor| tensor.name.clone())
        .collect();
    if let Some(names) = first_and_others(&requantized) {
        log(&format!(
            "quantized already and decoded: {names}; a model in full precision gives a better one"
        ));
    }
    if let Some(names) = first_and_others(plan.kept()) {
        log(&format!(
            "quantized already and copied: {names}; --requantize quantizes them again"
        ));
    }
    for glob in plan.unused_types() {
        log(&format!(
            "--type {glob} applies to no tensor: what it matches is copied, or matches an earlier --type; --include selects \
             tensors in any type and of any shape"
        ));
    }
    if is_unweighted && plan.solved().next().is_some() {
        log(
            "no --imatrix and no --curvature: errors are weighted by w², as llama.cpp does without an importance matrix; \
             one of llama-imatrix gives better models",
        );
    }
    if let Some(names) = first_and_others(plan.without_importance()) {
        log(&format!(
            "the importance matrix has nothing for {names}: errors there are weighted by w²"
        ));
    }
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let width = name_width(plan.quantized().map(|tensor| tensor.name.as_str()));
    let all: usize = plan.quantized().map(|tensor| tensor.elements()).sum();
    let lines = Lines { is_json: args.json };
    lines.heading(&format!(
        "{:<width$} {:>12} {:>8} {:>8} {:>14} {:>14} {:>6} {:>9} {:>6} {:>8}",
        "tensor",
        "weights",
        "from",
        "format",
        "weighted error",
        "relative error",
        "bits",
        "ms",
        "done",
        "left"
    ))?;
    let (start, mut finished) = (Instant::now(), 0);
    let done = plan.run(&stop, &mut |record| {
        finished += record.n;
        let share = finished as f64 / all.max(1) as f64;
        let left = start.elapsed().as_secs_f64() * (1.0 / share - 1.0);
        lines.record(record, || {
            format!(
                "{:<width$} {:>12} {:>8} {:>8} {:>14} {:>14} {:>6.4} {:>9.1} {:>4.0} % {:>8}",
                shown(&record.name),
                record.n,
                record.from,
                record.method,
                figure(Some(record.weighted_error)),
                figure(record.relative_error),
                record.bits,
                record.milliseconds,
                100.0 * share,
                duration(left),
            )
        });
    });
    let totals = match done {
        Err(error @ GgufQuantizeError::Interrupted { .. }) => {
            log_error(&error.to_string());
            return Ok(ExitCode::from(INTERRUPTED));
        }
        done => done?,
    };
    if !args.json {
        let [before, after] = totals.bytes.map(|bytes| bytes as f64 / 1e6);
        writeln!(
            Output,
            "{} tensors quantized, {} copied; {} weights; {before:.1} MB before, {after:.1} MB after; {}",
            totals.tensors,
            totals.copied,
            totals.weights,
            args.out.display(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The width of the column of names.
fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let widths = names.map(|name| shown(name).chars().count());
    widths.max().unwrap_or_default().max("tensor".len())
}

/// The first name and the number of others; `None` without names.
fn first_and_others(names: &[String]) -> Option<String> {
    let (first, others) = names.split_first()?;
    Some(match others.len() {
        0 => first.clone(),
        count => format!("{first} and {count} others"),
    })
}

/// A row of the table, printed when its tensor is done; the names are `width` characters wide.
fn quantized_line(record: &TensorRecord, width: usize) -> String {
    let scale = match &record.scale {
        Scales::Flat(scales) if scales.len() <= 2 => scales
            .iter()
            .map(|&scale| figure(Some(scale)))
            .collect::<Vec<_>>()
            .join(" "),
        Scales::Flat(scales) => format!("{} rows", scales.len()),
        Scales::Pairs(scales) => format!("{} rows", scales.len()),
        Scales::Blocks { blocks, .. } => format!("{blocks} blocks"),
    };
    format!(
        "{:<width$} {:>12} {scale:>21} {:>14} {:>14} {:>8.4} {:>4} {:>9.1}",
        shown(&record.name),
        record.n,
        figure(Some(record.weighted_error)),
        figure(record.relative_error),
        record.sparsity,
        record.bits,
        record.milliseconds,
    )
}

/// Five digits, or a dash.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value == 0.0 || (1e-3..1e4).contains(&value.abs()) => format!("{value:.5}"),
        Some(value) => format!("{value:.4e}"),
    }
}
