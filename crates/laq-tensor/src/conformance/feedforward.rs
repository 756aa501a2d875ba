//! The layers of images but the convolution: batch normalization, pooling, ReLU, squared hinge.

use super::Suite;
use crate::{Backend, BackendError, NormShape, PoolShape, reference};

impl<B: Backend> Suite<'_, B> {
    pub(super) fn feedforward(&mut self) -> Result<(), BackendError> {
        // Channels below, at and above the width of vectors and of a cache line; rows below and above a thread's share.
        for (rows, channels) in [
            (1, 1),
            (2, 3),
            (7, 16),
            (9, 17),
            (50, 40),
            (700, 33),
            (1300, 5),
        ] {
            for relu in [false, true] {
                self.norm(NormShape {
                    rows,
                    channels,
                    epsilon: 1e-4,
                    relu,
                })?;
            }
        }
        // A last row or column that has no partner, images that have no pair at all, equal numbers.
        for (batch, height, width, channels) in [
            (1, 2, 2, 1),
            (2, 1, 4, 3),
            (2, 3, 1, 2),
            (3, 5, 4, 17),
            (2, 4, 7, 16),
            (5, 8, 6, 33),
        ] {
            self.max_pool(PoolShape {
                batch,
                height,
                width,
                channels,
            })?;
        }
        for count in [1, 17, 70_001] {
            self.relu(count)?;
        }
        for (rows, classes) in [(1, 1), (3, 2), (100, 10), (57, 100)] {
            self.squared_hinge(rows, classes)?;
        }
        Ok(())
    }

    fn norm(&mut self, shape: NormShape) -> Result<(), BackendError> {
        let NormShape { rows, channels, .. } = shape;
        let count = rows * channels;
        // Away from zero, where a careless variance loses digits.
        let input: Vec<f64> = self.numbers(count, 1.0).iter().map(|x| x + 4.0).collect();
        let input: Vec<f64> = input.iter().map(|&x| f64::from(x as f32)).collect();
        let (scale, shift) = (self.numbers(channels, 2.0), self.numbers(channels, 1.0));
        let from_above = self.numbers(count, 1.0);
        let [mean, variance] = reference::norm_statistics(shape, &input);
        let output = reference::norm_forward(shape, &input, &scale, &shift, [&mean, &variance]);
        let expected = reference::norm_backward(shape, &input, &scale, &shift, &from_above);
        let mut running_mean = self.numbers(channels, 1.0);
        let mut running_variance: Vec<f64> = self
            .numbers(channels, 1.0)
            .iter()
            .map(|x| x.abs() + 0.5)
            .collect();
        running_variance
            .iter_mut()
            .for_each(|x| *x = f64::from(*x as f32));

        let backend = self.backend;
        let (on_device, scale_there) = (self.tensor(&input)?, self.tensor(&scale)?);
        let shift_there = self.tensor(&shift)?;
        let mut averages = (self.tensor(&running_mean)?, self.tensor(&running_variance)?);
        let mut space = backend.norm_space(shape)?;
        let record = backend.record()?;
        let mut found = backend.zeros(&[rows, channels])?;
        let mut of_scale = backend.zeros(&[channels])?;
        let mut of_shift = backend.zeros(&[channels])?;
        let mut gradient = self.tensor(&from_above)?;
        let name = |what: &str| {
            format!(
                "batch norm R={rows} N={channels} relu={}: {what}",
                shape.relu
            )
        };
        // Twice, because space is used again from step to step, and averages have a past.
        for _ in 0..2 {
            gradient = self.tensor(&from_above)?;
            backend.norm_forward(
                shape,
                &on_device,
                &scale_there,
                &shift_there,
                &mut space,
                &mut found,
            )?;
            backend.norm_backward(
                shape,
                &on_device,
                &scale_there,
                &mut space,
                &mut gradient,
                &mut of_scale,
                &mut of_shift,
            )?;
            backend.norm_average(
                shape,
                0.125,
                &space,
                &record,
                &mut averages.0,
                &mut averages.1,
            )?;
            let unbiased = rows as f64 / (rows - 1).max(1) as f64;
            for c in 0..channels {
                running_mean[c] += 0.125 * (mean[c] - running_mean[c]);
                running_variance[c] += 0.125 * (unbiased * variance[c] - running_variance[c]);
            }
        }
        // A single row has no variance, and 1/√ε magnifies the rounding of f32; the gradients of two rows cancel but for ε.
        let tolerance = if rows <= 2 { 1e-3 } else { 1e-5 };
        self.compare(name("output"), &found, &output, tolerance)?;
        self.compare(name("∂input"), &gradient, &expected[0], tolerance)?;
        self.compare(name("∂scale"), &of_scale, &expected[1], tolerance)?;
        self.compare(name("∂shift"), &of_shift, &expected[2], tolerance)?;
        self.compare(name("running mean"), &averages.0, &running_mean, 1e-6)?;
        self.compare(
            name("running variance"),
            &averages.1,
            &running_variance,
            1e-6,
        )?;

        let statistics = [&running_mean[..], &running_variance];
        let expected = reference::norm_forward(shape, &input, &scale, &shift, statistics);
        backend.norm_evaluate(
            shape,
            &on_device,
            &scale_there,
            &shift_there,
            &averages.0,
            &averages.1,
            &mut space,
            &mut found,
        )?;
        self.compare(name("evaluated"), &found, &expected, 1e-5)
    }

    fn max_pool(&mut self, shape: PoolShape) -> Result<(), BackendError> {
        let PoolShape {
            batch,
            height,
            width,
            channels,
        } = shape;
        let inputs = batch * height * width * channels;
        // Five values only, so that many pixels are the largest together with others.
        let input: Vec<f64> = (self.numbers(inputs, 2.5).iter())
            .map(|x| x.round())
            .collect();
        let from_above = self.numbers(shape.outputs(), 1.0);
        let (expected, chosen) = reference::max_pool_forward(shape, &input);
        let gradient = reference::max_pool_backward(inputs, &chosen, &from_above);

        let backend = self.backend;
        let (input, from_above) = (self.tensor(&input)?, self.tensor(&from_above)?);
        let mut places = backend.symbols(shape.outputs())?;
        let mut output = backend.zeros(&[shape.outputs()])?;
        let mut of_input = self.tensor(&vec![9.0; inputs])?;
        backend.max_pool_forward(shape, &input, &mut places, &mut output)?;
        backend.max_pool_backward(shape, &places, &from_above, &mut of_input)?;
        let name =
            |what: &str| format!("max pooling B={batch} {height}x{width} C={channels}: {what}");
        self.compare(name("output"), &output, &expected, 0.0)?;
        self.compare(name("∂input"), &of_input, &gradient, 0.0)
    }

    fn relu(&mut self, count: usize) -> Result<(), BackendError> {
        let mut input = self.numbers(count, 1.0);
        // Zero lets no gradient through.
        input[count / 2] = 0.0;
        let from_above = self.numbers(count, 1.0);
        let output = reference::relu(&input);
        let gradient = reference::relu_backward(&output, &from_above);
        let mut found = self.tensor(&input)?;
        let mut of_input = self.tensor(&from_above)?;
        self.backend.relu(&mut found)?;
        self.backend.relu_backward(&found, &mut of_input)?;
        let name = |what: &str| format!("relu n={count}: {what}");
        self.compare(name("output"), &found, &output, 0.0)?;
        self.compare(name("∂input"), &of_input, &gradient, 0.0)
    }

    fn squared_hinge(&mut self, rows: usize, classes: usize) -> Result<(), BackendError> {
        let outputs = self.numbers(rows * classes, 2.0);
        let targets = self.some_symbols(rows, classes);
        let (expected, gradient) = reference::squared_hinge(&targets, &outputs);
        let targets = self.symbols(&targets)?;
        let mut outputs = self.tensor(&outputs)?;
        let mut record = self.backend.record()?;
        self.backend
            .squared_hinge(&targets, &mut outputs, &mut record)?;
        let name = |what: &str| format!("squared hinge R={rows} N={classes}: {what}");
        self.compare_loss(name("loss"), &mut record, expected)?;
        self.compare(name("gradient"), &outputs, &gradient, 1e-6)
    }
}
