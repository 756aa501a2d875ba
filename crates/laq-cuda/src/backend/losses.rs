//! Losses, and the evaluation of outputs.

use laq_tensor::{BackendError, Loss, Losses};

use super::{CudaBackend, MAX_BLOCKS, StepLog, THREADS, check_bound};
use crate::buffer::{Buffer, Slice};
use crate::device::Device;
use crate::kernels;
use crate::layout::LOSS_THREADS;

impl<D: Device> Losses for CudaBackend<D> {
    fn loss_and_gradient(
        &self,
        loss: Loss,
        targets: &Buffer<D, u8>,
        outputs: &mut Buffer<D, f32>,
        log: &mut StepLog<D>,
    ) -> Result<(), BackendError> {
        let rows = targets.len();
        let classes = outputs.len() / rows;
        check_bound(targets, classes);
        let targets = targets.slice();
        let outputs = outputs.exactly_mut(rows * classes);
        let mut losses = self.scratch(rows)?;
        let losses = losses.slice_mut().range(0..rows);
        let (grid, block) = (warp_per_row(rows), [THREADS, 1, 1]);
        let factor = match loss {
            Loss::CrossEntropy => {
                let kernel = kernels::softmax_cross_entropy {
                    targets,
                    logits: outputs,
                    losses,
                    rows,
                    classes,
                };
                self.launch(kernel, grid, block)?;
                1.0 / rows as f64
            }
            Loss::SquaredHinge => {
                let kernel = kernels::squared_hinge {
                    targets,
                    outputs,
                    losses,
                    rows,
                    classes,
                };
                self.launch(kernel, grid, block)?;
                1.0 / (rows as f64 * classes as f64)
            }
        };
        self.append_loss(losses.read(), None, factor, log)
    }

    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Buffer<D, u8>,
        outputs: &Buffer<D, f32>,
        log: &mut StepLog<D>,
    ) -> Result<(), BackendError> {
        let classes = outputs.len() / targets.len();
        check_bound(targets, classes);
        let mut scratch = self.scratch(2 * rows)?;
        let scratch = scratch.slice_mut();
        let (losses, wrong) = (scratch.range(0..rows), scratch.range(rows..2 * rows));
        let kernel = kernels::evaluate_outputs {
            targets: targets.slice(),
            outputs: outputs.exactly(targets.len() * classes),
            losses,
            wrong,
            rows,
            classes,
            hinge: loss == Loss::SquaredHinge,
        };
        self.launch(kernel, warp_per_row(rows), [THREADS, 1, 1])?;
        self.append_loss(losses.read(), Some(wrong.read()), 1.0 / rows as f64, log)
    }
}

impl<D: Device> CudaBackend<D> {
    /// Appends `factor` times the sum of `values` to the log, and adds the sum of `wrong` to its
    /// errors.
    fn append_loss(
        &self,
        values: Slice<'_, f64>,
        wrong: Option<Slice<'_, f64>>,
        factor: f64,
        log: &mut StepLog<D>,
    ) -> Result<(), BackendError> {
        let kernel = kernels::append_loss {
            values,
            wrong,
            numel: values.len(),
            factor,
            log: log.write(),
        };
        self.launch(kernel, [1, 1, 1], [LOSS_THREADS as u32, 1, 1])
    }
}

fn warp_per_row(rows: usize) -> [u32; 3] {
    let warps = u64::from(THREADS / 32);
    [(rows as u64).div_ceil(warps).min(MAX_BLOCKS) as u32, 1, 1]
}
