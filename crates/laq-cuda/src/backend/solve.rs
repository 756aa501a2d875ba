//! Solving for the quantized weights, by the kernels of `solve.cu`, `exact.cu` and `blocks.cu`.
//!
//! All groups of all parameters of a call share one sequence of launches. A group is cut into
//! chunks, one per block of threads, or for a format is one; a table in the device's memory holds the operands
//! of every group.

use bytemuck::Zeroable;
use laq_solvers::blocks::ScaleGrid;
use laq_solvers::{Codebook, Solver};
use laq_tensor::BackendError;

use super::optimizer::Table;
use super::{CudaBackend, StepLog, THREADS};
use crate::buffer::{Address, Buffer};
use crate::device::Device;
use crate::kernels;
use crate::layout::{
    self, ALTERNATING, COMPARE_THREADS, EXACT, Group, GroupWorkspace, LARGEST_MAGNITUDE,
    MAX_MAGNITUDES, MEAN_MAGNITUDE, SIGNS, Search, TANH, TTQ, TWN, WEIGHTED_SIGNS,
};

/// Blocks that share the weights of a call: enough to occupy a GPU.
const BLOCKS: usize = 512;
/// The least weights of a block.
const MIN_CHUNK: usize = 2048;
/// Sums that a block leaves for the others: twelve, and two values of four bytes.
const BLOCK_SUMS: usize = 13;

/// The table and scratch of the parameters that are quantized together.
#[derive(Debug)]
pub(super) struct Plan<D: Device> {
    groups: Table<D, Group>,
    kernels: Kernels<D>,
}

/// The kernels, with what they need.
#[derive(Debug)]
enum Kernels<D: Device> {
    /// Those of formats.
    Blocks(Buffer<D, layout::BlockCodebook>),
    /// Those of all other solvers.
    Chunks(Box<Chunks<D>>),
}

#[derive(Debug)]
struct Chunks<D: Device> {
    solver: Solver,
    workspaces: Buffer<D, GroupWorkspace>,
    codebook: Buffer<D, layout::Codebook>,
    partial: Buffer<D, f64>,
    exact: Option<ExactWorkspace<D>>,
}

/// Scratch of the exact solvers; two sides per group.
#[derive(Debug)]
struct ExactWorkspace<D: Device> {
    searches: Buffer<D, Search>,
    survivors: Buffer<D, Address<u64>>,
    prefixes: Buffer<D, Address<f64>>,
    /// How often the buckets are narrowed.
    refinements: usize,
    /// The targets of `survivors`.
    survivor_buffers: Vec<Buffer<D, u64>>,
    /// The targets of `prefixes`.
    prefix_buffers: Vec<Buffer<D, f64>>,
}

/// A codebook and its solver as the kernels take them.
fn device_codebook(codebook: &Codebook, solver: Solver) -> layout::Codebook {
    let levels: Vec<i8> = codebook.levels().collect();
    let positive: Vec<i8> = levels.iter().copied().filter(|&level| level >= 0).collect();
    let magnitudes: Vec<f32> = positive
        .iter()
        .map(|&level| codebook.value(level))
        .collect();
    let mut midpoint = [0.0; MAX_MAGNITUDES];
    for (midpoint, pair) in midpoint.iter_mut().zip(magnitudes.windows(2)) {
        *midpoint = 0.5 * (f64::from(pair[0]) + f64::from(pair[1]));
    }
    let mut multiplier = [f32::NAN; 256];
    for &level in &levels {
        multiplier[(i16::from(level) + 128) as usize] = codebook.multiplier(level);
    }
    let mut magnitude = [f32::NAN; MAX_MAGNITUDES];
    magnitude[..magnitudes.len()].copy_from_slice(&magnitudes);
    let (code, sides) = match solver {
        Solver::Signs => (SIGNS, 1),
        Solver::MeanMagnitude => (MEAN_MAGNITUDE, 1),
        Solver::LargestMagnitude => (LARGEST_MAGNITUDE, 1),
        Solver::WeightedSigns => (WEIGHTED_SIGNS, 1),
        Solver::Threshold => (TWN, 1),
        Solver::Trained => (TTQ, 1),
        Solver::Alternating { two_scales } => (ALTERNATING, 1 + u32::from(two_scales)),
        Solver::Exact { two_scales } => (EXACT, 1 + u32::from(two_scales)),
        Solver::Tanh => (TANH, 1),
        Solver::ExactOnGrid { .. } => unreachable!("a format has kernels of its own"),
    };
    let has_zero = magnitudes[0] == 0.0;
    layout::Codebook {
        midpoint,
        multiplier,
        magnitude,
        divisor: codebook.divisor(),
        magnitudes: magnitudes.len() as u32,
        first_positive: positive[0].into(),
        first_negative: if has_zero { 0 } else { -1 },
        has_zero: has_zero.into(),
        solver: code as u32,
        sides,
        reserved: 0,
    }
}

/// The values of a format and its scales as the kernels take them.
fn block_codebook(codebook: &Codebook, grid: ScaleGrid) -> layout::BlockCodebook {
    let (levels, values) = (codebook.levels().collect::<Vec<_>>(), codebook.values());
    let mut of = layout::BlockCodebook::zeroed();
    of.value[..values.len()].copy_from_slice(&values);
    for (middle, pair) in of.middle.iter_mut().zip(values.windows(2)) {
        *middle = 0.5 * (f64::from(pair[0]) + f64::from(pair[1]));
    }
    let largest = values
        .iter()
        .fold(1.0f32, |most, value| most.max(value.abs()));
    of.limit = f64::from(f32::MAX) / f64::from(largest);
    (of.mantissa, of.smallest_normal, of.largest) = grid.layout();
    of.smallest = grid.smallest().into();
    of.count = values.len() as u32;
    of.is_symmetric = codebook.is_symmetric().into();
    of.is_signed = grid.is_signed().into();
    of.lowest = levels[0].into();
    of.stride = i32::from(levels[1]) - of.lowest;
    of
}

/// How often the buckets are narrowed until few weights are left; a codebook of more levels has
/// fewer buckets for each.
fn bucket_refinements(steps: usize) -> usize {
    match steps {
        ..8 => 3,
        8..32 => 4,
        _ => 5,
    }
}

/// The chunk of a block, such that a call of `total` weights has about [`BLOCKS`] blocks.
fn chunk_of(total: usize) -> usize {
    total.div_ceil(BLOCKS).next_multiple_of(1024).max(MIN_CHUNK)
}

/// Gives every group its blocks; the result is the group of every block.
fn assign_blocks(rows: &mut [Group]) -> Vec<u32> {
    let chunk = chunk_of(rows.iter().map(|row| row.size as usize).sum());
    let mut group_of_block = Vec::new();
    for (index, row) in rows.iter_mut().enumerate() {
        let blocks = (row.size as usize).div_ceil(chunk);
        row.first_block = group_of_block.len() as u32;
        row.blocks = blocks as u32;
        row.chunk = chunk as u64;
        group_of_block.extend(std::iter::repeat_n(index as u32, blocks));
    }
    group_of_block
}

impl<D: Device> CudaBackend<D> {
    /// The plan for these groups: `last` if it is the same.
    pub(super) fn plan(
        &self,
        mut rows: Vec<Group>,
        codebook: &Codebook,
        solver: Solver,
        last: Option<Plan<D>>,
    ) -> Result<Plan<D>, BackendError> {
        let group_of_block = assign_blocks(&mut rows);
        if let Some(same) = last.filter(|plan| plan.groups.rows == rows) {
            return Ok(same);
        }
        let kernels = match solver {
            Solver::ExactOnGrid { grid } => {
                Kernels::Blocks(self.buffer_of(&[block_codebook(codebook, grid)])?)
            }
            _ => Kernels::Chunks(Box::new(Chunks {
                solver,
                workspaces: self.buffer(rows.len())?,
                codebook: self.buffer_of(&[device_codebook(codebook, solver)])?,
                partial: self.buffer(group_of_block.len() * BLOCK_SUMS)?,
                exact: match solver {
                    Solver::Exact { two_scales } => {
                        Some(self.exact_workspace(&rows, codebook, two_scales)?)
                    }
                    _ => None,
                },
            })),
        };
        Ok(Plan {
            groups: Table::new(self, rows, &group_of_block)?,
            kernels,
        })
    }

    fn exact_workspace(
        &self,
        rows: &[Group],
        codebook: &Codebook,
        two_scales: bool,
    ) -> Result<ExactWorkspace<D>, BackendError> {
        let (mut survivor_buffers, mut prefix_buffers) = (Vec::new(), Vec::new());
        for (row, side) in rows.iter().flat_map(|row| [(row, 0), (row, 1)]) {
            let size = if side == 1 && !two_scales {
                1
            } else {
                row.size as usize
            };
            survivor_buffers.push(self.buffer(size.next_power_of_two())?);
            prefix_buffers.push(self.buffer(2 * (size + 1))?);
        }
        let survivors: Vec<_> = survivor_buffers.iter().map(Buffer::address).collect();
        let prefixes: Vec<_> = prefix_buffers.iter().map(Buffer::address).collect();
        let steps = codebook.levels().filter(|&level| level > 0).count();
        Ok(ExactWorkspace {
            searches: self.buffer(2 * rows.len())?,
            survivors: self.buffer_of(&survivors)?,
            prefixes: self.buffer_of(&prefixes)?,
            refinements: bucket_refinements(steps),
            survivor_buffers,
            prefix_buffers,
        })
    }

    /// Solves for all groups.
    pub(super) fn launch_solvers(
        &self,
        plan: &mut Plan<D>,
        log: &mut StepLog<D>,
    ) -> Result<(), BackendError> {
        let groups = plan.groups.buffer.slice();
        let chunks = match &mut plan.kernels {
            Kernels::Chunks(chunks) => chunks,
            Kernels::Blocks(codebook) => {
                let (grid, block) = ([groups.len() as u32, 1, 1], [THREADS, 1, 1]);
                let kernel = kernels::check_blocks {
                    groups,
                    log: log.write(),
                };
                self.launch(kernel, grid, block)?;
                let kernel = kernels::solve_blocks {
                    groups,
                    codebook: codebook.slice(),
                    log: log.read(),
                };
                return self.launch(kernel, grid, block);
            }
        };
        let group_of_block = plan.groups.row_of_block.slice();
        let workspaces = chunks.workspaces.slice_mut();
        let codebook = chunks.codebook.slice();
        let partial = chunks.partial.slice_mut();
        let (grid, block) = ([group_of_block.len() as u32, 1, 1], [THREADS, 1, 1]);
        let kernel = kernels::solve_begin {
            groups,
            workspaces,
            group_of_block,
            codebook,
            partial,
            searches: (chunks.exact.as_mut()).map(|exact| exact.searches.slice_mut()),
            log: log.write(),
        };
        self.launch(kernel, grid, block)?;
        let log = log.read();
        let iterations = match chunks.solver {
            Solver::Threshold | Solver::Trained => 1,
            Solver::Alternating { .. } => laq_solvers::MAX_ITERATIONS,
            _ => 0,
        };
        for _ in 0..iterations {
            let kernel = kernels::solve_iterate {
                groups,
                workspaces,
                group_of_block,
                codebook,
                partial,
                log,
            };
            self.launch(kernel, grid, block)?;
        }
        if let Some(exact) = &mut chunks.exact {
            for buffer in &exact.survivor_buffers {
                self.retain(buffer.memory());
            }
            for buffer in &exact.prefix_buffers {
                self.retain(buffer.memory());
            }
            let searches = exact.searches.slice_mut();
            let survivors = exact.survivors.slice();
            for refinement in 1..=exact.refinements {
                let kernel = kernels::solve_buckets {
                    groups,
                    workspaces,
                    group_of_block,
                    codebook,
                    searches,
                    last: refinement == exact.refinements,
                    log,
                };
                self.launch(kernel, grid, block)?;
            }
            let kernel = kernels::solve_gather {
                groups,
                workspaces,
                group_of_block,
                codebook,
                partial,
                searches,
                survivors,
                log,
            };
            self.launch(kernel, grid, block)?;
            let kernel = kernels::solve_compare {
                groups,
                workspaces,
                codebook,
                searches,
                survivors,
                prefixes: exact.prefixes.slice(),
                log,
            };
            let sides = 2 * groups.len() as u32;
            self.launch(kernel, [sides, 1, 1], [COMPARE_THREADS as u32, 1, 1])?;
        }
        let kernel = kernels::solve_end {
            groups,
            workspaces,
            group_of_block,
            codebook,
            partial,
            log,
        };
        self.launch(kernel, grid, block)
    }
}
