//! `laq quantize`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use laq_packed::{Plan, QuantizeError, Request, Scales, TensorRecord};
use laq_runner::config::{nearest, with_suggestion};
use laq_solvers::{Method, formats};

use crate::args::QuantizeArgs;
use crate::output::{INTERRUPTED, Output, log_error, stop_flag};

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let method = method(args)?;
    let plan = Plan::new(Request {
        weights: args.weights.clone(),
        curvature: args.curvature.clone(),
        out: args.out.clone(),
        method,
        packing: args.packing.packing(),
        dequantized: args.dequantized,
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
        // A line that cannot be printed stops nothing; the error is reported at the end.
        let line = line.and_then(|line| writeln!(Output, "{line}"));
        if printed.is_ok() {
            printed = line;
        }
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
    printed.context("the file is written, but its table could not be printed")?;
    Ok(ExitCode::SUCCESS)
}

fn method(args: &QuantizeArgs) -> Result<Method> {
    let suggested = |error| match error {
        QuantizeError::Method(error) => anyhow!(with_suggestion(&error)),
        error => error.into(),
    };
    match (&args.method, &args.format) {
        (_, Some(format)) => {
            let ids = formats().iter().map(|format| format.id);
            if !ids.clone().any(|id| id.eq_ignore_ascii_case(format)) {
                let near = nearest(format, ids.clone());
                let near = near
                    .map(|id| format!(" (did you mean {id}?)"))
                    .unwrap_or_default();
                let ids: Vec<_> = ids.collect();
                bail!(
                    "unknown format {format:?}{near}, expected one of {}",
                    ids.join(", ")
                );
            }
            laq_packed::method(format, None).map_err(suggested)
        }
        (Some(method), None) => {
            let method = laq_packed::method(method, args.bits).map_err(suggested)?;
            Ok(match args.granularity {
                Some(granularity) => method.with_granularity(granularity)?,
                None => method,
            })
        }
        (None, None) => bail!("found neither --method nor --format, expected one of them"),
    }
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
        record.name,
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
