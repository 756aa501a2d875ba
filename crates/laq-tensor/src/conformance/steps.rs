//! The step log.

use super::optimizer::Updated;
use super::{ADAM, Check, Suite, constant};
use crate::{Backend, BackendError, LARGEST_GRADIENT, Loss, Stop};

impl<B: Backend> Suite<'_, B> {
    /// A value that is not finite and a gradient that is too large stop the log, which reports the first; no weight
    /// changes until the log is read.
    pub(super) fn stops(&mut self) -> Result<(), BackendError> {
        let backend = self.backend;
        let (mut log, mut workspace) = (backend.step_log()?, B::UpdateWorkspace::default());
        let targets = self.indices(&[0, 1], 3)?;
        let good = self.uniform(6, 1.0);
        let last_is = |value| {
            let mut values = constant(5000, 1.0);
            values[4999] = value;
            values
        };
        let infinite = last_is(f64::INFINITY);
        let mut both = infinite.clone();
        both[1234] = f64::NAN;
        let mut found = Vec::new();
        for values in [&both, &infinite, &constant(1, 0.0)] {
            found.push(backend.first_not_finite(&self.tensor(values)?)?);
        }
        self.checks.push(Check {
            name: format!("first value that is not finite: {found:?}"),
            error: f64::from(found != [Some(1234), Some(4999), None]),
            tolerance: 0.0,
        });
        let of_gradient = Some(Stop::Gradient { parameter: 3 });
        let largest = f64::from(LARGEST_GRADIENT);
        // An output of the target, and elements of the gradients of two parameters.
        for (output, gradient, expected_losses, expected) in [
            (1.0, 1.0, 2, None),
            (1.0, -0.9 * largest, 2, None),
            (f64::NAN, 1.0, 2, Some(Stop::Loss)),
            (f64::INFINITY, 1.0, 2, Some(Stop::Loss)),
            (1.0, f64::INFINITY, 1, of_gradient),
            (1.0, -largest, 1, of_gradient),
        ] {
            let case = format!("log, output {output}, gradient {gradient}");
            let mut outputs = good.clone();
            outputs[4] = output;
            let mut parameters = Vec::new();
            for number in 0..6 {
                let is_of_case = number == 3 || number == 4;
                let gradient = last_is(if is_of_case { gradient } else { 1.0 });
                parameters.push(self.parameter(None, &constant(5000, 0.5), &gradient)?);
            }
            backend.set_step_size(0.25, &mut log)?;
            let mut logits = self.tensor(&good)?;
            backend.loss_and_gradient(Loss::CrossEntropy, &targets, &mut logits, &mut log)?;
            let jobs = &mut parameters.iter_mut().map(Updated::job);
            backend.check_gradients(jobs, &mut workspace, &mut log)?;
            let mut logits = self.tensor(&outputs)?;
            backend.loss_and_gradient(Loss::SquaredHinge, &targets, &mut logits, &mut log)?;
            let jobs = &mut parameters.iter_mut().map(Updated::job);
            backend.update(ADAM, jobs, &mut workspace, &log)?;
            backend.start_clock(&mut log)?;
            backend.stop_clock(&mut log)?;
            let mut losses = Vec::new();
            let status = backend.read_log(&mut log, &mut losses)?;
            let right = status.stop == expected
                && losses.len() == expected_losses
                && (0.0..60.0).contains(&status.seconds);
            self.checks.push(Check {
                name: format!("{case}: {:?}, {losses:?}", status.stop),
                error: if right { 0.0 } else { 1.0 },
                tolerance: 0.0,
            });
            let moved = 0.5 - 0.25 * 0.1 / (0.001f64.sqrt() + ADAM.epsilon);
            let expected = if expected.is_none() { moved } else { 0.5 };
            let expected = constant(5000, expected);
            for number in [0, 5] {
                let name = format!("{case}: weights of parameter {number}");
                self.compare(name, &parameters[number].weight, &expected, 1e-6)?;
            }
        }
        Ok(())
    }
}
