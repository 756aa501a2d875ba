//! Summary of a network's layers.

use crate::ModelError;
use crate::char_lstm::CharLstmSpec;
use crate::feedforward::{FeedforwardSpec, LayerKind, LayerSpec};

/// One layer of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Prefix of its parameters' names.
    pub name: String,
    /// Description of its operations.
    pub kind: String,
    /// Output shape for one image or token.
    pub output: Vec<usize>,
    /// Weights that a method quantizes.
    pub quantized_weights: usize,
    /// Rows, columns and gates of the matrices among them.
    pub matrices: Vec<[usize; 3]>,
    /// Trained weights that stay f32: biases, scales and shifts of batch normalization, and output
    /// layers that are not quantized.
    pub other_weights: usize,
    /// Multiply-accumulate operations for one image or token.
    pub multiplications: usize,
}

impl FeedforwardSpec {
    /// The layers from the image to the outputs.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for a setting out of its range.
    pub fn layers(&self) -> Result<Vec<LayerSummary>, ModelError> {
        let specs = self.layer_specs()?;
        let layers = specs.chunk_by(|a, b| a.name == b.name).map(|block| {
            let has = |wanted: fn(LayerKind) -> bool| block.iter().any(|layer| wanted(layer.kind));
            let convolution = has(|kind| matches!(kind, LayerKind::Convolution { .. }));
            let batch_norm = has(|kind| matches!(kind, LayerKind::BatchNorm { .. }));
            let relu =
                has(|kind| matches!(kind, LayerKind::Relu | LayerKind::BatchNorm { relu: true }));
            let mut kind = if convolution {
                "3×3 convolution"
            } else {
                "dense"
            }
            .to_owned();
            let parts = [
                (
                    has(|kind| matches!(kind, LayerKind::MaxPool)),
                    ", max pooling",
                ),
                (batch_norm, ", batch norm"),
                (!batch_norm, ", bias"),
                (relu, ", ReLU"),
            ];
            for (_, part) in parts.iter().filter(|(there, _)| *there) {
                kind.push_str(part);
            }
            let image = block[block.len() - 1].output();
            LayerSummary {
                name: block[0].name.clone(),
                kind,
                output: if convolution {
                    vec![image.height, image.width, image.channels]
                } else {
                    vec![image.channels]
                },
                quantized_weights: block.iter().map(LayerSpec::weights).sum(),
                matrices: block.iter().filter_map(LayerSpec::matrix).collect(),
                other_weights: block.iter().map(LayerSpec::other_weights).sum(),
                multiplications: block.iter().map(LayerSpec::multiplications).sum(),
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
                matrices: vec![[4 * hidden, symbols, 4], [4 * hidden, hidden, 4]],
                other_weights: 4 * hidden,
                // A one-hot input picks a column, without a product.
                multiplications: 4 * hidden * hidden,
            },
            LayerSummary {
                name: "output".into(),
                kind: "dense, bias, softmax".into(),
                output: vec![symbols],
                quantized_weights: 0,
                matrices: Vec::new(),
                other_weights: symbols * (hidden + 1),
                multiplications: symbols * hidden,
            },
        ])
    }
}
