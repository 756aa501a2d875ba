//! Buffers in the device's memory.

use std::fmt::Debug;

use ndarray::ArrayD;

use crate::BackendError;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
    impl Sealed for u32 {}
}

/// An element of a buffer: `f32`, `u8` or `u32`.
pub trait Element: bytemuck::Pod + Debug + PartialEq + Send + Sync + sealed::Sealed {
    /// The value as an index; `None` for `f32`.
    fn index(self) -> Option<usize>;
}

/// An element that indexes: `u8` for tokens, classes and window positions, `u32` for examples.
pub trait Index: Element {}

impl Element for f32 {
    fn index(self) -> Option<usize> {
        None
    }
}

impl Element for u8 {
    fn index(self) -> Option<usize> {
        Some(self.into())
    }
}

impl Element for u32 {
    fn index(self) -> Option<usize> {
        Some(self as usize)
    }
}

impl Index for u8 {}
impl Index for u32 {}

/// A buffer of `f32` of a backend.
pub type Tensor<B> = <B as Memory>::Buffer<f32>;

/// Allocation and copies between host and device.
///
/// An index buffer carries an exclusive bound from its allocation on: the number of tokens, classes
/// or examples that its values index. Uploads are checked against the bound, and calls that index
/// with the buffer check the bound against their shapes; no kernel sees an index out of range.
pub trait Memory: Send + Sync {
    /// A dense row-major array in the device's memory.
    type Buffer<E: Element>: Send;

    /// The device and its kernels, for the record of a run.
    fn device_name(&self) -> String;

    /// Diagnostics: algorithms selected and fallbacks taken.
    fn diagnostics(&self) -> Vec<String> {
        Vec::new()
    }

    /// Allocates a tensor of zeros.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn zeros(&self, shape: &[usize]) -> Result<Self::Buffer<f32>, BackendError>;

    /// Allocates `count` indices, all 0, for values below `bound`.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    ///
    /// # Panics
    /// For a `bound` of 0 with a `count` above 0.
    fn indices<E: Index>(
        &self,
        count: usize,
        bound: usize,
    ) -> Result<Self::Buffer<E>, BackendError>;

    /// Copies `values` into a buffer of the same number of elements.
    ///
    /// # Errors
    /// [`BackendError::IndexOutOfRange`] for an index not below the buffer's bound; the buffer is
    /// unchanged then.
    fn write<E: Element>(
        &self,
        values: &[E],
        buffer: &mut Self::Buffer<E>,
    ) -> Result<(), BackendError>;

    /// Copies `values` to the elements from `offset` on.
    ///
    /// # Errors
    /// As [`Memory::write`].
    fn write_at<E: Element>(
        &self,
        values: &[E],
        offset: usize,
        buffer: &mut Self::Buffer<E>,
    ) -> Result<(), BackendError>;

    /// Waits for all submitted work and copies a buffer to the host; indices have one dimension.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn read<E: Element>(&self, buffer: &Self::Buffer<E>) -> Result<ArrayD<E>, BackendError>;

    /// The index of the first NaN or infinity.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn first_not_finite(&self, tensor: &Self::Buffer<f32>) -> Result<Option<usize>, BackendError>;
}

/// The check of [`Memory::write`], for backends: every index is below `bound`.
///
/// # Errors
/// [`BackendError::IndexOutOfRange`] with the first that is not.
pub fn check_indices<E: Element>(values: &[E], bound: usize) -> Result<(), BackendError> {
    let out_of_range = |value: &E| value.index().is_some_and(|index| index >= bound);
    match values.iter().position(out_of_range) {
        None => Ok(()),
        Some(position) => Err(BackendError::IndexOutOfRange {
            position,
            value: values[position].index().unwrap_or_default(),
            bound,
        }),
    }
}
