//! Panels of B and the rows that are multiplied with them, tile by tile.

use std::ops::Range;

use laq_simd::Isa;

use super::pack::Operand;
use super::tile::{
    self, Ahead, LARGEST_TILE, RUN_ROWS, Run, UnpackedPanel, tile_columns, tile_rows,
};
use super::{DEPTH, MAX_RUNS, ZEROS};
use crate::LARGEST_GRADIENT;

/// Whether the rows of A are read where they are.
pub(super) fn reads_in_place(isa: Isa, a: &impl Operand) -> bool {
    let (_, depth) = a.size();
    tile::reads_in_place(isa) && a.in_place(0, 0..depth.min(DEPTH)).is_some()
}

/// The rows of A of a block, tile by tile.
#[derive(Clone, Copy)]
pub(super) enum BlockOfA<'a> {
    Packed(&'a [f32]),
    /// The runs of every tile, and their number.
    InPlace(&'a [[Run; MAX_RUNS]], usize),
}

/// Panels of B.
pub(super) enum PanelsOfB<'a> {
    /// `distance` elements lie between the starts of two panels.
    Packed { panels: &'a [f32], distance: usize },
    /// One panel, which the first tile packs, and the next one, which the other tiles fetch.
    Unpacked {
        panel: UnpackedPanel,
        packed: &'a mut [f32],
        next: Option<UnpackedPanel>,
    },
}

impl<'a> PanelsOfB<'a> {
    /// One panel, packed.
    pub(super) fn one(panel: &'a [f32]) -> Self {
        PanelsOfB::Packed {
            panels: panel,
            distance: 0,
        }
    }
}

pub(super) const NO_RUN: Run = Run {
    rows: [std::ptr::null(); RUN_ROWS],
    steps: 0,
};

/// Finds the runs of the tile whose first row is `first`, and returns their number; rows from
/// `last` on are zeros.
pub(super) fn find_runs(
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
    let (a, b) = (BlockOfA::Packed(packed_a), PanelsOfB::one(panel));
    // SAFETY: the caller's promise; packed operands require nothing else.
    unsafe {
        multiply_rows(isa, steps, a, rows, b, columns, c, stride, accumulate);
    }
}

/// [`multiply_panel`] for rows that are packed or in place, and for `columns` of several panels. Returns
/// `true` only if all magnitudes are below [`LARGEST_GRADIENT`].
///
/// # Safety
/// As [`multiply_panel`]; runs come from [`find_runs`] for an operand that is still borrowed, and
/// the instruction set reads in place; a panel that is not packed comes from [`Matrix::panel`] for a
/// matrix that is still borrowed, has NR columns and `steps` steps, and A is packed.
///
/// [`Matrix::panel`]: super::Matrix::panel
pub(super) unsafe fn multiply_rows(
    isa: Isa,
    steps: usize,
    a: BlockOfA<'_>,
    rows: usize,
    b: PanelsOfB<'_>,
    columns: usize,
    c: *mut f32,
    stride: usize,
    accumulate: bool,
) -> bool {
    let (mr, nr) = (tile_rows(isa), tile_columns(isa));
    let last_panel = columns.div_ceil(nr) - 1;
    let (panels, distance, mut unpacked, next) = match b {
        PanelsOfB::Packed { panels, distance } => {
            assert!(panels.len() >= last_panel * distance + nr * steps);
            (panels.as_ptr(), distance, None, None)
        }
        PanelsOfB::Unpacked {
            panel,
            packed,
            next,
        } => {
            assert!(last_panel == 0 && packed.len() >= nr * steps);
            let packed = packed.as_mut_ptr();
            (packed.cast_const(), 0, Some((panel, packed)), next)
        }
    };
    if let BlockOfA::Packed(packed) = a {
        assert!(packed.len() >= rows.div_ceil(mr) * mr * steps);
    }
    let mut edge = [0.0f32; LARGEST_TILE];
    let mut bounded = true;
    let mut ahead = Ahead::NOTHING;
    let fetching_tiles = (rows.div_ceil(mr) - 1).max(1);
    for (number, first) in (0..rows).step_by(mr).enumerate() {
        if let Some(next) = next
            && number > 0
        {
            ahead = Ahead::part(isa, next, number - 1, fetching_tiles);
        }
        for panel in 0..=last_panel {
            let size = [mr.min(rows - first), nr.min(columns - panel * nr)];
            // SAFETY: the lengths of the operands are asserted or promised; the elements of the tile
            // in C belong to this call, and an edge tile is computed in a buffer of its own, from
            // which only existing elements are copied.
            unsafe {
                let c = c.add(first * stride + panel * nr);
                let b = panels.add(panel * distance);
                let in_place = tile::writes_in_place(isa, size[0], size[1]);
                // One call for both: the arguments stay in registers. Reading them from the stack
                // would wait for the stores of the previous tile.
                let (target, target_stride, add) = match in_place {
                    true => (c, stride, accumulate),
                    false => (edge.as_mut_ptr(), nr, false),
                };
                let tile_is_bounded = match a {
                    BlockOfA::Packed(packed) => {
                        let a = packed[first * steps..].as_ptr();
                        match unpacked.take() {
                            Some((source, packed)) => tile::packing_tile(
                                isa,
                                steps,
                                a,
                                source,
                                packed,
                                target,
                                target_stride,
                                add,
                            ),
                            None => tile::tile(
                                isa,
                                steps,
                                a,
                                b,
                                target,
                                target_stride,
                                size,
                                add,
                                &ahead,
                            ),
                        }
                    }
                    BlockOfA::InPlace(tiles, count) => {
                        let runs = &tiles[number][..count];
                        tile::tile_of_runs(isa, runs, b, target, target_stride, add)
                    }
                };
                if in_place {
                    bounded &= tile_is_bounded;
                } else {
                    for r in 0..size[0] {
                        for j in 0..size[1] {
                            let element = c.add(r * stride + j);
                            *element = if accumulate { *element } else { 0.0 } + edge[r * nr + j];
                            bounded &= (*element).abs() < LARGEST_GRADIENT;
                        }
                    }
                }
            }
        }
    }
    bounded
}
