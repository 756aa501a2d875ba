//! Panels on any processor.

use core::ops::Range;

use super::{DensePanel, IntegerCodes, PANEL_ROWS, Panels, Values, Word, gemm};

/// Calls `put(column, row, code)` for all columns of `words`.
pub(super) fn for_each_code(bits: usize, words: &[Word], mut put: impl FnMut(usize, usize, usize)) {
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
    for (panel, sums) in (first..first + count).zip(sums.chunks_exact_mut(batch)) {
        let words = panels.of(panel, words.clone());
        gemm::multiply(panels.bits, words, values, (x, batch), add, sums);
    }
}

/// See [`super::multiply_dense`].
pub(super) fn multiply_dense(
    panels: DensePanel<'_>,
    (columns, first): (usize, usize),
    x: &[f32],
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let panels = panels.chunks_exact(columns);
    for (panel, sums) in panels.zip(sums.chunks_exact_mut(1)) {
        gemm::multiply_dense(&panel[first..first + x.len()], (x, 1), add, sums);
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
