//! Quantization of a parameter, group by group, by the solvers of `laq-solvers`.

use laq_solvers::{Groups, Method, Scale, Solution, SolveError, Workspace};
use rayon::prelude::*;

use super::CpuBackend;
use super::memory::Buffer;
use super::optimizer::adam;
use super::steps::StepLog;
use crate::{AdamSettings, BackendError, GroupReport, Quantize, QuantizeJob, QuantizerSnapshot};

/// The tasks of a parameter, if it has more spans of groups than that.
const TASKS: usize = 64;

/// The state of one parameter's quantizer.
#[derive(Debug)]
pub struct ParameterQuantizer {
    method: Method,
    layout: Groups,
    /// Level indices of all groups, in order.
    levels: Vec<i8>,
    groups: Vec<Group>,
    /// What is solved one after another: successive spans of the layout.
    tasks: Vec<Task>,
}

#[derive(Debug, Default)]
struct Task {
    workspace: Workspace,
    /// The first group that failed.
    error: Option<(usize, SolveError)>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    scale: Option<Scale>,
    solution: Option<Solution>,
    trained: Option<TrainedScales>,
}

/// Gradient and Adam's moments of a pair of trained scales.
#[derive(Clone, Copy, Debug, Default)]
struct TrainedScales {
    gradient: [f64; 2],
    first_moment: [f32; 2],
    second_moment: [f32; 2],
}

impl ParameterQuantizer {
    fn new(method: &Method, layout: Groups) -> Self {
        let tasks = layout.spans().div_ceil(spans_of_task(layout));
        Self {
            method: method.clone(),
            layout,
            levels: vec![0; layout.weights()],
            groups: vec![Group::default(); layout.count()],
            tasks: (0..tasks).map(|_| Task::default()).collect(),
        }
    }

    /// The weights and the groups of a task; the last has fewer.
    fn task_sizes(&self) -> [usize; 2] {
        let spans = spans_of_task(self.layout);
        [self.layout.span(), self.layout.per_span()].map(|size| spans * size)
    }

    /// Solves all groups. The error is that of the first group that failed, with its index.
    fn solve(
        &mut self,
        latent: &[f32],
        second_moment: &[f32],
        quantized: &mut [f32],
    ) -> Result<(), (usize, SolveError)> {
        assert!(latent.len() == self.levels.len() && quantized.len() == latent.len());
        assert_eq!(second_moment.len(), latent.len());
        let [size, groups] = self.task_sizes();
        let Some(quantizer) = self.method.quantizer() else {
            quantized.copy_from_slice(latent);
            return Ok(());
        };
        if size == 0 {
            return Ok(());
        }
        let layout = self.layout;
        (self.tasks.par_iter_mut().enumerate())
            .zip(self.groups.par_chunks_mut(groups))
            .zip(self.levels.par_chunks_mut(size))
            .zip(latent.par_chunks(size))
            .zip(second_moment.par_chunks(size))
            .zip(quantized.par_chunks_mut(size))
            .for_each(|(parts, quantized)| {
                let (((((index, task), of_task), levels), latent), second_moment) = parts;
                for (within, group) in of_task.iter_mut().enumerate() {
                    let range = layout.range(within);
                    let solved = quantizer.solve_step(
                        &latent[range.clone()],
                        &second_moment[range.clone()],
                        group.scale,
                        &mut levels[range.clone()],
                        &mut quantized[range],
                        &mut task.workspace,
                    );
                    match solved {
                        Ok(solution) => {
                            group.scale = Some(solution.scale);
                            group.solution = Some(solution);
                        }
                        Err(error) => {
                            task.error = Some((index * groups + within, error));
                            break;
                        }
                    }
                }
            });
        match self.tasks.iter_mut().find_map(|task| task.error.take()) {
            Some(error) => {
                self.tasks.iter_mut().for_each(|task| task.error = None);
                Err(error)
            }
            None => Ok(()),
        }
    }
}

/// The spans of a task.
fn spans_of_task(layout: Groups) -> usize {
    layout.spans().div_ceil(TASKS).max(1)
}

impl Quantize for CpuBackend {
    type Quantizer = ParameterQuantizer;
    type QuantizeWorkspace = ();

    fn quantizer(
        &self,
        method: &Method,
        groups: Groups,
    ) -> Result<ParameterQuantizer, BackendError> {
        Ok(ParameterQuantizer::new(method, groups))
    }

    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        _workspace: &mut (),
        log: &mut StepLog,
    ) -> Result<(), BackendError> {
        if log.is_stopped() {
            return Ok(());
        }
        for (parameter, job) in jobs.enumerate() {
            let solved = job.quantizer.solve(
                job.latent.as_slice(),
                job.second_moment.as_slice(),
                job.quantized.as_mut_slice(),
            );
            solved.map_err(|(group, source)| BackendError::Solve {
                parameter,
                group,
                source,
            })?;
        }
        Ok(())
    }

    fn quantizer_backward(
        &self,
        latent: &Buffer<f32>,
        quantizer: &mut ParameterQuantizer,
        gradient: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let (latent, gradient) = (latent.as_slice(), gradient.as_mut_slice());
        assert!(latent.len() == quantizer.levels.len() && gradient.len() == latent.len());
        let Some(method) = quantizer.method.quantizer() else {
            return Ok(());
        };
        let [size, groups] = quantizer.task_sizes();
        if size == 0 || !method.has_latent_gradient() {
            return Ok(());
        }
        let layout = quantizer.layout;
        (quantizer.groups.par_chunks_mut(groups))
            .zip(quantizer.levels.par_chunks(size))
            .zip(latent.par_chunks(size))
            .zip(gradient.par_chunks_mut(size))
            .for_each(|(((groups, levels), latent), gradient)| {
                for (group, range) in groups.iter_mut().zip(layout.ranges()) {
                    let Some(scale) = group.scale else { continue };
                    let (levels, gradient) = (&levels[range.clone()], &mut gradient[range.clone()]);
                    if let Some(scale_gradient) = method.scale_gradient(levels, gradient) {
                        group.trained.get_or_insert_default().gradient = scale_gradient;
                    }
                    method.latent_gradient(&latent[range], scale, levels, gradient);
                }
            });
        Ok(())
    }

    fn quantizer_update(
        &self,
        settings: AdamSettings,
        log: &StepLog,
        quantizer: &mut ParameterQuantizer,
    ) -> Result<(), BackendError> {
        if log.is_stopped() {
            return Ok(());
        }
        for group in &mut quantizer.groups {
            let (Some(trained), Some(Scale::Two { positive, negative })) =
                (&mut group.trained, &mut group.scale)
            else {
                continue;
            };
            let mut values = [*positive, *negative];
            let gradient = trained.gradient.map(|value| value as f32);
            adam(
                self.isa,
                settings,
                log.step_size,
                None,
                &gradient,
                &mut values,
                &mut trained.first_moment,
                &mut trained.second_moment,
            );
            [*positive, *negative] = values;
        }
        Ok(())
    }

    fn quantizer_reports(
        &self,
        quantizer: &ParameterQuantizer,
    ) -> Result<Vec<GroupReport>, BackendError> {
        let Some(method) = quantizer.method.quantizer() else {
            return Ok(Vec::new());
        };
        let has_zero = method.codebook().values().contains(&0.0);
        let solved = quantizer.groups.iter().zip(quantizer.layout.ranges());
        let reports = solved.filter_map(|(group, range)| {
            let (solution, levels) = (group.solution?, &quantizer.levels[range]);
            let zeros = levels.iter().filter(|&&level| has_zero && level == 0);
            Some(GroupReport {
                scale: solution.scale,
                sparsity: zeros.count() as f64 / levels.len() as f64,
                weighted_error: solution.weighted_error,
                iterations: solution.iterations,
            })
        });
        Ok(reports.collect())
    }

    fn quantizer_save(
        &self,
        quantizer: &ParameterQuantizer,
    ) -> Result<QuantizerSnapshot, BackendError> {
        let groups = quantizer.groups.iter();
        let trained: Vec<TrainedScales> = groups.clone().filter_map(|g| g.trained).collect();
        // After a first solve that failed, the scales of only some groups are no state.
        let solved: Option<Vec<Scale>> = groups.map(|group| group.scale).collect();
        let scales = solved.unwrap_or_default().into_iter();
        let scales = scales.flat_map(|scale| match scale {
            Scale::One(scale) => vec![scale],
            Scale::Two { positive, negative } => vec![positive, negative],
        });
        Ok(QuantizerSnapshot {
            levels: quantizer.levels.clone(),
            scales: scales.collect(),
            moments: trained
                .iter()
                .flat_map(|t| [t.first_moment, t.second_moment].concat())
                .collect(),
        })
    }

    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut ParameterQuantizer,
        quantized: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let quantized = quantized.as_mut_slice();
        let (layout, groups) = (quantizer.layout, quantizer.groups.len());
        snapshot.check(&quantizer.method, layout)?;
        quantizer.levels.copy_from_slice(&snapshot.levels);
        for (index, group) in quantizer.groups.iter_mut().enumerate() {
            group.solution = None;
            group.scale = match snapshot.scales.len() / groups {
                1 => Some(Scale::One(snapshot.scales[index])),
                2 => Some(Scale::Two {
                    positive: snapshot.scales[2 * index],
                    negative: snapshot.scales[2 * index + 1],
                }),
                _ => None,
            };
            group.trained = snapshot
                .moments
                .get(4 * index..4 * index + 4)
                .map(|m| TrainedScales {
                    gradient: [0.0; 2],
                    first_moment: [m[0], m[1]],
                    second_moment: [m[2], m[3]],
                });
            let range = layout.range(index);
            if let (Some(method), Some(scale)) = (quantizer.method.quantizer(), group.scale) {
                let levels = &quantizer.levels[range.clone()];
                method
                    .codebook()
                    .decode(levels, scale, &mut quantized[range]);
            }
        }
        Ok(())
    }
}
