//! The conformance suite of backends: all operations, on sizes that are multiples of tiles and
//! sizes that are not, compared with [`reference`](crate::reference) and with the solvers of
//! `laq-solvers`.

mod convolution;
mod dense;
mod gather;
mod losses;
mod lstm;
mod norm;
mod optimizer;
mod pool;
mod quantize;
mod steps;

use laq_solvers::{Granularity, Groups, Method, formats};

use crate::{
    AdamSettings, Backend, BackendError, DenseShape, Loss, LstmShape, NormShape, PoolShape, Tensor,
};

/// The outcome of one comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// Operation, sizes and output.
    pub name: String,
    /// Largest |found − expected|, over the largest |expected|.
    pub error: f64,
    /// The largest accepted error.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within the tolerance.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Runs all comparisons; order and data are the same in every run.
///
/// # Errors
/// Those of the backend.
pub fn run<B: Backend>(backend: &B) -> Result<Vec<Check>, BackendError> {
    let mut suite = Suite {
        backend,
        checks: Vec::new(),
        state: 1,
    };
    for (length, batch, vocabulary, hidden) in [
        (1, 1, 1, 1),
        (3, 2, 5, 7),
        (5, 10, 11, 32),
        (4, 13, 3, 33),
        (7, 23, 50, 70),
    ] {
        let shape = LstmShape {
            length,
            batch,
            vocabulary,
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
    // Channels below, at and above the width of vectors and of a cache line; rows below and above
    // the chunk of a thread.
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
            suite.norm(NormShape {
                rows,
                channels,
                epsilon: 1e-4,
                relu,
            })?;
        }
    }
    // Odd rows and columns, images without a window, equal values.
    for (batch, height, width, channels) in [
        (1, 2, 2, 1),
        (2, 1, 4, 3),
        (2, 3, 1, 2),
        (3, 5, 4, 17),
        (2, 4, 7, 16),
        (5, 8, 6, 33),
    ] {
        suite.max_pool(PoolShape {
            batch,
            height,
            width,
            channels,
        })?;
    }
    for count in [1, 17, 70_001] {
        suite.relu(count)?;
    }
    for (rows, classes) in [
        (1, 1),
        (1, 2),
        (3, 2),
        (100, 10),
        (57, 100),
        (300, 87),
        (129, 10),
    ] {
        suite.loss(Loss::SquaredHinge, rows, classes)?;
        suite.loss(Loss::CrossEntropy, rows, classes)?;
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
        for (rows, batch) in [(1, 1), (9, 9), (70, 100), (700, 700)] {
            suite.evaluate_outputs(loss, rows, batch)?;
        }
    }
    for method in Method::all() {
        if let Some(solver) = method.quantizer() {
            let layouts = [Groups::equal(771, 3), Groups::equal(1000, 1)];
            suite.quantize(&method, solver, &layouts)?;
            if !method.has_latent_gradient() {
                // Rows of blocks, the last of them shorter.
                let blocks = Granularity::Block(20);
                let method = method.clone().with_granularity(blocks);
                let method = method.expect("not a format");
                suite.quantize(&method, solver, &[blocks.groups(2, 50, 1)])?;
            }
        }
    }
    for method in formats().iter().flat_map(|format| format.methods()) {
        if let Some(solver) = method.quantizer() {
            let granularity = method.granularity();
            let layouts = [granularity.groups(1, 300, 1), granularity.groups(2, 20, 1)];
            suite.quantize(&method, solver, &layouts)?;
        }
    }
    suite.stops()?;
    suite.gathers()?;
    suite.bounds()?;
    Ok(suite.checks)
}

/// The comparisons of one LSTM shape, with gradients clipped to ± `clip`: for shapes that are not
/// in [`run`], such as those for which a backend has special kernels.
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
    /// A number in 0..2³², from a linear congruential generator.
    fn draw(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.state >> 32
    }

    /// Values uniform in [−range, range), exactly representable in f32.
    fn uniform(&mut self, count: usize, range: f64) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let unit = self.draw() as f64 / 2f64.powi(31) - 1.0;
                f64::from((unit * range) as f32)
            })
            .collect()
    }

    fn random_indices(&mut self, count: usize, bound: usize) -> Vec<u8> {
        (0..count)
            .map(|_| (self.draw() % bound as u64) as u8)
            .collect()
    }

    fn tensor(&self, values: &[f64]) -> Result<Tensor<B>, BackendError> {
        let mut tensor = self.backend.zeros(&[values.len()])?;
        self.write(values, &mut tensor)?;
        Ok(tensor)
    }

    fn write(&self, values: &[f64], tensor: &mut Tensor<B>) -> Result<(), BackendError> {
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        self.backend.write(&narrow, tensor)
    }

    fn indices(&self, values: &[u8], bound: usize) -> Result<B::Buffer<u8>, BackendError> {
        let mut indices = self.backend.indices(values.len(), bound)?;
        self.backend.write(values, &mut indices)?;
        Ok(indices)
    }

    /// Checks the largest difference, over the largest expected magnitude; NaN equals NaN alone.
    fn compare(
        &mut self,
        name: String,
        found: &Tensor<B>,
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
            .map(
                |(&found, expected)| match found.is_nan() && expected.is_nan() {
                    true => 0.0,
                    false => (f64::from(found) - expected).abs(),
                },
            )
            // `f64::max` would drop NaN.
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
