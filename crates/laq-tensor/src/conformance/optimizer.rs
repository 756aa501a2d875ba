//! Adam.

use super::{ADAM, Suite, constant};
use crate::{Backend, BackendError, Tensor, UpdateJob, reference};

impl<B: Backend> Suite<'_, B> {
    /// Three steps of several parameters in one call.
    pub(super) fn update(&mut self, sizes: &[(usize, Option<f32>)]) -> Result<(), BackendError> {
        let backend = self.backend;
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        for &(count, clip) in sizes {
            let [weight, zeros] = [self.uniform(count, 1.0), constant(count, 0.0)];
            found.push(self.parameter(clip, &weight, &zeros)?);
            expected.push([weight, zeros.clone(), zeros]);
        }
        let (mut workspace, mut log) = (B::UpdateWorkspace::default(), backend.step_log()?);
        for step in 1..=3 {
            let step_size = ADAM.step_size(0.01, step);
            backend.set_step_size(step_size, &mut log)?;
            for (expected, found) in expected.iter_mut().zip(&mut found) {
                let [weight, m, v] = expected;
                let gradient = self.uniform(weight.len(), 0.1);
                reference::adam(ADAM, step_size, found.clip, &gradient, weight, m, v);
                self.write(&gradient, &mut found.gradient)?;
            }
            let jobs = &mut found.iter_mut().map(Updated::job);
            backend.update(ADAM, jobs, &mut workspace, &log)?;
        }
        for (expected, found) in expected.iter().zip(&found) {
            let [weight, m, v] = expected;
            let (count, clip) = (weight.len(), found.clip);
            let name = |what| {
                format!(
                    "update, n={count} of {}, clip={clip:?}: {what}",
                    sizes.len()
                )
            };
            self.compare(name("weight"), &found.weight, weight, 1e-6)?;
            self.compare(name("first moment"), &found.first_moment, m, 1e-6)?;
            self.compare(name("second moment"), &found.second_moment, v, 1e-6)?;
        }
        Ok(())
    }

    /// A parameter before its first step.
    pub(super) fn parameter(
        &self,
        clip: Option<f32>,
        weight: &[f64],
        gradient: &[f64],
    ) -> Result<Updated<B>, BackendError> {
        let zeros = constant(weight.len(), 0.0);
        Ok(Updated {
            clip,
            gradient: self.tensor(gradient)?,
            weight: self.tensor(weight)?,
            first_moment: self.tensor(&zeros)?,
            second_moment: self.tensor(&zeros)?,
        })
    }
}

/// The operands of one parameter's update.
pub(super) struct Updated<B: Backend> {
    clip: Option<f32>,
    pub(super) gradient: Tensor<B>,
    pub(super) weight: Tensor<B>,
    first_moment: Tensor<B>,
    second_moment: Tensor<B>,
}

impl<B: Backend> Updated<B> {
    pub(super) fn job(&mut self) -> UpdateJob<'_, B> {
        UpdateJob {
            clip: self.clip,
            gradient: &self.gradient,
            weight: &mut self.weight,
            first_moment: &mut self.first_moment,
            second_moment: &mut self.second_moment,
        }
    }
}
