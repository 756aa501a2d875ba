//! What a run writes for people and programs to read: a line per epoch, a line per comparison, a summary.
//!
//! Files of older versions are read too: a missing field gets its default, an unknown one is ignored.

use laq_models::{LayerComparison, LayerReport};
use laq_solvers::Scale;
use serde::{Deserialize, Serialize};

use crate::config::Paper;

/// How a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being trained, or was killed.
    #[default]
    Running,
    /// Every epoch is done.
    Finished,
    /// It was stopped and saved; it can go on.
    Interrupted,
    /// It stopped with an error.
    Failed,
}

/// One line of `metrics.jsonl`. Losses are means: of texts the cross-entropy per character in nats, of images what
/// `model.loss` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: u32,
    /// The mean over the epoch's steps of the loss before each step.
    pub train_loss: f64,
    /// After the epoch, with quantized weights.
    pub validation_loss: f64,
    /// After the epoch, where it is the best so far; else null.
    pub test_loss: Option<f64>,
    /// Percent of the validation images in a wrong class, after the epoch, with quantized weights; null for texts.
    pub validation_error: Option<f64>,
    /// Percent of the test images in a wrong class, after the epoch, where it is the best so far; else null.
    pub test_error: Option<f64>,
    /// Adam's step size in this epoch.
    pub learning_rate: f64,
    /// Wall-clock seconds of the epoch, its evaluation included.
    pub seconds: f64,
    /// Mean wall-clock seconds of a training step.
    pub seconds_per_step: f64,
    /// The share of them spent quantizing.
    pub quantize_share: f64,
    /// The quantized layers after the epoch; none in full precision.
    pub layers: Vec<LayerRecord>,
}

/// A quantized layer at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerRecord {
    /// Such as `lstm.weight_hh.forget` or `dense1.weight`.
    pub name: String,
    /// One, or the positive and the magnitude of the negative one.
    pub scale: Vec<f32>,
    /// The share of weights whose level is 0.
    pub sparsity: f64,
    /// ½ Σ d (w − ŵ)².
    pub weighted_error: f64,
    /// Rounds that an alternating solver used.
    pub rounds: u32,
}

impl From<LayerReport> for LayerRecord {
    fn from(layer: LayerReport) -> Self {
        let scale = match layer.scale {
            Scale::One(scale) => vec![scale],
            Scale::Two { positive, negative } => vec![positive, negative],
        };
        Self {
            name: layer.name,
            scale,
            sparsity: layer.sparsity,
            weighted_error: layer.weighted_error,
            rounds: layer.rounds,
        }
    }
}

/// One line of `comparison.jsonl`: how near the run's solver was to the optimum in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparisonRecord {
    /// The training step that used the compared weights, counted from 1 over the whole run.
    pub step: u64,
    /// ½ Σ d (w − ŵ)² over all matrices, of the run's own ŵ.
    pub weighted_error: f64,
    /// The same with the exact solver's ŵ.
    pub exact_weighted_error: f64,
    /// Their ratio, 1 at the optimum; null where the exact error is 0.
    pub ratio: Option<f64>,
    /// The matrices one by one.
    pub layers: Vec<LayerComparisonRecord>,
}

/// The errors of one matrix in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerComparisonRecord {
    /// Such as `lstm.weight_hh.forget` or `dense1.weight`.
    pub name: String,
    /// ½ Σ d (w − ŵ)² of the run's own ŵ.
    pub weighted_error: f64,
    /// The same with the exact solver's ŵ.
    pub exact_weighted_error: f64,
    /// Their ratio, likewise.
    pub ratio: Option<f64>,
}

impl ComparisonRecord {
    /// The record of a step, from what its matrices have.
    #[must_use]
    pub fn new(step: u64, layers: Vec<LayerComparison>) -> Self {
        let ratio = |own: f64, exact: f64| (exact > 0.0).then(|| own / exact);
        let weighted_error = layers.iter().map(|layer| layer.weighted_error).sum();
        let exact_weighted_error = layers.iter().map(|layer| layer.other_weighted_error).sum();
        let layers = layers.into_iter().map(|layer| LayerComparisonRecord {
            name: layer.name,
            weighted_error: layer.weighted_error,
            exact_weighted_error: layer.other_weighted_error,
            ratio: ratio(layer.weighted_error, layer.other_weighted_error),
        });
        Self {
            step,
            weighted_error,
            exact_weighted_error,
            ratio: ratio(weighted_error, exact_weighted_error),
            layers: layers.collect(),
        }
    }
}

/// `summary.json`. Losses and errors are those of the best epoch: the one with the lowest validation loss, or error for
/// images, of equal ones the latest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// How the run stands.
    pub status: Status,
    /// Why it failed or stopped.
    pub reason: Option<String>,
    /// See [`crate::config::key`].
    pub key: String,
    /// See [`crate::TRAINING_VERSION`].
    pub training_version: u32,
    /// What the run is called.
    pub title: String,
    /// The method's id.
    pub method: String,
    /// The data's name.
    pub data: String,
    /// What the data stand in for, if they are not the paper's own.
    pub stand_in: Option<String>,
    /// Epochs asked for.
    pub epochs: u32,
    /// Epochs done.
    pub epochs_done: u32,
    /// The best epoch, once there is one.
    pub best_epoch: Option<u32>,
    /// Its training loss; nats per character for texts.
    pub train_loss: Option<f64>,
    /// Its validation loss, likewise.
    pub validation_loss: Option<f64>,
    /// Its test loss, likewise.
    pub test_loss: Option<f64>,
    /// Percent of the validation images that it puts in a wrong class; null for texts.
    pub validation_error: Option<f64>,
    /// Percent of the test images that it puts in a wrong class; null for texts.
    pub test_error: Option<f64>,
    /// Wall-clock seconds, over all sessions.
    pub seconds: f64,
    /// Mean wall-clock seconds of a training step.
    pub seconds_per_step: f64,
    /// The share of them spent quantizing.
    pub quantize_share: f64,
    /// Training steps done.
    pub steps: u64,
    /// The most batches an epoch, if the run was cut short so.
    pub max_batches: Option<usize>,
    /// The published figure.
    pub paper: Option<Paper>,
    /// The commit of the sources, or `unknown`.
    pub commit: String,
    /// The processor's name, or `unknown`.
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// The matrix kernel used.
    pub kernel: String,
    /// The process's peak resident memory; null where the system does not say.
    pub peak_memory_bytes: Option<u64>,
}
