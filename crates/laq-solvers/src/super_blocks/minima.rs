//! Super-blocks with minima: factors `d` and `m`, integer scales and minima; see the [module](super).

use std::mem::take;

use laq_simd::{Isa, multiversion};

use super::{SuperBlockFormat, set_factors, steps_from, stored};
use crate::blocks::ScaleGrid;
use crate::blocks::block::{Block, is_flat};
use crate::blocks::values::{LANES, ROUND_F32, ROUND_F64, total};

/// Values of `d` and of `m` that are compared in the last octave.
const STEPS: usize = 16;

/// Starts with at most so many times the least error are improved.
const PROMISING: f64 = 1.002;

/// Iterations of the fit of a block.
const FITS: usize = 5;

/// Most iterations of fitting the factors, and of moving to a neighbour.
const MAX_ITERATIONS: usize = 8;

/// Integer scales that are compared, and minima for each of them.
const WINDOW: i32 = 4;

/// Scales x and offsets y of a lane each: `ŵ = x q − y`.
#[derive(Clone, Copy, Debug, Default)]
struct Lanes {
    scales: [f64; LANES],
    offsets: [f64; LANES],
}

/// `Σ κ q`, `Σ κ q²`, `Σ κ q w` and `Σ κ (w − ŵ)²` of the nearest codes q.
type LaneSums = [[f32; LANES]; 4];

/// The weights of a block, and its fit.
#[derive(Clone, Debug, Default)]
struct OneBlock {
    block: Block,
    /// Whether it has curvature, and so a part in the choice of the factors.
    counts: bool,
    /// `Σ κ` and `Σ κ w`.
    totals: [f64; 2],
    /// The best real scale and offset found.
    scale: f64,
    offset: f64,
    /// The mean code with them: how the offset changes with the scale.
    mean: f64,
    /// Its scale and minimum in the last evaluation.
    integers: [i32; 2],
}

/// The evaluation of factors.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// `[d, m]`, with the sign of the minima in m.
    factors: [f64; 2],
    /// Twice the error.
    error: f64,
    /// The best real factors for the integers and codes.
    fitted: [f64; 2],
}

/// Solves super-blocks with minima.
#[derive(Debug)]
pub(super) struct MinimaSolver {
    isa: Isa,
    grid: ScaleGrid,
    /// The largest code.
    top: f64,
    /// The largest integer.
    most: i32,
    length: usize,
    blocks: Vec<OneBlock>,
    /// Blocks of this super-block, which may have fewer than others.
    count: usize,
    /// The negated weights.
    negated: Vec<f32>,
    /// Factors `d` and `m` to compare.
    factors: [Vec<f64>; 2],
}

impl MinimaSolver {
    pub(super) fn new(format: &SuperBlockFormat, isa: Isa) -> Self {
        let top = format.codebook.values().into_iter().fold(0.0, f32::max);
        Self {
            isa,
            grid: format.grid,
            top: f64::from(top),
            most: i32::from(format.integers[1]),
            length: format.block,
            blocks: Vec::new(),
            count: 0,
            negated: Vec::new(),
            factors: [Vec::new(), Vec::new()],
        }
    }

    /// Writes codes and integers; returns the factors and the error.
    pub(super) fn solve(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        codes: &mut [u8],
        integers: &mut [[i8; 2]],
    ) -> ([f32; 2], f64) {
        let mut negated = take(&mut self.negated);
        negated.clear();
        negated.extend(weights.iter().map(|w| -w));
        // The errors of the starts: of the weights and the negated ones, with offsets of either sign.
        let mut starts = [[f64::INFINITY; 2]; 2];
        for (weights, starts) in [weights, &negated].into_iter().zip(&mut starts) {
            let ends = self.set(weights, curvature);
            starts[0] = self.start(1.0).error;
            // Offsets that add to the weights serve weights of one sign.
            if ends[0] > 0.0 {
                starts[1] = self.start(-1.0).error;
            }
        }
        let least = starts
            .as_flattened()
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min);
        let mut best: Option<(Point, bool)> = None;
        for (is_negated, starts) in [false, true].into_iter().zip(starts) {
            if starts.iter().all(|error| *error > PROMISING * least) {
                continue;
            }
            self.set(if is_negated { &negated } else { weights }, curvature);
            for (sign, error) in [1.0, -1.0].into_iter().zip(starts) {
                if error > PROMISING * least {
                    continue;
                }
                let point = self.best_factors(sign);
                if best.is_none_or(|(best, _)| point.error < best.error) {
                    best = Some((point, is_negated));
                }
            }
        }
        let (point, is_negated) = best.expect("one of the starts at least");
        self.set(if is_negated { &negated } else { weights }, curvature);
        self.negated = negated;
        // The offsets of the last fit may have had another sign.
        self.fit_blocks(point.factors[1].signum());
        self.evaluate(point.factors);
        let mut error = 0.0;
        let outputs = codes.chunks_mut(self.length).zip(integers);
        for (one, (codes, integers)) in self.blocks[..self.count].iter().zip(outputs) {
            *integers = one.integers.map(|integer| integer as i8);
            let of_block = one.put(point.factors, self.top, codes);
            error += if one.counts { of_block } else { 0.0 };
        }
        let sign = if is_negated { -1.0 } else { 1.0 };
        // Without a sign of zero.
        let factors = point.factors.map(|factor| (sign * factor) as f32 + 0.0);
        (factors, 0.5 * error)
    }

    /// Takes the weights; returns the smallest and the largest that counts.
    fn set(&mut self, weights: &[f32], curvature: Option<&[f32]>) -> [f64; 2] {
        self.count = weights.len().div_ceil(self.length);
        if self.blocks.len() < self.count {
            self.blocks.resize(self.count, OneBlock::default());
        }
        let mut ends = [f64::INFINITY, f64::NEG_INFINITY];
        for (index, one) in self.blocks[..self.count].iter_mut().enumerate() {
            let range = index * self.length..weights.len().min((index + 1) * self.length);
            let (w, d) = (&weights[range.clone()], curvature.map(|all| &all[range]));
            one.counts = !d.is_some_and(|d| is_flat(w, d, false));
            one.block
                .set(self.isa, w, d.filter(|_| one.counts), false, false);
            let [above, below] = one.block.extent.products;
            one.totals = [one.block.extent.curvatures, above - below];
            if one.counts {
                let of_block = one.ends();
                ends = [ends[0].min(of_block[0]), ends[1].max(of_block[1])];
            }
        }
        ends
    }

    fn fit_blocks(&mut self, sign: f64) {
        for one in &mut self.blocks[..self.count] {
            one.fit(self.isa, self.top, sign);
        }
    }

    /// Fits the blocks with offsets of this sign, and chooses factors for the largest scale and offset.
    fn start(&mut self, sign: f64) -> Point {
        self.fit_blocks(sign);
        let most = f64::from(self.most);
        let start = |largest: f64| match largest > 0.0 {
            true => stored(self.grid, largest / most),
            false => 0.0,
        };
        let [d, m] = self.largest().map(start);
        self.evaluate([d, sign * m])
    }

    /// The largest scale and offset of the fits.
    fn largest(&self) -> [f64; 2] {
        let counted = self.blocks[..self.count].iter().filter(|one| one.counts);
        counted.fold([0.0f64; 2], |[scale, offset], one| {
            [scale.max(one.scale), offset.max(one.offset.abs())]
        })
    }

    /// The best factors found with offsets of this sign.
    fn best_factors(&mut self, sign: f64) -> Point {
        let mut best = self.start(sign);
        let largest = self.largest();
        let (mut all, most) = (take(&mut self.factors), f64::from(self.most));
        for (factors, largest) in all.iter_mut().zip(largest) {
            set_factors(factors, self.grid, largest, most, STEPS);
        }
        for which in [0, 1] {
            for factor in &all[which] {
                let mut factors = best.factors;
                factors[which] = if which == 1 { sign * factor } else { *factor };
                self.improve(factors, &mut best);
            }
        }
        self.factors = all;
        for _ in 0..MAX_ITERATIONS {
            let (before, [d, m]) = (best.error, best.fitted);
            if !(d > 0.0 && m * sign >= 0.0) {
                break;
            }
            for d in self.grid.neighbours(d, f64::MAX) {
                for m in self.grid.neighbours(m.abs(), f64::MAX) {
                    self.improve([f64::from(d), sign * f64::from(m)], &mut best);
                }
            }
            if best.error == before {
                break;
            }
        }
        for _ in 0..MAX_ITERATIONS {
            let (before, factors) = (best.error, best.factors);
            for which in [0, 1] {
                for steps in [-1, 1] {
                    if let Some(next) = steps_from(self.grid, factors[which].abs(), steps) {
                        let mut factors = factors;
                        factors[which] = next.copysign(factors[which]);
                        self.improve(factors, &mut best);
                    }
                }
            }
            if best.error == before {
                break;
            }
        }
        best
    }

    fn improve(&mut self, factors: [f64; 2], best: &mut Point) {
        if factors != best.factors {
            let point = self.evaluate(factors);
            if point.error < best.error {
                *best = point;
            }
        }
    }

    /// Chooses the integers for factors.
    fn evaluate(&mut self, factors: [f64; 2]) -> Point {
        let mut error = 0.0;
        // The normal equations of the factors: two squares and a product, and two right sides.
        let mut normal = [0.0; 5];
        for one in &mut self.blocks[..self.count] {
            one.choose(self.isa, self.top, self.most, factors);
            if !one.counts {
                continue;
            }
            let [q, qq, qw, of_block] = one.sums(self.isa, self.top, factors);
            let [s, t] = one.integers.map(f64::from);
            let [d, dw] = one.totals;
            let terms = [s * s * qq, t * t * d, -s * t * q, s * qw, -t * dw];
            for (sum, term) in normal.iter_mut().zip(terms) {
                *sum += term;
            }
            error += of_block;
        }
        let [dd, mm, dm, d, m] = normal;
        let determinant = dd * mm - dm * dm;
        let both = [
            (d * mm - m * dm) / determinant,
            (m * dd - d * dm) / determinant,
        ];
        // With minima of the other sign the factor of the scales alone.
        let alone = [if dd > 0.0 { d / dd } else { 0.0 }, 0.0];
        let is_both = determinant > 1e-9 * dd * mm && both[1] * factors[1].signum() >= 0.0;
        Point {
            factors,
            error,
            fitted: if is_both { both } else { alone },
        }
    }
}

impl OneBlock {
    /// The smallest and the largest weight with curvature.
    fn ends(&self) -> [f64; 2] {
        let all = self.block.weights.iter().zip(&self.block.curvature);
        let counted = all.take(self.block.length).filter(|(_, d)| **d > 0.0);
        counted.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], (w, _)| {
            [low.min((*w).into()), high.max((*w).into())]
        })
    }

    /// Fits scale and offset: from ranges of the weights, by alternating between codes and least squares.
    fn fit(&mut self, isa: Isa, top: f64, sign: f64) {
        let [low, high] = self.ends();
        (self.scale, self.offset, self.mean) = (0.0, 0.0, 0.0);
        let low = if sign > 0.0 {
            low.min(0.0)
        } else {
            low.max(0.0)
        };
        let high = high.max(low);
        if low == 0.0 && high == 0.0 {
            return;
        }
        let (weights, curvature, [of_weights, of_curvature]) = self.block.rescaled();
        let mut lanes = Lanes::default();
        for lane in 0..LANES {
            // From a little more than the range to less, which leaves the outermost weights out.
            let part = |step: usize| 1.0 + (0.25 - 0.5 * step as f64) / top;
            let middle = 0.5 * (low + high);
            let from = middle + part(lane / 4) * (low - middle);
            let to = middle + part(lane % 4) * (high - middle);
            let offset = if from * sign < 0.0 { -from } else { 0.0 };
            let scale = ((to + offset) / top).max(f64::MIN_POSITIVE);
            lanes.scales[lane] = scale * of_weights;
            lanes.offsets[lane] = offset * of_weights;
        }
        let totals = [
            self.totals[0] * of_curvature,
            self.totals[1] * of_curvature * of_weights,
        ];
        for _ in 0..FITS {
            let sums = lane_sums(isa, weights, curvature, &lanes, top as f32);
            lanes = refit(isa, &sums, &lanes, totals, sign);
        }
        let sums = lane_sums(isa, weights, curvature, &lanes, top as f32);
        let mut best = f32::INFINITY;
        for lane in 0..LANES {
            if sums[3][lane] < best {
                best = sums[3][lane];
                self.scale = lanes.scales[lane] / of_weights;
                self.offset = lanes.offsets[lane] / of_weights;
                self.mean = f64::from(sums[0][lane]) / totals[0];
            }
        }
    }

    /// Sets the best of the integers around the fit.
    fn choose(&mut self, isa: Isa, top: f64, most: i32, [d, m]: [f64; 2]) {
        let (weights, curvature, [of_weights, _]) = self.block.rescaled();
        let from = |quotient: f64| {
            let first = quotient.clamp(0.0, most.into()) as i32 - WINDOW / 2 + 1;
            first.min(most - WINDOW + 1).max(0)
        };
        let first = from(self.scale / d);
        let mut all = [[0; 2]; LANES];
        let mut lanes = Lanes::default();
        for (lane, integers) in all.iter_mut().enumerate() {
            let s = (first + lane as i32 / WINDOW).min(most);
            let scale = d * f64::from(s);
            let offset = self.offset + (scale - self.scale) * self.mean;
            let t = (from(offset / m) + lane as i32 % WINDOW).min(most);
            *integers = [s, t];
            lanes.scales[lane] = scale * of_weights;
            lanes.offsets[lane] = m * f64::from(t) * of_weights;
        }
        let sums = lane_sums(isa, weights, curvature, &lanes, top as f32);
        let mut best = f32::INFINITY;
        self.integers = [0, 0];
        for (integers, error) in all.into_iter().zip(sums[3]) {
            if error < best {
                (best, self.integers) = (error, integers);
            }
        }
    }

    fn scale_and_offset(&self, factors: [f64; 2]) -> [f64; 2] {
        let [s, t] = self.integers.map(f64::from);
        [factors[0] * s, factors[1] * t]
    }

    /// `Σ κ q`, `Σ κ q²`, `Σ κ q w` and twice the error for the integers.
    fn sums(&self, isa: Isa, top: f64, factors: [f64; 2]) -> [f64; 4] {
        let block = &self.block;
        let decoded = self.scale_and_offset(factors);
        sums(isa, &block.weights, &block.curvature, decoded, top)
    }

    /// Writes the codes for the integers; returns twice the error. ŵ is exact in f64, where `w + y` loses a weight
    /// that is tiny beside the offset.
    fn put(&self, factors: [f64; 2], top: f64, codes: &mut [u8]) -> f64 {
        let [scale, offset] = self.scale_and_offset(factors);
        let weights = self.block.weights.iter().zip(&self.block.curvature);
        let mut error = 0.0;
        for (code, (w, d)) in codes.iter_mut().zip(weights) {
            let q = nearest_code(f64::from(*w) + offset, inverse(scale), top);
            let rest = f64::from(*w) - (scale * q - offset);
            error += f64::from(*d) * rest * rest;
            *code = q as u8;
        }
        error
    }
}

#[inline(always)]
fn inverse(scale: f64) -> f64 {
    if scale > 0.0 { 1.0 / scale } else { 0.0 }
}

#[inline(always)]
fn nearest_code(moved: f64, inverse: f64, top: f64) -> f64 {
    ((moved * inverse).max(0.0).min(top) + ROUND_F64) - ROUND_F64
}

multiversion! {
    /// The sums of the codes nearest to `(w + y) / x`, in f32.
    fn lane_sums(weights: &[f32], curvature: &[f32], lanes: &Lanes, top: f32) -> LaneSums {
        let mut sums = [[0.0; LANES]; 4];
        let (mut scales, mut inverses, mut offsets) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let most = f64::from(f32::MAX);
            scales[lane] = lanes.scales[lane] as f32;
            inverses[lane] = inverse(lanes.scales[lane]).min(most) as f32;
            offsets[lane] = lanes.offsets[lane] as f32;
        }
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let moved = w + offsets[lane];
                let q = ((moved * inverses[lane]).max(0.0).min(top) + ROUND_F32) - ROUND_F32;
                let rest = moved - scales[lane] * q;
                let weighted = d * q;
                sums[0][lane] += weighted;
                sums[1][lane] += weighted * q;
                sums[2][lane] += weighted * w;
                sums[3][lane] += d * rest * rest;
            }
        }
        sums
    }
}

multiversion! {
    /// The best scales and offsets for the codes of the sums; `totals` are `Σ κ` and `Σ κ w`.
    fn refit(sums: &LaneSums, lanes: &Lanes, totals: [f64; 2], sign: f64) -> Lanes {
        let mut new = *lanes;
        let [all, product] = totals;
        for lane in 0..LANES {
            let [q, qq, qw] = [0, 1, 2].map(|index: usize| f64::from(sums[index][lane]));
            let determinant = qq * all - q * q;
            let scale = (qw * all - product * q) / determinant;
            let offset = (scale * q - product) / all;
            let is_both = (determinant > 1e-5 * qq * all) & (offset * sign >= 0.0);
            let scale = if is_both { scale } else { qw / qq };
            let offset = if is_both { offset } else { 0.0 };
            let is_valid = (scale > 0.0) & (scale < f64::from(f32::MAX));
            new.scales[lane] = if is_valid { scale } else { lanes.scales[lane] };
            new.offsets[lane] = if is_valid { offset } else { lanes.offsets[lane] };
        }
        new
    }
}

multiversion! {
    /// The sums of a scale and an offset in f64: `Σ κ q`, `Σ κ q²`, `Σ κ q w` and `Σ κ (w − ŵ)²`.
    fn sums(weights: &[f32], curvature: &[f32], decoded: [f64; 2], top: f64) -> [f64; 4] {
        let [scale, offset] = decoded;
        let inverse = inverse(scale);
        let mut sums = [[0.0; LANES]; 4];
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let (w, d) = (f64::from(w[lane]), f64::from(d[lane]));
                let q = nearest_code(w + offset, inverse, top);
                let rest = w - (scale * q - offset);
                sums[0][lane] += d * q;
                sums[1][lane] += d * q * q;
                sums[2][lane] += d * q * w;
                sums[3][lane] += d * rest * rest;
            }
        }
        sums.map(total)
    }
}
