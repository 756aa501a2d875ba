//! The vectors of the instruction sets.

/// Some f32 that are added and multiplied at a time.
///
/// # Safety
/// Every function requires that the processor has the instruction set.
pub(super) trait Vector: Copy {
    /// Elements.
    const WIDTH: usize;

    unsafe fn zero() -> Self;

    /// # Safety
    /// [`Vector::WIDTH`] elements are readable.
    unsafe fn load(source: *const f32) -> Self;

    /// # Safety
    /// [`Vector::WIDTH`] elements are writable.
    unsafe fn store(self, target: *mut f32);

    unsafe fn plus(self, other: Self) -> Self;

    unsafe fn minus(self, other: Self) -> Self;

    unsafe fn times(self, factor: f32) -> Self;
}

impl<const N: usize> Vector for [f32; N] {
    const WIDTH: usize = N;

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; N]
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { source.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { target.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn plus(mut self, other: Self) -> Self {
        for lane in 0..N {
            self[lane] += other[lane];
        }
        self
    }

    #[inline(always)]
    unsafe fn minus(mut self, other: Self) -> Self {
        for lane in 0..N {
            self[lane] -= other[lane];
        }
        self
    }

    #[inline(always)]
    unsafe fn times(mut self, factor: f32) -> Self {
        for lane in 0..N {
            self[lane] *= factor;
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    macro_rules! vector {
        ($vector:ident, $width:literal: $zero:ident, $load:ident, $store:ident, $plus:ident, $minus:ident, $times:ident, $splat:ident) => {
            impl Vector for $vector {
                const WIDTH: usize = $width;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the caller's promise, here and below.
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn load(source: *const f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $load(source) }
                }

                #[inline(always)]
                unsafe fn store(self, target: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(target, self) }
                }

                #[inline(always)]
                unsafe fn plus(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $plus(self, other) }
                }

                #[inline(always)]
                unsafe fn minus(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $minus(self, other) }
                }

                #[inline(always)]
                unsafe fn times(self, factor: f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $times(self, $splat(factor)) }
                }
            }
        };
    }

    vector!(__m256, 8: _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_set1_ps);
    vector!(__m512, 16: _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, _mm512_set1_ps);
}
