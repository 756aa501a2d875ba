//! The records of a run: one per epoch, one per comparison, and a summary.
//!
//! Files of older versions are readable: a missing field gets its default, an unknown one is
//! ignored.

use std::path::PathBuf;

use laq_models::{LayerComparison, LayerReport};
use laq_solvers::Scale;
use serde::{Deserialize, Serialize};

use crate::config::Paper;

/// The status of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// In training, or killed.
    #[default]
    Running,
    /// All epochs are done.
    Finished,
    /// Stopped and saved; can be resumed.
    Interrupted,
    /// Stopped with an error.
    Failed,
}

/// One line of `metrics.jsonl`. Losses are means: the cross-entropy per character in nats for
/// texts, `model.loss` for images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: u32,
    /// The mean over the epoch's steps of the loss before each step.
    pub train_loss: f64,
    /// After the epoch, with quantized weights.
    pub validation_loss: f64,
    /// After the epoch, if it is the best so far; else null.
    pub test_loss: Option<f64>,
    /// Classification error on the validation images in percent, with quantized weights; null for
    /// texts.
    pub validation_error: Option<f64>,
    /// Classification error on the test images in percent, if the epoch is the best so far; else
    /// null.
    pub test_error: Option<f64>,
    /// Adam's step size in this epoch.
    pub learning_rate: f64,
    /// Wall-clock seconds of the epoch, including evaluation.
    pub seconds: f64,
    /// Mean wall-clock seconds of a training step.
    pub seconds_per_step: f64,
    /// The fraction of them spent quantizing.
    pub quantize_share: f64,
    /// The quantized layers after the epoch; empty in full precision.
    pub layers: Vec<LayerRecord>,
}

/// A quantized layer at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerRecord {
    /// Such as `lstm.weight_hh.forget` or `dense1.weight`.
    pub name: String,
    /// One scale, or those of positive and negative weights; the mean magnitude of those of rows or blocks.
    pub scale: Vec<f32>,
    /// The fraction of weights whose level is 0.
    pub sparsity: f64,
    /// ½ Σ d (w − ŵ)².
    pub weighted_error: f64,
    /// Iterations of an alternating solver.
    #[serde(alias = "rounds")]
    pub iterations: u32,
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
            iterations: layer.iterations,
        }
    }
}

/// One line of `comparison.jsonl`: the errors of the run's solver and of the exact solver in one
/// step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparisonRecord {
    /// The training step that used the compared weights, counted from 1 over the whole run.
    pub step: u64,
    /// ½ Σ d (w − ŵ)² over all matrices, with ŵ of the run's solver.
    pub weighted_error: f64,
    /// The same with ŵ of the exact solver.
    pub exact_weighted_error: f64,
    /// Their ratio, 1 at the optimum; null if the exact error is 0.
    pub ratio: Option<f64>,
    /// The errors of each matrix.
    pub layers: Vec<LayerComparisonRecord>,
}

/// The errors of one matrix in one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerComparisonRecord {
    /// Such as `lstm.weight_hh.forget` or `dense1.weight`.
    pub name: String,
    /// ½ Σ d (w − ŵ)² with ŵ of the run's solver.
    pub weighted_error: f64,
    /// The same with ŵ of the exact solver.
    pub exact_weighted_error: f64,
    /// Their ratio; null if the exact error is 0.
    pub ratio: Option<f64>,
}

impl ComparisonRecord {
    /// The record of step `step`.
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

/// A number of epochs that a run was planned with before it was resumed with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierPlan {
    /// The epochs that were planned.
    pub epochs: u32,
    /// The epochs that were done when the plan changed.
    pub epochs_done: u32,
}

/// The results of the best epoch; see [`Summary`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch.
    pub epoch: u32,
    /// Mean training loss over its steps.
    pub train_loss: f64,
    /// Validation loss after the epoch.
    pub validation_loss: f64,
    /// Test loss after the epoch.
    pub test_loss: f64,
    /// Validation error in percent, for images. Absent from older checkpoints.
    #[serde(default)]
    pub validation_error: Option<f64>,
    /// Test error in percent, for images.
    #[serde(default)]
    pub test_error: Option<f64>,
}

/// `summary.json`. Losses and errors are those of the best epoch: the latest with the lowest
/// validation loss, or validation error for images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// The status of the run.
    pub status: Status,
    /// Why it failed or stopped.
    pub reason: Option<String>,
    /// See [`crate::config::key`].
    pub key: String,
    /// See [`crate::TRAINING_VERSION`].
    pub training_version: u32,
    /// The title of the run.
    pub title: String,
    /// The method's id.
    pub method: String,
    /// The weights that share a scale, where it is not the method's own granularity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granularity: Option<String>,
    /// The run folder or checkpoint whose weights the run started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The name of the data.
    pub data: String,
    /// For a substitute: which data it replaces.
    pub stand_in: Option<String>,
    /// Epochs of the experiment.
    pub epochs: u32,
    /// Completed epochs.
    pub epochs_done: u32,
    /// Earlier plans, where the run was resumed with another number of epochs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier_plans: Vec<EarlierPlan>,
    /// The best epoch; null before the first evaluation.
    pub best_epoch: Option<u32>,
    /// Its training loss; nats per character for texts.
    pub train_loss: Option<f64>,
    /// Its validation loss.
    pub validation_loss: Option<f64>,
    /// Its test loss.
    pub test_loss: Option<f64>,
    /// Its classification error on the validation images in percent; null for texts.
    pub validation_error: Option<f64>,
    /// Its classification error on the test images in percent; null for texts.
    pub test_error: Option<f64>,
    /// Wall-clock seconds, over all sessions.
    pub seconds: f64,
    /// Mean wall-clock seconds of a training step.
    pub seconds_per_step: f64,
    /// The fraction of them spent quantizing.
    pub quantize_share: f64,
    /// Completed training steps.
    pub steps: u64,
    /// The limit of batches per epoch, if set.
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
    /// The peak resident memory of the process; null if the system does not report it.
    pub peak_memory_bytes: Option<u64>,
}

impl Summary {
    /// The results of the best epoch; `None` if there is none, or one of its figures is missing.
    #[must_use]
    pub fn best(&self) -> Option<Best> {
        Some(Best {
            epoch: self.best_epoch?,
            train_loss: self.train_loss?,
            validation_loss: self.validation_loss?,
            test_loss: self.test_loss?,
            validation_error: self.validation_error,
            test_error: self.test_error,
        })
    }

    /// Sets the results of the best epoch.
    pub(crate) fn set_best(&mut self, best: Option<Best>) {
        self.best_epoch = best.map(|best| best.epoch);
        self.train_loss = best.map(|best| best.train_loss);
        self.validation_loss = best.map(|best| best.validation_loss);
        self.test_loss = best.map(|best| best.test_loss);
        self.validation_error = best.and_then(|best| best.validation_error);
        self.test_error = best.and_then(|best| best.test_error);
    }
}
