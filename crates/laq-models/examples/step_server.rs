//! Takes one training step of the paper's character LSTM for each line on standard input, and
//! answers with its seconds, so that another program can be timed in turn with this one:
//! `benches/pytorch/lstm_step.py` does so with PyTorch.
//!
//! Arguments: method (default `full`), threads (default: all).

use std::io::{BufRead, Write};

use laq_models::{AdamSettings, Batch, CharLstmSpec, TextShape, Training};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let method = Method::try_from(arguments.next().as_deref().unwrap_or("full"))?;
    let threads = arguments.next().map_or(Ok(0), |threads| threads.parse())?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    pool.install(|| {
        let spec = CharLstmSpec::paper(87);
        let shape = TextShape {
            length: 100,
            batch: 100,
        };
        let adam = AdamSettings::default();
        let mut training = Training::char_lstm(CpuBackend::new()?, &spec, shape, &method, adam, 1)?;
        let symbols: Vec<u8> = (0..10_001u32).map(|i| (i * i % 87) as u8).collect();
        for line in std::io::stdin().lock().lines() {
            line?;
            let report = training.step(Batch::text(&symbols[..10_000], &symbols[1..]), 0.002)?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{} {}", report.seconds, report.quantize_seconds)?;
            out.flush()?;
        }
        Ok(())
    })
}
