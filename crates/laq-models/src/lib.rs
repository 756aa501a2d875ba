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
pub use parameter::{LayerReport, StateData, StateTensor};
pub use summary::LayerSummary;
pub use training::{Report, StepReport, Training};

/// What can go wrong with a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A setting out of its range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What was found.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// NaN or infinity turned up; no weight has been changed since the last good step.
    #[error(
        "{what} of layer {layer} became NaN or infinite at training step {step}; \
         the weights are still those of the step before: lower the learning rate, or look at that layer"
    )]
    NotFinite {
        /// "the weights", "the gradient", "the output".
        what: &'static str,
        /// Name of the parameter or layer.
        layer: String,
        /// The step that was being taken, counted from 1.
        step: u64,
    },
    /// A solver refused the weights of a layer.
    #[error("layer {layer} cannot be quantized at training step {step}: {source}")]
    Solve {
        /// Name of the layer.
        layer: String,
        /// The step that was being taken, counted from 1.
        step: u64,
        /// What the solver said.
        source: SolveError,
    },
    /// A symbol or a batch that the network was not made for.
    #[error("{0}")]
    Batch(String),
    /// A stored state that is not of this network.
    #[error("the stored state does not fit this network: {0}")]
    State(String),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
