//! Adam, and the check of the gradients.

use rayon::prelude::*;

use super::CpuBackend;
use super::memory::{CHUNK, is_bounded};
use super::steps::StepLog;
use crate::{AdamSettings, BackendError, Optimizer, Stop, UpdateJob};
use laq_simd::{Isa, multiversion};

impl Optimizer for CpuBackend {
    type UpdateWorkspace = ();

    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        _workspace: &mut (),
        log: &mut StepLog,
    ) -> Result<(), BackendError> {
        for (parameter, job) in jobs.enumerate() {
            let gradient = job.gradient;
            if !gradient.is_known_bounded() && !is_bounded(self.isa, gradient.as_slice()) {
                log.stop(Stop::Gradient { parameter });
            }
        }
        Ok(())
    }

    fn update(
        &self,
        settings: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        _workspace: &mut (),
        log: &StepLog,
    ) -> Result<(), BackendError> {
        if log.is_stopped() {
            return Ok(());
        }
        for job in jobs {
            adam(
                self.isa,
                settings,
                log.step_size,
                job.clip,
                job.gradient.as_slice(),
                job.weight.as_mut_slice(),
                job.first_moment.as_mut_slice(),
                job.second_moment.as_mut_slice(),
            );
        }
        Ok(())
    }
}

pub(super) fn adam(
    isa: Isa,
    settings: AdamSettings,
    step_size: f64,
    clip: Option<f32>,
    gradient: &[f32],
    weight: &mut [f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
) {
    assert!(
        gradient.len() == weight.len()
            && first_moment.len() == weight.len()
            && second_moment.len() == weight.len()
    );
    weight
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(first_moment.par_chunks_mut(CHUNK))
        .zip(second_moment.par_chunks_mut(CHUNK))
        .for_each(|(((weight, gradient), first), second)| {
            adam_chunk(
                isa, settings, step_size, clip, gradient, weight, first, second,
            );
        });
}

multiversion! {
    fn adam_chunk(
        settings: AdamSettings, step_size: f64, clip: Option<f32>, gradient: &[f32], weight: &mut [f32], first: &mut [f32], second: &mut [f32],
    ) {
        let n = weight.len();
        let (gradient, first, second) = (&gradient[..n], &mut first[..n], &mut second[..n]);
        let (beta1, beta2) = (settings.beta1 as f32, settings.beta2 as f32);
        let (rest1, rest2) = ((1.0 - settings.beta1) as f32, (1.0 - settings.beta2) as f32);
        let (size, epsilon) = (step_size as f32, settings.epsilon as f32);
        let limit = clip.unwrap_or(f32::INFINITY);
        for j in 0..n {
            let g = gradient[j];
            first[j] = beta1 * first[j] + rest1 * g;
            second[j] = beta2 * second[j] + rest2 * (g * g);
            let moved = weight[j] - size * first[j] / (second[j].sqrt() + epsilon);
            weight[j] = moved.clamp(-limit, limit);
        }
    }
}
