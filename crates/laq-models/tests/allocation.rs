//! A training step allocates nothing once it has been taken a few times.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use laq_models::{AdamSettings, Batch, CharLstmSpec, FeedforwardSpec, TextShape, Training};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of ten steps after a warm-up that fills the scratch memory of every thread.
fn allocations(mut step: impl FnMut()) -> usize {
    for _ in 0..200 {
        step();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..10 {
        step();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_step_allocates_nothing() {
    for (threads, id) in [
        (1, "full"),
        (1, "lat-a"),
        (1, "lat-e"),
        (1, "lat2-a"),
        (1, "lat2-e"),
        (1, "ttq"),
        (1, "lab"),
        (1, "dorefa-3"),
        (1, "laq-linear-4"),
        (1, "laq-log-3"),
        (2, "lat-a"),
    ] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let method = Method::try_from(id).unwrap();
        let adam = AdamSettings::default();
        let text = pool.install(|| {
            let spec = CharLstmSpec {
                hidden: 70,
                ..CharLstmSpec::paper(40)
            };
            let shape = TextShape {
                length: 9,
                batch: 21,
            };
            let backend = CpuBackend::new().unwrap();
            let mut training =
                Training::char_lstm(backend, &spec, shape, &method, adam, 1).unwrap();
            let symbols: Vec<u8> = (0..190u32).map(|i| (i * i % 40) as u8).collect();
            let batch = Batch::text(&symbols[..189], &symbols[1..]);
            allocations(|| {
                training.step(batch, 0.002).unwrap();
            })
        });
        assert_eq!(text, 0, "language model, {id} on {threads} threads");
        let images = pool.install(|| {
            let spec = FeedforwardSpec {
                filters: vec![8, 12],
                units: vec![40],
                ..FeedforwardSpec::cifar10()
            };
            let backend = CpuBackend::new().unwrap();
            let mut training = Training::feedforward(backend, &spec, 5, &method, adam, 1).unwrap();
            let pixels: Vec<f32> = (0..5 * 3072u32)
                .map(|i| (i * i % 97) as f32 / 48.0 - 1.0)
                .collect();
            let batch = Batch::images(&pixels, &[3, 1, 4, 1, 5]);
            allocations(|| {
                training.step(batch, 0.002).unwrap();
            })
        });
        assert_eq!(images, 0, "network on images, {id} on {threads} threads");
    }
}
