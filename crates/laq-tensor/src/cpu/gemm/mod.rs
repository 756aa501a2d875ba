//! C = A·B in f32, packed and tiled, over all threads of the current rayon pool.
//!
//! The product is cut along its depth into slices of [`DEPTH`]; of each slice, B is packed once for
//! all, and blocks of C are dealt to the threads, which pack the rows of A that they need. Every
//! element of C is summed in the order of the depth, whoever computes it: the same bits with any
//! number of threads. Scratch memory belongs to the thread and is kept from call to call.

mod pack;
mod tile;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use self::tile::{RUN_ROWS, Run};
use super::shared::Shared;
use laq_simd::{AlignedBuffer, Isa};
pub(crate) use pack::{Matrix, Operand, pack_panel};
pub(crate) use tile::{LARGEST_TILE, tile_columns, tile_rows};

/// Depth of a slice: panels of A and B of this depth stay in the second-level cache.
pub(crate) const DEPTH: usize = 512;
/// Rows of a block of C, at most; a multiple of the tile's rows is taken.
const BLOCK_ROWS: usize = 120;
/// Rows of A are read in place if they lie in memory in parts of so many numbers or more.
pub(crate) const LEAST_RUN: usize = 64;
/// The most parts of a slice: one may be cut off at each end.
const RUNS: usize = DEPTH / LEAST_RUN + 2;
/// The most tiles of a block that are read in place.
const TILES: usize = BLOCK_ROWS / RUN_ROWS;
/// What is read for a row or a pixel that is not there.
pub(crate) static ZEROS: [f32; DEPTH] = [0.0; DEPTH];
/// Columns of a block of C, about, where the rows alone make too few blocks for the threads.
const BLOCK_COLUMNS: usize = 256;
/// So many blocks are enough for the threads.
const ENOUGH_BLOCKS: usize = 16;

thread_local! {
    static PACKED_A: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
    static PACKED_B: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
}

/// Lends the thread's scratch of at least `length` numbers, which are whatever was left there.
fn with_scratch<R>(
    cell: &'static std::thread::LocalKey<Cell<AlignedBuffer<f32>>>,
    length: usize,
    work: impl FnOnce(&mut [f32]) -> R,
) -> R {
    // Taken out for the time of the work: a product that this thread is given meanwhile finds an
    // empty cell and makes its own scratch.
    let mut scratch = cell.take();
    let result = work(scratch.resize(length));
    cell.set(scratch);
    result
}

/// C ← A·B, or C ← C + A·B with `accumulate`; C is dense and row-major.
pub(crate) fn gemm(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, c: &mut [f32]) {
    product(isa, a, b.transposed(), accumulate, c);
}

/// [`gemm`] of any operands, the second of which comes as its transpose.
pub(crate) fn product(
    isa: Isa,
    a: impl Operand,
    b_transposed: impl Operand,
    accumulate: bool,
    c: &mut [f32],
) {
    let ((rows, depth), (columns, other_depth)) = (a.size(), b_transposed.size());
    assert_eq!(depth, other_depth);
    assert_eq!(c.len(), rows * columns);
    if depth == 0 && !accumulate {
        c.fill(0.0);
    }
    if rows == 0 || columns == 0 || depth == 0 {
        return;
    }
    let (mr, nr) = (tile_rows(isa), tile_columns(isa));
    // Blocks of about the same size.
    let block_rows = rows.div_ceil(rows.div_ceil(BLOCK_ROWS)).div_ceil(mr) * mr;
    let panels = columns.div_ceil(nr);
    let row_blocks = rows.div_ceil(block_rows);
    // Each block packs its rows of A, so fewer blocks side by side are less work.
    let block_panels = if row_blocks >= ENOUGH_BLOCKS {
        panels
    } else {
        (BLOCK_COLUMNS / nr).max(1)
    };
    let column_blocks = panels.div_ceil(block_panels);
    let in_place = tile::reads_in_place(isa) && a.in_place(0, 0..depth).is_some();
    let c = Shared::new(c);
    with_scratch(&PACKED_B, panels * nr * DEPTH.min(depth), |packed_b| {
        let mut start = 0;
        while start < depth {
            let slice = start..depth.min(start + DEPTH);
            let steps = slice.len();
            let packed_b = &mut packed_b[..panels * nr * steps];
            packed_b
                .par_chunks_exact_mut(nr * steps)
                .enumerate()
                .for_each(|(panel, target)| {
                    b_transposed.pack(panel * nr, columns, nr, slice.clone(), target);
                });
            let packed_b = &*packed_b;
            let add = accumulate || start > 0;
            (0..row_blocks * column_blocks)
                .into_par_iter()
                .for_each(|block| {
                    let first_row = block / column_blocks * block_rows;
                    let last_row = rows.min(first_row + block_rows);
                    let first_panel = block % column_blocks * block_panels;
                    let last_panel = panels.min(first_panel + block_panels);
                    let tiles = (last_row - first_row).div_ceil(mr);
                    let multiply = |block: BlockOfA<'_>| {
                        for panel in first_panel..last_panel {
                            let first_column = panel * nr;
                            // SAFETY: this block of C is this task's alone.
                            unsafe {
                                multiply_rows(
                                    isa,
                                    steps,
                                    block,
                                    last_row - first_row,
                                    &packed_b[panel * nr * steps..][..nr * steps],
                                    nr.min(columns - first_column),
                                    c.address(first_row * columns + first_column),
                                    columns,
                                    add,
                                );
                            }
                        }
                    };
                    if in_place {
                        let mut runs = [[NO_RUN; RUNS]; TILES];
                        let mut count = 0;
                        for (tile, runs) in runs[..tiles].iter_mut().enumerate() {
                            count =
                                find_runs(&a, first_row + tile * mr, last_row, slice.clone(), runs);
                        }
                        multiply(BlockOfA::InPlace(&runs[..tiles], count));
                    } else {
                        with_scratch(&PACKED_A, tiles * mr * steps, |packed_a| {
                            for (tile, target) in packed_a.chunks_exact_mut(mr * steps).enumerate()
                            {
                                let first = first_row + tile * mr;
                                a.pack(first, last_row, mr, slice.clone(), target);
                            }
                            multiply(BlockOfA::Packed(packed_a));
                        });
                    }
                });
            start += DEPTH;
        }
    });
}

/// The rows of A of a block, tile by tile.
#[derive(Clone, Copy)]
enum BlockOfA<'a> {
    Packed(&'a [f32]),
    /// Every tile's runs, of which so many are used.
    InPlace(&'a [[Run; RUNS]], usize),
}

const NO_RUN: Run = Run {
    rows: [std::ptr::null(); RUN_ROWS],
    steps: 0,
};

/// The runs of the tile whose rows begin with `first`, and how many they are; rows from `last` on are zeros.
fn find_runs(
    a: &impl Operand,
    first: usize,
    last: usize,
    slice: Range<usize>,
    runs: &mut [Run; RUNS],
) -> usize {
    let (mut count, mut start) = (0, slice.start);
    while let Some(numbers) = a.in_place(first, start..slice.end) {
        let (run, steps) = (&mut runs[count], numbers.len());
        run.steps = steps;
        for (row, place) in run.rows.iter_mut().enumerate() {
            let numbers = match first + row < last {
                true => a.in_place(first + row, start..slice.end),
                false => ZEROS.get(..steps),
            };
            let numbers = numbers.filter(|numbers| numbers.len() == steps);
            *place = numbers.expect("rows are cut alike").as_ptr();
        }
        count += 1;
        start += steps;
    }
    assert_eq!(start, slice.end);
    count
}

/// All tiles of one panel of B: C ← A·B or C ← C + A·B for `rows` × `columns` numbers of C, of
/// which `columns` ≤ NR.
///
/// # Safety
/// `c` is readable and writable at r·stride + j for every r < `rows`, j < `columns`, and nobody
/// else touches these numbers meanwhile.
pub(crate) unsafe fn multiply_panel(
    isa: Isa,
    steps: usize,
    packed_a: &[f32],
    rows: usize,
    panel: &[f32],
    columns: usize,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let a = BlockOfA::Packed(packed_a);
    // SAFETY: the caller's promise; packed rows have no more to it.
    unsafe {
        multiply_rows(isa, steps, a, rows, panel, columns, c, stride, accumulate);
    }
}

/// [`multiply_panel`] of rows that are packed or not.
///
/// # Safety
/// As [`multiply_panel`]; runs are those that [`find_runs`] found in an operand that is still borrowed, for a kernel that
/// reads in place.
unsafe fn multiply_rows(
    isa: Isa,
    steps: usize,
    a: BlockOfA<'_>,
    rows: usize,
    panel: &[f32],
    columns: usize,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let (mr, nr) = (tile_rows(isa), tile_columns(isa));
    assert!(panel.len() >= nr * steps);
    if let BlockOfA::Packed(packed) = a {
        assert!(packed.len() >= rows.div_ceil(mr) * mr * steps);
    }
    let panel = panel.as_ptr();
    for (number, first) in (0..rows).step_by(mr).enumerate() {
        let present = mr.min(rows - first);
        // SAFETY: the operands are as long as the assertions and the caller say; the tile's numbers in C are
        // ours by the caller's promise, and the edge tile is computed aside so that only those that
        // exist are touched.
        unsafe {
            let tile = |c: *mut f32, stride: usize, accumulate: bool| match a {
                BlockOfA::Packed(packed) => {
                    let a = packed[first * steps..].as_ptr();
                    tile::tile(isa, steps, a, panel, c, stride, accumulate);
                }
                BlockOfA::InPlace(tiles, count) => {
                    let runs = &tiles[number][..count];
                    tile::tile_of_runs(isa, runs, panel, c, stride, accumulate);
                }
            };
            let c = c.add(first * stride);
            if present == mr && columns == nr {
                tile(c, stride, accumulate);
            } else {
                let mut edge = [0.0f32; LARGEST_TILE];
                tile(edge.as_mut_ptr(), nr, false);
                for r in 0..present {
                    for j in 0..columns {
                        let target = c.add(r * stride + j);
                        *target = if accumulate { *target } else { 0.0 } + edge[r * nr + j];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn matrix<'a>(data: &'a [f32], rows: usize, columns: usize, transposed: bool) -> Matrix<'a> {
        if transposed {
            Matrix::new(data, columns, rows).transposed()
        } else {
            Matrix::new(data, rows, columns)
        }
    }

    fn check(isa: Isa, m: usize, n: usize, k: usize, ta: bool, tb: bool, accumulate: bool) {
        let (a, b, before) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
        let (a, b) = (matrix(&a, m, k, ta), matrix(&b, k, n, tb));
        let mut c = before.clone();
        gemm(isa, a, b, accumulate, &mut c);
        let at = |x: Matrix<'_>, i: usize, j: usize| {
            f64::from(x.data[i * x.row_stride + j * x.column_stride])
        };
        for i in 0..m {
            for j in 0..n {
                let mut expect: f64 = (0..k).map(|p| at(a, i, p) * at(b, p, j)).sum();
                let size: f64 = (0..k).map(|p| (at(a, i, p) * at(b, p, j)).abs()).sum();
                if accumulate {
                    expect += f64::from(before[i * n + j]);
                }
                let found = f64::from(c[i * n + j]);
                // k roundings of partial sums, which mostly cancel: √k of them.
                let tolerance = 2.0 * (k as f64).sqrt() * 2f64.powi(-24) * (size + 1.0);
                assert!(
                    (found - expect).abs() <= tolerance,
                    "{} {m}×{n}×{k} at ({i}, {j}): {found} instead of {expect}",
                    isa.name()
                );
            }
        }
    }

    #[test]
    fn sizes_around_tiles_blocks_and_slices() {
        for isa in Isa::available() {
            for (m, n, k) in [
                (1, 1, 1),
                (0, 3, 2),
                (3, 0, 2),
                (3, 2, 0),
                (10, 32, 512),
                (121, 33, 513),
                (7, 300, 40),
                (250, 31, 1030),
            ] {
                check(isa, m, n, k, false, false, false);
                check(isa, m, n, k, true, true, true);
            }
        }
    }

    #[test]
    fn the_same_bits_with_any_number_of_threads() {
        let (m, n, k) = (203, 97, 777);
        let (a, b) = (numbers(m * k, 4), numbers(k * n, 5));
        for isa in Isa::available() {
            let mut results = [1, 2, 8].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let mut c = vec![0.0; m * n];
                pool.install(|| {
                    gemm(
                        isa,
                        Matrix::new(&a, m, k),
                        Matrix::new(&b, k, n),
                        false,
                        &mut c,
                    );
                });
                c
            });
            let first = std::mem::take(&mut results[0]);
            assert!(results[1..].iter().all(|other| *other == first));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equals_the_sum_in_f64(
            m in 1usize..70, n in 1usize..70, k in 1usize..70,
            ta: bool, tb: bool, accumulate: bool,
        ) {
            for isa in Isa::available() {
                check(isa, m, n, k, ta, tb, accumulate);
            }
        }
    }
}
