//! The splits of a run in batches: on the host and, where they fit, in device memory.

use laq_datasets::Split;
use laq_models::{DatasetHandle, ModelError};

use crate::RunError;
use crate::config::Experiment;
use crate::device::Network;
use crate::examples::{BatchBuffer, Batches, Examples, Score, score};

/// Steps before the upload: a network allocates all its memory in one eager and one captured step.
const STEPS_BEFORE_UPLOAD: usize = 2;

/// The splits of a run.
pub(super) struct Dataset<'a> {
    train: Batches<'a>,
    validation: Batches<'a>,
    test: Batches<'a>,
    /// Training batches of an epoch.
    steps_per_epoch: usize,
    uploaded: Uploaded,
    /// Steps left before the upload; `None` after it, and on a CPU.
    steps_before_upload: Option<usize>,
}

/// The splits in device memory.
#[derive(Clone, Copy, Default)]
struct Uploaded {
    train: Option<DatasetHandle>,
    validation: Option<DatasetHandle>,
    test: Option<DatasetHandle>,
}

impl<'a> Dataset<'a> {
    /// The splits of `examples`; on a GPU they are uploaded after the first steps.
    pub(super) fn new(
        examples: &'a Examples,
        experiment: &Experiment,
        on_gpu: bool,
    ) -> Result<Self, RunError> {
        let of = |split| examples.batches(split, &experiment.data);
        let train = of(Split::Train)?;
        let limit = experiment.train.max_batches.unwrap_or(usize::MAX);
        Ok(Self {
            steps_per_epoch: train.trained().min(limit),
            train,
            validation: of(Split::Validation)?,
            test: of(Split::Test)?,
            uploaded: Uploaded::default(),
            steps_before_upload: on_gpu.then_some(STEPS_BEFORE_UPLOAD),
        })
    }

    /// Examples of the training split.
    pub(super) fn training_examples(&self) -> usize {
        self.train.examples()
    }

    /// Training batches of an epoch.
    pub(super) fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }

    /// Batches of an epoch, of the validation split and of the test split.
    pub(super) fn batches(&self) -> [usize; 3] {
        [
            self.steps_per_epoch,
            self.validation.evaluated(),
            self.test.evaluated(),
        ]
    }

    /// Counts a step; whether to call [`Self::upload`] before it.
    pub(super) fn upload_is_due(&mut self) -> bool {
        let steps = self.steps_before_upload;
        self.steps_before_upload = steps.and_then(|steps| steps.checked_sub(1));
        steps == Some(0)
    }

    /// Uploads the splits that fit into device memory.
    pub(super) fn upload(
        &mut self,
        network: &mut Network,
        order: &[u32],
    ) -> Result<(), ModelError> {
        self.uploaded = Uploaded {
            train: self.train.upload(network)?,
            validation: self.validation.upload(network)?,
            test: self.test.upload(network)?,
        };
        self.set_order(network, order)
    }

    /// Sets the order of an uploaded training split.
    pub(super) fn set_order(&self, network: &mut Network, order: &[u32]) -> Result<(), ModelError> {
        match self.uploaded.train {
            Some(train) => network.set_order(train, order),
            None => Ok(()),
        }
    }

    /// Submits the training step of batch `index` in `order`; `buffer` holds a batch of the host.
    pub(super) fn begin_step(
        &self,
        network: &mut Network,
        buffer: &mut BatchBuffer,
        order: &[u32],
        index: usize,
        learning_rate: f64,
    ) -> Result<(), ModelError> {
        match self.uploaded.train {
            Some(train) => network.begin_dataset_step(train, index, learning_rate),
            None => network.begin_step(buffer.fill(&self.train, order, index), learning_rate),
        }
    }

    /// See [`score`].
    pub(super) fn score(
        &self,
        network: &mut Network,
        split: Split,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Score>, ModelError> {
        let (batches, uploaded) = match split {
            Split::Train => (&self.train, self.uploaded.train),
            Split::Validation => (&self.validation, self.uploaded.validation),
            Split::Test => (&self.test, self.uploaded.test),
        };
        score(&mut **network, batches, uploaded, go_on)
    }
}
