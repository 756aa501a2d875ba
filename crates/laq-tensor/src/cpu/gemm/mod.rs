//! C = A·B in f32, packed and tiled, over all threads of the current rayon pool.
//!
//! The product is split along its depth into slices of [`DEPTH`]. B is packed once, for as many slices
//! as fit, and blocks of C are distributed to the threads, which pack their rows of A. With few rows,
//! it is A that is packed once, and a task has all rows and some panels of B, each of which is packed
//! by its first tile. Every element of C is summed in the order of the depth on any thread: the same
//! bits for any number of threads. Scratch memory is thread-local and reused.
//!
//! This is not delegated to a crate because convolutions pack images without im2col and the LSTM
//! writes its state in packed order. The portable tile is a product of matrixmultiply.

mod pack;
mod panel;
#[cfg(test)]
mod tests;
mod tile;
mod transpose;

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use self::panel::{BlockOfA, NO_RUN, PanelsOfB, find_runs, multiply_rows, reads_in_place};
use self::tile::{RUN_ROWS, UnpackedPanel};
use super::shared::Shared;
use laq_simd::{AlignedBuffer, Isa};
pub(crate) use pack::{InPlace, Matrix, Operand, copy_columns, pack_panel};
pub(crate) use panel::multiply_panel;
pub(crate) use tile::{PORTABLE_ROWS, tile_columns, tile_rows};

/// Depth of a slice: panels of A and B of this depth stay in the second-level cache.
pub(crate) const DEPTH: usize = 512;
/// Rows of a block of C, at most; a multiple of the rows of every tile.
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
/// Elements of the panels of B that a tile's rows of A are multiplied with in turn: few enough to stay
/// in the second-level cache, many enough that long parts of C's rows are written.
const MAX_GROUP: usize = 1 << 15;
/// Rows of A that all panels of B are multiplied with, at most: a slice of them is half of the
/// second-level cache.
const MAX_PACKED_ROWS: usize = 512;
/// Tasks for each thread where every task has all rows of A.
const TASKS_PER_THREAD: usize = 8;
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

/// C ← A·B. Returns `true` only if all magnitudes in C are below [`crate::LARGEST_GRADIENT`], which costs little while
/// they are in registers; `false` says nothing where the tile does not look.
pub(crate) fn bounded_gemm(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, c: &mut [f32]) -> bool {
    let bounded = AtomicBool::new(true);
    if let Some(product) = Product::new(isa, a, b.transposed(), false, c) {
        let bounded = Some(&bounded);
        Product { bounded, ..product }.run();
    }
    bounded.into_inner()
}

/// [`gemm`] of any operands; the second is passed transposed.
pub(crate) fn product(
    isa: Isa,
    a: impl Operand,
    b_transposed: impl Operand,
    accumulate: bool,
    c: &mut [f32],
) {
    if let Some(product) = Product::new(isa, a, b_transposed, accumulate, c) {
        product.run();
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
        packed_a: None,
        b_transposed: (),
        columns: panels.columns,
        accumulate: false,
        c: Shared::new(c),
        bounded: None,
    };
    for slice in product.slices() {
        product.with_a(0..rows, slice.clone(), &mut |block| {
            for panel in 0..panels.count() {
                let packed_b = &packed_b[panels.offset(panel, slice.start)..];
                let panel_of_b = PanelsOfB::one(packed_b);
                product.multiply(block, &(0..rows), &slice, panel..panel + 1, panel_of_b);
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
/// next. A panel holds, for each step of the depth, the elements of its columns. The same of a packed A,
/// with rows for columns.
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
#[derive(Clone, Copy)]
struct Product<'c, A, B> {
    isa: Isa,
    a: A,
    /// All of A, if it was packed before: its [`Panels`].
    packed_a: Option<&'c [f32]>,
    /// Whether the rows of A are read where they are, and not packed.
    in_place: bool,
    /// `()` if B was packed before.
    b_transposed: B,
    /// Columns of B.
    columns: usize,
    accumulate: bool,
    c: Shared<'c, f32>,
    /// Becomes `false` if a magnitude in C may not be below [`crate::LARGEST_GRADIENT`]; `None` if nobody asks.
    bounded: Option<&'c AtomicBool>,
}

impl<A: Operand, B: Copy + Sync> Product<'_, A, B> {
    /// The slices of the depth.
    fn slices(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + Send + Sync {
        let (_, depth) = self.a.size();
        let starts = (0..depth).step_by(DEPTH);
        starts.map(move |start| start..depth.min(start + DEPTH))
    }

    /// Where the elements of A are when it is packed.
    fn panels_of_a(&self) -> Panels {
        let (rows, depth) = self.a.size();
        Panels {
            width: tile_rows(self.isa),
            columns: rows,
            depth,
        }
    }

    /// Runs `work` with some rows of A, from the first row of a tile on.
    fn with_a(&self, rows: Range<usize>, slice: Range<usize>, work: &mut dyn FnMut(BlockOfA<'_>)) {
        let mr = tile_rows(self.isa);
        let tiles = rows.len().div_ceil(mr);
        let first_rows = rows.clone().step_by(mr);
        if let Some(packed_a) = self.packed_a {
            let tiles_before = rows.start / mr;
            work(BlockOfA::Packed(
                &packed_a[self.panels_of_a().offset(tiles_before, slice.start)..],
            ));
        } else if self.in_place {
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

    /// Multiplies some rows of A and some panels of B, of a slice.
    fn multiply(
        &self,
        block: BlockOfA<'_>,
        rows: &Range<usize>,
        slice: &Range<usize>,
        panels: Range<usize>,
        panels_of_b: PanelsOfB<'_>,
    ) {
        let (columns, nr) = (self.columns, tile_columns(self.isa));
        let first_column = panels.start * nr;
        let width = columns.min(panels.end * nr) - first_column;
        let target = self.c.address(rows.start * columns + first_column);
        let add = self.accumulate || slice.start > 0;
        // SAFETY: these elements of C belong to the calling task only.
        let all_bounded = unsafe {
            multiply_rows(
                self.isa,
                slice.len(),
                block,
                rows.len(),
                panels_of_b,
                width,
                target,
                columns,
                add,
            )
        };
        let (_, depth) = self.a.size();
        if let Some(bounded) = self.bounded
            && slice.end == depth
            && !all_bounded
        {
            bounded.store(false, Ordering::Relaxed);
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
            packed_a: None,
            b_transposed,
            columns,
            accumulate,
            c: Shared::new(c),
            bounded: None,
        })
    }

    /// The whole product, on the threads of the pool.
    fn run(&self) {
        let (rows, _) = self.a.size();
        let columns = self.columns;
        let nr = tile_columns(self.isa);
        let panels = columns.div_ceil(nr);
        let row_blocks = rows.div_ceil(BLOCK_ROWS);
        // Each block packs its rows of A: fewer blocks per row of blocks pack less.
        let block_panels = if row_blocks >= MIN_BLOCKS {
            panels
        } else {
            (BLOCK_COLUMNS / nr).max(1)
        };
        let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
        if !self.in_place && rows <= MAX_PACKED_ROWS && panels >= tasks {
            self.with_packed_a(|product| product.by_columns(panels.div_ceil(tasks)));
        } else if row_blocks == 1 {
            self.by_columns(block_panels);
        } else {
            self.by_blocks(row_blocks, block_panels);
        }
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

    /// A panel of B as it is in memory, if it is whole and a tile can pack it.
    fn unpacked_panel(&self, panel: usize, slice: &Range<usize>) -> Option<UnpackedPanel> {
        let nr = tile_columns(self.isa);
        let can_pack = tile::packs(self.isa) && !self.in_place && !slice.is_empty();
        let b_transposed = self.b_transposed.as_matrix()?;
        let whole = (panel + 1) * nr <= self.columns;
        (can_pack && whole).then(|| b_transposed.panel(panel * nr, nr, slice))
    }

    /// Runs `work` with the product after A has been packed.
    fn with_packed_a(&self, work: impl FnOnce(Product<'_, A, B>)) {
        let panels = self.panels_of_a();
        let slices = self.slices();
        with_scratch(&PACKED_A, panels.len(), |packed_a| {
            let shared = Shared::new(packed_a);
            (0..slices.len() * panels.count())
                .into_par_iter()
                .for_each(|part| {
                    let (slice, tile) = (part / panels.count() * DEPTH, part % panels.count());
                    let slice = slice..panels.depth.min(slice + DEPTH);
                    let start = panels.offset(tile, slice.start);
                    let (width, first) = (panels.width, tile * panels.width);
                    // SAFETY: every part is of another slice or tile.
                    let target = unsafe { shared.part(start..start + width * slice.len()) };
                    self.a.pack(first, panels.columns, width, slice, target);
                });
            work(Product {
                packed_a: Some(packed_a),
                ..*self
            });
        });
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
        let (rows, depth) = self.a.size();
        for slice in self.slices() {
            let next_slice = slice.end..depth.min(slice.end + DEPTH);
            self.with_a(0..rows, slice.clone(), &mut |block| {
                let size = tile_columns(self.isa) * slice.len();
                with_scratch(&PACKED_B, size, |packed| {
                    for panel in panels.clone() {
                        let panel_of_b = match self.unpacked_panel(panel, &slice) {
                            Some(unpacked) => PanelsOfB::Unpacked {
                                panel: unpacked,
                                packed,
                                next: match panel + 1 < panels.end {
                                    true => self.unpacked_panel(panel + 1, &slice),
                                    false => self.unpacked_panel(panels.start, &next_slice),
                                },
                            },
                            None => {
                                self.pack_b(panel, slice.clone(), packed);
                                PanelsOfB::one(packed)
                            }
                        };
                        self.multiply(block, &(0..rows), &slice, panel..panel + 1, panel_of_b);
                    }
                });
            });
        }
    }

    /// Packs B for as many slices at a time as fit: a block of C stays in the cache of its task for all
    /// of them.
    fn by_blocks(&self, row_blocks: usize, block_panels: usize) {
        let ((rows, depth), panels) = (self.a.size(), self.panels());
        let column_blocks = panels.div_ceil(block_panels);
        let blocks = row_blocks * column_blocks;
        let (mr, tiles) = (tile_rows(self.isa), rows.div_ceil(tile_rows(self.isa)));
        // Blocks of nearly equal size: those of two threads end at the same time.
        let first_row = |block: usize| rows.min(block * tiles / row_blocks * mr);
        let panel_size = tile_columns(self.isa) * DEPTH.min(depth);
        let at_a_time = (MAX_GROUP / panel_size).max(1);
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
                    let row_block = block / column_blocks;
                    let rows = first_row(row_block)..first_row(row_block + 1);
                    let first_panel = block % column_blocks * block_panels;
                    let last_panel = panels.min(first_panel + block_panels);
                    let of_slices = packed_b.chunks_exact(slice_size);
                    for (slice, packed_b) in group.clone().zip(of_slices) {
                        self.with_a(rows.clone(), slice.clone(), &mut |block| {
                            for first in (first_panel..last_panel).step_by(at_a_time) {
                                let group = first..last_panel.min(first + at_a_time);
                                let packed_b = PanelsOfB::Packed {
                                    panels: &packed_b[first * panel_size..],
                                    distance: panel_size,
                                };
                                self.multiply(block, &rows, &slice, group, packed_b);
                            }
                        });
                    }
                });
            }
        });
    }
}
