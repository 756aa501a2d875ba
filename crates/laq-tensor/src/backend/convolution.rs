//! The 3 × 3 convolution.

use crate::{BackendError, Memory};

/// Sizes of a 3 × 3 convolution with stride 1 and zero padding 1; the output has the height and
/// width of the input.
///
/// Images are stored as NHWC: B × height × width × channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionShape {
    /// B, images.
    pub batch: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// C, channels of the input.
    pub in_channels: usize,
    /// F, filters: channels of the output.
    pub out_channels: usize,
}

impl ConvolutionShape {
    /// B·height·width, the pixels of the batch.
    pub fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    /// 9·C, the weights of a filter.
    pub fn filter(&self) -> usize {
        9 * self.in_channels
    }
}

/// The 3 × 3 convolution.
pub trait Convolution: Memory {
    /// Scratch of a convolution.
    type ConvolutionWorkspace: Send;

    /// The workspace of one convolution of this shape.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn convolution_workspace(
        &self,
        shape: ConvolutionShape,
    ) -> Result<Self::ConvolutionWorkspace, BackendError>;

    /// What [`Convolution::convolution_forward`] and [`Convolution::convolution_backward`] compute this
    /// shape by, where the backend has several algorithms whose numbers differ. It depends on the shape
    /// alone.
    fn convolution_algorithm(&self, _shape: ConvolutionShape) -> Option<&'static str> {
        None
    }

    /// The convolution of [`ConvolutionShape`], with W F × 3 × 3 × C and b F (zeros if `None`).
    ///
    /// ```text
    /// y[n, i, j, f] = b[f] + Σ_{p, q, c} W[f, p, q, c] · x[n, i + p − 1, j + q − 1, c]      x = 0 outside of the image
    /// ```
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn convolution_forward(
        &self,
        shape: ConvolutionShape,
        input: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        bias: Option<&Self::Buffer<f32>>,
        workspace: &mut Self::ConvolutionWorkspace,
        output: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// The convolution of an evaluation: as [`Convolution::convolution_forward`], but no backward pass
    /// follows. A backend whose [`Convolution::convolution_forward`] is faster at the cost of rounding
    /// errors sums the products here in order, so that networks run from a file of packed weights return
    /// the same bits.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn convolution_inference(
        &self,
        shape: ConvolutionShape,
        input: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        bias: Option<&Self::Buffer<f32>>,
        workspace: &mut Self::ConvolutionWorkspace,
        output: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError> {
        self.convolution_forward(shape, input, weight, bias, workspace, output)
    }

    /// The gradients of [`Convolution::convolution_forward`]; requires a preceding call of it with
    /// the same operands. ∂x and ∂b are computed if present.
    ///
    /// ```text
    /// ∂x[n, i, j, c]    = Σ_{p, q, f} W[f, p, q, c] · ∂y[n, i − p + 1, j − q + 1, f]
    /// ∂W[f, p, q, c]    = Σ_{n, i, j} ∂y[n, i, j, f] · x[n, i + p − 1, j + q − 1, c]
    /// ∂b[f]             = Σ_{n, i, j} ∂y[n, i, j, f]
    /// ```
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &Self::Buffer<f32>,
        weight: &Self::Buffer<f32>,
        output_gradient: &Self::Buffer<f32>,
        workspace: &mut Self::ConvolutionWorkspace,
        input_gradient: Option<&mut Self::Buffer<f32>>,
        weight_gradient: &mut Self::Buffer<f32>,
        bias_gradient: Option<&mut Self::Buffer<f32>>,
    ) -> Result<(), BackendError>;
}
