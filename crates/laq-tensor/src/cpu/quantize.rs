//! Quantization of a parameter, group by group, by the solvers of `laq-solvers`.

use laq_solvers::{Method, Scale, Solution, SolveError, Workspace};
use rayon::prelude::*;

use super::kernel::Kernel;
use crate::{AdamSettings, BackendError, GroupReport, QuantizerSnapshot};

/// What the quantizer of one parameter carries from step to step.
#[derive(Debug)]
pub struct ParameterQuantizer {
    method: Method,
    kernel: Kernel,
    /// Level indices of all groups, one after the other.
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

/// Gradient and Adam's moments of a pair of scales that are trained like weights.
#[derive(Clone, Copy, Debug, Default)]
struct TrainedScales {
    gradient: [f64; 2],
    first_moment: [f32; 2],
    second_moment: [f32; 2],
}

impl ParameterQuantizer {
    pub(crate) fn new(kernel: Kernel, method: &Method, weights: usize, groups: usize) -> Self {
        assert!(groups > 0 && weights.is_multiple_of(groups));
        ParameterQuantizer {
            method: method.clone(),
            kernel,
            levels: vec![0; weights],
            groups: (0..groups).map(|_| Group::default()).collect(),
        }
    }

    fn group_size(&self) -> usize {
        self.levels.len() / self.groups.len()
    }

    /// Solves all groups; what the first that could not be solved says, with its index.
    pub(crate) fn solve(
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

    pub(crate) fn backward(&mut self, latent: &[f32], gradient: &mut [f32]) {
        let size = self.group_size();
        assert!(latent.len() == self.levels.len() && gradient.len() == latent.len());
        let Some(quantizer) = self.method.quantizer() else {
            return;
        };
        if size == 0 {
            return;
        }
        self.groups
            .par_iter_mut()
            .zip(self.levels.par_chunks_exact(size))
            .zip(latent.par_chunks_exact(size))
            .zip(gradient.par_chunks_exact_mut(size))
            .for_each(|(((group, levels), latent), gradient)| {
                let Some(scale) = group.scale else { return };
                if let Some(scale_gradient) = quantizer.scale_gradient(levels, gradient) {
                    group.trained.get_or_insert_default().gradient = scale_gradient;
                }
                quantizer.latent_gradient(latent, scale, levels, gradient);
            });
    }

    pub(crate) fn update_scales(&mut self, adam: AdamSettings, step_size: f64) {
        for group in &mut self.groups {
            let (Some(trained), Some(Scale::Two { positive, negative })) =
                (&mut group.trained, &mut group.scale)
            else {
                continue;
            };
            let mut values = [*positive, *negative];
            let gradient = trained.gradient.map(|value| value as f32);
            super::dense::adam(
                self.kernel,
                adam,
                step_size,
                None,
                &gradient,
                &mut values,
                &mut trained.first_moment,
                &mut trained.second_moment,
            );
            [*positive, *negative] = values;
        }
    }

    pub(crate) fn reports(&self) -> Vec<GroupReport> {
        let Some(quantizer) = self.method.quantizer() else {
            return Vec::new();
        };
        let has_zero = quantizer.codebook().values().contains(&0.0);
        self.groups
            .iter()
            .zip(self.levels.chunks_exact(self.group_size().max(1)))
            .filter_map(|(group, levels)| {
                let solution = group.solution?;
                let zeros = levels
                    .iter()
                    .filter(|&&level| has_zero && level == 0)
                    .count();
                Some(GroupReport {
                    scale: solution.scale,
                    sparsity: zeros as f64 / levels.len() as f64,
                    weighted_error: solution.weighted_error,
                    rounds: solution.rounds,
                })
            })
            .collect()
    }

    pub(crate) fn save(&self) -> QuantizerSnapshot {
        let trained: Vec<TrainedScales> = self.groups.iter().filter_map(|g| g.trained).collect();
        // After a failed first solve only some groups have a scale, which is as good as none.
        let solved: Option<Vec<Scale>> = self.groups.iter().map(|group| group.scale).collect();
        let scales = solved
            .unwrap_or_default()
            .into_iter()
            .flat_map(|scale| match scale {
                Scale::One(scale) => vec![scale],
                Scale::Two { positive, negative } => vec![positive, negative],
            });
        let scales = scales.collect();
        QuantizerSnapshot {
            levels: self.levels.clone(),
            scales,
            moments: trained
                .iter()
                .flat_map(|t| [t.first_moment, t.second_moment].concat())
                .collect(),
        }
    }

    pub(crate) fn load(
        &mut self,
        snapshot: &QuantizerSnapshot,
        quantized: &mut [f32],
    ) -> Result<(), BackendError> {
        let groups = self.groups.len();
        snapshot.check(&self.method, self.levels.len(), groups)?;
        self.levels.copy_from_slice(&snapshot.levels);
        let size = self.group_size();
        for (index, group) in self.groups.iter_mut().enumerate() {
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
            if let (Some(quantizer), Some(scale)) = (self.method.quantizer(), group.scale) {
                let levels = &self.levels[range.clone()];
                quantizer
                    .codebook()
                    .decode(levels, scale, &mut quantized[range]);
            }
        }
        Ok(())
    }
}
