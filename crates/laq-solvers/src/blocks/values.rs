//! The values of a codebook, and the nearest of them to many weights.

use std::ops::AddAssign;

use laq_simd::{Isa, multiversion};

use crate::passes::lanes::Table;

/// Weights that are handled together; blocks are padded to a multiple with zeros.
pub(crate) const LANES: usize = 16;

/// Adding and subtracting it rounds an f32 of up to 2²² to an integer.
pub(crate) const ROUND_F32: f32 = 12_582_912.0;

/// Adding and subtracting it rounds an f64 of up to 2⁵¹ to an integer.
pub(crate) const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// The values of one sign of the scale. Of symmetric values only the magnitudes, for the magnitudes of
/// weights.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// In rising order.
    pub(crate) values: Vec<f64>,
    /// Between each value and the next.
    pub(super) middles: Vec<f64>,
    /// Whether the values are successive integers.
    pub(super) are_successive: bool,
    /// The smallest and the largest magnitude.
    pub(super) magnitudes: [f64; 2],
    pub(super) is_negated: bool,
    ends_f32: [f32; 2],
    changes: Changes,
}

/// From one value to the next.
#[derive(Clone, Copy, Debug)]
struct Change {
    middle: f32,
    /// The bits in which the next value differs, as f32.
    bits: u32,
}

/// The changes from each value to the next, in an array of constant length if they are few: then they are
/// compared with many weights at a time.
#[derive(Clone, Debug)]
enum Changes {
    Eight([Change; 8]),
    Sixteen([Change; 16]),
    Many(Vec<Change>),
}

impl Changes {
    fn new(changes: Vec<Change>) -> Self {
        if let Some(eight) = padded(&changes) {
            Self::Eight(eight)
        } else if let Some(sixteen) = padded(&changes) {
            Self::Sixteen(sixteen)
        } else {
            Self::Many(changes)
        }
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
    pub(crate) fn new(values: impl Iterator<Item = f32>, is_negated: bool) -> Self {
        let all: Vec<f32> = values.collect();
        let values: Vec<f64> = all.iter().map(|value| f64::from(*value)).collect();
        let middles: Vec<f64> = (values.windows(2))
            .map(|pair| 0.5 * (pair[0] + pair[1]))
            .collect();
        let change = |(pair, middle): (&[f32], &f64)| Change {
            middle: *middle as f32,
            bits: pair[0].to_bits() ^ pair[1].to_bits(),
        };
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
            changes: Changes::new((all.windows(2).zip(&middles)).map(change).collect()),
            values,
            middles,
            is_negated,
        }
    }

    pub(super) fn ends(&self) -> [f64; 2] {
        [self.values[0], self.values[self.values.len() - 1]]
    }

    /// Writes the places of the values nearest to `weight / scale`; at scale 0 to zero.
    pub(crate) fn place(&self, isa: Isa, weights: &[f32], scale: f64, places: &mut [i32]) {
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        match self.are_successive {
            true => rounded_places(isa, weights, inverse, self.ends(), places),
            false => nearest_places(isa, weights, inverse, &self.middles, places),
        }
    }

    /// Whether zero is a value.
    pub(crate) fn has_zero(&self) -> bool {
        self.magnitudes[0] == 0.0
    }

    /// `Σ d w v` and `Σ d v²` of the values v nearest to `w · inverse` for each inverse, rounded in f32 for
    /// [`CHUNK`] weights at a time.
    pub(super) fn sums(&self, isa: Isa, w: &[f32], d: &[f32], inverses: &[f32; LANES]) -> LaneSums {
        let ends = self.ends_f32;
        let first = ends[0].to_bits();
        match &self.changes {
            _ if self.are_successive => lane_sums(isa, w, d, inverses, Rounded { ends }),
            Changes::Eight(changes) => {
                let changes = *changes;
                lane_sums(isa, w, d, inverses, Changed { first, changes })
            }
            Changes::Sixteen(changes) => {
                let changes = *changes;
                lane_sums(isa, w, d, inverses, Changed { first, changes })
            }
            Changes::Many(changes) => {
                let changes = &changes[..];
                lane_sums(isa, w, d, inverses, Changed { first, changes })
            }
        }
    }
}

/// Weights whose sums are rounded in f32.
pub(super) const CHUNK: usize = 64;

/// Products and squares of each lane.
type LaneSums = [[f64; LANES]; 2];

/// The value nearest to a number.
trait Nearest: Copy {
    fn nearest(&self, x: f32) -> f32;
}

/// Successive integers.
#[derive(Clone, Copy)]
struct Rounded {
    ends: [f32; 2],
}

impl Nearest for Rounded {
    #[inline(always)]
    fn nearest(&self, x: f32) -> f32 {
        let [low, high] = self.ends;
        (x.max(low).min(high) + ROUND_F32) - ROUND_F32
    }
}

/// The first value, with the changes at all middles passed.
#[derive(Clone, Copy)]
struct Changed<T> {
    first: u32,
    changes: T,
}

impl<T: Table<Change>> Nearest for Changed<T> {
    #[inline(always)]
    fn nearest(&self, x: f32) -> f32 {
        let mut bits = self.first;
        for change in self.changes.get() {
            bits ^= change.bits & u32::from(x > change.middle).wrapping_neg();
        }
        f32::from_bits(bits)
    }
}

multiversion! {
    /// The sums of the values nearest to `w · inverse`.
    fn lane_sums<N: Nearest>(weights: &[f32], curvature: &[f32], inverses: &[f32; LANES], values: N) -> LaneSums {
        let mut totals = [[0.0; LANES]; 2];
        for (weights, curvature) in weights.chunks(CHUNK).zip(curvature.chunks(CHUNK)) {
            let (mut product, mut square) = ([0.0; LANES], [0.0; LANES]);
            for (w, d) in weights.iter().zip(curvature) {
                for lane in 0..LANES {
                    let value = values.nearest(w * inverses[lane]);
                    let weighted = d * value;
                    product[lane] += weighted * w;
                    square[lane] += weighted * value;
                }
            }
            for lane in 0..LANES {
                totals[0][lane] += f64::from(product[lane]);
                totals[1][lane] += f64::from(square[lane]);
            }
        }
        totals
    }
}

multiversion! {
    fn rounded_places(weights: &[f32], inverse: f64, ends: [f64; 2], places: &mut [i32]) {
        let first = ends[0] as i32;
        for (w, place) in weights.iter().zip(places) {
            let x = (f64::from(*w) * inverse).max(ends[0]).min(ends[1]);
            // The sum has the integer in its lowest bits.
            *place = (x + ROUND_F64).to_bits() as i32 - first;
        }
    }
}

multiversion! {
    fn nearest_places(weights: &[f32], inverse: f64, middles: &[f64], places: &mut [i32]) {
        let (weights, _) = weights.as_chunks::<LANES>();
        let (places, _) = places.as_chunks_mut::<LANES>();
        for (w, places) in weights.iter().zip(places) {
            let mut passed = [0i64; LANES];
            for middle in middles {
                for lane in 0..LANES {
                    passed[lane] += i64::from(f64::from(w[lane]) * inverse > *middle);
                }
            }
            *places = passed.map(|passed| passed as i32);
        }
    }
}

/// The sum of the lanes, in halves.
#[inline(always)]
pub(crate) fn total<T: Copy + AddAssign>(mut lanes: [T; LANES]) -> T {
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
