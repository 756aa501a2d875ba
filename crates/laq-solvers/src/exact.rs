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
//! never left out. The states compared at the end have gains that are rounded likewise: of two whose errors
//! differ by less than about 1e-13 of the error of all zeros, either may win.
//!
//! # What it costs
//!
//! Two passes over the weights, and one that writes the levels. Where the bounds leave no cell out, which takes
//! an `H` that is a straight line in `1/α` over many cells, all weights are sorted in the end.

use std::ops::Range;

use crate::climb::{Best, Events, Item, LARGEST_SCALE, climb};
use crate::codebook::{Codebook, Magnitudes, Scale, at_most};
use crate::dispatch::Kernel;
use crate::finish;
use crate::kernels::{self, Moments, Side};
use crate::parallel::{self, OnePerPart, Parts};
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Solution, Workspace};
use crate::sorting;

/// Solves problem (1) to the global optimum, as [`exact_by_sorting`](crate::exact_by_sorting) does: over all scales that an f32
/// can hold and all assignments of the codebook's levels, for any codebook.
///
/// Takes three passes over the weights, shared out to the threads of the current rayon pool (with the
/// feature `rayon`, which is on by default), and the same bits whatever their number. The scale is the best one in f64, rounded
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
    problem.check_length(levels)?;
    codebook.check()?;
    let kernel = Kernel::selected()?;
    let magnitudes = codebook.magnitudes();
    let best = best_state(kernel, problem, Side::Both, &magnitudes, workspace);
    let scale = finish::to_f32(best.scale);
    Ok(finish::one_scale(
        kernel,
        problem,
        codebook,
        &magnitudes,
        scale,
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
        .map(|side| best_state(kernel, problem, side, &magnitudes, workspace))
        .map(|best| finish::to_f32(best.scale));
    let scale = Scale::Two { positive, negative };
    Ok(finish::two_scales(kernel, problem, scale, 1, levels))
}

/// Mantissa bits that tell the first buckets and cells apart.
const COARSE_BITS: u32 = 8;

/// What is left of a magnitude's bits for the second buckets.
const COARSE_SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - COARSE_BITS;

/// So many weights are sorted rather than looked at again.
const FEW: usize = 1 << 11;

/// The best state for the weights of one side; scale zero where nothing is gained by any other.
fn best_state(
    kernel: Kernel,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    workspace: &mut Workspace,
) -> Best {
    // With more buckets than weights, or one state alone, there is nothing to gain by them.
    if problem.weights().len() <= coarse_keys(problem).len() || magnitudes.values().len() == 1 {
        return sorting::best_state(kernel, problem, side, magnitudes, workspace);
    }
    let work = problem.weights().len();
    by_buckets(kernel, problem, side, magnitudes, work, workspace)
}

/// The leading bits that the magnitudes have.
fn coarse_keys(problem: Problem<'_>) -> Range<u32> {
    let span = problem.span();
    span.smallest >> COARSE_SHIFT..(span.largest >> COARSE_SHIFT) + 1
}

/// The same by buckets, with bounds at so many thresholds as `work` says; by sorting where that is too few.
fn by_buckets(
    kernel: Kernel,
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
    fill(kernel, problem, side, keys.clone(), parts, of_parts);
    if of_parts[0].product() == 0.0 {
        // All zeros, or all curvatures zero.
        let Some((unweighted, _)) = finish::weighted_or_not(kernel, problem, side) else {
            return Best::default();
        };
        problem = unweighted;
        fill(kernel, problem, side, keys.clone(), parts, of_parts);
    }
    buckets.coarse(keys.clone(), &of_parts[0].table[1..]);

    // The first cells.
    let mut search = Search::new(kernel, problem, side, magnitudes, buckets, parts);
    let cells = search.everything(problem, magnitudes);
    candidates.intervals.clear();
    candidates.intervals.push(cells);
    let Some(bits) = search.affordable_bits(COARSE_BITS, candidates, work) else {
        return sorting::best_state(kernel, problem, side, magnitudes, workspace);
    };
    search.narrow(buckets, candidates, bits);
    search.mark(buckets, candidates);

    // The weights that the first cells leave.
    buckets.mark_ranges();
    let ranges = &buckets.ranges[..];
    let marks = (&buckets.marks[..], COARSE_SHIFT, keys.start);
    let pick = |(problem, OnePerPart(part)): (Problem<'_>, OnePerPart<'_, Part>)| {
        let Part { packed, count, .. } = &mut part[0];
        *count = kernels::gather(kernel, problem, side, ranges, marks, packed);
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
        if let Some(bits) = search.affordable_bits(bits + finer, candidates, left) {
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

impl Part {
    fn product(&self) -> f64 {
        self.table[1..].iter().map(|[product, _]| product).sum()
    }
}

/// Fills the tables of the parts, and adds the others up in the first.
fn fill(
    kernel: Kernel,
    problem: Problem<'_>,
    side: Side,
    keys: Range<u32>,
    parts: Parts,
    of_parts: &mut [Part],
) {
    let fill = |(problem, OnePerPart(part)): (Problem<'_>, OnePerPart<'_, Part>)| {
        let table = &mut part[0].table;
        table.clear();
        table.resize(keys.len() + 1, [0.0; 2]);
        kernels::fill_buckets(kernel, problem, side, COARSE_SHIFT, keys.start, table);
    };
    parallel::for_each((problem, OnePerPart(&mut *of_parts)), parts, &fill);
    if let Some((first, others)) = of_parts.split_first_mut() {
        for other in others {
            for (sum, [product, square]) in first.table.iter_mut().zip(&other.table) {
                sum[0] += product;
                sum[1] += square;
            }
        }
    }
}

/// Magnitudes by buckets of leading bits; some coarse buckets may be cut into finer ones.
#[derive(Clone, Debug, Default)]
struct Buckets {
    /// Lower edges, rising, and behind them the upper edge of the last bucket.
    edges: Vec<f64>,
    /// `Σ d x` and `Σ d` in each bucket.
    sums: Vec<[f64; 2]>,
    /// The same over all magnitudes from each edge up.
    above: Vec<Moments>,
    /// `T` at each edge.
    surplus: Vec<f64>,
    /// One for buckets whose weights are wanted, else zero; before the first bucket is a zero.
    marks: Vec<u8>,
    /// The same as ranges of magnitudes.
    ranges: Vec<[f32; 2]>,
    /// Leading bits of the first coarse bucket.
    lowest: u32,
    /// For each coarse bucket its first bucket, and how far its weights' other bits are shifted to find theirs.
    coarse: Vec<(u32, u32)>,
}

/// The magnitude whose bits these are; one octave above all floats where they are infinity's.
fn edge(bits: u32) -> f64 {
    let value = f64::from(f32::from_bits(bits));
    if value.is_finite() {
        value
    } else {
        2.0 * 2_f64.powi(f32::MAX_EXP - 1)
    }
}

impl Buckets {
    /// Buckets for a range of leading bits, with their sums.
    fn coarse(&mut self, keys: Range<u32>, sums: &[[f64; 2]]) {
        self.lowest = keys.start;
        self.coarse.clear();
        self.coarse
            .extend((0..keys.len() as u32).map(|bucket| (bucket, COARSE_SHIFT)));
        self.edges.clear();
        self.edges
            .extend((keys.start..=keys.end).map(|key| edge(key << COARSE_SHIFT)));
        self.sums.clear();
        self.sums.extend_from_slice(sums);
        self.accumulate();
    }

    /// Cuts each marked bucket into `2^finer`; `packed` are the weights in them.
    fn refine(&mut self, finer: u32, packed: impl Iterator<Item = u64>) {
        let shift = COARSE_SHIFT - finer;
        let coarse_sums = std::mem::take(&mut self.sums);
        self.edges.clear();
        for (bucket, place) in self.coarse.iter_mut().enumerate() {
            let bits = (self.lowest + bucket as u32) << COARSE_SHIFT;
            let first = self.edges.len() as u32;
            if self.marks[1 + bucket] == 1 {
                *place = (first, shift);
                self.edges
                    .extend((0..1 << finer).map(|fine: u32| edge(bits + (fine << shift))));
                self.sums.resize(self.edges.len(), [0.0; 2]);
            } else {
                *place = (first, COARSE_SHIFT);
                self.edges.push(edge(bits));
                self.sums.push(coarse_sums[bucket]);
            }
        }
        self.edges.push(edge(
            (self.lowest + self.coarse.len() as u32) << COARSE_SHIFT,
        ));
        for packed in packed {
            let place = self.find((packed >> 32) as u32);
            let Moments { product, square } = Item::unpack(packed).sums;
            self.sums[place][0] += product;
            self.sums[place][1] += square;
        }
        self.accumulate();
    }

    /// The bucket of a magnitude between the first and the last edge.
    #[inline]
    fn find(&self, bits: u32) -> usize {
        let (first, shift) = self.coarse[((bits >> COARSE_SHIFT) - self.lowest) as usize];
        (first + ((bits & ((1 << COARSE_SHIFT) - 1)) >> shift)) as usize
    }

    fn accumulate(&mut self) {
        let mut above = Moments {
            product: 0.0,
            square: 0.0,
        };
        self.above.clear();
        self.above.resize(self.edges.len(), above);
        self.surplus.clear();
        self.surplus.resize(self.edges.len(), 0.0);
        for (bucket, [product, square]) in self.sums.iter().enumerate().rev() {
            above = above.plus(Moments {
                product: *product,
                square: *square,
            });
            self.above[bucket] = above;
            self.surplus[bucket] = above.product - self.edges[bucket] * above.square;
        }
    }

    fn count(&self) -> usize {
        self.sums.len()
    }

    /// The bucket of a threshold; `None` below the first, and the number of buckets above the last.
    #[inline]
    fn of_threshold(&self, threshold: f64) -> Option<usize> {
        if threshold < self.edges[0] {
            None
        } else if threshold >= self.edges[self.count()] {
            Some(self.count())
        } else {
            Some(self.find(at_most(threshold).to_bits()))
        }
    }

    /// An upper bound of `T(threshold)`, rounding aside; `Σ d x` of all magnitudes above the threshold and perhaps
    /// some more; and the sums over those above it but perhaps some.
    #[inline]
    fn surplus_at(&self, threshold: f64) -> (f64, f64, Moments) {
        match self.of_threshold(threshold) {
            None => {
                let all = self.above[0];
                (all.product - threshold * all.square, all.product, all)
            }
            Some(bucket) if bucket == self.count() => (0.0, 0.0, self.above[bucket]),
            Some(bucket) => {
                let (low, high) = (self.edges[bucket], self.edges[bucket + 1]);
                let (most, least) = (self.surplus[bucket], self.surplus[bucket + 1]);
                let share = (threshold - low) / (high - low);
                let surplus = most - share * (most - least);
                (surplus, self.above[bucket].product, self.above[bucket + 1])
            }
        }
    }

    /// The buckets that a threshold passes between two of its values.
    fn passed(&self, low: f64, high: f64) -> Range<usize> {
        // A little more, because a product of scale and midpoint is rounded.
        let first = self
            .of_threshold(low * (1.0 - 4.0 * f64::EPSILON))
            .unwrap_or(0);
        let last = self.of_threshold(high * (1.0 + 4.0 * f64::EPSILON));
        first
            ..last
                .map_or(0, |last| (last + 1).min(self.count()))
                .max(first)
    }

    fn mark_ranges(&mut self) {
        self.ranges.clear();
        for (bucket, &mark) in self.marks[1..].iter().enumerate() {
            let [low, high] = [bucket, bucket + 1].map(|edge| self.edges[edge] as f32);
            match self.ranges.last_mut() {
                Some(last) if mark == 1 && last[1] == low => last[1] = high,
                _ if mark == 1 => self.ranges.push([low, high]),
                _ => {}
            }
        }
    }

    /// The marked buckets that hold something, as items by falling magnitude.
    fn marked_items(&self) -> impl Iterator<Item = Item> {
        let buckets = self
            .edges
            .iter()
            .zip(&self.sums)
            .zip(&self.marks[1..])
            .rev();
        buckets
            .filter(|((_, [product, _]), mark)| **mark == 1 && *product > 0.0)
            .map(|((&magnitude, &[product, square]), _)| Item {
                magnitude,
                sums: Moments { product, square },
            })
    }
}

/// Scales that may hold the optimum.
#[derive(Clone, Debug, Default)]
struct Candidates {
    /// High and low end, apart from each other and falling.
    intervals: Vec<(f64, f64)>,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    high: f64,
    low: f64,
    /// An upper bound of `G` between the two.
    most: f64,
}

/// The largest relative error of one rounded operation.
const ROUNDING: f64 = 0.5 * f64::EPSILON;

struct Search {
    /// `q_j − q_{j−1}` and `mid_j`, for the `climbs` levels above the lowest.
    steps: [(f64, f64); crate::codebook::MOST_MAGNITUDES],
    climbs: usize,
    /// The magnitudes `q₀` and `q_k`.
    lowest: f64,
    highest: f64,
    /// `Σ d x` and `Σ d`; the latter zero where the lowest magnitude is, so that nobody needs it.
    totals: Moments,
    best: Best,
    /// How far sums may be wrong, relatively.
    rounding: f64,
}

impl Search {
    fn new(
        kernel: Kernel,
        problem: Problem<'_>,
        side: Side,
        magnitudes: &Magnitudes,
        buckets: &Buckets,
        parts: Parts,
    ) -> Self {
        let q = magnitudes.values();
        let mut steps = [(0.0, 0.0); crate::codebook::MOST_MAGNITUDES];
        for ((step, pair), midpoint) in steps
            .iter_mut()
            .zip(q.windows(2))
            .zip(magnitudes.midpoints())
        {
            *step = (f64::from(pair[1]) - f64::from(pair[0]), midpoint);
        }
        let (lowest, highest) = (f64::from(q[0]), f64::from(q[q.len() - 1]));
        let all = buckets.above[0];
        let square = if lowest > 0.0 {
            kernels::totals(kernel, problem, side).square
        } else {
            0.0
        };
        let terms = parts.size + parts.count + buckets.count() + q.len() + 64;
        let mut search = Self {
            steps,
            climbs: q.len() - 1,
            lowest,
            highest,
            totals: Moments {
                product: all.product,
                square,
            },
            best: Best::default(),
            rounding: terms as f64 * ROUNDING,
        };
        // All at the lowest level, and all but the zeros at the highest.
        search.best.consider(search.nobody());
        search.best.consider(Moments {
            product: highest * all.product,
            square: highest * highest * all.square.max(square),
        });
        search
    }

    fn steps(&self) -> &[(f64, f64)] {
        &self.steps[..self.climbs]
    }

    /// The state in which no weight has left the lowest level.
    fn nobody(&self) -> Moments {
        Moments {
            product: self.lowest * self.totals.product,
            square: self.lowest * self.lowest * self.totals.square,
        }
    }

    /// From the scale at which the first weight climbs to one that is too low for the best gain so far.
    fn everything(&self, problem: Problem<'_>, magnitudes: &Magnitudes) -> (f64, f64) {
        let largest = f64::from(f32::from_bits(problem.span().largest));
        let first = magnitudes
            .midpoints()
            .next()
            .map_or(0.0, |midpoint| largest / midpoint);
        let high = (first * (1.0 + 4.0 * f64::EPSILON)).min(LARGEST_SCALE);
        let low = self.best.gain / (2.0 * self.highest * self.totals.product);
        (high, (low * (1.0 - 8.0 * self.rounding)).min(0.5 * high))
    }

    /// The most mantissa bits of a scale, up to `most`, for which the cells are no more work than that.
    fn affordable_bits(&self, most: u32, candidates: &Candidates, afford: usize) -> Option<u32> {
        const LEAST: u32 = 3;
        let octaves = |&(high, low): &(f64, f64)| (high / low).log2();
        let octaves: f64 = candidates.intervals.iter().map(octaves).sum();
        let work = |bits: &u32| octaves * 2_f64.powi(*bits as i32) * self.climbs as f64;
        (LEAST..=most)
            .rev()
            .find(|bits| work(bits) <= afford as f64)
    }

    /// Cuts the intervals into cells, and keeps those whose bound is not below the best gain.
    fn narrow(&mut self, buckets: &Buckets, candidates: &mut Candidates, bits: u32) {
        let shift = f64::MANTISSA_DIGITS - 1 - bits;
        let Candidates { intervals, cells } = candidates;
        cells.clear();
        for &(top, bottom) in &*intervals {
            let mut high = top;
            let mut bound_at_high = self.bound(buckets, high);
            while high > bottom {
                let next = f64::from_bits(((high.to_bits() - 1) >> shift) << shift);
                let low = next.max(bottom);
                let bound_at_low = self.bound(buckets, low);
                let most = most_between((high, bound_at_high), (low, bound_at_low));
                cells.push(Cell { high, low, most });
                (high, bound_at_high) = (low, bound_at_low);
            }
        }
        let least = self.best.gain * (1.0 - 8.0 * self.rounding);
        intervals.clear();
        for cell in cells.iter().filter(|cell| cell.most >= least) {
            match intervals.last_mut() {
                Some((_, low)) if *low == cell.high => *low = cell.low,
                _ => intervals.push((cell.high, cell.low)),
            }
        }
    }

    /// An upper bound of `H(scale)`. Considers the approximate assignment by the way.
    fn bound(&mut self, buckets: &Buckets, scale: f64) -> f64 {
        let mut state = self.nobody();
        let mut bound = state.product - 0.5 * scale * state.square;
        // `T = Σ d x − θ Σ d` over some magnitudes of which none is below θ/2: both terms are wrong by no more
        // than `rounding`, and the second is at most twice the first.
        let mut terms = state.product + scale * state.square;
        for &(step, midpoint) in self.steps() {
            let (surplus, product, above) = buckets.surplus_at(scale * midpoint);
            if product == 0.0 {
                break; // So it is for the higher ones.
            }
            bound += step * surplus;
            terms += step * product;
            state.product += step * above.product;
            state.square += 2.0 * step * midpoint * above.square;
        }
        self.best.consider(state);
        bound + 4.0 * self.rounding * terms
    }

    /// Marks the buckets in which a weight may change its level while the scale passes an interval.
    fn mark(&self, buckets: &mut Buckets, candidates: &Candidates) {
        buckets.marks.clear();
        buckets.marks.resize(1 + buckets.count(), 0);
        for &(high, low) in &candidates.intervals {
            for &(_, midpoint) in self.steps() {
                let passed = buckets.passed(low * midpoint, high * midpoint);
                buckets.marks[1 + passed.start..1 + passed.end].fill(1);
            }
        }
    }

    /// Compares all states in the intervals; `items` are what the marked buckets hold.
    fn compare(
        &mut self,
        buckets: &Buckets,
        candidates: &Candidates,
        items: &[Item],
        events: &mut Events,
        magnitudes: &Magnitudes,
    ) {
        for &(high, low) in &candidates.intervals {
            let passed = |number: usize| {
                let (_, midpoint) = self.steps[number - 1];
                buckets.passed(low * midpoint, high * midpoint)
            };
            let mut state = self.nobody();
            for (number, &(step, midpoint)) in (1..).zip(self.steps()) {
                let above = buckets.above[passed(number).end];
                state.product += step * above.product;
                state.square += 2.0 * step * midpoint * above.square;
            }
            let range = |number: usize| {
                let passed = passed(number);
                let from = |edge: f64| items.partition_point(|item| item.magnitude >= edge);
                from(buckets.edges[passed.end])..from(buckets.edges[passed.start])
            };
            let mut best = self.best;
            climb(
                magnitudes,
                state,
                |index| items[index],
                range,
                events,
                &mut best,
            );
            self.best = best;
        }
    }
}

/// An upper bound of `G` between two scales with their bounds of `H`: the largest `2α` times the chord.
fn most_between((high, at_high): (f64, f64), (low, at_low): (f64, f64)) -> f64 {
    let slope = (at_low - at_high) / (high - low);
    let at_zero = at_low + slope * low;
    let scale = if slope > 0.0 {
        (0.5 * at_zero / slope).clamp(low, high)
    } else {
        high
    };
    2.0 * scale * (at_zero - slope * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: usize = 9;

    /// Numbers in (0, 1), the same for the same seed.
    fn uniform(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((mixed ^ (mixed >> 31)) >> 11) as f64 / 2_f64.powi(53) + 2_f64.powi(-54)
        }
    }

    /// Weights and curvatures of one kind.
    fn problem(kind: usize, length: usize, seed: u64) -> (Vec<f32>, Option<Vec<f32>>) {
        let mut uniform = uniform(seed);
        let mut weights = Vec::new();
        let mut curvature = Vec::new();
        for _ in 0..length {
            let (a, b, c) = (uniform(), uniform(), uniform());
            let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            let sign = (b - 0.5).signum();
            weights.push(match kind {
                0..=2 => 0.3 * normal,
                3 => 2.0 * a - 1.0,
                4 => sign * a.powf(-3.0),
                5 => sign * (5.0 * a).floor() / 4.0,
                6 => (2.0 * normal).clamp(-1.0, 1.0),
                7 => sign * f64::from(f32::from_bits((a * 2_f64.powi(23)) as u32)),
                _ => sign * f64::from(f32::from_bits((a * 2_f64.powi(31)) as u32).min(1e30)),
            } as f32);
            curvature.push(match kind {
                0 => 0.7,
                1 => 10_f64.powf(-20.0 * c),
                5 => (3.0 * c).floor(),
                8 => f64::from(f32::from_bits((c * 2_f64.powi(31)) as u32).min(1e30)),
                _ => (2.0 * c).exp(),
            } as f32);
        }
        (weights, (kind != 3).then_some(curvature))
    }

    fn all_codebooks() -> Vec<Codebook> {
        let sized = (2..=8).flat_map(|bits| {
            [
                Codebook::Linear { bits },
                Codebook::Logarithmic { bits },
                Codebook::Uniform { bits },
            ]
        });
        [Codebook::Ternary, Codebook::Binary]
            .into_iter()
            .chain(sized)
            .collect()
    }

    /// Buckets, however few the weights, against sorting: twice the error to 1e-9, and to what sums in f64
    /// are wrong by, which shows where the error is next to nothing.
    fn check(
        weights: &[f32],
        curvature: Option<&[f32]>,
        codebook: Codebook,
    ) -> Result<(), TestCaseError> {
        let problem = Problem::new(weights, curvature).unwrap();
        let magnitudes = codebook.magnitudes();
        let mut workspace = Workspace::default();
        for side in [Side::Both, Side::Positive, Side::Negative] {
            let expected =
                sorting::best_state(Kernel::Portable, problem, side, &magnitudes, &mut workspace);
            let mut found = Vec::new();
            for (kernel, _) in Kernel::available() {
                let work = 1 << 14;
                found.push(by_buckets(
                    kernel,
                    problem,
                    side,
                    &magnitudes,
                    work,
                    &mut workspace,
                ));
            }
            prop_assert!(found.iter().all(|best| *best == found[0]), "{found:?}");
            let Best { gain, scale } = found[0];
            let of_zeros = squares(problem, side);
            prop_assert!(
                (gain - expected.gain).abs()
                    <= 1e-9 * (of_zeros - expected.gain) + 1e-13 * of_zeros,
                "{codebook:?}, {side:?}: {gain} at {scale} of {of_zeros}, by sorting {expected:?}"
            );
        }
        Ok(())
    }

    /// `Σ d x²`, where all curvatures are zero without them.
    fn squares(problem: Problem<'_>, side: Side) -> f64 {
        let of = |d: &dyn Fn(usize) -> f64| -> f64 {
            let x = |w: f32| f64::from(side.magnitude(w).max(0.0));
            let weights = problem.weights().iter().enumerate();
            weights.map(|(index, &w)| d(index) * x(w).powi(2)).sum()
        };
        let weighted = problem
            .curvature()
            .map_or(0.0, |d| of(&|index| f64::from(d[index])));
        if weighted > 0.0 {
            weighted
        } else {
            of(&|_| 1.0)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn buckets_find_what_sorting_finds(
            kind in 0..KINDS,
            length in prop_oneof![1_usize..9, 9_usize..600],
            seed: u64,
            codebook in 0_usize..23,
        ) {
            let (weights, curvature) = problem(kind, length, seed);
            check(&weights, curvature.as_deref(), all_codebooks()[codebook])?;
        }
    }

    /// Long enough for second buckets, for several parts, and for buckets of one value each.
    #[test]
    fn so_they_do_for_many_weights() {
        for (length, codebook) in [
            (30_000, Codebook::Ternary),
            (30_000, Codebook::Linear { bits: 4 }),
            (30_000, Codebook::Logarithmic { bits: 5 }),
            (700_000, Codebook::Ternary),
            (700_000, Codebook::Logarithmic { bits: 3 }),
        ] {
            for kind in 0..KINDS {
                let (weights, curvature) = problem(kind, length, 7);
                check(&weights, curvature.as_deref(), codebook).unwrap();
            }
        }
    }
}
