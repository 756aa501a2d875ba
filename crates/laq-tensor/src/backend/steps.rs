//! What surrounds a training step: its log, its clock, and its capture as a graph.

use crate::{BackendError, Memory};

/// The number of losses that a [`Steps::StepLog`] holds between two reads.
pub const STEP_LOG_CAPACITY: usize = 256;

/// The first error of the logged steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The loss of a batch is NaN or infinite.
    Loss,
    /// A gradient has an element that is NaN, or not below [`LARGEST_GRADIENT`](crate::LARGEST_GRADIENT).
    Gradient {
        /// Index of the parameter among those checked.
        parameter: usize,
    },
    /// A solver rejected a group of weights.
    Solve {
        /// Index of the parameter among those quantized.
        parameter: usize,
        /// Index of the group of rows within the parameter.
        group: usize,
    },
}

/// The result of [`Steps::read_log`] besides the losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepStatus {
    /// The first error. Steps submitted after it were skipped.
    pub stop: Option<Stop>,
    /// Total seconds between [`Steps::start_clock`] and [`Steps::stop_clock`].
    pub seconds: f64,
    /// Misclassified examples counted by
    /// [`Losses::evaluate_outputs`](crate::Losses::evaluate_outputs).
    pub errors: u64,
}

/// The log of the steps, and graphs that replay them.
///
/// A device may execute a step after the call that submits it has returned. Its loss, and whether a
/// value was not finite, stay on the device in a [`Steps::StepLog`] until the host reads it. The
/// first value that is not finite stops the log. Until the log is read, calls that take it change
/// no weight, moment, running statistic or level.
pub trait Steps: Memory {
    /// Losses, times and the first error of the steps since the last read.
    type StepLog: Send;
    /// A captured sequence of calls; its default has captured nothing.
    type StepGraph: Default + Send;

    /// An empty log.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory.
    fn step_log(&self) -> Result<Self::StepLog, BackendError>;

    /// Sets the step size of the next [`Optimizer::update`](crate::Optimizer::update) and
    /// [`Quantize::quantizer_update`](crate::Quantize::quantizer_update).
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn set_step_size(&self, step_size: f64, log: &mut Self::StepLog) -> Result<(), BackendError>;

    /// Waits for all submitted work, appends the losses since the last read to `losses` in order,
    /// and empties the log. After a [`Stop::Loss`] or [`Stop::Gradient`] the last loss is that of
    /// the step that stopped; a [`Stop::Solve`] comes before the loss of its step.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn read_log(
        &self,
        log: &mut Self::StepLog,
        losses: &mut Vec<f64>,
    ) -> Result<StepStatus, BackendError>;

    /// Starts the clock of the log.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn start_clock(&self, log: &mut Self::StepLog) -> Result<(), BackendError>;

    /// Adds the time since [`Steps::start_clock`] to the log.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn stop_clock(&self, log: &mut Self::StepLog) -> Result<(), BackendError>;

    /// Executes the calls of `body`, or replays them from `graph`.
    ///
    /// A device may capture the calls of one execution into `graph` and replay them in later ones
    /// without calling `body`. So `body` must make the same calls on the same operands whenever it
    /// is passed with the same graph, and must neither allocate nor copy to or from the host; a
    /// replay of anything else computes what was captured.
    ///
    /// A graph owns what it captured: it shares the ownership of every buffer, workspace, quantizer
    /// and log that the captured calls used. Their memory is freed when the last owner is dropped,
    /// so a replay after an operand was dropped is sound and writes to memory that nothing else
    /// uses.
    ///
    /// # Errors
    /// Those of `body`, and [`BackendError::Device`] when the device fails. Calls that cannot be
    /// captured are executed, with a line in [`Memory::diagnostics`].
    fn capture_or_replay(
        &self,
        graph: &mut Self::StepGraph,
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError>;
}
