//! Takes one training step of a feedforward network with ten million weights for each line on standard
//! input: 784–2048–2048–2048–10 units, batch 100. `cargo xtask bench step` takes steps of several methods
//! in turn with it.
//!
//! Arguments: method, threads. Each line is answered with the seconds of the step and, of these, the
//! seconds of quantization and of Adam.
//!
//! The network is there to be timed, not to learn: ReLU instead of batch normalization, and random labels.
//! Its weights move as Adam moves them, so the alternating solvers have the warm starts of training. The
//! matrices are quantized next to each other on the threads of the pool.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Instant;

use laq_benches::{Failure, end, normal};
use laq_solvers::Method;
use laq_tensor::{AdamStep, Backend, BackendError, CpuBackend, DenseShape};
use ndarray::{Array, ArrayD};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

const UNITS: [usize; 5] = [784, 2048, 2048, 2048, 10];
const BATCH: usize = 100;
/// Different batches, which come round and round.
const BATCHES: usize = 20;

type Quantizer = <CpuBackend as Backend>::Quantizer;

fn main() -> ExitCode {
    end(run())
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [method, threads] = arguments.as_slice() else {
        return Err("expected two arguments: method and threads".into());
    };
    let method = Method::try_from(method.as_str())?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    pool.install(|| {
        let mut network = Network::new(&method)?;
        for (step, line) in (1..).zip(std::io::stdin().lock().lines()) {
            line?;
            let seconds = network.step(step)?;
            let mut out = std::io::stdout().lock();
            writeln!(
                out,
                "{} {} {}",
                seconds.step, seconds.quantize, seconds.adam
            )?;
            out.flush()?;
        }
        Ok(())
    })
}

struct Network {
    backend: CpuBackend,
    layers: Vec<Layer>,
    /// Input and labels.
    batches: Vec<(ArrayD<f32>, Vec<u8>)>,
    /// Units of every layer but the first, B × units, and the loss's gradient by them.
    units: Vec<ArrayD<f32>>,
    gradients: Vec<ArrayD<f32>>,
    input_gradient: ArrayD<f32>,
}

struct Layer {
    shape: DenseShape,
    weight: Parameter,
    bias: Parameter,
    /// The quantizer's state and the quantized weights; nothing for `full`.
    quantized: Option<(Quantizer, ArrayD<f32>)>,
}

struct Parameter {
    value: ArrayD<f32>,
    gradient: ArrayD<f32>,
    first_moment: ArrayD<f32>,
    second_moment: ArrayD<f32>,
}

struct Seconds {
    step: f64,
    quantize: f64,
    adam: f64,
}

impl Network {
    fn new(method: &Method) -> Result<Self, Failure> {
        let backend = CpuBackend::new()?;
        let mut layers = Vec::new();
        for (seed, pair) in (1..).zip(UNITS.windows(2)) {
            let [inputs, outputs] = [pair[0], pair[1]];
            let deviation = (2.0 / inputs as f32).sqrt();
            let quantized = match method.quantizer() {
                Some(_) => Some((
                    backend.quantizer(method, inputs * outputs, 1)?,
                    ArrayD::zeros(vec![outputs, inputs]),
                )),
                None => None,
            };
            layers.push(Layer {
                shape: DenseShape {
                    rows: BATCH,
                    inputs,
                    outputs,
                },
                weight: Parameter::new(random(seed, &[outputs, inputs])? * deviation),
                bias: Parameter::new(ArrayD::zeros(vec![outputs])),
                quantized,
            });
        }
        let mut labels = ChaCha8Rng::seed_from_u64(5);
        let batches = (0..BATCHES as u64).map(|batch| {
            let labels = (0..BATCH).map(|_| (labels.next_u32() % 10) as u8).collect();
            Ok((random(100 + batch, &[BATCH, UNITS[0]])?, labels))
        });
        let room = || {
            let units = UNITS[1..].iter();
            units.map(|&units| ArrayD::zeros(vec![BATCH, units]))
        };
        Ok(Self {
            backend,
            layers,
            batches: batches.collect::<Result<_, Failure>>()?,
            units: room().collect(),
            gradients: room().collect(),
            input_gradient: ArrayD::zeros(vec![BATCH, UNITS[0]]),
        })
    }

    /// Quantizes, goes forward and backward, and moves the weights.
    fn step(&mut self, step: u64) -> Result<Seconds, Failure> {
        let backend = self.backend;
        let begin = Instant::now();
        self.layers
            .par_iter_mut()
            .try_for_each(|layer| layer.quantize(&backend))?;
        let mut quantize = begin.elapsed().as_secs_f64();

        let (input, labels) = &self.batches[step as usize % BATCHES];
        for (index, layer) in self.layers.iter().enumerate() {
            let (below, from) = self.units.split_at_mut(index);
            let input = below.last().unwrap_or(input);
            let output = &mut from[0];
            backend.dense_forward(
                layer.shape,
                input,
                layer.weights(),
                Some(&layer.bias.value),
                output,
            )?;
            if index + 1 < UNITS.len() - 1 {
                output.mapv_inplace(|unit| unit.max(0.0));
            }
        }
        let last = self.layers.len() - 1;
        backend.softmax_cross_entropy(labels, &mut self.units[last])?;
        self.gradients[last].assign(&self.units[last]);
        for (index, layer) in self.layers.iter_mut().enumerate().rev() {
            let (below, from) = self.gradients.split_at_mut(index);
            let input = self.units[..index].last().unwrap_or(input);
            let input_gradient = below.last_mut().unwrap_or(&mut self.input_gradient);
            layer.backward(&backend, input, &from[0], input_gradient)?;
            if index > 0 {
                input_gradient.zip_mut_with(input, |gradient, &unit| {
                    if unit <= 0.0 {
                        *gradient = 0.0;
                    }
                });
            }
        }
        let own = Instant::now();
        for layer in &mut self.layers {
            if let Some((quantizer, _)) = &mut layer.quantized {
                backend.quantizer_backward(
                    &layer.weight.value,
                    quantizer,
                    &mut layer.weight.gradient,
                )?;
            }
        }
        quantize += own.elapsed().as_secs_f64();

        let own = Instant::now();
        let adam = AdamStep {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step,
            clip: None,
        };
        for layer in &mut self.layers {
            let clip = layer.quantized.as_ref().map(|_| 1.0);
            layer.weight.update(&backend, AdamStep { clip, ..adam })?;
            layer.bias.update(&backend, adam)?;
            // What of the scales is trained like weights.
            if let Some((quantizer, _)) = &mut layer.quantized {
                backend.quantizer_update(adam, quantizer)?;
            }
        }
        Ok(Seconds {
            step: begin.elapsed().as_secs_f64(),
            quantize,
            adam: own.elapsed().as_secs_f64(),
        })
    }
}

impl Layer {
    /// What the network computes with.
    fn weights(&self) -> &ArrayD<f32> {
        let quantized = self.quantized.as_ref().map(|(_, values)| values);
        quantized.unwrap_or(&self.weight.value)
    }

    fn quantize(&mut self, backend: &CpuBackend) -> Result<(), BackendError> {
        let Some((quantizer, values)) = &mut self.quantized else {
            return Ok(());
        };
        let Parameter {
            value,
            second_moment,
            ..
        } = &self.weight;
        backend.quantize(value, second_moment, quantizer, values)
    }

    fn backward(
        &mut self,
        backend: &CpuBackend,
        input: &ArrayD<f32>,
        output_gradient: &ArrayD<f32>,
        input_gradient: &mut ArrayD<f32>,
    ) -> Result<(), BackendError> {
        let quantized = self.quantized.as_ref().map(|(_, values)| values);
        backend.dense_backward(
            self.shape,
            input,
            quantized.unwrap_or(&self.weight.value),
            output_gradient,
            Some(input_gradient),
            &mut self.weight.gradient,
            Some(&mut self.bias.gradient),
        )
    }
}

impl Parameter {
    fn new(value: ArrayD<f32>) -> Self {
        let zeros = || ArrayD::zeros(value.raw_dim());
        Self {
            gradient: zeros(),
            first_moment: zeros(),
            second_moment: zeros(),
            value,
        }
    }

    fn update(&mut self, backend: &CpuBackend, step: AdamStep) -> Result<(), BackendError> {
        backend.adam(
            step,
            &self.gradient,
            &mut self.value,
            &mut self.first_moment,
            &mut self.second_moment,
        )
    }
}

/// Standard normal numbers.
fn random(seed: u64, shape: &[usize]) -> Result<ArrayD<f32>, Failure> {
    let numbers = normal(seed, shape.iter().product());
    Ok(Array::from_iter(numbers).into_shape_with_order(shape)?)
}
