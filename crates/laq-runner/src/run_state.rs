//! The state of a run between two steps, beside its tensors.

use serde::{Deserialize, Serialize};

use crate::config::{Experiment, agree};
use crate::record::{Best, EarlierPlan, LayerRecord};

/// The state of a run except its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// See [`crate::config::key`].
    pub key: String,
    /// See [`crate::TRAINING_VERSION`].
    pub training_version: u32,
    /// The resolved experiment.
    pub experiment: Experiment,
    /// The byte of each symbol; empty for images.
    pub alphabet: Vec<u8>,
    /// SHA-256 of the splits, in hexadecimal.
    pub data_sha256: String,
    /// The kernel of the run; others round differently.
    pub kernel: String,
    /// The weights that the run started from, if they were not drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Earlier plans of the run, oldest first; `experiment` has the present one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_plans: Vec<EarlierPlan>,
    /// The progress of the run.
    pub progress: Progress,
}

impl RunState {
    /// The state in the metadata of a file, or what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let run: Self =
            serde_json::from_str(text).map_err(|error| format!("its run entry: {error}"))?;
        (run.experiment.clone().resolve())
            .map_err(|(key, value, allowed)| format!("{key} = {value}: {allowed}"))?;
        let (epoch, steps) = (run.progress.epoch, run.progress.times.steps);
        let of_epoch = run.progress.epoch_times.steps;
        if epoch == 0 || of_epoch > steps {
            return Err(format!("epoch {epoch} has {of_epoch} of {steps} steps"));
        }
        let epochs = run.experiment.train.epochs;
        if epoch > epochs + 1 {
            return Err(format!("it is in epoch {epoch} of {epochs}"));
        }
        // Far more than any data have; sums of them do not overflow.
        let most = u64::from(u32::MAX);
        let step = run.progress.step;
        if step as u64 > most || steps > most * u64::from(epoch) {
            return Err(format!(
                "epoch {epoch} has {step} steps of {steps} in all, expected at most {most} an epoch"
            ));
        }
        Ok(run)
    }

    /// Whether both are states of one run, however many epochs it was planned with.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let epochs = self.epochs_done().min(other.epochs_done());
        let same = || agree(&self.experiment, &other.experiment, epochs);
        self.training_version == other.training_version && (self.key == other.key || same())
    }

    /// Completed epochs.
    pub(crate) fn epochs_done(&self) -> u32 {
        self.progress.epoch.saturating_sub(1)
    }

    /// Epochs that have at least one step.
    pub(crate) fn epochs_begun(&self) -> u32 {
        self.epochs_done() + u32::from(self.progress.step > 0)
    }
}

/// The checkpoint that a run started from, in its own checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// See [`crate::config::key`].
    pub key: String,
    /// The method's id.
    pub method: String,
    /// Completed epochs.
    pub epochs_done: u32,
}

/// The position of a run, and its running sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The current epoch, from 1; the number of epochs plus one at the end.
    pub epoch: u32,
    /// Completed steps of the epoch.
    pub step: usize,
    /// The sum of their losses.
    pub loss_sum: f64,
    /// The quantized layers after the last step, once evaluation has begun. Stored because the
    /// iterations of the solvers are not part of the network's state.
    pub layers: Option<Vec<LayerRecord>>,
    /// Wall-clock seconds of this epoch.
    pub epoch_seconds: f64,
    /// Times of the steps of this epoch.
    pub epoch_times: StepTimes,
    /// Wall-clock seconds of the run.
    pub seconds: f64,
    /// Times of all steps of the run.
    pub times: StepTimes,
    /// The best epoch so far.
    pub best: Option<Best>,
}

impl Progress {
    /// Before the first step.
    #[must_use]
    pub fn at_the_beginning() -> Self {
        Self {
            epoch: 1,
            step: 0,
            loss_sum: 0.0,
            layers: None,
            epoch_seconds: 0.0,
            epoch_times: StepTimes::default(),
            seconds: 0.0,
            times: StepTimes::default(),
            best: None,
        }
    }

    /// The current epoch and its completed steps.
    #[must_use]
    pub fn position(&self) -> (u32, usize) {
        (self.epoch, self.step)
    }
}

/// The number of steps and their durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Steps.
    pub steps: u64,
    /// The sum of their seconds.
    pub seconds: f64,
    /// The sum of their seconds spent quantizing.
    pub quantize_seconds: f64,
}

impl StepTimes {
    /// Adds `steps` steps.
    pub fn add(&mut self, steps: u64, seconds: f64, quantize_seconds: f64) {
        self.steps += steps;
        self.seconds += seconds;
        self.quantize_seconds += quantize_seconds;
    }

    /// Mean seconds of a step; 0 before the first.
    #[must_use]
    pub fn per_step(&self) -> f64 {
        if self.steps == 0 {
            0.0
        } else {
            self.seconds / self.steps as f64
        }
    }

    /// The fraction of the seconds spent quantizing; 0 before the first step.
    #[must_use]
    pub fn quantize_share(&self) -> f64 {
        if self.seconds > 0.0 {
            self.quantize_seconds / self.seconds
        } else {
            0.0
        }
    }
}
