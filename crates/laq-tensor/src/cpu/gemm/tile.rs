//! The innermost product: one tile of C, held in registers over the whole depth.
//!
//! # Data contract
//!
//! A tile has MR rows and NR columns. The operands come packed: `a` holds, for each of `depth`
//! steps, MR numbers (one a row); `b` holds, for each step, NR numbers (one a column). Element
//! (r, j) is the sum over the steps in order, with one rounding a step where the instruction set
//! fuses; so its bits do not depend on where in a matrix the tile lies, nor on how the tiles are
//! dealt to threads.

use laq_simd::{Isa, Set};

/// The largest tile of any kernel, in elements.
pub(crate) const LARGEST_TILE: usize = 10 * 32;
const _: () = assert!(PORTABLE_ROWS * PORTABLE_COLUMNS <= LARGEST_TILE);
#[cfg(target_arch = "x86_64")]
const _: () = assert!(x86::AVX2_ROWS * x86::AVX2_COLUMNS <= LARGEST_TILE);
#[cfg(target_arch = "x86_64")]
const _: () = assert!(x86::AVX512_ROWS * x86::AVX512_COLUMNS <= LARGEST_TILE);

/// MR, rows of a tile.
pub(crate) fn tile_rows(isa: Isa) -> usize {
    match isa.set() {
        Set::Portable => PORTABLE_ROWS,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => x86::AVX2_ROWS,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => x86::AVX512_ROWS,
    }
}

/// NR, columns of a tile.
pub(crate) fn tile_columns(isa: Isa) -> usize {
    match isa.set() {
        Set::Portable => PORTABLE_COLUMNS,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => x86::AVX2_COLUMNS,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => x86::AVX512_COLUMNS,
    }
}

/// C ← A·B, or C ← C + A·B with `accumulate`, for one whole tile.
///
/// # Safety
/// `a` and `b` are readable for `depth`·MR and `depth`·NR numbers; `c` is readable and writable at
/// r·stride + j for every r < MR, j < NR, and nobody else touches these numbers meanwhile.
pub(crate) unsafe fn tile(
    isa: Isa,
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promises are those of the kernels; a `Kernel` exists only where the
    // processor has its features.
    unsafe {
        match isa.set() {
            Set::Portable => portable(depth, a, b, c, stride, accumulate),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86::avx2(depth, a, b, c, stride, accumulate),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => x86::avx512(depth, a, b, c, stride, accumulate),
        }
    }
}

/// Whether the kernel has a tile whose rows of A are read where they lie: [`tile_of_runs`].
pub(crate) fn reads_in_place(isa: Isa) -> bool {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => true,
        _ => false,
    }
}

/// The most rows of a tile that reads A where it lies.
pub(crate) const RUN_ROWS: usize = 10;

/// MR rows of A where they lie: row r's numbers of `steps` steps begin at `rows[r]`.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) rows: [*const f32; RUN_ROWS],
    pub(crate) steps: usize,
}

/// [`tile`] with A in place: its steps are those of all `runs`, one after the other. The sums are the same, bit by bit.
///
/// # Safety
/// The kernel [`reads_in_place`]; every row of a run is readable for its `steps`; otherwise as [`tile`].
pub(crate) unsafe fn tile_of_runs(
    isa: Isa,
    runs: &[Run],
    b: *const f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promises are those of the kernel.
        Set::Avx512 => unsafe { x86::avx512_runs(runs, b, c, stride, accumulate) },
        _ => unreachable!("only AVX-512 reads in place"),
    }
}

const PORTABLE_ROWS: usize = 4;
const PORTABLE_COLUMNS: usize = 8;

/// # Safety
/// As [`tile`].
unsafe fn portable(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let mut sums = [[0.0f32; PORTABLE_COLUMNS]; PORTABLE_ROWS];
    for step in 0..depth {
        for r in 0..PORTABLE_ROWS {
            for j in 0..PORTABLE_COLUMNS {
                // SAFETY: step < depth, r < MR, j < NR.
                sums[r][j] += unsafe {
                    *a.add(step * PORTABLE_ROWS + r) * *b.add(step * PORTABLE_COLUMNS + j)
                };
            }
        }
    }
    for r in 0..PORTABLE_ROWS {
        for j in 0..PORTABLE_COLUMNS {
            // SAFETY: (r, j) lies within the tile.
            unsafe {
                let target = c.add(r * stride + j);
                *target = if accumulate { *target } else { 0.0 } + sums[r][j];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    pub(super) const AVX2_ROWS: usize = 6;
    pub(super) const AVX2_COLUMNS: usize = 16;
    // Ten rows, because the paper's batches are 100 and 50: no row of a tile is wasted.
    pub(super) const AVX512_ROWS: usize = 10;
    pub(super) const AVX512_COLUMNS: usize = 32;

    /// # Safety
    /// As [`super::tile`]; the processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; AVX2_ROWS];
        for step in 0..depth {
            // SAFETY: step < depth, so both reads lie within the packed operands.
            unsafe {
                let b0 = _mm256_loadu_ps(b.add(step * AVX2_COLUMNS));
                let b1 = _mm256_loadu_ps(b.add(step * AVX2_COLUMNS + 8));
                for r in 0..AVX2_ROWS {
                    let x = _mm256_set1_ps(*a.add(step * AVX2_ROWS + r));
                    sums[r][0] = _mm256_fmadd_ps(x, b0, sums[r][0]);
                    sums[r][1] = _mm256_fmadd_ps(x, b1, sums[r][1]);
                }
            }
        }
        for r in 0..AVX2_ROWS {
            for half in 0..2 {
                // SAFETY: the eight numbers lie within row r of the tile.
                unsafe {
                    let target = c.add(r * stride + half * 8);
                    let mut value = sums[r][half];
                    if accumulate {
                        value = _mm256_add_ps(_mm256_loadu_ps(target), value);
                    }
                    _mm256_storeu_ps(target, value);
                }
            }
        }
    }

    /// # Safety
    /// As [`super::tile`]; the processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(
        depth: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
        for step in 0..depth {
            // SAFETY: step < depth, so both reads lie within the packed operands.
            unsafe {
                let b0 = _mm512_loadu_ps(b.add(step * AVX512_COLUMNS));
                let b1 = _mm512_loadu_ps(b.add(step * AVX512_COLUMNS + 16));
                for r in 0..AVX512_ROWS {
                    let x = _mm512_set1_ps(*a.add(step * AVX512_ROWS + r));
                    sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
                    sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
                }
            }
        }
        // SAFETY: the tile is the caller's.
        unsafe { store512(&sums, c, stride, accumulate) }
    }

    const _: () = assert!(AVX512_ROWS == super::RUN_ROWS);

    /// # Safety
    /// As [`super::tile_of_runs`]; the processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512_runs(
        runs: &[super::Run],
        mut b: *const f32,
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
        for run in runs {
            let rows = run.rows;
            for step in 0..run.steps {
                // SAFETY: step is below the run's, so all reads lie within its rows and the packed panel.
                unsafe {
                    let b0 = _mm512_loadu_ps(b);
                    let b1 = _mm512_loadu_ps(b.add(16));
                    b = b.add(AVX512_COLUMNS);
                    for r in 0..AVX512_ROWS {
                        let x = _mm512_set1_ps(*rows[r].add(step));
                        sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
                        sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
                    }
                }
            }
        }
        // SAFETY: the tile is the caller's.
        unsafe { store512(&sums, c, stride, accumulate) }
    }

    /// # Safety
    /// `c` as in [`super::tile`]; the processor has AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store512(
        sums: &[[__m512; 2]; AVX512_ROWS],
        c: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        for r in 0..AVX512_ROWS {
            for half in 0..2 {
                // SAFETY: the sixteen numbers lie within row r of the tile.
                unsafe {
                    let target = c.add(r * stride + half * 16);
                    let mut value = sums[r][half];
                    if accumulate {
                        value = _mm512_add_ps(_mm512_loadu_ps(target), value);
                    }
                    _mm512_storeu_ps(target, value);
                }
            }
        }
    }
}
