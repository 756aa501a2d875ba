//! The optimum of one block; see the [module](super).

use std::mem::{swap, take};
use std::ops::AddAssign;

use laq_simd::{Isa, multiversion};

use super::{BlockFormat, ScaleGrid};

/// Weights that are handled together; blocks are padded to a multiple with zeros.
const LANES: usize = 16;

/// How often cells are cut into halves. The first are a factor of two wide.
const CUTS: u32 = 3;

/// Adding and subtracting it rounds an f32 of up to 2²² to an integer.
const ROUND_F32: f32 = 12_582_912.0;

/// Adding and subtracting it rounds an f64 of up to 2⁵¹ to an integer.
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// The values of one sign of the scale. Of symmetric values only the magnitudes, for the magnitudes of
/// weights.
struct Values {
    /// In rising order.
    values: Vec<f64>,
    /// Between each value and the next.
    middles: Vec<f64>,
    /// Whether the values are successive integers.
    are_successive: bool,
    /// The smallest and the largest magnitude.
    magnitudes: [f64; 2],
    is_negated: bool,
    ends_f32: [f32; 2],
    changes: Vec<Change>,
}

/// From one value to the next.
#[derive(Clone, Copy)]
struct Change {
    middle: f32,
    /// The bits in which the next value differs, as f32.
    bits: u32,
}

/// The changes between values, in an array of constant length if they are few: then they are compared
/// with many weights at a time.
trait Table: Copy {
    fn get(&self) -> &[Change];
}

impl<const N: usize> Table for [Change; N] {
    #[inline(always)]
    fn get(&self) -> &[Change] {
        self
    }
}

impl Table for &[Change] {
    #[inline(always)]
    fn get(&self) -> &[Change] {
        self
    }
}

/// An array of N, if there are no more, with others that never happen.
fn padded<const N: usize>(changes: &[Change]) -> Option<[Change; N]> {
    let never = Change {
        middle: f32::INFINITY,
        bits: 0,
    };
    let change = |index| changes.get(index).copied().unwrap_or(never);
    (changes.len() <= N).then(|| std::array::from_fn(change))
}

impl Values {
    fn new(values: impl Iterator<Item = f32>, is_negated: bool) -> Self {
        let all: Vec<f32> = values.collect();
        let values: Vec<f64> = all.iter().map(|value| f64::from(*value)).collect();
        let middles: Vec<f64> = (values.windows(2))
            .map(|pair| 0.5 * (pair[0] + pair[1]))
            .collect();
        let is_next = |pair: &[f64]| pair[1] == pair[0] + 1.0;
        Self {
            are_successive: values[0].fract() == 0.0 && values.windows(2).all(is_next),
            magnitudes: [
                values
                    .iter()
                    .fold(f64::INFINITY, |least, v| least.min(v.abs())),
                values.iter().fold(0.0, |most, v| most.max(v.abs())),
            ],
            ends_f32: [all[0], all[all.len() - 1]],
            changes: (all.windows(2).zip(&middles))
                .map(|(pair, middle)| Change {
                    middle: *middle as f32,
                    bits: pair[0].to_bits() ^ pair[1].to_bits(),
                })
                .collect(),
            values,
            middles,
            is_negated,
        }
    }

    fn ends(&self) -> [f64; 2] {
        [self.values[0], self.values[self.values.len() - 1]]
    }

    /// Writes the places of the values nearest to `weight / scale`; at scale 0 to zero.
    fn place(&self, isa: Isa, weights: &[f64], scale: f64, places: &mut [i32]) {
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        match self.are_successive {
            true => rounded_places(isa, weights, inverse, self.ends(), places),
            false => nearest_places(isa, weights, inverse, &self.middles, places),
        }
    }
}

/// `S = Σ d w v` and `D = Σ d v²`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sums {
    product: f64,
    square: f64,
}

impl Sums {
    /// Whether twice the reduction of the error at the best scale exceeds `gain`.
    fn exceed(self, gain: f64) -> bool {
        self.product > 0.0 && self.product * self.product > gain * self.square
    }

    /// With a larger product.
    fn above(self, by: f64) -> Self {
        Self {
            product: self.product + by,
            ..self
        }
    }

    /// Twice the reduction of the error at a scale.
    fn gain_at(self, scale: f64) -> f64 {
        scale * (2.0 * self.product - scale * self.square)
    }
}

/// A scale with `H = S − ½ s D` of its nearest values, up to rounding in f32.
#[derive(Clone, Copy, Debug)]
struct Point {
    scale: f64,
    height: f64,
}

/// The scales between two.
#[derive(Clone, Copy, Debug)]
struct Cell {
    low: Point,
    high: Point,
}

impl Cell {
    /// Whether the gain `2 s L(s)`, with the chord L of H, exceeds another within the cell.
    fn may_exceed(self, gain: f64) -> bool {
        let Cell { low, high } = self;
        if 2.0 * low.scale * low.height > gain || 2.0 * high.scale * high.height > gain {
            return true;
        }
        // L(s) = (p − q s) / width, so 2 s L(s) is largest at p / 2q: p² / 2q / width.
        let width = high.scale - low.scale;
        let q = low.height - high.height;
        let p = low.height * width + q * low.scale;
        q > 0.0
            && p > 2.0 * q * low.scale
            && p < 2.0 * q * high.scale
            && p * p > 2.0 * q * width * gain
    }
}

/// Where a weight passes the middle of two values.
#[derive(Clone, Copy, Debug)]
struct Passage {
    scale: f64,
    weight: u32,
}

/// The best scale so far.
#[derive(Clone, Copy, Debug)]
struct Best {
    /// Not negative.
    scale: f32,
    is_negated: bool,
    /// Twice the reduction of the error of all zeros.
    gain: f64,
}

/// The scales of one sign.
#[derive(Clone, Copy)]
struct Grid {
    grid: ScaleGrid,
    limit: f64,
    is_negated: bool,
}

impl Grid {
    /// Improves `best` by the best scale of an assignment.
    fn improve(&self, sums: Sums, best: &mut Best) {
        if !sums.exceed(best.gain) || sums.square == 0.0 {
            return;
        }
        for scale in self.grid.neighbours(sums.product / sums.square, self.limit) {
            let gain = sums.gain_at(f64::from(scale));
            if gain > best.gain {
                *best = Best {
                    scale,
                    is_negated: self.is_negated,
                    gain,
                };
            }
        }
    }
}

/// The weights of a block.
#[derive(Default)]
struct Block {
    weights: Vec<f64>,
    curvature: Vec<f64>,
    /// The same in f32 with the largest in [½, 1]: times a power of two each.
    weights_f32: Vec<f32>,
    curvature_f32: Vec<f32>,
    /// Those powers of two.
    factors: [f64; 2],
}

/// The power of two that brings a positive number to [½, 1).
fn to_one(largest: f64) -> f64 {
    let exponent = (largest.to_bits() >> 52) as i64 - 1022;
    f64::from_bits(((1023 - exponent) as u64) << 52)
}

impl Block {
    /// Takes the weights, or with `magnitudes` theirs. With a value of zero a weight of zero has no part in
    /// any sum.
    fn set(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        magnitudes: bool,
        has_zero: bool,
    ) {
        let padded = weights.len().next_multiple_of(LANES);
        let of_weight = |w: &f32| f64::from(if magnitudes { w.abs() } else { *w });
        self.weights.clear();
        self.weights.extend(weights.iter().map(of_weight));
        self.weights.resize(padded, 0.0);
        self.curvature.clear();
        match curvature {
            Some(d) => self.curvature.extend(d.iter().map(|d| f64::from(*d))),
            None => self.curvature.resize(weights.len(), 1.0),
        }
        self.curvature.resize(padded, 0.0);
        let (mut largest, mut most) = (f64::MIN_POSITIVE, f64::MIN_POSITIVE);
        let counts = |w: f64, d: f64| d > 0.0 && (w != 0.0 || !has_zero);
        for (w, d) in self.weights.iter().zip(&self.curvature) {
            if counts(*w, *d) {
                (largest, most) = (largest.max(w.abs()), most.max(*d));
            }
        }
        let [of_weights, of_curvature] = [to_one(largest), to_one(most)];
        self.factors = [of_weights, of_curvature];
        self.weights_f32.clear();
        self.curvature_f32.clear();
        for (w, d) in self.weights.iter().zip(&self.curvature) {
            let factor = if counts(*w, *d) { 1.0 } else { 0.0 };
            self.weights_f32.push((factor * w * of_weights) as f32);
            self.curvature_f32.push((factor * d * of_curvature) as f32);
        }
    }

    /// The sums at the values nearest to `w / scale`, rounded in f32.
    fn rounded_sums(&self, isa: Isa, values: &Values, scale: f64) -> Sums {
        let [of_weights, of_curvature] = self.factors;
        let inverse = (1.0 / (scale * of_weights)).min(f64::from(f32::MAX)) as f32;
        let (w, d) = (&self.weights_f32[..], &self.curvature_f32[..]);
        let [product, square] = match values.are_successive {
            true => rounded_sums(isa, w, d, inverse, values.ends_f32),
            false => {
                let first = values.ends_f32[0].to_bits();
                let changes = &values.changes[..];
                if let Some(eight) = padded::<8>(changes) {
                    nearest_sums(isa, w, d, inverse, first, eight)
                } else if let Some(sixteen) = padded::<16>(changes) {
                    nearest_sums(isa, w, d, inverse, first, sixteen)
                } else {
                    nearest_sums(isa, w, d, inverse, first, changes)
                }
            }
        };
        Sums {
            product: f64::from(product) / (of_weights * of_curvature),
            square: f64::from(square) / of_curvature,
        }
    }

    /// The sums of an assignment.
    fn sums(&self, values: &Values, places: &[i32]) -> Sums {
        let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
        let (weights, _) = self.weights.as_chunks::<LANES>();
        let (curvature, _) = self.curvature.as_chunks::<LANES>();
        let (places, _) = places.as_chunks::<LANES>();
        for ((w, d), place) in weights.iter().zip(curvature).zip(places) {
            for lane in 0..LANES {
                let value = values.values[place[lane] as usize];
                let weighted = d[lane] * value;
                product[lane] += weighted * w[lane];
                square[lane] += weighted * value;
            }
        }
        Sums {
            product: total(product),
            square: total(square),
        }
    }
}

/// Solves blocks of a format. Allocates for the largest block alone.
pub(super) struct Search<'a> {
    format: &'a BlockFormat,
    isa: Isa,
    is_symmetric: bool,
    signs: Vec<Values>,
    /// The largest scale whose values are finite in f32.
    limit: f64,
    block: Block,
    cells: Vec<Cell>,
    finer: Vec<Cell>,
    places: Vec<i32>,
    last_places: Vec<i32>,
    passages: Vec<Passage>,
}

impl<'a> Search<'a> {
    pub(super) fn new(format: &'a BlockFormat) -> Self {
        Self::with_isa(format, Isa::selected())
    }

    pub(super) fn with_isa(format: &'a BlockFormat, isa: Isa) -> Self {
        let codebook = &format.codebook;
        let (values, is_symmetric) = (codebook.values(), codebook.is_symmetric());
        let not_negative = values
            .iter()
            .copied()
            .filter(|v| !is_symmetric || *v >= 0.0);
        let mut signs = vec![Values::new(not_negative, false)];
        if format.grid.is_signed() && !is_symmetric {
            let negated = values.iter().rev().map(|value| -value);
            signs.push(Values::new(negated, true));
        }
        let [low, high] = signs[0].ends();
        Self {
            format,
            isa,
            is_symmetric,
            limit: f64::from(f32::MAX) / low.abs().max(high.abs()).max(1.0),
            signs,
            block: Block::default(),
            cells: Vec::new(),
            finer: Vec::new(),
            places: Vec::new(),
            last_places: Vec::new(),
            passages: Vec::new(),
        }
    }

    /// Writes the best codes; returns their scale and error.
    pub(super) fn solve(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        codes: &mut [u8],
    ) -> (f32, f64) {
        // Then every solution has error zero.
        let is_flat = curvature.is_some_and(|d| d.iter().all(|d| *d == 0.0));
        let curvature = curvature.filter(|_| !is_flat);
        let has_zero = self.signs[0].magnitudes[0] == 0.0;
        (self.block).set(weights, curvature, self.is_symmetric, has_zero);
        self.places.resize(self.block.weights.len(), 0);
        self.last_places.resize(self.block.weights.len(), 0);
        let mut best = Best {
            scale: self.format.grid.smallest(),
            is_negated: false,
            gain: 0.0,
        };
        for sign in 0..self.signs.len() {
            self.improve(sign, &mut best);
        }
        let (values, block) = (&self.signs[usize::from(best.is_negated)], &self.block);
        let scale = f64::from(best.scale);
        values.place(self.isa, &block.weights, scale, &mut self.places);
        let (count, last) = (self.format.codebook.values().len(), values.values.len() - 1);
        let mut error = 0.0;
        for (index, code) in codes.iter_mut().enumerate() {
            let place = self.places[index] as usize;
            let rest = block.weights[index] - scale * values.values[place];
            error += block.curvature[index] * rest * rest;
            *code = match (self.is_symmetric, values.is_negated) {
                (true, _) if weights[index] < 0.0 => last - place,
                (true, _) => count - 1 - last + place,
                (false, true) => last - place,
                (false, false) => place,
            } as u8;
        }
        let scale = if best.is_negated {
            -best.scale
        } else {
            best.scale
        };
        (scale, if is_flat { 0.0 } else { 0.5 * error })
    }

    /// Improves `best` by the scales of one sign.
    fn improve(&mut self, sign: usize, best: &mut Best) {
        let (isa, values, block) = (self.isa, &self.signs[sign], &self.block);
        let grid = Grid {
            grid: self.format.grid,
            limit: self.limit,
            is_negated: values.is_negated,
        };
        let Extent {
            largest,
            smallest,
            height,
            products,
            curvatures,
        } = extent(isa, &block.weights, &block.curvature, values.ends());
        if height <= 0.0 {
            return;
        }
        // The value v nearest to x has |v| ≤ 2 |x| + |v₀|, with v₀ nearest to zero. So all terms of H together are at
        // most thrice this, and rounding changes them by less than a part that grows with their number.
        let [least, most] = values.magnitudes;
        let terms = move |scale: f64| most * (products + scale * least * curvatures);
        let margin = f64::from(f32::EPSILON) * (8 + block.weights.len() / LANES) as f64;
        let rounding = move |scale: f64| 8.0 * margin * scale * terms(scale);
        // From `top` on every weight has the value nearest to zero.
        let above_zero = values.middles.iter().find(|middle| **middle > 0.0);
        let below_zero = values.middles.iter().rfind(|middle| **middle < 0.0);
        let top = above_zero.map_or(0.0, |middle| largest / middle);
        let top = top.max(below_zero.map_or(0.0, |middle| smallest / middle));
        let top = if top > 0.0 {
            top
        } else {
            largest.max(-smallest)
        };
        // If the cells end in all scales of the grid there is none within them.
        let cuts = CUTS.min(grid.grid.mantissa());
        let has_grid_within = grid.grid.mantissa() > cuts;
        let (mut cells, mut finer) = (take(&mut self.cells), take(&mut self.finer));
        let places = &mut self.places;
        let point = |scale: f64, places: &mut [i32], best: &mut Best| {
            let sums = block.rounded_sums(isa, values, scale);
            // What is within a cell is found there: only a clearly better scale is worth exact sums.
            let is_better = match has_grid_within {
                true => sums.exceed(1.01 * best.gain),
                false => sums.above(2.0 * margin * terms(scale)).exceed(best.gain),
            };
            if is_better {
                values.place(isa, &block.weights, scale, places);
                grid.improve(block.sums(values, places), best);
            }
            let height = sums.product - 0.5 * scale * sums.square;
            Point { scale, height }
        };
        cells.clear();
        let mut high = point(1.0 / to_one(top), places, best);
        if !values.values.contains(&0.0) {
            // From there on one assignment is the best, which no cell has.
            values.place(isa, &block.weights, high.scale, places);
            grid.improve(block.sums(values, places), best);
        }
        loop {
            // Below, G ≤ 2 s H(0) is less than the best gain, or the grid has no scale.
            if 2.0 * high.scale * height + rounding(high.scale) < best.gain
                || high.scale < grid.grid.smallest_positive()
            {
                break;
            }
            let low = point(0.5 * high.scale, places, best);
            cells.push(Cell { low, high });
            high = low;
        }
        let remains =
            |cell: &Cell, best: &Best| cell.may_exceed(best.gain - rounding(cell.high.scale));
        for _ in 0..cuts {
            finer.clear();
            for cell in &cells {
                if remains(cell, best) {
                    let Cell { low, high } = *cell;
                    let middle = point(0.5 * (high.scale + low.scale), places, best);
                    finer.extend([Cell { low: middle, high }, Cell { low, high: middle }]);
                }
            }
            swap(&mut cells, &mut finer);
        }
        if has_grid_within {
            cells.retain(|cell| remains(cell, best));
            let mut rest = &cells[..];
            while let Some(first) = rest.first() {
                let is_next = |pair: &&[Cell]| pair[0].low.scale == pair[1].high.scale;
                let count = 1 + rest.windows(2).take_while(is_next).count();
                let (run, others) = rest.split_at(count);
                // A better scale of another run may have excluded all of this one.
                if run.iter().any(|cell| remains(cell, best)) {
                    self.visit(
                        sign,
                        [run[count - 1].low.scale, first.high.scale],
                        grid,
                        best,
                    );
                }
                rest = others;
            }
        }
        (self.cells, self.finer) = (cells, finer);
    }

    /// Visits all assignments that are the best for a scale between two.
    fn visit(&mut self, sign: usize, [low, high]: [f64; 2], grid: Grid, best: &mut Best) {
        let (values, block) = (&self.signs[sign], &self.block);
        let (places, passages) = (&mut self.places, &mut self.passages);
        values.place(self.isa, &block.weights, high, places);
        values.place(self.isa, &block.weights, low, &mut self.last_places);
        passages.clear();
        for (weight, (first, last)) in places.iter().zip(&self.last_places).enumerate() {
            if first != last {
                let (first, last) = (*first as usize, *last as usize);
                let passed = &values.middles[first.min(last)..first.max(last)];
                passages.extend(passed.iter().map(|middle| Passage {
                    scale: block.weights[weight] / middle,
                    weight: weight as u32,
                }));
            }
        }
        let order =
            |a: &Passage, b: &Passage| b.scale.total_cmp(&a.scale).then(a.weight.cmp(&b.weight));
        passages.sort_unstable_by(order);
        let mut sums = block.sums(values, places);
        grid.improve(sums, best);
        for passage in passages {
            let weight = passage.weight as usize;
            let (w, d) = (block.weights[weight], block.curvature[weight]);
            let place = &mut places[weight];
            let before = values.values[*place as usize];
            *place += if w > 0.0 { 1 } else { -1 };
            let after = values.values[*place as usize];
            sums.product += d * w * (after - before);
            sums.square += d * (after * after - before * before);
            grid.improve(sums, best);
        }
    }
}

multiversion! {
    /// The sums of successive integers nearest to `w · inverse`.
    fn rounded_sums(weights: &[f32], curvature: &[f32], inverse: f32, ends: [f32; 2]) -> [f32; 2] {
        let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let x = (w[lane] * inverse).max(ends[0]).min(ends[1]);
                let value = (x + ROUND_F32) - ROUND_F32;
                let weighted = d[lane] * value;
                product[lane] += weighted * w[lane];
                square[lane] += weighted * value;
            }
        }
        [total(product), total(square)]
    }
}

multiversion! {
    /// The sums of the values nearest to `w · inverse`: `first`, with the changes at all middles passed.
    fn nearest_sums<T: Table>(weights: &[f32], curvature: &[f32], inverse: f32, first: u32, changes: T) -> [f32; 2] {
        let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let (x, mut bits) = (w[lane] * inverse, first);
                for change in changes.get() {
                    bits ^= change.bits & u32::from(x > change.middle).wrapping_neg();
                }
                let value = f32::from_bits(bits);
                let weighted = d[lane] * value;
                product[lane] += weighted * w[lane];
                square[lane] += weighted * value;
            }
        }
        [total(product), total(square)]
    }
}

multiversion! {
    fn rounded_places(weights: &[f64], inverse: f64, ends: [f64; 2], places: &mut [i32]) {
        let first = ends[0] as i32;
        for (w, place) in weights.iter().zip(places) {
            let x = (w * inverse).max(ends[0]).min(ends[1]);
            // The sum has the integer in its lowest bits.
            *place = (x + ROUND_F64).to_bits() as i32 - first;
        }
    }
}

multiversion! {
    fn nearest_places(weights: &[f64], inverse: f64, middles: &[f64], places: &mut [i32]) {
        let (weights, _) = weights.as_chunks::<LANES>();
        let (places, _) = places.as_chunks_mut::<LANES>();
        for (w, places) in weights.iter().zip(places) {
            let mut passed = [0i64; LANES];
            for middle in middles {
                for lane in 0..LANES {
                    passed[lane] += i64::from(w[lane] * inverse > *middle);
                }
            }
            *places = passed.map(|passed| passed as i32);
        }
    }
}

/// What bounds the scales and sums of a block.
struct Extent {
    /// The largest weight with curvature, or zero.
    largest: f64,
    /// The smallest weight with curvature, or zero.
    smallest: f64,
    /// H(0): `Σ d max(w low, w high)`.
    height: f64,
    /// `Σ d |w|`
    products: f64,
    /// `Σ d`
    curvatures: f64,
}

multiversion! {
    fn extent(weights: &[f64], curvature: &[f64], ends: [f64; 2]) -> Extent {
        let (mut largest, mut smallest) = ([0.0f64; LANES], [0.0f64; LANES]);
        let (mut height, mut products, mut curvatures) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let counted = if d[lane] > 0.0 { w[lane] } else { 0.0 };
                largest[lane] = largest[lane].max(counted);
                smallest[lane] = smallest[lane].min(counted);
                height[lane] += d[lane] * (w[lane] * ends[0]).max(w[lane] * ends[1]);
                products[lane] += d[lane] * w[lane].abs();
                curvatures[lane] += d[lane];
            }
        }
        Extent {
            largest: largest.into_iter().fold(0.0, f64::max),
            smallest: smallest.into_iter().fold(0.0, f64::min),
            height: total(height),
            products: total(products),
            curvatures: total(curvatures),
        }
    }
}

/// The sum of the lanes, in halves.
#[inline(always)]
fn total<T: Copy + AddAssign>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            let other = lanes[lane + half];
            lanes[lane] += other;
        }
        half /= 2;
    }
    lanes[0]
}
