//! The innermost product: one tile of C, held in registers over the whole depth.
//!
//! # Data contract
//!
//! A tile has MR rows and NR columns. The operands are packed: `a` holds, for each of `depth`
//! steps, MR elements (one per row); `b` holds, for each step, NR elements (one per column).
//! Element (r, j) is the sum over the steps in order, with one rounding per step where the
//! instruction set fuses; its bits do not depend on the position of the tile in the matrix, nor on
//! the distribution of tiles to threads.
//!
//! The portable tile is a product of the crate matrixmultiply, whose kernels (NEON on Arm) are
//! selected from the features of the processor. It allocates a packing buffer per call.

use laq_simd::{Isa, Set};

/// The largest register tile, in elements.
pub(crate) const LARGEST_TILE: usize = 10 * 32;
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

/// Whether the tile of `rows` × `columns` elements can be computed in place in C; a register tile
/// must be whole.
pub(crate) fn writes_in_place(isa: Isa, rows: usize, columns: usize) -> bool {
    let whole = rows == tile_rows(isa) && columns == tile_columns(isa);
    whole || isa.set() == Set::Portable
}

/// C ← A·B, or C ← C + A·B with `accumulate`, for one tile of `size` rows and columns, which a
/// register tile ignores.
///
/// # Safety
/// `a` and `b` are readable for `depth`·MR and `depth`·NR elements; `c` is readable and writable at
/// r·stride + j for every r and j of the tile (r < MR, j < NR for a register tile), and no other
/// thread accesses these elements during the call.
pub(crate) unsafe fn tile(
    isa: Isa,
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    size: [usize; 2],
    accumulate: bool,
) {
    // SAFETY: the caller's promises are those of the tiles; an `Isa` exists only if the
    // processor has its features.
    unsafe {
        match isa.set() {
            Set::Portable => portable(depth, a, b, c, stride, size, accumulate),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86::avx2(depth, a, b, c, stride, accumulate),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => x86::avx512(depth, a, b, c, stride, accumulate),
        }
    }
}

/// Whether the instruction set has a tile that reads the rows of A in place: [`tile_of_runs`].
pub(crate) fn reads_in_place(isa: Isa) -> bool {
    match isa.set() {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => true,
        _ => false,
    }
}

/// The rows of a tile that reads A in place, at most.
pub(crate) const RUN_ROWS: usize = 10;

/// MR rows of A in place: the elements of row r for `steps` steps start at `rows[r]`.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) rows: [*const f32; RUN_ROWS],
    pub(crate) steps: usize,
}

/// [`tile`] with A in place: its steps are those of all `runs` in order. The bits are the same.
///
/// # Safety
/// The instruction set [`reads_in_place`]; every row of a run is readable for its `steps`;
/// otherwise as [`tile`].
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused_variables, reason = "only x86 has such a tile")
)]
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
        // SAFETY: the caller's promises are those of the tile.
        Set::Avx512 => unsafe { x86::avx512_runs(runs, b, c, stride, accumulate) },
        _ => unreachable!("only AVX-512 reads in place"),
    }
}

// Of a size that amortizes the packing of matrixmultiply, which packs its operands again.
pub(crate) const PORTABLE_ROWS: usize = 60;
const PORTABLE_COLUMNS: usize = 64;

/// # Safety
/// As [`tile`], for the elements r < `rows` and j < `columns`.
unsafe fn portable(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    [rows, columns]: [usize; 2],
    accumulate: bool,
) {
    let beta = if accumulate { 1.0 } else { 0.0 };
    let signed = |stride: usize| isize::try_from(stride).expect("a stride of a slice");
    // SAFETY: element (r, step) of A is at step·MR + r, (step, j) of B at step·NR + j and (r, j) of
    // C at r·stride + j, all within what the caller promises; C does not overlap A and B.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            depth,
            columns,
            1.0,
            a,
            1,
            PORTABLE_ROWS as isize,
            b,
            PORTABLE_COLUMNS as isize,
            1,
            beta,
            c,
            signed(stride),
            1,
        );
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    pub(super) const AVX2_ROWS: usize = 6;
    pub(super) const AVX2_COLUMNS: usize = 16;
    // Ten rows divide the paper's batches of 100 and 50.
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
            // SAFETY: step < depth, so both reads are within the packed operands.
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
                // SAFETY: the eight elements are in row r of the tile.
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

    /// Steps ahead of the current one whose elements of B are fetched into the first-level cache: a
    /// panel of 64 kB is larger than that cache.
    const PREFETCH_DISTANCE: usize = 8;

    #[inline(always)]
    fn prefetch(b: *const f32) {
        let ahead = b.wrapping_add(PREFETCH_DISTANCE * AVX512_COLUMNS);
        // SAFETY: a prefetch may be of any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(16).cast());
        }
    }

    /// Fetches the lines of a tile of C, which are written at its end.
    #[inline(always)]
    fn prefetch_tile(c: *const f32, stride: usize) {
        for row in 0..AVX512_ROWS {
            let row = c.wrapping_add(row * stride);
            // SAFETY: a prefetch may be of any address.
            unsafe {
                _mm_prefetch::<_MM_HINT_ET0>(row.cast());
                _mm_prefetch::<_MM_HINT_ET0>(row.wrapping_add(16).cast());
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
        prefetch_tile(c, stride);
        let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
        for step in 0..depth {
            // SAFETY: step < depth, so both reads are within the packed operands.
            unsafe {
                let b = b.add(step * AVX512_COLUMNS);
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                prefetch(b);
                for r in 0..AVX512_ROWS {
                    let x = _mm512_set1_ps(*a.add(step * AVX512_ROWS + r));
                    sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
                    sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
                }
            }
        }
        // SAFETY: the tile belongs to the caller.
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
        prefetch_tile(c, stride);
        let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
        for run in runs {
            let rows = run.rows;
            for step in 0..run.steps {
                // SAFETY: step is below that of the run, so all reads are within its rows and the
                // packed panel.
                unsafe {
                    let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                    prefetch(b);
                    b = b.add(AVX512_COLUMNS);
                    for r in 0..AVX512_ROWS {
                        let x = _mm512_set1_ps(*rows[r].add(step));
                        sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
                        sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
                    }
                }
            }
        }
        // SAFETY: the tile belongs to the caller.
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
                // SAFETY: the sixteen elements are in row r of the tile.
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
