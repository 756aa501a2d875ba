//! What steps leave behind.

use std::time::Instant;

use crate::{RECORD_CAPACITY, Recorded, Stop};

/// Losses, the time that was taken, and why the steps stopped.
#[derive(Debug)]
pub struct Record {
    pub(super) step_size: f64,
    losses: Vec<f64>,
    found: Recorded,
    clock: Option<Instant>,
}

impl Record {
    pub(super) fn new() -> Self {
        Record {
            step_size: 0.0,
            losses: Vec::with_capacity(RECORD_CAPACITY),
            found: Recorded::default(),
            clock: None,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.found.stop.is_some()
    }

    /// Stops the record, unless it is stopped already.
    pub(super) fn stop(&mut self, why: Stop) {
        self.found.stop.get_or_insert(why);
    }

    pub(super) fn add_loss(&mut self, loss: f64) {
        if self.is_stopped() {
            return;
        }
        assert!(
            self.losses.len() < RECORD_CAPACITY,
            "a record is read before it is full"
        );
        self.losses.push(loss);
        if !loss.is_finite() {
            self.stop(Stop::Loss);
        }
    }

    pub(super) fn count_errors(&mut self, errors: u64) {
        self.found.errors += errors;
    }

    pub(super) fn start_clock(&mut self) {
        self.clock = Some(Instant::now());
    }

    pub(super) fn stop_clock(&mut self) {
        if let Some(start) = self.clock.take() {
            self.found.seconds += start.elapsed().as_secs_f64();
        }
    }

    pub(super) fn take(&mut self, losses: &mut Vec<f64>) -> Recorded {
        losses.append(&mut self.losses);
        std::mem::take(&mut self.found)
    }
}
