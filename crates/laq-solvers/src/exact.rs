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

use std::collections::BinaryHeap;

use crate::codebook::{Codebook, MOST_MAGNITUDES, Magnitudes, Scale};
use crate::dispatch::Kernel;
use crate::finish;
use crate::kernels::{Moments, Side};
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Solution, Workspace};

/// Solves problem (1) to the global optimum: over all scales that an f32 can hold and all assignments of
/// the codebook's levels, for any codebook.
///
/// Takes time O(n log n + n·k log k) for k levels above zero, and 8 bytes of workspace a weight. With
/// several optima it returns the one with the smallest scale. The scale is the best one in f64, rounded
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
    problem.check_length(levels)?;
    codebook.check()?;
    let kernel = Kernel::selected()?;
    let magnitudes = codebook.magnitudes();
    let scale = best_scale(kernel, problem, Side::Both, &magnitudes, workspace);
    Ok(finish::one_scale(
        kernel,
        problem,
        codebook,
        &magnitudes,
        finish::to_f32(scale),
        1,
        levels,
    ))
}

/// Solves `½ Σ d (w − ŵ)²` for levels {−β, 0, α} to the global optimum. The sum falls apart into the
/// positive and the negative weights, each a ternary problem of its own; the scale of a side without
/// weights is zero. Source: PAPER.md §2 (the paper's Algorithm 4).
pub(crate) fn two_scales(
    problem: Problem<'_>,
    levels: &mut [i8],
    workspace: &mut Workspace,
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let kernel = Kernel::selected()?;
    let magnitudes = Codebook::Ternary.magnitudes();
    let [positive, negative] = [Side::Positive, Side::Negative]
        .map(|side| best_scale(kernel, problem, side, &magnitudes, workspace))
        .map(finish::to_f32);
    let scale = Scale::Two { positive, negative };
    Ok(finish::two_scales(kernel, problem, scale, 1, levels))
}

/// The best scale for the weights of one side; zero where nothing is gained by any other.
fn best_scale(
    kernel: Kernel,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    workspace: &mut Workspace,
) -> f64 {
    let Some((problem, totals)) = finish::weighted_or_not(kernel, problem, side) else {
        return 0.0;
    };
    let sorted = &mut workspace.sorted;
    sort_falling(problem, side, sorted);

    let q = magnitudes.values();
    let mut positions = [0_usize; MOST_MAGNITUDES];
    let mut midpoints = [0.0_f64; MOST_MAGNITUDES];
    // The event that takes a weight to magnitude `number`: the scale at which it happens, as bits, which
    // order as the scales do, and the number.
    let event = |midpoint: f64, number: usize, weight: u64| {
        let (magnitude, _) = unpack(weight);
        ((magnitude / midpoint).to_bits(), number as u8)
    };
    let events = &mut workspace.events;
    events.clear();
    for (number, midpoint) in (1..).zip(magnitudes.midpoints()) {
        midpoints[number] = midpoint;
        if let Some(&first) = sorted.first() {
            events.push(event(midpoint, number, first));
        }
    }

    let lowest = f64::from(q[0]);
    let mut state = Moments {
        product: lowest * totals.product,
        square: lowest * lowest * totals.square,
    };
    let mut best = (0.0, 0.0);
    consider(state, &mut best);
    while let Some(&(at, number)) = events.peek() {
        let number = usize::from(number);
        let (magnitude, curvature) = unpack(sorted[positions[number]]);
        let (lower, upper) = (f64::from(q[number - 1]), f64::from(q[number]));
        let climb = curvature * (upper - lower);
        state.product += climb * magnitude;
        state.square += climb * (upper + lower);
        positions[number] += 1;
        match sorted.get(positions[number]) {
            Some(&weight) => {
                if let Some(mut next) = events.peek_mut() {
                    *next = event(midpoints[number], number, weight);
                }
            }
            None => {
                events.pop();
            }
        }
        if events.peek().is_none_or(|&(following, _)| following != at) {
            consider(state, &mut best);
        }
    }
    best.1
}

/// Keeps the larger gain with its scale. On a draw the later state stays, whose scale is the smaller.
fn consider(state: Moments, best: &mut (f64, f64)) {
    if state.square == 0.0 {
        return; // All zeros, which have no best scale; every other state gains something.
    }
    // Linear levels can ask for a scale of up to k times the largest weight. Where that is above
    // every f32, the largest f32 is the best of those that can be had.
    const LARGEST: f64 = f32::MAX as f64;
    let (gain, scale) = if state.scale() <= LARGEST {
        (state.gain(), state.scale())
    } else {
        let gain = LARGEST * (2.0 * state.product - LARGEST * state.square);
        (gain, LARGEST)
    };
    if gain >= best.0 {
        *best = (gain, scale);
    }
}

/// `x > 0` and `d > 0` of one weight in one number, `x` in its upper half. Positive floats order as
/// their bits do, so these order by `x`, and by `d` among equals: sums do not depend on the order of the input.
fn pack(magnitude: f32, curvature: f32) -> u64 {
    u64::from(magnitude.to_bits()) << 32 | u64::from(curvature.to_bits())
}

/// The magnitude and the curvature, as f64.
fn unpack(packed: u64) -> (f64, f64) {
    let float = |bits: u64| f64::from(f32::from_bits(bits as u32));
    (float(packed >> 32), float(packed))
}

/// The weights of one side by falling magnitude, less those that change no state.
fn sort_falling(problem: Problem<'_>, side: Side, sorted: &mut Vec<u64>) {
    let magnitudes = problem.weights().iter().map(|&w| side.magnitude(w));
    sorted.clear();
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

/// The heap of the next event of every magnitude, latest scale first.
pub(crate) type Events = BinaryHeap<(u64, u8)>;
