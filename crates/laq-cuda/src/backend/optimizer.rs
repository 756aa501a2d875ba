//! Adam and the check of the gradients, for all parameters in one launch each.

use laq_tensor::{AdamSettings, BackendError, Optimizer, UpdateJob};

use super::{CudaBackend, StepLog, THREADS};
use crate::buffer::Buffer;
use crate::device::Device;
use crate::kernels;
use crate::layout::{UPDATE_BLOCK, Update};

/// A table in the device's memory, uploaded again only when its rows change.
#[derive(Debug)]
pub(super) struct Table<D: Device, E> {
    pub(super) rows: Vec<E>,
    pub(super) buffer: Buffer<D, E>,
    /// The index of the row of every block.
    pub(super) row_of_block: Buffer<D, u32>,
}

impl<D: Device, E: crate::buffer::DeviceElement + PartialEq> Table<D, E> {
    pub(super) fn new(
        backend: &CudaBackend<D>,
        rows: Vec<E>,
        row_of_block: &[u32],
    ) -> Result<Self, BackendError> {
        Ok(Table {
            buffer: backend.buffer_of(&rows)?,
            row_of_block: backend.buffer_of(row_of_block)?,
            rows,
        })
    }
}

/// The table of the parameters that are updated together.
#[derive(Debug)]
pub struct UpdateWorkspace<D: Device>(Option<Table<D, Update>>);

impl<D: Device> Default for UpdateWorkspace<D> {
    fn default() -> Self {
        UpdateWorkspace(None)
    }
}

impl<D: Device> UpdateWorkspace<D> {
    /// The table of these jobs; `None` if there is nothing to update.
    fn table(
        &mut self,
        backend: &CudaBackend<D>,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, CudaBackend<D>>>,
    ) -> Result<Option<&Table<D, Update>>, BackendError> {
        let (mut rows, mut row_of_block) = (Vec::new(), Vec::new());
        for job in jobs {
            let numel = job.gradient.len();
            let tensors = [
                job.gradient,
                job.weight,
                job.first_moment,
                job.second_moment,
            ];
            let [gradient, weight, first_moment, second_moment] = tensors.map(|tensor| {
                assert_eq!(tensor.len(), numel);
                backend.retain(tensor.memory());
                tensor.address()
            });
            let index = rows.len() as u32;
            rows.push(Update {
                gradient,
                weight,
                first_moment,
                second_moment,
                numel: numel as u64,
                clip: job.clip.unwrap_or(f32::INFINITY),
                first_block: row_of_block.len() as u32,
            });
            row_of_block.extend(std::iter::repeat_n(index, numel.div_ceil(UPDATE_BLOCK)));
        }
        if row_of_block.is_empty() {
            return Ok(None);
        }
        let table = match self.0.take().filter(|table| table.rows == rows) {
            Some(table) => table,
            None => Table::new(backend, rows, &row_of_block)?,
        };
        Ok(Some(self.0.insert(table)))
    }
}

impl<D: Device> Optimizer for CudaBackend<D> {
    type UpdateWorkspace = UpdateWorkspace<D>;

    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        workspace: &mut UpdateWorkspace<D>,
        log: &mut StepLog<D>,
    ) -> Result<(), BackendError> {
        let Some(table) = workspace.table(self, jobs)? else {
            return Ok(());
        };
        let update_of_block = table.row_of_block.slice();
        let kernel = kernels::check_gradients {
            updates: table.buffer.slice(),
            update_of_block,
            log: log.write(),
        };
        self.launch(
            kernel,
            [update_of_block.len() as u32, 1, 1],
            [THREADS, 1, 1],
        )
    }

    fn update(
        &self,
        adam: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        workspace: &mut UpdateWorkspace<D>,
        log: &StepLog<D>,
    ) -> Result<(), BackendError> {
        let Some(table) = workspace.table(self, jobs)? else {
            return Ok(());
        };
        let [beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon] = rates(adam);
        let update_of_block = table.row_of_block.slice();
        let kernel = kernels::adam {
            updates: table.buffer.slice(),
            update_of_block,
            log: log.read(),
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            epsilon,
        };
        self.launch(
            kernel,
            [update_of_block.len() as u32, 1, 1],
            [THREADS, 1, 1],
        )
    }
}

/// β₁, 1 − β₁, β₂, 1 − β₂ and ε, rounded as in the CPU backend.
pub(super) fn rates(adam: AdamSettings) -> [f32; 5] {
    [
        adam.beta1,
        1.0 - adam.beta1,
        adam.beta2,
        1.0 - adam.beta2,
        adam.epsilon,
    ]
    .map(|rate| rate as f32)
}
