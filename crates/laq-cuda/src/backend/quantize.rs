//! Quantization of parameters, around the kernels of `solve.cu`, `exact.cu` and `gradient.cu`.
//!
//! All groups of all parameters of a call share one sequence of launches. A group is cut into
//! chunks, one per block; a table in the device's memory holds the operands of every group.

use std::ops::Range;

use bytemuck::Zeroable;
use laq_solvers::blocks::ScaleGrid;
use laq_solvers::{Codebook, Granularity, Groups, Method, Scale, Solver};
use laq_tensor::{
    AdamSettings, BackendError, GroupReport, Quantize, QuantizeJob, QuantizerSnapshot,
};

use super::optimizer::{Table, rates};
use super::{CudaBackend, StepLog, THREADS};
use crate::buffer::{Address, Buffer};
use crate::device::Device;
use crate::kernels;
use crate::layout::{
    self, ALTERNATING, BLOCK_VALUES, BLOCK_WEIGHTS, COMPARE_THREADS, EXACT, GRADIENT_BLOCK, Group,
    GroupState, GroupWorkspace, MAX_MAGNITUDES, MEAN_SIGNS, SIGNS, Search, TANH, TTQ, TWN,
    TanhWork, WEIGHTED_SIGNS,
};

/// Blocks that share the weights of a call: enough to occupy a GPU.
const BLOCKS: usize = 512;
/// The least weights of a block.
const MIN_CHUNK: usize = 2048;
/// The most groups of one parameter for the search of large groups, which takes 150 kB each.
const MAX_SEARCHES: usize = 4096;
/// The most rows of a grid of blocks.
const MAX_GRID_ROWS: usize = 65_535;
/// Sums that a block leaves for the others: twelve, and two values of four bytes.
const BLOCK_SUMS: usize = 13;

/// The state of one parameter.
#[derive(Debug)]
pub struct Quantizer<D: Device> {
    method: Method,
    solver: Solver,
    groups: Groups,
    levels: Buffer<D, i8>,
    states: Buffer<D, GroupState>,
    gradient: GradientWorkspace<D>,
}

/// Scratch of the gradients of scales and of DoReFa.
#[derive(Debug)]
struct GradientWorkspace<D: Device> {
    /// Two values per block.
    partial: Buffer<D, f64>,
    tanh: Buffer<D, TanhWork>,
    /// Finished blocks of every group.
    arrived: Buffer<D, u32>,
}

/// The table and scratch of the parameters that are quantized together.
#[derive(Debug)]
pub struct QuantizeWorkspace<D: Device>(Option<Plan<D>>);

impl<D: Device> Default for QuantizeWorkspace<D> {
    fn default() -> Self {
        QuantizeWorkspace(None)
    }
}

#[derive(Debug)]
struct Plan<D: Device> {
    solver: Solver,
    groups: Table<D, Group>,
    workspaces: Buffer<D, GroupWorkspace>,
    codebook: Buffer<D, layout::Codebook>,
    /// For a format.
    block_codebook: Option<Buffer<D, layout::BlockCodebook>>,
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
        Solver::MeanSigns => (MEAN_SIGNS, 1),
        Solver::WeightedSigns => (WEIGHTED_SIGNS, 1),
        Solver::Threshold => (TWN, 1),
        Solver::Trained => (TTQ, 1),
        Solver::Alternating { two_scales } => (ALTERNATING, 1 + u32::from(two_scales)),
        Solver::Exact { two_scales } => (EXACT, 1 + u32::from(two_scales)),
        Solver::Tanh => (TANH, 1),
        // Solved by kernels of its own.
        Solver::ExactOnGrid { .. } => (EXACT, 1),
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

/// The solver, which for blocks with one scale is that of formats, with all scales of f32. It decodes as the codebook
/// does if a step is the scale itself. All parameters of a network have the same.
fn solver_of(quantizer: &laq_solvers::Quantizer, granularity: Granularity) -> Solver {
    let codebook = quantizer.codebook();
    let is_small = matches!(granularity, Granularity::Block(length) if length <= BLOCK_WEIGHTS)
        && codebook.levels().count() <= BLOCK_VALUES;
    match quantizer.solver() {
        Solver::Exact { two_scales: false } if is_small && codebook.divisor() == 1.0 => {
            let grid = ScaleGrid::F32;
            Solver::ExactOnGrid { grid }
        }
        solver => solver,
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

impl<D: Device> Quantizer<D> {
    fn codebook(&self) -> Codebook {
        let quantizer = self.method.quantizer();
        quantizer.map_or(Codebook::Binary, |quantizer| quantizer.codebook().clone())
    }
}

impl<D: Device> Quantize for CudaBackend<D> {
    type Quantizer = Quantizer<D>;
    type QuantizeWorkspace = QuantizeWorkspace<D>;

    fn quantizer(&self, method: &Method, groups: Groups) -> Result<Quantizer<D>, BackendError> {
        let no_kernels = |what: String| {
            Err(BackendError::Device {
                device: self.device.name(),
                what: format!("no kernels for the method {method}{what}; use --device cpu"),
            })
        };
        // The bounds of the exact solver assume that zero is a level.
        let has_kernels = |quantizer: &&laq_solvers::Quantizer| {
            let has_zero = || quantizer.codebook().values().contains(&0.0);
            match quantizer.solver() {
                Solver::Exact { .. } => has_zero(),
                Solver::ExactOnGrid { .. } => {
                    let values = quantizer.codebook().levels().count();
                    values <= BLOCK_VALUES && groups.length() <= BLOCK_WEIGHTS
                }
                _ => true,
            }
        };
        let solver = method
            .quantizer()
            .filter(has_kernels)
            .map(|quantizer| solver_of(quantizer, method.granularity()));
        let Some(solver) = solver else {
            return no_kernels(String::new());
        };
        let count = groups.count();
        if matches!(solver, Solver::Exact { .. }) && count > MAX_SEARCHES {
            return no_kernels(format!(" with more than {MAX_SEARCHES} scales"));
        }
        if method.has_latent_gradient() && count > MAX_GRID_ROWS {
            return no_kernels(format!(" with more than {MAX_GRID_ROWS} scales"));
        }
        if method.has_latent_gradient() && groups.equal_length().is_none() {
            return no_kernels(" with blocks of which some are shorter".into());
        }
        let blocks = groups.length().div_ceil(GRADIENT_BLOCK).max(1);
        Ok(Quantizer {
            method: method.clone(),
            solver,
            groups,
            levels: self.buffer(groups.weights())?,
            states: self.buffer(count)?,
            gradient: GradientWorkspace {
                partial: self.buffer(2 * count * blocks)?,
                tanh: self.buffer(count)?,
                arrived: self.buffer(count)?,
            },
        })
    }

    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        workspace: &mut QuantizeWorkspace<D>,
        log: &mut StepLog<D>,
    ) -> Result<(), BackendError> {
        let mut rows = Vec::new();
        let mut method: Option<(Method, Codebook, Solver)> = None;
        for (parameter, job) in jobs.enumerate() {
            let quantizer = &*job.quantizer;
            let weights = quantizer.groups.weights();
            let (name, _, solver) = method.get_or_insert_with(|| {
                let codebook = quantizer.codebook();
                (quantizer.method.clone(), codebook, quantizer.solver)
            });
            assert_eq!(*name, quantizer.method, "a network has one method");
            assert_eq!(*solver, quantizer.solver, "and one granularity");
            for tensor in [job.latent, job.second_moment, job.quantized] {
                assert_eq!(tensor.len(), weights);
                self.retain(tensor.memory());
            }
            self.retain(quantizer.levels.memory());
            self.retain(quantizer.states.memory());
            let groups = quantizer.groups.ranges().enumerate();
            for (group, range) in groups.filter(|(_, range)| !range.is_empty()) {
                let size = range.len();
                let state = quantizer.states.slice().range(group..group + 1);
                rows.push(Group {
                    weights: job.latent.slice().range(range.clone()).address(),
                    second_moment: job.second_moment.slice().range(range.clone()).address(),
                    levels: quantizer.levels.slice().range(range.clone()).address(),
                    quantized: job.quantized.slice().range(range).address(),
                    state: state.address(),
                    size: size as u64,
                    parameter: parameter as u32,
                    group: group as u32,
                    first_block: 0,
                    blocks: 0,
                    chunk: 0,
                });
            }
        }
        let Some((_, codebook, solver)) = method.filter(|_| !rows.is_empty()) else {
            return Ok(());
        };
        let group_of_block = assign_blocks(&mut rows);
        let plan = match workspace.0.take().filter(|plan| plan.groups.rows == rows) {
            Some(plan) => plan,
            None => self.plan(rows, &group_of_block, &codebook, solver)?,
        };
        self.launch_solvers(workspace.0.insert(plan), log)
    }

    fn quantizer_backward(
        &self,
        latent: &Buffer<D, f32>,
        quantizer: &mut Quantizer<D>,
        gradient: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let groups = quantizer.groups;
        let (numel, group_size) = (groups.weights(), groups.length());
        let weights = latent.exactly(numel);
        let gradient = gradient.exactly_mut(numel);
        if numel == 0 {
            return Ok(());
        }
        let GradientWorkspace {
            partial,
            tanh,
            arrived,
        } = &mut quantizer.gradient;
        let (partial, arrived) = (partial.slice_mut(), arrived.slice_mut());
        let groups = groups.count() as u32;
        let grid = [group_size.div_ceil(GRADIENT_BLOCK) as u32, groups, 1];
        match quantizer.solver {
            Solver::Trained => {
                let kernel = kernels::ttq_gradient {
                    states: quantizer.states.slice_mut(),
                    levels: quantizer.levels.slice(),
                    gradient,
                    partial,
                    arrived,
                    group_size,
                };
                self.launch(kernel, grid, [THREADS, 1, 1])
            }
            Solver::Tanh => {
                let workspaces = tanh.slice_mut();
                let kernel = kernels::tanh_sums {
                    weights,
                    gradient: gradient.read(),
                    partial,
                    arrived,
                    workspaces,
                    group_size,
                };
                self.launch(kernel, grid, [THREADS, 1, 1])?;
                let kernel = kernels::tanh_gradient {
                    weights,
                    gradient,
                    workspaces: workspaces.read(),
                    group_size,
                    numel,
                };
                self.each(kernel, numel)
            }
            _ => Ok(()),
        }
    }

    fn quantizer_update(
        &self,
        adam: AdamSettings,
        log: &StepLog<D>,
        quantizer: &mut Quantizer<D>,
    ) -> Result<(), BackendError> {
        if quantizer.solver != Solver::Trained {
            return Ok(());
        }
        let [beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon] = rates(adam);
        let kernel = kernels::update_scales {
            log: log.read(),
            states: quantizer.states.slice_mut(),
            groups: quantizer.groups.count(),
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            epsilon,
        };
        self.each(kernel, 2 * quantizer.groups.count())
    }

    fn quantizer_reports(
        &self,
        quantizer: &Quantizer<D>,
    ) -> Result<Vec<GroupReport>, BackendError> {
        let report = |(state, range): (GroupState, Range<usize>)| GroupReport {
            scale: match (quantizer.solver.has_two_scales(), state.scale) {
                (true, [positive, negative]) => Scale::Two { positive, negative },
                (false, [scale, _]) => Scale::One(scale),
            },
            sparsity: state.zeros as f64 / range.len() as f64,
            weighted_error: state.error,
            iterations: state.iterations,
        };
        let states = self.download(&quantizer.states)?.into_iter();
        Ok(states
            .zip(quantizer.groups.ranges())
            .filter(|(state, _)| state.reported != 0)
            .map(report)
            .collect())
    }

    fn quantizer_save(&self, quantizer: &Quantizer<D>) -> Result<QuantizerSnapshot, BackendError> {
        let states = self.download(&quantizer.states)?;
        let mut snapshot = QuantizerSnapshot {
            levels: self.download(&quantizer.levels)?,
            ..QuantizerSnapshot::default()
        };
        if states.iter().all(|state| state.solved != 0) {
            let per_group = if quantizer.solver.has_two_scales() {
                2
            } else {
                1
            };
            let scales = states.iter().flat_map(|state| &state.scale[..per_group]);
            snapshot.scales.extend(scales);
        }
        if states.iter().all(|state| state.trained != 0) {
            let moments = |state: &GroupState| [state.first_moment, state.second_moment];
            snapshot
                .moments
                .extend(states.iter().flat_map(moments).flatten());
        }
        Ok(snapshot)
    }

    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut Quantizer<D>,
        quantized: &mut Buffer<D, f32>,
    ) -> Result<(), BackendError> {
        let (groups, codebook) = (quantizer.groups, quantizer.codebook());
        snapshot.check(&quantizer.method, groups)?;
        let weights = groups.weights();
        let per_group = snapshot.scales.len() / groups.count();
        let mut values = vec![0.0; if per_group == 0 { 0 } else { weights }];
        let mut states = Vec::new();
        for (group, range) in groups.ranges().enumerate() {
            let scales = &snapshot.scales[group * per_group..(group + 1) * per_group];
            let mut state: GroupState = bytemuck::Zeroable::zeroed();
            if let (Some(&positive), Some(&negative)) = (scales.first(), scales.last()) {
                state.scale = [positive, negative];
                state.solved = 1;
                codebook.decode(
                    &snapshot.levels[range.clone()],
                    Scale::Two { positive, negative },
                    &mut values[range],
                );
            }
            if let Some(moments) = snapshot.moments.get(4 * group..4 * group + 4) {
                state.first_moment = [moments[0], moments[1]];
                state.second_moment = [moments[2], moments[3]];
                state.trained = 1;
            }
            states.push(state);
        }
        self.upload(&snapshot.levels, 0, &quantizer.levels)?;
        self.upload(&states, 0, &quantizer.states)?;
        if per_group > 0 {
            assert_eq!(values.len(), quantized.len());
            self.upload(&values, 0, quantized)?;
        }
        Ok(())
    }
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
    /// The table and scratch of these groups.
    fn plan(
        &self,
        rows: Vec<Group>,
        group_of_block: &[u32],
        codebook: &Codebook,
        solver: Solver,
    ) -> Result<Plan<D>, BackendError> {
        let exact = match solver {
            Solver::Exact { two_scales } => {
                Some(self.exact_workspace(&rows, codebook, two_scales)?)
            }
            _ => None,
        };
        let block_codebook = match solver {
            Solver::ExactOnGrid { grid } => {
                Some(self.buffer_of(&[block_codebook(codebook, grid)])?)
            }
            _ => None,
        };
        Ok(Plan {
            solver,
            block_codebook,
            workspaces: self.buffer(rows.len())?,
            groups: Table::new(self, rows, group_of_block)?,
            codebook: self.buffer_of(&[device_codebook(codebook, solver)])?,
            partial: self.buffer(group_of_block.len() * BLOCK_SUMS)?,
            exact,
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

    fn launch_solvers(&self, plan: &mut Plan<D>, log: &mut StepLog<D>) -> Result<(), BackendError> {
        let groups = plan.groups.buffer.slice();
        if let Some(codebook) = &plan.block_codebook {
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
        let group_of_block = plan.groups.row_of_block.slice();
        let workspaces = plan.workspaces.slice_mut();
        let codebook = plan.codebook.slice();
        let partial = plan.partial.slice_mut();
        let (grid, block) = ([group_of_block.len() as u32, 1, 1], [THREADS, 1, 1]);
        let kernel = kernels::solve_begin {
            groups,
            workspaces,
            group_of_block,
            codebook,
            partial,
            searches: (plan.exact.as_mut()).map(|exact| exact.searches.slice_mut()),
            log: log.write(),
        };
        self.launch(kernel, grid, block)?;
        let log = log.read();
        let iterations = match plan.solver {
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
        if let Some(exact) = &mut plan.exact {
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
