//! Buffers in host memory.

use ndarray::{ArrayD, IxDyn};

use super::CpuBackend;
use crate::{BackendError, Element, Index, LARGEST_GRADIENT, Memory, check_indices};
use laq_simd::{AlignedBuffer, Isa, multiversion};
use rayon::prelude::*;

/// A dense row-major array in host memory.
#[derive(Clone, Debug)]
pub struct Buffer<E> {
    data: AlignedBuffer<E>,
    shape: Vec<usize>,
    /// The exclusive bound of indices; of no meaning for `f32`.
    bound: usize,
    /// All magnitudes are known to be below [`LARGEST_GRADIENT`].
    bounded: bool,
}

impl<E: Element> Buffer<E> {
    fn zeros(shape: &[usize], bound: usize) -> Self {
        let mut data = AlignedBuffer::new();
        data.resize(shape.iter().product());
        Buffer {
            data,
            shape: shape.to_vec(),
            bound,
            bounded: false,
        }
    }

    /// The elements.
    pub fn as_slice(&self) -> &[E] {
        &self.data.as_slice()[..self.len()]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [E] {
        self.bounded = false;
        let length = self.len();
        &mut self.data.as_mut_slice()[..length]
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether all magnitudes are known to be below [`LARGEST_GRADIENT`], since they were last changed.
    pub(super) fn is_known_bounded(&self) -> bool {
        self.bounded
    }

    /// Keeps what the last change of the elements found. `false` is always right.
    pub(super) fn set_known_bounded(&mut self, bounded: bool) {
        self.bounded = bounded;
    }

    pub(super) fn bound(&self) -> usize {
        self.bound
    }
}

impl<E: Index> Buffer<E> {
    /// The elements, which are all below `bound`.
    ///
    /// # Panics
    /// Where the buffer has a larger bound.
    pub(super) fn indices_below(&self, bound: usize) -> &[E] {
        assert!(
            self.bound <= bound,
            "indices below {} for {bound} items",
            self.bound
        );
        self.as_slice()
    }
}

impl Memory for CpuBackend {
    type Buffer<E: Element> = Buffer<E>;

    fn device_name(&self) -> String {
        format!("cpu ({})", self.isa.name())
    }

    fn zeros(&self, shape: &[usize]) -> Result<Buffer<f32>, BackendError> {
        Ok(Buffer::zeros(shape, 0))
    }

    fn indices<E: Index>(&self, count: usize, bound: usize) -> Result<Buffer<E>, BackendError> {
        assert!(count == 0 || bound > 0, "no index is below 0");
        Ok(Buffer::zeros(&[count], bound))
    }

    fn write<E: Element>(&self, values: &[E], buffer: &mut Buffer<E>) -> Result<(), BackendError> {
        assert_eq!(values.len(), buffer.len());
        self.write_at(values, 0, buffer)
    }

    fn write_at<E: Element>(
        &self,
        values: &[E],
        offset: usize,
        buffer: &mut Buffer<E>,
    ) -> Result<(), BackendError> {
        check_indices(values, buffer.bound)?;
        buffer.as_mut_slice()[offset..offset + values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read<E: Element>(&self, buffer: &Buffer<E>) -> Result<ArrayD<E>, BackendError> {
        let array = ArrayD::from_shape_vec(IxDyn(&buffer.shape), buffer.as_slice().to_vec());
        Ok(array.expect("a buffer has as many elements as its shape"))
    }

    fn first_not_finite(&self, tensor: &Buffer<f32>) -> Result<Option<usize>, BackendError> {
        Ok(first_not_finite(self.isa, tensor.as_slice()))
    }
}

/// Elements per task of an elementwise operation.
pub(super) const CHUNK: usize = 1 << 15;

/// The index of the first NaN or infinity.
fn first_not_finite(isa: Isa, values: &[f32]) -> Option<usize> {
    let chunk = values
        .par_chunks(CHUNK)
        .position_first(|values| !all_below(isa, values, f32::INFINITY))?;
    let start = chunk * CHUNK;
    let offset = values[start..]
        .iter()
        .position(|value| !value.is_finite())?;
    Some(start + offset)
}

/// Whether all magnitudes are below [`LARGEST_GRADIENT`].
pub(super) fn is_bounded(isa: Isa, values: &[f32]) -> bool {
    values
        .par_chunks(CHUNK)
        .all(|values| all_below(isa, values, LARGEST_GRADIENT))
}

multiversion! {
    /// Whether all magnitudes are below `limit`; NaN is above.
    fn all_below(values: &[f32], limit: f32) -> bool {
        let largest = values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
        largest < limit.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_elements_forgets_that_they_are_bounded() {
        let backend = CpuBackend::with_isa(Isa::PORTABLE);
        let mut buffer = backend.zeros(&[3]).unwrap();
        buffer.set_known_bounded(true);
        assert!(buffer.is_known_bounded());
        backend.write_at(&[f32::NAN], 1, &mut buffer).unwrap();
        assert!(!buffer.is_known_bounded());
    }
}
