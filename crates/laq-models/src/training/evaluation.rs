//! Evaluation of batches during training.

use std::ops::Range;

use laq_tensor::{Backend, STEP_LOG_CAPACITY};

use super::{Training, unknown_dataset};
use crate::ModelError;
use crate::batch::{Batch, Evaluation, Evaluations};
use crate::dataset::DatasetHandle;

impl<B: Backend + 'static> Training<B> {
    /// Evaluates a batch with the quantized weights, without effect on training.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn evaluate(&mut self, batch: Batch<'_>) -> Result<Evaluation, ModelError> {
        self.network.load_batch(&self.backend, batch, false)?;
        self.ensure_quantized()?;
        (self.network).evaluate(&self.backend, &mut self.evaluation_log)?;
        let mut losses = Vec::with_capacity(1);
        let errors = self.read_evaluations(&mut losses)?;
        let [loss] = losses[..] else {
            return Err(self.evaluation_error()?);
        };
        Ok(Evaluation { loss, errors })
    }

    /// [`Training::evaluate`] on batches of a dataset, with one synchronization per log. The last
    /// batch of images may have fewer.
    ///
    /// # Errors
    /// As [`Training::step`]; [`ModelError::Batch`] for an index out of range.
    pub fn evaluate_dataset(
        &mut self,
        set: DatasetHandle,
        batches: Range<usize>,
    ) -> Result<Evaluations, ModelError> {
        self.ensure_quantized()?;
        let mut losses = Vec::with_capacity(batches.len());
        let mut errors = None;
        for first in batches.clone().step_by(STEP_LOG_CAPACITY) {
            let part = first..batches.end.min(first + STEP_LOG_CAPACITY);
            let begun = part
                .clone()
                .try_for_each(|index| self.evaluate_batch(set, index));
            let found = self.read_evaluations(&mut losses)?;
            begun?;
            errors = found.map(|found| found + errors.unwrap_or(0));
            if losses.len() < part.end - batches.start {
                // Later batches have overwritten the activations of the failed one.
                self.evaluate_batch(set, batches.start + losses.len())?;
                self.read_evaluations(&mut losses)?;
                return Err(self.evaluation_error()?);
            }
        }
        Ok(Evaluations { losses, errors })
    }

    fn evaluate_batch(&mut self, set: DatasetHandle, index: usize) -> Result<(), ModelError> {
        let dataset = self.dataset.get(set.0).ok_or_else(unknown_dataset)?;
        (self.network).load_dataset_batch(&self.backend, dataset, index, false)?;
        Ok((self.network).evaluate(&self.backend, &mut self.evaluation_log)?)
    }

    /// Waits for the submitted evaluations, appends their losses up to the first that is not
    /// finite, and returns the number of errors.
    pub(super) fn read_evaluations(
        &mut self,
        losses: &mut Vec<f64>,
    ) -> Result<Option<usize>, ModelError> {
        let found = (self.backend).read_log(&mut self.evaluation_log, losses)?;
        if found.stop.is_some() {
            losses.pop();
        }
        let has_classes = self.network.has_classes();
        Ok(has_classes.then_some(found.errors as usize))
    }

    /// The error for the loaded batch, whose loss is not finite.
    pub(super) fn evaluation_error(&self) -> Result<ModelError, ModelError> {
        let what = self.locate_non_finite(true)?;
        Ok(ModelError::NotFiniteEvaluation { what })
    }
}
