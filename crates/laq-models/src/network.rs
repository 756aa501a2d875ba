//! The interface between a network and the training step.

use std::collections::BTreeMap;

use laq_tensor::{Backend, BackendError};

use crate::ModelError;
use crate::batch::Batch;
use crate::dataset::{DeviceDataset, Examples};
use crate::parameter::{Parameter, StateTensor};
use crate::profile::Profiler;

/// A network and the buffers of one batch, on a backend.
pub(crate) trait Network<B: Backend>: Send {
    fn parameters(&self) -> &[Parameter<B>];

    fn parameters_mut(&mut self) -> &mut [Parameter<B>];

    /// Copies a batch to the device. Training requires a `whole` one; an evaluation may have fewer
    /// images.
    fn load_batch(&mut self, backend: &B, batch: Batch<'_>, whole: bool) -> Result<(), ModelError>;

    /// Copies a dataset to the device.
    fn upload(&self, backend: &B, examples: Examples<'_>) -> Result<DeviceDataset<B>, ModelError>;

    /// Takes batch number `index` of the examples on the device, as [`Network::load_batch`] does.
    fn load_dataset_batch(
        &mut self,
        backend: &B,
        dataset: &DeviceDataset<B>,
        index: usize,
        whole: bool,
    ) -> Result<(), ModelError>;

    /// Logs the mean training loss of the batch and keeps what [`Network::backward`] needs.
    fn forward(
        &mut self,
        backend: &B,
        log: &mut B::StepLog,
        profiler: &mut Profiler,
    ) -> Result<(), BackendError>;

    /// Computes the gradients of all parameters, after [`Network::forward`].
    fn backward(&mut self, backend: &B, profiler: &mut Profiler) -> Result<(), BackendError>;

    /// Logs the mean loss of the batch, and the errors where outputs are classes. Does not change
    /// the network.
    fn evaluate(&mut self, backend: &B, log: &mut B::StepLog) -> Result<(), BackendError>;

    /// After [`Network::evaluate`] of `batch`: for each parameter that is a matrix, by its index, the mean square of
    /// the input that each column is multiplied by.
    fn squared_inputs(
        &self,
        backend: &B,
        batch: Batch<'_>,
    ) -> Result<Vec<(usize, Vec<f64>)>, BackendError>;

    /// Whether the outputs are classes, so that an evaluation counts errors.
    fn has_classes(&self) -> bool;

    /// Updates state other than parameters, unless the log has a stop.
    fn finish_step(&mut self, backend: &B, log: &B::StepLog) -> Result<(), BackendError>;

    /// The algorithms of the layers, where the backend has several.
    fn algorithms(&self, _backend: &B) -> Vec<String> {
        Vec::new()
    }

    /// The first layer whose output for the last batch has NaN or infinity.
    fn locate_non_finite_output(&self, backend: &B) -> Result<Option<String>, BackendError>;

    /// State other than the parameters'.
    fn save(&self, backend: &B) -> Result<Vec<StateTensor>, BackendError>;

    /// Restores such a state.
    fn load(&mut self, backend: &B, state: &BTreeMap<&str, &StateTensor>)
    -> Result<(), ModelError>;
}

/// The most units or filters of a layer, so that no product of sizes overflows.
pub const LARGEST_LAYER: usize = 65_536;

/// The mean of the squares of each column of a matrix with `rows` rows, of which `values` may have fewer: those that are
/// missing are zero.
pub(crate) fn mean_squares(values: &[f32], columns: usize, rows: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value).powi(2);
        }
    }
    for sum in &mut sums {
        *sum /= rows as f64;
    }
    sums
}

/// The error for examples of the wrong kind.
pub(crate) fn wrong_kind(takes: &str) -> ModelError {
    ModelError::Batch(format!(
        "the examples are of another kind: this network takes {takes}"
    ))
}

/// Returns [`ModelError::Setting`] unless `ok`.
pub(crate) fn setting(
    ok: bool,
    name: &'static str,
    value: impl ToString,
    expected: &'static str,
) -> Result<(), ModelError> {
    if ok {
        return Ok(());
    }
    Err(ModelError::Setting {
        name,
        value: value.to_string(),
        expected,
    })
}
