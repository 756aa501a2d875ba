//! Quantization of a parameter, group by group, by the solvers of `laq-solvers`.

use laq_solvers::{Method, Scale, Solution, SolveError, Workspace};
use rayon::prelude::*;

use super::CpuBackend;
use super::memory::Buffer;
use super::optimizer::adam;
use super::steps::StepLog;
use crate::{AdamSettings, BackendError, GroupReport, Quantize, QuantizeJob, QuantizerSnapshot};

/// The state of one parameter's quantizer.
#[derive(Debug)]
pub struct ParameterQuantizer {
    method: Method,
    /// Level indices of all groups, in order.
    levels: Vec<i8>,
    groups: Vec<Group>,
}

#[derive(Debug, Default)]
struct Group {
    scale: Option<Scale>,
    solution: Option<Solution>,
    error: Option<SolveError>,
    workspace: Workspace,
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
    fn group_size(&self) -> usize {
        self.levels.len() / self.groups.len()
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
        let size = self.group_size();
        let Some(quantizer) = self.method.quantizer() else {
            quantized.copy_from_slice(latent);
            return Ok(());
        };
        if size == 0 {
            return Ok(());
        }
        self.groups
            .par_iter_mut()
            .zip(self.levels.par_chunks_exact_mut(size))
            .zip(latent.par_chunks_exact(size))
            .zip(second_moment.par_chunks_exact(size))
            .zip(quantized.par_chunks_exact_mut(size))
            .for_each(|((((group, levels), latent), second_moment), quantized)| {
                let solved = quantizer.solve_step(
                    latent,
                    second_moment,
                    group.scale,
                    levels,
                    quantized,
                    &mut group.workspace,
                );
                match solved {
                    Ok(solution) => {
                        group.scale = Some(solution.scale);
                        group.solution = Some(solution);
                    }
                    Err(error) => group.error = Some(error),
                }
            });
        for (index, group) in self.groups.iter_mut().enumerate() {
            if let Some(error) = group.error.take() {
                return Err((index, error));
            }
        }
        Ok(())
    }
}

impl Quantize for CpuBackend {
    type Quantizer = ParameterQuantizer;
    type QuantizeWorkspace = ();

    fn quantizer(
        &self,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<ParameterQuantizer, BackendError> {
        assert!(groups > 0 && weights.is_multiple_of(groups));
        Ok(ParameterQuantizer {
            method: method.clone(),
            levels: vec![0; weights],
            groups: (0..groups).map(|_| Group::default()).collect(),
        })
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
        let size = quantizer.group_size();
        assert!(latent.len() == quantizer.levels.len() && gradient.len() == latent.len());
        let Some(method) = quantizer.method.quantizer() else {
            return Ok(());
        };
        if size == 0 {
            return Ok(());
        }
        quantizer
            .groups
            .par_iter_mut()
            .zip(quantizer.levels.par_chunks_exact(size))
            .zip(latent.par_chunks_exact(size))
            .zip(gradient.par_chunks_exact_mut(size))
            .for_each(|(((group, levels), latent), gradient)| {
                let Some(scale) = group.scale else { return };
                if let Some(scale_gradient) = method.scale_gradient(levels, gradient) {
                    group.trained.get_or_insert_default().gradient = scale_gradient;
                }
                method.latent_gradient(latent, scale, levels, gradient);
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
        let levels = quantizer.levels.chunks_exact(quantizer.group_size().max(1));
        let solved = quantizer.groups.iter().zip(levels);
        let reports = solved.filter_map(|(group, levels)| {
            let solution = group.solution?;
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
        let (groups, size) = (quantizer.groups.len(), quantizer.group_size());
        snapshot.check(&quantizer.method, quantizer.levels.len(), groups)?;
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
            let range = index * size..(index + 1) * size;
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
