//! What goes into a step and what comes out of an evaluation.

/// The size of every batch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextShape {
    /// T, symbols of a sequence.
    pub length: usize,
    /// B, sequences of a batch.
    pub batch: usize,
}

/// The size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Numbers a pixel.
    pub channels: usize,
}

impl ImageShape {
    /// The numbers of one image.
    pub fn numbers(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// A batch in host memory, for [`crate::Training`].
#[derive(Clone, Copy, Debug)]
pub enum Batch<'a> {
    /// T·B symbols each, time-major: that of time t in sequence b at t·B + b.
    Text {
        /// What the network reads.
        inputs: &'a [u8],
        /// What it is to predict: the symbol after each.
        targets: &'a [u8],
    },
    /// B images, pixel by pixel with the channels innermost (B × height × width × channels), and their classes. An
    /// evaluation may have fewer.
    Images {
        /// The images' numbers.
        pixels: &'a [f32],
        /// A class an image.
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

/// How well a batch is predicted with the quantized weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss of the batch: nats a symbol, or the images' loss.
    pub loss: f64,
    /// Images whose largest output is not that of their class; texts do not count them.
    pub errors: Option<usize>,
}

/// How well several batches are predicted with the quantized weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluations {
    /// The mean loss of each batch, as in [`Evaluation`].
    pub losses: Vec<f64>,
    /// The errors of all of them, as in [`Evaluation`].
    pub errors: Option<usize>,
}
