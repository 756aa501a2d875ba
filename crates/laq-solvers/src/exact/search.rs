//! Which scales may hold the optimum: bounds of `G` between neighbouring scales, and the comparison of the states that
//! the bounds leave.

use super::buckets::Buckets;
use crate::climb::{Best, Events, Item, LARGEST_SCALE, climb};
use crate::codebook::{MOST_MAGNITUDES, Magnitudes};
use crate::kernels::{self, Moments, Side};
use crate::parallel::Parts;
use crate::problem::Problem;
use laq_simd::Isa;

/// Scales that may hold the optimum.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    /// High and low end, apart from each other and falling.
    pub(super) intervals: Vec<(f64, f64)>,
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
pub(super) const ROUNDING: f64 = 0.5 * f64::EPSILON;

/// Cells wider than this leave too much.
pub(super) const LEAST_BITS: u32 = 3;

pub(super) struct Search {
    /// `q_j − q_{j−1}` and `mid_j`, for the `climbs` levels above the lowest.
    steps: [(f64, f64); MOST_MAGNITUDES],
    climbs: usize,
    /// The magnitudes `q₀` and `q_k`.
    lowest: f64,
    highest: f64,
    /// `Σ d x` and `Σ d`; the latter zero where the lowest magnitude is, so that nobody needs it.
    totals: Moments,
    pub(super) best: Best,
    /// How far sums may be wrong, relatively.
    pub(super) rounding: f64,
}

impl Search {
    pub(super) fn new(
        isa: Isa,
        problem: Problem<'_>,
        side: Side,
        magnitudes: &Magnitudes,
        buckets: &Buckets,
        parts: Parts,
    ) -> Self {
        let q = magnitudes.values();
        let mut steps = [(0.0, 0.0); MOST_MAGNITUDES];
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
            kernels::totals(isa, problem, side).square
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
        // All at the lowest level, and all at the highest, zeros among them only where no level is zero.
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
    pub(super) fn everything(&self, problem: Problem<'_>, magnitudes: &Magnitudes) -> (f64, f64) {
        let largest = f64::from(f32::from_bits(problem.span().largest));
        let first = magnitudes
            .midpoints()
            .next()
            .map_or(0.0, |midpoint| largest / midpoint);
        let high = (first * (1.0 + 4.0 * f64::EPSILON)).min(LARGEST_SCALE);
        let low = self.best.gain / (2.0 * self.highest * self.totals.product);
        (high, (low * (1.0 - 8.0 * self.rounding)).min(0.5 * high))
    }

    /// The most mantissa bits of a scale, up to `most` and from [`LEAST_BITS`] on, for which all cells need no more than
    /// `afford` thresholds.
    pub(super) fn affordable_bits(
        &self,
        most: u32,
        candidates: &Candidates,
        afford: usize,
    ) -> Option<u32> {
        let cells = |bits: u32| -> u64 {
            let place = |scale: f64| scale.to_bits() >> (f64::MANTISSA_DIGITS - 1 - bits);
            let of_interval = |&(high, low): &(f64, f64)| 1 + place(high) - place(low);
            candidates.intervals.iter().map(of_interval).sum()
        };
        (LEAST_BITS..=most)
            .rev()
            .find(|&bits| cells(bits) * self.climbs as u64 <= afford as u64)
    }

    /// Cuts the intervals into cells, and keeps those whose bound is not below the best gain.
    pub(super) fn narrow(&mut self, buckets: &Buckets, candidates: &mut Candidates, bits: u32) {
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
    pub(super) fn mark(&self, buckets: &mut Buckets, candidates: &Candidates) {
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
    pub(super) fn compare(
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
            climb(
                magnitudes,
                state,
                |index| items[index],
                range,
                events,
                &mut self.best,
            );
        }
    }
}

/// An upper bound of `G` between two scales with their bounds of `H`: the largest `2α` times the chord.
fn most_between((high, at_high): (f64, f64), (low, at_low): (f64, f64)) -> f64 {
    let slope = (at_low - at_high) / (high - low);
    let scale = if slope > 0.0 {
        (0.5 * (at_low / slope + low)).clamp(low, high)
    } else {
        high
    };
    2.0 * scale * (at_low - slope * (scale - low))
}
