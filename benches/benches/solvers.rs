//! Every method on one matrix of the paper's LSTM: 512 × 512 weights with a spread of curvatures.
//!
//! `cold` starts from nothing; `warm` starts from the answer to slightly other weights, as in training.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use laq_solvers::{Method, Problem, Workspace};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const WEIGHTS: usize = 512 * 512;

const METHODS: [&str; 15] = [
    "binary-connect",
    "bwn",
    "lab",
    "twn",
    "lat-e",
    "lat-a",
    "ttq",
    "lat2-e",
    "lat2-a",
    "dorefa-3",
    "laq-linear-3",
    "laq-log-3",
    "dorefa-4",
    "laq-linear-4",
    "laq-log-4",
];

/// Sums of uniform numbers, near enough to normal ones.
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let sum: f64 = (0..12)
        .map(|_| f64::from(random.next_u32()) / 2f64.powi(32))
        .sum();
    (sum - 6.0) as f32
}

fn solvers(criterion: &mut Criterion) {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let weights: Vec<f32> = (0..WEIGHTS).map(|_| 0.1 * normal(&mut random)).collect();
    let moved: Vec<f32> = weights
        .iter()
        .map(|w| w + 1e-4 * normal(&mut random))
        .collect();
    let curvature: Vec<f32> = (0..WEIGHTS).map(|_| normal(&mut random).exp()).collect();
    let before = Problem::new(&weights, Some(&curvature)).unwrap();
    let problem = Problem::new(&moved, Some(&curvature)).unwrap();
    let mut group = criterion.benchmark_group("solve 512x512");
    group.throughput(Throughput::Elements(WEIGHTS as u64));
    for id in METHODS {
        let method = Method::try_from(id).unwrap();
        let solver = method.quantizer().unwrap();
        let mut workspace = Workspace::default();
        let mut start = vec![0i8; WEIGHTS];
        let scale = solver
            .solve(before, None, &mut start, &mut workspace)
            .unwrap()
            .scale;
        for (label, previous) in [("cold", None), ("warm", Some(scale))] {
            group.bench_function(format!("{id}/{label}"), |bencher| {
                bencher.iter_batched_ref(
                    || start.clone(),
                    |levels| {
                        solver
                            .solve(problem, previous, levels, &mut workspace)
                            .unwrap()
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, solvers);
criterion_main!(benches);
