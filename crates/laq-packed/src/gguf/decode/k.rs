//! Blocks of 256 weights in parts of 16 or 32, each with a small integer as its scale s and perhaps one as its minimum m;
//! the block has a scale d in f16 of the scales, and one e of the minima.

use super::{code, half};

/// `(d s) q − e m`: parts of 16, s and m of 4 bits, q of 2.
pub(super) fn q2_k(block: &[u8], weights: &mut Vec<f32>) {
    let (parts, codes, d, e) = (
        &block[..16],
        &block[16..80],
        half(block, 80),
        half(block, 82),
    );
    weights.extend((0..256).map(|i| {
        let part = parts[i / 16];
        let q = f32::from(code::<2, 32>(codes, i));
        d * f32::from(part & 15) * q - e * f32::from(part >> 4)
    }));
}

/// `(d (s − 32)) (q − 4)`: parts of 16, s of 6 bits, q of 3.
pub(super) fn q3_k(block: &[u8], weights: &mut Vec<f32>) {
    let (high, low, scales, d) = (
        &block[..32],
        &block[32..96],
        &block[96..108],
        half(block, 108),
    );
    weights.extend((0..256).map(|i| {
        let part = i / 16;
        let scale = code::<4, 8>(scales, part) | code::<2, 4>(&scales[8..], part) << 4;
        let q = code::<2, 32>(low, i) | code::<1, 32>(high, i) << 2;
        d * (f32::from(scale) - 32.0) * (f32::from(q) - 4.0)
    }));
}

/// `(d s) q − e m`: parts of 32, s and m of 6 bits, q of 4.
pub(super) fn q4_k(block: &[u8], weights: &mut Vec<f32>) {
    let codes = &block[16..];
    weights.extend((0..256).map(|i| {
        let [scale, minimum] = scale_and_minimum(block, i / 32);
        scale * f32::from(code::<4, 32>(codes, i)) - minimum
    }));
}

/// `(d s) q − e m`: parts of 32, s and m of 6 bits, q of 5.
pub(super) fn q5_k(block: &[u8], weights: &mut Vec<f32>) {
    let (high, low) = (&block[16..48], &block[48..]);
    weights.extend((0..256).map(|i| {
        let [scale, minimum] = scale_and_minimum(block, i / 32);
        let q = code::<4, 32>(low, i) | code::<1, 32>(high, i) << 4;
        scale * f32::from(q) - minimum
    }));
}

/// `(d s) (q − 32)`: parts of 16, s of 8 bits with a sign, q of 6.
pub(super) fn q6_k(block: &[u8], weights: &mut Vec<f32>) {
    let (low, high, scales, d) = (
        &block[..128],
        &block[128..192],
        &block[192..208],
        half(block, 208),
    );
    weights.extend((0..256).map(|i| {
        let q = code::<4, 64>(low, i) | code::<2, 32>(high, i) << 4;
        d * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0)
    }));
}

/// `d s` and `e m` of a part in Q4_K and Q5_K, where d and e are followed by twelve bytes: the lowest six bits of eight
/// are those of the first four parts, the others have four bits in the last four bytes and two above the six.
fn scale_and_minimum(block: &[u8], part: usize) -> [f32; 2] {
    let bytes = &block[4..16];
    let [scale, minimum] = match part {
        ..4 => [bytes[part] & 63, bytes[part + 4] & 63],
        _ => {
            let low = bytes[part + 4];
            [
                low & 15 | bytes[part - 4] >> 6 << 4,
                low >> 4 | bytes[part] >> 6 << 4,
            ]
        }
    };
    [
        half(block, 0) * f32::from(scale),
        half(block, 2) * f32::from(minimum),
    ]
}
