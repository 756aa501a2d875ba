//! Transposition of blocks in registers, for operands whose rows become columns of a panel.

use laq_simd::Isa;

/// Writes element (row, column) of `width` rows, which are `stride` apart in `source`, to
/// `column·width + row` of `target`, for the leading columns in whole blocks. Returns their number.
#[cfg(target_arch = "x86_64")]
pub(super) fn transpose(
    isa: Isa,
    source: &[f32],
    stride: usize,
    [width, columns]: [usize; 2],
    target: &mut [f32],
) -> usize {
    let block = match isa.set() {
        laq_simd::Set::Portable => return 0,
        laq_simd::Set::Avx2 => 8,
        laq_simd::Set::Avx512 => 16,
    };
    let columns = columns / block * block;
    if width == 0 || columns == 0 {
        return 0;
    }
    assert!(source.len() >= (width - 1) * stride + columns && target.len() >= columns * width);
    for column in (0..columns).step_by(block) {
        for row in (0..width).step_by(block) {
            let source = source[row * stride + column..].as_ptr();
            let target = target[column * width + row..].as_mut_ptr();
            let rows = block.min(width - row);
            // SAFETY: `rows` rows of `block` elements are in both, as asserted; an `Isa` exists only if
            // the processor has its features.
            unsafe {
                match block {
                    16 => x86::avx512(source, stride, rows, target, width),
                    _ => x86::avx2(source, stride, rows, target, width),
                }
            }
        }
    }
    columns
}

/// Other processors have no blocks.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn transpose(_: Isa, _: &[f32], _: usize, _: [usize; 2], _: &mut [f32]) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    /// Transposes up to 16 rows of 16 elements.
    ///
    /// # Safety
    /// The processor has AVX-512F; 16 elements are readable at each of the first `rows` multiples of
    /// `stride`, and `rows` elements are writable at each of the first 16 multiples of `width`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) unsafe fn avx512(
        source: *const f32,
        stride: usize,
        rows: usize,
        target: *mut f32,
        width: usize,
    ) {
        let present = if rows < 16 { (1 << rows) - 1 } else { u16::MAX };
        let rows: [__m512; 16] = std::array::from_fn(|row| match row < rows {
            // SAFETY: the caller's promise.
            true => unsafe { _mm512_loadu_ps(source.add(row * stride)) },
            false => _mm512_setzero_ps(),
        });
        // Within each quarter of 4 columns, pairs of rows and then fours of rows.
        let mut fours = [_mm512_setzero_ps(); 16];
        for four in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[4 * four + row]);
            let low = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)];
            let high = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)];
            for (half, [ab, cd]) in [low, high].into_iter().enumerate() {
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                let column = 2 * half;
                fours[4 * column + four] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                fours[4 * (column + 1) + four] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
            }
        }
        // Element q of a vector in `fours[4·c + f]` is column 4q + c of rows 4f to 4f + 3.
        for column in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|four| fours[4 * column + four]);
            let even = [
                _mm512_shuffle_f32x4::<0x88>(a, b),
                _mm512_shuffle_f32x4::<0x88>(c, d),
            ];
            let odd = [
                _mm512_shuffle_f32x4::<0xdd>(a, b),
                _mm512_shuffle_f32x4::<0xdd>(c, d),
            ];
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]),
                _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]),
            ];
            for (quarter, value) in columns.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let target = target.add((4 * quarter + column) * width);
                    _mm512_mask_storeu_ps(target, present, value);
                }
            }
        }
    }

    /// Transposes up to 8 rows of 8 elements.
    ///
    /// # Safety
    /// As [`avx512`], for 8 elements; the processor has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) unsafe fn avx2(
        source: *const f32,
        stride: usize,
        rows: usize,
        target: *mut f32,
        width: usize,
    ) {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let present = _mm256_cmpgt_epi32(_mm256_set1_epi32(rows as i32), lanes);
        let rows: [__m256; 8] = std::array::from_fn(|row| match row < rows {
            // SAFETY: the caller's promise.
            true => unsafe { _mm256_loadu_ps(source.add(row * stride)) },
            false => _mm256_setzero_ps(),
        });
        let mut fours = [_mm256_setzero_ps(); 8];
        for four in 0..2 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[4 * four + row]);
            let low = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)];
            let high = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)];
            for (half, [ab, cd]) in [low, high].into_iter().enumerate() {
                let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                let column = 2 * half;
                fours[2 * column + four] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
                fours[2 * (column + 1) + four] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
            }
        }
        // Half q of a vector in `fours[2·c + f]` is column 4q + c of rows 4f to 4f + 3.
        for column in 0..4 {
            let [upper, lower] = [fours[2 * column], fours[2 * column + 1]];
            let columns = [
                _mm256_permute2f128_ps::<0x20>(upper, lower),
                _mm256_permute2f128_ps::<0x31>(upper, lower),
            ];
            for (half, value) in columns.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let target = target.add((4 * half + column) * width);
                    _mm256_maskstore_ps(target, present, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for isa in Isa::available() {
            for [width, columns, stride] in [
                [32, 37, 40],
                [16, 16, 16],
                [8, 25, 31],
                [10, 40, 41],
                [6, 16, 16],
                [60, 33, 33],
            ] {
                let source: Vec<f32> = (0..width * stride).map(|at| at as f32).collect();
                let mut target = vec![-1.0; width * columns];
                let done = transpose(isa, &source, stride, [width, columns], &mut target);
                assert!(done <= columns);
                for (at, &found) in target.iter().enumerate() {
                    let (column, row) = (at / width, at % width);
                    let expected = (column < done).then(|| source[row * stride + column]);
                    assert_eq!(found, expected.unwrap_or(-1.0), "{isa}: ({row}, {column})");
                }
            }
        }
    }
}
