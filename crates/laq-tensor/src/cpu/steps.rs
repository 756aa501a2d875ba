//! The log of the steps. There are no graphs: every step executes its calls.

use std::time::Instant;

use super::CpuBackend;
use crate::{BackendError, STEP_LOG_CAPACITY, StepStatus, Steps, Stop};

/// Losses, times and the first error of the steps since the last read.
#[derive(Debug)]
pub struct StepLog {
    pub(super) step_size: f64,
    losses: Vec<f64>,
    status: StepStatus,
    clock: Option<Instant>,
}

impl StepLog {
    pub(super) fn is_stopped(&self) -> bool {
        self.status.stop.is_some()
    }

    /// Stops the log; the first stop is kept.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.status.stop.get_or_insert(stop);
    }

    pub(super) fn add_loss(&mut self, loss: f64) {
        if self.is_stopped() {
            return;
        }
        assert!(
            self.losses.len() < STEP_LOG_CAPACITY,
            "the step log is full"
        );
        self.losses.push(loss);
        if !loss.is_finite() {
            self.stop(Stop::Loss);
        }
    }

    pub(super) fn count_errors(&mut self, errors: u64) {
        if !self.is_stopped() {
            self.status.errors += errors;
        }
    }
}

impl Steps for CpuBackend {
    type StepLog = StepLog;
    type StepGraph = ();

    fn step_log(&self) -> Result<StepLog, BackendError> {
        Ok(StepLog {
            step_size: 0.0,
            losses: Vec::with_capacity(STEP_LOG_CAPACITY),
            status: StepStatus::default(),
            clock: None,
        })
    }

    fn set_step_size(&self, step_size: f64, log: &mut StepLog) -> Result<(), BackendError> {
        log.step_size = step_size;
        Ok(())
    }

    fn read_log(
        &self,
        log: &mut StepLog,
        losses: &mut Vec<f64>,
    ) -> Result<StepStatus, BackendError> {
        losses.append(&mut log.losses);
        Ok(std::mem::take(&mut log.status))
    }

    fn start_clock(&self, log: &mut StepLog) -> Result<(), BackendError> {
        log.clock = Some(Instant::now());
        Ok(())
    }

    fn stop_clock(&self, log: &mut StepLog) -> Result<(), BackendError> {
        if let Some(start) = log.clock.take() {
            log.status.seconds += start.elapsed().as_secs_f64();
        }
        Ok(())
    }

    fn capture_or_replay(
        &self,
        _graph: &mut (),
        body: &mut dyn FnMut() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        body()
    }
}
