//! Panels with AVX-512 and AVX2.

mod int8;

use std::arch::x86_64::*;
use std::ops::Range;

use laq_simd::{Isa, Set};

pub(super) use self::int8::multiply_int8;
use super::{Lookup, MAX_BATCH, MAX_PANELS, PANEL_ROWS, Panels, Values, Word};

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
