//! Scratch and threads of products without the standard library: a new buffer for each product, and
//! one thread.

use laq_simd::AlignedBuffer;

/// Runs `work` with a scratch buffer.
pub(crate) fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    work(AlignedBuffer::new().resize(length))
}

/// Runs the tasks one by one.
pub(crate) fn for_each<T>(tasks: impl Iterator<Item = T>, _parallel: bool, work: impl Fn(T)) {
    tasks.for_each(work);
}
