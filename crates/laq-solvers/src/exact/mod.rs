//! The global optimum of problem (1) for any codebook, in time linear in the number of weights.
//!
//! # The function of the scale
//!
//! With the nearest levels for a scale `α`, twice the error of all zeros less twice the error is
//!
//! > `G(α) = 2α · H(α)`, `H(α) = q₀ Σ d x − ½ α q₀² Σ d + Σ_j (q_j − q_{j−1}) · T(α mid_j)`, `T(θ) = Σ d (x − θ)₊`
//!
//! for magnitudes `x = |w|`, the codebook's magnitudes `q₀ < q₁ < …` and the midpoints `mid_j` between them: a
//! weight gains `2α (q_j − q_{j−1}) (x − α mid_j)` by climbing to magnitude j, and climbs where that is
//! positive. The solver looks for the largest `G`. `T` is convex, so `H` is; therefore
//!
//! - a chord of `T` is nowhere below it, and a chord of an upper bound of `H` is an upper bound;
//! - the assignment of any thresholds whatever, with its own best scale, is a lower bound of the optimum.
//!
//! # How it is searched
//!
//! 1. One pass over the weights adds `d x` and `d` up in buckets of `x`, cut by the leading bits of the float:
//!    1/256 wide, relatively. That gives `T` at the edges of the buckets, and its chords between them.
//! 2. `α` is cut into as fine cells, from where the first weight leaves the lowest level, down to
//!    `G*/(2 q_k Σ d x)`, below which `G(α) ≤ 2α q_k Σ d x` is too little. Every cell gets an upper bound of `G`;
//!    every edge, a lower bound of the optimum. Bounds are wrong by the square of the widths, so of the
//!    cells only a few around the optimum are left, those whose upper bound is not below the best lower bound.
//! 3. A second pass collects the weights that change their level in those cells: per mille to per cent of
//!    them. If there are many, 1. to 3. are repeated on them with narrower buckets and cells.
//! 4. What is left is sorted, and its states are compared one by one as in
//!    [`exact_by_sorting`](crate::exact_by_sorting), from the state above the cell on.
//!
//! # What rounding does to it
//!
//! Bounds are computed from sums of positive f64, m terms of which are exact to m·2⁻⁵³ relatively; a cell is left out
//! only where its bound is lower by more than all the sums can be wrong together. So the optimum's cell is
//! never left out. The states compared at the end have gains that are rounded likewise, as those of sorting have:
//! sums of n·k terms at most. Of two whose errors differ by less than, as a rule, 1e-13 of the error of all zeros
//! either may win, and which of several equal optima is returned is left to rounding. The winner's scale is then
//! rounded to f32, which is coarse where the scale is denormal.
//!
//! # What it costs
//!
//! Two passes over the weights (three where the codebook has no zero), and one that writes the levels. All weights
//! are sorted instead where they are no more than the buckets, and in the end they are where the bounds leave no
//! cell out, which takes a `G` that is all but constant over many cells.

mod buckets;
mod search;
#[cfg(test)]
mod tests;

use std::ops::Range;

use self::buckets::Buckets;
use self::search::{Candidates, LEAST_BITS, ROUNDING, Search};
use crate::climb::{Best, Item};
use crate::codebook::{Codebook, Magnitudes, Scale};
use crate::finish;
use crate::kernels::{self, Moments, Side};
use crate::parallel::{self, OnePerPart, Parts};
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Solution, Workspace};
use crate::sorting;
use laq_simd::Isa;

/// Solves problem (1) to the global optimum, as [`exact_by_sorting`](crate::exact_by_sorting) does: over all scales that an f32
/// can hold and all assignments of the codebook's levels, for any codebook.
///
/// Takes three or four passes over the weights where they are many, and sorts them where they are few; why it is
/// exact is said at the [crate](crate#why-the-exact-solvers-are-exact). The passes are shared out to the threads of the
/// current rayon pool (with the feature `rayon`, which is on by default), with the same bits whatever their number.
/// `workspace` grows at the first problem of a size. The scale is the best one in f64, rounded
/// to f32; the levels are the nearest ones for the rounded scale, so that no other levels do better with
/// it. A weight exactly half way between two levels takes the one nearer to zero.
///
/// `levels` has the weights' length and is overwritten. Source: this project; PAPER.md §1, "Beyond the paper".
///
/// # Errors
/// `levels` of another length than the weights; a codebook with bits outside 2 to 8.
pub fn exact(
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

/// Solves `½ Σ d (w − ŵ)²` for levels {−β, 0, α} to the global optimum. The sum falls apart into the
/// positive and the negative weights, each a ternary problem of its own; the scale of a side without
/// weights is zero. Source: PAPER.md §2 (the paper's Algorithm 4).
pub(crate) fn two_scales(
    problem: Problem<'_>,
    levels: &mut [i8],
    workspace: &mut Workspace,
) -> Result<Solution, SolveError> {
    problem.check_length(levels)?;
    let isa = Isa::selected();
    let magnitudes = Codebook::Ternary.magnitudes();
    let [positive, negative] = [Side::Positive, Side::Negative]
        .map(|side| best_state(isa, problem, side, &magnitudes, workspace))
        .map(|best| finish::to_f32(best.scale));
    let scale = Scale::Two { positive, negative };
    Ok(finish::two_scales(isa, problem, scale, 1, levels))
}

/// Mantissa bits that tell the first buckets and cells apart.
const COARSE_BITS: u32 = 8;

/// What is left of a magnitude's bits for the second buckets.
const COARSE_SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - COARSE_BITS;

/// So many weights are sorted rather than looked at again.
const FEW: usize = 1 << 11;

/// The best state for the weights of one side; scale zero where nothing is gained by any other.
fn best_state(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    workspace: &mut Workspace,
) -> Best {
    // With more buckets than weights, or one state alone, there is nothing to gain by them.
    if problem.weights().len() <= coarse_keys(problem).len() || magnitudes.values().len() == 1 {
        return sorting::best_state(isa, problem, side, magnitudes, workspace);
    }
    let work = problem.weights().len();
    by_buckets(isa, problem, side, magnitudes, work, workspace)
}

/// The leading bits that the magnitudes have.
fn coarse_keys(problem: Problem<'_>) -> Range<u32> {
    let span = problem.span();
    span.smallest >> COARSE_SHIFT..(span.largest >> COARSE_SHIFT) + 1
}

/// The same by buckets, with bounds at so many thresholds as `work` says; by sorting where that is too few.
fn by_buckets(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    work: usize,
    workspace: &mut Workspace,
) -> Best {
    let keys = coarse_keys(problem);
    let parts = Parts::of(problem.weights().len());
    let Memory {
        parts: of_parts,
        buckets,
        candidates,
        items,
    } = &mut workspace.exact;
    if of_parts.len() < parts.count {
        of_parts.resize_with(parts.count, Part::default);
    }
    let of_parts = &mut of_parts[..parts.count];

    // The first buckets.
    let mut problem = problem;
    fill(isa, problem, side, keys.clone(), parts, of_parts, buckets);
    let nothing_above = |all: &Moments| all.product == 0.0;
    if buckets.above.first().is_none_or(nothing_above) {
        // All zeros, or all curvatures zero.
        let Some((unweighted, _)) = finish::weighted_or_not(isa, problem, side) else {
            return Best::default();
        };
        problem = unweighted;
        fill(isa, problem, side, keys.clone(), parts, of_parts, buckets);
    }

    // The first cells.
    let mut search = Search::new(isa, problem, side, magnitudes, buckets, parts);
    let cells = search.everything(problem, magnitudes);
    candidates.intervals.clear();
    candidates.intervals.push(cells);
    // As fine as the bounds are little work beside what the events of all weights would be; or else as coarse as they
    // may be, if they are less work than sorting.
    let all_events = work.saturating_mul(magnitudes.values().len());
    let bits = search
        .affordable_bits(COARSE_BITS, candidates, work.max(all_events / 8))
        .or_else(|| search.affordable_bits(LEAST_BITS, candidates, all_events));
    let Some(bits) = bits else {
        return sorting::best_state(isa, problem, side, magnitudes, workspace);
    };
    search.narrow(buckets, candidates, bits);
    search.mark(buckets, candidates);

    // The weights that the first cells leave.
    let range = buckets.marked_range();
    let marks = (&buckets.marks[..], COARSE_SHIFT, keys.start);
    let pick = |(problem, OnePerPart(part)): (Problem<'_>, OnePerPart<'_, Part>)| {
        let Part { packed, count, .. } = &mut part[0];
        *count = kernels::gather(isa, problem, side, range, marks, packed);
    };
    parallel::for_each((problem, OnePerPart(of_parts)), parts, &pick);
    let left: usize = of_parts.iter().map(|part| part.count).sum();
    let gathered = || {
        of_parts
            .iter()
            .flat_map(|part| part.packed[..part.count].iter().copied())
    };

    // The second buckets and cells, if there is much left.
    items.clear();
    let sorted = &mut workspace.sorted;
    sorted.clear();
    let marked = buckets.marks.iter().filter(|&&mark| mark == 1).count();
    let finer = (left / (4 * marked.max(1)))
        .max(1)
        .ilog2()
        .min(COARSE_SHIFT);
    if left > FEW && finer > 2 {
        buckets.refine(finer, gathered());
        search.rounding += left as f64 * ROUNDING;
        let comparing = left.saturating_mul(magnitudes.values().len());
        if let Some(bits) = search.affordable_bits(bits + finer, candidates, comparing) {
            search.narrow(buckets, candidates, bits);
        }
        search.mark(buckets, candidates);
        let marks = &buckets.marks;
        if finer == COARSE_SHIFT {
            // Every bucket is one value.
            items.extend(buckets.marked_items());
        } else {
            let is_marked = |packed: &u64| marks[1 + buckets.find((packed >> 32) as u32)] == 1;
            sorted.extend(gathered().filter(is_marked));
        }
    } else {
        sorted.extend(gathered());
    }
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    items.extend(sorted.iter().map(|&packed| Item::unpack(packed)));

    search.compare(
        buckets,
        candidates,
        items,
        &mut workspace.events,
        magnitudes,
    );
    search.best
}

/// What the exact solver works in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    parts: Vec<Part>,
    buckets: Buckets,
    candidates: Candidates,
    /// What the last cells leave, by falling magnitude.
    items: Vec<Item>,
}

/// What each part of the weights has of its own.
#[derive(Clone, Debug, Default)]
struct Part {
    /// `Σ d x` and `Σ d` for each bucket, and before them those that do not matter.
    table: Vec<[f64; 2]>,
    packed: Vec<u64>,
    count: usize,
}

/// Fills the tables of the parts, adds the others up in the first, and makes buckets of it.
fn fill(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    keys: Range<u32>,
    parts: Parts,
    of_parts: &mut [Part],
    buckets: &mut Buckets,
) {
    let fill = |(problem, OnePerPart(part)): (Problem<'_>, OnePerPart<'_, Part>)| {
        let table = &mut part[0].table;
        table.clear();
        table.resize(keys.len() + 1, [0.0; 2]);
        kernels::fill_buckets(isa, problem, side, COARSE_SHIFT, keys.start, table);
    };
    parallel::for_each((problem, OnePerPart(&mut *of_parts)), parts, &fill);
    if let Some((first, others)) = of_parts.split_first_mut() {
        for other in others {
            for (sum, [product, square]) in first.table.iter_mut().zip(&other.table) {
                sum[0] += product;
                sum[1] += square;
            }
        }
        buckets.coarse(keys, &first.table[1..]);
    }
}
