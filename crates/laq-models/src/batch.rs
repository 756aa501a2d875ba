//! Batches and results of evaluations.

/// Shape of a batch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextShape {
    /// T, tokens per sequence.
    pub length: usize,
    /// B, sequences per batch.
    pub batch: usize,
}

/// Shape of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Elements per pixel.
    pub channels: usize,
}

impl ImageShape {
    /// Elements of one image.
    pub const fn elements(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// A batch in host memory, for [`crate::Training`].
#[derive(Clone, Copy, Debug)]
pub enum Batch<'a> {
    /// T·B tokens each, time-major: time t of sequence b is at t·B + b.
    Text {
        /// Input tokens.
        inputs: &'a [u8],
        /// Target tokens: the successor of each input.
        targets: &'a [u8],
    },
    /// B images in NHWC layout and their classes. An evaluation may have fewer than B.
    Images {
        /// Pixels in NHWC layout.
        pixels: &'a [f32],
        /// One class per image.
        labels: &'a [u8],
    },
}

impl<'a> Batch<'a> {
    /// [`Batch::Text`].
    pub fn text(inputs: &'a [u8], targets: &'a [u8]) -> Self {
        Batch::Text { inputs, targets }
    }

    /// [`Batch::Images`].
    pub fn images(pixels: &'a [f32], labels: &'a [u8]) -> Self {
        Batch::Images { pixels, labels }
    }
}

/// Result of evaluating a batch with the quantized weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss of the batch: nats per token, or the images' loss.
    pub loss: f64,
    /// Misclassified images; `None` for text.
    pub errors: Option<usize>,
}

/// Results of evaluating several batches with the quantized weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluations {
    /// The mean loss of each batch, as in [`Evaluation`].
    pub losses: Vec<f64>,
    /// Total errors, as in [`Evaluation`].
    pub errors: Option<usize>,
}
