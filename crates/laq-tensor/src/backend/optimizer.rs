//! Adam, and the check of the gradients.

use crate::{BackendError, Steps};

/// The magnitude from which a gradient stops the training, 1e18: with less, g² and the second moment are finite.
pub const LARGEST_GRADIENT: f32 = 1e18;

/// Adam's constants (PAPER.md §3, step 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// β₁, decay of the first moment. Default 0.9.
    pub beta1: f64,
    /// β₂, decay of the second moment. Default 0.999.
    pub beta2: f64,
    /// ε, added to √v. Default 1e-8.
    pub epsilon: f64,
}

impl Default for AdamSettings {
    fn default() -> Self {
        AdamSettings {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

impl AdamSettings {
    /// lr·√(1−β₂ᵗ)/(1−β₁ᵗ), the bias-corrected size of step t, counted from 1.
    pub fn step_size(&self, learning_rate: f64, step: u64) -> f64 {
        let t = step as f64;
        learning_rate * (1.0 - self.beta2.powf(t)).sqrt() / (1.0 - self.beta1.powf(t))
    }
}

/// The operands of one parameter's update.
#[derive(Debug)]
pub struct UpdateJob<'a, B: Optimizer + ?Sized> {
    /// The bound of |w|, or `None`.
    pub clip: Option<f32>,
    /// g.
    pub gradient: &'a B::Buffer<f32>,
    /// w.
    pub weight: &'a mut B::Buffer<f32>,
    /// m, Adam's first moment.
    pub first_moment: &'a mut B::Buffer<f32>,
    /// v, Adam's second moment.
    pub second_moment: &'a mut B::Buffer<f32>,
}

/// Adam on all parameters of a network in one call.
pub trait Optimizer: Steps {
    /// What the calls for one set of parameters keep between steps.
    type UpdateWorkspace: Default + Send;

    /// Stops the log with [`Stop::Gradient`](crate::Stop::Gradient) and the index of the first job
    /// whose gradient has an element that is NaN, or not below [`LARGEST_GRADIENT`] in magnitude.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        workspace: &mut Self::UpdateWorkspace,
        log: &mut Self::StepLog,
    ) -> Result<(), BackendError>;

    /// One step of Adam for each job: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w − step·m/(√v +
    /// ε), then w clipped to [−clip, clip] if set, with the step size of
    /// [`Steps::set_step_size`]. No effect if the log is stopped.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn update(
        &self,
        adam: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        workspace: &mut Self::UpdateWorkspace,
        log: &Self::StepLog,
    ) -> Result<(), BackendError>;
}
