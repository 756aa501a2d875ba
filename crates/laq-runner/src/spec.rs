//! The specification of a network, from an experiment and its data.

use laq_models::{CharLstmSpec, FeedforwardSpec, Loss};

use crate::RunError;
use crate::config::{self, Model};
use crate::examples::Input;

/// The network of an experiment, as `laq-models` describes it.
pub(crate) enum Spec {
    CharLstm(CharLstmSpec),
    Feedforward(FeedforwardSpec),
}

/// The network that `model` makes of this input.
pub(crate) fn spec(model: &Model, input: Input) -> Result<Spec, RunError> {
    match (model, input) {
        (Model::CharLstm(model), Input::Symbols(symbols)) => Ok(Spec::CharLstm(CharLstmSpec {
            symbols,
            hidden: model.hidden,
            forget_bias: model.forget_bias as f32,
            init_range: model.init_range as f32,
            output_std: model.output_std as f32,
            gate_clip: model.gate_clip as f32,
        })),
        (Model::Feedforward(model), Input::Images { shape, classes }) => {
            Ok(Spec::Feedforward(FeedforwardSpec {
                input: shape,
                classes,
                filters: model.filters.clone(),
                convolutions: model.convolutions,
                units: model.units.clone(),
                batch_norm: model.batch_norm,
                output_batch_norm: model.output_batch_norm,
                norm_epsilon: model.norm_epsilon as f32,
                norm_momentum: model.norm_factor as f32,
                loss: match model.loss {
                    config::Loss::SquaredHinge => Loss::SquaredHinge,
                    config::Loss::CrossEntropy => Loss::CrossEntropy,
                },
            }))
        }
        (model, _) => Err(RunError::Internal(format!(
            "{} does not take data of this kind",
            model.kind()
        ))),
    }
}
