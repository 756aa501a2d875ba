//! What a quantization method is to the training loop.

use std::fmt::Debug;
use std::mem;

use crate::climb::Events;
use crate::codebook::{Codebook, Scale};
use crate::exact::Memory;
use crate::kernels;
use crate::problem::{Problem, SolveError};
use crate::step::{self, CURVATURE_FLOOR};
use laq_simd::Isa;

/// What a solver returns beside the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solution {
    /// What the levels are multiplied by.
    pub scale: Scale,
    /// `½ Σ d (w − ŵ)²` of the returned levels and scale, summed in f64.
    pub weighted_error: f64,
    /// Rounds of an alternating solver; 1 for an exact one, 0 for a closed form.
    pub rounds: u32,
}

/// Memory that solvers work in. It grows at the first problem of a size and is used again, so a training
/// step allocates nothing; give each thread its own.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    pub(crate) sorted: Vec<u64>,
    pub(crate) events: Events,
    pub(crate) exact: Memory,
    pub(crate) step: step::Memory,
    curvature: Vec<f32>,
}

impl Workspace {
    /// [`Quantizer::solve_step`] by [`Quantizer::solve`] and [`Codebook::decode`].
    pub(crate) fn solve_step(
        &mut self,
        quantizer: &(impl Quantizer + ?Sized),
        (weights, second_moment): (&[f32], &[f32]),
        previous: Option<Scale>,
        levels: &mut [i8],
        quantized: &mut [f32],
    ) -> Result<Solution, SolveError> {
        // Taken out, so that the solver can have the rest.
        let mut curvature = mem::take(&mut self.curvature);
        curvature.resize(second_moment.len(), 0.0);
        let isa = Isa::selected();
        kernels::roots(isa, second_moment, CURVATURE_FLOOR, &mut curvature);
        let solved = Problem::new(weights, Some(&curvature))
            .and_then(|problem| quantizer.solve(problem, previous, levels, self));
        self.curvature = curvature;
        let solution = solved?;
        quantizer
            .codebook()
            .decode(levels, solution.scale, quantized);
        Ok(solution)
    }
}

/// How a method finds scale and levels, for devices that have kernels of their own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solver {
    /// Signs, with scale 1.
    Signs,
    /// Signs, with scale mean |w|.
    MeanSigns,
    /// Signs, with scale Σ d |w| / Σ d.
    WeightedSigns,
    /// Ternary levels at 0.7 mean |w|, with the mean magnitude above it as scale.
    Threshold,
    /// Ternary levels at 0.05 max |w|, with two trained scales.
    Trained,
    /// Scale and levels by turns, from the levels of the step before on.
    Alternating {
        /// A scale for each sign, each side for itself.
        two_scales: bool,
    },
    /// The optimum of problem (1).
    Exact {
        /// A scale for each sign, each side for itself.
        two_scales: bool,
    },
    /// The levels nearest to tanh w / max |tanh w|, with scale 1.
    Tanh,
}

/// A method of quantization (PAPER.md §2), with its gradients.
pub trait Quantizer: Debug + Send + Sync {
    /// The levels that the method uses.
    fn codebook(&self) -> Codebook;

    /// How [`solve`](Self::solve) does it, where there is a name for it. Devices refuse a method without one.
    fn solver(&self) -> Option<Solver> {
        None
    }

    /// Quantizes the weights of `problem`: fills `levels`, of the same length, and returns their scale.
    ///
    /// `previous` is the scale of the previous training iteration, `levels` then holds its levels: the
    /// alternating solvers start from the levels, TTQ takes the scale, which it trains, and the others use
    /// neither. `None` is a cold start, and `levels` may hold anything.
    ///
    /// # Errors
    /// `levels` of another length than the weights; for TTQ, a trained scale that is NaN or infinite.
    fn solve(
        &self,
        problem: Problem<'_>,
        previous: Option<Scale>,
        levels: &mut [i8],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError>;

    /// [`solve`](Self::solve) within training: with the curvature `√v +` [`CURVATURE_FLOOR`] that Adam's second moment
    /// v gives (PAPER.md §1), and with the same answer, up to the order of sums. Fills `quantized` too, of the weights'
    /// length, with what the levels decode to.
    ///
    /// # Errors
    /// As [`Problem::new`] and [`solve`](Self::solve).
    fn solve_step(
        &self,
        weights: &[f32],
        second_moment: &[f32],
        previous: Option<Scale>,
        levels: &mut [i8],
        quantized: &mut [f32],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        let numbers = (weights, second_moment);
        workspace.solve_step(self, numbers, previous, levels, quantized)
    }

    /// Turns `∂loss/∂ŵ` into `∂loss/∂w`, in place; all slices have length n, and the rest of longer ones
    /// is left alone. By default the gradient goes straight through (PAPER.md §2, last sentence).
    fn latent_gradient(&self, weights: &[f32], scale: Scale, levels: &[i8], gradient: &mut [f32]) {
        let _ = (weights, scale, levels, gradient);
    }

    /// `[∂loss/∂W_p, ∂loss/∂W_n]` from `∂loss/∂ŵ`, which [`latent_gradient`](Self::latent_gradient) must
    /// not have changed yet. `None` where the scales are not trained, that is, for all but TTQ.
    fn scale_gradient(&self, levels: &[i8], gradient: &[f32]) -> Option<[f64; 2]> {
        let _ = (levels, gradient);
        None
    }
}
