//! C = A·B in f32, packed and tiled, over all threads of the current rayon pool.
//!
//! The product is split along its depth into slices of [`DEPTH`]. B is packed once, for as many slices
//! as fit, and blocks of C are distributed to the threads, which pack their rows of A; with few rows,
//! a task has all of them and packs its panels of B as well. Every element of C is summed in the order
//! of the depth on any thread: the same bits for any number of threads.
//! Scratch memory is thread-local and reused.
//!
//! This is not delegated to a crate because convolutions pack images without im2col and the LSTM
//! writes its state in packed order. The portable tile is a product of matrixmultiply.

mod pack;
#[cfg(test)]
mod tests;
mod tile;
mod transpose;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use self::tile::{RUN_ROWS, Run};
use super::shared::Shared;
use laq_simd::{AlignedBuffer, Isa};
pub(crate) use pack::{InPlace, Matrix, Operand, copy_columns, pack_panel};
use tile::LARGEST_TILE;
pub(crate) use tile::{PORTABLE_ROWS, tile_columns, tile_rows};

/// Depth of a slice: panels of A and B of this depth stay in the second-level cache.
pub(crate) const DEPTH: usize = 512;
/// Rows of a block of C, at most; a multiple of the tile's rows is taken.
const BLOCK_ROWS: usize = 120;
/// Rows of A are read in place if their contiguous parts have this length or more.
pub(crate) const MIN_RUN: usize = 64;
/// The parts of a slice, at most: one may be cut off at each end.
const MAX_RUNS: usize = DEPTH / MIN_RUN + 2;
/// The tiles of a block that are read in place, at most.
const MAX_TILES: usize = BLOCK_ROWS / RUN_ROWS;
/// Rows of A in [`multiply_packed`], at most.
pub(crate) const MAX_PACKED_PRODUCT_ROWS: usize = BLOCK_ROWS;
/// The padding: read for rows and pixels outside of the operand.
pub(crate) static ZEROS: [f32; DEPTH] = [0.0; DEPTH];
/// Columns of a block of C, approximately, where rows alone make too few blocks for the threads.
const BLOCK_COLUMNS: usize = 256;
/// Elements of B that are packed at a time, unless a slice has more.
const MAX_PACKED_B: usize = 1 << 22;
/// Rows that a task packs for all of its panels of B, at most: a slice of them is half of the
/// second-level cache.
const MAX_PACKED_ROWS: usize = 512;
/// Tasks for each thread where every task packs the same rows of A.
const TASKS_PER_THREAD: usize = 3;
/// The number of blocks that keeps the threads busy.
const MIN_BLOCKS: usize = 16;

thread_local! {
    static PACKED_A: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
    static PACKED_B: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
}

/// Runs `work` with a thread-local scratch buffer of `length` elements; its contents are
/// unspecified.
pub(crate) fn with_scratch<R>(
    cell: &'static std::thread::LocalKey<Cell<AlignedBuffer<f32>>>,
    length: usize,
    work: impl FnOnce(&mut [f32]) -> R,
) -> R {
    // Taken out for the duration of `work`: if rayon runs another product on this thread meanwhile,
    // that one finds an empty cell and allocates its own scratch.
    let mut scratch = cell.take();
    let result = work(scratch.resize(length));
    cell.set(scratch);
    result
}

/// C ← A·B, or C ← C + A·B with `accumulate`; C is dense and row-major.
pub(crate) fn gemm(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, c: &mut [f32]) {
    product(isa, a, b.transposed(), accumulate, c);
}

/// [`gemm`] of any operands; the second is passed transposed.
pub(crate) fn product(
    isa: Isa,
    a: impl Operand,
    b_transposed: impl Operand,
    accumulate: bool,
    c: &mut [f32],
) {
    let (rows, _) = a.size();
    let Some(product) = Product::new(isa, a, b_transposed, accumulate, c) else {
        return;
    };
    let columns = product.columns;
    let (mr, nr) = (tile_rows(isa), tile_columns(isa));
    // Blocks of nearly equal size.
    let block_rows = rows.div_ceil(rows.div_ceil(BLOCK_ROWS)).div_ceil(mr) * mr;
    let panels = columns.div_ceil(nr);
    let row_blocks = rows.div_ceil(block_rows);
    // Each block packs its rows of A: fewer blocks per row of blocks pack less.
    let block_panels = if row_blocks >= MIN_BLOCKS {
        panels
    } else {
        (BLOCK_COLUMNS / nr).max(1)
    };
    let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
    if !product.in_place && rows <= MAX_PACKED_ROWS && panels >= tasks {
        product.by_columns(panels.div_ceil(tasks));
    } else if row_blocks == 1 {
        product.by_columns(block_panels);
    } else {
        product.by_blocks(block_rows, block_panels);
    }
}

/// [`product`] on the calling thread, for callers that are tasks already; A is not read in place.
pub(crate) fn product_on_this_thread(
    isa: Isa,
    a: impl Operand,
    b_transposed: impl Operand,
    accumulate: bool,
    c: &mut [f32],
) {
    if let Some(product) = Product::new(isa, a, b_transposed, accumulate, c) {
        assert!(!product.in_place);
        product.columns_on_this_thread(0..product.panels());
    }
}

/// C ← A·B for a B that was packed as [`Panels`], on the calling thread.
///
/// # Panics
/// If A has more than [`MAX_PACKED_PRODUCT_ROWS`] rows.
pub(crate) fn multiply_packed(
    isa: Isa,
    a: impl Operand,
    panels: Panels,
    packed_b: &[f32],
    c: &mut [f32],
) {
    let (rows, depth) = a.size();
    assert_eq!(depth, panels.depth);
    assert_eq!(c.len(), rows * panels.columns);
    assert!(rows <= MAX_PACKED_PRODUCT_ROWS);
    let product = Product {
        isa,
        in_place: reads_in_place(isa, &a),
        a,
        b_transposed: (),
        columns: panels.columns,
        accumulate: false,
        c: Shared::new(c),
    };
    for slice in product.slices() {
        product.with_a(0..rows, slice.clone(), &mut |block| {
            for panel in 0..panels.count() {
                let packed_b = &packed_b[panels.offset(panel, slice.start)..];
                product.multiply(block, &(0..rows), &slice, panel, packed_b);
            }
        });
    }
}

/// Multiplies one tile `repetitions` times, with operands that stay in the first-level cache. Returns
/// the additions and multiplications.
pub(crate) fn repeat_tile(isa: Isa, repetitions: usize) -> f64 {
    const STEPS: usize = 256;
    let (rows, columns) = (tile_rows(isa), tile_columns(isa));
    let (a, b) = (vec![0.5; rows * STEPS], vec![0.5; columns * STEPS]);
    let mut c = vec![0.0; rows * columns];
    for _ in 0..repetitions {
        let c = std::hint::black_box(&mut c).as_mut_ptr();
        // SAFETY: the tile has whole operands and is not shared.
        unsafe { multiply_panel(isa, STEPS, &a, rows, &b, columns, c, columns, false) };
    }
    2.0 * (repetitions * STEPS * rows * columns) as f64
}

/// Where the elements of a packed B are: all panels of the first slice of the depth, then those of the
/// next. A panel holds, for each step of the depth, the elements of its columns.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    /// Columns of a panel; the last one is padded.
    pub(crate) width: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
}

impl Panels {
    pub(crate) fn new(isa: Isa, columns: usize, depth: usize) -> Self {
        Panels {
            width: tile_columns(isa),
            columns,
            depth,
        }
    }

    pub(crate) fn count(self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// Elements of all panels.
    pub(crate) fn len(self) -> usize {
        self.count() * self.width * self.depth
    }

    /// The first of the `width` elements of a panel for a step of the depth.
    pub(crate) fn offset(self, panel: usize, step: usize) -> usize {
        let start = step / DEPTH * DEPTH;
        let steps = DEPTH.min(self.depth - start);
        self.width * (self.count() * start + panel * steps + (step - start))
    }
}

/// A product that is not empty.
struct Product<'c, A, B> {
    isa: Isa,
    a: A,
    /// Whether the rows of A are read where they are, and not packed.
    in_place: bool,
    /// `()` if B was packed before.
    b_transposed: B,
    /// Columns of B.
    columns: usize,
    accumulate: bool,
    c: Shared<'c, f32>,
}

impl<A: Operand, B: Copy + Sync> Product<'_, A, B> {
    /// The slices of the depth.
    fn slices(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + Send + Sync {
        let (_, depth) = self.a.size();
        let starts = (0..depth).step_by(DEPTH);
        starts.map(move |start| start..depth.min(start + DEPTH))
    }

    /// Runs `work` with some rows of A.
    fn with_a(&self, rows: Range<usize>, slice: Range<usize>, work: &mut dyn FnMut(BlockOfA<'_>)) {
        let mr = tile_rows(self.isa);
        let tiles = rows.len().div_ceil(mr);
        let first_rows = rows.clone().step_by(mr);
        if self.in_place {
            let mut runs = [[NO_RUN; MAX_RUNS]; MAX_TILES];
            let mut count = 0;
            for (runs, first) in runs.iter_mut().zip(first_rows) {
                count = find_runs(&self.a, first, rows.end, slice.clone(), runs);
            }
            work(BlockOfA::InPlace(&runs[..tiles], count));
        } else {
            let size = mr * slice.len();
            with_scratch(&PACKED_A, tiles * size, |packed_a| {
                for (first, target) in first_rows.zip(packed_a.chunks_exact_mut(size)) {
                    self.a.pack(first, rows.end, mr, slice.clone(), target);
                }
                work(BlockOfA::Packed(packed_a));
            });
        }
    }

    /// Multiplies some rows of A and a panel of B, of a slice.
    fn multiply(
        &self,
        block: BlockOfA<'_>,
        rows: &Range<usize>,
        slice: &Range<usize>,
        panel: usize,
        packed_b: &[f32],
    ) {
        let (columns, nr) = (self.columns, tile_columns(self.isa));
        let first_column = panel * nr;
        let width = nr.min(columns - first_column);
        let target = self.c.address(rows.start * columns + first_column);
        let add = self.accumulate || slice.start > 0;
        // SAFETY: these elements of C belong to the calling task only.
        unsafe {
            multiply_rows(
                self.isa,
                slice.len(),
                block,
                rows.len(),
                packed_b,
                width,
                target,
                columns,
                add,
            );
        }
    }
}

impl<'c, A: Operand, B: Operand> Product<'c, A, B> {
    /// The product, unless it is empty; then C is complete.
    fn new(isa: Isa, a: A, b_transposed: B, accumulate: bool, c: &'c mut [f32]) -> Option<Self> {
        let ((rows, depth), (columns, other_depth)) = (a.size(), b_transposed.size());
        assert_eq!(depth, other_depth);
        assert_eq!(c.len(), rows * columns);
        if depth == 0 && !accumulate {
            c.fill(0.0);
        }
        if rows == 0 || columns == 0 || depth == 0 {
            return None;
        }
        Some(Product {
            isa,
            in_place: reads_in_place(isa, &a),
            a,
            b_transposed,
            columns,
            accumulate,
            c: Shared::new(c),
        })
    }

    /// Panels of B.
    fn panels(&self) -> usize {
        self.columns.div_ceil(tile_columns(self.isa))
    }

    /// Packs a panel of B.
    fn pack_b(&self, panel: usize, slice: Range<usize>, target: &mut [f32]) {
        let nr = tile_columns(self.isa);
        let first = panel * nr;
        self.b_transposed
            .pack(first, self.columns, nr, slice, target);
    }

    /// One task for all rows of `block_panels` panels of B: it packs each panel itself, and reads it
    /// while it is in the cache. The tasks do not wait for each other between the slices.
    fn by_columns(&self, block_panels: usize) {
        let panels = self.panels();
        let blocks = panels.div_ceil(block_panels);
        (0..blocks).into_par_iter().for_each(|block| {
            let first = block * block_panels;
            self.columns_on_this_thread(first..panels.min(first + block_panels));
        });
    }

    /// All rows of some panels of B.
    fn columns_on_this_thread(&self, panels: Range<usize>) {
        let rows = 0..self.a.size().0;
        for slice in self.slices() {
            self.with_a(rows.clone(), slice.clone(), &mut |block| {
                let size = tile_columns(self.isa) * slice.len();
                with_scratch(&PACKED_B, size, |packed_b| {
                    for panel in panels.clone() {
                        self.pack_b(panel, slice.clone(), packed_b);
                        self.multiply(block, &rows, &slice, panel, packed_b);
                    }
                });
            });
        }
    }

    /// Packs B for as many slices at a time as fit: a block of C stays in the cache of its task for all
    /// of them.
    fn by_blocks(&self, block_rows: usize, block_panels: usize) {
        let ((rows, depth), panels) = (self.a.size(), self.panels());
        let column_blocks = panels.div_ceil(block_panels);
        let blocks = rows.div_ceil(block_rows) * column_blocks;
        let panel_size = tile_columns(self.isa) * DEPTH.min(depth);
        let slice_size = panels * panel_size;
        let slices = self.slices();
        let at_once = (MAX_PACKED_B / slice_size).clamp(1, slices.len());
        with_scratch(&PACKED_B, at_once * slice_size, |packed_b| {
            for first_slice in (0..slices.len()).step_by(at_once) {
                let group = slices.clone().skip(first_slice).take(at_once);
                let packed_b = &mut packed_b[..group.len() * slice_size];
                packed_b
                    .par_chunks_exact_mut(panel_size)
                    .enumerate()
                    .for_each(|(index, target)| {
                        let start = (first_slice + index / panels) * DEPTH;
                        let slice = start..depth.min(start + DEPTH);
                        let size = slice.len() * tile_columns(self.isa);
                        self.pack_b(index % panels, slice, &mut target[..size]);
                    });
                let packed_b = &*packed_b;
                (0..blocks).into_par_iter().for_each(|block| {
                    let first_row = block / column_blocks * block_rows;
                    let rows = first_row..rows.min(first_row + block_rows);
                    let first_panel = block % column_blocks * block_panels;
                    let last_panel = panels.min(first_panel + block_panels);
                    let of_slices = packed_b.chunks_exact(slice_size);
                    for (slice, packed_b) in group.clone().zip(of_slices) {
                        self.with_a(rows.clone(), slice.clone(), &mut |block| {
                            for panel in first_panel..last_panel {
                                let packed_b = &packed_b[panel * panel_size..];
                                self.multiply(block, &rows, &slice, panel, packed_b);
                            }
                        });
                    }
                });
            }
        });
    }
}

/// Whether the rows of A are read where they are.
fn reads_in_place(isa: Isa, a: &impl Operand) -> bool {
    let (_, depth) = a.size();
    tile::reads_in_place(isa) && a.in_place(0, 0..depth.min(DEPTH)).is_some()
}

/// The rows of A of a block, tile by tile.
#[derive(Clone, Copy)]
enum BlockOfA<'a> {
    Packed(&'a [f32]),
    /// The runs of every tile, and their number.
    InPlace(&'a [[Run; MAX_RUNS]], usize),
}

const NO_RUN: Run = Run {
    rows: [std::ptr::null(); RUN_ROWS],
    steps: 0,
};

/// Finds the runs of the tile whose first row is `first`, and returns their number; rows from
/// `last` on are zeros.
fn find_runs(
    a: &impl Operand,
    first: usize,
    last: usize,
    slice: Range<usize>,
    runs: &mut [Run; MAX_RUNS],
) -> usize {
    let (mut count, mut start) = (0, slice.start);
    while let Some(part) = a.in_place(first, start..slice.end) {
        let (run, steps) = (&mut runs[count], part.len());
        run.steps = steps;
        for (row, start_of_row) in run.rows.iter_mut().enumerate() {
            let part = match first + row < last {
                true => a.in_place(first + row, start..slice.end),
                false => ZEROS.get(..steps),
            };
            let part = part.filter(|part| part.len() == steps);
            *start_of_row = part.expect("all rows have the same parts").as_ptr();
        }
        count += 1;
        start += steps;
    }
    assert_eq!(start, slice.end);
    count
}

/// All tiles of one panel of B: C ← A·B or C ← C + A·B for `rows` × `columns` elements of C, with
/// `columns` ≤ NR.
///
/// # Safety
/// `c` is readable and writable at r·stride + j for every r < `rows`, j < `columns`, and no other
/// thread accesses these elements during the call.
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
    // SAFETY: the caller's promise; packed rows require nothing else.
    unsafe {
        multiply_rows(isa, steps, a, rows, panel, columns, c, stride, accumulate);
    }
}

/// [`multiply_panel`] for rows that are packed or in place.
///
/// # Safety
/// As [`multiply_panel`]; runs come from [`find_runs`] for an operand that is still borrowed, and
/// the instruction set reads in place.
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
    let mut edge = [0.0f32; LARGEST_TILE];
    for (number, first) in (0..rows).step_by(mr).enumerate() {
        let present = mr.min(rows - first);
        // SAFETY: the lengths of the operands are asserted or promised; the elements of the tile in
        // C belong to this call, and an edge tile is computed in a buffer of its own, from
        // which only existing elements are copied.
        unsafe {
            let c = c.add(first * stride);
            let in_place = tile::writes_in_place(isa, present, columns);
            // One call for both: the arguments stay in registers. Reading them from the stack would
            // wait for the stores of the previous tile.
            let (target, target_stride, add) = match in_place {
                true => (c, stride, accumulate),
                false => (edge.as_mut_ptr(), nr, false),
            };
            match a {
                BlockOfA::Packed(packed) => {
                    let a = packed[first * steps..].as_ptr();
                    let size = [present, columns];
                    tile::tile(isa, steps, a, panel, target, target_stride, size, add);
                }
                BlockOfA::InPlace(tiles, count) => {
                    let runs = &tiles[number][..count];
                    tile::tile_of_runs(isa, runs, panel, target, target_stride, add);
                }
            }
            if !in_place {
                for r in 0..present {
                    for j in 0..columns {
                        let element = c.add(r * stride + j);
                        *element = if accumulate { *element } else { 0.0 } + edge[r * nr + j];
                    }
                }
            }
        }
    }
}
