//! Losses and the evaluation of outputs.

use super::{Check, Suite};
use crate::{Backend, BackendError, Loss, reference};

impl<B: Backend> Suite<'_, B> {
    pub(super) fn loss(
        &mut self,
        loss: Loss,
        rows: usize,
        classes: usize,
    ) -> Result<(), BackendError> {
        // Small logits: softmax − one-hot is not a difference of nearly equal numbers.
        let outputs = self.uniform(rows * classes, 3.0);
        let targets = self.random_indices(rows, classes);
        let (expected, gradient) = reference::loss_and_gradient(loss, &targets, &outputs);
        let targets = self.indices(&targets, classes)?;
        let mut outputs = self.tensor(&outputs)?;
        let mut log = self.backend.step_log()?;
        self.backend
            .loss_and_gradient(loss, &targets, &mut outputs, &mut log)?;
        let name = |what: &str| format!("{loss:?} R={rows} N={classes}: {what}");
        self.compare_loss(name("loss"), &mut log, expected)?;
        self.compare(name("gradient"), &outputs, &gradient, 1e-6)
    }

    /// Compares the only loss of a log.
    fn compare_loss(
        &mut self,
        name: String,
        log: &mut B::StepLog,
        expected: f64,
    ) -> Result<(), BackendError> {
        let mut losses = Vec::new();
        let recorded = self.backend.read_log(log, &mut losses)?;
        let error = match (losses.as_slice(), recorded.stop) {
            ([found], None) => (found - expected).abs() / expected.abs().max(1.0),
            _ => f64::INFINITY,
        };
        self.checks.push(Check {
            name,
            error,
            tolerance: 1e-6,
        });
        Ok(())
    }

    pub(super) fn evaluate_outputs(
        &mut self,
        loss: Loss,
        rows: usize,
        of: usize,
    ) -> Result<(), BackendError> {
        let classes = 10;
        // Few distinct values, so that several classes share the maximum.
        let outputs: Vec<f64> = (self.uniform(of * classes, 2.5).iter())
            .map(|output| output.round())
            .collect();
        let targets = self.random_indices(of, classes);
        let (expected, misclassified) =
            reference::evaluate_outputs(loss, &targets[..rows], &outputs, classes);
        let (targets, outputs) = (self.indices(&targets, classes)?, self.tensor(&outputs)?);
        let mut log = self.backend.step_log()?;
        let mut losses = Vec::new();
        for _ in 0..2 {
            (self.backend).evaluate_outputs(loss, rows, &targets, &outputs, &mut log)?;
        }
        let found = self.backend.read_log(&mut log, &mut losses)?;
        let again = self.backend.read_log(&mut log, &mut losses)?;
        let far = losses.iter().map(|found| (found - expected).abs());
        let right = losses.len() == 2 && found.errors == 2 * misclassified && again.errors == 0;
        self.checks.push(Check {
            name: format!(
                "evaluation, {loss:?}, {rows} of {of} rows: {} misclassified",
                found.errors
            ),
            error: if right {
                far.fold(0.0, f64::max)
            } else {
                f64::INFINITY
            },
            tolerance: 1e-6,
        });
        Ok(())
    }
}
