//! 2 × 2 max pooling.

use crate::{BackendError, Memory};

/// Sizes of 2 × 2 max pooling with stride 2. An odd last row or column is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// B, images.
    pub batch: usize,
    /// Rows of an image of the input.
    pub height: usize,
    /// Columns of an image of the input.
    pub width: usize,
    /// C.
    pub channels: usize,
}

impl PoolShape {
    /// The positions of a window, the bound of `argmax` in [`Pool::max_pool_forward`].
    pub const WINDOW: usize = 4;

    /// Elements of the output, B × ⌊height/2⌋ × ⌊width/2⌋ × C.
    pub fn outputs(&self) -> usize {
        self.batch * (self.height / 2) * (self.width / 2) * self.channels
    }
}

/// 2 × 2 max pooling.
pub trait Pool: Memory {
    /// The maximum of every 2 × 2 window of each channel. `argmax` (one per output, bound
    /// [`PoolShape::WINDOW`]) receives its position, 0 to 3 row by row; the first of equal values.
    /// NaN compares greater than every number.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Self::Buffer<f32>,
        argmax: &mut Self::Buffer<u8>,
        output: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// ∂x = ∂y at the position of the maximum, 0 elsewhere.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn max_pool_backward(
        &self,
        shape: PoolShape,
        argmax: &Self::Buffer<u8>,
        output_gradient: &Self::Buffer<f32>,
        input_gradient: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;
}
