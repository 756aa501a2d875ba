//! Losses of classifiers.

use crate::{BackendError, Steps};

/// The loss of a classifier with outputs y (R × N).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// 1/(R·N) Σ max(0, 1 − t·y)², with t = 1 for the target class and −1 for the others.
    SquaredHinge,
    /// `−1/R Σ log softmax(y)[target]`, in nats.
    CrossEntropy,
}

/// Losses and their gradients.
pub trait Losses: Steps {
    /// Computes the mean loss of `outputs` (R × N) for one target per row, and overwrites `outputs`
    /// with ∂L/∂y. The loss is appended to the log, which it stops where it is not finite; a
    /// stopped log takes none.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Panics
    /// Where the bound of `targets` exceeds N.
    fn loss_and_gradient(
        &self,
        loss: Loss,
        targets: &Self::Buffer<u8>,
        outputs: &mut Self::Buffer<f32>,
        log: &mut Self::StepLog,
    ) -> Result<(), BackendError>;

    /// Evaluates the first `rows` rows of `outputs` (R × N): their mean loss is appended to the
    /// log, and the rows whose argmax (the first of equal values) is not the target are added to
    /// [`StepStatus::errors`](crate::StepStatus::errors). A stopped log takes neither.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Panics
    /// As [`Losses::loss_and_gradient`].
    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Self::Buffer<u8>,
        outputs: &Self::Buffer<f32>,
        log: &mut Self::StepLog,
    ) -> Result<(), BackendError>;
}
