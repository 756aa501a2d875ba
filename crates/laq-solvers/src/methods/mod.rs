//! The methods of PAPER.md §2, one a file. A new one is a file and its entry in [`FAMILIES`].

mod binary_connect;
mod bwn;
mod dorefa;
mod full;
mod lab;
mod laq_linear;
mod laq_linear_e;
mod laq_log;
mod laq_log_e;
mod lat2_a;
mod lat2_e;
mod lat_a;
mod lat_e;
mod ttq;
mod twn;

use crate::alternating::alternating;
use crate::codebook::{Codebook, Scale};
use crate::exact::exact;
use crate::finish;
use crate::kernels::Side;
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};
use crate::step;
use laq_simd::Isa;

/// In the order of the paper's tables, then what is not in the paper.
pub(crate) static FAMILIES: [Family; 15] = [
    full::FAMILY,
    binary_connect::FAMILY,
    bwn::FAMILY,
    lab::FAMILY,
    twn::FAMILY,
    lat_e::FAMILY,
    lat_a::FAMILY,
    ttq::FAMILY,
    lat2_e::FAMILY,
    lat2_a::FAMILY,
    dorefa::FAMILY,
    laq_linear::FAMILY,
    laq_log::FAMILY,
    laq_linear_e::FAMILY,
    laq_log_e::FAMILY,
];

/// The methods with one scale that take turns: whatever the codebook, from the previous levels on.
#[derive(Debug)]
struct Alternating(Codebook);

impl Quantizer for Alternating {
    fn codebook(&self) -> Codebook {
        self.0
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Alternating { two_scales: false })
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        alternating(problem, self.0, previous.is_some(), levels)
    }

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
        let memory = &mut workspace.step;
        match step::alternating(numbers, self.0, previous, levels, quantized, memory)? {
            Some(solution) => Ok(solution),
            None => workspace.solve_step(self, numbers, previous, levels, quantized),
        }
    }
}

/// The methods with one scale that find the global optimum, whatever the codebook.
#[derive(Debug)]
struct Exact(Codebook);

impl Quantizer for Exact {
    fn codebook(&self) -> Codebook {
        self.0
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Exact { two_scales: false })
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        exact(problem, self.0, levels, workspace)
    }
}

/// The binary methods: the sign of every weight, 1 for zero, and a scale.
fn signs(
    problem: Problem<'_>,
    levels: &mut [i8],
    scale: impl FnOnce(Isa) -> f32,
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let magnitudes = Codebook::Binary.magnitudes();
    let scale = scale(isa);
    Ok(finish::one_scale(
        isa,
        problem,
        Codebook::Binary,
        &magnitudes,
        scale,
        0,
        levels,
    ))
}

/// `Σ d |w| / Σ d`, zero where all weights are.
fn mean_magnitude(isa: Isa, problem: Problem<'_>) -> f32 {
    finish::weighted_or_not(isa, problem, Side::Both)
        .map_or(0.0, |(_, totals)| finish::to_f32(totals.scale()))
}
