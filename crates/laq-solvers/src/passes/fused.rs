//! One pass over weights, second moments and levels for a solver within training: curvature, sums
//! of two assignments, error of all zeros, and the weights near the thresholds.

use std::ops::Add;

#[cfg(target_arch = "x86_64")]
use laq_simd::Set;
use laq_simd::{Isa, multiversion};

use super::curvature::root;
use super::histogram::{gather_range, unpack};
use super::lanes::{BLOCK, LANES, Side, Table, above_thresholds, magnitudes_of, padded, with_rule};
use super::sums::Sums;
use crate::codebook::{Codebook, Magnitudes};
use crate::level_rule::LevelValue;
use crate::problem::Problem;

/// The sums of one pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PassSums {
    /// Of the current levels.
    pub(crate) current: Sums,
    /// Of the levels where every weight inside a band takes the level below the band.
    pub(crate) outside: Sums,
    /// `Σ d w²`.
    pub(crate) energy: f64,
}

impl PassSums {
    const ZERO: Self = Self {
        current: Sums::ZERO,
        outside: Sums::ZERO,
        energy: 0.0,
    };

    /// From lanes of the two sums of `current`, the two of `outside`, and the energy.
    fn from_lanes(lanes: [[f64; HALF]; 5]) -> Self {
        let [a, b, c, d, energy] = lanes.map(|lanes| lanes.into_iter().sum());
        let sums = |product, square| Sums { product, square };
        Self {
            current: sums(a, b),
            outside: sums(c, d),
            energy,
        }
    }
}

impl Add for PassSums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            current: self.current + other.current,
            outside: self.outside + other.outside,
            energy: self.energy + other.energy,
        }
    }
}

/// The weights inside one band, packed by [`pack`](super::histogram::pack); elements behind `count`
/// are stale.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    packed: Vec<u64>,
    count: usize,
}

impl Candidates {
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds `Σ d x` and `Σ d` of the magnitudes above the threshold to the sums.
    pub(crate) fn add_above(&self, threshold: f32, sums: &mut [f64; 2]) {
        for &weight in &self.packed[..self.count] {
            let (x, d) = unpack(weight);
            // Branchless: every other prediction would be wrong.
            let d = f64::from(if x > threshold { d } else { 0.0 });
            sums[0] += d * f64::from(x);
            sums[1] += d;
        }
    }

    /// Makes space for `more` further weights.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    fn reserve(&mut self, more: usize) {
        if self.packed.len() < self.count + more {
            let capacity = (self.count + more).next_power_of_two().max(1 << 12);
            self.packed.resize(capacity, 0);
        }
    }
}

/// Codebooks with more thresholds (4 bits and up) use the general solver.
pub(crate) const MAX_THRESHOLDS: usize = 3;

/// Lanes of partial sums, few enough for the registers.
const HALF: usize = LANES / 2;

/// The sums of some weights with the curvature `√second_moment + floor`. Appends the magnitudes
/// inside each band, from the first border to below the second, to its `candidates`.
pub(crate) fn fused_pass(
    isa: Isa,
    (weights, second_moment, floor): (&[f32], &[f32], f32),
    (codebook, levels): (&Codebook, &[i8]),
    (magnitudes, borders): (&Magnitudes, &[[f32; 2]]),
    candidates: &mut [Candidates],
) -> PassSums {
    let mut buffer = [0.0; BLOCK];
    let mut total = PassSums::ZERO;
    let blocks = weights.chunks(BLOCK).zip(second_moment.chunks(BLOCK));
    for ((weights, second_moment), levels) in blocks.zip(levels.chunks(BLOCK)) {
        #[cfg(target_arch = "x86_64")]
        if isa.set() == Set::Avx512 && *codebook == Codebook::Ternary {
            // SAFETY: an `Isa` of this set exists only if the processor has its features.
            let sums = unsafe {
                avx512::ternary(
                    (weights, second_moment, levels),
                    floor,
                    borders[0],
                    &mut candidates[0],
                )
            };
            total = total + sums;
            continue;
        }
        let curvature = &mut buffer[..weights.len()];
        root(isa, second_moment, floor, curvature);
        let sums = sums(
            isa,
            weights,
            curvature,
            (codebook, levels),
            (magnitudes, borders),
        );
        total = total + sums;
        let (problem, side) = (Problem::unchecked(weights, curvature), Side::Both);
        for (band, &borders) in candidates.iter_mut().zip(borders) {
            let Candidates { packed, count } = band;
            *count = gather_range(isa, problem, side, borders, packed, *count);
        }
    }
    total
}

/// The sums of one block, for any codebook.
fn sums(
    isa: Isa,
    weights: &[f32],
    curvature: &[f32],
    (codebook, levels): (&Codebook, &[i8]),
    (magnitudes, borders): (&Magnitudes, &[[f32; 2]]),
) -> PassSums {
    let (lowest, q) = (magnitudes.values()[0], &magnitudes.values()[1..]);
    // The largest magnitude below the end of each band: as a threshold, it selects the level above
    // the band.
    let mut ends = [0.0; MAX_THRESHOLDS];
    for (end, [_, high]) in ends.iter_mut().zip(borders) {
        *end = high.next_down();
    }
    macro_rules! sums_of {
        ($rule:expr, $ends:expr, $q:expr) => {
            sums_of(isa, weights, curvature, $rule, levels, lowest, $ends, $q)
        };
    }
    with_rule!(codebook, |rule| match *q {
        [q] => sums_of!(rule, [ends[0]], [q]),
        [a, b, c] => sums_of!(rule, ends, [a, b, c]),
        _ => sums_of!(rule, &ends[..q.len()], q),
    })
}

multiversion! {
    fn sums_of<R: LevelValue, T: Table>(
        weights: &[f32],
        curvature: &[f32],
        rule: R,
        levels: &[i8],
        lowest: f32,
        thresholds: T,
        magnitudes: T,
    ) -> PassSums {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (d_chunks, d_tail) = curvature.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks::<LANES>();
        let last = (padded(tail), padded(d_tail), padded(level_tail));
        let mut sums = [[0.0_f64; HALF]; 5];
        for index in 0..=chunks.len() {
            let (w, d, levels) = match chunks.get(index) {
                Some(chunk) => (chunk, &d_chunks[index], &level_chunks[index]),
                None => (&last.0, &last.1, &last.2),
            };
            let x = magnitudes_of(w, Side::Both.masks());
            let b = above_thresholds(&x, lowest, &thresholds, &magnitudes);
            for half in 0..LANES / HALF {
                for lane in 0..HALF {
                    let at = half * HALF + lane;
                    let (w, x, d) = (f64::from(w[at]), f64::from(x[at]), f64::from(d[at]));
                    let (b, level) = (f64::from(b[at]), f64::from(rule.value(levels[at])));
                    let (db, dl) = (d * b, d * level);
                    sums[0][lane] += dl * w;
                    sums[1][lane] += dl * level;
                    sums[2][lane] += db * x;
                    sums[3][lane] += db * b;
                    sums[4][lane] += d * x * x;
                }
            }
        }
        PassSums::from_lanes(sums)
    }
}

/// Root, sums and gathering for ternary levels in one loop over registers. Products with a level
/// become masked additions and subtractions, which return the same bits.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Candidates, HALF, PassSums};

    /// Weights per iteration, equal to the lanes of sums.
    const STEP: usize = HALF;

    /// Weights between the prefetched ones and the current ones.
    const PREFETCH_DISTANCE: usize = 1024;

    /// Weights per register.
    const GROUP: usize = 16;

    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn ternary(
        (weights, second_moment, levels): (&[f32], &[f32], &[i8]),
        floor: f32,
        [low, high]: [f32; 2],
        candidates: &mut Candidates,
    ) -> PassSums {
        let (w, w_tail) = weights.as_chunks::<STEP>();
        let (v, v_tail) = second_moment.as_chunks::<STEP>();
        let (b, b_tail) = levels.as_chunks::<STEP>();
        // Zero padding adds nothing to the sums and is not gathered.
        let (mut last_w, mut last_v, mut last_b) = ([0.0; STEP], [0.0; STEP], [0; STEP]);
        last_w[..w_tail.len()].copy_from_slice(w_tail);
        last_v[..v_tail.len()].copy_from_slice(v_tail);
        last_b[..b_tail.len()].copy_from_slice(b_tail);
        let last = ((&last_w, &last_v), &last_b);
        candidates.reserve(weights.len() + STEP);
        let mut sums = [[_mm512_setzero_pd(); STEP / 8]; 5];
        for ((w, v), b) in w.iter().zip(v).zip(b).chain([last]) {
            for line in [PREFETCH_DISTANCE, PREFETCH_DISTANCE + GROUP] {
                _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(line).cast());
                _mm_prefetch::<_MM_HINT_T0>(v.as_ptr().wrapping_add(line).cast());
            }
            // SAFETY: `b` has 32 bytes.
            let b = unsafe { _mm256_loadu_si256(b.as_ptr().cast()) };
            let (has_level, negative_level) = (_mm256_test_epi8_mask(b, b), _mm256_movepi8_mask(b));
            let (w, v) = (w.as_chunks::<GROUP>().0, v.as_chunks::<GROUP>().0);
            for group in 0..STEP / GROUP {
                // SAFETY: each chunk has 16 elements.
                let (w, v) = unsafe {
                    let (w, v) = (w[group].as_ptr(), v[group].as_ptr());
                    (_mm512_loadu_ps(w), _mm512_loadu_ps(v))
                };
                let d = _mm512_add_ps(_mm512_sqrt_ps(v), _mm512_set1_ps(floor));
                let x = _mm512_abs_ps(w);
                let above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_set1_ps(high));
                let has_level = (has_level >> (group * GROUP)) as __mmask16;
                let negative_level = (negative_level >> (group * GROUP)) as __mmask16;
                let opposite =
                    has_level & (negative_level ^ _mm512_movepi32_mask(_mm512_castps_si512(w)));
                for half in 0..2 {
                    let lanes = 2 * group + half;
                    let of_half = |mask: __mmask16| (mask >> (8 * half)) as __mmask8;
                    let (x, d) = (wide(x, half), wide(d, half));
                    let dx = _mm512_mul_pd(d, x);
                    let add = |sum: &mut __m512d, mask: __mmask16, term: __m512d| {
                        *sum = _mm512_mask_add_pd(*sum, of_half(mask), *sum, term);
                    };
                    add(&mut sums[0][lanes], has_level & !opposite, dx);
                    if opposite != 0 {
                        let sum = &mut sums[0][lanes];
                        *sum = _mm512_mask_sub_pd(*sum, of_half(opposite), *sum, dx);
                    }
                    add(&mut sums[1][lanes], has_level, d);
                    add(&mut sums[2][lanes], above, dx);
                    add(&mut sums[3][lanes], above, d);
                    add(&mut sums[4][lanes], !0, _mm512_mul_pd(dx, x));
                }
                let zero = _mm512_setzero_ps();
                let inside = !above
                    & _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_set1_ps(low))
                    & _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, zero)
                    & _mm512_cmp_ps_mask::<_CMP_GT_OQ>(d, zero);
                if inside != 0 {
                    let packed = |x: __m256i, d: __m256i| {
                        let (x, d) = (_mm512_cvtepu32_epi64(x), _mm512_cvtepu32_epi64(d));
                        _mm512_or_si512(_mm512_slli_epi64::<32>(x), d)
                    };
                    let take =
                        |values| _mm512_castps_si512(_mm512_maskz_compress_ps(inside, values));
                    let (x, d) = (take(x), take(d));
                    let lower = packed(_mm512_castsi512_si256(x), _mm512_castsi512_si256(d));
                    let upper = packed(
                        _mm512_extracti64x4_epi64::<1>(x),
                        _mm512_extracti64x4_epi64::<1>(d),
                    );
                    let free: &mut [u64; GROUP] = candidates.packed[candidates.count..]
                        .first_chunk_mut()
                        .expect("reserved above");
                    // SAFETY: `free` has 16 elements of 8 bytes.
                    unsafe {
                        _mm512_storeu_si512(free.as_mut_ptr().cast(), lower);
                        _mm512_storeu_si512(free[8..].as_mut_ptr().cast(), upper);
                    }
                    candidates.count += inside.count_ones() as usize;
                }
            }
        }
        PassSums::from_lanes(sums.map(|sums| {
            let mut lanes = [0.0; STEP];
            for (lanes, sums) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
                // SAFETY: `lanes` has eight elements.
                unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), sums) };
            }
            lanes
        }))
    }

    /// The lower or upper half, in f64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn wide(values: __m512, half: usize) -> __m512d {
        _mm512_cvtps_pd(match half {
            0 => _mm512_castps512_ps256(values),
            _ => _mm512_extractf32x8_ps::<1>(values),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::pack;
    use super::*;
    use proptest::prelude::*;

    /// Weights inside and outside of the band, with ties at its borders, and zeros among all three.
    fn weight() -> impl Strategy<Value = (f32, f32, i8)> {
        let magnitude =
            prop_oneof![8 => 0.0f32..1.0, 1 => Just(0.0), 2 => Just(0.25), 2 => Just(0.5)];
        let moment = prop_oneof![4 => 0.0f32..1e-3, 1 => Just(0.0)];
        (magnitude, any::<bool>(), moment, -1i8..=1)
            .prop_map(|(x, negative, v, b)| (if negative { -x } else { x }, v, b))
    }

    proptest! {
        /// Against plain loops. All products but those of the energy are exact in f64.
        #[test]
        fn every_isa_agrees_with_a_plain_loop(
            weights in proptest::collection::vec(weight(), 0..300),
            floor in prop_oneof![Just(1e-8f32), Just(0.0)],
        ) {
            let (w, (v, b)): (Vec<f32>, (Vec<f32>, Vec<i8>)) =
                weights.iter().map(|&(w, v, b)| (w, (v, b))).unzip();
            let [low, high] = [0.25, 0.5];
            let mut expected = [Sums::ZERO; 2];
            let (mut energy, mut near) = (0.0, Vec::new());
            for &(w, v, b) in &weights {
                let (x, d, b) = (w.abs(), v.sqrt() + floor, f64::from(b));
                if x >= low && x < high && d > 0.0 {
                    near.push(pack(x, d));
                }
                let d = f64::from(d);
                for (sums, b) in expected.iter_mut().zip([b, f64::from(w.signum()) * f64::from(x >= high)]) {
                    sums.product += d * b * f64::from(w);
                    sums.square += d * b * b;
                }
                energy += d * f64::from(w).powi(2);
            }
            let magnitudes = Codebook::Ternary.magnitudes();
            let mut found: Option<PassSums> = None;
            for isa in Isa::available() {
                let mut candidates = [Candidates::default()];
                let sums = fused_pass(
                    isa,
                    (&w, &v, floor),
                    (&Codebook::Ternary, &b),
                    (&magnitudes, &[[low, high]]),
                    &mut candidates,
                );
                let [Candidates { packed, count }] = &candidates;
                prop_assert_eq!(&packed[..*count], &near[..], "{}", isa);
                prop_assert_eq!(*found.get_or_insert(sums), sums, "{}", isa);
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * energy.max(b.abs());
                for (a, b) in [sums.current, sums.outside].into_iter().zip(expected) {
                    prop_assert!(close(a.product, b.product) && close(a.square, b.square));
                }
                prop_assert!(close(sums.energy, energy));
            }
        }
    }

    #[test]
    fn add_above_excludes_the_threshold() {
        let packed = [(0.3, 2.0), (0.5, 3.0), (0.7, 5.0), (9.0, 9.0)];
        let candidates = Candidates {
            packed: packed.map(|(x, d)| pack(x, d)).to_vec(),
            count: 3,
        };
        let mut sums = [1.0, 1.0];
        candidates.add_above(0.5, &mut sums);
        assert_eq!(sums, [1.0 + 5.0 * f64::from(0.7f32), 6.0]);
    }
}
