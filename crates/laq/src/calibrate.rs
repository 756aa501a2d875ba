//! `laq calibrate`.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use laq_lab::text::{duration, table};
use laq_runner::calibrate::{CalibrateOptions, calibrate as run};
use laq_runner::run_folder::check_out;

use crate::args::CalibrateArgs;
use crate::output::{INTERRUPTED, Output, log, log_error, print, print_json, stop_flag};
use crate::packed::shape;

/// Between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(10);

pub(crate) fn calibrate(args: &CalibrateArgs) -> Result<ExitCode> {
    check_out(&args.out)?;
    let options = CalibrateOptions {
        kind: args.kind.into(),
        batches: args.batches as usize,
        batch: args.batch.map(|batch| batch as usize),
        data_dir: args.data_dir.clone(),
        device: args.device.options(),
        threads: args.threads.count(),
    };
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let (start, mut told) = (Instant::now(), Instant::now());
    let found = run(&args.path, &args.out, &options, &stop, &mut |index, all| {
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            let left = start.elapsed().as_secs_f64() / index.max(1) as f64 * (all - index) as f64;
            log(&format!("batch {index} of {all}, ETA {}", duration(left)));
        }
    })?;
    let Some(found) = found else {
        log_error("interrupted: nothing was written");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if args.json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["tensor", "shape", "mean", "max", "zeros"].map(String::from)];
    rows.extend(found.tensors.iter().map(|tensor| {
        [
            tensor.name.clone(),
            shape(&tensor.shape),
            format!("{:.3e}", tensor.mean),
            format!("{:.3e}", tensor.max),
            format!("{:.1} %", 100.0 * tensor.zeros),
        ]
    }));
    print(&table(rows, |column| column >= 2))?;
    writeln!(
        Output,
        "{}: {} of {} over {} batches of {}; pass it to `laq quantize --curvature`",
        args.out.display(),
        found.kind,
        found.checkpoint.display(),
        found.batches,
        found.batch,
    )?;
    Ok(ExitCode::SUCCESS)
}
