//! One suite for every backend: each operation on sizes that are round and sizes that are not,
//! compared with [`crate::reference`] and with the solvers of `laq-solvers`.

mod convolution;
mod feedforward;
mod quantize;

use laq_solvers::Method;
use ndarray::{ArrayView, IxDyn};

use crate::reference;
use crate::{
    AdamSettings, Backend, BackendError, DenseShape, Loss, LstmGradients, LstmParameters,
    LstmShape, Stop, UpdateJob,
};

/// The outcome of one comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// Operation, sizes and output that were compared.
    pub name: String,
    /// Largest |found − expected|, over the largest |expected|.
    pub error: f64,
    /// The largest error that passes.
    pub tolerance: f64,
}

impl Check {
    /// Whether the backend computed what the reference did.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Runs all comparisons, in the same order with the same numbers every time.
///
/// # Errors
/// When the backend itself reports one.
pub fn run<B: Backend>(backend: &B) -> Result<Vec<Check>, BackendError> {
    let mut suite = Suite {
        backend,
        checks: Vec::new(),
        state: 1,
    };
    for (length, batch, symbols, hidden) in [
        (1, 1, 1, 1),
        (3, 2, 5, 7),
        (5, 10, 11, 32),
        (4, 13, 3, 33),
        (7, 23, 50, 70),
    ] {
        let shape = LstmShape {
            length,
            batch,
            symbols,
            hidden,
        };
        suite.lstm(shape, 1e30)?;
        suite.lstm(shape, 0.02)?;
    }
    for (rows, inputs, outputs) in [(1, 1, 1), (10, 32, 32), (37, 70, 19), (130, 33, 87)] {
        suite.dense(DenseShape {
            rows,
            inputs,
            outputs,
        })?;
    }
    suite.convolutions()?;
    suite.feedforward()?;
    for (rows, classes) in [(1, 1), (1, 2), (300, 87), (129, 10)] {
        suite.loss(rows, classes)?;
    }
    let clip = Some(1.0);
    suite.update(&[(40_001, None)])?;
    suite.update(&[
        (1, clip),
        (4096, None),
        (4097, clip),
        (12, None),
        (30_000, clip),
    ])?;
    for loss in [Loss::SquaredHinge, Loss::CrossEntropy] {
        for (rows, of) in [(1, 1), (9, 9), (70, 100), (700, 700)] {
            suite.evaluate_outputs(loss, rows, of)?;
        }
    }
    for method in Method::all() {
        if let Some(solver) = method.quantizer() {
            suite.quantize(&method, solver, &[(3, 257), (1, 1000)])?;
        }
    }
    suite.stops()?;
    suite.gathers()?;
    Ok(suite.checks)
}

/// The comparisons of an LSTM of this shape, whose gradients are clipped to ± `clip`: for shapes that [`run`] leaves out, such
/// as those that a backend has kernels of their own for.
///
/// # Errors
/// As [`run`].
pub fn lstm<B: Backend>(
    backend: &B,
    shape: LstmShape,
    clip: f64,
) -> Result<Vec<Check>, BackendError> {
    let mut suite = Suite {
        backend,
        checks: Vec::new(),
        state: 1,
    };
    suite.lstm(shape, clip)?;
    Ok(suite.checks)
}

struct Suite<'a, B: Backend> {
    backend: &'a B,
    checks: Vec<Check>,
    state: u64,
}

impl<B: Backend> Suite<'_, B> {
    /// A number in 0..2³², from a generator whose only virtue is to be the same everywhere.
    fn draw(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.state >> 32
    }

    /// Numbers uniform in [−size, size), exactly representable in f32.
    fn numbers(&mut self, count: usize, size: f64) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let unit = self.draw() as f64 / 2f64.powi(31) - 1.0;
                f64::from((unit * size) as f32)
            })
            .collect()
    }

    fn some_symbols(&mut self, count: usize, below: usize) -> Vec<u8> {
        (0..count)
            .map(|_| (self.draw() % below as u64) as u8)
            .collect()
    }

    fn tensor(&self, values: &[f64]) -> Result<B::Tensor, BackendError> {
        let mut tensor = self.backend.zeros(&[values.len()])?;
        self.write(values, &mut tensor)?;
        Ok(tensor)
    }

    fn write(&self, values: &[f64], tensor: &mut B::Tensor) -> Result<(), BackendError> {
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let shape = IxDyn(&[values.len()]);
        let view =
            ArrayView::from_shape(shape, &narrow).expect("as many numbers as the shape says");
        self.backend.write(view, tensor)
    }

    fn symbols(&self, values: &[u8]) -> Result<B::Symbols, BackendError> {
        let mut symbols = self.backend.symbols(values.len())?;
        self.backend.write_symbols(values, &mut symbols)?;
        Ok(symbols)
    }

    fn compare(
        &mut self,
        name: String,
        found: &B::Tensor,
        expected: &[f64],
        tolerance: f64,
    ) -> Result<(), BackendError> {
        let found = self.backend.read(found)?;
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected
            .iter()
            .fold(0.0f64, |largest, value| largest.max(value.abs()));
        let error = found
            .iter()
            .zip(expected)
            .map(|(&found, expected)| (f64::from(found) - expected).abs())
            // A NaN must not pass for zero, which is what `f64::max` would make of it.
            .fold(0.0f64, |worst, error| {
                if error > worst || error.is_nan() {
                    error
                } else {
                    worst
                }
            });
        let error = if largest > 0.0 {
            error / largest
        } else {
            error
        };
        self.checks.push(Check {
            name,
            error,
            tolerance,
        });
        Ok(())
    }

    fn lstm(&mut self, shape: LstmShape, clip: f64) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            symbols,
            hidden,
        } = shape;
        let rows = shape.rows();
        let size = 1.0 / (hidden as f64).sqrt();
        let weight_ih = self.numbers(4 * hidden * symbols, 1.0);
        let weight_hh = self.numbers(4 * hidden * hidden, size);
        let bias = self.numbers(4 * hidden, 0.5);
        let from_above = self.numbers(rows * hidden, 1.0);
        let input = self.some_symbols(rows, symbols);
        let clip_f32 = clip as f32;
        let trace = reference::lstm_forward(shape, &input, &weight_ih, &weight_hh, &bias);
        let expected = reference::lstm_backward(
            shape,
            &input,
            &weight_hh,
            &trace,
            &from_above,
            f64::from(clip_f32),
        );

        let backend = self.backend;
        let (weight_ih, weight_hh, bias) = (
            self.tensor(&weight_ih)?,
            self.tensor(&weight_hh)?,
            self.tensor(&bias)?,
        );
        let parameters = || LstmParameters {
            weight_ih: &weight_ih,
            weight_hh: &weight_hh,
            bias: &bias,
        };
        let input = self.symbols(&input)?;
        let mut space = backend.lstm_space(shape)?;
        let mut states = backend.zeros(&[rows, hidden])?;
        let mut gradient_ih = backend.zeros(&[4 * hidden, symbols])?;
        let mut gradient_hh = backend.zeros(&[4 * hidden, hidden])?;
        let mut gradient_bias = backend.zeros(&[4 * hidden])?;
        // Twice, because buffers are used again from step to step.
        for _ in 0..2 {
            let mut from_above = self.tensor(&from_above)?;
            backend.lstm_forward(&input, parameters(), &mut space, &mut states)?;
            backend.lstm_backward(
                &input,
                parameters(),
                &states,
                &mut from_above,
                clip_f32,
                &mut space,
                LstmGradients {
                    weight_ih: &mut gradient_ih,
                    weight_hh: &mut gradient_hh,
                    bias: &mut gradient_bias,
                },
            )?;
        }
        let name = |what: &str| {
            format!("lstm T={length} B={batch} V={symbols} H={hidden} clip={clip:e}: {what}")
        };
        self.compare(name("hidden"), &states, &trace.hidden, 2e-6)?;
        self.compare(name("∂weight_ih"), &gradient_ih, &expected.weight_ih, 1e-5)?;
        self.compare(name("∂weight_hh"), &gradient_hh, &expected.weight_hh, 1e-5)?;
        self.compare(name("∂bias"), &gradient_bias, &expected.bias, 1e-5)
    }

    fn dense(&mut self, shape: DenseShape) -> Result<(), BackendError> {
        let DenseShape {
            rows,
            inputs,
            outputs,
        } = shape;
        let input = self.numbers(rows * inputs, 1.0);
        let weight = self.numbers(outputs * inputs, 1.0);
        let bias = self.numbers(outputs, 1.0);
        let from_above = self.numbers(rows * outputs, 1.0);
        let expected = reference::dense_forward(shape, &input, &weight, &bias);
        let without = reference::dense_forward(shape, &input, &weight, &vec![0.0; outputs]);
        let gradients = reference::dense_backward(shape, &input, &weight, &from_above);

        let backend = self.backend;
        let (input, weight) = (self.tensor(&input)?, self.tensor(&weight)?);
        let (bias, from_above) = (self.tensor(&bias)?, self.tensor(&from_above)?);
        let mut output = backend.zeros(&[rows, outputs])?;
        let mut of_input = backend.zeros(&[rows, inputs])?;
        let mut of_weight = backend.zeros(&[outputs, inputs])?;
        let mut of_bias = backend.zeros(&[outputs])?;
        backend.dense_forward(shape, &input, &weight, Some(&bias), &mut output)?;
        backend.dense_backward(
            shape,
            &input,
            &weight,
            &from_above,
            Some(&mut of_input),
            &mut of_weight,
            Some(&mut of_bias),
        )?;
        let name = |what: &str| format!("dense R={rows} K={inputs} N={outputs}: {what}");
        self.compare(name("output"), &output, &expected, 2e-6)?;
        self.compare(name("∂input"), &of_input, &gradients[0], 2e-6)?;
        self.compare(name("∂weight"), &of_weight, &gradients[1], 2e-6)?;
        self.compare(name("∂bias"), &of_bias, &gradients[2], 2e-6)?;
        // Once more with what may be left out left out, on used buffers.
        backend.dense_forward(shape, &input, &weight, None, &mut output)?;
        backend.dense_backward(
            shape,
            &input,
            &weight,
            &from_above,
            None,
            &mut of_weight,
            None,
        )?;
        self.compare(name("output alone"), &output, &without, 2e-6)?;
        self.compare(name("∂weight alone"), &of_weight, &gradients[1], 2e-6)
    }

    fn loss(&mut self, rows: usize, classes: usize) -> Result<(), BackendError> {
        // Not so sure of any class that softmax − onehot would be a difference of near equals.
        let logits = self.numbers(rows * classes, 3.0);
        let targets = self.some_symbols(rows, classes);
        let (expected, gradient) = reference::softmax_cross_entropy(&targets, &logits);
        let targets = self.symbols(&targets)?;
        let mut logits = self.tensor(&logits)?;
        let mut record = self.backend.record()?;
        self.backend
            .softmax_cross_entropy(&targets, &mut logits, &mut record)?;
        let name = |what: &str| format!("softmax cross-entropy R={rows} N={classes}: {what}");
        self.compare_loss(name("loss"), &mut record, expected)?;
        self.compare(name("gradient"), &logits, &gradient, 1e-6)
    }

    /// The only loss that a record holds.
    fn compare_loss(
        &mut self,
        name: String,
        record: &mut B::Record,
        expected: f64,
    ) -> Result<(), BackendError> {
        let mut losses = Vec::new();
        let recorded = self.backend.read_record(record, &mut losses)?;
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

    /// Three steps of several parameters at once.
    fn update(&mut self, sizes: &[(usize, Option<f32>)]) -> Result<(), BackendError> {
        let backend = self.backend;
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        for &(count, clip) in sizes {
            let [weight, zeros] = [self.numbers(count, 1.0), constant(count, 0.0)];
            found.push(self.parameter(clip, &weight, &zeros)?);
            expected.push([weight, zeros.clone(), zeros]);
        }
        let (mut space, mut record) = (backend.update_space()?, backend.record()?);
        for step in 1..=3 {
            let step_size = ADAM.step_size(0.01, step);
            backend.begin_step(step_size, &mut record)?;
            for (expected, found) in expected.iter_mut().zip(&mut found) {
                let [weight, m, v] = expected;
                let gradient = self.numbers(weight.len(), 0.1);
                reference::adam(ADAM, step_size, found.clip, &gradient, weight, m, v);
                self.write(&gradient, &mut found.gradient)?;
            }
            let jobs = &mut found.iter_mut().map(Updated::job);
            backend.update(ADAM, jobs, &mut space, &record)?;
        }
        for (expected, found) in expected.iter().zip(&found) {
            let [weight, m, v] = expected;
            let (count, clip) = (weight.len(), found.clip);
            let name = |what| {
                format!(
                    "update, n={count} of {}, clip={clip:?}: {what}",
                    sizes.len()
                )
            };
            self.compare(name("weight"), &found.weight, weight, 1e-6)?;
            self.compare(name("first moment"), &found.first_moment, m, 1e-6)?;
            self.compare(name("second moment"), &found.second_moment, v, 1e-6)?;
        }
        Ok(())
    }

    /// A parameter before its first step.
    fn parameter(
        &self,
        clip: Option<f32>,
        weight: &[f64],
        gradient: &[f64],
    ) -> Result<Updated<B>, BackendError> {
        let zeros = constant(weight.len(), 0.0);
        Ok(Updated {
            clip,
            gradient: self.tensor(gradient)?,
            weight: self.tensor(weight)?,
            first_moment: self.tensor(&zeros)?,
            second_moment: self.tensor(&zeros)?,
        })
    }

    fn evaluate_outputs(&mut self, loss: Loss, rows: usize, of: usize) -> Result<(), BackendError> {
        let classes = 10;
        // Few values, so that several classes have the largest.
        let outputs: Vec<f64> = (self.numbers(of * classes, 2.5).iter())
            .map(|output| output.round())
            .collect();
        let targets = self.some_symbols(of, classes);
        let (expected, wrong) =
            reference::evaluate_outputs(loss, &targets[..rows], &outputs, classes);
        let (targets, outputs) = (self.symbols(&targets)?, self.tensor(&outputs)?);
        let mut record = self.backend.record()?;
        let mut losses = Vec::new();
        for _ in 0..2 {
            (self.backend).evaluate_outputs(loss, rows, &targets, &outputs, &mut record)?;
        }
        let found = self.backend.read_record(&mut record, &mut losses)?;
        let again = self.backend.read_record(&mut record, &mut losses)?;
        let far = losses.iter().map(|found| (found - expected).abs());
        let right = losses.len() == 2 && found.errors == 2 * wrong && again.errors == 0;
        self.checks.push(Check {
            name: format!(
                "evaluation, {loss:?}, {rows} of {of} rows: {} wrong",
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

    /// Batches that are put together on the device.
    fn gathers(&mut self) -> Result<(), BackendError> {
        let backend = self.backend;
        let (examples, size, batch, first) = (11, 6, 4, 3);
        let numbers: Vec<u32> = (0..examples as u32).map(|i| i * 7 % 11).collect();
        let mut order = backend.order(examples)?;
        backend.write_order(&numbers, &mut order)?;
        let values = self.numbers(examples * size, 1.0);
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let mut images = backend.zeros(&[examples, size])?;
        // In two parts, as a large set is copied.
        backend.write_part(&narrow[40..], 40, &mut images)?;
        backend.write_part(&narrow[..40], 0, &mut images)?;
        let classes = self.some_symbols(examples, 10);
        let labels = self.symbols(&classes)?;
        let mut pixels = backend.zeros(&[batch, size])?;
        let mut targets = backend.symbols(batch)?;
        backend.gather_images(
            &images,
            &labels,
            &order,
            first,
            batch,
            &mut pixels,
            &mut targets,
        )?;
        // A batch of fewer leaves the rest as it is.
        backend.gather_images(&images, &labels, &order, 8, 1, &mut pixels, &mut targets)?;
        let places = [8, first + 1, first + 2, first + 3];
        let chosen = || places.iter().map(|&place| numbers[place] as usize);
        let expected: Vec<f64> = chosen()
            .flat_map(|example| values[example * size..(example + 1) * size].to_vec())
            .collect();
        self.compare("gathered images".into(), &pixels, &expected, 0.0)?;
        let expected: Vec<u8> = chosen().map(|example| classes[example]).collect();
        self.compare_symbols("gathered labels", &targets, &expected)?;

        let length = 5;
        let text = self.some_symbols(examples * length + 1, 10);
        let on_device = self.symbols(&text)?;
        let mut inputs = backend.symbols(length * batch)?;
        let mut targets = backend.symbols(length * batch)?;
        backend.gather_text(&on_device, &order, first, batch, &mut inputs, &mut targets)?;
        let place = |row: usize| {
            let (time, sequence) = (row / batch, row % batch);
            length * numbers[first + sequence] as usize + time
        };
        let rows = 0..length * batch;
        let expected: [Vec<u8>; 2] =
            [0, 1].map(|on| rows.clone().map(|row| text[place(row) + on]).collect());
        self.compare_symbols("gathered inputs", &inputs, &expected[0])?;
        self.compare_symbols("gathered targets", &targets, &expected[1])
    }

    /// Symbols below ten, which show in the gradient of the squared hinge of outputs of zero.
    fn compare_symbols(
        &mut self,
        name: &str,
        found: &B::Symbols,
        expected: &[u8],
    ) -> Result<(), BackendError> {
        let zeros = vec![0.0; 10 * expected.len()];
        let (_, gradient) = reference::squared_hinge(expected, &zeros);
        let mut outputs = self.tensor(&zeros)?;
        let mut record = self.backend.record()?;
        self.backend
            .squared_hinge(found, &mut outputs, &mut record)?;
        self.compare(name.into(), &outputs, &gradient, 1e-6)
    }

    /// What is not finite stops the record, whose reader hears of the first; nothing changes from there on until it is
    /// read, and then everything goes on.
    fn stops(&mut self) -> Result<(), BackendError> {
        let backend = self.backend;
        let (mut record, mut space) = (backend.record()?, backend.update_space()?);
        let targets = self.symbols(&[0, 1])?;
        let good = self.numbers(6, 1.0);
        let mut bad = good.clone();
        bad[4] = f64::NAN;
        let mut of_gradient = constant(5000, 1.0);
        of_gradient[4999] = f64::INFINITY;
        let bad_gradient = of_gradient.clone();
        of_gradient[1234] = f64::NAN;
        let mut found = Vec::new();
        for values in [&of_gradient, &bad_gradient, &constant(1, 0.0)] {
            found.push(backend.first_not_finite(&self.tensor(values)?)?);
        }
        self.checks.push(Check {
            name: format!("the first number that is not finite: {found:?}"),
            error: f64::from(found != [Some(1234), Some(4999), None]),
            tolerance: 0.0,
        });
        for (case, expected_losses, expected) in [
            (0, 2, None),
            (1, 2, Some(Stop::Loss)),
            (2, 1, Some(Stop::Gradient { parameter: 3 })),
        ] {
            let mut parameters = Vec::new();
            for number in 0..6 {
                let bad = case == 2 && (number == 3 || number == 4);
                let good = constant(5000, 1.0);
                let gradient = if bad { &bad_gradient } else { &good };
                parameters.push(self.parameter(None, &constant(5000, 0.5), gradient)?);
            }
            backend.begin_step(0.25, &mut record)?;
            let mut logits = self.tensor(&good)?;
            backend.softmax_cross_entropy(&targets, &mut logits, &mut record)?;
            let jobs = &mut parameters.iter_mut().map(Updated::job);
            backend.check_gradients(jobs, &mut space, &mut record)?;
            let mut logits = self.tensor(if case == 1 { &bad } else { &good })?;
            backend.squared_hinge(&targets, &mut logits, &mut record)?;
            let jobs = &mut parameters.iter_mut().map(Updated::job);
            backend.update(ADAM, jobs, &mut space, &record)?;
            backend.start_clock(&mut record)?;
            backend.stop_clock(&mut record)?;
            let mut losses = Vec::new();
            let recorded = backend.read_record(&mut record, &mut losses)?;
            let right = recorded.stop == expected
                && losses.len() == expected_losses
                && (0.0..60.0).contains(&recorded.seconds);
            self.checks.push(Check {
                name: format!("record, case {case}: {:?}, {losses:?}", recorded.stop),
                error: if right { 0.0 } else { 1.0 },
                tolerance: 0.0,
            });
            let moved = 0.5 - 0.25 * 0.1 / (0.001f64.sqrt() + ADAM.epsilon);
            let expected = if expected.is_none() { moved } else { 0.5 };
            let expected = constant(5000, expected);
            for number in [0, 5] {
                let name = format!("record, case {case}: weights of parameter {number}");
                self.compare(name, &parameters[number].weight, &expected, 1e-6)?;
            }
        }
        Ok(())
    }
}

/// A parameter as an update takes it.
struct Updated<B: Backend> {
    clip: Option<f32>,
    gradient: B::Tensor,
    weight: B::Tensor,
    first_moment: B::Tensor,
    second_moment: B::Tensor,
}

impl<B: Backend> Updated<B> {
    fn job(&mut self) -> UpdateJob<'_, B> {
        UpdateJob {
            clip: self.clip,
            gradient: &self.gradient,
            weight: &mut self.weight,
            first_moment: &mut self.first_moment,
            second_moment: &mut self.second_moment,
        }
    }
}

fn constant(count: usize, value: f64) -> Vec<f64> {
    vec![value; count]
}

/// PAPER.md §3, step 3.
const ADAM: AdamSettings = AdamSettings {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};
