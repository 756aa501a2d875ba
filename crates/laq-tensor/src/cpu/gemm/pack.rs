//! Packs operands into the panels that the tiles read sequentially.

use std::ops::Range;

use laq_simd::Isa;

use super::tile::UnpackedPanel;
use super::transpose::transpose;

/// A matrix view: element (i, j) is at `i·row_stride + j·column_stride`. It is row-major or the
/// transpose of a row-major matrix, so one of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A dense row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Matrix {
            data,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The rows `first..first + width` of `columns` as a panel that is not packed.
    ///
    /// # Panics
    /// If there are no such elements.
    pub(super) fn panel(
        &self,
        first: usize,
        width: usize,
        columns: &Range<usize>,
    ) -> UnpackedPanel {
        assert!(first + width <= self.rows && columns.end <= self.columns && !columns.is_empty());
        let at = |row, column| row * self.row_stride + column * self.column_stride;
        let elements = at(first, columns.start)..=at(first + width - 1, columns.end - 1);
        UnpackedPanel {
            start: self.data[elements].as_ptr(),
            steps: columns.len(),
            step_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The transposed view.
    pub(crate) fn transposed(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// An operand of a product: a matrix in memory, or one that is generated while it is packed.
pub(crate) trait Operand: Copy + Sync {
    /// Rows and columns.
    fn size(&self) -> (usize, usize);

    /// Writes rows `first..first + width` of `columns` as one panel: for each column, `width`
    /// elements. Rows from `last` on are zeros. There are at most [`DEPTH`](super::DEPTH) columns.
    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        columns: Range<usize>,
        panel: &mut [f32],
    );

    /// The operand as a matrix in memory, if it is one, so that a tile can pack it.
    fn as_matrix(&self) -> Option<Matrix<'_>> {
        None
    }

    /// The longest contiguous prefix of `columns` of a row; `None` if rows must be packed.
    ///
    /// All rows have the same parts, of [`MIN_RUN`](super::MIN_RUN) elements or more except where
    /// `columns` cuts them.
    fn in_place(&self, _row: usize, _columns: Range<usize>) -> Option<&[f32]> {
        None
    }
}

impl Operand for Matrix<'_> {
    fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        pack_panel(*self, first, last, width, columns, panel);
    }

    fn as_matrix(&self) -> Option<Matrix<'_>> {
        Some(*self)
    }
}

/// A row-major matrix whose rows are read in place where the instruction set can.
#[derive(Clone, Copy)]
pub(crate) struct InPlace<'a>(pub(crate) Matrix<'a>);

impl Operand for InPlace<'_> {
    fn size(&self) -> (usize, usize) {
        self.0.size()
    }

    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        pack_panel(self.0, first, last, width, columns, panel);
    }

    fn in_place(&self, row: usize, columns: Range<usize>) -> Option<&[f32]> {
        let matrix = self.0;
        let start = row * matrix.row_stride;
        let long = matrix.columns >= super::MIN_RUN;
        (long && !columns.is_empty())
            .then(|| &matrix.data[start + columns.start..start + columns.end])
    }
}

/// [`Operand::pack`] of a matrix.
pub(crate) fn pack_panel(
    matrix: Matrix<'_>,
    first: usize,
    last: usize,
    width: usize,
    columns: Range<usize>,
    panel: &mut [f32],
) {
    debug_assert_eq!(panel.len(), width * columns.len());
    let present = width.min(last.saturating_sub(first));
    let at = |row: usize, column: usize| row * matrix.row_stride + column * matrix.column_stride;
    if matrix.row_stride == 1 {
        let sources = columns.map(|column| &matrix.data[at(first, column)..][..present]);
        copy_columns(sources, present, width, panel);
    } else {
        // Sixteen columns of a row are one cache line: read it once, scatter it within the panel.
        const LINE: usize = 16;
        let mut done = 0;
        if present == width && !columns.is_empty() {
            let source = &matrix.data[at(first, columns.start)..];
            let size = [width, columns.len()];
            done = transpose(Isa::selected(), source, matrix.row_stride, size, panel);
        }
        while done < columns.len() {
            let line = LINE.min(columns.len() - done);
            let target = &mut panel[done * width..(done + line) * width];
            for row in 0..width {
                if row < present {
                    let start = at(first + row, columns.start + done);
                    for (step, &value) in matrix.data[start..start + line].iter().enumerate() {
                        target[step * width + row] = value;
                    }
                } else {
                    for step in 0..line {
                        target[step * width + row] = 0.0;
                    }
                }
            }
            done += line;
        }
    }
}

/// Packs columns of which the `present` elements are contiguous.
pub(crate) fn copy_columns<'a>(
    columns: impl Iterator<Item = &'a [f32]>,
    present: usize,
    width: usize,
    panel: &mut [f32],
) {
    // A constant number is copied without a call.
    match (present == width).then_some(width) {
        Some(32) => copy_whole_columns::<32>(columns, panel),
        Some(16) => copy_whole_columns::<16>(columns, panel),
        Some(10) => copy_whole_columns::<10>(columns, panel),
        Some(6) => copy_whole_columns::<6>(columns, panel),
        _ => {
            for (column, target) in columns.zip(panel.chunks_exact_mut(width)) {
                target[..present].copy_from_slice(column);
                target[present..].fill(0.0);
            }
        }
    }
}

fn copy_whole_columns<'a, const N: usize>(
    columns: impl Iterator<Item = &'a [f32]>,
    panel: &mut [f32],
) {
    for (column, target) in columns.zip(panel.as_chunks_mut::<N>().0) {
        target.copy_from_slice(column);
    }
}
