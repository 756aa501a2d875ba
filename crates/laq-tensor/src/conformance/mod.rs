//! One suite for every backend: each operation on sizes that are round and sizes that are not,
//! compared with [`crate::reference`] and with the solvers of `laq-solvers`.

mod convolution;
mod feedforward;

use laq_solvers::{Method, Problem, Quantizer, Scale, Workspace};
use ndarray::{ArrayView, IxDyn};

use crate::reference;
use crate::{
    AdamStep, Backend, BackendError, DenseShape, LstmGradients, LstmParameters, LstmShape,
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
    for clip in [None, Some(1.0)] {
        suite.adam(40_001, clip)?;
    }
    for method in Method::all() {
        if let Some(solver) = method.quantizer() {
            suite.quantize(&method, solver, 3, 257)?;
        }
    }
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
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let shape = IxDyn(&[values.len()]);
        let mut tensor = self.backend.zeros(&[values.len()])?;
        let view = ArrayView::from_shape(shape, &narrow).expect("one dimension of its length");
        self.backend.write(view, &mut tensor)?;
        Ok(tensor)
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
        let found = self.backend.softmax_cross_entropy(&targets, &mut logits)?;
        let name = |what: &str| format!("softmax cross-entropy R={rows} N={classes}: {what}");
        self.checks.push(Check {
            name: name("loss"),
            error: (found - expected).abs() / expected.abs().max(1.0),
            tolerance: 1e-6,
        });
        self.compare(name("gradient"), &logits, &gradient, 1e-6)
    }

    fn adam(&mut self, count: usize, clip: Option<f32>) -> Result<(), BackendError> {
        let mut weight = self.numbers(count, 1.0);
        let (mut m, mut v) = (vec![0.0; count], vec![0.0; count]);
        let (mut on_device, mut first, mut second) =
            (self.tensor(&weight)?, self.tensor(&m)?, self.tensor(&v)?);
        for step in 1..=3 {
            let gradient = self.numbers(count, 0.1);
            let step = AdamStep {
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                step,
                clip,
            };
            reference::adam(step, &gradient, &mut weight, &mut m, &mut v);
            let gradient = self.tensor(&gradient)?;
            self.backend
                .adam(step, &gradient, &mut on_device, &mut first, &mut second)?;
        }
        let name = |what: &str| format!("adam n={count} clip={clip:?}: {what}");
        self.compare(name("weight"), &on_device, &weight, 1e-6)?;
        self.compare(name("first moment"), &first, &m, 1e-6)?;
        self.compare(name("second moment"), &second, &v, 1e-6)
    }

    /// Three iterations with moving weights, so that warm starts and trained scales take part.
    fn quantize(
        &mut self,
        method: &Method,
        solver: &dyn Quantizer,
        groups: usize,
        size: usize,
    ) -> Result<(), BackendError> {
        let count = groups * size;
        let backend = self.backend;
        let mut quantizer = backend.quantizer(method, count, groups)?;
        let mut quantized = backend.zeros(&[count])?;
        let mut levels = vec![0i8; count];
        let mut scales: Vec<Option<Scale>> = vec![None; groups];
        let mut moments = vec![[0.0f64; 4]; groups];
        let mut workspace = Workspace::default();
        let mut weights = self.numbers(count, 0.5);
        for iteration in 1..=3u64 {
            let moved = self.numbers(count, 0.05);
            weights
                .iter_mut()
                .zip(moved)
                .for_each(|(w, by)| *w = f64::from((*w + by) as f32));
            let second: Vec<f64> = self
                .numbers(count, 1.0)
                .iter()
                .map(|v| f64::from((v * v * 1e-4) as f32))
                .collect();
            let gradient = self.numbers(count, 1.0);
            let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
            let latent = narrow(&weights);
            let curvature: Vec<f32> = narrow(&second).iter().map(|v| v.sqrt() + 1e-8).collect();
            let mut expected = vec![0.0f32; count];
            let mut latent_gradient = narrow(&gradient);
            let step = AdamStep {
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                step: iteration,
                clip: None,
            };
            for (group, range) in (0..groups).map(|group| (group, group * size..(group + 1) * size))
            {
                let problem = Problem::new(&latent[range.clone()], Some(&curvature[range.clone()]))
                    .map_err(|source| BackendError::Solve { group, source })?;
                let levels = &mut levels[range.clone()];
                let solution = solver
                    .solve(problem, scales[group], levels, &mut workspace)
                    .map_err(|source| BackendError::Solve { group, source })?;
                let mut scale = solution.scale;
                solver
                    .codebook()
                    .decode(levels, scale, &mut expected[range.clone()]);
                let of_scale = solver.scale_gradient(levels, &latent_gradient[range.clone()]);
                let gradient = &mut latent_gradient[range.clone()];
                solver.latent_gradient(&latent[range], scale, levels, gradient);
                if let (Some(of_scale), Scale::Two { positive, negative }) = (of_scale, &mut scale)
                {
                    let mut values = [f64::from(*positive), f64::from(*negative)];
                    let (m, v) = moments[group].split_at_mut(2);
                    reference::adam(step, &of_scale, &mut values, m, v);
                    (*positive, *negative) = (values[0] as f32, values[1] as f32);
                }
                scales[group] = Some(scale);
            }

            // A kept state goes on like the quantizer that it was taken from.
            let kept = backend.quantizer_save(&quantizer)?;
            quantizer = backend.quantizer(method, count, groups)?;
            backend.quantizer_load(&kept, &mut quantizer, &mut quantized)?;
            let latent = self.tensor(&weights)?;
            let second = self.tensor(&second)?;
            let mut gradient = self.tensor(&gradient)?;
            backend.quantize(&latent, &second, &mut quantizer, &mut quantized)?;
            backend.quantizer_backward(&latent, &mut quantizer, &mut gradient)?;
            backend.quantizer_update(step, &mut quantizer)?;
            let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let name = |what: &str| format!("quantize {method} iteration {iteration}: {what}");
            self.compare(name("quantized"), &quantized, &wide(&expected), 1e-6)?;
            self.compare(
                name("latent gradient"),
                &gradient,
                &wide(&latent_gradient),
                1e-6,
            )?;
        }
        let kept = backend.quantizer_save(&quantizer)?;
        let different = kept
            .levels
            .iter()
            .zip(&levels)
            .filter(|(a, b)| a != b)
            .count();
        self.checks.push(Check {
            name: format!("quantize {method}: levels"),
            error: different as f64,
            tolerance: 0.0,
        });
        Ok(())
    }
}
