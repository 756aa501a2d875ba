#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch;
mod char_lstm;
mod comparison;
mod dataset;
mod feedforward;
mod init;
mod network;
mod parameter;
mod profile;
mod summary;
mod training;

use laq_solvers::SolveError;
use laq_tensor::BackendError;

pub use batch::{Batch, Evaluation, Evaluations, ImageShape, TextShape};
pub use char_lstm::CharLstmSpec;
pub use comparison::LayerComparison;
pub use dataset::{DatasetHandle, Examples};
pub use feedforward::FeedforwardSpec;
pub use laq_tensor::{AdamSettings, Loss};
pub use network::LARGEST_LAYER;
pub use parameter::{LayerReport, LayerWeights, StateData, StateTensor, WeightData};
pub use profile::{Part, Profile, Work};
pub use summary::LayerSummary;
pub use training::{CurvatureKind, CurvatureSums, Report, StepReport, Training};

/// Errors of building, training and restoring a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A setting is out of range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// The value.
        value: String,
        /// The accepted range.
        expected: &'static str,
    },
    /// NaN, infinity, or a gradient of [`laq_tensor::LARGEST_GRADIENT`] appeared; the weights are those of the last completed step.
    #[error(
        "{what} became NaN, infinite or too large at training step {step}; \
         the weights are still those of the step before: lower the learning rate, or inspect that layer"
    )]
    NotFinite {
        /// "the weights of layer conv1", "the gradient of …", "the output of …", "the loss".
        what: String,
        /// The failed step, counted from 1.
        step: u64,
    },
    /// The same for a batch that is evaluated.
    #[error(
        "{what} became NaN, infinite or too large in an evaluation: inspect that layer, and the examples"
    )]
    NotFiniteEvaluation {
        /// As in [`ModelError::NotFinite`], or "the square of the inputs of layer …".
        what: String,
    },
    /// A solver rejected the weights of a layer.
    #[error("layer {layer} cannot be quantized at training step {step}: {source}")]
    Solve {
        /// Name of the layer.
        layer: String,
        /// The failed step, counted from 1.
        step: u64,
        /// The solver's error.
        source: SolveError,
    },
    /// A batch or dataset does not fit the network.
    #[error("{0}")]
    Batch(String),
    /// A saved state does not fit the network.
    #[error("the stored state does not fit this network: {0}")]
    State(String),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
