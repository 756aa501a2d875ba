//! Sums by bucket of magnitude, and gathering the weights of selected buckets.

use laq_simd::{Isa, multiversion};

use super::lanes::{Curvature, LANES, Side, masked, padded, prefetch, with_curvature};
use crate::problem::Problem;

/// Adds `Σ d x` and `Σ d` of each bucket to `table`. `table[b]` holds the magnitudes whose bits
/// shifted right are `lowest + b − 1`; `table[0]` holds zeros and weights of the other side.
pub(crate) fn fill_buckets(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    shift: u32,
    lowest: u32,
    table: &mut [[f64; 2]],
) {
    with_curvature!(problem, |d| {
        let (w, masks) = (problem.weights(), side.masks());
        fill_table(isa, w, d, masks, shift, lowest, table);
    });
}

/// Chunks between the prefetched one and the current one.
const PREFETCH_DISTANCE: usize = 6;

/// Magnitudes and the indices of their buckets.
#[inline(always)]
fn buckets_of<const N: usize>(
    weights: &[f32; N],
    (flip, keep): (u32, u32),
    shift: u32,
    lowest: u32,
) -> ([f32; N], [u32; N]) {
    let x = weights.map(|w| masked(w, flip, keep));
    let mut buckets = [0; N];
    for lane in 0..N {
        let bucket = (x[lane].to_bits() >> shift)
            .wrapping_sub(lowest)
            .wrapping_add(1);
        buckets[lane] = if x[lane] > 0.0 { bucket } else { 0 };
    }
    (x, buckets)
}

multiversion! {
    fn fill_table<C: Curvature>(
        weights: &[f32],
        curvature: C,
        masks: (u32, u32),
        shift: u32,
        lowest: u32,
        table: &mut [[f64; 2]],
    ) {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut add = |weights: &[f32; LANES], d: [f32; LANES]| {
            let (x, buckets) = buckets_of(weights, masks, shift, lowest);
            let mut sums = [[0.0; 2]; LANES];
            for lane in 0..LANES {
                let d = f64::from(d[lane]);
                sums[lane] = [d * f64::from(x[lane]), d];
            }
            for lane in 0..LANES {
                let bucket = &mut table[buckets[lane] as usize];
                *bucket = [bucket[0] + sums[lane][0], bucket[1] + sums[lane][1]];
            }
        };
        for (index, chunk) in chunks.iter().enumerate() {
            // The scattered additions keep the hardware prefetcher from running ahead.
            if let Some(ahead) = chunks.get(index + PREFETCH_DISTANCE) {
                prefetch(ahead);
                curvature.prefetch(index + PREFETCH_DISTANCE);
            }
            add(chunk, curvature.chunk(index));
        }
        add(&padded(tail), curvature.tail());
    }
}

/// Packs the weights in the buckets whose entry of `marks` is one (indices as in [`fill_buckets`])
/// into `packed`, and returns their number; elements behind them are unspecified. `range` is the
/// equivalent range of magnitudes, if there is one, which is faster.
pub(crate) fn gather(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    range: Option<[f32; 2]>,
    (marks, shift, lowest): (&[u8], u32, u32),
    packed: &mut Vec<u64>,
) -> usize {
    let (w, masks) = (problem.weights(), side.masks());
    if let Some(range) = range {
        return gather_range(isa, problem, side, range, packed, 0);
    }
    let marked = Marked {
        marks,
        masks,
        shift,
        lowest,
    };
    with_curvature!(problem, |d| gather_selected(isa, w, d, marked, packed, 0))
}

/// Packs the magnitudes in `range[0]..range[1]` behind the first `count` elements of `packed`, and
/// returns the new count.
pub(crate) fn gather_range(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    range: [f32; 2],
    packed: &mut Vec<u64>,
    count: usize,
) -> usize {
    let (w, masks) = (problem.weights(), side.masks());
    with_curvature!(problem, |d| gather_selected(
        isa,
        w,
        d,
        Within { range, masks },
        packed,
        count
    ))
}

/// Selects the weights to gather.
trait Select: Copy {
    /// Computes the magnitudes, and one for each that is selected. May return false if none is.
    fn select(self, weights: &[f32; GROUP], x: &mut [f32; GROUP], mask: &mut [u8; GROUP]) -> bool;
}

/// Weights tested together.
const GROUP: usize = 16;

#[derive(Clone, Copy)]
struct Within {
    range: [f32; 2],
    masks: (u32, u32),
}

impl Select for Within {
    #[inline(always)]
    fn select(self, weights: &[f32; GROUP], x: &mut [f32; GROUP], mask: &mut [u8; GROUP]) -> bool {
        let [low, high] = self.range;
        let (flip, keep) = self.masks;
        *x = weights.map(|w| masked(w, flip, keep));
        // Excludes zeros, also if the range begins at zero.
        let within = |x: f32| (x > 0.0) & (x >= low) & (x < high);
        if !x.iter().fold(false, |any, &x| any | within(x)) {
            return false;
        }
        *mask = x.map(|x| u8::from(within(x)));
        true
    }
}

#[derive(Clone, Copy)]
struct Marked<'a> {
    marks: &'a [u8],
    masks: (u32, u32),
    shift: u32,
    lowest: u32,
}

impl Select for Marked<'_> {
    #[inline(always)]
    fn select(self, weights: &[f32; GROUP], x: &mut [f32; GROUP], mask: &mut [u8; GROUP]) -> bool {
        let buckets;
        (*x, buckets) = buckets_of(weights, self.masks, self.shift, self.lowest);
        *mask = buckets.map(|bucket| self.marks[bucket as usize]);
        mask.iter().fold(0, |any, one| any | one) != 0
    }
}

/// Packs `x > 0` and `d > 0` of one weight, `x` in the upper half. Positive floats order as their
/// bits do, so packed weights order by `x`, then by `d`, and sums do not depend on the order of the
/// input.
#[inline(always)]
pub(crate) fn pack(magnitude: f32, curvature: f32) -> u64 {
    u64::from(magnitude.to_bits()) << 32 | u64::from(curvature.to_bits())
}

/// The inverse of [`pack`].
pub(crate) fn unpack(packed: u64) -> (f32, f32) {
    (
        f32::from_bits((packed >> 32) as u32),
        f32::from_bits(packed as u32),
    )
}

multiversion! {
    fn gather_selected<C: Curvature, S: Select>(
        weights: &[f32],
        curvature: C,
        selection: S,
        packed: &mut Vec<u64>,
        count: usize,
    ) -> usize {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut count = count;
        for index in 0..=chunks.len() {
            let end = padded(tail);
            let (weights, d) = match chunks.get(index) {
                Some(chunk) => (chunk, curvature.chunk(index)),
                None => (&end, curvature.tail()),
            };
            if packed.len() < count + LANES {
                packed.resize((count + LANES).next_power_of_two().max(1 << 12), 0);
            }
            let free: &mut [u64] = &mut packed[count..count + LANES];
            let mut taken = 0;
            let (groups, curvatures) = (weights.as_chunks().0, d.as_chunks::<GROUP>().0);
            for (weights, d) in groups.iter().zip(curvatures) {
                let (mut x, mut take) = ([0.0; GROUP], [0; GROUP]);
                if !selection.select(weights, &mut x, &mut take) {
                    continue;
                }
                for lane in 0..GROUP {
                    // Unconditional store: a branch would be mispredicted too often.
                    free[taken] = pack(x[lane], d[lane]);
                    taken += usize::from(take[lane] & u8::from(d[lane] > 0.0));
                }
            }
            count += taken;
        }
        count
    }
}
