//! The weights of a block, and their sums.

use laq_simd::{Isa, multiversion};

use super::values::{LANES, Values, total};

/// `S = Σ d w v` and `D = Σ d v²`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sums {
    pub(crate) product: f64,
    pub(crate) square: f64,
}

impl Sums {
    /// Whether twice the reduction of the error at the best scale exceeds `gain`.
    pub(super) fn exceed(self, gain: f64) -> bool {
        self.product > 0.0 && self.product * self.product > gain * self.square
    }

    /// With a larger product.
    pub(super) fn above(self, by: f64) -> Self {
        Self {
            product: self.product + by,
            ..self
        }
    }

    /// Twice the reduction of the error at a scale.
    pub(crate) fn gain_at(self, scale: f64) -> f64 {
        scale * (2.0 * self.product - scale * self.square)
    }
}

/// Scales with the sums of their nearest values, up to rounding in f32.
pub(crate) struct Points {
    pub(crate) scales: [f64; LANES],
    pub(crate) products: [f64; LANES],
    pub(crate) squares: [f64; LANES],
    /// `H = S − ½ s D`
    pub(crate) heights: [f64; LANES],
}

/// The weights of a block, padded with zeros to a multiple of [`LANES`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    pub(crate) length: usize,
    pub(crate) weights: Vec<f32>,
    pub(crate) curvature: Vec<f32>,
    /// The same with the largest in [½, 1): times a power of two each. What has no part in any sum is zero.
    scaled_weights: Vec<f32>,
    scaled_curvature: Vec<f32>,
    /// Those powers of two.
    factors: [f64; 2],
    pub(crate) extent: Extent,
}

/// What bounds the scales and sums of a block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    /// The largest weight with curvature, or zero.
    pub(crate) largest: f64,
    /// The smallest weight with curvature, or zero.
    pub(crate) smallest: f64,
    /// The largest curvature of a weight that is not zero.
    most: f64,
    /// The largest curvature.
    most_of_all: f64,
    /// `Σ d w` of positive weights, and `Σ d |w|` of negative ones.
    pub(crate) products: [f64; 2],
    /// `Σ d`
    pub(crate) curvatures: f64,
}

/// The power of two that brings a positive number to [½, 1).
fn to_one(largest: f64) -> f64 {
    let exponent = (largest.to_bits() >> 52) as i64 - 1022;
    f64::from_bits(((1023 - exponent) as u64) << 52)
}

/// Whether no curvature counts: every solution is as good as that of the unweighted problem, see [`Problem`]. With a
/// value of zero a weight of zero has no error at any scale.
///
/// [`Problem`]: crate::Problem
pub(crate) fn is_flat(weights: &[f32], curvature: &[f32], has_zero: bool) -> bool {
    let mut all = weights.iter().zip(curvature);
    all.all(|(w, d)| *d == 0.0 || (has_zero && *w == 0.0))
}

impl Block {
    /// Takes the weights, or with `magnitudes` theirs. With a value of zero a weight of zero has no part in
    /// any sum.
    pub(crate) fn set(
        &mut self,
        isa: Isa,
        weights: &[f32],
        curvature: Option<&[f32]>,
        magnitudes: bool,
        has_zero: bool,
    ) {
        let padded = weights.len().next_multiple_of(LANES);
        self.length = weights.len();
        for buffer in [
            &mut self.weights,
            &mut self.curvature,
            &mut self.scaled_weights,
            &mut self.scaled_curvature,
        ] {
            buffer.clear();
            buffer.resize(padded, 0.0);
        }
        let sign_bits = if magnitudes { 1 << 31 } else { 0 };
        for (to, from) in self.weights.iter_mut().zip(weights) {
            *to = f32::from_bits(from.to_bits() & !sign_bits);
        }
        match curvature {
            Some(d) => self.curvature[..d.len()].copy_from_slice(d),
            None => self.curvature[..weights.len()].fill(1.0),
        }
        self.extent = extent(isa, &self.weights, &self.curvature);
        let Extent {
            largest,
            smallest,
            most,
            most_of_all,
            ..
        } = self.extent;
        let most = if has_zero { most } else { most_of_all };
        let factors =
            [largest.max(-smallest), most].map(|most| to_one(most.max(f64::MIN_POSITIVE)));
        self.factors = factors;
        let (w, d) = (&self.weights, &self.curvature);
        let (to_w, to_d) = (&mut self.scaled_weights, &mut self.scaled_curvature);
        rescale(isa, w, d, factors, has_zero, to_w, to_d);
    }

    /// The weights and curvature, each times a power of two, and those powers.
    pub(crate) fn rescaled(&self) -> (&[f32], &[f32], [f64; 2]) {
        (&self.scaled_weights, &self.scaled_curvature, self.factors)
    }

    /// The sums at the values nearest to `w / scale` for each of the scales, rounded as by [`Values::sums`].
    /// Scales may be negative.
    pub(crate) fn points(&self, isa: Isa, values: &Values, scales: &[f64; LANES]) -> Points {
        let inverses = inverses(isa, scales, self.factors[0]);
        let weights = &self.scaled_weights[..self.length];
        let curvature = &self.scaled_curvature[..self.length];
        let sums = values.sums(isa, weights, curvature, &inverses);
        points(isa, scales, sums, self.factors)
    }

    /// The sums of the values nearest to `w / scale`. Writes their places.
    pub(crate) fn sums_at(
        &self,
        isa: Isa,
        values: &Values,
        scale: f64,
        places: &mut [i32],
    ) -> Sums {
        values.place(isa, &self.weights, scale, places);
        let (w, d, places) = (&self.weights, &self.curvature, &*places);
        let [product, square] = match values.are_successive {
            true => sums_of_places(isa, w, d, places, IntegersFrom(values.ends()[0])),
            false => sums_of_places(isa, w, d, places, &values.values[..]),
        };
        Sums { product, square }
    }
}

multiversion! {
    /// `1 / (scale · factor)`
    fn inverses(scales: &[f64; LANES], factor: f64) -> [f32; LANES] {
        let mut inverses = [0.0; LANES];
        for lane in 0..LANES {
            let most = f64::from(f32::MAX);
            inverses[lane] = (1.0 / (scales[lane] * factor)).max(-most).min(most) as f32;
        }
        inverses
    }
}

multiversion! {
    /// From sums of weights and curvature that are multiplied by `factors`.
    fn points(scales: &[f64; LANES], sums: [[f64; LANES]; 2], factors: [f64; 2]) -> Points {
        let [mut products, mut squares] = sums;
        let mut heights = [0.0; LANES];
        let (of_product, of_square) = (1.0 / (factors[0] * factors[1]), 1.0 / factors[1]);
        for lane in 0..LANES {
            products[lane] *= of_product;
            squares[lane] *= of_square;
            heights[lane] = products[lane] - 0.5 * scales[lane] * squares[lane];
        }
        Points { scales: *scales, products, squares, heights }
    }
}

multiversion! {
    fn extent(weights: &[f32], curvature: &[f32]) -> Extent {
        let (mut largest, mut smallest) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (mut most, mut most_of_all) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (mut above, mut below, mut curvatures) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        for (w, d) in weights.iter().zip(curvature) {
            for lane in 0..LANES {
                let counted = if d[lane] > 0.0 { w[lane] } else { 0.0 };
                largest[lane] = largest[lane].max(counted);
                smallest[lane] = smallest[lane].min(counted);
                most[lane] = most[lane].max(if w[lane] != 0.0 { d[lane] } else { 0.0 });
                most_of_all[lane] = most_of_all[lane].max(d[lane]);
                let (w, d) = (f64::from(w[lane]), f64::from(d[lane]));
                above[lane] += d * w.max(0.0);
                below[lane] -= d * w.min(0.0);
                curvatures[lane] += d;
            }
        }
        let max = |lanes: [f32; LANES]| f64::from(lanes.into_iter().fold(0.0, f32::max));
        Extent {
            largest: max(largest),
            smallest: -max(smallest.map(|w| -w)),
            most: max(most),
            most_of_all: max(most_of_all),
            products: [total(above), total(below)],
            curvatures: total(curvatures),
        }
    }
}

multiversion! {
    fn rescale(weights: &[f32], curvature: &[f32], factors: [f64; 2], has_zero: bool, to_weights: &mut [f32], to_curvature: &mut [f32]) {
        for (((w, d), to_w), to_d) in weights.iter().zip(curvature).zip(to_weights).zip(to_curvature) {
            let counts = *d > 0.0 && (*w != 0.0 || !has_zero);
            let (w, d) = (f64::from(*w) * factors[0], f64::from(*d) * factors[1]);
            *to_w = if counts { w as f32 } else { 0.0 };
            *to_d = if counts { d as f32 } else { 0.0 };
        }
    }
}

/// The values at places.
trait ValueAt: Copy {
    fn at(&self, place: i32) -> f64;
}

/// The integers from this one on.
#[derive(Clone, Copy)]
struct IntegersFrom(f64);

impl ValueAt for IntegersFrom {
    #[inline(always)]
    fn at(&self, place: i32) -> f64 {
        self.0 + f64::from(place)
    }
}

impl ValueAt for &[f64] {
    #[inline(always)]
    fn at(&self, place: i32) -> f64 {
        self[place as usize]
    }
}

multiversion! {
    /// The sums of the values at `places`.
    fn sums_of_places<V: ValueAt>(weights: &[f32], curvature: &[f32], places: &[i32], values: V) -> [f64; 2] {
        let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
        let (weights, _) = weights.as_chunks::<LANES>();
        let (curvature, _) = curvature.as_chunks::<LANES>();
        let (places, _) = places.as_chunks::<LANES>();
        for ((w, d), place) in weights.iter().zip(curvature).zip(places) {
            for lane in 0..LANES {
                let value = values.at(place[lane]);
                let weighted = f64::from(d[lane]) * value;
                product[lane] += weighted * f64::from(w[lane]);
                square[lane] += weighted * value;
            }
        }
        [total(product), total(square)]
    }
}
