//! A slice that several threads write at disjoint positions.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice shared by threads that access disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`; callers of `part` promise that parts do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            lifetime: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the part is in use, no other reference or thread accesses any of its elements.
    #[allow(clippy::mut_from_ref, reason = "callers promise disjoint parts")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: within the slice by the assertion; not aliased by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start)
        }
    }

    /// The address of element `index` or one past the end, for kernels that address rows by a
    /// stride.
    pub(crate) fn address(&self, index: usize) -> *mut T {
        assert!(index <= self.length);
        // SAFETY: within the slice or one past its end.
        unsafe { self.start.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn threads_write_disjoint_parts() {
        let mut values = vec![0usize; 64];
        let shared = Shared::new(&mut values);
        (0..16).into_par_iter().for_each(|block| {
            // SAFETY: the parts of the blocks do not overlap.
            let part = unsafe { shared.part(4 * block..4 * block + 3) };
            part.fill(block);
            // SAFETY: the element is in no part, and each block writes its own.
            unsafe { *shared.address(4 * block + 3) = 100 + block };
        });
        for (block, values) in values.chunks_exact(4).enumerate() {
            assert_eq!(values, [block, block, block, 100 + block]);
        }
    }

    #[test]
    #[should_panic]
    fn a_part_past_the_end_panics() {
        let mut values = [0u8; 4];
        let shared = Shared::new(&mut values);
        // SAFETY: there is no other part.
        let _ = unsafe { shared.part(2..5) };
    }
}
