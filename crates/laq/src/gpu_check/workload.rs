//! The paper's networks with synthetic batches, for comparisons and timings.

use std::time::{Duration, Instant};

use laq_models::{
    AdamSettings, CharLstmSpec, DatasetHandle, Examples, FeedforwardSpec, ImageShape, ModelError,
    TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::Backend;

use laq_runner::RunError;
use laq_runner::device::{OpenDevice, Trainer};

/// The learning rate of the timed steps.
const RATE: f64 = 0.002;

/// A network in training with a synthetic batch in device memory.
pub(super) struct Workload {
    network: Box<dyn Trainer>,
    batch: DatasetHandle,
}

impl Workload {
    pub(super) fn new(
        network: &str,
        method: &str,
        device: OpenDevice,
        small: bool,
    ) -> Result<Self, RunError> {
        match device {
            OpenDevice::Cpu(backend) => Self::on(backend, network, method, small),
            OpenDevice::Cuda(backend) => Self::on(*backend, network, method, small),
        }
    }

    fn on<B: Backend + 'static>(
        backend: B,
        network: &str,
        method: &str,
        small: bool,
    ) -> Result<Self, RunError> {
        let method =
            Method::try_from(method).map_err(|error| RunError::Internal(error.to_string()))?;
        let adam = AdamSettings::default();
        let images = |backend: B, mut spec: FeedforwardSpec, mut batch: usize| {
            if small {
                batch = 10;
                spec.units.fill(32);
                spec.filters.fill(8);
                spec.input = ImageShape {
                    height: 8,
                    width: 8,
                    channels: spec.input.channels,
                };
            }
            let labels: Vec<u8> = (0..batch).map(|i| (i % spec.classes) as u8).collect();
            let mut state = 1u32;
            let random = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let numbers = spec.input.elements();
            let pixels: Vec<f32> = (0..batch * numbers).map(random).collect();
            let mut network = Training::feedforward(backend, &spec, batch, &method, adam, 1)
                .map_err(RunError::Build)?;
            let examples = Examples::Images {
                labels: &labels,
                numbers,
                fill: &mut |first, piece| {
                    piece.copy_from_slice(&pixels[first * numbers..][..piece.len()]);
                },
            };
            let batch = network.upload(examples).map_err(RunError::Build)?;
            Ok(Workload {
                network: Box::new(network),
                batch,
            })
        };
        match network {
            "mnist" => images(backend, FeedforwardSpec::mnist(), 100),
            "cifar10" => images(backend, FeedforwardSpec::cifar10(), 50),
            _ => {
                let size = if small { 10 } else { 100 };
                let shape = TextShape {
                    length: size,
                    batch: size,
                };
                let spec = CharLstmSpec {
                    hidden: if small { 128 } else { 512 },
                    ..CharLstmSpec::paper(87)
                };
                let mut network = Training::char_lstm(backend, &spec, shape, &method, adam, 1)
                    .map_err(RunError::Build)?;
                let count = size * size + 1;
                let text: Vec<u8> = (0..count as u32).map(|i| (i * i % 87) as u8).collect();
                let batch = network
                    .upload(Examples::Text(&text))
                    .map_err(RunError::Build)?;
                Ok(Workload {
                    network: Box::new(network),
                    batch,
                })
            }
        }
    }

    /// Runs `steps` steps and synchronizes once. Returns the loss of the last step and the seconds
    /// spent quantizing.
    pub(super) fn run(&mut self, steps: usize) -> Result<(f64, f64), RunError> {
        for _ in 0..steps {
            let begun = self.network.begin_dataset_step(self.batch, 0, RATE);
            begun.map_err(unsolved)?;
        }
        let report = self.network.report().map_err(unsolved)?;
        let loss = report.losses.last().copied().unwrap_or(f64::NAN);
        Ok((loss, report.quantize_seconds))
    }

    /// Diagnostics: algorithms selected and fallbacks taken.
    pub(super) fn diagnostics(&self) -> Vec<String> {
        self.network.diagnostics()
    }

    /// The median seconds of a step, and of quantizing in it, after the warm-up.
    pub(super) fn time(&mut self) -> Result<(f64, f64), RunError> {
        // On a GPU the first step loads libraries, and the second captures the graph.
        self.run(2)?;
        let start = Instant::now();
        self.run(1)?;
        // A slow device gets fewer repetitions.
        let (warm, repetitions, steps) = if start.elapsed() > Duration::from_millis(30) {
            (1, 3, 1)
        } else {
            (30, 7, 20)
        };
        self.run(warm)?;
        let mut times = Vec::new();
        for _ in 0..repetitions {
            let start = Instant::now();
            let (_, quantizing) = self.run(steps)?;
            let each = |seconds: f64| seconds / steps as f64;
            times.push((each(start.elapsed().as_secs_f64()), each(quantizing)));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(times[times.len() / 2])
    }

    /// The number of quantized weights.
    pub(super) fn weights(&mut self) -> Result<usize, RunError> {
        let layers = self.network.layers().map_err(unsolved)?;
        Ok(layers.iter().map(|layer| layer.weights).sum())
    }
}

fn unsolved(source: ModelError) -> RunError {
    RunError::Estimate {
        learning_rate: RATE,
        source,
    }
}
