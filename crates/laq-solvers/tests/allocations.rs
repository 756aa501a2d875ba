//! No method allocates once its workspace has grown.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use laq_solvers::{Method, Problem, Workspace};

/// The system allocator with a counter of calls per thread.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is forwarded to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_second_solve_allocates_nothing() {
    let weights: Vec<f32> = (0..100_000).map(|i| (i as f32 * 0.37).sin()).collect();
    let curvature: Vec<f32> = (0..100_000)
        .map(|i| 1.5 + (i as f32 * 0.11).cos())
        .collect();
    let mut levels = vec![0; weights.len()];
    let mut quantized = vec![0.0; weights.len()];
    for method in Method::all() {
        let Some(quantizer) = method.quantizer() else {
            continue;
        };
        // A sample of the numbers of bits.
        if method.bits().is_some_and(|bits| ![3, 4, 8].contains(&bits)) {
            continue;
        }
        let mut workspace = Workspace::default();
        let mut previous = None;
        for step in 0..3 {
            let before = CALLS.get();
            let problem = Problem::new(&weights, Some(&curvature)).unwrap();
            let solution = quantizer
                .solve(problem, previous, &mut levels, &mut workspace)
                .unwrap();
            previous = Some(solution.scale);
            quantizer
                .codebook()
                .decode(&levels, solution.scale, &mut quantized);
            let _ = quantizer.scale_gradient(&levels, &quantized);
            quantizer.latent_gradient(&weights, solution.scale, &levels, &mut quantized);
            let calls = CALLS.get() - before;
            assert!(
                step == 0 || calls == 0,
                "{method}: {calls} allocations in step {step}"
            );
        }
    }
    // The first step of an exact method allocates its workspace.
    assert!(CALLS.get() > 0);
}
