//! A batch of pseudorandom values, to time a network without its data.

use laq_datasets::epoch_order;
use laq_models::Batch;

use crate::config::Experiment;
use crate::examples::Input;

/// The symbols of a text, or labels and pixels.
pub(crate) enum RandomBatch {
    Text(Vec<u8>),
    Images(Vec<u8>, Vec<f32>),
}

impl RandomBatch {
    /// Values are repeated if a batch is larger than 65536.
    pub(crate) fn new(experiment: &Experiment, input: Input) -> Self {
        let batch = experiment.data.batch;
        let random = epoch_order(1 << 16, 0, 0);
        let below = |bound: usize, count: usize| -> Vec<u8> {
            let values = random.iter().map(|&value| (value as usize % bound) as u8);
            values.cycle().take(count).collect()
        };
        match input {
            Input::Symbols(symbols) => {
                let characters = experiment.data.length.unwrap_or_default() * batch;
                Self::Text(below(symbols, characters + 1))
            }
            Input::Images { shape, classes } => {
                let bytes = below(256, batch * shape.elements());
                // In the range of preprocessed images.
                let pixels = bytes.iter().map(|&byte| f32::from(byte) / 128.0 - 1.0);
                Self::Images(below(classes, batch), pixels.collect())
            }
        }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        match self {
            Self::Text(tokens) => Batch::text(&tokens[..tokens.len() - 1], &tokens[1..]),
            Self::Images(labels, pixels) => Batch::images(pixels, labels),
        }
    }
}
