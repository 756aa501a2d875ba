//! One training iteration (PAPER.md §3, Algorithm 3), from a batch to the updated weights.

use std::collections::BTreeMap;
use std::time::Instant;

use laq_solvers::Method;
use laq_tensor::{AdamStep, Backend};

use crate::ModelError;
use crate::batch::{Batch, Evaluation, TextShape};
use crate::char_lstm::{CharLstm, CharLstmSpec};
use crate::comparison::LayerComparison;
use crate::feedforward::{Feedforward, FeedforwardSpec};
use crate::network::{Network, setting};
use crate::parameter::{LayerReport, StateData, StateTensor};

/// Adam's constants (PAPER.md §3, step 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamSettings {
    /// β₁, default 0.9.
    pub beta1: f64,
    /// β₂, default 0.999.
    pub beta2: f64,
    /// ε, default 1e-8.
    pub epsilon: f64,
}

impl AdamSettings {
    fn check(&self) -> Result<(), ModelError> {
        for (name, value, ok, expected) in [
            (
                "beta1",
                self.beta1,
                (0.0..1.0).contains(&self.beta1),
                "at least 0 and below 1",
            ),
            (
                "beta2",
                self.beta2,
                (0.0..1.0).contains(&self.beta2),
                "at least 0 and below 1",
            ),
            // Below it, √v + ε would be zero in f32 for a weight that never had a gradient.
            (
                "epsilon",
                self.epsilon,
                (1e-30..=1e30).contains(&self.epsilon),
                "1e-30 to 1e30",
            ),
        ] {
            setting(ok, name, value, expected)?;
        }
        Ok(())
    }
}

impl Default for AdamSettings {
    fn default() -> Self {
        AdamSettings {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

/// What one training step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss of the batch before the update: nats a symbol, or the images' loss.
    pub loss: f64,
    /// Wall-clock seconds of the step, with the solve that a look at the network has done before it.
    pub seconds: f64,
    /// Of these, seconds spent in solving for ŵ and in turning ∂L/∂ŵ into ∂L/∂w.
    pub quantize_seconds: f64,
}

/// A network in training: latent weights, their quantized form, Adam's state.
pub struct Training<B: Backend> {
    backend: B,
    network: Box<dyn Network<B>>,
    adam: AdamSettings,
    steps: u64,
    /// Whether ŵ belongs to the latent weights as they are now.
    quantized_is_current: bool,
    /// Wall-clock seconds of the solves that no step has counted yet.
    solve_seconds: f64,
}

/// Name of the state tensor with the step counter and whether ŵ is current.
const COUNTERS: &str = "training.counters";

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

    /// A feedforward network of PAPER.md §4 for batches of `batch` images, with fresh weights; equal seeds give equal
    /// bits.
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
        adam.check()?;
        Ok(Training {
            backend,
            network,
            adam,
            steps: 0,
            quantized_is_current: false,
            solve_seconds: 0.0,
        })
    }

    /// The device that computes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Steps taken so far, those before a checkpoint included.
    pub fn steps_taken(&self) -> u64 {
        self.steps
    }

    /// One iteration of Algorithm 3 on a whole batch.
    ///
    /// 1. ŵ = solve(w, d) for every quantized matrix.
    /// 2. Forward and backward with ŵ in place of w.
    /// 3. Adam on the latent weights, clipped to [−1, 1], and on what is not quantized.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] or [`ModelError::Solve`] when a number is no longer finite; the
    /// weights are then those of the step before. [`ModelError::Batch`] for a batch of another
    /// size, or with a symbol that the network does not have. [`ModelError::Setting`] for a
    /// learning rate that is negative or not finite.
    pub fn step(&mut self, batch: Batch<'_>, learning_rate: f64) -> Result<StepReport, ModelError> {
        let start = Instant::now();
        let step = self.steps + 1;
        setting(
            learning_rate >= 0.0 && learning_rate.is_finite(),
            "learning_rate",
            learning_rate,
            "a finite number, 0 or above",
        )?;
        self.network.take(&self.backend, batch, true)?;
        let solved_before = self.solve_seconds;
        self.ensure_quantized()?;

        let loss = self.network.forward(&self.backend)?;
        if !loss.is_finite() {
            let (what, layer) = self.network.blame(&self.backend)?;
            return Err(ModelError::NotFinite { what, layer, step });
        }
        self.network.backward(&self.backend)?;
        for parameter in self.network.parameters() {
            if self
                .backend
                .first_not_finite(parameter.gradient())?
                .is_some()
            {
                let layer = parameter.spec.name.clone();
                return Err(ModelError::NotFinite {
                    what: "the gradient",
                    layer,
                    step,
                });
            }
        }

        let own = Instant::now();
        for parameter in self.network.parameters_mut() {
            parameter.quantizer_backward(&self.backend)?;
        }
        let quantize_seconds = self.solve_seconds + own.elapsed().as_secs_f64();
        let adam = AdamStep {
            learning_rate,
            beta1: self.adam.beta1,
            beta2: self.adam.beta2,
            epsilon: self.adam.epsilon,
            step,
            clip: None,
        };
        self.quantized_is_current = false;
        for parameter in self.network.parameters_mut() {
            parameter.update(&self.backend, adam)?;
        }
        self.network.finish_step(&self.backend)?;
        self.steps = step;
        self.solve_seconds = 0.0;
        Ok(StepReport {
            loss,
            seconds: solved_before + start.elapsed().as_secs_f64(),
            quantize_seconds,
        })
    }

    /// How well a batch is predicted with the quantized weights; training goes on as if it had not been called.
    ///
    /// # Errors
    /// As [`Training::step`].
    pub fn evaluate(&mut self, batch: Batch<'_>) -> Result<Evaluation, ModelError> {
        self.network.take(&self.backend, batch, false)?;
        self.ensure_quantized()?;
        let evaluation = self.network.evaluate(&self.backend)?;
        if !evaluation.loss.is_finite() {
            let (what, layer) = self.network.blame(&self.backend)?;
            return Err(ModelError::NotFinite {
                what,
                layer,
                step: self.steps,
            });
        }
        Ok(evaluation)
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

    /// The weighted error of each quantized matrix as the coming step will use it, beside that of `other` on the same
    /// weights and curvature; empty for `full`. Training goes on as if it had not been called.
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

    /// Everything that the same bits need later: weights, moments, levels, scales, counters.
    ///
    /// # Errors
    /// When the device fails.
    pub fn save(&self) -> Result<Vec<StateTensor>, ModelError> {
        let mut state = vec![StateTensor {
            name: COUNTERS.to_owned(),
            shape: vec![2],
            data: StateData::U64(vec![self.steps, u64::from(self.quantized_is_current)]),
        }];
        for parameter in self.network.parameters() {
            state.extend(parameter.save(&self.backend)?);
        }
        state.extend(self.network.save(&self.backend)?);
        Ok(state)
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// [`ModelError::State`] or [`ModelError::Backend`] when the state is of another network, or of
    /// a method with other levels. This training is then good for nothing but another `load`.
    pub fn load(&mut self, state: &[StateTensor]) -> Result<(), ModelError> {
        let by_name: BTreeMap<&str, &StateTensor> = state
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        let (steps, current) = match by_name.get(COUNTERS).map(|tensor| &tensor.data) {
            Some(StateData::U64(counters)) if counters.len() == 2 => (counters[0], counters[1]),
            _ => return Err(ModelError::State(format!("tensor {COUNTERS} is missing"))),
        };
        for parameter in self.network.parameters_mut() {
            parameter.load(&self.backend, &by_name)?;
        }
        self.network.load(&self.backend, &by_name)?;
        self.steps = steps;
        self.quantized_is_current = current != 0;
        self.solve_seconds = 0.0;
        Ok(())
    }

    /// Solving is done once for each state of the latent weights, so that looking at a network
    /// (evaluation, reports) between two steps leaves the warm start of the next as it was.
    fn ensure_quantized(&mut self) -> Result<(), ModelError> {
        if !self.quantized_is_current {
            let start = Instant::now();
            for parameter in self.network.parameters_mut() {
                parameter.quantize(&self.backend, self.steps + 1)?;
            }
            self.quantized_is_current = true;
            self.solve_seconds += start.elapsed().as_secs_f64();
        }
        Ok(())
    }
}
