//! One slice written by several threads at once, each in its own place.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that may be handed to many threads, as long as they write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` in parts; who takes a part promises that nobody else has it.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            life: PhantomData,
        }
    }

    /// # Safety
    /// While the part is in use, nobody else reads or writes any of it.
    #[allow(
        clippy::mut_from_ref,
        reason = "handing out disjoint parts is its purpose"
    )]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: within the slice by the line above; alone by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start)
        }
    }

    /// The address of element `index`, for kernels that address rows by a stride.
    pub(crate) fn address(&self, index: usize) -> *mut T {
        assert!(index <= self.length);
        // SAFETY: within the slice or one past its end.
        unsafe { self.start.add(index) }
    }
}
