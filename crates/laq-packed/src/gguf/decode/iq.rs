//! Blocks of 256 weights whose codes are points of a grid, eight or four weights each, or values of a table. A block has a
//! scale d in f16, and parts of 16 or 32 weights have small integers s.

use std::array;

use super::grids::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use super::{code, half};

/// The magnitudes of IQ2.
const IQ2_VALUES: [f32; 3] = [8.0, 25.0, 43.0];
/// The magnitudes of IQ3_XXS.
const IQ3_XXS_VALUES: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
/// The magnitudes of IQ3_S.
const IQ3_S_VALUES: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
/// The values of IQ1, to which ±δ is added.
const IQ1_VALUES: [f32; 3] = [-1.0, 0.0, 1.0];
/// The values of IQ4.
const IQ4_VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// δ of IQ1.
const IQ1_DELTA: f32 = 0.125;

/// `d (½ + s) / 4 · x · ±1`: parts of 32, s of 4 bits above the signs of the part, points of 8 bits.
pub(super) fn iq2_xxs(block: &[u8], weights: &mut Vec<f32>) {
    let d = half(block, 0);
    for part in block[2..].as_chunks::<8>().0 {
        let (points, rest) = part.split_at(4);
        let rest = u32_of(rest);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.25;
        for (k, point) in points.iter().enumerate() {
            let point = two_bits(IQ2_XXS[usize::from(*point)], IQ2_VALUES);
            push(scale, point, even_signs(rest >> (7 * k)), weights);
        }
    }
}

/// `d (½ + s) / 4 · x · ±1`: parts of 16, s of 4 bits, points of 9 bits below their signs.
pub(super) fn iq2_xs(block: &[u8], weights: &mut Vec<f32>) {
    let (d, scales) = (half(block, 0), &block[66..]);
    for k in 0..32 {
        let point = u16_at(block, 2 + 2 * k);
        let scale = d * (0.5 + f32::from(code::<4, 1>(scales, k / 2))) * 0.25;
        let signs = even_signs((point >> 9).into());
        let point = two_bits(IQ2_XS[usize::from(point & 511)], IQ2_VALUES);
        push(scale, point, signs, weights);
    }
}

/// `d (½ + s) / 4 · x · ±1`: parts of 16, s of 4 bits, points of 10 bits, a byte of signs for each.
pub(super) fn iq2_s(block: &[u8], weights: &mut Vec<f32>) {
    let (d, low, signs) = (half(block, 0), &block[2..34], &block[34..66]);
    let (high, scales) = (&block[66..74], &block[74..]);
    for k in 0..32 {
        let point = usize::from(low[k]) | usize::from(code::<2, 1>(high, k)) << 8;
        let scale = d * (0.5 + f32::from(code::<4, 1>(scales, k / 2))) * 0.25;
        push(scale, two_bits(IQ2_S[point], IQ2_VALUES), signs[k], weights);
    }
}

/// `d (½ + s) / 2 · x · ±1`: parts of 32, s of 4 bits above the signs of the part, points of 8 bits.
pub(super) fn iq3_xxs(block: &[u8], weights: &mut Vec<f32>) {
    let (d, points, rest) = (half(block, 0), &block[2..66], &block[66..]);
    for (k, pair) in points.as_chunks::<2>().0.iter().enumerate() {
        let rest = u32_of(&rest[k / 4 * 4..]);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        let pair = pair.map(|point| IQ3_XXS[usize::from(point)]);
        let signs = even_signs(rest >> (k % 4 * 7));
        push(scale, three_bits(pair, IQ3_XXS_VALUES), signs, weights);
    }
}

/// `d (1 + 2 s) · x · ±1`: parts of 32, s of 4 bits, points of 9 bits, a sign for each weight.
pub(super) fn iq3_s(block: &[u8], weights: &mut Vec<f32>) {
    let (d, low, high) = (half(block, 0), &block[2..66], &block[66..74]);
    let (signs, scales) = (&block[74..106], &block[106..]);
    for k in 0..32 {
        let pair = [2 * k, 2 * k + 1].map(|place| {
            let point = usize::from(low[place]) | usize::from(code::<1, 1>(high, place)) << 8;
            IQ3_S[point]
        });
        let scale = d * (1.0 + 2.0 * f32::from(code::<4, 1>(scales, k / 4)));
        push(scale, three_bits(pair, IQ3_S_VALUES), signs[k], weights);
    }
}

/// `d (1 + 2 s) (x ± δ)`: parts of 32, points of 11 bits, the three highest in 16 bits of the part that also have s and
/// the sign of δ.
pub(super) fn iq1_s(block: &[u8], weights: &mut Vec<f32>) {
    let (d, low) = (half(block, 0), &block[2..34]);
    for k in 0..32 {
        let part = u16_at(block, 34 + k / 4 * 2);
        let point = usize::from(low[k]) | usize::from(part >> (k % 4 * 3) & 7) << 8;
        let scale = d * f32::from(2 * (part >> 12 & 7) + 1);
        push_shifted(scale, point, part >> 15 == 1, weights);
    }
}

/// `d (1 + 2 s) (x ± δ)`: parts of 16, points of 11 bits, four bits of each with its highest three and the sign of δ, and
/// four times 16 bits with s of four parts and a quarter of d.
pub(super) fn iq1_m(block: &[u8], weights: &mut Vec<f32>) {
    let (low, high) = (&block[..32], &block[32..48]);
    let scales: [u16; 4] = array::from_fn(|k| u16_at(block, 48 + 2 * k));
    let d = (scales.iter().rev()).fold(0, |bits, four| bits << 4 | four >> 12);
    let d = half(&d.to_le_bytes(), 0);
    for k in 0..32 {
        let rest = code::<4, 1>(high, k);
        let point = usize::from(low[k]) | usize::from(rest & 7) << 8;
        let (four, part) = (scales[k / 8], k / 2 % 4);
        let scale = d * f32::from(2 * (four >> (3 * part) & 7) + 1);
        push_shifted(scale, point, rest >> 3 == 1, weights);
    }
}

/// `d (s − 32) · x`: parts of 32, s of 6 bits, x of the table of IQ4_NL.
pub(super) fn iq4_xs(block: &[u8], weights: &mut Vec<f32>) {
    let (d, high, low, codes) = (half(block, 0), &block[2..4], &block[4..8], &block[8..]);
    weights.extend((0..256).map(|i| {
        let scale = code::<4, 1>(low, i / 32) | code::<2, 1>(high, i / 32) << 4;
        d * (f32::from(scale) - 32.0) * IQ4_VALUES[usize::from(code::<4, 16>(codes, i))]
    }));
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The first four bytes.
fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The signs of eight weights from seven bits: an even number of them are negative.
fn even_signs(bits: u32) -> u8 {
    let seven = bits as u8 & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// The values of a point of eight.
fn two_bits(point: u16, values: [f32; 3]) -> [f32; 8] {
    array::from_fn(|k| values[usize::from(point >> (2 * k) & 3)])
}

/// The values of two points of four.
fn three_bits(points: [u16; 2], values: [f32; 8]) -> [f32; 8] {
    array::from_fn(|k| values[usize::from(points[k / 4] >> (k % 4 * 4) & 7)])
}

/// Appends eight weights `scale · x · ±1`; a bit of `signs` is one for −1.
fn push(scale: f32, point: [f32; 8], signs: u8, weights: &mut Vec<f32>) {
    weights.extend((0..8).map(|k| match signs >> k & 1 {
        0 => scale * point[k],
        _ => -(scale * point[k]),
    }));
}

/// Appends eight weights `scale (x ± δ)`.
fn push_shifted(scale: f32, point: usize, is_negative: bool, weights: &mut Vec<f32>) {
    let delta = if is_negative { -IQ1_DELTA } else { IQ1_DELTA };
    let point = two_bits(IQ1[point], IQ1_VALUES);
    weights.extend(point.map(|x| scale * (x + delta)));
}
