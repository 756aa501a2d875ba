//! `laq inspect`: what a file of weights has.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use laq_lab::text::{shown, table};
use laq_packed::onnx::OnnxHeader;
use laq_packed::{FileSummary, Level, TensorSummary};

use crate::args::InspectArgs;
use crate::commands::bytes;
use crate::output::{Output, print, print_json};
use crate::packed::shape;

/// The most levels that a row of the table has, and the most scales and zero points.
const MAX_LEVELS: usize = 16;
const MAX_SCALES: usize = 4;

pub(crate) fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let summary = laq_packed::inspect(&args.file)?;
    if args.json {
        print_json(&summary)?;
    } else {
        print_summary(&summary)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_summary(summary: &FileSummary) -> Result<()> {
    if let Some(onnx) = &summary.onnx {
        print(&format!("{}\n", model(onnx)))?;
    }
    let header = [
        "tensor",
        "shape",
        "elements",
        "bits",
        "bytes",
        "zeros",
        "scales",
        "zero points",
        "levels",
    ];
    let mut rows = vec![header.map(String::from)];
    rows.extend(summary.tensors.iter().map(row));
    // Few files have all columns.
    let used: Vec<usize> = (0..header.len())
        .filter(|column| *column < 5 || rows[1..].iter().any(|row| !row[*column].is_empty()))
        .collect();
    let rows = rows
        .iter()
        .map(|row| used.iter().map(|column| &row[*column]));
    print(&table(rows, |column| (3..6).contains(&used[column])))?;
    writeln!(
        Output,
        "{} ({})",
        summary.file.display(),
        bytes(summary.bytes as usize)
    )?;
    Ok(())
}

/// What an ONNX model says of itself, in one line; of its metadata only the keys.
fn model(onnx: &OnnxHeader) -> String {
    let operators = onnx.opsets.iter();
    let operators: Vec<_> = operators
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let metadata: Vec<_> = onnx.metadata.keys().cloned().collect();
    let mut line = format!("ONNX, IR version {}", onnx.ir_version);
    for (what, text) in [
        ("operators", operators.join(", ")),
        ("producer", onnx.producer.clone()),
        ("metadata", metadata.join(", ")),
    ] {
        if !text.is_empty() {
            line += &format!("; {what}: {text}");
        }
    }
    line
}

fn row(tensor: &TensorSummary) -> [String; 9] {
    let quantization = tensor.quantization.as_ref();
    let sparsity = quantization.and_then(|quantization| quantization.sparsity);
    [
        shown(&tensor.name),
        shape(&tensor.shape),
        tensor.dtype.clone(),
        tensor.bits.map_or(String::new(), |bits| bits.to_string()),
        match &tensor.external {
            Some(file) => format!("{} in {file}", bytes(tensor.bytes)),
            None => bytes(tensor.bytes),
        },
        sparsity.map_or(String::new(), |share| format!("{:.1} %", 100.0 * share)),
        quantization.map_or(String::new(), |q| {
            first(&q.scales, |scale| format!("{scale:.4}"))
        }),
        quantization.map_or(String::new(), |q| first(&q.zero_points, i32::to_string)),
        quantization.map_or(String::new(), |q| levels(&q.levels)),
    ]
}

/// The first values and, if these are not all, their number.
fn first<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
    let shown: Vec<_> = values.iter().take(MAX_SCALES).map(text).collect();
    let more = match values.len() {
        0..=MAX_SCALES => String::new(),
        count => format!(" … ({count})"),
    };
    shown.join(" ") + &more
}

/// The shares of the levels, or the range of many.
fn levels(levels: &[Level]) -> String {
    if let ([first, .., last], true) = (levels, levels.len() > MAX_LEVELS) {
        let (count, first, last) = (levels.len(), first.multiplier, last.multiplier);
        return format!("{count} levels, {first:?} to {last:?}");
    }
    let shares = levels.iter();
    let shares: Vec<_> = shares
        .map(|level| format!("{:?}: {:.1} %", level.multiplier, 100.0 * level.share))
        .collect();
    shares.join(", ")
}
