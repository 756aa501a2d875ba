//! A solver with its codebook, and the dispatch to the functions in `solvers`.

use std::mem;

use laq_simd::Isa;

use crate::blocks::{ScaleGrid, Search};
use crate::codebook::{Codebook, Scale};
use crate::error::SolveError;
use crate::granularity::MAX_BLOCK;
use crate::passes::check::with_roots;
use crate::passes::curvature::CURVATURE_FLOOR;
use crate::problem::{Problem, Solution};
use crate::solvers::{
    Workspace, alternating, closed_form, exact, fast_alternating, gradients, threshold,
};

/// The iterations at which [`Quantizer::solve_once`] ends at the latest.
const MOST_ITERATIONS: u32 = 10_000;

/// The computation of scale and levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Solver {
    /// Signs with scale 1 (BinaryConnect).
    Signs,
    /// The nearest levels at the scale mean |w| (BWN, absmean).
    MeanMagnitude,
    /// The nearest levels at the scale max |w| (absmax).
    LargestMagnitude,
    /// Signs with scale Σ d |w| / Σ d (LAB).
    WeightedSigns,
    /// Ternary levels at 0.7 mean |w|; the scale is the mean magnitude above (TWN).
    Threshold,
    /// Ternary levels at 0.05 max |w| with two trained scales (TTQ).
    Trained,
    /// Alternates between scale and levels, from the levels of the previous step (LAT, LAQ).
    Alternating {
        /// One scale per sign instead of one scale.
        two_scales: bool,
    },
    /// The optimum of problem (1).
    Exact {
        /// One scale per sign instead of one scale.
        two_scales: bool,
    },
    /// The optimum of problem (1) with a scale of a grid, for any codebook: a block of a
    /// [format](crate::formats).
    ExactOnGrid {
        /// The scales.
        grid: ScaleGrid,
    },
    /// The levels nearest to tanh w / max |tanh w| with scale 1 (DoReFa).
    Tanh,
}

impl Solver {
    /// Whether the result has a scale per sign.
    pub fn has_two_scales(self) -> bool {
        matches!(
            self,
            Solver::Trained
                | Solver::Alternating { two_scales: true }
                | Solver::Exact { two_scales: true }
        )
    }
}

/// A [`Solver`] with its codebook.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quantizer {
    pub(crate) solver: Solver,
    pub(crate) codebook: Codebook,
}

impl Quantizer {
    /// The optimum of problem (1) for a codebook. A problem with a codebook of [`Codebook::table`] has at
    /// most [`MAX_BLOCK`] weights.
    ///
    /// ```
    /// use laq_solvers::{Codebook, Problem, Quantizer, Workspace};
    ///
    /// let quantizer = Quantizer::exact(Codebook::custom([0.0, 0.25, 1.0])?);
    /// let problem = Problem::new(&[0.9, -0.2, 0.05, -0.8], None)?;
    /// let mut levels = [0; 4];
    /// quantizer.solve(problem, None, &mut levels, &mut Workspace::default())?;
    /// assert_eq!(levels, [2, -1, 0, -2]);
    /// # Ok::<(), laq_solvers::SolveError>(())
    /// ```
    pub fn exact(codebook: Codebook) -> Self {
        let solver = match codebook {
            Codebook::Binary => Solver::WeightedSigns,
            Codebook::Table(_) => Solver::ExactOnGrid {
                grid: ScaleGrid::F32,
            },
            _ => Solver::Exact { two_scales: false },
        };
        Self { solver, codebook }
    }

    /// The nearest levels at the scale max |w|: rounding without a search (absmax), for a codebook without a table.
    pub fn rounding(codebook: Codebook) -> Self {
        Self {
            solver: Solver::LargestMagnitude,
            codebook,
        }
    }

    /// The codebook.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// The solver.
    pub fn solver(&self) -> Solver {
        self.solver
    }

    /// Whether the gradient of the latent weights differs from that of the quantized weights: TTQ
    /// and DoReFa. The others use the straight-through estimator.
    pub fn has_latent_gradient(&self) -> bool {
        matches!(self.solver, Solver::Trained | Solver::Tanh)
    }

    /// Whether the result has a scale per sign.
    pub fn has_two_scales(&self) -> bool {
        self.solver.has_two_scales()
    }

    /// Quantizes the weights of `problem`: writes `levels` and returns their scale.
    ///
    /// `previous` is the scale of the previous training step, and `levels` then holds its levels.
    /// The alternating solvers start from these levels, TTQ takes the trained scales, formats
    /// search from the scale, which decides between equal optima, and the others use neither.
    /// `None` is a cold start that ignores `levels`.
    ///
    /// # Errors
    /// `levels` and the weights differ in length; for TTQ, a trained scale is NaN or infinite; for
    /// formats, there are more than [`MAX_BLOCK`] weights; for [`rounding`](Self::rounding), the codebook
    /// is a table.
    pub fn solve(
        &self,
        problem: Problem<'_>,
        previous: Option<Scale>,
        levels: &mut [i8],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        let (codebook, warm) = (&self.codebook, previous.is_some());
        match self.solver {
            Solver::Signs => closed_form::signs(problem, levels),
            Solver::MeanMagnitude => closed_form::at_mean_magnitude(problem, codebook, levels),
            Solver::LargestMagnitude => {
                closed_form::at_largest_magnitude(problem, codebook, levels)
            }
            Solver::WeightedSigns => closed_form::weighted_signs(problem, levels),
            Solver::Threshold => threshold::mean_threshold(problem, levels),
            Solver::Trained => threshold::trained(problem, previous, levels),
            Solver::Tanh => threshold::tanh(problem, codebook, levels),
            Solver::Alternating { two_scales: false } => {
                alternating::alternating(problem, codebook, warm, levels)
            }
            Solver::Alternating { two_scales: true } => {
                alternating::two_scales(problem, warm, levels)
            }
            Solver::Exact { two_scales: false } => {
                exact::exact(problem, codebook, levels, workspace)
            }
            Solver::Exact { two_scales: true } => exact::two_scales(problem, levels, workspace),
            Solver::ExactOnGrid { grid } => {
                problem.check_length(levels)?;
                if levels.len() > MAX_BLOCK {
                    let length = levels.len();
                    return Err(SolveError::BlockLength { length });
                }
                let blocks =
                    (workspace.blocks.take()).filter(|blocks| blocks.is_for(codebook, grid));
                let mut blocks = blocks.unwrap_or_else(|| Box::new(Search::new(codebook, grid)));
                let lowest = codebook.levels().next().expect("two or more levels");
                let put = |index: usize, place: u8| {
                    levels[index] = match codebook {
                        Codebook::Binary => 2 * place as i8 - 1,
                        _ => lowest.wrapping_add_unsigned(place),
                    };
                };
                let start = previous.map(|scale| scale.pair()[0]);
                let solved = blocks.solve(problem.weights(), problem.curvature(), start, put);
                workspace.blocks = Some(blocks);
                let (scale, weighted_error) = solved;
                Ok(Solution {
                    scale: Scale::One(scale),
                    weighted_error,
                    iterations: 1,
                })
            }
        }
    }

    /// [`solve`](Self::solve) outside of training: from a cold start, and an alternating solver goes on from its own
    /// result until that lowers the error no more, instead of in the next training step. Its iterations are counted
    /// together.
    ///
    /// # Errors
    /// As [`solve`](Self::solve).
    pub fn solve_once(
        &self,
        problem: Problem<'_>,
        levels: &mut [i8],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        let mut solution = self.solve(problem, None, levels, workspace)?;
        if !matches!(self.solver, Solver::Alternating { .. }) {
            return Ok(solution);
        }
        loop {
            let last = solution;
            solution = self.solve(problem, Some(last.scale), levels, workspace)?;
            solution.iterations += last.iterations;
            let is_lower = solution.weighted_error < last.weighted_error;
            if !is_lower || solution.iterations >= MOST_ITERATIONS {
                return Ok(solution);
            }
        }
    }

    /// [`solve`](Self::solve) within training, with the curvature `√v +` [`CURVATURE_FLOOR`] of
    /// Adam's second moment v (PAPER.md §1). Returns the same solution up to the order of sums,
    /// and writes the decoded levels to `quantized`, which is as long as the weights: of a shorter one, as many as it has.
    ///
    /// # Errors
    /// As [`Problem::new`] and [`solve`](Self::solve).
    pub fn solve_step(
        &self,
        weights: &[f32],
        second_moment: &[f32],
        previous: Option<Scale>,
        levels: &mut [i8],
        quantized: &mut [f32],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        if self.solver == (Solver::Alternating { two_scales: false }) {
            let (values, fast) = ((weights, second_moment), &mut workspace.fast);
            let codebook = &self.codebook;
            let solution =
                fast_alternating::alternating(values, codebook, previous, levels, quantized, fast);
            if let Some(solution) = solution {
                return Ok(solution);
            }
        }
        // Taken out, because the solver borrows the whole workspace.
        let mut curvature = mem::take(&mut workspace.curvature);
        curvature.resize(second_moment.len(), 0.0);
        let isa = Isa::selected();
        let solved = with_roots(isa, weights, second_moment, CURVATURE_FLOOR, &mut curvature)
            .and_then(|problem| self.solve(problem, previous, levels, workspace));
        workspace.curvature = curvature;
        let solution = solved?;
        self.codebook.decode(levels, solution.scale, quantized);
        Ok(solution)
    }

    /// Turns `∂loss/∂ŵ` into `∂loss/∂w`, in place. All slices have length n; elements behind the
    /// shortest are unchanged. Only changes the gradient if
    /// [`has_latent_gradient`](Self::has_latent_gradient); the others are straight-through
    /// (PAPER.md §2, last sentence).
    pub fn latent_gradient(
        &self,
        weights: &[f32],
        scale: Scale,
        levels: &[i8],
        gradient: &mut [f32],
    ) {
        match self.solver {
            Solver::Trained => gradients::trained_latent_gradient(scale, levels, gradient),
            Solver::Tanh => gradients::tanh_latent_gradient(weights, gradient),
            _ => {}
        }
    }

    /// `[∂loss/∂W_p, ∂loss/∂W_n]` from `∂loss/∂ŵ`, before
    /// [`latent_gradient`](Self::latent_gradient) has changed it. `None` if the scales are not
    /// trained, that is, for all but TTQ.
    pub fn scale_gradient(&self, levels: &[i8], gradient: &[f32]) -> Option<[f64; 2]> {
        (self.solver == Solver::Trained)
            .then(|| gradients::trained_scale_gradient(levels, gradient))
    }
}
