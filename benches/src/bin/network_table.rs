//! Times networks of packed weights for `cargo xtask bench networks`.
//!
//! Takes the number of repetitions and the files. Prints a JSON array of [`Row`]s. Every repetition runs
//! all networks in turn, on one thread: a language model draws characters, another classifies an image.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use laq_benches::{Candidate, Failure, end};
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
        timed.push((path.as_path(), "laq", network.clone()));
        let file = PackedFile::open(path)?;
        if file.names().iter().any(|name| file.is_packed(name)) {
            let mut network = network.clone();
            network.set_activations(Activations::Int8);
            timed.push((path.as_path(), "laq, 8-bit activations", network));
        }
    }
    let rows = pool.install(|| time(&timed, repetitions))?;
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}

/// The path of a network, what runs it, and the network.
type Timed<'a> = (&'a Path, &'static str, Network);

fn time(networks: &[Timed<'_>], repetitions: usize) -> Result<Vec<Row>, Failure> {
    let mut candidates = (networks.iter())
        .map(|(_, _, network)| candidate(network))
        .collect::<Result<Vec<_>, Failure>>()?;
    for _ in 0..repetitions {
        (candidates.iter_mut()).for_each(|(_, candidate)| candidate.time());
    }
    (networks.iter().zip(candidates))
        .map(|((path, program, _), (unit, candidate))| {
            let (median_seconds, min_seconds) = candidate.median_and_minimum();
            Ok(Row {
                file: path.to_path_buf(),
                program,
                unit,
                bytes: path.metadata()?.len(),
                median_seconds,
                min_seconds,
            })
        })
        .collect()
}

/// One unit of a network.
fn candidate(network: &Network) -> Result<(&'static str, Candidate<'_>), Failure> {
    Ok(match network {
        Network::CharLstm(network) => {
            let mut sampler = network.sample(&network.alphabet()[..1], 1.0, 1)?;
            let draw = move || {
                black_box(sampler.draw().expect("finite states"));
            };
            ("character", Candidate::new(REPETITION_SECONDS, draw))
        }
        Network::Feedforward(network) => {
            let elements: usize = network.input().iter().product();
            let image: Vec<f32> = (0..elements).map(|at| (at % 97) as f32 / 97.0).collect();
            let classify = move || {
                black_box(network.outputs(&image).expect("an image"));
            };
            ("image", Candidate::new(REPETITION_SECONDS, classify))
        }
    })
}
