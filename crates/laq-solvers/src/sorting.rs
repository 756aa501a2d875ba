//! The global optimum of problem (1) for any codebook, by sorting.
//!
//! # Why it is the global optimum
//!
//! At a fixed scale `α` the best level of every weight is the one nearest to `w_i / α`. As `α` falls from
//! infinity to zero, weight `i` climbs from magnitude `j − 1` to magnitude `j` where `α` passes
//! `|w_i| / mid_j`, with `mid_j` the midpoint between the two; between two such events no level changes. So the best
//! levels for *some* scale are among the at most n·k + 1 states that the events separate, and the
//! optimum, whose levels are the best for its own scale, is one of them. For fixed levels the best scale is
//! `S/D` with `S = Σ d b w`, `D = Σ d b²`, and takes `S²/D` off twice the error of all zeros: the
//! state with the largest `S²/D` wins.
//!
//! Events at the same position happen together. A state between two of them can be left out: on the line
//! from `(S, D)` before to `(S, D)` after (one line, since each of these events adds to `S` and `D` in the
//! proportion `α/2`) the convex function `S²/D` is largest at an end.
//!
//! Each magnitude's events come in the order of falling `|w|`, so the weights are sorted once and the k
//! streams are merged; memory is that of the sorted weights alone.

use crate::climb::{Best, Item, climb};
use crate::codebook::{Codebook, Magnitudes};
use crate::finish;
use crate::kernels::{Moments, Side, pack};
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Solution, Workspace};
use laq_simd::Isa;

/// Solves problem (1) to the global optimum: over all scales that an f32 can hold and all assignments of
/// the codebook's levels, for any codebook.
///
/// Takes time O(n log n + n·k log k) for k levels above zero, and 8 bytes of workspace a weight. Which of
/// several optima is returned is left to rounding. The scale is the best one in f64, rounded
/// to f32; the levels are the nearest ones for the rounded scale, so that no other levels do better with
/// it. A weight exactly half way between two levels takes the one nearer to zero.
///
/// `levels` has the weights' length and is overwritten. Source: PAPER.md §1 (the argument for
/// every codebook) and §2, *exact* (the paper's proposition for ternary levels with one scale).
///
/// # Errors
/// `levels` of another length than the weights; a codebook with bits outside 2 to 8.
pub fn exact_by_sorting(
    problem: Problem<'_>,
    codebook: Codebook,
    levels: &mut [i8],
    workspace: &mut Workspace,
) -> Result<Solution, SolveError> {
    finish::with_scale(problem, codebook, levels, |isa, magnitudes, _| {
        let best = best_state(isa, problem, Side::Both, magnitudes, workspace);
        (best.scale, 1)
    })
}

/// The best state for the weights of one side; scale zero where nothing is gained by any other.
pub(crate) fn best_state(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    workspace: &mut Workspace,
) -> Best {
    let Some((problem, totals)) = finish::weighted_or_not(isa, problem, side) else {
        return Best::default();
    };
    let sorted = &mut workspace.sorted;
    sorted.clear();
    if magnitudes.values().len() > 1 {
        sort_falling(problem, side, sorted);
    }
    let lowest = f64::from(magnitudes.values()[0]);
    let state = Moments {
        product: lowest * totals.product,
        square: lowest * lowest * totals.square,
    };
    let mut best = Best::default();
    let item = |index: usize| Item::unpack(sorted[index]);
    let everything = |_| 0..sorted.len();
    climb(
        magnitudes,
        state,
        item,
        everything,
        &mut workspace.events,
        &mut best,
    );
    best
}

/// The weights of one side by falling magnitude, less those that change no state.
fn sort_falling(problem: Problem<'_>, side: Side, sorted: &mut Vec<u64>) {
    let magnitudes = problem.weights().iter().map(|&w| side.magnitude(w));
    match problem.curvature() {
        Some(curvature) => {
            let pairs = magnitudes.zip(curvature.iter().copied());
            let counting =
                pairs.filter(|&(magnitude, curvature)| magnitude > 0.0 && curvature > 0.0);
            sorted.extend(counting.map(|(magnitude, curvature)| pack(magnitude, curvature)));
        }
        None => {
            let counting = magnitudes.filter(|&magnitude| magnitude > 0.0);
            sorted.extend(counting.map(|magnitude| pack(magnitude, 1.0)));
        }
    }
    sorted.sort_unstable_by(|a, b| b.cmp(a));
}
