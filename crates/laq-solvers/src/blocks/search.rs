//! The optimum of one block; see the [module](super).

use std::mem::{swap, take};

use laq_simd::Isa;

use super::block::{Block, Extent, Sums, to_one};
use super::values::{LANES, Values};
use super::{BlockFormat, ScaleGrid};

/// How often cells are cut into halves. The first are a factor of two wide.
const CUTS: u32 = 3;

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
        Self {
            format,
            isa,
            is_symmetric,
            limit: f64::from(f32::MAX) / signs[0].magnitudes[1].max(1.0),
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
        let has_zero = self.signs[0].has_zero();
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
        } = block.extent(isa, values.ends());
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
        if !values.has_zero() {
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
