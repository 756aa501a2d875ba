//! The 3 × 3 convolution by Winograd's F(4 × 4, 3 × 3), with a quarter of the multiplications.
//!
//! Images are cut into tiles of 4 × 4 pixels. The 6 × 6 pixels under a tile (V) and the filters (U) are
//! transformed; at each of the 36 positions of a transformed tile, the sum over the channels is a
//! product of matrices:
//!
//! ```text
//! y  = Aᵀ M A      M[p] = V[p] U[p]        V[p]: tiles × C      U[p]: C × F
//! ∂x = the same of ∂y, with the filters rotated by 180° and input and output channels exchanged
//! ∂W = Gᵀ ∂U G     ∂U[p] = ∂M[p]ᵀ V[p]     ∂M = A ∂y Aᵀ
//! ```
//!
//! Going forward, a task takes some rows of tiles through all three steps, so that V and M stay in its
//! second-level cache. For the gradient of the filters, the tasks are the positions.
//!
//! Rounding errors are three to ten times those of the direct sum, which the tests compare with f64.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::super::gemm::{
    InPlace, MAX_PACKED_PRODUCT_ROWS, Matrix, Operand, Panels, copy_columns, multiply_packed,
    pack_panel, product_on_this_thread, with_scratch,
};
use super::super::shared::Shared;
use super::tiles::Tiles;
use super::transform::{
    Filter, FilterGradient, Input, LANES, OUTSIDE, Output, OutputGradient, Places, SIDE, TAPS,
    TILE, Transform, every, transform,
};
use crate::ConvolutionShape;
use laq_simd::{AlignedBuffer, Isa};

/// Elements of a transformed tile: a product of matrices each.
const POSITIONS: usize = SIDE * SIDE;

/// Channels from which on the transforms pay.
const MIN_CHANNELS: usize = 32;
/// Tiles from which on transforming the filters pays.
const MIN_TILES: usize = 32;
/// Elements of U or ∂U, at most: a quarter of a gigabyte.
const MAX_FILTERS: usize = 1 << 26;
/// Elements of V and ∂M that the gradient of the filters keeps at a time, approximately.
const MAX_TRANSFORMED: usize = 1 << 23;

thread_local! {
    /// U or ∂U.
    static FILTERS: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
    static INPUTS: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
    static OUTPUTS: Cell<AlignedBuffer<f32>> = const { Cell::new(AlignedBuffer::new()) };
}

/// Whether convolutions of this shape are computed by this module. A rule on sizes alone: all
/// processors choose the same.
pub(super) fn applies(shape: ConvolutionShape) -> bool {
    let channels = [shape.in_channels, shape.out_channels];
    let tiles = Tiles::new(shape).count();
    channels
        .iter()
        .all(|&channels| channels >= MIN_CHANNELS && channels.is_multiple_of(LANES))
        && POSITIONS.saturating_mul(channels[0]).saturating_mul(channels[1]) <= MAX_FILTERS
        && tiles >= MIN_TILES
        // A task has whole rows of tiles.
        && shape.width <= TILE * MAX_PACKED_PRODUCT_ROWS
        // At most half of the multiplications: tiles at the edges are whole.
        && 2 * POSITIONS * tiles <= 9 * shape.pixels()
}

/// The output of a convolution.
pub(super) fn forward(
    isa: Isa,
    shape: ConvolutionShape,
    input: &[f32],
    weight: &[f32],
    bias: &[f32],
    output: &mut [f32],
) {
    let panels = Panels::new(isa, shape.out_channels, shape.in_channels);
    with_scratch(&FILTERS, POSITIONS * panels.len(), |filters| {
        transform_filters(isa, shape, weight, panels, filters);
        convolve(isa, Tiles::new(shape), input, panels, filters, bias, output);
    });
}

/// The gradient of the input.
pub(super) fn input_gradient(
    isa: Isa,
    shape: ConvolutionShape,
    weight: &[f32],
    output_gradient: &[f32],
    gradient: &mut [f32],
) {
    let panels = Panels::new(isa, shape.in_channels, shape.out_channels);
    with_scratch(&FILTERS, POSITIONS * panels.len(), |filters| {
        transform_rotated_filters(isa, shape, weight, panels, filters);
        let tiles = Tiles::new(shape);
        convolve(isa, tiles, output_gradient, panels, filters, &[], gradient);
    });
}

/// Packs U: the panels of a position follow those of the one before.
fn transform_filters(
    isa: Isa,
    shape: ConvolutionShape,
    weight: &[f32],
    panels: Panels,
    target: &mut [f32],
) {
    let (channels, width) = (shape.in_channels, panels.width);
    let target = Shared::new(target);
    (0..panels.count()).into_par_iter().for_each(|panel| {
        let first = panel * width;
        let present = width.min(shape.out_channels - first);
        with_scratch(&INPUTS, POSITIONS * width * LANES, |buffer| {
            buffer.fill(0.0);
            let (taps, positions) = (every(channels), every(width * LANES));
            for channel in (0..channels).step_by(LANES) {
                for filter in 0..present {
                    let source = &weight[(first + filter) * 9 * channels + channel..];
                    let target = &mut buffer[filter * LANES..];
                    transform::<Filter, _, _>(isa, LANES, source, &taps, &[], target, &positions);
                }
                let transformed = buffer.chunks_exact(width * LANES);
                for (position, values) in transformed.enumerate() {
                    let start = position * panels.len() + panels.offset(panel, channel);
                    // SAFETY: every task has a panel of its own.
                    let target = unsafe { target.part(start..start + LANES * width) };
                    let values = Matrix::new(values, width, LANES);
                    pack_panel(values, 0, width, width, 0..LANES, target);
                }
            }
        });
    });
}

/// [`transform_filters`] for the gradient of the input: the taps in the reverse order, the depth is the
/// filters.
fn transform_rotated_filters(
    isa: Isa,
    shape: ConvolutionShape,
    weight: &[f32],
    panels: Panels,
    target: &mut [f32],
) {
    let (channels, width) = (shape.in_channels, panels.width);
    let target = Shared::new(target);
    (0..panels.count()).into_par_iter().for_each(|panel| {
        let first = panel * width;
        let last = channels.min(first + width);
        with_scratch(&INPUTS, POSITIONS * width, |buffer| {
            buffer.fill(0.0);
            let mut rotated: Places<TAPS> = every(channels);
            rotated.as_flattened_mut().reverse();
            let positions = every(width);
            for filter in 0..shape.out_channels {
                for channel in (first..last).step_by(LANES) {
                    let source = &weight[filter * 9 * channels + channel..];
                    let target = &mut buffer[channel - first..];
                    transform::<Filter, _, _>(
                        isa,
                        LANES,
                        source,
                        &rotated,
                        &[],
                        target,
                        &positions,
                    );
                }
                for (position, values) in buffer.chunks_exact(width).enumerate() {
                    let start = position * panels.len() + panels.offset(panel, filter);
                    // SAFETY: every task has a panel of its own.
                    let target = unsafe { target.part(start..start + width) };
                    target.copy_from_slice(values);
                }
            }
        });
    });
}

/// The convolution of images of `panels.depth` channels to images of `panels.columns` channels.
fn convolve(
    isa: Isa,
    tiles: Tiles,
    input: &[f32],
    panels: Panels,
    filters: &[f32],
    bias: &[f32],
    output: &mut [f32],
) {
    let (from, to) = (panels.depth, panels.columns);
    // Blocks as large as possible, since each reads all filters, and as many for every thread.
    let threads = rayon::current_num_threads();
    let largest = tiles.block_rows(MAX_PACKED_PRODUCT_ROWS);
    let block_rows = tiles
        .rows
        .div_ceil(tiles.rows.div_ceil(threads * largest) * threads);
    let output = Shared::new(output);
    let blocks = tiles.rows.div_ceil(block_rows);
    (0..blocks).into_par_iter().for_each(|block| {
        let rows = block * block_rows..tiles.rows.min((block + 1) * block_rows);
        let first = rows.start * tiles.columns;
        let count = rows.len() * tiles.columns;
        let start = tiles.first_pixel(rows.start) * to;
        // SAFETY: the pixels of different rows of tiles are different.
        let output = unsafe { output.part(start..tiles.first_pixel(rows.end) * to) };
        with_scratch(&INPUTS, POSITIONS * count * from, |transformed| {
            let (inputs, outputs) = (every(count * from), every(count * to));
            for tile in 0..count {
                let pixels = tiles.pixels(first + tile, 1, from);
                let target = &mut transformed[tile * from..];
                transform::<Input, _, _>(isa, from, input, &pixels, &[], target, &inputs);
            }
            with_scratch(&OUTPUTS, POSITIONS * count * to, |products| {
                let operands = transformed
                    .chunks_exact(count * from)
                    .zip(filters.chunks_exact(panels.len()));
                for ((a, b), c) in operands.zip(products.chunks_exact_mut(count * to)) {
                    let a = InPlace(Matrix::new(a, count, from));
                    multiply_packed(isa, a, panels, b, c);
                }
                for tile in 0..count {
                    let mut pixels = tiles.pixels(first + tile, 0, to);
                    for pixel in pixels.as_flattened_mut() {
                        *pixel = match *pixel {
                            OUTSIDE => OUTSIDE,
                            pixel => pixel - start,
                        };
                    }
                    let products = &products[tile * to..];
                    transform::<Output, _, _>(isa, to, products, &outputs, bias, output, &pixels);
                }
            });
        });
    });
}

/// The gradient of the filters.
pub(super) fn weight_gradient(
    isa: Isa,
    shape: ConvolutionShape,
    input: &[f32],
    output_gradient: &[f32],
    gradient: &mut [f32],
) {
    let tiles = Tiles::new(shape);
    let (channels, filters) = (shape.in_channels, shape.out_channels);
    let of_tile = POSITIONS * (channels + filters);
    let chunk_rows = tiles.block_rows(MAX_TRANSFORMED / of_tile);
    let chunk_tiles = chunk_rows * tiles.columns;
    with_scratch(&FILTERS, POSITIONS * filters * channels, |products| {
        with_scratch(&INPUTS, POSITIONS * chunk_tiles * channels, |inputs| {
            with_scratch(&OUTPUTS, POSITIONS * chunk_tiles * filters, |outputs| {
                for first in (0..tiles.rows).step_by(chunk_rows) {
                    let last = tiles.rows.min(first + chunk_rows);
                    let chunk = first * tiles.columns..last * tiles.columns;
                    let inputs = transform_tiles::<Input, _>(
                        isa,
                        input,
                        tiles,
                        1,
                        chunk.clone(),
                        channels,
                        inputs,
                    );
                    let outputs = transform_tiles::<OutputGradient, _>(
                        isa,
                        output_gradient,
                        tiles,
                        0,
                        chunk,
                        filters,
                        outputs,
                    );
                    products
                        .par_chunks_exact_mut(filters * channels)
                        .enumerate()
                        .for_each(|(position, c)| {
                            let [a, b] = [outputs, inputs].map(|of| of.at(position));
                            product_on_this_thread(isa, a, b, first > 0, c);
                        });
                }
            });
        });
        let products = &*products;
        let (positions, taps) = (every(filters * channels), every(channels));
        gradient
            .par_chunks_exact_mut(9 * channels)
            .enumerate()
            .for_each(|(filter, gradient)| {
                let products = &products[filter * channels..];
                transform::<FilterGradient, _, _>(
                    isa,
                    channels,
                    products,
                    &positions,
                    &[],
                    gradient,
                    &taps,
                );
            });
    });
}

/// Transformed tiles, in blocks: for each block, for each position, the channels of its tiles.
#[derive(Clone, Copy)]
struct Transformed<'a> {
    values: &'a [f32],
    tiles: usize,
    channels: usize,
    position: usize,
}

/// Tiles of a block of [`Transformed`].
const TRANSFORMED_TILES: usize = 32;

/// Transforms the tiles of a chunk of which the first pixel is `before` rows above and columns left.
fn transform_tiles<'a, T: Transform<N, SIDE>, const N: usize>(
    isa: Isa,
    images: &[f32],
    tiles: Tiles,
    before: usize,
    chunk: Range<usize>,
    channels: usize,
    target: &'a mut [f32],
) -> Transformed<'a> {
    let block = POSITIONS * TRANSFORMED_TILES * channels;
    let target = &mut target[..POSITIONS * chunk.len() * channels];
    target
        .par_chunks_mut(block)
        .enumerate()
        .for_each(|(block, target)| {
            let count = target.len() / (POSITIONS * channels);
            let positions = every(count * channels);
            for tile in 0..count {
                let number = chunk.start + block * TRANSFORMED_TILES + tile;
                let pixels = tiles.pixels(number, before, channels);
                let target = &mut target[tile * channels..];
                transform::<T, _, _>(isa, channels, images, &pixels, &[], target, &positions);
            }
        });
    let tiles = chunk.len();
    Transformed {
        values: target,
        tiles,
        channels,
        position: 0,
    }
}

impl Transformed<'_> {
    /// The matrix at a position.
    fn at(self, position: usize) -> Self {
        Transformed { position, ..self }
    }

    /// The channels of a tile.
    fn tile(&self, tile: usize) -> &[f32] {
        let first = tile / TRANSFORMED_TILES * TRANSFORMED_TILES;
        let count = TRANSFORMED_TILES.min(self.tiles - first);
        let start = POSITIONS * first + self.position * count + (tile - first);
        &self.values[start * self.channels..][..self.channels]
    }
}

/// The transposed matrix: a row for each channel, a column for each tile.
impl Operand for Transformed<'_> {
    fn size(&self) -> (usize, usize) {
        (self.channels, self.tiles)
    }

    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        let present = width.min(last - first);
        let tiles = columns.map(|tile| &self.tile(tile)[first..first + present]);
        copy_columns(tiles, present, width, panel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::test_values::uniform;
    use super::super::direct;
    use super::*;
    use crate::reference;

    /// Output, gradient of the input and gradient of the filters.
    type Passes = [Vec<f32>; 3];

    fn by_transforms(isa: Isa, shape: ConvolutionShape) -> Passes {
        let [x, w, y, bias] = operands(shape);
        let mut results = [y.len(), x.len(), w.len()].map(|length| vec![f32::NAN; length]);
        let [output, of_x, of_w] = &mut results;
        forward(isa, shape, &x, &w, &bias, output);
        input_gradient(isa, shape, &w, &y, of_x);
        weight_gradient(isa, shape, &x, &y, of_w);
        results
    }

    fn directly(isa: Isa, shape: ConvolutionShape) -> Passes {
        let [x, w, y, bias] = operands(shape);
        let mut results = [y.len(), x.len(), w.len()].map(|length| vec![f32::NAN; length]);
        let [output, of_x, of_w] = &mut results;
        direct::forward(isa, shape, &x, &w, &bias, output);
        direct::input_gradient(isa, shape, &w, &y, of_x);
        direct::weight_gradient(isa, shape, &x, &y, of_w);
        results
    }

    /// Input, filters, gradient of the output and bias.
    fn operands(shape: ConvolutionShape) -> [Vec<f32>; 4] {
        [
            uniform(shape.pixels() * shape.in_channels, 1),
            uniform(shape.out_channels * shape.filter(), 2),
            uniform(shape.pixels() * shape.out_channels, 3),
            uniform(shape.out_channels, 4),
        ]
    }

    /// The errors are at most ten times those of the direct sums, in the mean square.
    fn check(shape: ConvolutionShape) {
        let [x, w, y, bias] =
            operands(shape).map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>());
        let output = reference::convolution_forward(shape, &x, &w, &bias);
        let [of_x, of_w, _] = reference::convolution_backward(shape, &x, &w, &y);
        for isa in Isa::available() {
            let passes = by_transforms(isa, shape)
                .into_iter()
                .zip(directly(isa, shape));
            for ((found, direct), exact) in passes.zip([&output, &of_x, &of_w]) {
                let error = |values: &[f32]| {
                    let squares = values.iter().zip(exact).map(|(value, exact)| {
                        let difference = f64::from(*value) - exact;
                        difference * difference
                    });
                    (squares.sum::<f64>() / exact.len() as f64).sqrt()
                };
                let (found, direct) = (error(&found), error(&direct));
                assert!(
                    found <= 10.0 * direct,
                    "{} {shape:?}: {found}, directly {direct}",
                    isa.name()
                );
            }
        }
    }

    #[test]
    fn deeper_than_a_slice_and_wider_than_a_panel() {
        check(ConvolutionShape {
            batch: 2,
            height: 4,
            width: 5,
            in_channels: 528,
            out_channels: 144,
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let shape = ConvolutionShape {
            batch: 3,
            height: 17,
            width: 18,
            in_channels: 48,
            out_channels: 64,
        };
        for isa in Isa::available() {
            let results = [1, 2, 7].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| by_transforms(isa, shape))
            });
            assert!(results[1..].iter().all(|other| *other == results[0]));
        }
    }

    #[test]
    fn the_rule_depends_on_the_shape() {
        let shape = ConvolutionShape {
            batch: 50,
            height: 8,
            width: 8,
            in_channels: 512,
            out_channels: 512,
        };
        assert!(applies(shape));
        for other in [
            ConvolutionShape {
                in_channels: 3,
                ..shape
            },
            ConvolutionShape {
                out_channels: 24,
                ..shape
            },
            ConvolutionShape { batch: 1, ..shape },
            ConvolutionShape {
                height: 2,
                width: 2,
                ..shape
            },
            ConvolutionShape {
                width: 10_000,
                ..shape
            },
            ConvolutionShape {
                in_channels: 4096,
                ..shape
            },
        ] {
            assert!(!applies(other), "{other:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 1 } else { 24 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]
        #[test]
        fn is_as_exact_as_promised(
            batch in 1..4usize, height in 1..14usize, width in 1..14usize,
            from in 1..6usize, to in 1..6usize,
        ) {
            check(ConvolutionShape {
                batch,
                height,
                width,
                in_channels: LANES * from,
                out_channels: LANES * to,
            });
        }
    }
}
