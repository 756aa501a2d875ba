//! The global optimum of problem (1) for any codebook, by sorting.
//!
//! # Why it is the global optimum
//!
//! At a fixed scale `α` the best level of each weight is the one nearest to `w_i / α`. As `α` falls
//! from infinity to zero, weight `i` moves from magnitude `j − 1` to magnitude `j` at the
//! breakpoint `α = |w_i| / mid_j`, where `mid_j` is the midpoint between the two. Between
//! breakpoints no level changes. So the best levels for *some* scale are among at most n·k + 1
//! assignments, and the optimum, whose levels are the best for its own scale, is one of them. For
//! fixed levels the best scale is `S/D` with `S = Σ d b w`, `D = Σ d b²`, and reduces twice the
//! error of all zeros by `S²/D`: the assignment with the largest `S²/D` is optimal.
//!
//! Breakpoints at the same scale are taken together. An assignment between two of them need not be
//! evaluated: each of them adds to `S` and `D` in the proportion `α/2`, so `(S, D)` moves on a
//! line, and the convex function `S²/D` is largest at an end.
//!
//! The breakpoints of each magnitude have the order of falling `|w|`, so the weights are sorted
//! once and k streams are merged. Memory is that of the sorted weights.

use laq_simd::Isa;

use super::sweep::{Best, Breakpoint, sweep};
use super::{Workspace, assign};
use crate::codebook::{Codebook, Magnitudes};
use crate::error::SolveError;
use crate::passes::histogram::pack;
use crate::passes::lanes::Side;
use crate::passes::sums::{Sums, drop_zero_curvature};
use crate::problem::{Problem, Solution};

/// Solves problem (1) to the global optimum over all scales that fit an f32 and all assignments of
/// levels, for any codebook.
///
/// Takes O(n log n + n·k log k) time for k levels above zero, and 8 bytes of workspace per weight.
/// Rounding decides between equal optima. The scale is the best one in f64, rounded to f32. The
/// levels are the nearest ones for the rounded scale, so no other levels have a lower error with
/// it. A weight half way between two levels takes the one nearer to zero.
///
/// `levels` has the length of the weights and is overwritten. Source: PAPER.md §1 (the argument for
/// every codebook) and §2, *exact* (the paper's proposition for ternary levels with one scale).
///
/// # Errors
/// `levels` and the weights differ in length; [`SolveError::Table`] for a [`Codebook::table`].
pub fn exact_by_sorting(
    problem: Problem<'_>,
    codebook: &Codebook,
    levels: &mut [i8],
    workspace: &mut Workspace,
) -> Result<Solution, SolveError> {
    assign::with_scale(problem, codebook, levels, |isa, magnitudes, _| {
        let best = best_state(isa, problem, Side::Both, magnitudes, workspace);
        (best.scale, 1)
    })
}

/// The best assignment for the weights of one side; scale zero if none has a gain.
pub(crate) fn best_state(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    workspace: &mut Workspace,
) -> Best {
    let totals = drop_zero_curvature(isa, problem, side, magnitudes.has_zero());
    let Some((problem, totals)) = totals else {
        return Best::default();
    };
    let sorted = &mut workspace.sorted;
    sorted.clear();
    if magnitudes.values().len() > 1 {
        sort_descending(problem, side, sorted);
    }
    let lowest = f64::from(magnitudes.values()[0]);
    let state = Sums {
        product: lowest * totals.product,
        square: lowest * lowest * totals.square,
    };
    let mut best = Best::default();
    let breakpoint = |index: usize| Breakpoint::unpack(sorted[index]);
    let all = |_| 0..sorted.len();
    let queue = &mut workspace.queue;
    sweep(magnitudes, state, breakpoint, all, queue, &mut best);
    best
}

/// The weights of one side by falling magnitude, without those that add nothing to the sums.
fn sort_descending(problem: Problem<'_>, side: Side, sorted: &mut Vec<u64>) {
    let magnitudes = problem.weights().iter().map(|&w| side.magnitude(w));
    match problem.curvature() {
        Some(curvature) => {
            let pairs = magnitudes.zip(curvature.iter().copied());
            let relevant =
                pairs.filter(|&(magnitude, curvature)| magnitude > 0.0 && curvature > 0.0);
            sorted.extend(relevant.map(|(magnitude, curvature)| pack(magnitude, curvature)));
        }
        None => {
            let relevant = magnitudes.filter(|&magnitude| magnitude > 0.0);
            sorted.extend(relevant.map(|magnitude| pack(magnitude, 1.0)));
        }
    }
    sorted.sort_unstable_by(|a, b| b.cmp(a));
}
