//! The weights of a block, and their sums.

use laq_simd::{Isa, multiversion};

use super::values::{LANES, Values, total};

/// `S = Σ d w v` and `D = Σ d v²`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sums {
    pub(super) product: f64,
    pub(super) square: f64,
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
    pub(super) fn gain_at(self, scale: f64) -> f64 {
        scale * (2.0 * self.product - scale * self.square)
    }
}

/// The weights of a block.
#[derive(Default)]
pub(super) struct Block {
    pub(super) weights: Vec<f64>,
    pub(super) curvature: Vec<f64>,
    /// The same in f32 with the largest in [½, 1]: times a power of two each.
    weights_f32: Vec<f32>,
    curvature_f32: Vec<f32>,
    /// Those powers of two.
    factors: [f64; 2],
}

/// The power of two that brings a positive number to [½, 1).
pub(super) fn to_one(largest: f64) -> f64 {
    let exponent = (largest.to_bits() >> 52) as i64 - 1022;
    f64::from_bits(((1023 - exponent) as u64) << 52)
}

impl Block {
    /// Takes the weights, or with `magnitudes` theirs. With a value of zero a weight of zero has no part in
    /// any sum.
    pub(super) fn set(
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

    /// What bounds its scales and sums, with the values between `ends`.
    pub(super) fn extent(&self, isa: Isa, ends: [f64; 2]) -> Extent {
        extent(isa, &self.weights, &self.curvature, ends)
    }

    /// The sums at the values nearest to `w / scale`, rounded in f32.
    pub(super) fn rounded_sums(&self, isa: Isa, values: &Values, scale: f64) -> Sums {
        let [of_weights, of_curvature] = self.factors;
        let inverse = (1.0 / (scale * of_weights)).min(f64::from(f32::MAX)) as f32;
        let [product, square] = values.sums(isa, &self.weights_f32, &self.curvature_f32, inverse);
        Sums {
            product: f64::from(product) / (of_weights * of_curvature),
            square: f64::from(square) / of_curvature,
        }
    }

    /// The sums of an assignment.
    pub(super) fn sums(&self, values: &Values, places: &[i32]) -> Sums {
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

/// What bounds the scales and sums of a block.
pub(super) struct Extent {
    /// The largest weight with curvature, or zero.
    pub(super) largest: f64,
    /// The smallest weight with curvature, or zero.
    pub(super) smallest: f64,
    /// H(0): `Σ d max(w low, w high)`.
    pub(super) height: f64,
    /// `Σ d |w|`
    pub(super) products: f64,
    /// `Σ d`
    pub(super) curvatures: f64,
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
