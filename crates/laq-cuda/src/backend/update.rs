//! The look for gradients that are not finite, and Adam, for all parameters at once.

use laq_tensor::{AdamSettings, BackendError, UpdateJob};

use super::{CudaBackend, Record, THREADS, words};
use crate::device::{Argument, Device};

/// Numbers of a block, as in `kernels/update.cu`.
const PIECE: usize = 4096;

/// The tables of the parameters that are updated together.
#[derive(Debug)]
pub struct UpdateSpace<D: Device> {
    plan: Option<Plan<D>>,
}

impl<D: Device> Default for UpdateSpace<D> {
    fn default() -> Self {
        UpdateSpace { plan: None }
    }
}

#[derive(Debug)]
struct Plan<D: Device> {
    /// What is in the tables.
    bytes: Vec<u8>,
    blocks: u32,
    updates: D::Memory,
    update_of_block: D::Memory,
}

impl<D: Device> UpdateSpace<D> {
    /// The addresses of both tables, and the number of blocks; none where there is nothing to update.
    fn of(
        &mut self,
        backend: &CudaBackend<D>,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, CudaBackend<D>>>,
    ) -> Result<Option<([Argument; 2], u32)>, BackendError> {
        let (mut bytes, mut update_of_block) = (Vec::new(), Vec::new());
        for (index, job) in jobs.enumerate() {
            let count = job.gradient.count();
            for address in [
                backend.at(job.gradient),
                backend.pointer(job.weight, count),
                backend.pointer(job.first_moment, count),
                backend.pointer(job.second_moment, count),
                count as u64,
            ] {
                bytes.extend(address.to_ne_bytes());
            }
            bytes.extend(job.clip.unwrap_or(f32::INFINITY).to_ne_bytes());
            bytes.extend((update_of_block.len() as u32).to_ne_bytes());
            update_of_block.extend(std::iter::repeat_n(index as u32, count.div_ceil(PIECE)));
        }
        if update_of_block.is_empty() {
            return Ok(None);
        }
        let plan = match &mut self.plan {
            Some(plan) if plan.bytes == bytes => plan,
            plan => plan.insert(Plan {
                blocks: update_of_block.len() as u32,
                updates: backend.table(&bytes)?,
                update_of_block: backend.table(&words(&update_of_block))?,
                bytes,
            }),
        };
        let tables = [&plan.updates, &plan.update_of_block];
        Ok(Some((
            tables.map(|table| backend.device.address(table).into()),
            plan.blocks,
        )))
    }
}

pub(super) fn check_gradients<D: Device>(
    backend: &CudaBackend<D>,
    jobs: &mut dyn Iterator<Item = UpdateJob<'_, CudaBackend<D>>>,
    space: &mut UpdateSpace<D>,
    record: &mut Record<D>,
) -> Result<(), BackendError> {
    let Some(([updates, of_block], blocks)) = space.of(backend, jobs)? else {
        return Ok(());
    };
    let arguments = [updates, of_block, backend.record_at(record).into()];
    backend.launch(
        "check_gradients",
        [blocks, 1, 1],
        [THREADS, 1, 1],
        &arguments,
    )
}

pub(super) fn update<D: Device>(
    backend: &CudaBackend<D>,
    adam: AdamSettings,
    jobs: &mut dyn Iterator<Item = UpdateJob<'_, CudaBackend<D>>>,
    space: &mut UpdateSpace<D>,
    record: &Record<D>,
) -> Result<(), BackendError> {
    let Some(([updates, of_block], blocks)) = space.of(backend, jobs)? else {
        return Ok(());
    };
    let [beta1, rest1, beta2, rest2, epsilon] = rates(adam);
    let record = backend.record_at(record).into();
    let arguments = [
        updates, of_block, record, beta1, rest1, beta2, rest2, epsilon,
    ];
    backend.launch("adam", [blocks, 1, 1], [THREADS, 1, 1], &arguments)
}

/// β₁, 1 − β₁, β₂, 1 − β₂ and ε, rounded as the CPU backend rounds them.
pub(crate) fn rates(adam: AdamSettings) -> [Argument; 5] {
    [
        adam.beta1,
        1.0 - adam.beta1,
        adam.beta2,
        1.0 - adam.beta2,
        adam.epsilon,
    ]
    .map(|rate| (rate as f32).into())
}
