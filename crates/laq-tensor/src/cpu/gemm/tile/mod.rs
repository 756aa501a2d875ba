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

#[cfg(target_arch = "x86_64")]
mod x86;

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
/// register tile ignores. Returns `true` only if all magnitudes in the tile are below
/// [`crate::LARGEST_GRADIENT`]; the portable one does not look. The portable tile ignores `ahead`.
///
/// # Safety
/// `a` and `b` are readable for `depth`·MR and `depth`·NR elements; `c` is readable and writable at
/// r·stride + j for every r and j of the tile (r < MR, j < NR for a register tile), and no other
/// thread accesses these elements during the call.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused_variables, reason = "the portable tile fetches nothing")
)]
pub(crate) unsafe fn tile(
    isa: Isa,
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    size: [usize; 2],
    accumulate: bool,
    ahead: &Ahead,
) -> bool {
    // SAFETY: the caller's promises are those of the tiles; an `Isa` exists only if the
    // processor has its features.
    unsafe {
        match isa.set() {
            Set::Portable => {
                portable(depth, a, b, c, stride, size, accumulate);
                false
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86::avx2(depth, a, b, c, stride, accumulate, ahead),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => x86::avx512(depth, a, b, c, stride, accumulate, ahead),
        }
    }
}

/// A panel of B that is not packed: element (step, column) is at
/// `step`·`step_stride` + `column`·`column_stride`, and one of the strides is 1.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only x86 has a tile that packs")
)]
pub(crate) struct UnpackedPanel {
    pub(crate) start: *const f32,
    pub(crate) steps: usize,
    pub(crate) step_stride: usize,
    pub(crate) column_stride: usize,
}

/// Steps of a tile for which it fetches the lines of [`Ahead`] once.
const FETCH_STEPS: usize = 16;
/// Elements of a cache line.
const LINE: usize = 16;

/// Cache lines that a tile fetches into the second-level cache while it computes: a part of the panel of
/// B that is packed next, which would otherwise wait for memory.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// The lines of the first fetch; `count` of them.
    lines: [*const f32; 8],
    count: usize,
    /// Elements from the lines of one fetch to those of the next.
    advance: usize,
}

impl Ahead {
    pub(crate) const NOTHING: Ahead = Ahead {
        lines: [std::ptr::null(); 8],
        count: 0,
        advance: 0,
    };

    /// The part of tile `number` of `tiles` that together fetch the elements of a panel of NR columns.
    /// Few tiles fetch only some of them.
    pub(crate) fn part(isa: Isa, panel: UnpackedPanel, number: usize, tiles: usize) -> Self {
        let (columns, steps) = (tile_columns(isa), panel.steps);
        let mut part = Ahead::NOTHING;
        let lines_of_step = columns / LINE;
        let count = (columns * FETCH_STEPS / LINE)
            .div_ceil(tiles)
            .next_multiple_of(lines_of_step)
            .min(part.lines.len());
        if panel.column_stride == 1 {
            // Some steps at each fetch, all columns of them.
            let at_once = count / lines_of_step;
            let first = number * at_once * (steps / FETCH_STEPS);
            if first < steps {
                part.count = count;
                part.advance = at_once * panel.step_stride;
            }
            for (index, line) in part.lines[..part.count].iter_mut().enumerate() {
                let step = first + index / lines_of_step;
                let offset = step * panel.step_stride + index % lines_of_step * LINE;
                *line = panel.start.wrapping_add(offset);
            }
        } else {
            // Some columns, the next line of them at each fetch.
            let first = number * count;
            part.count = count.min(columns.saturating_sub(first));
            part.advance = LINE;
            for (index, line) in part.lines[..part.count].iter_mut().enumerate() {
                *line = panel
                    .start
                    .wrapping_add((first + index) * panel.column_stride);
            }
        }
        part
    }
}

/// Whether the instruction set has a tile that packs its panel of B: [`packing_tile`].
pub(crate) fn packs(isa: Isa) -> bool {
    isa.set() != Set::Portable
}

/// [`tile`] that packs its panel of B, for the next tiles: this hides the time that the elements take
/// from memory, and that of the copy. The bits are the same.
///
/// # Safety
/// The instruction set [`packs`]; `b` is readable for NR columns of `depth` steps, and `packed` is
/// writable for `depth`·NR elements; otherwise as [`tile`].
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused_variables, unused_unsafe, reason = "only x86 has such a tile")
)]
pub(crate) unsafe fn packing_tile(
    isa: Isa,
    depth: usize,
    a: *const f32,
    b: UnpackedPanel,
    packed: *mut f32,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) -> bool {
    // SAFETY: the caller's promises are those of the tiles.
    unsafe {
        match isa.set() {
            Set::Portable => unreachable!("the portable tile does not pack"),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86::avx2_packing(depth, a, b, packed, c, stride, accumulate),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => x86::avx512_packing(depth, a, b, packed, c, stride, accumulate),
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
) -> bool {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_parts_of_the_tiles_are_the_whole_panel() {
        let (steps, stride) = (128, 256);
        let data = vec![0.0f32; stride * stride];
        for isa in Isa::available().filter(|&isa| packs(isa)) {
            let columns = tile_columns(isa);
            for (step_stride, column_stride) in [(stride, 1), (1, stride)] {
                let panel = UnpackedPanel {
                    start: data.as_ptr(),
                    steps,
                    step_stride,
                    column_stride,
                };
                let address = |step: usize, column: usize| {
                    data[step * step_stride + column * column_stride..].as_ptr()
                };
                let expected: BTreeSet<_> = match column_stride {
                    1 => (0..steps * columns / LINE)
                        .map(|line| address(line * LINE / columns, line * LINE % columns))
                        .collect(),
                    _ => (0..steps * columns / LINE)
                        .map(|line| address(line / columns * LINE, line % columns))
                        .collect(),
                };
                for tiles in [4, 9, 16] {
                    let mut fetched = BTreeSet::new();
                    for number in 0..tiles {
                        let part = Ahead::part(isa, panel, number, tiles);
                        for line in &part.lines[..part.count] {
                            for fetch in 0..steps / FETCH_STEPS {
                                fetched.insert(line.wrapping_add(fetch * part.advance));
                            }
                        }
                    }
                    assert!(fetched.is_superset(&expected), "{isa}, {tiles} tiles");
                }
            }
        }
    }
}
