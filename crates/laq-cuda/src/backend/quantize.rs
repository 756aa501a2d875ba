//! Quantization of parameters, around the solvers of `solve.rs` and the kernels of `gradient.cu`.

use std::ops::Range;

use laq_solvers::blocks::ScaleGrid;
use laq_solvers::{Codebook, Granularity, Groups, Method, Scale, Solver};
use laq_tensor::{
    AdamSettings, BackendError, GroupReport, Quantize, QuantizeJob, QuantizerSnapshot,
};

use super::optimizer::rates;
use super::solve::Plan;
use super::{CudaBackend, StepLog, THREADS};
use crate::buffer::Buffer;
use crate::device::Device;
use crate::kernels;
use crate::layout::{BLOCK_VALUES, BLOCK_WEIGHTS, GRADIENT_BLOCK, Group, GroupState, TanhWork};

/// The most groups of one parameter for the search of large groups, which takes 150 kB each.
const MAX_SEARCHES: usize = 4096;
/// The most rows of a grid of blocks.
const MAX_GRID_ROWS: usize = 65_535;
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
        let plan = self.plan(rows, &codebook, solver, workspace.0.take())?;
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
