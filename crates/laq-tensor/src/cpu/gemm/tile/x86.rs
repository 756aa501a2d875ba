//! The register tiles of AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::{Ahead, FETCH_STEPS, UnpackedPanel};
use crate::LARGEST_GRADIENT;
use crate::cpu::gemm::transpose::x86 as transpose;

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
    ahead: &Ahead,
) -> bool {
    let mut sums = [[_mm256_setzero_ps(); 2]; AVX2_ROWS];
    for start in (0..depth).step_by(FETCH_STEPS) {
        fetch(ahead, start / FETCH_STEPS);
        for step in start..depth.min(start + FETCH_STEPS) {
            // SAFETY: step < depth, so both reads are within the packed operands.
            unsafe {
                step256(
                    &mut sums,
                    a.add(step * AVX2_ROWS),
                    b.add(step * AVX2_COLUMNS),
                )
            }
        }
    }
    // SAFETY: the tile belongs to the caller.
    unsafe { store256(sums, c, stride, accumulate) }
}

/// # Safety
/// As [`super::packing_tile`]; the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2_packing(
    depth: usize,
    a: *const f32,
    b: UnpackedPanel,
    packed: *mut f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) -> bool {
    const BLOCK: usize = 8;
    let mut sums = [[_mm256_setzero_ps(); 2]; AVX2_ROWS];
    for start in (0..depth).step_by(BLOCK) {
        let steps = BLOCK.min(depth - start);
        // SAFETY: the block is within the panel, and so are its steps within both operands.
        unsafe {
            let source = b.start.add(start * b.step_stride);
            let target = packed.add(start * AVX2_COLUMNS);
            if b.column_stride == 1 {
                for step in 0..steps {
                    let (source, target) = (
                        source.add(step * b.step_stride),
                        target.add(step * AVX2_COLUMNS),
                    );
                    prefetch(source.wrapping_add(BLOCK * b.step_stride));
                    _mm256_storeu_ps(target, _mm256_loadu_ps(source));
                    _mm256_storeu_ps(target.add(8), _mm256_loadu_ps(source.add(8)));
                }
            } else if steps == BLOCK {
                for half in [0, 8] {
                    let source = source.add(half * b.column_stride);
                    transpose::avx2(
                        source,
                        b.column_stride,
                        BLOCK,
                        target.add(half),
                        AVX2_COLUMNS,
                    );
                }
            } else {
                pack_remainder(source, b.column_stride, steps, target, AVX2_COLUMNS);
            }
            for step in start..start + steps {
                step256(
                    &mut sums,
                    a.add(step * AVX2_ROWS),
                    packed.add(step * AVX2_COLUMNS),
                );
            }
        }
    }
    // SAFETY: the tile belongs to the caller.
    unsafe { store256(sums, c, stride, accumulate) }
}

/// # Safety
/// `a` and `b` have the elements of a step; the processor has AVX2 and FMA.
#[inline(always)]
unsafe fn step256(sums: &mut [[__m256; 2]; AVX2_ROWS], a: *const f32, b: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
        for r in 0..AVX2_ROWS {
            let x = _mm256_set1_ps(*a.add(r));
            sums[r][0] = _mm256_fmadd_ps(x, b0, sums[r][0]);
            sums[r][1] = _mm256_fmadd_ps(x, b1, sums[r][1]);
        }
    }
}

/// # Safety
/// `c` as in [`super::tile`]; the processor has AVX2.
#[inline(always)]
unsafe fn store256(
    sums: [[__m256; 2]; AVX2_ROWS],
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) -> bool {
    // SAFETY: the caller's promise: the eight elements of every half are in row r of the tile.
    unsafe {
        let magnitude = _mm256_set1_epi32(0x7fff_ffff);
        let mut largest = _mm256_setzero_si256();
        for r in 0..AVX2_ROWS {
            for half in 0..2 {
                let target = c.add(r * stride + half * 8);
                let mut value = sums[r][half];
                if accumulate {
                    value = _mm256_add_ps(_mm256_loadu_ps(target), value);
                }
                _mm256_storeu_ps(target, value);
                let bits = _mm256_and_si256(_mm256_castps_si256(value), magnitude);
                largest = _mm256_max_epu32(largest, bits);
            }
        }
        let limit = _mm256_set1_epi32(LARGEST_GRADIENT.to_bits().cast_signed());
        _mm256_movemask_epi8(_mm256_cmpgt_epi32(limit, largest)) == -1
    }
}

/// Packs `steps` steps of columns that are contiguous, fewer than a block, one element at a time.
///
/// # Safety
/// Each of the `width` columns has that many elements, `stride` apart; `target` has `steps`·`width`.
unsafe fn pack_remainder(
    source: *const f32,
    stride: usize,
    steps: usize,
    target: *mut f32,
    width: usize,
) {
    for column in 0..width {
        for step in 0..steps {
            // SAFETY: the caller's promise.
            unsafe { *target.add(step * width + column) = *source.add(column * stride + step) };
        }
    }
}

/// Steps ahead of the current one whose elements of B are fetched into the first-level cache: a
/// panel of 64 kB is larger than that cache.
const PREFETCH_DISTANCE: usize = 8;

/// Fetches a cache line into the first-level cache.
#[inline(always)]
fn prefetch(line: *const f32) {
    // SAFETY: a prefetch may be of any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
}

/// Fetches the lines of a part into the second-level cache, for the `number`th time.
#[inline(always)]
fn fetch(part: &Ahead, number: usize) {
    for line in &part.lines[..part.count] {
        let line = line.wrapping_add(number * part.advance);
        // SAFETY: a prefetch may be of any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
}

/// [`prefetch`] of a step of a packed panel of B, for the tiles of 32 columns.
#[inline(always)]
fn prefetch_step(b: *const f32) {
    let ahead = b.wrapping_add(PREFETCH_DISTANCE * AVX512_COLUMNS);
    prefetch(ahead);
    prefetch(ahead.wrapping_add(16));
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
    ahead: &Ahead,
) -> bool {
    prefetch_tile(c, stride);
    let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
    for start in (0..depth).step_by(FETCH_STEPS) {
        fetch(ahead, start / FETCH_STEPS);
        for step in start..depth.min(start + FETCH_STEPS) {
            // SAFETY: step < depth, so both reads are within the packed operands.
            unsafe {
                let b = b.add(step * AVX512_COLUMNS);
                prefetch_step(b);
                step512(&mut sums, a.add(step * AVX512_ROWS), b);
            }
        }
    }
    // SAFETY: the tile belongs to the caller.
    unsafe { store512(sums, c, stride, accumulate) }
}

/// # Safety
/// As [`super::packing_tile`]; the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512_packing(
    depth: usize,
    a: *const f32,
    b: UnpackedPanel,
    packed: *mut f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) -> bool {
    const BLOCK: usize = 16;
    prefetch_tile(c, stride);
    let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
    for start in (0..depth).step_by(BLOCK) {
        let steps = BLOCK.min(depth - start);
        // SAFETY: the block is within the panel, and so are its steps within both operands.
        unsafe {
            let source = b.start.add(start * b.step_stride);
            let target = packed.add(start * AVX512_COLUMNS);
            if b.column_stride == 1 {
                for step in 0..steps {
                    let source = source.add(step * b.step_stride);
                    let target = target.add(step * AVX512_COLUMNS);
                    for half in [0, 16] {
                        prefetch(source.wrapping_add(BLOCK * b.step_stride + half));
                        _mm512_storeu_ps(target.add(half), _mm512_loadu_ps(source.add(half)));
                    }
                }
            } else if steps == BLOCK {
                for half in [0, 16] {
                    let source = source.add(half * b.column_stride);
                    transpose::avx512(
                        source,
                        b.column_stride,
                        BLOCK,
                        target.add(half),
                        AVX512_COLUMNS,
                    );
                }
            } else {
                pack_remainder(source, b.column_stride, steps, target, AVX512_COLUMNS);
            }
            for step in start..start + steps {
                step512(
                    &mut sums,
                    a.add(step * AVX512_ROWS),
                    packed.add(step * AVX512_COLUMNS),
                );
            }
        }
    }
    // SAFETY: the tile belongs to the caller.
    unsafe { store512(sums, c, stride, accumulate) }
}

/// # Safety
/// `a` and `b` have the elements of a step; the processor has AVX-512F.
#[inline(always)]
unsafe fn step512(sums: &mut [[__m512; 2]; AVX512_ROWS], a: *const f32, b: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
        for r in 0..AVX512_ROWS {
            let x = _mm512_set1_ps(*a.add(r));
            sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
        }
    }
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
) -> bool {
    prefetch_tile(c, stride);
    let mut sums = [[_mm512_setzero_ps(); 2]; AVX512_ROWS];
    for run in runs {
        let rows = run.rows;
        for step in 0..run.steps {
            // SAFETY: step is below that of the run, so all reads are within its rows and the
            // packed panel.
            unsafe {
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                prefetch_step(b);
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
    unsafe { store512(sums, c, stride, accumulate) }
}

/// # Safety
/// `c` as in [`super::tile`]; the processor has AVX-512F.
#[inline(always)]
unsafe fn store512(
    sums: [[__m512; 2]; AVX512_ROWS],
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) -> bool {
    // SAFETY: the caller's promise: the sixteen elements of every half are in row r of the tile.
    unsafe {
        let magnitude = _mm512_set1_epi32(0x7fff_ffff);
        let mut largest = _mm512_setzero_si512();
        for r in 0..AVX512_ROWS {
            for half in 0..2 {
                let target = c.add(r * stride + half * 16);
                let mut value = sums[r][half];
                if accumulate {
                    value = _mm512_add_ps(_mm512_loadu_ps(target), value);
                }
                _mm512_storeu_ps(target, value);
                let bits = _mm512_and_si512(_mm512_castps_si512(value), magnitude);
                largest = _mm512_max_epu32(largest, bits);
            }
        }
        let limit = _mm512_set1_epi32(LARGEST_GRADIENT.to_bits().cast_signed());
        _mm512_cmplt_epu32_mask(largest, limit) == u16::MAX
    }
}
