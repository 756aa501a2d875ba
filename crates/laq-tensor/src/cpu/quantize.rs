//! Quantization of a parameter, group by group, by the solvers of `laq-solvers`.

use laq_solvers::{Curvature, Groups, Method, ParameterQuantizer, Scale};

use super::CpuBackend;
use super::memory::Buffer;
use super::optimizer::adam;
use super::steps::StepLog;
use crate::{
    AdamSettings, BackendError, GroupReport, LARGEST_GRADIENT, Quantize, QuantizeJob,
    QuantizerSnapshot,
};

/// The state of one parameter's quantizer.
#[derive(Debug)]
pub struct CpuQuantizer {
    method: Method,
    layout: Groups,
    /// `None` for full precision.
    solver: Option<ParameterQuantizer>,
    /// Adam's moments of the trained scales of each group; empty before their first gradient.
    moments: Vec<Moments>,
}

/// Adam's moments of a pair of trained scales.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    first: [f32; 2],
    second: [f32; 2],
}

impl Quantize for CpuBackend {
    type Quantizer = CpuQuantizer;
    type QuantizeWorkspace = ();

    fn quantizer(&self, method: &Method, groups: Groups) -> Result<CpuQuantizer, BackendError> {
        let solver = method.quantizer().cloned();
        Ok(CpuQuantizer {
            method: method.clone(),
            layout: groups,
            solver: solver.map(|solver| ParameterQuantizer::new(solver, groups)),
            moments: Vec::new(),
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
            let (latent, quantized) = (job.latent.as_slice(), job.quantized.as_mut_slice());
            let Some(solver) = &mut job.quantizer.solver else {
                quantized.copy_from_slice(latent);
                continue;
            };
            let curvature = Curvature::SecondMoment(job.second_moment.as_slice());
            let solved = solver.solve(latent, curvature, quantized);
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
        quantizer: &mut CpuQuantizer,
        gradient: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        if let Some(solver) = &mut quantizer.solver {
            solver.latent_gradient(latent.as_slice(), gradient.as_mut_slice());
            if quantizer.method.has_trained_scales() {
                let groups = quantizer.layout.count();
                quantizer.moments.resize(groups, Moments::default());
            }
        }
        Ok(())
    }

    fn quantizer_update(
        &self,
        settings: AdamSettings,
        log: &StepLog,
        quantizer: &mut CpuQuantizer,
    ) -> Result<(), BackendError> {
        let Some(solver) = &mut quantizer.solver else {
            return Ok(());
        };
        if log.is_stopped() {
            return Ok(());
        }
        for (moments, (scale, gradient)) in
            quantizer.moments.iter_mut().zip(solver.trained_scales())
        {
            let mut values = scale.pair();
            adam(
                self.isa,
                settings,
                log.step_size,
                None,
                &gradient.map(|value| (value as f32).clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT)),
                &mut values,
                &mut moments.first,
                &mut moments.second,
            );
            let [positive, negative] = values;
            *scale = Scale::Two { positive, negative };
        }
        Ok(())
    }

    fn quantizer_reports(
        &self,
        quantizer: &CpuQuantizer,
    ) -> Result<Vec<GroupReport>, BackendError> {
        let Some(solver) = &quantizer.solver else {
            return Ok(Vec::new());
        };
        let has_zero = solver.quantizer().codebook().values().contains(&0.0);
        let solved = solver.solutions().zip(quantizer.layout.ranges());
        let reports = solved.filter_map(|(solution, range)| {
            let (solution, levels) = (solution?, &solver.levels()[range]);
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

    fn quantizer_save(&self, quantizer: &CpuQuantizer) -> Result<QuantizerSnapshot, BackendError> {
        let Some(solver) = &quantizer.solver else {
            return Ok(QuantizerSnapshot {
                levels: vec![0; quantizer.layout.weights()],
                ..QuantizerSnapshot::default()
            });
        };
        // After a first solve that failed, the scales of only some groups are no state.
        let solved: Option<Vec<Scale>> = solver.scales().collect();
        let scales = solved.unwrap_or_default().into_iter();
        let scales = scales.flat_map(|scale| match scale {
            Scale::One(scale) => vec![scale],
            Scale::Two { positive, negative } => vec![positive, negative],
        });
        let moments = quantizer.moments.iter();
        Ok(QuantizerSnapshot {
            levels: solver.levels().to_vec(),
            scales: scales.collect(),
            moments: moments.flat_map(|m| [m.first, m.second].concat()).collect(),
        })
    }

    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut CpuQuantizer,
        quantized: &mut Buffer<f32>,
    ) -> Result<(), BackendError> {
        let (layout, groups) = (quantizer.layout, quantizer.layout.count());
        snapshot.check(&quantizer.method, layout)?;
        let Some(solver) = &mut quantizer.solver else {
            return Ok(());
        };
        let scales: Vec<Option<Scale>> = match snapshot.scales.len() / groups {
            1 => (snapshot.scales.iter())
                .map(|scale| Some(Scale::One(*scale)))
                .collect(),
            2 => (snapshot.scales.chunks_exact(2))
                .map(|pair| {
                    Some(Scale::Two {
                        positive: pair[0],
                        negative: pair[1],
                    })
                })
                .collect(),
            _ => vec![None; groups],
        };
        solver.load(&snapshot.levels, &scales, quantized.as_mut_slice());
        let moments = snapshot.moments.chunks_exact(4);
        quantizer.moments = moments
            .map(|m| Moments {
                first: [m[0], m[1]],
                second: [m[2], m[3]],
            })
            .collect();
        Ok(())
    }
}
