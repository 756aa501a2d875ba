//! Panels on any processor: decoded into a block of f32, which matrixmultiply multiplies as it does in
//! the dense product.

use std::ops::Range;

use super::{IntegerCodes, PANEL_ROWS, Panels, Values, Word};

/// Calls `put(column, row, code)` for all columns of `words`.
fn for_each_code(bits: usize, words: &[Word], mut put: impl FnMut(usize, usize, usize)) {
    let (per_word, mask) = (32 / bits, (1 << bits) - 1);
    for (index, word) in words.iter().enumerate() {
        for k in 0..per_word {
            let shift = 8 * (k % 4) + bits * (k / 4);
            for (row, lane) in word.0.iter().enumerate() {
                put(index * per_word + k, row, (lane >> shift) as usize & mask);
            }
        }
    }
}

/// The decoded weight of a code in a row.
fn weight(values: &Values<'_>, code: usize, row: usize) -> f32 {
    match values {
        Values::Shared(lookup) => lookup.values[code],
        Values::PerRow { multipliers, steps } => {
            let sign = usize::from(multipliers[1].values[code] < 0.0);
            multipliers[sign].values[code] * steps[sign][row]
        }
    }
}

/// See [`super::multiply`].
pub(super) fn multiply(
    panels: Panels<'_>,
    (first, count): (usize, usize),
    words: Range<usize>,
    values: Values<'_>,
    (x, batch): (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let columns = words.len() * panels.columns_per_word();
    let mut decoded = vec![0.0f32; columns * PANEL_ROWS];
    for panel in 0..count {
        for_each_code(
            panels.bits,
            panels.of(first + panel, words.clone()),
            |column, row, code| decoded[column * PANEL_ROWS + row] = weight(&values, code, row),
        );
        let sums = sums[panel * batch..(panel + 1) * batch].as_flattened_mut();
        // SAFETY: `x` is columns × batch, `decoded` columns × 16, and `sums` batch × 16 elements.
        unsafe {
            matrixmultiply::sgemm(
                batch,
                columns,
                PANEL_ROWS,
                1.0,
                x.as_ptr(),
                1,
                batch as isize,
                decoded.as_ptr(),
                PANEL_ROWS as isize,
                1,
                if add { 1.0 } else { 0.0 },
                sums.as_mut_ptr(),
                PANEL_ROWS as isize,
                1,
            );
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
    *sums = [[0; PANEL_ROWS]; 2];
    for_each_code(bits, words, |column, row, code| {
        let x = i32::from(x[column / 4].to_le_bytes()[column % 4].cast_signed());
        sums[0][row] += i32::from(integers.table[code]) * x;
        if positive && code == 2 {
            sums[1][row] += x;
        }
    });
}
