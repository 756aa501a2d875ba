//! Integer products with AVX-512 and AVX2.

use std::arch::x86_64::*;
use std::sync::OnceLock;

use laq_simd::{Isa, Set};

use crate::kernels::{IntegerCodes, IntegerSums, PANEL_ROWS, Word, portable};

/// The dot products of bytes of the processor.
#[derive(Clone, Copy)]
enum DotProducts {
    /// Vectors of 512 bits.
    Wide,
    /// Vectors of 256 bits.
    Narrow,
    None,
}

fn dot_products(isa: Isa) -> DotProducts {
    static DETECTED: OnceLock<[bool; 2]> = OnceLock::new();
    let [wide, narrow] = *DETECTED.get_or_init(|| {
        [
            is_x86_feature_detected!("avx512vnni"),
            is_x86_feature_detected!("avxvnni"),
        ]
    });
    match isa.set() {
        Set::Avx512 if wide => DotProducts::Wide,
        Set::Avx2 if narrow => DotProducts::Narrow,
        _ => DotProducts::None,
    }
}

/// See [`crate::kernels::multiply_int8`]; the sums fit into 32 bits.
pub(in crate::kernels) fn multiply_int8(
    isa: Isa,
    bits: usize,
    panels: [&[Word]; 2],
    integers: &IntegerCodes,
    positive: bool,
    x: &[i32],
    sums: &mut IntegerSums,
) {
    // Fields of a byte are used in place where they are codes of 1 or 2 bits, or of 4 bits without a
    // table; products of fields up to 240 need the instruction that does not saturate.
    macro_rules! call {
        ($bits:literal, $positive:literal, $table:literal) => {
            // SAFETY: the panels have as many words, and `x` has 8/bits elements for each (asserted
            // by the caller); the processor has the features.
            unsafe {
                match (dot_products(isa), isa.set()) {
                    (DotProducts::Wide, _) => {
                        dot_products512::<$bits, $positive, $table>(panels, integers, x, sums)
                    }
                    (DotProducts::Narrow, _) => {
                        dot_products256::<$bits, $positive, $table>(panels, integers, x, sums)
                    }
                    (DotProducts::None, Set::Avx512) => {
                        (panels.into_iter().zip(sums)).for_each(|(words, sums)| {
                            bytes512::<$bits, $positive, $table>(words, integers, x, sums);
                        })
                    }
                    (DotProducts::None, _) => {
                        (panels.into_iter().zip(sums)).for_each(|(words, sums)| {
                            bytes256::<$bits, $positive, $table>(words, integers, x, sums);
                        })
                    }
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
        _ => (panels.into_iter().zip(sums)).for_each(|(words, sums)| {
            portable::multiply_int8(bits, words, integers, positive, x, sums);
        }),
    }
}

/// Words ahead of the current one that are fetched into the first-level cache.
const PREFETCH_DISTANCE: usize = 32;

/// Dot products of bytes: two panels at a time, whose sums are independent.
macro_rules! dot_products {
    ($name:ident, $features:literal, $lanes:literal, $vector:ty, $load:ident, $store:ident, $zero:ident, $set1:ident, $shift:ident, $shift_by:ident, $and:ident, $dot:ident, $add:ident, $shuffle:ident, $broadcast:ident) => {
        /// # Safety
        /// The processor has the features; both panels have the same number of words, and `x` has
        /// 8/BITS elements for each.
        #[target_feature(enable = $features)]
        unsafe fn $name<const BITS: usize, const POSITIVE: bool, const TABLE: bool>(
            panels: [&[Word]; 2],
            integers: &IntegerCodes,
            x: &[i32],
            result: &mut IntegerSums,
        ) {
            // SAFETY: 16 bytes.
            let table = $broadcast(unsafe { _mm_loadu_si128(integers.table.as_ptr().cast()) });
            let field = ((1u32 << BITS) - 1) * 0x0101_0101;
            let mask = |d: usize| $set1((field << (BITS * d)) as i32);
            let upper = |d: usize| $set1((0x0202_0202u32 << (BITS * d)) as i32);
            for part in 0..PANEL_ROWS / $lanes {
                // A sum for each position of a code in its byte, of the weight 2^(BITS·position).
                let mut sums = [[$zero(); 8]; 2];
                let mut highest = [[$zero(); 8]; 2];
                let mut x = x.as_ptr();
                for word in 0..panels[0].len() {
                    let mut lanes = [$zero(); 2];
                    for p in 0..2 {
                        // SAFETY: both panels have this word; a prefetch may be of any address.
                        unsafe {
                            let word = panels[p].as_ptr().add(word);
                            _mm_prefetch::<_MM_HINT_T0>(
                                word.wrapping_add(PREFETCH_DISTANCE).cast(),
                            );
                            lanes[p] =
                                $load((*word).0.as_ptr().add(part * $lanes).cast::<$vector>());
                        }
                    }
                    for d in 0..8 / BITS {
                        // SAFETY: 8/BITS elements for each word.
                        let x = unsafe { $set1(*x.add(d)) };
                        for p in 0..2 {
                            let codes = if TABLE {
                                let shifted = if d == 0 {
                                    lanes[p]
                                } else {
                                    $shift::<4>(lanes[p])
                                };
                                $shuffle(table, $and(shifted, mask(0)))
                            } else {
                                $and(lanes[p], mask(d))
                            };
                            sums[p][d] = $dot(sums[p][d], codes, x);
                            if POSITIVE {
                                highest[p][d] = $dot(highest[p][d], $and(lanes[p], upper(d)), x);
                            }
                        }
                    }
                    // SAFETY: as above; after the last word, one past the end.
                    x = unsafe { x.add(8 / BITS) };
                }
                for p in 0..2 {
                    let mut total = [$zero(); 2];
                    for d in 0..8 / BITS {
                        let shift = if TABLE { 0 } else { BITS * d };
                        let by = |shift: usize| _mm_cvtsi32_si128(shift as i32);
                        total[0] = $add(total[0], $shift_by(sums[p][d], by(shift)));
                        if POSITIVE {
                            let highest = $shift_by(highest[p][d], by(shift + 1));
                            total[1] = $add(total[1], highest);
                        }
                    }
                    for (result, total) in result[p].iter_mut().zip(total) {
                        let target = &mut result[part * $lanes..][..$lanes];
                        // SAFETY: as many elements as the vector has.
                        unsafe { $store(target.as_mut_ptr().cast::<$vector>(), total) };
                    }
                }
            }
        }
    };
}

dot_products!(
    dot_products512,
    "avx512f,avx512bw,avx512vnni",
    16,
    __m512i,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_srli_epi32,
    _mm512_sra_epi32,
    _mm512_and_si512,
    _mm512_dpbusd_epi32,
    _mm512_add_epi32,
    _mm512_shuffle_epi8,
    _mm512_broadcast_i32x4
);
dot_products!(
    dot_products256,
    "avx2,avxvnni",
    8,
    __m256i,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_srli_epi32,
    _mm256_sra_epi32,
    _mm256_and_si256,
    _mm256_dpbusd_avx_epi32,
    _mm256_add_epi32,
    _mm256_shuffle_epi8,
    _mm256_broadcastsi128_si256
);

/// Without dot products of bytes: products of fields in 16 bits, which are at most 128·127·2.
macro_rules! bytes {
    ($name:ident, $features:literal, $lanes:literal, $vector:ty, $load:ident, $store:ident, $zero:ident, $set1:ident, $set1_16:ident, $shift:ident, $and:ident, $maddubs:ident, $madd:ident, $add:ident, $add16:ident, $shuffle:ident, $broadcast:ident) => {
        /// # Safety
        /// The processor has the features; `x` has 8/BITS elements for each word.
        #[target_feature(enable = $features)]
        unsafe fn $name<const BITS: usize, const POSITIVE: bool, const TABLE: bool>(
            words: &[Word],
            integers: &IntegerCodes,
            x: &[i32],
            total: &mut [[i32; PANEL_ROWS]; 2],
        ) {
            // SAFETY: 16 bytes.
            let table = $broadcast(unsafe { _mm_loadu_si128(integers.table.as_ptr().cast()) });
            let mask = $set1((((1u32 << BITS) - 1) * 0x0101_0101) as i32);
            let upper = $set1(0x0202_0202);
            let ones = $set1_16(1);
            for part in 0..PANEL_ROWS / $lanes {
                let mut sums = [$zero(); 2];
                let mut x = x.as_ptr();
                for word in words {
                    let lanes = &word.0[part * $lanes..][..$lanes];
                    // SAFETY: as many lanes as the vector has.
                    let mut lanes = unsafe { $load(lanes.as_ptr().cast::<$vector>()) };
                    // At most 16 products of at most 15·127·2, or two of at most 128·127·2.
                    let mut narrow = [$zero(); 2];
                    for d in 0..8 / BITS {
                        // SAFETY: 8/BITS elements for each word.
                        let x = unsafe { $set1(*x.add(d)) };
                        let codes = $and(lanes, mask);
                        if TABLE {
                            let products = $maddubs($shuffle(table, codes), x);
                            sums[0] = $add(sums[0], $madd(products, ones));
                        } else {
                            narrow[0] = $add16(narrow[0], $maddubs(codes, x));
                        }
                        if POSITIVE {
                            let products = $maddubs($and(lanes, upper), x);
                            narrow[1] = $add16(narrow[1], products);
                        }
                        lanes = match BITS {
                            1 => $shift::<1>(lanes),
                            2 => $shift::<2>(lanes),
                            _ => $shift::<4>(lanes),
                        };
                    }
                    // SAFETY: as above; after the last word, one past the end.
                    x = unsafe { x.add(8 / BITS) };
                    if !TABLE {
                        sums[0] = $add(sums[0], $madd(narrow[0], ones));
                    }
                    if POSITIVE {
                        sums[1] = $add(sums[1], $madd(narrow[1], ones));
                    }
                }
                for (shift, (total, sums)) in total.iter_mut().zip(sums).enumerate() {
                    let target = &mut total[part * $lanes..][..$lanes];
                    // SAFETY: as many elements as the vector has.
                    unsafe { $store(target.as_mut_ptr().cast::<$vector>(), sums) };
                    // The highest code was counted as 2.
                    target.iter_mut().for_each(|sum| *sum >>= shift);
                }
            }
        }
    };
}

bytes!(
    bytes512,
    "avx512f,avx512bw",
    16,
    __m512i,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_set1_epi16,
    _mm512_srli_epi32,
    _mm512_and_si512,
    _mm512_maddubs_epi16,
    _mm512_madd_epi16,
    _mm512_add_epi32,
    _mm512_add_epi16,
    _mm512_shuffle_epi8,
    _mm512_broadcast_i32x4
);
bytes!(
    bytes256,
    "avx2",
    8,
    __m256i,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_set1_epi16,
    _mm256_srli_epi32,
    _mm256_and_si256,
    _mm256_maddubs_epi16,
    _mm256_madd_epi16,
    _mm256_add_epi32,
    _mm256_add_epi16,
    _mm256_shuffle_epi8,
    _mm256_broadcastsi128_si256
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{IntegerKernel, check_integers};

    /// Every kernel that this processor can run, not only the fastest.
    #[test]
    fn all_integer_kernels_equal_the_portable_one() {
        // SAFETY, for all calls: the panels have the words that `x` is for; the features are detected.
        macro_rules! check {
            ($bits:literal, $count:literal, $positive:literal, $table:literal) => {
                let check = |name: &str, run: &IntegerKernel<'_>| {
                    check_integers(name, ($bits, $count), $positive, $table, run);
                };
                macro_rules! pair {
                    ($kernel:ident) => {
                        check(stringify!($kernel), &|panels, integers, x, sums| {
                            // SAFETY: see above.
                            unsafe {
                                $kernel::<$bits, $positive, $table>(panels, integers, x, sums)
                            };
                        });
                    };
                }
                macro_rules! one_by_one {
                    ($kernel:ident) => {
                        check(stringify!($kernel), &|panels, integers, x, sums| {
                            for (words, sums) in panels.into_iter().zip(sums) {
                                // SAFETY: see above.
                                unsafe {
                                    $kernel::<$bits, $positive, $table>(words, integers, x, sums)
                                };
                            }
                        });
                    };
                }
                let wide = is_x86_feature_detected!("avx512bw");
                if wide && is_x86_feature_detected!("avx512vnni") {
                    pair!(dot_products512);
                }
                if is_x86_feature_detected!("avxvnni") {
                    pair!(dot_products256);
                }
                if wide {
                    one_by_one!(bytes512);
                }
                if is_x86_feature_detected!("avx2") {
                    one_by_one!(bytes256);
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
