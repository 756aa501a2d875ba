//! The global optimum of problem (1) for any codebook, in time linear in the number of weights.
//!
//! # The function of the scale
//!
//! With the nearest levels for a scale `α`, twice the reduction of the error relative to all zeros
//! is
//!
//! > `G(α) = 2α · H(α)`, `H(α) = q₀ Σ d x − ½ α q₀² Σ d + Σ_j (q_j − q_{j−1}) · T(α mid_j)`, `T(θ)
//! > = Σ d (x − θ)₊`
//!
//! for magnitudes `x = |w|`, the magnitudes `q₀ < q₁ < …` of the codebook and the midpoints `mid_j`
//! between them: moving up to magnitude j gains `2α (q_j − q_{j−1}) (x − α mid_j)`, and a weight
//! moves up where that is positive. The solver maximises `G`. `T` is convex, so `H` is. Therefore
//!
//! - a chord of `T` is an upper bound of it, and a chord of an upper bound of `H` is an upper bound
//!   of `H`;
//! - the assignment of any thresholds, with its own best scale, is a lower bound of the optimum.
//!
//! # Search
//!
//! 1. One pass over the weights adds `d x` and `d` to buckets of `x`, cut by the leading bits of
//!    the float, with a relative width of 1/256. This gives `T` at the edges of the buckets, and
//!    chords between them.
//! 2. `α` is cut into cells of the same width, from the scale at which the first weight leaves the
//!    lowest level down to `G*/(2 q_k Σ d x)`, below which `G(α) ≤ 2α q_k Σ d x` is too small. Each
//!    cell has an upper bound of `G` and each edge a lower bound of the optimum. Bounds are off by
//!    the square of the widths, so only a few cells around the optimum remain, those whose upper
//!    bound is not below the best lower bound.
//! 3. A second pass collects the weights that change their level in those cells, usually 0.1 to 3
//!    per cent. If they are many, steps 1 to 3 are repeated on them with narrower buckets and
//!    cells.
//! 4. The remaining weights are sorted, and a sweep compares their assignments as in
//!    [`exact_by_sorting`](crate::exact_by_sorting), starting from the assignment above the cell.
//!
//! # Rounding
//!
//! Bounds are computed from sums of positive f64; m terms are exact to m·2⁻⁵³ relatively. A cell is
//! dropped only if its bound is lower by more than the rounding error of all sums together, so the
//! cell of the optimum is never dropped. The gains compared at the end are rounded likewise, as
//! those of sorting are: sums of at most n·k terms. Of two assignments whose errors differ by less
//! than about 1e-13 of the error of all zeros either may win, and rounding decides between equal
//! optima. The scale is then rounded to f32, which is coarse if it is denormal.
//!
//! # Cost
//!
//! Two passes over the weights (three if the codebook has no zero), and one that writes the levels.
//! All weights are sorted instead if they are no more than the buckets, or if the bounds drop no
//! cell, which takes a `G` that is nearly constant over many cells.

mod buckets;
mod search;
#[cfg(test)]
mod tests;

use std::ops::Range;

use laq_simd::Isa;

use self::buckets::Buckets;
use self::search::{Intervals, MIN_BITS, ROUNDING, Search};
use super::sweep::{Best, Breakpoint};
use super::{Workspace, assign, sorting};
use crate::codebook::{Codebook, Magnitudes};
use crate::error::SolveError;
use crate::passes::histogram::{fill_buckets, gather};
use crate::passes::lanes::Side;
use crate::passes::parallel::{self, OnePerPart, Parts};
use crate::passes::sums::{Sums, drop_zero_curvature};
use crate::problem::{Problem, Solution};

/// Solves problem (1) to the global optimum over all scales that fit an f32 and all assignments of
/// levels, for any codebook, as [`exact_by_sorting`](crate::exact_by_sorting) does.
///
/// Takes three or four passes over many weights and sorts few; the
/// [crate](crate#why-the-exact-solvers-are-exact) documentation has the proof. The passes use the
/// threads of the current rayon pool (feature `rayon`, on by default) and return the same bits for
/// any number of them. `workspace` grows with the first problem of a size. The scale is the best
/// one in f64, rounded to f32. The levels are the nearest ones for the rounded scale, so no other
/// levels have a lower error with it. A weight half way between two levels takes the one
/// nearer to zero.
///
/// `levels` has the length of the weights and is overwritten. Source: this project; PAPER.md §1,
/// "Beyond the paper".
///
/// # Errors
/// `levels` and the weights differ in length; [`SolveError::Table`] for a [`Codebook::table`].
pub fn exact(
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

/// Solves `½ Σ d (w − ŵ)²` for levels {−β, 0, α} to the global optimum. Positive and negative
/// weights are separate ternary problems; the scale of a side without weights is zero. Source:
/// PAPER.md §2 (the paper's Algorithm 4).
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
        .map(|best| best.scale);
    let scales = [positive, negative];
    Ok(assign::two_scales(isa, problem, scales, 1, levels))
}

/// Mantissa bits of the coarse buckets and cells.
const COARSE_BITS: u32 = 8;

/// Lower bits of a magnitude, which distinguish the fine buckets.
const COARSE_SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - COARSE_BITS;

/// Up to this number, the remaining weights are sorted without a second search.
const SORT_CUTOFF: usize = 1 << 11;

/// The best assignment for the weights of one side; scale zero if none has a gain.
fn best_state(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    workspace: &mut Workspace,
) -> Best {
    // Buckets save nothing if they outnumber the weights or there is only one assignment.
    if problem.weights().len() <= coarse_keys(problem).len() || magnitudes.values().len() == 1 {
        return sorting::best_state(isa, problem, side, magnitudes, workspace);
    }
    let work = problem.weights().len();
    by_buckets(isa, problem, side, magnitudes, work, workspace)
}

/// The range of the leading bits of the magnitudes.
fn coarse_keys(problem: Problem<'_>) -> Range<u32> {
    let span = problem.span();
    span.smallest >> COARSE_SHIFT..(span.largest >> COARSE_SHIFT) + 1
}

/// [`best_state`] by buckets, with bounds at no more than `work` thresholds; by sorting if that is
/// too few.
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
    let ExactWorkspace {
        parts: of_parts,
        buckets,
        intervals,
        breakpoints,
    } = &mut workspace.exact;
    if of_parts.len() < parts.count {
        of_parts.resize_with(parts.count, Part::default);
    }
    let of_parts = &mut of_parts[..parts.count];

    // Coarse buckets.
    let mut problem = problem;
    fill(isa, problem, side, keys.clone(), parts, of_parts, buckets);
    let nothing_above = |all: &Sums| all.product == 0.0;
    if buckets.above.first().is_none_or(nothing_above) {
        // All weights are zero, or all that have curvature.
        let unweighted = drop_zero_curvature(isa, problem, side, magnitudes.has_zero());
        let Some((unweighted, _)) = unweighted else {
            return Best::default();
        };
        problem = unweighted;
        fill(isa, problem, side, keys.clone(), parts, of_parts, buckets);
    }

    // Coarse cells.
    let mut search = Search::new(isa, problem, side, magnitudes, buckets, parts);
    let cells = search.initial_bracket(problem, magnitudes);
    intervals.kept.clear();
    intervals.kept.push(cells);
    // The finest cells whose bounds cost little compared with a sweep over all weights, or else the
    // coarsest ones if they cost less than that sweep.
    let all_breakpoints = work.saturating_mul(magnitudes.values().len());
    let bits = search
        .affordable_bits(COARSE_BITS, intervals, work.max(all_breakpoints / 8))
        .or_else(|| search.affordable_bits(MIN_BITS, intervals, all_breakpoints));
    let Some(bits) = bits else {
        return sorting::best_state(isa, problem, side, magnitudes, workspace);
    };
    search.prune(buckets, intervals, bits);
    search.mark(buckets, intervals);

    // The weights that change their level in the remaining cells.
    let range = buckets.marked_range();
    let marks = (&buckets.marks[..], COARSE_SHIFT, keys.start);
    let pick = |(problem, OnePerPart(part)): (Problem<'_>, OnePerPart<'_, Part>)| {
        let Part { packed, count, .. } = &mut part[0];
        *count = gather(isa, problem, side, range, marks, packed);
    };
    parallel::for_each((problem, OnePerPart(of_parts)), parts, &pick);
    let remaining: usize = of_parts.iter().map(|part| part.count).sum();
    let gathered = || {
        of_parts
            .iter()
            .flat_map(|part| part.packed[..part.count].iter().copied())
    };

    // Fine buckets and cells, if many weights remain.
    breakpoints.clear();
    let sorted = &mut workspace.sorted;
    sorted.clear();
    let marked = buckets.marks.iter().filter(|&&mark| mark == 1).count();
    let finer = (remaining / (4 * marked.max(1)))
        .max(1)
        .ilog2()
        .min(COARSE_SHIFT);
    if remaining > SORT_CUTOFF && finer > 2 {
        buckets.refine(finer, gathered());
        search.rounding += remaining as f64 * ROUNDING;
        let comparing = remaining.saturating_mul(magnitudes.values().len());
        if let Some(bits) = search.affordable_bits(bits + finer, intervals, comparing) {
            search.prune(buckets, intervals, bits);
        }
        search.mark(buckets, intervals);
        let marks = &buckets.marks;
        if finer == COARSE_SHIFT {
            // Each bucket holds a single magnitude.
            breakpoints.extend(buckets.marked_breakpoints());
        } else {
            let is_marked = |packed: &u64| marks[1 + buckets.find((packed >> 32) as u32)] == 1;
            sorted.extend(gathered().filter(is_marked));
        }
    } else {
        sorted.extend(gathered());
    }
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    breakpoints.extend(sorted.iter().map(|&packed| Breakpoint::unpack(packed)));

    search.compare(
        buckets,
        intervals,
        breakpoints,
        &mut workspace.queue,
        magnitudes,
    );
    search.best
}

/// Buffers of the exact solver.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExactWorkspace {
    parts: Vec<Part>,
    buckets: Buckets,
    intervals: Intervals,
    /// The breakpoints in the remaining cells, by falling magnitude.
    breakpoints: Vec<Breakpoint>,
}

/// Buffers of one part of the weights.
#[derive(Clone, Debug, Default)]
struct Part {
    /// `Σ d x` and `Σ d` of each bucket, after an entry for excluded weights.
    table: Vec<[f64; 2]>,
    packed: Vec<u64>,
    count: usize,
}

/// Fills the tables of the parts, adds them up in order, and sets the coarse buckets.
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
        fill_buckets(isa, problem, side, COARSE_SHIFT, keys.start, table);
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
