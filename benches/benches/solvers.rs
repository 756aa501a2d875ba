//! Every method on a matrix of the paper's LSTM (512 × 512 weights with log-normal curvature), and
//! the solvers of each codebook on 1024 to 16 million weights.
//!
//! `cold` is a cold start; `warm` starts from the solution for slightly different weights, as in
//! training. `cargo xtask bench solvers` compares the solvers in one run.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use laq_benches::{Data, alternating_of};
use laq_solvers::{Method, Problem, Workspace, exact_by_sorting};

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

const EXACT: [&str; 5] = [
    "lat-e",
    "laq-linear-3-e",
    "laq-linear-4-e",
    "laq-log-3-e",
    "laq-log-4-e",
];

const SIZES: [usize; 4] = [1 << 10, 1 << 16, 1 << 20, 1 << 24];

/// Sorting more takes seconds, and ten samples a minute.
const MAX_SORTED: usize = 1 << 20;

fn methods(criterion: &mut Criterion) {
    let data = Data::new(WEIGHTS);
    let before = Problem::new(&data.before, Some(&data.curvature)).unwrap();
    let problem = Problem::new(&data.weights, Some(&data.curvature)).unwrap();
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

fn sizes(criterion: &mut Criterion) {
    for size in SIZES {
        let data = Data::new(size);
        let problem = Problem::new(&data.weights, Some(&data.curvature)).unwrap();
        let mut levels = vec![0i8; size];
        let mut workspace = Workspace::default();
        let mut group = criterion.benchmark_group(format!("solve {size}"));
        group
            .throughput(Throughput::Elements(size as u64))
            .sample_size(if size < MAX_SORTED { 100 } else { 10 })
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        for id in EXACT {
            let exact = Method::try_from(id).unwrap();
            let alternating = alternating_of(id).unwrap();
            for method in [&exact, &alternating] {
                let solver = method.quantizer().unwrap();
                group.bench_function(format!("{method}"), |bencher| {
                    bencher.iter(|| {
                        solver
                            .solve(problem, None, &mut levels, &mut workspace)
                            .unwrap()
                    });
                });
            }
            let codebook = exact.quantizer().unwrap().codebook();
            if size <= MAX_SORTED {
                group.bench_function(format!("{id}/by sorting"), |bencher| {
                    bencher.iter(|| {
                        exact_by_sorting(problem, codebook, &mut levels, &mut workspace).unwrap()
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, methods, sizes);
criterion_main!(benches);
