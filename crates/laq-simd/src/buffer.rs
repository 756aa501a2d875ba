//! Buffers aligned to a cache line.

use alloc::vec::Vec;
use core::marker::PhantomData;

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

const LINE: usize = 64;

#[derive(Clone, Copy, Debug, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// A growable buffer whose first element is aligned to 64 bytes. `T` has a size that divides 64.
///
/// ```
/// let mut buffer = laq_simd::AlignedBuffer::<f32>::default();
/// let slice = buffer.resize(100);
/// assert_eq!((slice.len(), slice.as_ptr() as usize % 64), (100, 0));
/// ```
#[derive(Clone, Debug)]
pub struct AlignedBuffer<T> {
    lines: Vec<Line>,
    element: PhantomData<T>,
}

impl<T> AlignedBuffer<T> {
    /// A buffer without elements. Does not allocate.
    pub const fn new() -> Self {
        const { assert!(size_of::<T>() > 0 && LINE.is_multiple_of(size_of::<T>())) };
        Self {
            lines: Vec::new(),
            element: PhantomData,
        }
    }
}

impl<T: NoUninit + AnyBitPattern> AlignedBuffer<T> {
    /// The first `length` elements. Grows the buffer if it is shorter, never shrinks it. New
    /// elements are zero, others keep their value.
    pub fn resize(&mut self, length: usize) -> &mut [T] {
        let lines = length.div_ceil(LINE / size_of::<T>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; LINE]));
        }
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..length]
    }

    /// All elements, also those that fill the last line.
    pub fn as_slice(&self) -> &[T] {
        bytemuck::cast_slice(&self.lines)
    }

    /// As [`as_slice`](Self::as_slice).
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

impl<T> Default for AlignedBuffer<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_kept_when_the_buffer_grows() {
        let mut buffer = AlignedBuffer::<f32>::new();
        buffer.resize(20).fill(3.0);
        assert_eq!(buffer.resize(5), [3.0; 5]);
        let grown = buffer.resize(1000);
        assert_eq!(grown[..20], [3.0; 20]);
        assert_eq!(grown[32..], [0.0; 968]);
        assert_eq!(grown.as_ptr() as usize % LINE, 0);
    }
}
