//! Products of a panel in f32 without the standard library. The bits are those of matrixmultiply on
//! processors without fused multiply-add.

use core::array;

use super::{DensePanel, MAX_BATCH, PANEL_ROWS, Values, Word};

/// Columns whose products are summed before they are added to the other sums, as in matrixmultiply.
const DEPTH: usize = 256;

/// Sums of products of `batch` interleaved vectors and the columns of `words`, which `add` adds to.
pub(super) fn multiply(
    bits: usize,
    words: &[Word],
    values: Values<'_>,
    x: (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    let (per_word, mask) = (32 / bits, (1 << bits) - 1);
    let weights = |column: usize| {
        let (word, k) = (&words[column / per_word], column % per_word);
        let shift = 8 * (k % 4) + bits * (k / 4);
        array::from_fn(|row| values.of((word.0[row] >> shift) as usize & mask, row))
    };
    accumulate(weights, x, add, sums);
}

/// [`multiply`] of a panel of f32.
pub(super) fn multiply_dense(
    panel: DensePanel<'_>,
    x: (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    accumulate(|column| panel[column], x, add, sums);
}

/// The sums of a panel with the `weights` of a column.
fn accumulate(
    weights: impl Fn(usize) -> [f32; PANEL_ROWS],
    (x, batch): (&[f32], usize),
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    for (block, x) in x.chunks(DEPTH * batch).enumerate() {
        let mut totals = [[0.0; PANEL_ROWS]; MAX_BATCH];
        for (index, x) in x.chunks_exact(batch).enumerate() {
            let weights = weights(block * DEPTH + index);
            for (total, x) in totals.iter_mut().zip(x) {
                for lane in 0..PANEL_ROWS {
                    total[lane] += x * weights[lane];
                }
            }
        }
        for (sums, total) in sums.iter_mut().zip(totals) {
            for lane in 0..PANEL_ROWS {
                let before = if add || block > 0 { sums[lane] } else { 0.0 };
                sums[lane] = before + total[lane];
            }
        }
    }
}
