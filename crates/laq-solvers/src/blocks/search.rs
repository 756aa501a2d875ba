//! The optimum of one block; see the [module](super).

use std::mem::{swap, take};

use laq_simd::{Isa, multiversion};

use super::{BlockFormat, ScaleGrid};

/// Weights that are handled together; blocks are padded to a multiple with zeros.
const LANES: usize = 8;

/// How often cells are cut into halves. The first are a factor of two wide.
const CUTS: u32 = 3;

/// Bounds are raised by this, relative to the largest term of their sums, which exceeds the rounding
/// errors of the sums of a block.
const MARGIN: f64 = 1e-9;

/// Adding and subtracting it rounds an f64 of up to 2⁵¹ to an integer.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// The values of one sign of the scale.
struct Values {
    /// In rising order.
    values: Vec<f64>,
    /// Between each value and the next.
    middles: Vec<f64>,
    /// Whether the values are successive integers.
    is_integers: bool,
    /// The place of the value nearest to zero.
    at_zero: usize,
    is_negated: bool,
}

impl Values {
    fn new(values: impl Iterator<Item = f32>, is_negated: bool) -> Self {
        let values: Vec<f64> = values.map(f64::from).collect();
        let middles: Vec<f64> = (values.windows(2))
            .map(|pair| 0.5 * (pair[0] + pair[1]))
            .collect();
        let is_integer = |value: &f64| value.fract() == 0.0;
        Self {
            is_integers: is_integer(&values[0])
                && values.windows(2).all(|pair| pair[1] == pair[0] + 1.0),
            at_zero: middles.iter().filter(|middle| **middle < 0.0).count(),
            values,
            middles,
            is_negated,
        }
    }

    /// The place of the value nearest to `x`.
    fn nearest(&self, x: f64) -> usize {
        if self.is_integers {
            let [low, high] = self.ends();
            return (((x.clamp(low, high) + ROUND) - ROUND) - low) as usize;
        }
        self.middles.iter().filter(|middle| x > **middle).count()
    }

    fn ends(&self) -> [f64; 2] {
        [self.values[0], self.values[self.values.len() - 1]]
    }
}

/// `S = Σ d w v` and `D = Σ d v²`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sums {
    product: f64,
    square: f64,
}

impl Sums {
    /// Twice the reduction of the error at the best scale.
    fn gain(self) -> f64 {
        match self.product > 0.0 && self.square > 0.0 {
            true => self.product * self.product / self.square,
            false => 0.0,
        }
    }

    /// Twice the reduction of the error at a scale.
    fn gain_at(self, scale: f64) -> f64 {
        scale * (2.0 * self.product - scale * self.square)
    }

    /// `S − ½ s D`.
    fn height(self, scale: f64) -> f64 {
        self.product - 0.5 * scale * self.square
    }
}

/// A scale with its sums at the nearest values.
#[derive(Clone, Copy, Debug)]
struct Point {
    scale: f64,
    sums: Sums,
}

impl Point {
    fn height(self) -> f64 {
        self.sums.height(self.scale)
    }
}

/// The largest gain between two scales, by the chord of H.
fn bound(low: Point, high: Point) -> f64 {
    let (a, b) = (low.scale, high.scale);
    let (at_a, at_b) = (low.height(), high.height());
    let slope = (at_b - at_a) / (b - a);
    let gain = |scale: f64| 2.0 * scale * (at_a + slope * (scale - a));
    let top = a - (at_a + slope * a) / (2.0 * slope);
    let ends = gain(a).max(gain(b));
    match top > a && top < b {
        true => ends.max(gain(top)),
        false => ends,
    }
}

/// Where a weight passes the middle of two values.
#[derive(Clone, Copy, Debug)]
struct Passage {
    scale: f64,
    weight: usize,
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

/// Solves blocks of a format. Allocates for the largest block alone.
pub(super) struct Search<'a> {
    format: &'a BlockFormat,
    isa: Isa,
    signs: Vec<Values>,
    /// The largest scale whose values are finite in f32.
    limit: f64,
    weights: Vec<f64>,
    curvature: Vec<f64>,
    points: Vec<Point>,
    finer: Vec<Point>,
    steps: Steps,
}

/// From one assignment to the next in a cell.
#[derive(Default)]
struct Steps {
    /// The places of the values of all weights.
    places: Vec<usize>,
    passages: Vec<Passage>,
}

impl<'a> Search<'a> {
    pub(super) fn new(format: &'a BlockFormat) -> Self {
        Self::with_isa(format, Isa::selected())
    }

    pub(super) fn with_isa(format: &'a BlockFormat, isa: Isa) -> Self {
        let codebook = &format.codebook;
        let values = codebook.values();
        let mut signs = vec![Values::new(values.iter().copied(), false)];
        if format.grid.is_signed() && !codebook.is_symmetric() {
            let negated = values.iter().rev().map(|value| -value);
            signs.push(Values::new(negated, true));
        }
        let [low, high] = signs[0].ends();
        Self {
            format,
            isa,
            limit: f64::from(f32::MAX) / low.abs().max(high.abs()).max(1.0),
            signs,
            weights: Vec::new(),
            curvature: Vec::new(),
            points: Vec::new(),
            finer: Vec::new(),
            steps: Steps::default(),
        }
    }

    /// Writes the best codes; returns their scale and error.
    pub(super) fn solve(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        codes: &mut [u8],
    ) -> (f32, f64) {
        let padded = weights.len().next_multiple_of(LANES);
        // Then every solution has error zero.
        let is_flat = curvature.is_some_and(|d| d.iter().all(|d| *d == 0.0));
        let curvature = curvature.filter(|_| !is_flat);
        self.weights.clear();
        self.weights.extend(weights.iter().map(|w| f64::from(*w)));
        self.weights.resize(padded, 0.0);
        self.curvature.clear();
        match curvature {
            Some(d) => self.curvature.extend(d.iter().map(|d| f64::from(*d))),
            None => self.curvature.resize(weights.len(), 1.0),
        }
        self.curvature.resize(padded, 0.0);
        let mut best = Best {
            scale: self.format.grid.smallest(),
            is_negated: false,
            gain: 0.0,
        };
        for sign in 0..self.signs.len() {
            self.improve(sign, &mut best);
        }
        let values = &self.signs[usize::from(best.is_negated)];
        let (last, inverse) = (values.values.len() - 1, 1.0 / f64::from(best.scale));
        let mut error = 0.0;
        let parts = self.weights.iter().zip(&self.curvature);
        for (code, (w, d)) in codes.iter_mut().zip(parts) {
            let place = match best.scale > 0.0 {
                true => values.nearest(w * inverse),
                false => values.at_zero,
            };
            let rest = w - f64::from(best.scale) * values.values[place];
            error += d * rest * rest;
            *code = if values.is_negated {
                last - place
            } else {
                place
            } as u8;
        }
        let scale = if best.is_negated {
            -best.scale
        } else {
            best.scale
        };
        (scale, if is_flat { 0.0 } else { 0.5 * error })
    }

    fn point(&self, values: &Values, scale: f64) -> Point {
        let sums = match values.is_integers {
            true => rounded_sums(
                self.isa,
                &self.weights,
                &self.curvature,
                1.0 / scale,
                values.ends(),
            ),
            false => sums(
                self.isa,
                &self.weights,
                &self.curvature,
                1.0 / scale,
                &values.values,
                &values.middles,
            ),
        };
        Point { scale, sums }
    }

    /// Improves `best` by the scales of one sign.
    fn improve(&mut self, sign: usize, best: &mut Best) {
        let values = &self.signs[sign];
        let grid = Grid {
            grid: self.format.grid,
            limit: self.limit,
            is_negated: values.is_negated,
        };
        let [low, high] = values.ends();
        let (mut largest, mut smallest, mut height) = (0.0f64, 0.0f64, 0.0);
        for (w, d) in self.weights.iter().zip(&self.curvature) {
            if *d > 0.0 {
                (largest, smallest) = (largest.max(*w), smallest.min(*w));
                height += d * (w * low).max(w * high);
            }
        }
        if height <= 0.0 {
            return;
        }
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
        let (mut points, mut finer) = (take(&mut self.points), take(&mut self.finer));
        points.clear();
        let mut scale = top * (1.0 + MARGIN);
        loop {
            let point = self.point(values, scale);
            grid.improve(point.sums, best);
            points.push(point);
            // Below, G ≤ 2 s H(0) is less than the best gain, or the grid has no scale.
            if scale * height * (2.0 + MARGIN) < best.gain || scale < grid.grid.smallest_positive()
            {
                break;
            }
            scale *= 0.5;
        }
        let remains = |low: Point, high: Point, best: &Best| {
            bound(low, high) + MARGIN * high.scale * height > best.gain
        };
        for _ in 0..CUTS {
            finer.clear();
            finer.push(points[0]);
            for cell in points.windows(2) {
                let (high, low) = (cell[0], cell[1]);
                if remains(low, high, best) {
                    let point = self.point(values, 0.5 * (high.scale + low.scale));
                    grid.improve(point.sums, best);
                    finer.push(point);
                }
                finer.push(low);
            }
            swap(&mut points, &mut finer);
        }
        let mut steps = take(&mut self.steps);
        for cell in points.windows(2) {
            let (high, low) = (cell[0], cell[1]);
            if remains(low, high, best) {
                self.visit(values, (low, high), &grid, &mut steps, best);
            }
        }
        (self.points, self.finer, self.steps) = (points, finer, steps);
    }

    /// Visits all assignments that are the best for a scale of a cell.
    fn visit(
        &self,
        values: &Values,
        (low, high): (Point, Point),
        grid: &Grid,
        Steps { places, passages }: &mut Steps,
        best: &mut Best,
    ) {
        passages.clear();
        places.clear();
        let (of_low, of_high) = (1.0 / low.scale, 1.0 / high.scale);
        for (weight, w) in self.weights.iter().enumerate() {
            let (first, last) = (values.nearest(w * of_high), values.nearest(w * of_low));
            places.push(first);
            let passed = &values.middles[first.min(last)..first.max(last)];
            passages.extend(passed.iter().map(|middle| Passage {
                scale: w / middle,
                weight,
            }));
        }
        passages.sort_unstable_by(|a, b| b.scale.total_cmp(&a.scale).then(a.weight.cmp(&b.weight)));
        let mut sums = high.sums;
        for passage in &*passages {
            let (w, d) = (self.weights[passage.weight], self.curvature[passage.weight]);
            let place = &mut places[passage.weight];
            let before = values.values[*place];
            *place = if w > 0.0 { *place + 1 } else { *place - 1 };
            let after = values.values[*place];
            sums.product += d * w * (after - before);
            sums.square += d * (after * after - before * before);
            grid.improve(sums, best);
        }
    }
}

/// The scales of one sign.
struct Grid {
    grid: ScaleGrid,
    limit: f64,
    is_negated: bool,
}

impl Grid {
    /// Improves `best` by the best scale of an assignment.
    fn improve(&self, sums: Sums, best: &mut Best) {
        if sums.gain() <= best.gain {
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

multiversion! {
    /// The sums of successive integers nearest to `w · inverse`.
    fn rounded_sums(weights: &[f64], curvature: &[f64], inverse: f64, ends: [f64; 2]) -> Sums {
        let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let x = (w[lane] * inverse).max(ends[0]).min(ends[1]);
                let value = (x + ROUND) - ROUND;
                let weighted = d[lane] * value;
                product[lane] += weighted * w[lane];
                square[lane] += weighted * value;
            }
        }
        total(product, square)
    }
}

multiversion! {
    /// The sums of the values nearest to `w · inverse`.
    fn sums(weights: &[f64], curvature: &[f64], inverse: f64, values: &[f64], middles: &[f64]) -> Sums {
        let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            let mut value = [values[0]; LANES];
            for (middle, next) in middles.iter().zip(&values[1..]) {
                for lane in 0..LANES {
                    value[lane] = if w[lane] * inverse > *middle { *next } else { value[lane] };
                }
            }
            for lane in 0..LANES {
                let weighted = d[lane] * value[lane];
                product[lane] += weighted * w[lane];
                square[lane] += weighted * value[lane];
            }
        }
        total(product, square)
    }
}

#[inline(always)]
fn total(product: [f64; LANES], square: [f64; LANES]) -> Sums {
    Sums {
        product: product.iter().sum(),
        square: square.iter().sum(),
    }
}
