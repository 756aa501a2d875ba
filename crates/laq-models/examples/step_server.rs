//! Takes one training step of a network of the paper for each line on standard input, and answers
//! with its seconds, so that another program can be timed in turn with this one: the scripts in
//! `benches/pytorch` do so with PyTorch.
//!
//! Arguments: method (default `full`), threads (default: all), network (`char-lstm`, the default,
//! `mnist` or `cifar10`).

use std::io::{BufRead, Write};

use laq_models::{AdamSettings, Batch, CharLstmSpec, FeedforwardSpec, TextShape, Training};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let method = Method::try_from(arguments.next().as_deref().unwrap_or("full"))?;
    let threads = arguments.next().map_or(Ok(0), |threads| threads.parse())?;
    let network = arguments.next().unwrap_or("char-lstm".into());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?;
    pool.install(|| match network.as_str() {
        "char-lstm" => char_lstm(&method),
        "mnist" => feedforward(&method, &FeedforwardSpec::mnist(), 100),
        "cifar10" => feedforward(&method, &FeedforwardSpec::cifar10(), 50),
        other => Err(format!(
            "there is no network {other}: char-lstm, mnist and cifar10 are known"
        )
        .into()),
    })
}

fn char_lstm(method: &Method) -> Result<(), Failure> {
    let spec = CharLstmSpec::paper(87);
    let shape = TextShape {
        length: 100,
        batch: 100,
    };
    let adam = AdamSettings::default();
    let training = Training::char_lstm(CpuBackend::new()?, &spec, shape, method, adam, 1)?;
    let symbols: Vec<u8> = (0..10_001u32).map(|i| (i * i % 87) as u8).collect();
    serve(training, Batch::text(&symbols[..10_000], &symbols[1..]))
}

fn feedforward(method: &Method, spec: &FeedforwardSpec, images: usize) -> Result<(), Failure> {
    let adam = AdamSettings::default();
    let training = Training::feedforward(CpuBackend::new()?, spec, images, method, adam, 1)?;
    let labels: Vec<u8> = (0..images).map(|i| (i % spec.classes) as u8).collect();
    let mut state = 1u32;
    let random = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let pixels: Vec<f32> = (0..images * spec.input.elements()).map(random).collect();
    serve(training, Batch::images(&pixels, &labels))
}

fn serve(mut training: Training<CpuBackend>, batch: Batch<'_>) -> Result<(), Failure> {
    for line in std::io::stdin().lock().lines() {
        line?;
        let report = training.step(batch, 0.002)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{} {}", report.seconds, report.quantize_seconds)?;
        out.flush()?;
    }
    Ok(())
}
