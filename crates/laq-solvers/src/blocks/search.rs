//! The optimum of one block; see the [module](super).

use std::mem::{swap, take};

use laq_simd::{Isa, multiversion};

use super::ScaleGrid;
use super::block::{Block, Extent, Points, Sums, is_flat};
use super::values::{CHUNK, LANES, Values};
use crate::codebook::Codebook;

/// A grid with up to this many bits of the mantissa has few scales: they are compared one by one.
const MAX_LISTED: u32 = 3;

/// The largest quotient of scales between which all assignments are visited at once: with up to four values, and with
/// more, where more weights pass a middle.
const WIDEST: [f64; 2] = [1.5, 1.06];

/// The scales between two.
#[derive(Clone, Copy, Debug)]
struct Cell {
    low: f64,
    high: f64,
    /// The largest gain within, up to rounding.
    bound: f64,
}

multiversion! {
    /// What the gains between each of rising scales and the next are at most: those of `2 s L(s)`, with the chord
    /// L of H, and `slack · s · (1 + rise · s)` for rounding.
    fn cell_bounds(points: &Points, slack: f64, rise: f64) -> [f64; LANES] {
        let mut bounds = [0.0; LANES];
        for lane in 0..LANES - 1 {
            let (low, high) = (points.scales[lane], points.scales[lane + 1]);
            let (at_low, at_high) = (points.heights[lane], points.heights[lane + 1]);
            // L(s) = (p − q s) / width, so 2 s L(s) is largest at p / 2q, where it is p² / 2q / width.
            let (width, q) = (high - low, at_low - at_high);
            let p = at_low * width + q * low;
            let is_within = (q > 0.0) & (p > 2.0 * q * low) & (p < 2.0 * q * high);
            let within = if is_within { p * p / (2.0 * q * width) } else { 0.0 };
            let at_ends = (2.0 * low * at_low).max(2.0 * high * at_high);
            bounds[lane] = at_ends.max(within) + slack * high * (1.0 + rise * high);
        }
        bounds
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

/// Solves blocks of a codebook with scales of a grid. Allocates for the largest block alone.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    codebook: Codebook,
    grid: ScaleGrid,
    isa: Isa,
    /// The number of values.
    count: usize,
    is_symmetric: bool,
    signs: Vec<Values>,
    /// The largest quotient of scales between which all assignments are visited at once.
    widest: f64,
    /// The largest scale whose values are finite in f32.
    limit: f64,
    block: Block,
    cells: Vec<Cell>,
    finer: Vec<Cell>,
    places: Vec<i32>,
    last_places: Vec<i32>,
    passages: Vec<Passage>,
}

impl Search {
    pub(crate) fn new(codebook: &Codebook, grid: ScaleGrid) -> Self {
        Self::with_isa(codebook, grid, Isa::selected())
    }

    pub(crate) fn with_isa(codebook: &Codebook, grid: ScaleGrid, isa: Isa) -> Self {
        let (values, is_symmetric) = (codebook.values(), codebook.is_symmetric());
        let not_negative = values
            .iter()
            .copied()
            .filter(|v| !is_symmetric || *v >= 0.0);
        let mut signs = vec![Values::new(not_negative, false)];
        if grid.is_signed() && !is_symmetric {
            let negated = values.iter().rev().map(|value| -value);
            signs.push(Values::new(negated, true));
        }
        Self {
            codebook: codebook.clone(),
            grid,
            isa,
            count: values.len(),
            // The more values, the more passages between them.
            widest: WIDEST[usize::from(signs[0].middles.len() > 3)],
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

    /// Whether this solves blocks of the codebook and the grid.
    pub(crate) fn is_for(&self, codebook: &Codebook, grid: ScaleGrid) -> bool {
        self.grid == grid && self.codebook == *codebook
    }

    /// Writes the best codes; returns their scale and error. `start` may be a good scale, such as that of
    /// weights which have moved little since.
    pub(crate) fn solve(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        start: Option<f32>,
        mut put: impl FnMut(usize, u8),
    ) -> (f32, f64) {
        let (has_zero, magnitudes) = (self.signs[0].has_zero(), self.is_symmetric);
        // Then every solution has error zero.
        let is_flat = curvature.is_some_and(|d| is_flat(weights, d, has_zero));
        let curvature = curvature.filter(|_| !is_flat);
        (self.block).set(self.isa, weights, curvature, magnitudes, has_zero);
        self.places.resize(self.block.weights.len(), 0);
        self.last_places.resize(self.block.weights.len(), 0);
        let mut best = Best {
            scale: self.grid.smallest(),
            is_negated: false,
            gain: 0.0,
        };
        // Both signs, since the sign of the start may be lost among equal solutions.
        let start = start.map(|start| f64::from(start.abs()));
        for sign in 0..self.signs.len() {
            if let Some(start) = start.filter(|start| *start > 0.0 && start.is_finite()) {
                self.improve_at(sign, start, &mut best);
            }
        }
        for sign in 0..self.signs.len() {
            self.improve(sign, &mut best);
        }
        let (values, block) = (&self.signs[usize::from(best.is_negated)], &self.block);
        let scale = f64::from(best.scale);
        values.place(self.isa, &block.weights, scale, &mut self.places);
        let (count, last) = (self.count, values.values.len() - 1);
        let mut error = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            let place = self.places[index] as usize;
            let rest = f64::from(block.weights[index]) - scale * values.values[place];
            error += f64::from(block.curvature[index]) * rest * rest;
            let code = match (self.is_symmetric, values.is_negated) {
                (true, _) if *weight < 0.0 => last - place,
                (true, _) => count - 1 - last + place,
                (false, true) => last - place,
                (false, false) => place,
            };
            put(index, code as u8);
        }
        let scale = if best.is_negated {
            -best.scale
        } else {
            best.scale
        };
        (scale, if is_flat { 0.0 } else { 0.5 * error })
    }

    /// The scales of a sign.
    fn scales_of(&self, sign: usize) -> Grid {
        Grid {
            grid: self.grid,
            limit: self.limit,
            is_negated: self.signs[sign].is_negated,
        }
    }

    /// Improves `best` by the assignment of the values nearest at a scale.
    fn improve_at(&mut self, sign: usize, scale: f64, best: &mut Best) {
        let (values, places) = (&self.signs[sign], &mut self.places);
        let sums = self.block.sums_at(self.isa, values, scale, places);
        self.scales_of(sign).improve(sums, best);
    }

    /// Improves `best` by the scales of one sign.
    fn improve(&mut self, sign: usize, best: &mut Best) {
        let values = &self.signs[sign];
        let ends = values.ends();
        let Extent {
            largest,
            smallest,
            products: [above, below],
            curvatures,
            ..
        } = self.block.extent;
        // H(0) = Σ d max(w low, w high)
        let height = ends[1] * above - ends[0] * below;
        if height <= 0.0 {
            return;
        }
        // The value v nearest to x has |v| ≤ 2 |x| + |v₀|, with v₀ nearest to zero. So all terms of H together are at
        // most thrice this, and rounding changes them by less than a part that grows with their number.
        let [least, most] = values.magnitudes;
        let margin = f64::from(f32::EPSILON) * (8 + CHUNK) as f64;
        // Terms below the smallest normal f32 are rounded as if they were as large.
        let (.., [of_weights, of_curvature]) = self.block.rescaled();
        let larger = most.max(1.0);
        let tiny = f64::from(f32::MIN_POSITIVE) * self.block.length as f64 * larger / of_curvature;
        let bounds = Bounds {
            margin,
            products: most * (above + below) + tiny / of_weights,
            curvatures: most * least * curvatures + tiny * larger,
        };
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
        let (is_constant, has_zero) = (values.middles.is_empty(), values.has_zero());
        if !has_zero {
            // From there on one assignment is the best, which no cell has.
            self.improve_at(sign, 2.0 * top, best);
        }
        if is_constant {
            return;
        }
        let smallest = self.grid.smallest_positive();
        // Without a solution so far, by halves until there is one.
        let mut high = top;
        while best.gain == 0.0 && high >= smallest {
            let halves = std::array::from_fn(|lane| high * 0.5f64.powi(lane as i32));
            self.points(sign, &bounds, &halves, false, best);
            high *= 0.5f64.powi(LANES as i32);
        }
        // Below `low`, G ≤ 2 s H(0) is less than the best gain, or the grid has no scale.
        let mut low = 0.999 * best.gain / (2.0 * height);
        while 2.0 * low * height + bounds.rounding(low) >= best.gain && low >= smallest {
            low *= 0.5;
        }
        let low = low.max(smallest);
        if low >= top {
            return;
        }
        let (mut cells, mut finer) = (take(&mut self.cells), take(&mut self.finer));
        cells.clear();
        let is_coarse = self.grid.mantissa() <= MAX_LISTED;
        if self.grid.mantissa() > 0 {
            self.cut(sign, &bounds, [low, top], best, &mut cells);
            let is_wide = |run: &[f64; 2]| run[1] > self.widest * run[0];
            if !is_coarse && runs(&cells).any(|run| is_wide(&run)) {
                finer.clear();
                for run in runs(&cells) {
                    self.cut(sign, &bounds, run, best, &mut finer);
                }
                swap(&mut cells, &mut finer);
                cells.retain(|cell| cell.bound > best.gain);
            }
        } else {
            cells.push(Cell {
                low,
                high: top,
                bound: f64::INFINITY,
            });
        }
        let mut from = 0;
        while let Some(cell) = cells.get(from) {
            let is_next = |pair: &&[Cell]| pair[0].high == pair[1].low;
            let count = 1 + cells[from..].windows(2).take_while(is_next).count();
            let run = [cell.low, cells[from + count - 1].high];
            // A better scale of another run may have excluded all of this one.
            if is_coarse {
                self.list(sign, &bounds, run, best);
            } else if cells[from..from + count]
                .iter()
                .any(|cell| cell.bound > best.gain)
            {
                self.visit(sign, run, best);
            }
            from += count;
        }
        (self.cells, self.finer) = (cells, finer);
    }

    /// The points of scales. Improves `best` at the best of them if it is clearly better, or with `all` at all that
    /// may be.
    fn points(
        &mut self,
        sign: usize,
        bounds: &Bounds,
        scales: &[f64; LANES],
        all: bool,
        best: &mut Best,
    ) -> Points {
        let points = self.block.points(self.isa, &self.signs[sign], scales);
        let (mut most, mut at) = (best.gain, None);
        for (lane, scale) in scales.iter().enumerate() {
            let sums = Sums {
                product: points.products[lane],
                square: points.squares[lane],
            };
            if all {
                let margin = 2.0 * bounds.margin * bounds.terms(*scale);
                if sums.above(margin).exceed(best.gain) {
                    self.improve_at(sign, *scale, best);
                }
            } else if sums.exceed(1.001 * most) && sums.square > 0.0 {
                (most, at) = (sums.product * sums.product / sums.square, Some(*scale));
            }
        }
        if let Some(scale) = at {
            self.improve_at(sign, scale, best);
        }
        points
    }

    /// Cuts the scales between two into cells and adds those that may have a better one.
    fn cut(
        &mut self,
        sign: usize,
        bounds: &Bounds,
        [low, high]: [f64; 2],
        best: &mut Best,
        cells: &mut Vec<Cell>,
    ) {
        // Even steps of the bits, which are those of the logarithm within a factor of two.
        let (first, last) = (low.to_bits(), high.to_bits());
        let step = (last - first) / (LANES - 1) as u64;
        let scale = |lane: usize| f64::from_bits(first + step * lane as u64);
        let mut scales: [f64; LANES] = std::array::from_fn(scale);
        scales[LANES - 1] = high;
        let points = self.points(sign, bounds, &scales, false, best);
        let of_cells = bounds.of_cells(self.isa, &points);
        for (lane, bound) in of_cells.into_iter().take(LANES - 1).enumerate() {
            if bound > best.gain {
                let [low, high] = [scales[lane], scales[lane + 1]];
                cells.push(Cell { low, high, bound });
            }
        }
    }

    /// Improves `best` by the scales of the grid between two, which are few.
    fn list(&mut self, sign: usize, bounds: &Bounds, [low, high]: [f64; 2], best: &mut Best) {
        let mut next = f64::from(self.grid.neighbours(low, self.limit)[0]);
        while next < high {
            let scales = std::array::from_fn(|_| {
                let scale = next;
                next = self.grid.after(next);
                scale
            });
            self.points(sign, bounds, &scales, true, best);
        }
        self.improve_at(sign, next.min(2.0 * high), best);
    }

    /// Visits all assignments that are the best for a scale between two.
    fn visit(&mut self, sign: usize, [low, high]: [f64; 2], best: &mut Best) {
        let scales = self.scales_of(sign);
        let (values, block) = (&self.signs[sign], &self.block);
        let (places, passages) = (&mut self.places, &mut self.passages);
        values.place(self.isa, &block.weights, low, &mut self.last_places);
        let mut sums = block.sums_at(self.isa, values, high, places);
        passages.clear();
        for (weight, (first, last)) in places.iter().zip(&self.last_places).enumerate() {
            if first != last {
                let (first, last) = (*first as usize, *last as usize);
                let passed = &values.middles[first.min(last)..first.max(last)];
                passages.extend(passed.iter().map(|middle| Passage {
                    scale: f64::from(block.weights[weight]) / middle,
                    weight: weight as u32,
                }));
            }
        }
        let order =
            |a: &Passage, b: &Passage| b.scale.total_cmp(&a.scale).then(a.weight.cmp(&b.weight));
        passages.sort_unstable_by(order);
        scales.improve(sums, best);
        for passage in passages {
            let weight = passage.weight as usize;
            let (w, d) = (
                f64::from(block.weights[weight]),
                f64::from(block.curvature[weight]),
            );
            let place = &mut places[weight];
            let before = values.values[*place as usize];
            *place += if w > 0.0 { 1 } else { -1 };
            let after = values.values[*place as usize];
            sums.product += d * w * (after - before);
            sums.square += d * (after * after - before * before);
            scales.improve(sums, best);
        }
    }
}

/// The scales from the first to the last of successive cells.
fn runs(cells: &[Cell]) -> impl Iterator<Item = [f64; 2]> {
    let runs = cells.chunk_by(|a, b| a.high == b.low);
    runs.map(|run| [run[0].low, run[run.len() - 1].high])
}

/// What bounds the sums of one sign of the scale, and their rounding.
struct Bounds {
    /// Rounding of a sum, relative to its terms.
    margin: f64,
    /// The terms of a sum: these, and the scale times those.
    products: f64,
    curvatures: f64,
}

impl Bounds {
    fn terms(&self, scale: f64) -> f64 {
        self.products + scale * self.curvatures
    }

    /// Rounding of the gain at a scale.
    fn rounding(&self, scale: f64) -> f64 {
        8.0 * self.margin * scale * self.terms(scale)
    }

    /// What the gains between each scale and the next are at most.
    fn of_cells(&self, isa: Isa, points: &Points) -> [f64; LANES] {
        let slack = 8.0 * self.margin * self.products;
        cell_bounds(isa, points, slack, self.curvatures / self.products)
    }
}
