//! Losses, and how well outputs predict.

use laq_tensor::{BackendError, Loss};

use super::{CudaBackend, MOST_BLOCKS, Record, Symbols, THREADS, Tensor, int, long};
use crate::device::Device;

pub(super) fn softmax_cross_entropy<D: Device>(
    backend: &CudaBackend<D>,
    targets: &Symbols<D>,
    logits: &mut Tensor<D>,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let mean = |rows: usize, _: usize| 1.0 / rows as f64;
    loss(
        backend,
        "softmax_cross_entropy",
        targets,
        logits,
        record,
        mean,
    )
}

pub(super) fn squared_hinge<D: Device>(
    backend: &CudaBackend<D>,
    targets: &Symbols<D>,
    outputs: &mut Tensor<D>,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let mean = |rows: usize, classes: usize| 1.0 / (rows as f64 * classes as f64);
    loss(backend, "squared_hinge", targets, outputs, record, mean)
}

/// A loss and its gradient, and the loss into the record; `factor` of rows and classes makes a mean of the sum.
fn loss<D: Device>(
    backend: &CudaBackend<D>,
    kernel: &'static str,
    targets: &Symbols<D>,
    outputs: &mut Tensor<D>,
    record: &mut Record<D>,
    factor: impl Fn(usize, usize) -> f64,
) -> Result<(), BackendError> {
    let rows = targets.count;
    let classes = outputs.count() / rows;
    assert_eq!(rows * classes, outputs.count());
    targets.assert_bound(classes);
    let losses = backend.scratch(rows)?;
    let arguments = [
        backend.symbols_at(targets, rows).into(),
        backend.at(outputs).into(),
        losses.into(),
        int(rows),
        int(classes),
    ];
    backend.launch(kernel, warp_a_row(rows), [THREADS, 1, 1], &arguments)?;
    push(backend, [losses, 0], rows, factor(rows, classes), record)
}

pub(super) fn evaluate_outputs<D: Device>(
    backend: &CudaBackend<D>,
    loss: Loss,
    rows: usize,
    targets: &Symbols<D>,
    outputs: &Tensor<D>,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let classes = outputs.count() / targets.count;
    assert!(rows <= targets.count && targets.count * classes == outputs.count());
    targets.assert_bound(classes);
    let losses = backend.scratch(2 * rows)?;
    let wrong = losses + 8 * rows as u64;
    let arguments = [
        backend.symbols_at(targets, targets.count).into(),
        backend.at(outputs).into(),
        losses.into(),
        wrong.into(),
        int(rows),
        int(classes),
        (loss == Loss::SquaredHinge).into(),
    ];
    backend.launch(
        "evaluate_outputs",
        warp_a_row(rows),
        [THREADS, 1, 1],
        &arguments,
    )?;
    push(backend, [losses, wrong], rows, 1.0 / rows as f64, record)
}

fn warp_a_row(rows: usize) -> [u32; 3] {
    let warps = u64::from(THREADS / 32);
    [(rows as u64).div_ceil(warps).min(MOST_BLOCKS) as u32, 1, 1]
}

/// The sum of the rows' losses, times `factor`, is the next of the record; the sum of what is wrong, if there is such, is
/// added to its errors.
fn push<D: Device>(
    backend: &CudaBackend<D>,
    [losses, wrong]: [u64; 2],
    rows: usize,
    factor: f64,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let arguments = [
        losses.into(),
        wrong.into(),
        long(rows),
        factor.into(),
        backend.record_at(record).into(),
    ];
    backend.launch("push_loss", [1, 1, 1], [1024, 1, 1], &arguments)
}
