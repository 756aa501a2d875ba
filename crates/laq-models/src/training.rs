//! One training iteration (PAPER.md §3, Algorithm 3), from a batch to the updated weights.

mod curvature;
mod evaluation;
mod state;

use std::time::Instant;

use laq_solvers::Method;
use laq_tensor::{AdamSettings, Backend, BackendError, STEP_LOG_CAPACITY, Stop};

use crate::ModelError;
use crate::batch::{Batch, TextShape};
use crate::char_lstm::{CharLstm, CharLstmSpec};
use crate::comparison::LayerComparison;
use crate::dataset::{DatasetHandle, DeviceDataset, Examples};
use crate::feedforward::{Feedforward, FeedforwardSpec};
use crate::network::{Network, setting};
use crate::parameter::{LayerReport, LayerWeights, Parameter, StateData, StateTensor, WeightData};
use crate::profile::{Profile, Profiler, Work, floats};

pub use self::curvature::{CurvatureKind, CurvatureSums};

fn check(adam: AdamSettings) -> Result<(), ModelError> {
    for (name, value, ok, expected) in [
        (
            "beta1",
            adam.beta1,
            (0.0..1.0).contains(&adam.beta1),
            "at least 0 and below 1",
        ),
        (
            "beta2",
            adam.beta2,
            (0.0..1.0).contains(&adam.beta2),
            "at least 0 and below 1",
        ),
        // Below it, √v + ε would be zero in f32 for a weight that never had a gradient.
        (
            "epsilon",
            adam.epsilon,
            (1e-30..=1e30).contains(&adam.epsilon),
            "1e-30 to 1e30",
        ),
    ] {
        setting(ok, name, value, expected)?;
    }
    Ok(())
}

/// Result of one training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss of the batch before the update: nats per token, or the images' loss.
    pub loss: f64,
    /// Wall-clock seconds of the step, including a solve that an earlier evaluation did for it.
    pub seconds: f64,
    /// Part of these spent on solving for ŵ and on computing ∂L/∂w from ∂L/∂ŵ.
    pub quantize_seconds: f64,
}

/// Results of the training steps since the last report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report<'a> {
    /// The loss of each step, as in [`StepReport`].
    pub losses: &'a [f64],
    /// Wall-clock seconds of the steps, including synchronization and solves done by evaluations.
    pub seconds: f64,
    /// Part of these spent on solving for ŵ and on computing ∂L/∂w from ∂L/∂ŵ.
    pub quantize_seconds: f64,
}

/// A network in training: latent weights, quantized weights and Adam's state.
pub struct Training<B: Backend> {
    // Fields are dropped in order: graphs before their operands, the device last.
    /// Graphs of the step without and with a solve for ŵ.
    graphs: [B::StepGraph; 2],
    network: Box<dyn Network<B>>,
    adam: AdamSettings,
    steps: u64,
    /// Steps of Adam before the first one, by another training; see [`Training::start_from`].
    steps_before: u64,
    /// Whether ŵ belongs to the latent weights as they are now.
    quantized_is_current: bool,
    quantize_workspace: B::QuantizeWorkspace,
    update_workspace: B::UpdateWorkspace,
    /// Log of the steps that have not been read.
    log: B::StepLog,
    /// Steps in it.
    unread: u64,
    evaluation_log: B::StepLog,
    dataset: Vec<DeviceDataset<B>>,
    /// Losses for the next report.
    losses: Vec<f64>,
    reported: usize,
    seconds: f64,
    quantize_seconds: f64,
    profiler: Profiler,
    backend: B,
}

/// The part of a profile with Adam. The CPU backend looks at most gradients when it writes them, so the
/// check is no part of its own.
const UPDATE: &str = "Adam";

impl<B: Backend + 'static> Training<B> {
    /// The character network of PAPER.md §4 with fresh weights; equal seeds give equal bits.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for a setting out of its range; [`ModelError::Backend`] when the
    /// device has no room.
    pub fn char_lstm(
        backend: B,
        spec: &CharLstmSpec,
        shape: TextShape,
        method: &Method,
        adam: AdamSettings,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let network = CharLstm::new(&backend, spec, shape, method, seed)?;
        Self::new(backend, Box::new(network), adam)
    }

    /// A feedforward network of PAPER.md §4 for batches of `batch` images, with fresh weights;
    /// equal seeds give equal bits.
    ///
    /// # Errors
    /// As [`Training::char_lstm`].
    pub fn feedforward(
        backend: B,
        spec: &FeedforwardSpec,
        batch: usize,
        method: &Method,
        adam: AdamSettings,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let network = Feedforward::new(&backend, spec, batch, method, seed)?;
        Self::new(backend, Box::new(network), adam)
    }

    fn new(
        backend: B,
        network: Box<dyn Network<B>>,
        adam: AdamSettings,
    ) -> Result<Self, ModelError> {
        check(adam)?;
        Ok(Training {
            network,
            adam,
            steps: 0,
            steps_before: 0,
            quantized_is_current: false,
            quantize_workspace: B::QuantizeWorkspace::default(),
            update_workspace: B::UpdateWorkspace::default(),
            log: backend.step_log()?,
            unread: 0,
            evaluation_log: backend.step_log()?,
            graphs: Default::default(),
            dataset: Vec::new(),
            losses: Vec::with_capacity(2 * STEP_LOG_CAPACITY),
            reported: 0,
            seconds: 0.0,
            quantize_seconds: 0.0,
            profiler: Profiler::default(),
            backend,
        })
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Algorithms selected and fallbacks taken; see [`laq_tensor::Memory::diagnostics`] and
    /// [`laq_tensor::Convolution::convolution_algorithm`].
    pub fn diagnostics(&self) -> Vec<String> {
        let mut lines = self.network.algorithms(&self.backend);
        lines.append(&mut self.backend.diagnostics());
        lines
    }

    /// Steps taken so far, those before a checkpoint included.
    pub fn steps_taken(&self) -> u64 {
        self.steps
    }

    /// One iteration of Algorithm 3 on a whole batch.
    ///
    /// 1. ŵ = solve(w, d) for every quantized matrix.
    /// 2. Forward and backward with ŵ in place of w.
    /// 3. Adam on the latent weights, clipped to [−1, 1] or [`Training::set_clip`], and on what is not quantized.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] or [`ModelError::Solve`] when a number is no longer finite; the
    /// weights are then those of the step before. [`ModelError::Batch`] for a batch of another
    /// size, or with a symbol that the network does not have. [`ModelError::Setting`] for a
    /// learning rate that is negative or not finite.
    pub fn step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<StepReport, ModelError> {
        self.begin_step(batch, learning_rate)?;
        let report = self.report()?;
        Ok(StepReport {
            loss: report.losses[report.losses.len() - 1],
            seconds: report.seconds,
            quantize_seconds: report.quantize_seconds,
        })
    }

    /// Sets the range ± `clip` of the latent weights that are quantized, which is 1 otherwise. To be called before the first
    /// step.
    ///
    /// # Errors
    /// [`ModelError::Setting`] unless `clip` is a number above 0.
    pub fn set_clip(&mut self, clip: f32) -> Result<(), ModelError> {
        setting(clip > 0.0, "clip", clip, "a number above 0")?;
        for parameter in self.network.parameters_mut() {
            parameter.clip = clip;
        }
        Ok(())
    }

    /// [`Training::step`] without synchronization. The next [`Training::report`] returns the loss,
    /// or the error of a value that is not finite; steps submitted after it are skipped.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn begin_step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<(), ModelError> {
        let start = Instant::now();
        self.network.load_batch(&self.backend, batch, true)?;
        self.advance(start, learning_rate)
    }

    /// Copies a dataset to the device, for [`Training::begin_dataset_step`] and
    /// [`Training::evaluate_dataset`]. [`Training::set_order`] permutes its examples.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for examples that the network does not take; [`ModelError::Backend`]
    /// when the device has no room.
    pub fn upload(&mut self, examples: Examples<'_>) -> Result<DatasetHandle, ModelError> {
        let dataset = self.network.upload(&self.backend, examples)?;
        self.dataset.push(dataset);
        Ok(DatasetHandle(self.dataset.len() - 1))
    }

    /// Sets the permutation of a dataset's examples.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for an order of the wrong length or range, and for an unknown dataset.
    pub fn set_order(&mut self, set: DatasetHandle, order: &[u32]) -> Result<(), ModelError> {
        let dataset = self.dataset.get_mut(set.0).ok_or_else(unknown_dataset)?;
        let good =
            order.len() == dataset.count && order.iter().all(|&n| (n as usize) < dataset.count);
        if !good {
            return Err(ModelError::Batch(format!(
                "the order has {} numbers, expected those of {} examples",
                order.len(),
                dataset.count
            )));
        }
        Ok(self.backend.write(order, &mut dataset.order)?)
    }

    /// [`Training::begin_step`] with batch `index` of a dataset on the device.
    ///
    /// # Errors
    /// As [`Training::step`]; [`ModelError::Batch`] for an index out of range.
    pub fn begin_dataset_step(
        &mut self,
        set: DatasetHandle,
        index: usize,
        learning_rate: f64,
    ) -> Result<(), ModelError> {
        let start = Instant::now();
        let dataset = self.dataset.get(set.0).ok_or_else(unknown_dataset)?;
        self.network
            .load_dataset_batch(&self.backend, dataset, index, true)?;
        self.advance(start, learning_rate)
    }

    /// A step on the loaded batch.
    fn advance(&mut self, start: Instant, learning_rate: f64) -> Result<(), ModelError> {
        let step = self.steps_before + self.steps + 1;
        let size = self.adam.step_size(learning_rate, step);
        // Adam computes in f32, where infinity times a moment of zero is NaN.
        setting(
            learning_rate >= 0.0 && (size as f32).is_finite(),
            "learning_rate",
            learning_rate,
            "0 or above, with a step of Adam that is finite in f32",
        )?;
        if self.unread == STEP_LOG_CAPACITY as u64 {
            self.read_log()?;
        }
        let solve = !self.quantized_is_current;
        let Training {
            backend,
            network,
            quantize_workspace,
            update_workspace,
            log,
            profiler,
            ..
        } = self;
        backend.set_step_size(size, log)?;
        let (adam, graph) = (self.adam, &mut self.graphs[usize::from(solve)]);
        let mut body = || -> Result<(), BackendError> {
            if solve {
                let start = profiler.start();
                quantize(backend, network.as_mut(), quantize_workspace, log)?;
                let quantized = weights_of(network.as_ref(), Parameter::is_quantized);
                profiler.stop(start, "all", "quantize", Work::quantize(quantized));
            }
            network.forward(backend, log, profiler)?;
            network.backward(backend, profiler)?;
            let weights = weights_of(network.as_ref(), |_| true);
            let start = profiler.start();
            if network
                .parameters()
                .iter()
                .any(Parameter::has_latent_gradient)
            {
                backend.start_clock(log)?;
                for parameter in network.parameters_mut() {
                    parameter.quantizer_backward(backend)?;
                }
                backend.stop_clock(log)?;
                let work = floats(weights, 2);
                profiler.stop(start, "all", "gradients of the latent weights", work);
            }
            let start = profiler.start();
            let mut jobs = network
                .parameters_mut()
                .iter_mut()
                .map(Parameter::update_job);
            backend.check_gradients(&mut jobs, update_workspace, log)?;
            let mut jobs = network
                .parameters_mut()
                .iter_mut()
                .map(Parameter::update_job);
            backend.update(adam, &mut jobs, update_workspace, log)?;
            for parameter in network.parameters_mut() {
                parameter.update_scales(backend, adam, log)?;
            }
            profiler.stop(start, "all", UPDATE, floats(weights, 7));
            network.finish_step(backend, log)
        };
        let done = backend.capture_or_replay(graph, &mut body);
        done.map_err(|error| self.unsolved(error))?;
        self.quantized_is_current = false;
        self.steps += 1;
        self.unread += 1;
        self.seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Takes `steps` steps on a batch and returns where their time goes, for a backend that computes
    /// when it is called.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn profile(
        &mut self,
        batch: Batch<'_>,
        learning_rate: f64,
        steps: u64,
    ) -> Result<Profile, ModelError> {
        self.profiler.profile = Some(Profile::default());
        let mut seconds = 0.0;
        let taken = (0..steps).try_for_each(|_| {
            seconds += self.step(batch, learning_rate)?.seconds;
            Ok(())
        });
        let profile = self.profiler.profile.take().unwrap_or_default();
        taken.map(|()| Profile {
            steps,
            seconds,
            ..profile
        })
    }

    /// Waits for the submitted steps and returns their results.
    ///
    /// # Errors
    /// As [`Training::step`]. The training is then in the state after the last completed step.
    pub fn report(&mut self) -> Result<Report<'_>, ModelError> {
        self.losses.drain(..self.reported);
        self.reported = 0;
        self.read_log()?;
        self.reported = self.losses.len();
        Ok(Report {
            losses: &self.losses,
            seconds: std::mem::take(&mut self.seconds),
            quantize_seconds: std::mem::take(&mut self.quantize_seconds),
        })
    }

    fn read_log(&mut self) -> Result<(), ModelError> {
        let start = Instant::now();
        let before = self.losses.len();
        let found = (self.backend).read_log(&mut self.log, &mut self.losses)?;
        self.seconds += start.elapsed().as_secs_f64();
        self.quantize_seconds += found.seconds;
        let begun = std::mem::take(&mut self.unread);
        let Some(stop) = found.stop else {
            return Ok(());
        };
        let losses = (self.losses.len() - before) as u64;
        let finished = match stop {
            Stop::Solve { .. } => losses,
            // The failed step has logged its loss.
            Stop::Loss | Stop::Gradient { .. } => losses.saturating_sub(1),
        };
        self.losses.truncate(before + finished as usize);
        self.steps -= begun.saturating_sub(finished);
        self.quantized_is_current = !matches!(stop, Stop::Solve { .. });
        let step = self.steps + 1;
        match stop {
            Stop::Loss => {
                // Later steps have overwritten the activations of the failed one.
                let what = self.locate_non_finite(begun == finished + 1)?;
                Err(ModelError::NotFinite { what, step })
            }
            Stop::Gradient { parameter } => {
                let name = &self.network.parameters()[parameter].spec.name;
                let what = format!("the gradient of layer {name}");
                Err(ModelError::NotFinite { what, step })
            }
            Stop::Solve { parameter, group } => {
                let quantized = |parameter: &&mut Parameter<B>| parameter.is_quantized();
                let mut parameters = self.network.parameters_mut().iter_mut().filter(quantized);
                let parameter = parameters
                    .nth(parameter)
                    .expect("as many as were quantized");
                Err(parameter.why_unsolved(&self.backend, group, step)?)
            }
        }
    }

    /// What is NaN or infinite first, after a loss that is not finite: "the weights of layer …", "the output of layer …"
    /// if its batch is the last one, or "the loss".
    fn locate_non_finite(&self, is_last_batch: bool) -> Result<String, ModelError> {
        for parameter in self.network.parameters() {
            if self.backend.first_not_finite(parameter.value())?.is_some() {
                return Ok(format!("the weights of layer {}", parameter.spec.name));
            }
        }
        let layer = match is_last_batch {
            true => self.network.locate_non_finite_output(&self.backend)?,
            false => None,
        };
        Ok(layer.map_or("the loss".into(), |layer| {
            format!("the output of layer {layer}")
        }))
    }

    /// What quantization does to each matrix at the current weights; empty for `full`, and for a
    /// state that was loaded after a look at it, until the next step.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn layers(&mut self) -> Result<Vec<LayerReport>, ModelError> {
        self.ensure_quantized()?;
        let mut reports = Vec::new();
        for parameter in self.network.parameters() {
            reports.extend(parameter.reports(&self.backend)?);
        }
        Ok(reports)
    }

    /// The weighted error of each quantized matrix in the next step, and that of the method `other`
    /// on the same weights and curvature; empty for `full`. Training goes on as if it had not
    /// been called.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn compare(&mut self, other: &Method) -> Result<Vec<LayerComparison>, ModelError> {
        self.ensure_quantized()?;
        let mut comparisons = Vec::new();
        for parameter in self.network.parameters() {
            comparisons.extend(parameter.compare(&self.backend, other, self.steps + 1)?);
        }
        Ok(comparisons)
    }

    /// The weights that an evaluation computes with, and the running averages of batch
    /// normalization: quantized weights as levels and scales.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn weights(&mut self) -> Result<Vec<LayerWeights>, ModelError> {
        self.ensure_quantized()?;
        let parameters = self.network.parameters().iter();
        let weights = parameters.map(|parameter| parameter.weights(&self.backend));
        let mut weights = weights.collect::<Result<Vec<_>, _>>()?;
        for StateTensor { name, shape, data } in self.network.save(&self.backend)? {
            if let StateData::F32(values) = data {
                let data = WeightData::F32(values);
                weights.push(LayerWeights { name, shape, data });
            }
        }
        Ok(weights)
    }

    /// Solves at most once for each state of the latent weights, so that evaluations and reports
    /// between two steps do not change the warm start of the next solve.
    fn ensure_quantized(&mut self) -> Result<(), ModelError> {
        if self.quantized_is_current {
            return Ok(());
        }
        // An earlier step may have failed.
        self.read_log()?;
        let start = Instant::now();
        let done = quantize(
            &self.backend,
            self.network.as_mut(),
            &mut self.quantize_workspace,
            &mut self.log,
        );
        done.map_err(|error| self.unsolved(error))?;
        self.seconds += start.elapsed().as_secs_f64();
        self.read_log()?;
        self.quantized_is_current = true;
        Ok(())
    }

    /// Adds the layer's name to a solver error of the next step.
    fn unsolved(&self, error: BackendError) -> ModelError {
        let BackendError::Solve {
            parameter,
            group,
            source,
        } = error
        else {
            return error.into();
        };
        let parameters = self.network.parameters().iter();
        let mut quantized = parameters.filter(|parameter| parameter.is_quantized());
        match quantized.nth(parameter) {
            Some(parameter) => parameter.unsolved(group, self.steps + 1, source),
            None => ModelError::Backend(BackendError::Solve {
                parameter,
                group,
                source,
            }),
        }
    }
}

fn unknown_dataset() -> ModelError {
    ModelError::Batch("these examples are not on the device; copy them there first".into())
}

/// The weights of the parameters that are `chosen`.
fn weights_of<B: Backend>(
    network: &dyn Network<B>,
    chosen: impl Fn(&Parameter<B>) -> bool,
) -> usize {
    let parameters = network.parameters().iter();
    let chosen = parameters.filter(|parameter| chosen(parameter));
    chosen
        .map(|parameter| parameter.spec.shape.iter().product::<usize>())
        .sum()
}

/// Computes ŵ = solve(w, d) for all quantized parameters and times it.
fn quantize<B: Backend>(
    backend: &B,
    network: &mut dyn Network<B>,
    workspace: &mut B::QuantizeWorkspace,
    log: &mut B::StepLog,
) -> Result<(), BackendError> {
    if !network.parameters().iter().any(Parameter::is_quantized) {
        return Ok(());
    }
    backend.start_clock(log)?;
    let parameters = network.parameters_mut().iter_mut();
    let mut jobs = parameters.filter_map(Parameter::quantize_job);
    let solved = backend.quantize(&mut jobs, workspace, log);
    backend.stop_clock(log)?;
    solved
}
