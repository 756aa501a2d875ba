//! Times networks of packed weights for `cargo xtask bench networks`.
//!
//! Takes the number of repetitions and the files. Prints a JSON array of [`Row`]s. Every repetition runs
//! all networks in turn, on one thread: a language model draws characters, another classifies an image.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use laq_benches::{Failure, end};
use laq_packed::{Activations, Network, PackedFile};
use rayon::ThreadPoolBuilder;
use serde::Serialize;

/// Time of the calls within a repetition.
const REPETITION_SECONDS: f64 = 0.02;

/// One result.
#[derive(Serialize)]
struct Row {
    file: PathBuf,
    program: &'static str,
    /// `character` or `image`.
    unit: &'static str,
    /// Bytes of the file.
    bytes: u64,
    /// Per unit, over the repetitions.
    median_seconds: f64,
    min_seconds: f64,
}

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let repetitions = arguments
        .next()
        .ok_or("expected the number of repetitions")?;
    let repetitions = repetitions.parse::<usize>()?.max(1);
    let networks: Vec<_> = arguments
        .map(|path| Ok((PathBuf::from(&path), Network::open(Path::new(&path))?)))
        .collect::<Result<_, Failure>>()?;
    let pool = ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut timed = Vec::new();
    for (path, network) in &networks {
        timed.push((path, "laq", network.clone()));
        let file = PackedFile::open(path)?;
        if file.names().iter().any(|name| file.is_packed(name)) {
            let mut network = network.clone();
            network.set_activations(Activations::Int8);
            timed.push((path, "laq, 8-bit activations", network));
        }
    }
    let mut candidates = (timed.iter())
        .map(|(path, program, network)| Candidate::new(path, program, network))
        .collect::<Result<Vec<_>, Failure>>()?;
    pool.install(|| {
        for _ in 0..repetitions {
            candidates.iter_mut().for_each(Candidate::time);
        }
    });
    let rows = candidates.into_iter().map(Candidate::finish);
    let rows = rows.collect::<Result<Vec<_>, Failure>>()?;
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}

struct Candidate<'a> {
    path: &'a Path,
    program: &'static str,
    unit: &'static str,
    call: Box<dyn FnMut() + Send + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Candidate<'a> {
    fn new(path: &'a Path, program: &'static str, network: &'a Network) -> Result<Self, Failure> {
        let (unit, call): (_, Box<dyn FnMut() + Send>) = match network {
            Network::CharLstm(network) => {
                let mut sampler = network.sample(&network.alphabet()[..1], 1.0, 1)?;
                let draw = move || {
                    black_box(sampler.draw().expect("finite states"));
                };
                ("character", Box::new(draw))
            }
            Network::Feedforward(network) => {
                let elements: usize = network.input().iter().product();
                let image: Vec<f32> = (0..elements).map(|at| (at % 97) as f32 / 97.0).collect();
                let classify = move || {
                    black_box(network.outputs(&image).expect("an image"));
                };
                ("image", Box::new(classify))
            }
        };
        Ok(Self {
            path,
            program,
            unit,
            call,
            seconds: Vec::new(),
        })
    }

    fn time(&mut self) {
        // The other networks have taken the caches.
        (self.call)();
        let start = Instant::now();
        let mut calls = 0;
        while calls == 0 || start.elapsed().as_secs_f64() < REPETITION_SECONDS {
            (self.call)();
            calls += 1;
        }
        self.seconds
            .push(start.elapsed().as_secs_f64() / f64::from(calls));
    }

    fn finish(mut self) -> Result<Row, Failure> {
        self.seconds.sort_by(f64::total_cmp);
        Ok(Row {
            file: self.path.to_path_buf(),
            program: self.program,
            unit: self.unit,
            bytes: self.path.metadata()?.len(),
            median_seconds: self.seconds[self.seconds.len() / 2],
            min_seconds: self.seconds[0],
        })
    }
}
