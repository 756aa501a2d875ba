//! Batch normalization.

use super::Suite;
use crate::{Backend, BackendError, NormShape, reference};

impl<B: Backend> Suite<'_, B> {
    pub(super) fn norm(&mut self, shape: NormShape) -> Result<(), BackendError> {
        let NormShape { rows, channels, .. } = shape;
        let count = rows * channels;
        // Far from zero, where cancellation in the variance would show.
        let input: Vec<f64> = self.uniform(count, 1.0).iter().map(|x| x + 4.0).collect();
        let input: Vec<f64> = input.iter().map(|&x| f64::from(x as f32)).collect();
        let (scale, shift) = (self.uniform(channels, 2.0), self.uniform(channels, 1.0));
        let output_gradient = self.uniform(count, 1.0);
        let [mean, variance] = reference::batch_statistics(shape, &input);
        let output =
            reference::batch_norm_forward(shape, &input, &scale, &shift, [&mean, &variance]);
        let expected =
            reference::batch_norm_backward(shape, &input, &scale, &shift, &output_gradient);
        let mut running_mean = self.uniform(channels, 1.0);
        let mut running_variance: Vec<f64> = self
            .uniform(channels, 1.0)
            .iter()
            .map(|x| x.abs() + 0.5)
            .collect();
        running_variance
            .iter_mut()
            .for_each(|x| *x = f64::from(*x as f32));

        let backend = self.backend;
        let (device_input, device_scale) = (self.tensor(&input)?, self.tensor(&scale)?);
        let device_shift = self.tensor(&shift)?;
        let mut running = (self.tensor(&running_mean)?, self.tensor(&running_variance)?);
        let mut workspace = backend.norm_workspace(shape)?;
        let log = backend.step_log()?;
        let mut found = backend.zeros(&[rows, channels])?;
        let mut of_scale = backend.zeros(&[channels])?;
        let mut of_shift = backend.zeros(&[channels])?;
        let mut gradient = self.tensor(&output_gradient)?;
        let name = |what: &str| {
            format!(
                "batch norm R={rows} N={channels} relu={}: {what}",
                shape.relu
            )
        };
        // Twice, because workspaces are reused from step to step, and running statistics
        // accumulate.
        for _ in 0..2 {
            gradient = self.tensor(&output_gradient)?;
            backend.batch_norm_forward(
                shape,
                &device_input,
                &device_scale,
                &device_shift,
                &mut workspace,
                &mut found,
            )?;
            backend.batch_norm_backward(
                shape,
                &device_input,
                &device_scale,
                &mut workspace,
                &mut gradient,
                &mut of_scale,
                &mut of_shift,
            )?;
            backend.update_running_stats(
                shape,
                0.125,
                &workspace,
                &log,
                &mut running.0,
                &mut running.1,
            )?;
            let unbiased = rows as f64 / (rows - 1).max(1) as f64;
            for c in 0..channels {
                running_mean[c] += 0.125 * (mean[c] - running_mean[c]);
                running_variance[c] += 0.125 * (unbiased * variance[c] - running_variance[c]);
            }
        }
        // One row has no variance, and 1/√ε amplifies rounding; the gradients of two rows cancel up
        // to ε.
        let tolerance = if rows <= 2 { 1e-3 } else { 1e-5 };
        self.compare(name("output"), &found, &output, tolerance)?;
        self.compare(name("∂input"), &gradient, &expected[0], tolerance)?;
        self.compare(name("∂scale"), &of_scale, &expected[1], tolerance)?;
        self.compare(name("∂shift"), &of_shift, &expected[2], tolerance)?;
        self.compare(name("running mean"), &running.0, &running_mean, 1e-6)?;
        self.compare(
            name("running variance"),
            &running.1,
            &running_variance,
            1e-6,
        )?;

        if rows > 1 {
            let huge: Vec<f64> = input.iter().map(|x| x * 1e30).collect();
            let mut other = (self.tensor(&running_mean)?, self.tensor(&running_variance)?);
            backend.batch_norm_forward(
                shape,
                &self.tensor(&huge)?,
                &device_scale,
                &device_shift,
                &mut workspace,
                &mut found,
            )?;
            backend.update_running_stats(
                shape,
                0.125,
                &workspace,
                &log,
                &mut other.0,
                &mut other.1,
            )?;
            let largest = vec![f64::from(f32::MAX); channels];
            let name = name("running variance beyond f32");
            self.compare(name, &other.1, &largest, 0.0)?;
        }

        let statistics = [&running_mean[..], &running_variance];
        let expected = reference::batch_norm_forward(shape, &input, &scale, &shift, statistics);
        backend.batch_norm_inference(
            shape,
            &device_input,
            &device_scale,
            &device_shift,
            &running.0,
            &running.1,
            &mut workspace,
            &mut found,
        )?;
        self.compare(name("inference"), &found, &expected, 1e-5)
    }
}
