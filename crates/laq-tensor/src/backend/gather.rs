//! Batches from a dataset in the device's memory.

use crate::{BackendError, Memory};

/// Copies the examples of a batch.
pub trait Gather: Memory {
    /// Gathers a batch of images: for r < `rows`, row r of `pixels` is row
    /// `permutation[first + r]` of `images`, and likewise `targets` of `labels`. Rows from `rows`
    /// on are unchanged.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Panics
    /// Where the bound of `permutation` exceeds the number of images, or that of `labels` exceeds
    /// that of `targets`.
    fn gather_images(
        &self,
        images: &Self::Buffer<f32>,
        labels: &Self::Buffer<u8>,
        permutation: &Self::Buffer<u32>,
        first: usize,
        rows: usize,
        pixels: &mut Self::Buffer<f32>,
        targets: &mut Self::Buffer<u8>,
    ) -> Result<(), BackendError>;

    /// Gathers a batch of B sequences of T tokens, time-major:
    /// `inputs[t·B + b] = text[T·permutation[first + b] + t]`, and `targets` holds the token after
    /// each.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Panics
    /// Where the bound of `permutation` exceeds the number of sequences in `text`, or that of
    /// `text` exceeds that of `inputs` or `targets`.
    fn gather_text(
        &self,
        text: &Self::Buffer<u8>,
        permutation: &Self::Buffer<u32>,
        first: usize,
        batch: usize,
        inputs: &mut Self::Buffer<u8>,
        targets: &mut Self::Buffer<u8>,
    ) -> Result<(), BackendError>;
}
