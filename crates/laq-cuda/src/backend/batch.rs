//! Batches from examples that are in the device's memory.

use laq_tensor::BackendError;

use super::{CudaBackend, Order, Symbols, Tensor, int, long};
use crate::device::Device;

impl<D: Device> Order<D> {
    /// The address of `count` numbers from number `first` on.
    fn part(&self, device: &D, first: usize, count: usize) -> u64 {
        assert!(first + count <= self.count);
        device.address(&self.memory) + 4 * first as u64
    }
}

pub(super) fn images<D: Device>(
    backend: &CudaBackend<D>,
    images: &Tensor<D>,
    labels: &Symbols<D>,
    order: &Order<D>,
    first: usize,
    rows: usize,
    pixels: &mut Tensor<D>,
    targets: &mut Symbols<D>,
) -> Result<(), BackendError> {
    let size = images.count() / labels.count;
    assert!(images.count() == size * labels.count && pixels.count() == size * targets.count);
    assert!(rows <= targets.count);
    order.assert_bound(labels.count);
    labels.assert_bound(targets.bound);
    let count = size * rows;
    let arguments = [
        backend.at(images).into(),
        backend.symbols_at(labels, labels.count).into(),
        order.part(&backend.device, first, rows).into(),
        backend.at(pixels).into(),
        backend.symbols_at(targets, targets.count).into(),
        long(count),
        int(size),
    ];
    backend.each("gather_images", count, &arguments)
}

pub(super) fn text<D: Device>(
    backend: &CudaBackend<D>,
    text: &Symbols<D>,
    order: &Order<D>,
    first: usize,
    batch: usize,
    inputs: &mut Symbols<D>,
    targets: &mut Symbols<D>,
) -> Result<(), BackendError> {
    let count = inputs.count;
    assert!(count.is_multiple_of(batch));
    order.assert_bound(text.count.saturating_sub(1) / (count / batch));
    text.assert_bound(inputs.bound.min(targets.bound));
    let arguments = [
        backend.symbols_at(text, text.count).into(),
        order.part(&backend.device, first, batch).into(),
        backend.symbols_at(inputs, count).into(),
        backend.symbols_at(targets, count).into(),
        int(count / batch),
        int(batch),
    ];
    backend.each("gather_text", count, &arguments)
}
