//! One training step of the paper's character LSTM: 512 cells, 87 symbols, 100 steps, batch 100.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use laq_models::{AdamSettings, Batch, CharLstmSpec, TextShape, Training};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

fn training_step(criterion: &mut Criterion) {
    let symbols: Vec<u8> = (0..10_001u32).map(|i| (i * i % 87) as u8).collect();
    let mut group = criterion.benchmark_group("training step of the character LSTM");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(10));
    for id in ["full", "lat-a", "lat-e", "laq-linear-3"] {
        let method = Method::try_from(id).unwrap();
        let mut training = Training::char_lstm(
            CpuBackend::new().unwrap(),
            &CharLstmSpec::paper(87),
            TextShape {
                length: 100,
                batch: 100,
            },
            &method,
            AdamSettings::default(),
            1,
        )
        .unwrap();
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                training
                    .step(Batch::text(&symbols[..10_000], &symbols[1..]), 0.002)
                    .unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, training_step);
criterion_main!(benches);
