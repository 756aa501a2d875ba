//! Scratch and threads of products.

use std::cell::RefCell;

use laq_simd::AlignedBuffer;
use rayon::prelude::*;

thread_local! {
    /// Buffers that no product uses at the moment.
    static FREE: RefCell<Vec<AlignedBuffer<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with a scratch buffer of the thread; its contents are unspecified.
#[inline]
pub(crate) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = work(buffer.resize(length));
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// Runs the tasks, with `parallel` on the threads of the current rayon pool.
pub(crate) fn for_each<T: Send>(
    tasks: impl Iterator<Item = T>,
    parallel: bool,
    work: impl Fn(T) + Sync,
) {
    if parallel {
        let tasks: Vec<T> = tasks.collect();
        tasks.into_par_iter().for_each(&work);
    } else {
        tasks.for_each(work);
    }
}
