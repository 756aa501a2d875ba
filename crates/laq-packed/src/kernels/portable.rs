//! A panel on any processor; its f32 product is in `gemm`.

use super::{IntegerCodes, PANEL_ROWS, Word};

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
