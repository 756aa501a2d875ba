//! Blocks of 32 weights: a scale d in f16, perhaps a minimum m in f16, and integers q.

use super::{code, half};

/// `d q + m`, q of 4 bits.
pub(super) fn q4_1(block: &[u8], weights: &mut Vec<f32>) {
    let (d, m, codes) = (half(block, 0), half(block, 2), &block[4..]);
    weights.extend((0..32).map(|i| d * f32::from(code::<4, 16>(codes, i)) + m));
}

/// `d (q − 16)`, q of 5 bits.
pub(super) fn q5_0(block: &[u8], weights: &mut Vec<f32>) {
    let d = half(block, 0);
    weights.extend((0..32).map(|i| d * (f32::from(five_bits(&block[2..], i)) - 16.0)));
}

/// `d q + m`, q of 5 bits.
pub(super) fn q5_1(block: &[u8], weights: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    weights.extend((0..32).map(|i| d * f32::from(five_bits(&block[4..], i)) + m));
}

/// `d q`, q of 8 bits with a sign.
pub(super) fn q8_0(block: &[u8], weights: &mut Vec<f32>) {
    let d = half(block, 0);
    weights.extend(block[2..].iter().map(|q| d * f32::from(*q as i8)));
}

/// The highest bits of all codes, then their lowest four.
fn five_bits(codes: &[u8], i: usize) -> u8 {
    code::<1, 1>(codes, i) << 4 | code::<4, 16>(&codes[4..], i)
}
