//! Dense layers and ReLU.

use crate::{BackendError, Memory};

/// Sizes of a dense layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseShape {
    /// R, examples.
    pub rows: usize,
    /// K, inputs.
    pub inputs: usize,
    /// N, outputs.
    pub outputs: usize,
}

/// Dense layers and ReLU.
pub trait Dense: Memory {
    /// y = x Wᵀ + b, with x R × K, W N × K, b N (zeros if `None`), y R × N.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        bias: Option<&Self::Buffer<f32>>,
        output: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// The gradients of [`Dense::dense_forward`]: ∂x = ∂y W, ∂W = ∂yᵀ x, ∂b = Σ ∂y. ∂x and ∂b are
    /// computed if present.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn dense_backward(
        &self,
        shape: DenseShape,
        input: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        output_gradient: &Self::Buffer<f32>,
        input_gradient: Option<&mut Self::Buffer<f32>>,
        weight_gradient: &mut Self::Buffer<f32>,
        bias_gradient: Option<&mut Self::Buffer<f32>>,
    ) -> Result<(), BackendError>;

    /// x ← max(0, x), in place; NaN propagates.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn relu(&self, values: &mut Self::Buffer<f32>) -> Result<(), BackendError>;

    /// ∂ ← 0 where `output`, the result of [`Dense::relu`], is not positive.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn relu_backward(
        &self,
        output: &Self::Buffer<f32>,
        gradient: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;
}
