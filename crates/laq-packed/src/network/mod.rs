//! Networks that run from a file of packed weights alone.

mod char_lstm;
mod feedforward;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use laq_simd::Isa;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dense::{Activations, Matrix};
use crate::pack_error::PackError;
use crate::packed_file::{PackedFile, PackedFileError};
use crate::packed_format::Tensor;

pub use char_lstm::{CharLstm, CharLstmState, Sampler};
pub use feedforward::{Feedforward, MEAN_IMAGE, Prediction};

/// The metadata entry that describes a network: [`NetworkSpec`] as JSON.
pub const NETWORK: &str = "laq.network";

/// The description of a network in the metadata of its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkSpec {
    /// One LSTM layer on one-hot characters, and a dense softmax layer. Tensors: `lstm.weight_ih`
    /// (4H × V, gates i, f, g, o), `lstm.weight_hh` (4H × H), `lstm.bias` (4H), `output.weight`
    /// (V × H), `output.bias` (V).
    CharLstm {
        /// The byte of each of the V characters, rising.
        alphabet: Vec<u8>,
        /// H.
        hidden: usize,
    },
    /// A sequence of layers on images. Tensors of a layer: `NAME.weight`, `NAME.bias`,
    /// `NAME.norm.scale`, `NAME.norm.shift`, `NAME.norm.mean`, `NAME.norm.variance`.
    Feedforward {
        /// Height, width and channels of an image.
        input: [usize; 3],
        /// The number of outputs.
        classes: usize,
        /// The loss that the network was trained with.
        loss: LossSpec,
        /// From pixels to inputs.
        preprocessing: String,
        /// The layers in order.
        layers: Vec<LayerSpec>,
    },
}

/// The loss of a network on images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossSpec {
    /// Squared hinge loss: outputs are scores.
    SquaredHinge,
    /// Cross-entropy: outputs are logits.
    CrossEntropy,
}

/// A layer of a network on images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LayerSpec {
    /// 3 × 3, padded with zeros to the size of its input; the weight is filters × 3 × 3 × channels.
    Convolution {
        /// Prefix of its tensors.
        name: String,
        /// Filters.
        filters: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// Fully connected on the flattened input; the weight is units × inputs.
    Dense {
        /// Prefix of its tensors.
        name: String,
        /// Units.
        units: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// 2 × 2 with stride 2.
    MaxPool,
    /// Batch normalization with running averages: y = x·f + (β − μ·f) with f = γ/√(σ² + ε), then
    /// ReLU where set.
    BatchNorm {
        /// Prefix of its tensors.
        name: String,
        /// ε
        epsilon: f32,
        /// Whether ReLU follows.
        relu: bool,
    },
    /// max(0, x)
    Relu,
}

/// The errors of a network.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] PackedFileError),
    /// The file describes no network.
    #[error(
        "{path} has packed weights but no network (no metadata entry {NETWORK}): write it with `laq export --to packed`"
    )]
    NoNetwork {
        /// The file.
        path: PathBuf,
    },
    /// The description is invalid.
    #[error("the network of {path} is invalid: {detail}; write the file again")]
    Spec {
        /// The file.
        path: PathBuf,
        /// The defect.
        detail: String,
    },
    /// A tensor does not fit the network.
    #[error(
        "{name} in {path} has shape {found:?}, expected {expected:?} for its network; write the file again"
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the network.
        expected: Vec<usize>,
    },
    /// The network is of the other kind.
    #[error("{path} is a network on {found}, expected one on {expected}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// `text` or `images`.
        found: &'static str,
        /// `text` or `images`.
        expected: &'static str,
    },
    /// The input does not fit the network.
    #[error("found {found}, expected {expected}")]
    Input {
        /// What was found.
        found: String,
        /// What the network takes.
        expected: String,
    },
    /// The network computes a value that is not finite.
    #[error("the outputs are not finite: {0}")]
    NotFinite(#[from] PackError),
}

/// A network from a file of packed weights.
#[derive(Clone, Debug)]
pub enum Network {
    /// On text.
    CharLstm(Box<CharLstm>),
    /// On images.
    Feedforward(Box<Feedforward>),
}

impl NetworkSpec {
    /// The network that a file describes.
    ///
    /// # Errors
    /// [`NetworkError::NoNetwork`] if there is none, [`NetworkError::Spec`] if it is invalid.
    pub fn of(file: &PackedFile) -> Result<Self, NetworkError> {
        let described = file.metadata().find(|(key, _)| key == NETWORK);
        let Some((_, described)) = described else {
            let path = file.path().into();
            return Err(NetworkError::NoNetwork { path });
        };
        serde_json::from_str(&described).map_err(|error| NetworkError::Spec {
            path: file.path().into(),
            detail: error.to_string(),
        })
    }
}

impl Network {
    /// Reads a file of `laq export --to packed`.
    ///
    /// # Errors
    /// [`NetworkError`] if the file cannot be read or has no network, or a tensor does not fit it.
    pub fn open(path: &Path) -> Result<Self, NetworkError> {
        let file = PackedFile::open(path)?;
        let spec = NetworkSpec::of(&file)?;
        let tensors = Tensors {
            path,
            shape: &|name| file.shape(name),
            read: &|name| Ok(file.tensor(name)?),
            matrix: &|name| Ok(file.matrix(name)?),
        };
        Self::build(spec, &tensors)
    }

    /// A network of tensors in memory; errors name `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_tensors(
        path: &Path,
        spec: NetworkSpec,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self, NetworkError> {
        let find = |name: &str| {
            tensors.get(name).ok_or_else(|| NetworkError::Spec {
                path: path.into(),
                detail: format!("{name} is missing"),
            })
        };
        let tensors = Tensors {
            path,
            shape: &|name| tensors.get(name).map(Tensor::shape),
            read: &|name| find(name).cloned(),
            matrix: &|name| Ok(Matrix::of(find(name)?)?),
        };
        Self::build(spec, &tensors)
    }

    fn build(spec: NetworkSpec, tensors: &Tensors<'_>) -> Result<Self, NetworkError> {
        Ok(match spec {
            NetworkSpec::CharLstm { alphabet, hidden } => {
                Self::CharLstm(Box::new(CharLstm::new(tensors, alphabet, hidden)?))
            }
            NetworkSpec::Feedforward {
                input,
                classes,
                loss,
                preprocessing,
                layers,
            } => {
                let settings = (input, classes, loss, preprocessing);
                Self::Feedforward(Box::new(Feedforward::new(tensors, settings, &layers)?))
            }
        })
    }

    /// Sets the precision of activations; f32 at first.
    pub fn set_activations(&mut self, activations: Activations) {
        match self {
            Self::CharLstm(network) => network.compute.1 = activations,
            Self::Feedforward(network) => network.compute.1 = activations,
        }
    }

    /// Sets the instruction set; that of [`Isa::selected`] at first.
    pub fn set_isa(&mut self, isa: Isa) {
        match self {
            Self::CharLstm(network) => network.compute.0 = isa,
            Self::Feedforward(network) => network.compute.0 = isa,
        }
    }
}

/// The tensors of a network.
struct Tensors<'a> {
    path: &'a Path,
    shape: &'a dyn Fn(&str) -> Option<&'a [usize]>,
    read: &'a dyn Fn(&str) -> Result<Tensor, NetworkError>,
    matrix: &'a dyn Fn(&str) -> Result<Matrix, NetworkError>,
}

impl Tensors<'_> {
    fn has(&self, name: &str) -> bool {
        (self.shape)(name).is_some()
    }

    /// Checks the shape of a tensor, if there is one.
    fn check(&self, name: &str, expected: &[usize]) -> Result<(), NetworkError> {
        match (self.shape)(name) {
            Some(found) if found != expected => Err(NetworkError::Shape {
                path: self.path.into(),
                name: name.into(),
                found: found.to_vec(),
                expected: expected.to_vec(),
            }),
            _ => Ok(()),
        }
    }

    /// The elements of a tensor of this shape.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, NetworkError> {
        self.check(name, shape)?;
        Ok((self.read)(name)?.to_f32())
    }

    /// A tensor of this shape as a matrix: its first dimension by all others.
    fn matrix(&self, name: &str, shape: &[usize]) -> Result<Matrix, NetworkError> {
        self.check(name, shape)?;
        (self.matrix)(name)
    }

    fn invalid(&self, detail: impl Into<String>) -> NetworkError {
        NetworkError::Spec {
            path: self.path.into(),
            detail: detail.into(),
        }
    }
}
