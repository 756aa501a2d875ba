//! The contract between a network and the device that computes it.
//!
//! [`Backend`] speaks at the granularity of a layer's kernel, not of an array library, so that a
//! backend is free to fuse: a whole sequence of the LSTM is one call. Forward and backward are
//! explicit; there is no tape. Which parameters exist and in which order they are used is the
//! business of `laq-models`; what a method does with a weight is that of `laq-solvers`.

use laq_solvers::{Method, Scale, SolveError};
use ndarray::{ArrayD, ArrayViewD};

/// What can go wrong on a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A kernel was asked for by name that this build or this processor does not have.
    #[error(
        "the kernel \"{found}\" (from {variable}) is not available on this processor: \
         expected one of {available}; unset {variable} to let the fastest be picked"
    )]
    UnknownKernel {
        /// The name that was found.
        found: String,
        /// The environment variable that named it.
        variable: &'static str,
        /// The names that would have been accepted, comma separated.
        available: String,
    },
    /// A solver refused a group of weights.
    #[error("parameter {parameter}, group {group}: {source}")]
    Solve {
        /// Which of the parameters that were to be quantized.
        parameter: usize,
        /// Index of the group of rows within the parameter.
        group: usize,
        /// What the solver said.
        source: SolveError,
    },
    /// A device failed, or cannot be used.
    #[error("{device}: {what}")]
    Device {
        /// Which device.
        device: String,
        /// What it says, and what to do.
        what: String,
    },
    /// A device has no room.
    #[error(
        "{device} has no room for {} MB more: {} MB of {} MB are free; use a smaller batch or network, or end what \
         else runs on it",
        asked / 1_000_000, free / 1_000_000, total / 1_000_000
    )]
    DeviceMemory {
        /// Which device.
        device: String,
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that it has.
        total: u64,
    },
    /// A stored state does not fit the parameter that it is loaded into.
    #[error("the stored quantizer state does not fit: {0}")]
    StateMismatch(String),
}

/// Sizes of a one-layer LSTM over a whole sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LstmShape {
    /// T, time steps.
    pub length: usize,
    /// B, sequences side by side.
    pub batch: usize,
    /// V, distinct input symbols.
    pub symbols: usize,
    /// H, cells.
    pub hidden: usize,
}

impl LstmShape {
    /// T·B, the rows of everything that is kept for each time step and sequence.
    pub fn rows(&self) -> usize {
        self.length * self.batch
    }
}

/// The four blocks of rows of the LSTM's weights, in the order in which they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateBlock {
    /// i, how much of the candidate is written into the cell.
    Input,
    /// f, how much of the cell is kept.
    Forget,
    /// g, the candidate.
    Cell,
    /// o, how much of the cell is shown.
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

/// Where [`Backend::lstm_backward`] writes; shapes as in [`LstmParameters`].
#[derive(Debug)]
pub struct LstmGradients<'a, Tensor> {
    /// ∂L/∂`W_x`, 4H × V.
    pub weight_ih: &'a mut Tensor,
    /// ∂L/∂`W_h`, 4H × H.
    pub weight_hh: &'a mut Tensor,
    /// ∂L/∂b, 4H.
    pub bias: &'a mut Tensor,
}

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

/// Sizes of a convolution with 3 × 3 filters, stride 1 and one pixel of zeros around the image, so that the output is
/// as high and as wide as the input.
///
/// Images are stored pixel by pixel with the channels innermost: B × height × width × channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionShape {
    /// B, images.
    pub batch: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// C, channels of the input.
    pub inputs: usize,
    /// F, filters, which are the channels of the output.
    pub outputs: usize,
}

impl ConvolutionShape {
    /// B·height·width, the pixels of the batch.
    pub fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    /// 9·C, the weights of a filter.
    pub fn filter(&self) -> usize {
        9 * self.inputs
    }
}

/// Sizes of 2 × 2 max pooling with stride 2. An odd last row or column is left out.
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
    /// Numbers of the output, B × ⌊height/2⌋ × ⌊width/2⌋ × C.
    pub fn outputs(&self) -> usize {
        self.batch * (self.height / 2) * (self.width / 2) * self.channels
    }
}

/// Sizes and settings of a batch normalization. Behind a convolution every pixel is a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormShape {
    /// R, what is averaged over.
    pub rows: usize,
    /// N, channels.
    pub channels: usize,
    /// ε, added to the variance.
    pub epsilon: f32,
    /// Whether max(0, ·) follows.
    pub relu: bool,
}

/// Adam's constants (PAPER.md §3, step 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// β₁, decay of the first moment, default 0.9.
    pub beta1: f64,
    /// β₂, decay of the second moment, default 0.999.
    pub beta2: f64,
    /// ε, added to √v, default 1e-8.
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

/// Why the steps of a training stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The loss of a batch is not finite.
    Loss,
    /// A gradient is not finite.
    Gradient {
        /// Which of the parameters whose gradients were checked.
        parameter: usize,
    },
    /// A solver refused a group of weights.
    Solve {
        /// Which of the parameters that were to be quantized.
        parameter: usize,
        /// Index of the group of rows within it.
        group: usize,
    },
}

/// What [`Backend::read_record`] found, beside the losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recorded {
    /// Why the last of the steps was not finished, and all that may have been asked for after it were not begun.
    pub stop: Option<Stop>,
    /// Seconds between [`Backend::start_clock`] and [`Backend::stop_clock`], added up.
    pub seconds: f64,
    /// Wrong answers that [`Backend::evaluate_outputs`] has counted.
    pub errors: u64,
}

/// The most losses that a [`Backend::Record`] takes before it is read.
pub const RECORD_CAPACITY: usize = 256;

/// The operands of one parameter's quantization.
#[derive(Debug)]
pub struct QuantizeJob<'a, B: Backend + ?Sized> {
    /// w.
    pub latent: &'a B::Tensor,
    /// v, Adam's second moment.
    pub second_moment: &'a B::Tensor,
    /// The method and its state.
    pub quantizer: &'a mut B::Quantizer,
    /// Receives ŵ.
    pub quantized: &'a mut B::Tensor,
}

/// The operands of one parameter's update.
#[derive(Debug)]
pub struct UpdateJob<'a, B: Backend + ?Sized> {
    /// The limit of |w|, where there is one.
    pub clip: Option<f32>,
    /// g.
    pub gradient: &'a B::Tensor,
    /// w.
    pub weight: &'a mut B::Tensor,
    /// m, Adam's first moment.
    pub first_moment: &'a mut B::Tensor,
    /// v, Adam's second moment.
    pub second_moment: &'a mut B::Tensor,
}

/// What a network of classes is trained to lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// 1/(R·N) Σ max(0, 1 − t·y)², with t = 1 for the class of an example and −1 for the others.
    SquaredHinge,
    /// `−1/R Σ log softmax(y)[class]`, in nats.
    CrossEntropy,
}

/// What the last [`Backend::quantize`] did to one group of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReport {
    /// The scale(s), α or (α, β).
    pub scale: Scale,
    /// Share of the weights whose quantized value is zero.
    pub sparsity: f64,
    /// ½ Σ d (w − ŵ)².
    pub weighted_error: f64,
    /// Rounds of the alternating solver.
    pub rounds: u32,
}

/// What a quantizer carries from one iteration to the next, in host memory, for a checkpoint.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct QuantizerSnapshot {
    /// Level indices, one per weight.
    pub levels: Vec<i8>,
    /// One number a group, α, or two, (α, β). Empty before the first solve.
    pub scales: Vec<f32>,
    /// Adam's moments of trained scales, four a group: two first, two second; empty otherwise.
    pub moments: Vec<f32>,
}

impl QuantizerSnapshot {
    /// Whether it can be that of a parameter of `weights` numbers in `groups` groups, quantized by `method`.
    ///
    /// # Errors
    /// [`BackendError::StateMismatch`] when it is of another size, or has levels that the method does not have.
    pub fn check(
        &self,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<(), BackendError> {
        let mismatch = |what: &str, found: usize, expected: String| {
            Err(BackendError::StateMismatch(format!(
                "{found} {what}, expected {expected}"
            )))
        };
        if self.levels.len() != weights {
            return mismatch("levels", self.levels.len(), weights.to_string());
        }
        if ![0, groups, 2 * groups].contains(&self.scales.len()) {
            let expected = format!("0, {groups} or {}", 2 * groups);
            return mismatch("scales", self.scales.len(), expected);
        }
        if ![0, 4 * groups].contains(&self.moments.len()) {
            let expected = format!("0 or {}", 4 * groups);
            return mismatch("moments of scales", self.moments.len(), expected);
        }
        let quantizer = method.quantizer().filter(|_| !self.scales.is_empty());
        let Some(quantizer) = quantizer else {
            return Ok(());
        };
        let known: Vec<i8> = quantizer.codebook().levels().collect();
        match self.levels.iter().find(|level| !known.contains(level)) {
            Some(level) => Err(BackendError::StateMismatch(format!(
                "level {level}, which {method} does not have"
            ))),
            None => Ok(()),
        }
    }
}

/// A device that holds tensors of f32 and computes layers on them.
///
/// Tensors are dense and row-major. An operation whose arguments have the wrong size panics: sizes
/// are decided by `laq-models`, never by a file. Every buffer is made before training starts, so
/// that a step need not allocate.
///
/// A device may work through what it is asked for later. What a step finds out therefore stays on the device, in a
/// [`Backend::Record`], until the host reads it: its loss, and whether a number was not finite. Once one was not, the record
/// is stopped, and nothing that takes it changes a weight, a moment, an average or a level any more.
pub trait Backend: Send + Sync {
    /// A dense row-major array of f32 in the device's memory.
    type Tensor: Send;
    /// A batch of symbol indices in the device's memory.
    type Symbols: Send;
    /// The numbers of examples, in an order, in the device's memory.
    type Order: Send;
    /// What an LSTM keeps from forward to backward, and its scratch.
    type LstmSpace: Send;
    /// What a convolution needs beside its operands.
    type ConvolutionSpace: Send;
    /// What a batch normalization keeps of a batch (means, deviations), and its scratch.
    type NormSpace: Send;
    /// A quantizer's state for one parameter: levels, scales, scratch.
    type Quantizer: Send;
    /// What quantizing several parameters at once needs beside them.
    type QuantizeSpace: Send;
    /// What updating several parameters at once needs beside them.
    type UpdateSpace: Send;
    /// What steps leave behind for the host: their losses, the time that was asked for, and why they stopped.
    type Record: Send;
    /// A sequence of operations that is done again and again; see [`Backend::run`].
    type Recording: Send;

    /// Which device and which kernels, for the record of a run.
    fn describe(&self) -> String;

    /// How the device does its work, for whoever looks into it: ways that it has chosen, and what it could not do in its best way.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// An empty record.
    ///
    /// # Errors
    /// When the device has no room.
    fn record(&self) -> Result<Self::Record, BackendError>;

    /// The size of the step that comes, for [`Backend::update`] and [`Backend::quantizer_update`].
    ///
    /// # Errors
    /// When the device fails.
    fn begin_step(&self, step_size: f64, record: &mut Self::Record) -> Result<(), BackendError>;

    /// Waits for all that was asked for, appends the losses since the last call to `losses`, in order, and leaves the
    /// record empty. After a [`Stop`] the last loss is that of the step that was not finished, but for
    /// [`Stop::Solve`], which comes before the loss.
    ///
    /// # Errors
    /// When the device fails, now or in what was asked for before.
    fn read_record(
        &self,
        record: &mut Self::Record,
        losses: &mut Vec<f64>,
    ) -> Result<Recorded, BackendError>;

    /// Begins to take the time.
    ///
    /// # Errors
    /// When the device fails.
    fn start_clock(&self, record: &mut Self::Record) -> Result<(), BackendError>;

    /// Adds the time since [`Backend::start_clock`] to the record.
    ///
    /// # Errors
    /// When the device fails.
    fn stop_clock(&self, record: &mut Self::Record) -> Result<(), BackendError>;

    /// Nothing done yet, for [`Backend::run`].
    fn recording(&self) -> Self::Recording;

    /// Does what `body` asks for. With one recording, `body` must ask for the same operations on the same operands every
    /// time, and for no copies to or from the host: a device may note them once and repeat them without `body`.
    ///
    /// # Errors
    /// Those of `body`, and when the device fails.
    fn run(
        &self,
        recording: &mut Self::Recording,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError>;

    /// A tensor of zeros.
    ///
    /// # Errors
    /// When the device has no room.
    fn zeros(&self, shape: &[usize]) -> Result<Self::Tensor, BackendError>;

    /// Copies `values` into a tensor of the same number of elements, in row-major order.
    ///
    /// # Errors
    /// When the device fails.
    fn write(
        &self,
        values: ArrayViewD<'_, f32>,
        tensor: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Copies a tensor to the host.
    ///
    /// # Errors
    /// When the device fails.
    fn read(&self, tensor: &Self::Tensor) -> Result<ArrayD<f32>, BackendError>;

    /// Room for `count` symbol indices.
    ///
    /// # Errors
    /// When the device has no room.
    fn symbols(&self, count: usize) -> Result<Self::Symbols, BackendError>;

    /// Copies symbol indices to the device.
    ///
    /// # Errors
    /// When the device fails.
    fn write_symbols(&self, values: &[u8], symbols: &mut Self::Symbols)
    -> Result<(), BackendError>;

    /// Copies numbers into a tensor, from number `offset` of it on.
    ///
    /// # Errors
    /// When the device fails.
    fn write_part(
        &self,
        values: &[f32],
        offset: usize,
        tensor: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Room for the numbers of so many examples.
    ///
    /// # Errors
    /// When the device has no room.
    fn order(&self, count: usize) -> Result<Self::Order, BackendError>;

    /// Copies numbers of examples to the device.
    ///
    /// # Errors
    /// When the device fails.
    fn write_order(&self, values: &[u32], order: &mut Self::Order) -> Result<(), BackendError>;

    /// A batch of images: for the first `rows` rows, row r of `pixels` is row `order[first + r]` of `images`, and so are
    /// targets and `labels`. The rows behind them stay as they are.
    ///
    /// # Errors
    /// When the device fails.
    fn gather_images(
        &self,
        images: &Self::Tensor,
        labels: &Self::Symbols,
        order: &Self::Order,
        first: usize,
        rows: usize,
        pixels: &mut Self::Tensor,
        targets: &mut Self::Symbols,
    ) -> Result<(), BackendError>;

    /// A batch of text, time-major: of B sequences of T symbols, `inputs[t·B + b] = text[T·order[first + b] + t]`, and
    /// `targets` has the symbol after each.
    ///
    /// # Errors
    /// When the device fails.
    fn gather_text(
        &self,
        text: &Self::Symbols,
        order: &Self::Order,
        first: usize,
        batch: usize,
        inputs: &mut Self::Symbols,
        targets: &mut Self::Symbols,
    ) -> Result<(), BackendError>;

    /// Space for one LSTM of this shape.
    ///
    /// # Errors
    /// When the device has no room.
    fn lstm_space(&self, shape: LstmShape) -> Result<Self::LstmSpace, BackendError>;

    /// The LSTM over a whole sequence, from zero state (PAPER.md §4).
    ///
    /// ```text
    /// a_t = W_x[:, x_t] + W_h h_{t−1} + b          blocks i, f, g, o of a_t
    /// i, f, o = σ(a),  g = tanh(a)
    /// c_t = f ∘ c_{t−1} + i ∘ g
    /// h_t = o ∘ tanh(c_t)
    /// ```
    ///
    /// `input` holds T·B symbols, time-major: x of time t and sequence b at t·B + b. `hidden`
    /// receives `h_t`, T·B × H in the same order.
    ///
    /// # Errors
    /// When the device fails.
    fn lstm_forward(
        &self,
        input: &Self::Symbols,
        parameters: LstmParameters<'_, Self::Tensor>,
        space: &mut Self::LstmSpace,
        hidden: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// The gradients of the LSTM's weights; to be called after [`Backend::lstm_forward`] with the
    /// same arguments.
    ///
    /// `hidden_gradient` (T·B × H) brings ∂L/∂`h_t` from the layer above and is overwritten. The
    /// gradients with respect to the gates' pre-activations `a_t` are clipped to [−clip, clip] at
    /// every time step (PAPER.md §5).
    ///
    /// # Errors
    /// When the device fails.
    fn lstm_backward(
        &self,
        input: &Self::Symbols,
        parameters: LstmParameters<'_, Self::Tensor>,
        hidden: &Self::Tensor,
        hidden_gradient: &mut Self::Tensor,
        clip: f32,
        space: &mut Self::LstmSpace,
        gradients: LstmGradients<'_, Self::Tensor>,
    ) -> Result<(), BackendError>;

    /// y = x Wᵀ + b, with x R × K, W N × K, b N (none: zeros), y R × N.
    ///
    /// # Errors
    /// When the device fails.
    fn dense_forward(
        &self,
        shape: DenseShape,
        input: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// The gradients of [`Backend::dense_forward`]: ∂x = ∂y W, ∂W = ∂yᵀ x, ∂b = Σ ∂y; ∂x and ∂b only where there is a
    /// place for them.
    ///
    /// # Errors
    /// When the device fails.
    fn dense_backward(
        &self,
        shape: DenseShape,
        input: &Self::Tensor,
        weight: &Self::Tensor,
        output_gradient: &Self::Tensor,
        input_gradient: Option<&mut Self::Tensor>,
        weight_gradient: &mut Self::Tensor,
        bias_gradient: Option<&mut Self::Tensor>,
    ) -> Result<(), BackendError>;

    /// Space for one convolution of this shape.
    ///
    /// # Errors
    /// When the device has no room.
    fn convolution_space(
        &self,
        shape: ConvolutionShape,
    ) -> Result<Self::ConvolutionSpace, BackendError>;

    /// The convolution of [`ConvolutionShape`], with W F × 3 × 3 × C and b F (none: zeros).
    ///
    /// ```text
    /// y[n, i, j, f] = b[f] + Σ_{p, q, c} W[f, p, q, c] · x[n, i + p − 1, j + q − 1, c]      x = 0 outside of the image
    /// ```
    ///
    /// # Errors
    /// When the device fails.
    fn convolution_forward(
        &self,
        shape: ConvolutionShape,
        input: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        space: &mut Self::ConvolutionSpace,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// The gradients of [`Backend::convolution_forward`], to be called after it with the same operands; ∂x and ∂b only
    /// where there is a place for them.
    ///
    /// ```text
    /// ∂x[n, i, j, c]    = Σ_{p, q, f} W[f, p, q, c] · ∂y[n, i − p + 1, j − q + 1, f]
    /// ∂W[f, p, q, c]    = Σ_{n, i, j} ∂y[n, i, j, f] · x[n, i + p − 1, j + q − 1, c]
    /// ∂b[f]             = Σ_{n, i, j} ∂y[n, i, j, f]
    /// ```
    ///
    /// # Errors
    /// When the device fails.
    fn convolution_backward(
        &self,
        shape: ConvolutionShape,
        input: &Self::Tensor,
        weight: &Self::Tensor,
        output_gradient: &Self::Tensor,
        space: &mut Self::ConvolutionSpace,
        input_gradient: Option<&mut Self::Tensor>,
        weight_gradient: &mut Self::Tensor,
        bias_gradient: Option<&mut Self::Tensor>,
    ) -> Result<(), BackendError>;

    /// The largest of every 2 × 2 pixels, channel by channel. `places` (as many as outputs) receives which of the four
    /// it was, 0 to 3 row by row; of equal ones the first. A NaN counts as larger than every number.
    ///
    /// # Errors
    /// When the device fails.
    fn max_pool_forward(
        &self,
        shape: PoolShape,
        input: &Self::Tensor,
        places: &mut Self::Symbols,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// ∂x = ∂y at the pixel that was the largest, 0 elsewhere.
    ///
    /// # Errors
    /// When the device fails.
    fn max_pool_backward(
        &self,
        shape: PoolShape,
        places: &Self::Symbols,
        output_gradient: &Self::Tensor,
        input_gradient: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Space for one batch normalization of this shape.
    ///
    /// # Errors
    /// When the device has no room.
    fn norm_space(&self, shape: NormShape) -> Result<Self::NormSpace, BackendError>;

    /// Batch normalization with the statistics of the batch, for training: channel by channel
    ///
    /// ```text
    /// μ = 1/R Σ x      σ² = 1/R Σ (x − μ)²      y = γ (x − μ)/√(σ² + ε) + β      then y ← max(0, y) with `relu`
    /// ```
    ///
    /// with x and y R × N, `scale` γ and `shift` β of N numbers. μ and σ² stay in `space`.
    ///
    /// # Errors
    /// When the device fails.
    fn norm_forward(
        &self,
        shape: NormShape,
        input: &Self::Tensor,
        scale: &Self::Tensor,
        shift: &Self::Tensor,
        space: &mut Self::NormSpace,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// The gradients of [`Backend::norm_forward`], to be called after it with the same operands. `gradient` brings ∂y
    /// and takes ∂x away; `relu` lets no gradient through where its output was 0.
    ///
    /// # Errors
    /// When the device fails.
    fn norm_backward(
        &self,
        shape: NormShape,
        input: &Self::Tensor,
        scale: &Self::Tensor,
        space: &mut Self::NormSpace,
        gradient: &mut Self::Tensor,
        scale_gradient: &mut Self::Tensor,
        shift_gradient: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Moves the running averages towards the batch that the last [`Backend::norm_forward`] saw:
    /// `mean` ← (1 − factor)·mean + factor·μ, `variance` ← (1 − factor)·variance + factor·σ²·R/(R − 1), the unbiased
    /// variance (σ² itself for one row).
    ///
    /// # Errors
    /// When the device fails.
    fn norm_average(
        &self,
        shape: NormShape,
        factor: f32,
        space: &Self::NormSpace,
        record: &Self::Record,
        mean: &mut Self::Tensor,
        variance: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Batch normalization with running averages in place of the batch's statistics, for evaluation; between a forward
    /// and a backward pass it is not to be called.
    ///
    /// # Errors
    /// When the device fails.
    fn norm_evaluate(
        &self,
        shape: NormShape,
        input: &Self::Tensor,
        scale: &Self::Tensor,
        shift: &Self::Tensor,
        mean: &Self::Tensor,
        variance: &Self::Tensor,
        space: &mut Self::NormSpace,
        output: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// x ← max(0, x); a NaN stays.
    ///
    /// # Errors
    /// When the device fails.
    fn relu(&self, values: &mut Self::Tensor) -> Result<(), BackendError>;

    /// ∂ ← 0 where `output`, what [`Backend::relu`] left, is not positive.
    ///
    /// # Errors
    /// When the device fails.
    fn relu_backward(
        &self,
        output: &Self::Tensor,
        gradient: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Mean cross-entropy of softmax(logits) in nats, `L = −1/R Σ log softmax(y_r)[target_r]`.
    ///
    /// `logits` is R × N with one target per row, and is overwritten with ∂L/∂y. The loss goes into the record, and stops
    /// it where it is not finite; a stopped record takes none.
    ///
    /// # Errors
    /// When the device fails.
    fn softmax_cross_entropy(
        &self,
        targets: &Self::Symbols,
        logits: &mut Self::Tensor,
        record: &mut Self::Record,
    ) -> Result<(), BackendError>;

    /// Mean squared hinge loss, `L = 1/(R·N) Σ max(0, 1 − t·y)²` with t = 1 at a row's target and −1 elsewhere.
    ///
    /// `outputs` is R × N with one target per row, and is overwritten with ∂L/∂y. The loss goes where that of
    /// [`Backend::softmax_cross_entropy`] goes.
    ///
    /// # Errors
    /// When the device fails.
    fn squared_hinge(
        &self,
        targets: &Self::Symbols,
        outputs: &mut Self::Tensor,
        record: &mut Self::Record,
    ) -> Result<(), BackendError>;

    /// How well the first `rows` rows of `outputs` (R × N) predict their targets, for an evaluation: their mean loss goes
    /// where that of [`Backend::softmax_cross_entropy`] goes, and the rows whose largest output (of equal ones the first) is
    /// not the target's are added to [`Recorded::errors`]. A stopped record takes neither.
    ///
    /// # Errors
    /// When the device fails.
    fn evaluate_outputs(
        &self,
        loss: Loss,
        rows: usize,
        targets: &Self::Symbols,
        outputs: &Self::Tensor,
        record: &mut Self::Record,
    ) -> Result<(), BackendError>;

    /// Space for updating the same parameters together, again and again.
    ///
    /// # Errors
    /// When the device has no room.
    fn update_space(&self) -> Result<Self::UpdateSpace, BackendError>;

    /// Stops the record where a number of a gradient is not finite, with [`Stop::Gradient`] and the first such job's number.
    ///
    /// # Errors
    /// When the device fails.
    fn check_gradients(
        &self,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        space: &mut Self::UpdateSpace,
        record: &mut Self::Record,
    ) -> Result<(), BackendError>;

    /// Adam, job by job: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w − step·m/(√v + ε), then w to [−clip, clip] where there
    /// is a limit; with the step size of [`Backend::begin_step`]. Nothing if the record is stopped.
    ///
    /// # Errors
    /// When the device fails.
    fn update(
        &self,
        adam: AdamSettings,
        jobs: &mut dyn Iterator<Item = UpdateJob<'_, Self>>,
        space: &mut Self::UpdateSpace,
        record: &Self::Record,
    ) -> Result<(), BackendError>;

    /// Index of the first NaN or infinity, if there is one.
    ///
    /// # Errors
    /// When the device fails.
    fn first_not_finite(&self, tensor: &Self::Tensor) -> Result<Option<usize>, BackendError>;

    /// State for a parameter of `groups` equal blocks of rows, each quantized with its own scale.
    ///
    /// # Errors
    /// When the device has no room.
    fn quantizer(
        &self,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<Self::Quantizer, BackendError>;

    /// Space for quantizing the same parameters together, again and again.
    ///
    /// # Errors
    /// When the device has no room.
    fn quantize_space(&self) -> Result<Self::QuantizeSpace, BackendError>;

    /// ŵ = solve(w, √v + [`laq_solvers::CURVATURE_FLOOR`]) for every job, group by group (PAPER.md §3, step 1), warm-started
    /// by the levels of the call before. Nothing if the record is stopped.
    ///
    /// # Errors
    /// [`BackendError::Solve`] when a weight or a moment is NaN or infinite; a device that solves later stops the record
    /// with [`Stop::Solve`] instead.
    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        space: &mut Self::QuantizeSpace,
        record: &mut Self::Record,
    ) -> Result<(), BackendError>;

    /// Turns ∂L/∂ŵ into ∂L/∂w in place, by the method's own rule (PAPER.md §2), and keeps the
    /// gradients of trained scales.
    ///
    /// # Errors
    /// When the device fails.
    fn quantizer_backward(
        &self,
        latent: &Self::Tensor,
        quantizer: &mut Self::Quantizer,
        gradient: &mut Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Adam on the trained scales, where the method has any. Nothing if the record is stopped.
    ///
    /// # Errors
    /// When the device fails.
    fn quantizer_update(
        &self,
        adam: AdamSettings,
        record: &Self::Record,
        quantizer: &mut Self::Quantizer,
    ) -> Result<(), BackendError>;

    /// What the last solve did, a line a group; empty before the first, and after
    /// [`Backend::quantizer_load`] until the next.
    ///
    /// # Errors
    /// When the device fails.
    fn quantizer_reports(
        &self,
        quantizer: &Self::Quantizer,
    ) -> Result<Vec<GroupReport>, BackendError>;

    /// The state to keep in a checkpoint.
    ///
    /// # Errors
    /// When the device fails.
    fn quantizer_save(
        &self,
        quantizer: &Self::Quantizer,
    ) -> Result<QuantizerSnapshot, BackendError>;

    /// Goes on from a kept state, and writes the ŵ that it stands for where it holds one.
    ///
    /// # Errors
    /// [`BackendError::StateMismatch`] when it is of another size, or has levels that the method
    /// does not have.
    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut Self::Quantizer,
        quantized: &mut Self::Tensor,
    ) -> Result<(), BackendError>;
}
