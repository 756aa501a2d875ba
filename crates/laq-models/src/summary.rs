//! What a network consists of, for people: a line a layer.

use crate::ModelError;
use crate::char_lstm::CharLstmSpec;
use crate::feedforward::{FeedforwardSpec, LinearSpec};

/// One layer of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Its name, which its parameters' names begin with.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// The sizes of what it puts out for one image or symbol.
    pub output: Vec<usize>,
    /// Weights that a method quantizes.
    pub quantized_weights: usize,
    /// Scales that these share under a method with one scale for each: matrices that are quantized apart.
    pub groups: usize,
    /// Everything else that is trained, and stays f32: biases, scales and shifts of normalizations, an output layer that
    /// is not quantized.
    pub other_weights: usize,
    /// Multiplications with a weight for one image or symbol; each comes with an addition.
    pub multiplications: usize,
}

impl FeedforwardSpec {
    /// The layers from the image to the outputs.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for a setting out of its range.
    pub fn layers(&self) -> Result<Vec<LayerSummary>, ModelError> {
        let layers = self.blocks()?.into_iter().map(|block| {
            let mut kind = match block.linear {
                LinearSpec::Convolution(_) => "3×3 convolution",
                LinearSpec::Dense(_) => "dense",
            }
            .to_string();
            let parts = [
                (block.pooled, ", max pooling"),
                (block.batch_norm, ", batch norm"),
                (!block.batch_norm, ", bias"),
                (block.relu, ", ReLU"),
            ];
            for (_, part) in parts.iter().filter(|(there, _)| *there) {
                kind.push_str(part);
            }
            let image = block.output();
            LayerSummary {
                output: match block.linear {
                    LinearSpec::Convolution(_) => vec![image.height, image.width, image.channels],
                    LinearSpec::Dense(_) => vec![block.outputs],
                },
                quantized_weights: block.weights(),
                groups: 1,
                other_weights: block.outputs * if block.batch_norm { 2 } else { 1 },
                multiplications: block.multiplications(),
                name: block.name,
                kind,
            }
        });
        Ok(layers.collect())
    }
}

impl CharLstmSpec {
    /// The recurrent layer and the output layer.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for a setting out of its range.
    pub fn layers(&self) -> Result<Vec<LayerSummary>, ModelError> {
        self.check()?;
        let (symbols, hidden) = (self.symbols, self.hidden);
        Ok(vec![
            LayerSummary {
                name: "lstm".into(),
                kind: "LSTM on one-hot symbols".into(),
                output: vec![hidden],
                quantized_weights: 4 * hidden * (symbols + hidden),
                groups: 8,
                other_weights: 4 * hidden,
                // A one-hot input picks a column, without a product.
                multiplications: 4 * hidden * hidden,
            },
            LayerSummary {
                name: "output".into(),
                kind: "dense, bias, softmax".into(),
                output: vec![symbols],
                quantized_weights: 0,
                groups: 0,
                other_weights: symbols * (hidden + 1),
                multiplications: symbols * hidden,
            },
        ])
    }
}
