//! Panels with AVX-512 and AVX2.

use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

use laq_simd::{Isa, Set};

use super::{
    IntegerCodes, IntegerSums, Lookup, MAX_BATCH, MAX_PANELS, PANEL_ROWS, Panels, Values, Word,
};

/// The operands of a kernel; see [`super::multiply`].
struct Operands<'a> {
    /// The first word of the first panel; a word follows the last of each panel.
    words: *const Word,
    /// Words between panels.
    stride: usize,
    /// Words of a panel.
    count: usize,
    x: *const f32,
    add: bool,
    /// Of the values, or of the multipliers of each sign.
    lookups: [&'a Lookup; 2],
    steps: &'a [[f32; PANEL_ROWS]; 2],
}

/// See [`super::multiply`].
pub(super) fn multiply(
    isa: Isa,
    panels: Panels<'_>,
    (first, count): (usize, usize),
    words: Range<usize>,
    values: Values<'_>,
    (x, batch): (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let bits = panels.bits;
    let (lookups, steps) = match values {
        Values::Shared(lookup) => ([lookup; 2], &[[1.0; PANEL_ROWS]; 2]),
        Values::PerRow { multipliers, steps } => (multipliers.each_ref(), steps),
    };
    let per_row = matches!(values, Values::PerRow { .. });
    assert!(batch <= MAX_BATCH && count <= MAX_PANELS);
    let operands = |panel: usize| Operands {
        words: panels.words[(first + panel) * panels.words_per_panel + words.start..].as_ptr(),
        stride: panels.words_per_panel,
        count: words.len(),
        x: x.as_ptr(),
        add,
        lookups,
        steps,
    };
    // With few vectors, several panels hide the latency of the additions.
    let together = match (per_row, batch, isa.set()) {
        (true, ..) => 1,
        (false, 1 | 2, Set::Avx512) => 4,
        (false, 1 | 2 | 4, _) => 2,
        (false, _, Set::Avx512) => 2,
        (false, ..) => 1,
    };
    let mut panel = 0;
    while panel < count {
        let now = if panel + together <= count {
            together
        } else {
            1
        };
        let target = sums[panel * batch..(panel + now) * batch].as_flattened_mut();
        // SAFETY: the operands have the lengths that the caller asserts, for `now` panels and
        // `batch` vectors, and the instruction set is that of `isa`.
        unsafe { dispatch(isa, bits, now, batch, per_row, &operands(panel), target) };
        panel += now;
    }
}

/// # Safety
/// The operands are readable for `together` panels and `batch` vectors.
unsafe fn dispatch(
    isa: Isa,
    bits: usize,
    together: usize,
    batch: usize,
    per_row: bool,
    operands: &Operands<'_>,
    sums: &mut [f32],
) {
    macro_rules! call {
        ($bits:literal, $panels:literal, $batch:literal, $per_row:literal) => {
            // SAFETY: the caller's promise; an `Isa` exists only if the processor has its features.
            unsafe {
                match isa.set() {
                    Set::Avx512 => avx512::<$bits, $panels, $batch, $per_row>(operands, sums),
                    _ => avx2::<$bits, $panels, $batch, $per_row>(operands, sums),
                }
            }
        };
    }
    macro_rules! of_bits {
        ($bits:literal) => {
            match (together, batch, per_row) {
                (4, 1, false) => call!($bits, 4, 1, false),
                (4, 2, false) => call!($bits, 4, 2, false),
                (2, 1, false) => call!($bits, 2, 1, false),
                (2, 2, false) => call!($bits, 2, 2, false),
                (2, 4, false) => call!($bits, 2, 4, false),
                (2, 8, false) => call!($bits, 2, 8, false),
                (1, 1, false) => call!($bits, 1, 1, false),
                (1, 2, false) => call!($bits, 1, 2, false),
                (1, 4, false) => call!($bits, 1, 4, false),
                (1, 8, false) => call!($bits, 1, 8, false),
                (1, 1, true) => call!($bits, 1, 1, true),
                (1, 2, true) => call!($bits, 1, 2, true),
                (1, 4, true) => call!($bits, 1, 4, true),
                (1, 8, true) => call!($bits, 1, 8, true),
                _ => unreachable!("batches are 1, 2, 4 or 8"),
            }
        };
    }
    match bits {
        1 => of_bits!(1),
        2 => of_bits!(2),
        _ => of_bits!(4),
    }
}

/// # Safety
/// The processor has AVX-512F, and the operands are readable for P panels and B vectors.
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const BITS: usize, const P: usize, const B: usize, const PER_ROW: bool>(
    operands: &Operands<'_>,
    sums: &mut [f32],
) {
    assert!(sums.len() >= P * B * PANEL_ROWS);
    // SAFETY: tables and steps are arrays of 16 elements.
    let load = |values: &[f32; 16]| unsafe { _mm512_loadu_ps(values.as_ptr()) };
    let tables = operands.lookups[0].nibbles.each_ref().map(load);
    let negative = operands.lookups[1].nibbles.each_ref().map(load);
    let steps = operands.steps.each_ref().map(load);
    let mut sum = [[_mm512_setzero_ps(); B]; P];
    let mut x = operands.x;
    for word in 0..operands.count {
        let mut codes = [[_mm512_setzero_si512(); 4]; P];
        for p in 0..P {
            // Loads from the next bytes shift the lanes: the permutation takes four bits of each.
            // SAFETY: word < count, of P panels, and a word follows the last.
            unsafe {
                let bytes: *const u8 = operands.words.add(p * operands.stride + word).cast();
                for j in 0..4 {
                    codes[p][j] = _mm512_loadu_si512(bytes.add(j).cast());
                }
            }
        }
        macro_rules! nibble {
            ($codes:expr, $first:expr) => {
                for s in 0..4 / BITS {
                    for j in 0..4 {
                        let column = $first + 4 * s + j;
                        for p in 0..P {
                            let mut weight = _mm512_permutexvar_ps($codes[p][j], tables[s]);
                            if PER_ROW {
                                let below = _mm512_permutexvar_ps($codes[p][j], negative[s]);
                                weight = _mm512_mul_ps(weight, steps[0]);
                                weight = _mm512_fmadd_ps(below, steps[1], weight);
                            }
                            for b in 0..B {
                                // SAFETY: `x` has B elements for each column of the words.
                                let x = _mm512_set1_ps(unsafe { *x.add(column * B + b) });
                                sum[p][b] = _mm512_fmadd_ps(x, weight, sum[p][b]);
                            }
                        }
                    }
                }
            };
        }
        nibble!(codes, 0);
        let mut upper = [[_mm512_setzero_si512(); 4]; P];
        for p in 0..P {
            for j in 0..4 {
                upper[p][j] = _mm512_srli_epi32::<4>(codes[p][j]);
            }
        }
        nibble!(upper, 16 / BITS);
        // SAFETY: as above; after the last word, one past the end.
        x = unsafe { x.add(32 / BITS * B) };
    }
    for p in 0..P {
        for b in 0..B {
            // SAFETY: asserted above.
            unsafe {
                let target = sums.as_mut_ptr().add((p * B + b) * PANEL_ROWS);
                let mut value = sum[p][b];
                if operands.add {
                    value = _mm512_add_ps(_mm512_loadu_ps(target), value);
                }
                _mm512_storeu_ps(target, value);
            }
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA, and the operands are readable for P panels and B vectors.
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const BITS: usize, const P: usize, const B: usize, const PER_ROW: bool>(
    operands: &Operands<'_>,
    sums: &mut [f32],
) {
    assert!(sums.len() >= P * B * PANEL_ROWS);
    // SAFETY: the first or the last 8 of 16 elements.
    let load =
        |values: &[f32; 16], half: usize| unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * half)) };
    // The values of the codes 0 to 7 and 8 to 15.
    let table = |sign: usize| [0, 1].map(|half| load(&operands.lookups[sign].nibbles[0], half));
    let tables = [table(0), table(1)];
    // The lower and the upper half of the rows of each panel.
    let mut sum = [[[_mm256_setzero_ps(); 2]; B]; P];
    let mut x = operands.x;
    for word in 0..operands.count {
        let mut lanes = [[_mm256_setzero_si256(); 2]; P];
        for p in 0..P {
            for half in 0..2 {
                // SAFETY: word < count, of P panels; a word has two halves of 8 lanes.
                lanes[p][half] = unsafe {
                    let start: *const __m256i =
                        operands.words.add(p * operands.stride + word).cast();
                    _mm256_loadu_si256(start.add(half))
                };
            }
        }
        for _ in 0..8 / BITS {
            macro_rules! column {
                ($shift:literal) => {
                    for p in 0..P {
                        for half in 0..2 {
                            let code = _mm256_srli_epi32::<$shift>(lanes[p][half]);
                            let look_up = |[low, high]: [__m256; 2]| {
                                let low = _mm256_permutevar8x32_ps(low, code);
                                if BITS < 4 {
                                    return low;
                                }
                                let high = _mm256_permutevar8x32_ps(high, code);
                                let select = _mm256_slli_epi32::<28>(code);
                                _mm256_blendv_ps(low, high, _mm256_castsi256_ps(select))
                            };
                            let mut weight = look_up(tables[0]);
                            if PER_ROW {
                                let steps = [0, 1].map(|sign| load(&operands.steps[sign], half));
                                weight = _mm256_mul_ps(weight, steps[0]);
                                weight = _mm256_fmadd_ps(look_up(tables[1]), steps[1], weight);
                            }
                            for b in 0..B {
                                // SAFETY: `x` has B elements for each column of the words.
                                let x = _mm256_set1_ps(unsafe { *x.add(b) });
                                sum[p][b][half] = _mm256_fmadd_ps(x, weight, sum[p][b][half]);
                            }
                        }
                    }
                    // SAFETY: as above; after the last column, one past the end.
                    x = unsafe { x.add(B) };
                };
            }
            column!(0);
            column!(8);
            column!(16);
            column!(24);
            for lanes in lanes.iter_mut().flatten() {
                *lanes = match BITS {
                    1 => _mm256_srli_epi32::<1>(*lanes),
                    2 => _mm256_srli_epi32::<2>(*lanes),
                    _ => _mm256_srli_epi32::<4>(*lanes),
                };
            }
        }
    }
    for p in 0..P {
        for b in 0..B {
            for half in 0..2 {
                // SAFETY: asserted above.
                unsafe {
                    let target = sums.as_mut_ptr().add((p * B + b) * PANEL_ROWS + 8 * half);
                    let mut value = sum[p][b][half];
                    if operands.add {
                        value = _mm256_add_ps(_mm256_loadu_ps(target), value);
                    }
                    _mm256_storeu_ps(target, value);
                }
            }
        }
    }
}

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

/// See [`super::multiply_int8`]; the sums fit into 32 bits.
pub(super) fn multiply_int8(
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
            super::portable::multiply_int8(bits, words, integers, positive, x, sums);
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
    use crate::kernels::portable;

    /// A panel of codes below `count`, and its activations.
    fn panel(bits: usize, count: u32, words: usize, seed: u32) -> (Vec<Word>, Vec<i32>) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut word = || {
            let code = |next: &mut dyn FnMut() -> u32| next() % count;
            let mut lanes = [0u32; PANEL_ROWS];
            for lane in &mut lanes {
                for place in 0..32 / bits {
                    *lane |= code(&mut next) << (place * bits);
                }
            }
            Word(lanes)
        };
        let panel = (0..words).map(|_| word()).collect();
        let mut byte = || (next() % 255) as i32 - 127;
        let four = |byte: &mut dyn FnMut() -> i32| {
            i32::from_le_bytes(std::array::from_fn(|_| (byte() as i8).cast_unsigned()))
        };
        let x = (0..words * 8 / bits).map(|_| four(&mut byte)).collect();
        (panel, x)
    }

    /// Every kernel that this processor can run, not only the fastest, on the largest activations and
    /// tables that are allowed.
    #[test]
    fn all_integer_kernels_equal_the_portable_one() {
        let identity: [u8; 16] = std::array::from_fn(|code| code as u8);
        let mut powers = identity.map(|code| 8 * code);
        powers[15] = 128;
        macro_rules! check {
            ($bits:literal, $count:literal, $positive:literal, $table:literal) => {
                let integers = IntegerCodes {
                    table: if $table { powers } else { identity },
                    identity: !$table,
                };
                for (words, seed) in [(1, 1), (7, 2), (300, 3)] {
                    let (first, mut x) = panel($bits, $count, words, seed);
                    let (second, _) = panel($bits, $count, words, seed + 9);
                    if seed == 3 {
                        x.fill(i32::from_le_bytes([127u8; 4]));
                    }
                    let expected = [&first, &second].map(|words| {
                        let mut sums = [[0; PANEL_ROWS]; 2];
                        portable::multiply_int8($bits, words, &integers, $positive, &x, &mut sums);
                        sums
                    });
                    let panels = [&first[..], &second];
                    let check = |name: &str, run: &dyn Fn(&mut IntegerSums)| {
                        let mut sums = [[[7; PANEL_ROWS]; 2]; 2];
                        run(&mut sums);
                        for (sums, expected) in sums.iter().zip(&expected) {
                            assert_eq!(sums[0], expected[0], "{name}, {} bits", $bits);
                            if $positive {
                                assert_eq!(sums[1], expected[1], "{name}");
                            }
                        }
                    };
                    if is_x86_feature_detected!("avx512vnni")
                        && is_x86_feature_detected!("avx512bw")
                    {
                        check("avx512vnni", &|sums| {
                            // SAFETY: the panels have the words that `x` is for; the features are detected.
                            unsafe { dot_products512::<$bits, $positive, $table>(panels, &integers, &x, sums) };
                        });
                    }
                    if is_x86_feature_detected!("avxvnni") {
                        check("avxvnni", &|sums| {
                            // SAFETY: the panels have the words that `x` is for; the features are detected.
                            unsafe { dot_products256::<$bits, $positive, $table>(panels, &integers, &x, sums) };
                        });
                    }
                    if is_x86_feature_detected!("avx512bw") {
                        check("avx512bw", &|sums| {
                            for (words, sums) in panels.iter().zip(sums) {
                                // SAFETY: the panels have the words that `x` is for; the features are detected.
                                unsafe { bytes512::<$bits, $positive, $table>(words, &integers, &x, sums) };
                            }
                        });
                    }
                    if is_x86_feature_detected!("avx2") {
                        check("avx2", &|sums| {
                            for (words, sums) in panels.iter().zip(sums) {
                                // SAFETY: the panels have the words that `x` is for; the features are detected.
                                unsafe { bytes256::<$bits, $positive, $table>(words, &integers, &x, sums) };
                            }
                        });
                    }
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
