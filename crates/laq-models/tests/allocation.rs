//! A training step allocates nothing once it has been taken a few times.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use laq_models::{AdamSettings, Batch, CharLstmSpec, TextShape, Training};
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
        let counted = pool.install(|| {
            let spec = CharLstmSpec {
                hidden: 70,
                ..CharLstmSpec::paper(40)
            };
            let shape = TextShape {
                length: 9,
                batch: 21,
            };
            let method = Method::try_from(id).unwrap();
            let adam = AdamSettings::default();
            let backend = CpuBackend::new().unwrap();
            let mut training =
                Training::char_lstm(backend, &spec, shape, &method, adam, 1).unwrap();
            let symbols: Vec<u8> = (0..190u32).map(|i| (i * i % 40) as u8).collect();
            let mut step = || {
                training
                    .step(Batch::text(&symbols[..189], &symbols[1..]), 0.002)
                    .unwrap()
            };
            // With several threads it takes a while until each has met every kind of work and
            // made its scratch memory.
            for _ in 0..200 {
                step();
            }
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..10 {
                step();
            }
            ALLOCATIONS.load(Ordering::Relaxed) - before
        });
        assert_eq!(counted, 0, "{id} on {threads} threads");
    }
}
