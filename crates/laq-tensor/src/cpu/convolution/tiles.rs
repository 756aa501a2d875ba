//! The tiles of 4 × 4 pixels that images are cut into.

use super::transform::{OUTSIDE, Places, TILE};
use crate::ConvolutionShape;

/// The tiles of a batch, row by row.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    height: usize,
    width: usize,
    /// Rows of tiles of the batch.
    pub(super) rows: usize,
    /// Tiles of a row.
    pub(super) columns: usize,
}

impl Tiles {
    pub(super) fn new(shape: ConvolutionShape) -> Self {
        Tiles {
            height: shape.height,
            width: shape.width,
            rows: shape.batch * shape.height.div_ceil(TILE),
            columns: shape.width.div_ceil(TILE),
        }
    }

    pub(super) fn count(self) -> usize {
        self.rows * self.columns
    }

    /// Rows of tiles in a block of about `tiles`.
    pub(super) fn block_rows(self, tiles: usize) -> usize {
        (tiles / self.columns).clamp(1, self.rows)
    }

    /// The first pixel of a row of tiles; that of the row past the end is the number of pixels.
    pub(super) fn first_pixel(self, row: usize) -> usize {
        let per_image = self.height.div_ceil(TILE);
        (row / per_image * self.height + row % per_image * TILE) * self.width
    }

    /// Where the N × N pixels of images of `channels` start of which the first is `before` rows above
    /// and columns left of a tile.
    pub(super) fn pixels<const N: usize>(
        self,
        tile: usize,
        before: usize,
        channels: usize,
    ) -> Places<N> {
        let (row, column) = (tile / self.columns, tile % self.columns);
        let per_image = self.height.div_ceil(TILE);
        let image = row / per_image * self.height * self.width;
        let (top, left) = (row % per_image * TILE, column * TILE);
        let rows = before..self.height + before;
        let columns = before..self.width + before;
        std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let (i, j) = (top + i, left + j);
                match rows.contains(&i) && columns.contains(&j) {
                    true => (image + (i - before) * self.width + j - before) * channels,
                    false => OUTSIDE,
                }
            })
        })
    }
}
