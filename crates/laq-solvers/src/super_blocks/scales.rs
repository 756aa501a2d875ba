//! Super-blocks without minima: one factor `d`, and integer scales; see the [module](super).

use std::mem::{replace, take};

use laq_simd::Isa;

use super::{SuperBlockFormat, set_factors, steps_from, stored};
use crate::blocks::block::{Block, Sums, is_flat};
use crate::blocks::values::{LANES, Values};
use crate::blocks::{ScaleGrid, Search};

/// Values of `d` that are compared in the last octave.
const STEPS: usize = 32;

/// From so many of them `d` is fitted.
const STARTS: usize = 2;

/// Most iterations of fitting, and of moving to a neighbour.
const MAX_ITERATIONS: usize = 8;

/// Integers around the best scale of a sign that are compared: half of the lanes.
const WINDOW: i32 = LANES as i32 / 2;

/// The weights of a block, and what has been found.
#[derive(Clone, Debug, Default)]
struct OneBlock {
    block: Block,
    /// Whether it has curvature, and so a part in the choice of `d`.
    counts: bool,
    /// The best real scale, and a good one of the other sign; zero without one.
    scales: [f64; 2],
    /// Its integer in the last evaluation.
    integer: i32,
}

/// The evaluation of a factor.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// Of either sign.
    factor: f64,
    /// Twice the reduction of the error of all zeros.
    gain: f64,
    /// The best real factor for the integers and codes, or zero.
    fitted: f64,
}

/// Solves super-blocks without minima.
#[derive(Debug)]
pub(super) struct ScaleSolver {
    isa: Isa,
    grid: ScaleGrid,
    values: Values,
    integers: [i32; 2],
    length: usize,
    search: Search,
    blocks: Vec<OneBlock>,
    /// Blocks of this super-block, which may have fewer than others.
    count: usize,
    places: Vec<i32>,
    /// Factors to compare.
    factors: Vec<f64>,
}

impl ScaleSolver {
    pub(super) fn new(format: &SuperBlockFormat, isa: Isa) -> Self {
        Self {
            isa,
            grid: format.grid,
            values: Values::new(format.codebook.values().into_iter(), false),
            integers: format.integers.map(i32::from),
            length: format.block,
            search: Search::with_isa(&format.codebook, ScaleGrid::F32, isa),
            blocks: Vec::new(),
            count: 0,
            places: Vec::new(),
            factors: Vec::new(),
        }
    }

    /// Writes codes and integers; returns the factor and the error.
    pub(super) fn solve(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        codes: &mut [u8],
        integers: &mut [[i8; 2]],
    ) -> (f32, f64) {
        self.set(weights, curvature);
        let factor = self.best_factor();
        for one in &mut self.blocks[..self.count] {
            one.choose_of_all(
                self.isa,
                &self.values,
                self.integers,
                factor,
                &mut self.places,
            );
        }
        let mut error = 0.0;
        let outputs = codes.chunks_mut(self.length).zip(integers);
        for (one, (codes, integer)) in self.blocks[..self.count].iter().zip(outputs) {
            *integer = [one.integer as i8, 0];
            let of_block = one.put(self.isa, &self.values, factor, &mut self.places, codes);
            error += if one.counts { of_block } else { 0.0 };
        }
        (factor as f32, 0.5 * error)
    }

    /// Whether zero is a value of the codes.
    pub(super) fn has_zero(&self) -> bool {
        self.values.has_zero()
    }

    /// Takes the weights, and finds the best real scales of the blocks.
    fn set(&mut self, weights: &[f32], curvature: Option<&[f32]>) {
        let has_zero = self.has_zero();
        self.count = weights.len().div_ceil(self.length);
        if self.blocks.len() < self.count {
            self.blocks.resize(self.count, OneBlock::default());
        }
        self.places.resize(self.length.next_multiple_of(LANES), 0);
        for (index, one) in self.blocks[..self.count].iter_mut().enumerate() {
            let range = index * self.length..weights.len().min((index + 1) * self.length);
            let (w, d) = (&weights[range.clone()], curvature.map(|all| &all[range]));
            one.counts = !d.is_some_and(|d| is_flat(w, d, has_zero));
            let d = d.filter(|_| one.counts);
            one.block.set(self.isa, w, d, false, has_zero);
            let (best, _) = self.search.solve(w, d, None, |_, _| {});
            one.scales = [
                f64::from(best),
                one.other_sign(self.isa, &self.values, best),
            ];
        }
    }

    /// The best factor found.
    fn best_factor(&mut self) -> f64 {
        let [low, high] = self.integers;
        // The largest scale has the sign of which there are more integers.
        let (most, sign) = if -low > high {
            (-low, -1.0)
        } else {
            (high, 1.0)
        };
        let counted = self.blocks[..self.count].iter().filter(|one| one.counts);
        let scales = counted.map(|one| one.scales[0]);
        let larger = |a: f64, b: f64| if b.abs() > a.abs() { b } else { a };
        let largest = scales.clone().fold(0.0, larger);
        let (most, sign) = (f64::from(most), sign * largest.signum());
        let mut factors = take(&mut self.factors);
        set_factors(&mut factors, self.grid, largest.abs(), most, STEPS);
        // Without those that are larger, which are cut off.
        let positive = scales.map(f64::abs).filter(|scale| *scale > 0.0);
        factors.extend(positive.map(|scale| stored(self.grid, scale / most)));
        let nothing = Point {
            factor: 0.0,
            gain: 0.0,
            fitted: 0.0,
        };
        let mut starts = [nothing; STARTS];
        for factor in &factors {
            let point = self.evaluate(sign * factor);
            let place = starts.partition_point(|start| start.gain >= point.gain);
            if place < STARTS {
                starts[place..].rotate_right(1);
                starts[place] = point;
            }
        }
        self.factors = factors;
        let mut best = nothing;
        for start in starts {
            let fitted = self.fit(start);
            best = if fitted.gain > best.gain {
                fitted
            } else {
                best
            };
        }
        self.neighbours(best).factor
    }

    /// Alternates between integers with codes and the factor.
    fn fit(&mut self, start: Point) -> Point {
        let mut best = start;
        for _ in 0..MAX_ITERATIONS {
            let (fitted, before) = (best.fitted, best.gain);
            for factor in self.grid.neighbours(fitted.abs(), f64::MAX) {
                let factor = f64::from(factor) * fitted.signum();
                if factor != best.factor && factor != 0.0 {
                    let point = self.evaluate(factor);
                    best = if point.gain > best.gain { point } else { best };
                }
            }
            if best.gain == before {
                break;
            }
        }
        best
    }

    /// Moves to neighbouring factors as long as one is better.
    fn neighbours(&mut self, start: Point) -> Point {
        let mut best = start;
        for _ in 0..MAX_ITERATIONS {
            let (factor, before) = (best.factor, best.gain);
            for steps in [-2, -1, 1, 2] {
                if let Some(next) = steps_from(self.grid, factor.abs(), steps) {
                    let point = self.evaluate(next * factor.signum());
                    best = if point.gain > best.gain { point } else { best };
                }
            }
            if best.gain == before {
                break;
            }
        }
        best
    }

    /// Chooses the integers for a factor.
    fn evaluate(&mut self, factor: f64) -> Point {
        let (mut gain, mut product, mut square) = (0.0, 0.0, 0.0);
        for one in self.blocks[..self.count]
            .iter_mut()
            .filter(|one| one.counts)
        {
            let sums = one.choose(
                self.isa,
                &self.values,
                self.integers,
                factor,
                &mut self.places,
            );
            let integer = f64::from(one.integer);
            gain += sums.gain_at(factor * integer);
            product += integer * sums.product;
            square += integer * integer * sums.square;
        }
        let fitted = if square > 0.0 { product / square } else { 0.0 };
        Point {
            factor,
            gain,
            fitted,
        }
    }
}

impl OneBlock {
    /// A good scale of the sign that `best` does not have.
    fn other_sign(&self, isa: Isa, values: &Values, best: f32) -> f64 {
        if best == 0.0 {
            return 0.0;
        }
        let lane = |lane: usize| -f64::from(best) * 8.0 / (4 + lane) as f64;
        let points = self.block.points(isa, values, &std::array::from_fn(lane));
        let (mut most, mut scale) = (0.0, 0.0);
        for lane in 0..LANES {
            let (product, square) = (points.products[lane], points.squares[lane]);
            let has_sign = product * points.scales[lane] > 0.0;
            if has_sign && product * product > most * square {
                (most, scale) = (product * product / square, product / square);
            }
        }
        scale
    }

    /// The integers around the best scales for a factor. Sets the best of them, or 0, and returns its sums.
    fn choose(
        &mut self,
        isa: Isa,
        values: &Values,
        [low, high]: [i32; 2],
        factor: f64,
        places: &mut [i32],
    ) -> Sums {
        let starts = self.scales.map(|scale| {
            let middle = (scale / factor).clamp(low.into(), high.into()) as i32;
            (middle - WINDOW / 2 + 1).min(high - WINDOW + 1).max(low)
        });
        let integer = |lane: i32| (starts[(lane / WINDOW) as usize] + lane % WINDOW).min(high);
        let all = std::array::from_fn(|lane| integer(lane as i32));
        self.integer = self.best_of(isa, values, all, factor).0;
        self.sums(isa, values, factor, places)
    }

    /// Sets the best of all integers.
    fn choose_of_all(
        &mut self,
        isa: Isa,
        values: &Values,
        [low, high]: [i32; 2],
        factor: f64,
        places: &mut [i32],
    ) {
        let sums = self.choose(isa, values, [low, high], factor, places);
        let mut gain = sums.gain_at(factor * f64::from(self.integer));
        let mut from = low;
        while factor != 0.0 && from <= high {
            let all = std::array::from_fn(|lane| (from + lane as i32).min(high));
            let (integer, about) = self.best_of(isa, values, all, factor);
            // The gain is rounded; those that may be better are compared in f64.
            if about > gain * (1.0 - 1e-5) && integer != self.integer {
                let before = replace(&mut self.integer, integer);
                let sums = self.sums(isa, values, factor, places);
                let found = sums.gain_at(factor * f64::from(integer));
                match found > gain {
                    true => gain = found,
                    false => self.integer = before,
                }
            }
            from += LANES as i32;
        }
    }

    /// The best of some integers for a factor, or 0, and its gain.
    fn best_of(
        &self,
        isa: Isa,
        values: &Values,
        integers: [i32; LANES],
        factor: f64,
    ) -> (i32, f64) {
        let scales = integers.map(|integer| factor * f64::from(integer));
        let points = self.block.points(isa, values, &scales);
        let mut best = (0, 0.0);
        for (lane, integer) in integers.into_iter().enumerate() {
            let sums = Sums {
                product: points.products[lane],
                square: points.squares[lane],
            };
            let gain = sums.gain_at(scales[lane]);
            if gain > best.1 {
                best = (integer, gain);
            }
        }
        best
    }

    /// The sums of the codes for the integer. Writes their places.
    fn sums(&self, isa: Isa, values: &Values, factor: f64, places: &mut [i32]) -> Sums {
        let places = &mut places[..self.block.weights.len()];
        let scale = factor * f64::from(self.integer);
        self.block.sums_at(isa, values, scale, places)
    }

    /// Writes the codes for the integer; returns twice the error.
    fn put(
        &self,
        isa: Isa,
        values: &Values,
        factor: f64,
        places: &mut [i32],
        codes: &mut [u8],
    ) -> f64 {
        self.sums(isa, values, factor, places);
        let scale = factor * f64::from(self.integer);
        let weights = self.block.weights.iter().zip(&self.block.curvature);
        let mut error = 0.0;
        for ((code, place), (w, d)) in codes.iter_mut().zip(places).zip(weights) {
            let rest = f64::from(*w) - scale * values.values[*place as usize];
            error += f64::from(*d) * rest * rest;
            *code = *place as u8;
        }
        error
    }
}
