//! Bounds of `G` on cells of scales, and the comparison of the assignments in the remaining cells.

use laq_simd::Isa;

use super::super::sweep::{Best, Breakpoint, LARGEST_SCALE, SweepQueue, sweep};
use super::buckets::Buckets;
use crate::codebook::{MAX_MAGNITUDES, Magnitudes};
use crate::passes::lanes::Side;
use crate::passes::parallel::Parts;
use crate::passes::sums::{Sums, totals};
use crate::problem::Problem;

/// The scales that can contain the optimum.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals {
    /// High and low ends of disjoint intervals, in falling order.
    pub(super) kept: Vec<(f64, f64)>,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    high: f64,
    low: f64,
    /// An upper bound of `G` in the cell.
    upper_bound: f64,
}

/// The largest relative error of one rounded operation.
pub(super) const ROUNDING: f64 = 0.5 * f64::EPSILON;

/// Wider cells keep too many weights.
pub(super) const MIN_BITS: u32 = 3;

pub(super) struct Search {
    /// `q_j − q_{j−1}` and `mid_j`, for the `step_count` magnitudes above the lowest.
    steps: [(f64, f64); MAX_MAGNITUDES],
    step_count: usize,
    /// The magnitudes `q₀` and `q_k`.
    lowest: f64,
    highest: f64,
    /// `Σ d x` and `Σ d`; the latter is zero, and unused, if the lowest magnitude is zero.
    totals: Sums,
    pub(super) best: Best,
    /// The relative rounding error of the sums.
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
        let mut steps = [(0.0, 0.0); MAX_MAGNITUDES];
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
            totals(isa, problem, side).square
        } else {
            0.0
        };
        let terms = parts.size + parts.count + buckets.count() + q.len() + 64;
        let mut search = Self {
            steps,
            step_count: q.len() - 1,
            lowest,
            highest,
            totals: Sums {
                product: all.product,
                square,
            },
            best: Best::default(),
            rounding: terms as f64 * ROUNDING,
        };
        // All weights at the lowest level, and all at the highest (zeros only if no level is zero).
        search.best.update(search.base_state());
        search.best.update(Sums {
            product: highest * all.product,
            square: highest * highest * all.square.max(square),
        });
        search
    }

    fn steps(&self) -> &[(f64, f64)] {
        &self.steps[..self.step_count]
    }

    /// The sums with all weights at the lowest level.
    fn base_state(&self) -> Sums {
        Sums {
            product: self.lowest * self.totals.product,
            square: self.lowest * self.lowest * self.totals.square,
        }
    }

    /// From the scale at which the first weight step_count to one that is too low for the best gain
    /// so far.
    pub(super) fn initial_bracket(
        &self,
        problem: Problem<'_>,
        magnitudes: &Magnitudes,
    ) -> (f64, f64) {
        let largest = f64::from(f32::from_bits(problem.span().largest));
        let first = magnitudes
            .midpoints()
            .next()
            .map_or(0.0, |midpoint| largest / midpoint);
        let high = (first * (1.0 + 4.0 * f64::EPSILON)).min(LARGEST_SCALE);
        let low = self.best.gain / (2.0 * self.highest * self.totals.product);
        (high, (low * (1.0 - 8.0 * self.rounding)).min(0.5 * high))
    }

    /// The most mantissa bits of a cell's scale, [`MIN_BITS`] to `most`, with which all cells
    /// together have at most `budget` thresholds.
    pub(super) fn affordable_bits(
        &self,
        most: u32,
        intervals: &Intervals,
        budget: usize,
    ) -> Option<u32> {
        let cells = |bits: u32| -> u64 {
            let position = |scale: f64| scale.to_bits() >> (f64::MANTISSA_DIGITS - 1 - bits);
            let of_interval = |&(high, low): &(f64, f64)| 1 + position(high) - position(low);
            intervals.kept.iter().map(of_interval).sum()
        };
        (MIN_BITS..=most)
            .rev()
            .find(|&bits| cells(bits) * self.step_count as u64 <= budget as u64)
    }

    /// Cuts the intervals into cells, and keeps those whose upper bound is not below the best gain.
    pub(super) fn prune(&mut self, buckets: &Buckets, intervals: &mut Intervals, bits: u32) {
        let shift = f64::MANTISSA_DIGITS - 1 - bits;
        let Intervals { kept, cells } = intervals;
        cells.clear();
        for &(top, bottom) in &*kept {
            let mut high = top;
            let mut bound_at_high = self.bound(buckets, high);
            while high > bottom {
                let next = f64::from_bits(((high.to_bits() - 1) >> shift) << shift);
                let low = next.max(bottom);
                let bound_at_low = self.bound(buckets, low);
                cells.push(Cell {
                    high,
                    low,
                    upper_bound: cell_bound((high, bound_at_high), (low, bound_at_low)),
                });
                (high, bound_at_high) = (low, bound_at_low);
            }
        }
        let least = self.best.gain * (1.0 - 8.0 * self.rounding);
        kept.clear();
        for cell in cells.iter().filter(|cell| cell.upper_bound >= least) {
            match kept.last_mut() {
                Some((_, low)) if *low == cell.high => *low = cell.low,
                _ => kept.push((cell.high, cell.low)),
            }
        }
    }

    /// An upper bound of `H(scale)`. Also updates the best gain with the assignment of nearby
    /// edges.
    fn bound(&mut self, buckets: &Buckets, scale: f64) -> f64 {
        let mut state = self.base_state();
        let mut bound = state.product - 0.5 * scale * state.square;
        // `T = Σ d x − θ Σ d` over magnitudes not below θ/2: the relative error of both terms is at
        // most `rounding`, and the second is at most twice the first.
        let mut terms = state.product + scale * state.square;
        for &(step, midpoint) in self.steps() {
            let (surplus, product, above) = buckets.surplus_at(scale * midpoint);
            if product == 0.0 {
                break; // Higher thresholds have none either.
            }
            bound += step * surplus;
            terms += step * product;
            state.product += step * above.product;
            state.square += 2.0 * step * midpoint * above.square;
        }
        self.best.update(state);
        bound + 4.0 * self.rounding * terms
    }

    /// Marks the buckets in which a weight can change its level within an interval.
    pub(super) fn mark(&self, buckets: &mut Buckets, intervals: &Intervals) {
        buckets.marks.clear();
        buckets.marks.resize(1 + buckets.count(), 0);
        for &(high, low) in &intervals.kept {
            for &(_, midpoint) in self.steps() {
                let passed = buckets.passed(low * midpoint, high * midpoint);
                buckets.marks[1 + passed.start..1 + passed.end].fill(1);
            }
        }
    }

    /// Compares all assignments in the intervals, from the breakpoints in the marked buckets.
    pub(super) fn compare(
        &mut self,
        buckets: &Buckets,
        intervals: &Intervals,
        breakpoints: &[Breakpoint],
        queue: &mut SweepQueue,
        magnitudes: &Magnitudes,
    ) {
        for &(high, low) in &intervals.kept {
            let passed = |number: usize| {
                let (_, midpoint) = self.steps[number - 1];
                buckets.passed(low * midpoint, high * midpoint)
            };
            let mut state = self.base_state();
            for (number, &(step, midpoint)) in (1..).zip(self.steps()) {
                let above = buckets.above[passed(number).end];
                state.product += step * above.product;
                state.square += 2.0 * step * midpoint * above.square;
            }
            let range = |number: usize| {
                let passed = passed(number);
                let from = |edge: f64| {
                    breakpoints.partition_point(|breakpoint| breakpoint.magnitude >= edge)
                };
                from(buckets.edges[passed.end])..from(buckets.edges[passed.start])
            };
            sweep(
                magnitudes,
                state,
                |index| breakpoints[index],
                range,
                queue,
                &mut self.best,
            );
        }
    }
}

/// An upper bound of `G` between two scales from bounds of `H` at both: the maximum of `2α` times
/// the chord.
fn cell_bound((high, at_high): (f64, f64), (low, at_low): (f64, f64)) -> f64 {
    let slope = (at_low - at_high) / (high - low);
    let scale = if slope > 0.0 {
        (0.5 * (at_low / slope + low)).clamp(low, high)
    } else {
        high
    };
    2.0 * scale * (at_low - slope * (scale - low))
}
