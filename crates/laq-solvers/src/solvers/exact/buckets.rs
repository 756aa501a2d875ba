//! `Σ d x` and `Σ d` by the leading bits of `x`, and bounds for any threshold on `x`.

use std::ops::Range;

use super::super::sweep::Breakpoint;
use super::COARSE_SHIFT;
use crate::codebook::floor_f32;
use crate::passes::sums::Sums;

/// Magnitudes in buckets of leading bits. Marked coarse buckets can be cut into fine ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Buckets {
    /// The lower edges, rising, then the upper edge of the last bucket.
    pub(super) edges: Vec<f64>,
    /// `Σ d x` and `Σ d` of each bucket.
    sums: Vec<[f64; 2]>,
    /// The sums before the last cut.
    coarse_sums: Vec<[f64; 2]>,
    /// The sums over all magnitudes from each edge up.
    pub(super) above: Vec<Sums>,
    /// `T` at each edge.
    surplus: Vec<f64>,
    /// One for marked buckets, else zero, after a zero for excluded weights.
    pub(super) marks: Vec<u8>,
    /// Leading bits of the first coarse bucket.
    lowest: u32,
    /// For each coarse bucket, the index of its first bucket and the shift of the lower bits to an
    /// index in it.
    coarse: Vec<(u32, u32)>,
}

/// The magnitude with these bits; for the bits of infinity, the end of the last octave.
fn edge(bits: u32) -> f64 {
    let value = f64::from(f32::from_bits(bits));
    if value.is_finite() {
        value
    } else {
        2_f64.powi(f32::MAX_EXP)
    }
}

impl Buckets {
    /// Sets the coarse buckets of a range of leading bits.
    pub(super) fn coarse(&mut self, keys: Range<u32>, sums: &[[f64; 2]]) {
        self.lowest = keys.start;
        self.coarse.clear();
        self.coarse
            .extend((0..keys.len() as u32).map(|bucket| (bucket, COARSE_SHIFT)));
        self.edges.clear();
        self.edges
            .extend((keys.start..=keys.end).map(|key| edge(key << COARSE_SHIFT)));
        self.sums.clear();
        self.sums.extend_from_slice(sums);
        self.accumulate();
    }

    /// Cuts each marked bucket into `2^finer`; `packed` holds the weights in them.
    pub(super) fn refine(&mut self, finer: u32, packed: impl Iterator<Item = u64>) {
        let shift = COARSE_SHIFT - finer;
        self.coarse_sums.clear();
        self.coarse_sums.append(&mut self.sums);
        self.edges.clear();
        for (bucket, position) in self.coarse.iter_mut().enumerate() {
            let bits = (self.lowest + bucket as u32) << COARSE_SHIFT;
            let first = self.edges.len() as u32;
            if self.marks[1 + bucket] == 1 {
                *position = (first, shift);
                self.edges
                    .extend((0..1 << finer).map(|fine: u32| edge(bits + (fine << shift))));
                self.sums.resize(self.edges.len(), [0.0; 2]);
            } else {
                *position = (first, COARSE_SHIFT);
                self.edges.push(edge(bits));
                self.sums.push(self.coarse_sums[bucket]);
            }
        }
        self.edges.push(edge(
            (self.lowest + self.coarse.len() as u32) << COARSE_SHIFT,
        ));
        for packed in packed {
            let bucket = self.find((packed >> 32) as u32);
            let Sums { product, square } = Breakpoint::unpack(packed).sums;
            self.sums[bucket][0] += product;
            self.sums[bucket][1] += square;
        }
        self.accumulate();
    }

    /// The bucket of a magnitude between the first and the last edge.
    #[inline]
    pub(super) fn find(&self, bits: u32) -> usize {
        let (first, shift) = self.coarse[((bits >> COARSE_SHIFT) - self.lowest) as usize];
        (first + ((bits & ((1 << COARSE_SHIFT) - 1)) >> shift)) as usize
    }

    fn accumulate(&mut self) {
        let mut above = Sums::ZERO;
        self.above.clear();
        self.above.resize(self.edges.len(), above);
        self.surplus.clear();
        self.surplus.resize(self.edges.len(), 0.0);
        for (bucket, [product, square]) in self.sums.iter().enumerate().rev() {
            above = above
                + Sums {
                    product: *product,
                    square: *square,
                };
            self.above[bucket] = above;
            self.surplus[bucket] = above.product - self.edges[bucket] * above.square;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.sums.len()
    }

    /// The bucket of a threshold; `None` below the first, the number of buckets above the last.
    #[inline]
    fn of_threshold(&self, threshold: f64) -> Option<usize> {
        if threshold < self.edges[0] {
            None
        } else if threshold >= self.edges[self.count()] {
            Some(self.count())
        } else {
            Some(self.find(floor_f32(threshold).to_bits()))
        }
    }

    /// An upper bound of `T(threshold)` before rounding, an upper bound of `Σ d x` over the
    /// magnitudes above the threshold, and the sums over the magnitudes above the next edge.
    #[inline]
    pub(super) fn surplus_at(&self, threshold: f64) -> (f64, f64, Sums) {
        match self.of_threshold(threshold) {
            None => {
                let all = self.above[0];
                (all.product - threshold * all.square, all.product, all)
            }
            Some(bucket) if bucket == self.count() => (0.0, 0.0, self.above[bucket]),
            Some(bucket) => {
                let (low, high) = (self.edges[bucket], self.edges[bucket + 1]);
                let (at_low, at_high) = (self.surplus[bucket], self.surplus[bucket + 1]);
                let share = (threshold - low) / (high - low);
                let surplus = at_low - share * (at_low - at_high);
                (surplus, self.above[bucket].product, self.above[bucket + 1])
            }
        }
    }

    /// The buckets that contain a threshold between `low` and `high`.
    pub(super) fn passed(&self, low: f64, high: f64) -> Range<usize> {
        // Widened, because a product of scale and midpoint is rounded.
        let first = self
            .of_threshold(low * (1.0 - 4.0 * f64::EPSILON))
            .unwrap_or(0);
        let last = self.of_threshold(high * (1.0 + 4.0 * f64::EPSILON));
        first
            ..last
                .map_or(0, |last| (last + 1).min(self.count()))
                .max(first)
    }

    /// The range of magnitudes of the marked buckets, if these are adjacent.
    pub(super) fn marked_range(&self) -> Option<[f32; 2]> {
        let marks = &self.marks[1..];
        let first = marks.iter().position(|&mark| mark == 1)?;
        let last = marks.iter().rposition(|&mark| mark == 1)?;
        let adjacent = marks[first..=last].iter().all(|&mark| mark == 1);
        adjacent.then(|| [first, last + 1].map(|edge| self.edges[edge] as f32))
    }

    /// The marked buckets that are not empty, each as one breakpoint, by falling magnitude.
    pub(super) fn marked_breakpoints(&self) -> impl Iterator<Item = Breakpoint> {
        let buckets = self
            .edges
            .iter()
            .zip(&self.sums)
            .zip(&self.marks[1..])
            .rev();
        buckets
            .filter(|((_, [product, _]), mark)| **mark == 1 && *product > 0.0)
            .map(|((&magnitude, &[product, square]), _)| Breakpoint {
                magnitude,
                sums: Sums { product, square },
            })
    }
}
