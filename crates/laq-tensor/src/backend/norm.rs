//! Batch normalization.

use crate::{BackendError, Steps};

/// Sizes and settings of a batch normalization. After a convolution every pixel is a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormShape {
    /// R, the rows that are averaged over.
    pub rows: usize,
    /// N, channels.
    pub channels: usize,
    /// ε, added to the variance.
    pub epsilon: f32,
    /// Whether ReLU follows.
    pub relu: bool,
}

/// Batch normalization, fused with ReLU.
pub trait Norm: Steps {
    /// Statistics of the batch (means, variances), and scratch.
    type NormWorkspace: Send;

    /// The workspace of one batch normalization of this shape.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn norm_workspace(&self, shape: NormShape) -> Result<Self::NormWorkspace, BackendError>;

    /// Batch normalization with the statistics of the batch, for training. Per channel:
    ///
    /// ```text
    /// μ = 1/R Σ x      σ² = 1/R Σ (x − μ)²      y = γ (x − μ)/√(σ² + ε) + β      then y ← max(0, y) with `relu`
    /// ```
    ///
    /// with x and y R × N, `scale` γ and `shift` β of N elements. μ and σ² stay in `workspace`.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn batch_norm_forward(
        &self,
        shape: NormShape,
        input: &Self::Buffer<f32>,
        scale: &Self::Buffer<f32>,
        shift: &Self::Buffer<f32>,
        workspace: &mut Self::NormWorkspace,
        output: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// The gradients of [`Norm::batch_norm_forward`]; requires a preceding call of it with the same
    /// operands. `gradient` passes ∂y and receives ∂x; with `relu`, ∂y is masked where y is 0.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn batch_norm_backward(
        &self,
        shape: NormShape,
        input: &Self::Buffer<f32>,
        scale: &Self::Buffer<f32>,
        workspace: &mut Self::NormWorkspace,
        gradient: &mut Self::Buffer<f32>,
        scale_gradient: &mut Self::Buffer<f32>,
        shift_gradient: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// Updates the running statistics with those of the last [`Norm::batch_norm_forward`]:
    /// `mean` ← (1 − momentum)·mean + momentum·μ,
    /// `variance` ← (1 − momentum)·variance + momentum·σ²·R/(R − 1), the unbiased variance (σ²
    /// itself for one row), at most the largest f32. No effect if the log is stopped.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn update_running_stats(
        &self,
        shape: NormShape,
        momentum: f32,
        workspace: &Self::NormWorkspace,
        log: &Self::StepLog,
        mean: &mut Self::Buffer<f32>,
        variance: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// Batch normalization with the running statistics, for inference. Invalidates `workspace` for
    /// a backward pass.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn batch_norm_inference(
        &self,
        shape: NormShape,
        input: &Self::Buffer<f32>,
        scale: &Self::Buffer<f32>,
        shift: &Self::Buffer<f32>,
        mean: &Self::Buffer<f32>,
        variance: &Self::Buffer<f32>,
        workspace: &mut Self::NormWorkspace,
        output: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;
}
