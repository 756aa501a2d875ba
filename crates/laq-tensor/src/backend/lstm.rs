//! The LSTM over a whole sequence.

use crate::{BackendError, Memory};

/// Sizes of a one-layer LSTM over a whole sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LstmShape {
    /// T, time steps.
    pub length: usize,
    /// B, sequences in a batch.
    pub batch: usize,
    /// V, distinct tokens.
    pub vocabulary: usize,
    /// H, hidden units.
    pub hidden: usize,
}

impl LstmShape {
    /// T·B, the rows of the per-step buffers.
    pub fn rows(&self) -> usize {
        self.length * self.batch
    }
}

/// The four blocks of rows of the LSTM's weights, in storage order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateBlock {
    /// i, the input gate.
    Input,
    /// f, the forget gate.
    Forget,
    /// g, the cell candidate.
    Cell,
    /// o, the output gate.
    Output,
}

impl GateBlock {
    /// All four, in storage order.
    pub const ALL: [GateBlock; 4] = [
        GateBlock::Input,
        GateBlock::Forget,
        GateBlock::Cell,
        GateBlock::Output,
    ];

    /// The name used in parameter names.
    pub fn name(self) -> &'static str {
        match self {
            GateBlock::Input => "input",
            GateBlock::Forget => "forget",
            GateBlock::Cell => "cell",
            GateBlock::Output => "output",
        }
    }
}

/// The weights of an LSTM; rows in blocks of H for the gates input, forget, cell, output.
#[derive(Debug)]
pub struct LstmParameters<'a, Tensor> {
    /// `W_x`, 4H × V.
    pub weight_ih: &'a Tensor,
    /// `W_h`, 4H × H.
    pub weight_hh: &'a Tensor,
    /// b, 4H.
    pub bias: &'a Tensor,
}

/// The outputs of [`Lstm::lstm_backward`]; shapes as in [`LstmParameters`].
#[derive(Debug)]
pub struct LstmGradients<'a, Tensor> {
    /// ∂L/∂`W_x`, 4H × V.
    pub weight_ih: &'a mut Tensor,
    /// ∂L/∂`W_h`, 4H × H.
    pub weight_hh: &'a mut Tensor,
    /// ∂L/∂b, 4H.
    pub bias: &'a mut Tensor,
}

/// The LSTM over a whole sequence.
pub trait Lstm: Memory {
    /// Activations kept from forward to backward, and scratch.
    type LstmWorkspace: Send;

    /// The workspace of one LSTM of this shape.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn lstm_workspace(&self, shape: LstmShape) -> Result<Self::LstmWorkspace, BackendError>;

    /// The LSTM over a whole sequence, from zero state (PAPER.md §4).
    ///
    /// ```text
    /// a_t = W_x[:, x_t] + W_h h_{t−1} + b          blocks i, f, g, o of a_t
    /// i, f, o = σ(a),  g = tanh(a)
    /// c_t = f ∘ c_{t−1} + i ∘ g
    /// h_t = o ∘ tanh(c_t)
    /// ```
    ///
    /// `tokens` holds T·B indices, time-major: x of time t and sequence b at t·B + b. `hidden`
    /// receives `h_t`, T·B × H in the same order.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Panics
    /// Where the bound of `tokens` exceeds V.
    fn lstm_forward(
        &self,
        tokens: &Self::Buffer<u8>,
        parameters: LstmParameters<'_, Self::Buffer<f32>>,
        workspace: &mut Self::LstmWorkspace,
        hidden: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// The gradients of the LSTM's weights; requires a preceding [`Lstm::lstm_forward`] with the
    /// same arguments.
    ///
    /// `hidden_gradient` (T·B × H) passes ∂L/∂`h_t` of the layer above and is overwritten. The
    /// gradients with respect to the gates' pre-activations `a_t` are clipped to [−clip, clip] at
    /// every time step (PAPER.md §5).
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    ///
    /// # Panics
    /// As [`Lstm::lstm_forward`].
    fn lstm_backward(
        &self,
        tokens: &Self::Buffer<u8>,
        parameters: LstmParameters<'_, Self::Buffer<f32>>,
        hidden: &Self::Buffer<f32>,
        hidden_gradient: &mut Self::Buffer<f32>,
        clip: f32,
        workspace: &mut Self::LstmWorkspace,
        gradients: LstmGradients<'_, Self::Buffer<f32>>,
    ) -> Result<(), BackendError>;
}
