//! Panels with NEON, the baseline of 64-bit Arm processors: in f32 with the bits of the portable
//! product, which is matrixmultiply's.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{IntegerCodes, Lookup, PANEL_ROWS, Values, Word};

/// Depth of a block of the product of matrixmultiply, which rounds the sums of a block together.
const BLOCK: usize = 256;

/// See [`super::gemm::multiply`].
pub(super) fn multiply(
    bits: usize,
    words: &[Word],
    values: Values<'_>,
    (x, batch): (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let blocks = words.chunks(BLOCK * bits / 32);
    for (block, (words, x)) in blocks.zip(x.chunks(BLOCK * batch)).enumerate() {
        let add = add || block > 0;
        // SAFETY: this module is compiled where every processor has NEON.
        unsafe { of_block(bits, words, &values, x, add, sums) };
    }
}

/// Sums of one block of a panel.
#[target_feature(enable = "neon")]
fn of_block(
    bits: usize,
    words: &[Word],
    values: &Values<'_>,
    x: &[f32],
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    macro_rules! of_batch {
        ($bits:literal, $per_row:literal) => {
            match sums.len() {
                1 => block::<$bits, 1, 4, $per_row>(words, values, x, add, sums),
                2 => block::<$bits, 2, 4, $per_row>(words, values, x, add, sums),
                4 => block::<$bits, 4, 4, $per_row>(words, values, x, add, sums),
                8 => block::<$bits, 8, 2, $per_row>(words, values, x, add, sums),
                _ => unreachable!("batches are 1, 2, 4 or 8"),
            }
        };
    }
    match (bits, matches!(values, Values::PerRow { .. })) {
        (1, false) => of_batch!(1, false),
        (2, false) => of_batch!(2, false),
        (_, false) => of_batch!(4, false),
        (1, true) => of_batch!(1, true),
        (2, true) => of_batch!(2, true),
        (_, true) => of_batch!(4, true),
    }
}

/// The values of 16 codes as bytes.
struct Table([uint8x16_t; 4]);

impl Table {
    #[target_feature(enable = "neon")]
    fn new(lookup: &Lookup) -> Self {
        let quarter = |quarter: usize| {
            let values: [f32; 4] = std::array::from_fn(|code| lookup.values[4 * quarter + code]);
            // SAFETY: four elements.
            vreinterpretq_u8_f32(unsafe { vld1q_f32(values.as_ptr()) })
        };
        Self(std::array::from_fn(quarter))
    }

    /// The values of four codes, from the positions of their bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    fn look_up<const BITS: usize>(&self, bytes: uint8x16_t) -> float32x4_t {
        let [first, second, third, fourth] = self.0;
        vreinterpretq_f32_u8(if BITS < 4 {
            vqtbl1q_u8(first, bytes)
        } else {
            vqtbl4q_u8(uint8x16x4_t(first, second, third, fourth), bytes)
        })
    }
}

/// V quarters of the rows of a panel at a time, B vectors.
#[target_feature(enable = "neon")]
fn block<const BITS: usize, const B: usize, const V: usize, const PER_ROW: bool>(
    words: &[Word],
    values: &Values<'_>,
    x: &[f32],
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let ones = [[1.0; PANEL_ROWS]; 2];
    let (lookups, steps) = match values {
        Values::Shared(lookup) => ([*lookup; 2], &ones),
        Values::PerRow { multipliers, steps } => (multipliers.each_ref(), *steps),
    };
    let tables = lookups.map(|lookup| Table::new(lookup));
    // SAFETY: 16 elements.
    let bytes = |bytes: [u8; 16]| unsafe { vld1q_u8(bytes.as_ptr()) };
    // SAFETY: four of 16 elements.
    let quarter = |rows: &[f32; PANEL_ROWS], v: usize| unsafe { vld1q_f32(rows[4 * v..].as_ptr()) };
    // Byte j of each lane, four times; and the bytes of an element.
    let spread: [uint8x16_t; 4] =
        std::array::from_fn(|j| bytes(std::array::from_fn(|byte| (byte / 4 * 4 + j) as u8)));
    let offsets = bytes(std::array::from_fn(|byte| byte as u8 % 4));
    let mask = vdupq_n_u8((1 << BITS) - 1);
    let (x, _) = x.as_chunks::<B>();
    for first in (0..PANEL_ROWS / 4).step_by(V) {
        let mut sum = [[vdupq_n_f32(0.0); V]; B];
        let steps: [[float32x4_t; V]; 2] =
            std::array::from_fn(|sign| std::array::from_fn(|v| quarter(&steps[sign], first + v)));
        for (word, x) in words.iter().zip(x.chunks_exact(32 / BITS)) {
            let mut lanes: [uint8x16_t; V] = std::array::from_fn(|v| {
                let lanes = word.0[4 * (first + v)..].as_ptr();
                // SAFETY: four of the 16 lanes.
                vreinterpretq_u8_u32(unsafe { vld1q_u32(lanes) })
            });
            for x in x.chunks_exact(4) {
                let codes = lanes.map(|lanes| vshlq_n_u8::<2>(vandq_u8(lanes, mask)));
                for (j, x) in x.iter().enumerate() {
                    for v in 0..V {
                        let code = vorrq_u8(vqtbl1q_u8(codes[v], spread[j]), offsets);
                        let mut weight = tables[0].look_up::<BITS>(code);
                        if PER_ROW {
                            let below = tables[1].look_up::<BITS>(code);
                            weight = vmulq_f32(weight, steps[0][v]);
                            weight = vfmaq_f32(weight, below, steps[1][v]);
                        }
                        for b in 0..B {
                            sum[b][v] = vfmaq_n_f32(sum[b][v], weight, x[b]);
                        }
                    }
                }
                lanes = lanes.map(|lanes| match BITS {
                    1 => vshrq_n_u8::<1>(lanes),
                    2 => vshrq_n_u8::<2>(lanes),
                    _ => vshrq_n_u8::<4>(lanes),
                });
            }
        }
        for (sums, sum) in sums.iter_mut().zip(sum) {
            for (v, value) in sum.into_iter().enumerate() {
                let value = if add {
                    vaddq_f32(quarter(sums, first + v), value)
                } else {
                    value
                };
                // SAFETY: a quarter of 16 elements.
                unsafe { vst1q_f32(sums[4 * (first + v)..].as_mut_ptr(), value) };
            }
        }
    }
}

/// See [`super::multiply_int8`]; the sums fit into 32 bits.
pub(super) fn multiply_int8(
    bits: usize,
    words: &[Word],
    integers: &IntegerCodes,
    positive: bool,
    x: &[i32],
    sums: &mut [[i32; PANEL_ROWS]; 2],
) {
    let has_dot = is_aarch64_feature_detected!("dotprod");
    macro_rules! call {
        ($bits:literal, $positive:literal, $table:literal) => {
            // SAFETY: every processor here has NEON, and this one has dot products if that was detected.
            unsafe {
                if has_dot {
                    dot_products::<$bits, $positive, $table>(words, integers, x, sums)
                } else {
                    products::<$bits, $positive, $table>(words, integers, x, sums)
                }
            }
        };
    }
    match (bits, positive, integers.identity) {
        (1, false, true) => call!(1, false, false),
        (2, false, true) => call!(2, false, false),
        (2, true, true) => call!(2, true, false),
        (4, false, true) => call!(4, false, false),
        (4, false, false) => call!(4, false, true),
        _ => super::portable::multiply_int8(bits, words, integers, positive, x, sums),
    }
}

/// The dot products of four bytes, added to `sum`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    // The intrinsic is not stable yet.
    // SAFETY: an operation on registers, of the feature that is enabled.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// [`dot`] without its instruction; |codes| ≤ 64 and |x| ≤ 127, so that pairs fit into 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn dot_by_products(sum: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
    let high = vmull_high_s8(codes, x);
    vpadalq_s16(sum, vpaddq_s16(low, high))
}

/// Half of the rows of a panel at a time.
macro_rules! integer_products {
    ($(#[$attribute:meta])* $name:ident, $dot:ident) => {
        $(#[$attribute])*
        fn $name<const BITS: usize, const POSITIVE: bool, const TABLE: bool>(
            words: &[Word],
            integers: &IntegerCodes,
            x: &[i32],
            result: &mut [[i32; PANEL_ROWS]; 2],
        ) {
            // The entries are at most 128: subtracting 64 makes them signed bytes.
            const CENTRE: i32 = 64;
            let entries = integers.table.map(|entry| (i32::from(entry) - CENTRE) as i8);
            // SAFETY: 16 bytes.
            let table = unsafe { vld1q_s8(entries.as_ptr()) };
            let centre = if TABLE { CENTRE * sum_of_bytes(x) } else { 0 };
            let fields = 8 / BITS;
            let field = |d: usize| vdupq_n_u8(((1 << BITS) - 1) << (BITS * d));
            for half in 0..2 {
                // A sum for each field of a byte, of the weight 2^(BITS·d); the last is shifted down.
                let mut sums = [[vdupq_n_s32(0); 2]; 8];
                let mut highest = [[vdupq_n_s32(0); 2]; 4];
                for (word, x) in words.iter().zip(x.chunks_exact(fields)) {
                    for v in 0..2 {
                        let lanes = word.0[8 * half + 4 * v..].as_ptr();
                        // SAFETY: four of the 16 lanes.
                        let lanes = vreinterpretq_u8_u32(unsafe { vld1q_u32(lanes) });
                        for d in 0..fields {
                            let x = vreinterpretq_s8_s32(vdupq_n_s32(x[d]));
                            let codes = if d + 1 < fields {
                                vandq_u8(lanes, field(d))
                            } else {
                                match BITS {
                                    1 => vshrq_n_u8::<7>(lanes),
                                    2 => vshrq_n_u8::<6>(lanes),
                                    _ => vshrq_n_u8::<4>(lanes),
                                }
                            };
                            let weights = if TABLE {
                                vqtbl1q_s8(table, codes)
                            } else {
                                vreinterpretq_s8_u8(codes)
                            };
                            sums[d][v] = $dot(sums[d][v], weights, x);
                            if POSITIVE {
                                let upper = if d + 1 < fields { 2 << (BITS * d) } else { 2 };
                                let upper = vandq_u8(codes, vdupq_n_u8(upper));
                                highest[d][v] = $dot(highest[d][v], vreinterpretq_s8_u8(upper), x);
                            }
                        }
                    }
                }
                for v in 0..2 {
                    let mut totals = [vdupq_n_s32(centre), vdupq_n_s32(0)];
                    for d in 0..fields {
                        let shift = if d + 1 < fields { (BITS * d) as i32 } else { 0 };
                        let by = |shift: i32| vdupq_n_s32(-shift);
                        totals[0] = vaddq_s32(totals[0], vshlq_s32(sums[d][v], by(shift)));
                        if POSITIVE {
                            let highest = vshlq_s32(highest[d][v], by(shift + 1));
                            totals[1] = vaddq_s32(totals[1], highest);
                        }
                    }
                    for (result, total) in result.iter_mut().zip(totals) {
                        // SAFETY: four of 16 elements.
                        unsafe { vst1q_s32(result[8 * half + 4 * v..].as_mut_ptr(), total) };
                    }
                }
            }
        }
    };
}

integer_products!(
    #[target_feature(enable = "neon,dotprod")]
    dot_products,
    dot
);
integer_products!(
    #[target_feature(enable = "neon")]
    products,
    dot_by_products
);

/// The sum of all bytes.
fn sum_of_bytes(x: &[i32]) -> i32 {
    let bytes: &[i8] = bytemuck::cast_slice(x);
    bytes.iter().map(|&byte| i32::from(byte)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{IntegerKernel, check_integers};

    /// Both kernels, not only the faster.
    #[test]
    fn integer_kernels_equal_the_portable_one() {
        macro_rules! check {
            ($bits:literal, $count:literal, $positive:literal, $table:literal) => {
                macro_rules! one_by_one {
                    ($kernel:ident) => {
                        let run: &IntegerKernel<'_> = &|panels, integers, x, sums| {
                            for (words, sums) in panels.into_iter().zip(sums) {
                                // SAFETY: see `multiply_int8`.
                                unsafe {
                                    $kernel::<$bits, $positive, $table>(words, integers, x, sums)
                                };
                            }
                        };
                        check_integers(
                            stringify!($kernel),
                            ($bits, $count),
                            $positive,
                            $table,
                            run,
                        );
                    };
                }
                one_by_one!(products);
                if is_aarch64_feature_detected!("dotprod") {
                    one_by_one!(dot_products);
                }
            };
        }
        check!(1, 2, false, false);
        check!(2, 3, false, false);
        check!(2, 4, false, false);
        check!(2, 3, true, false);
        check!(4, 16, false, false);
        check!(4, 16, false, true);
    }
}
