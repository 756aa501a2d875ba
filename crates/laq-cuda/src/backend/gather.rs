//! Batches from a dataset in the device's memory.

use laq_tensor::{BackendError, Gather};

use super::{CudaBackend, check_bound};
use crate::buffer::Buffer;
use crate::device::Device;
use crate::kernels;

impl<D: Device> Gather for CudaBackend<D> {
    fn gather_images(
        &self,
        images: &Buffer<D, f32>,
        labels: &Buffer<D, u8>,
        permutation: &Buffer<D, u32>,
        first: usize,
        rows: usize,
        pixels: &mut Buffer<D, f32>,
        targets: &mut Buffer<D, u8>,
    ) -> Result<(), BackendError> {
        let image_size = images.len() / labels.len();
        assert_eq!(images.len(), image_size * labels.len());
        assert_eq!(pixels.len(), image_size * targets.len());
        check_bound(permutation, labels.len());
        check_bound(labels, targets.bound());
        let numel = image_size * rows;
        let kernel = kernels::gather_images {
            images: images.slice(),
            labels: labels.slice(),
            permutation: permutation.slice().range(first..first + rows),
            pixels: pixels.slice_mut(),
            targets: targets.slice_mut(),
            numel,
            image_size,
        };
        self.each(kernel, numel)
    }

    fn gather_text(
        &self,
        text: &Buffer<D, u8>,
        permutation: &Buffer<D, u32>,
        first: usize,
        batch: usize,
        inputs: &mut Buffer<D, u8>,
        targets: &mut Buffer<D, u8>,
    ) -> Result<(), BackendError> {
        let numel = inputs.len();
        let length = numel / batch;
        assert_eq!(numel, length * batch);
        // The target of the last token of a sequence is the token after the sequence.
        check_bound(permutation, (text.len().max(1) - 1) / length.max(1));
        check_bound(text, inputs.bound());
        check_bound(text, targets.bound());
        let kernel = kernels::gather_text {
            text: text.slice(),
            permutation: permutation.slice().range(first..first + batch),
            inputs: inputs.slice_mut(),
            targets: targets.exactly_mut(numel),
            length,
            batch,
        };
        self.each(kernel, numel)
    }
}
