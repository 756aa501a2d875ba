//! Products of a panel in f32 by matrixmultiply, as in the dense product of training.

use super::portable::for_each_code;
use super::{DensePanel, PANEL_ROWS, Values, Word};

/// Sums of products of `batch` interleaved vectors and the columns of `words`, which `add` adds to.
pub(super) fn multiply(
    bits: usize,
    words: &[Word],
    values: Values<'_>,
    x: (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let mut decoded = vec![[0.0f32; PANEL_ROWS]; words.len() * (32 / bits)];
    for_each_code(bits, words, |column, row, code| {
        decoded[column][row] = values.of(code, row);
    });
    multiply_dense(&decoded, x, add, sums);
}

/// [`multiply`] of a panel of f32.
pub(super) fn multiply_dense(
    panel: DensePanel<'_>,
    (x, batch): (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    assert!(x.len() == panel.len() * batch && sums.len() == batch);
    // SAFETY: `x` is columns × batch, `panel` columns × 16, and `sums` batch × 16 elements.
    unsafe {
        matrixmultiply::sgemm(
            batch,
            panel.len(),
            PANEL_ROWS,
            1.0,
            x.as_ptr(),
            1,
            batch as isize,
            panel.as_ptr().cast(),
            PANEL_ROWS as isize,
            1,
            if add { 1.0 } else { 0.0 },
            sums.as_mut_ptr().cast(),
            PANEL_ROWS as isize,
            1,
        );
    }
}
