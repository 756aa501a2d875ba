//! Quantization of parameters.

use laq_solvers::{Groups, Method, Scale};

use crate::{AdamSettings, BackendError, Steps};

/// The operands of one parameter's quantization.
#[derive(Debug)]
pub struct QuantizeJob<'a, B: Quantize + ?Sized> {
    /// w.
    pub latent: &'a B::Buffer<f32>,
    /// v, Adam's second moment.
    pub second_moment: &'a B::Buffer<f32>,
    /// The method and its state.
    pub quantizer: &'a mut B::Quantizer,
    /// Receives ŵ.
    pub quantized: &'a mut B::Buffer<f32>,
}

/// The result of the last [`Quantize::quantize`] for one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReport {
    /// The scale(s), α or (α, β).
    pub scale: Scale,
    /// Fraction of quantized weights that are zero.
    pub sparsity: f64,
    /// ½ Σ d (w − ŵ)².
    pub weighted_error: f64,
    /// Iterations of the alternating solver.
    pub iterations: u32,
}

/// A quantizer's state in host memory, for a checkpoint.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct QuantizerSnapshot {
    /// Level indices, one per weight.
    pub levels: Vec<i8>,
    /// One value per group, α, or two, (α, β). Empty before the first solve.
    pub scales: Vec<f32>,
    /// Adam's moments of trained scales, four per group: two first, two second; empty otherwise.
    pub moments: Vec<f32>,
}

impl QuantizerSnapshot {
    /// Checks the state against a parameter with these groups, quantized by `method`.
    ///
    /// # Errors
    /// [`BackendError::StateMismatch`] for another size, or for levels outside of the method's
    /// codebook.
    pub fn check(&self, method: &Method, groups: Groups) -> Result<(), BackendError> {
        let (weights, groups) = (groups.weights(), groups.count());
        let mismatch = |what: &str, found: usize, expected: String| {
            Err(BackendError::StateMismatch(format!(
                "{found} {what}, expected {expected}"
            )))
        };
        if self.levels.len() != weights {
            return mismatch("levels", self.levels.len(), weights.to_string());
        }
        let scales = match method.quantizer() {
            Some(quantizer) if quantizer.has_two_scales() => 2 * groups,
            Some(_) => groups,
            None => 0,
        };
        if ![0, scales].contains(&self.scales.len()) {
            let expected = format!("0 or {scales}, those of {method}");
            return mismatch("scales", self.scales.len(), expected);
        }
        let moments = match method.has_trained_scales() {
            true => 4 * groups,
            false => 0,
        };
        if ![0, moments].contains(&self.moments.len()) {
            let expected = format!("0 or {moments}, those of {method}");
            return mismatch("moments of scales", self.moments.len(), expected);
        }
        let quantizer = method.quantizer().filter(|_| !self.scales.is_empty());
        let Some(quantizer) = quantizer else {
            return Ok(());
        };
        let known: Vec<i8> = quantizer.codebook().levels().collect();
        match self.levels.iter().find(|level| !known.contains(level)) {
            Some(level) => Err(BackendError::StateMismatch(format!(
                "level {level}, which {method} does not have"
            ))),
            None => Ok(()),
        }
    }
}

/// Quantization of all parameters of a network in one call.
pub trait Quantize: Steps {
    /// The state of one parameter: method, levels, scales, scratch.
    type Quantizer: Send;
    /// What the calls for one set of parameters keep between steps.
    type QuantizeWorkspace: Default + Send;

    /// The state of a parameter with these groups, each of which has its own scale.
    ///
    /// # Errors
    /// [`BackendError::DeviceMemory`] when the device is out of memory, and [`BackendError::Device`] when it
    /// has no kernels for the method with these groups.
    fn quantizer(&self, method: &Method, groups: Groups) -> Result<Self::Quantizer, BackendError>;

    /// ŵ = solve(w, √v + [`laq_solvers::CURVATURE_FLOOR`]) for every job, group by group (PAPER.md
    /// §3, step 1), warm-started by the levels of the previous call. No effect if the log is
    /// stopped.
    ///
    /// # Errors
    /// [`BackendError::Solve`] for a weight or moment that is NaN or infinite. A device that
    /// executes later stops the log with [`Stop::Solve`](crate::Stop::Solve) instead.
    fn quantize(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        workspace: &mut Self::QuantizeWorkspace,
        log: &mut Self::StepLog,
    ) -> Result<(), BackendError>;

    /// Transforms ∂L/∂ŵ into ∂L/∂w in place by the method's rule (PAPER.md §2), and stores the
    /// gradients of trained scales.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn quantizer_backward(
        &self,
        latent: &Self::Buffer<f32>,
        quantizer: &mut Self::Quantizer,
        gradient: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;

    /// One step of Adam on trained scales, by their gradients within ±[`LARGEST_GRADIENT`](crate::LARGEST_GRADIENT). No effect for other methods, or if the log is stopped.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn quantizer_update(
        &self,
        adam: AdamSettings,
        log: &Self::StepLog,
        quantizer: &mut Self::Quantizer,
    ) -> Result<(), BackendError>;

    /// The result of the last solve, one report per group; empty before the first solve, and from
    /// [`Quantize::quantizer_load`] to the next solve.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn quantizer_reports(
        &self,
        quantizer: &Self::Quantizer,
    ) -> Result<Vec<GroupReport>, BackendError>;

    /// Copies the state to the host.
    ///
    /// # Errors
    /// [`BackendError::Device`] when the device fails.
    fn quantizer_save(
        &self,
        quantizer: &Self::Quantizer,
    ) -> Result<QuantizerSnapshot, BackendError>;

    /// Restores a state, and writes its ŵ to `quantized` if it holds scales.
    ///
    /// # Errors
    /// [`BackendError::StateMismatch`] as from [`QuantizerSnapshot::check`].
    fn quantizer_load(
        &self,
        snapshot: &QuantizerSnapshot,
        quantizer: &mut Self::Quantizer,
        quantized: &mut Self::Buffer<f32>,
    ) -> Result<(), BackendError>;
}
