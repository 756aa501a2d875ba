//! `laq train --profile`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use laq_lab::text::table;
use laq_runner::device::DeviceChoice;
use laq_runner::profile::{Profile, ProfilePart};

use crate::args::TrainArgs;
use crate::commands::experiment;
use crate::output::{print, print_json};

pub(crate) fn profile(args: &TrainArgs, steps: u64) -> Result<ExitCode> {
    if let choice @ DeviceChoice::Cuda(_) = args.device.options().choice {
        bail!(
            "--profile times the parts of a step on the CPU, found --device {choice}: leave it out, or use `laq gpu-check`"
        );
    }
    let experiment = experiment(&args.experiment)?;
    let found = laq_runner::profile::profile(&experiment, args.threads.count(), steps)?;
    if args.json {
        print_json(&found)?;
    } else {
        print(&text(&experiment.title, &found))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(title: &str, found: &Profile) -> String {
    let mut rows = vec![["layer", "part", "ms", "of step", "speed", "of limit"].map(str::to_owned)];
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for part in &found.parts {
        rows.push([
            part.layer.clone(),
            part.kind.clone(),
            format!("{:.3}", 1e3 * part.seconds),
            percent(part.seconds / found.seconds_per_step),
            speed(part),
            percent(part.share_of_limit),
        ]);
    }
    let parts: f64 = found.parts.iter().map(|part| part.seconds).sum();
    let rest = found.seconds_per_step - parts;
    for (name, seconds) in [("rest", rest), ("step", found.seconds_per_step)] {
        rows.push([
            name.into(),
            String::new(),
            format!("{:.3}", 1e3 * seconds),
            percent(seconds / found.seconds_per_step),
            String::new(),
            String::new(),
        ]);
    }
    let mut text = format!(
        "{title}: mean of {} steps on {} threads of {} ({}), commit {}\n\n{}\n",
        found.steps,
        found.threads,
        found.cpu,
        found.kernel,
        found.commit,
        table(rows, |column| column >= 2)
    );
    text += &format!(
        "limits, measured: {:.0} GFLOP/s (the product's innermost loop), {:.1} GB/s (memory in no cache)\n",
        1e-9 * found.operations_per_second,
        1e-9 * found.bytes_per_second
    );
    if found.notes.iter().any(|note| note.contains("Winograd")) {
        text += "GFLOP/s count the direct sum; Winograd's convolutions need a quarter of its multiplications.\n";
    }
    for note in &found.notes {
        text += &format!("{note}\n");
    }
    text
}

/// Of products in GFLOP/s, of everything else in GB/s.
fn speed(part: &ProfilePart) -> String {
    let per_second = |count: f64| 1e-9 * count / part.seconds;
    match (part.operations, part.bytes) {
        (Some(operations), _) => format!("{:.1} GFLOP/s", per_second(operations)),
        (None, Some(bytes)) => format!("{:.1} GB/s", per_second(bytes)),
        (None, None) => String::new(),
    }
}
