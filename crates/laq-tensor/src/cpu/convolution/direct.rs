//! The 3 × 3 convolution as products whose larger operand is never materialized.
//!
//! The *patches* of an image are a matrix with one row per pixel and one column per tap and
//! channel, which repeats each pixel nine times (im2col). The three passes are products with it:
//!
//! ```text
//! y  = patches(x) Wᵀ            W: F × 9C
//! ∂x = patches(∂y) W′ᵀ          W′: C × 9F, the filters rotated by 180° with input and output channels exchanged
//! ∂W = ∂yᵀ patches(x)
//! ```
//!
//! The product packs panels of its operands anyway; [`Patches`] packs them straight from the image.
//! Where a pixel has enough channels and the instruction set has such a tile, the tiles read the
//! rows in the image, and nothing is packed.

use std::ops::Range;

use super::super::dense::broadcast_bias;
use super::super::gemm::{MIN_RUN, Matrix, Operand, PORTABLE_ROWS, ZEROS, copy_columns, product};
use crate::ConvolutionShape;
use laq_simd::Isa;

/// The output of a convolution; the bias may be empty.
pub(super) fn forward(
    isa: Isa,
    shape: ConvolutionShape,
    input: &[f32],
    weight: &[f32],
    bias: &[f32],
    output: &mut [f32],
) {
    if !bias.is_empty() {
        assert_eq!(bias.len(), shape.out_channels);
        broadcast_bias(bias, output);
    }
    let patches = Patches::new(shape, shape.in_channels, input);
    let filters = Matrix::new(weight, shape.out_channels, shape.filter());
    product(isa, patches, filters, !bias.is_empty(), output);
}

/// The gradient of the input.
pub(super) fn input_gradient(
    isa: Isa,
    shape: ConvolutionShape,
    weight: &[f32],
    output_gradient: &[f32],
    gradient: &mut [f32],
) {
    let patches = Patches::new(shape, shape.out_channels, output_gradient);
    let rotated = RotatedFilters { shape, weight };
    product(isa, patches, rotated, false, gradient);
}

/// The gradient of the filters.
pub(super) fn weight_gradient(
    isa: Isa,
    shape: ConvolutionShape,
    input: &[f32],
    output_gradient: &[f32],
    gradient: &mut [f32],
) {
    let output_gradient = Matrix::new(output_gradient, shape.pixels(), shape.out_channels);
    let patches = PatchesTransposed(Patches::new(shape, shape.in_channels, input));
    product(isa, output_gradient.transposed(), patches, false, gradient);
}

/// One row per pixel, one column per tap and channel: column t·C + c holds channel c of the pixel
/// at (i + p − 1, j + q − 1) for tap t = 3p + q, or zero outside of the image.
#[derive(Clone, Copy)]
struct Patches<'a> {
    height: usize,
    width: usize,
    channels: usize,
    images: &'a [f32],
}

/// The rows of a panel of A, at most.
const MAX_ROWS: usize = 64;
const _: () = assert!(PORTABLE_ROWS <= MAX_ROWS);

impl<'a> Patches<'a> {
    fn new(shape: ConvolutionShape, channels: usize, images: &'a [f32]) -> Self {
        assert_eq!(images.len(), shape.pixels() * channels);
        Patches {
            height: shape.height,
            width: shape.width,
            channels,
            images,
        }
    }

    /// `count` channels from `channel` on of the pixel under `tap` of the filter at `pixel`.
    fn under_tap(&self, pixel: usize, tap: usize, channel: usize, count: usize) -> &'a [f32] {
        let (i, j) = (pixel / self.width % self.height, pixel % self.width);
        let (p, q) = (tap / 3, tap % 3);
        let inside = (1..=self.height).contains(&(i + p)) && (1..=self.width).contains(&(j + q));
        if !inside {
            return &ZEROS[..count];
        }
        let seen = pixel + p * self.width + q - self.width - 1;
        &self.images[seen * self.channels + channel..][..count]
    }

    /// Splits columns at the taps: tap, first channel, and columns of each part.
    fn by_tap(&self, columns: Range<usize>) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        let channels = self.channels;
        let mut from = columns.start;
        std::iter::from_fn(move || {
            let (tap, channel) = (from / channels, from % channels);
            let part = from..columns.end.min(from + channels - channel);
            from = part.end;
            (!part.is_empty()).then_some((tap, channel, part))
        })
    }
}

impl Operand for Patches<'_> {
    fn size(&self) -> (usize, usize) {
        (self.images.len() / self.channels, 9 * self.channels)
    }

    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        let start = columns.start;
        for (tap, channel, part) in self.by_tap(columns) {
            let count = part.len();
            let mut rows = [&ZEROS[..count]; MAX_ROWS];
            for (row, seen) in rows[..width].iter_mut().enumerate() {
                if first + row < last {
                    *seen = self.under_tap(first + row, tap, channel, count);
                }
            }
            let panel = &mut panel[(part.start - start) * width..(part.end - start) * width];
            interleave(&rows[..width], panel);
        }
    }

    /// The channels of a pixel are contiguous.
    fn in_place(&self, row: usize, columns: Range<usize>) -> Option<&[f32]> {
        if self.channels < MIN_RUN {
            return None;
        }
        let (tap, channel, part) = self.by_tap(columns).next()?;
        Some(self.under_tap(row, tap, channel, part.len()))
    }
}

/// Writes the first element of every row, then the second, and so on.
fn interleave(rows: &[&[f32]], target: &mut [f32]) {
    // Sixteen elements of a row are one cache line: read it once, scatter it within the panel.
    const LINE: usize = 16;
    let width = rows.len();
    for (line, target) in target.chunks_mut(LINE * width).enumerate() {
        let count = target.len() / width;
        for (place, row) in rows.iter().enumerate() {
            for (step, &value) in row[line * LINE..][..count].iter().enumerate() {
                target[step * width + place] = value;
            }
        }
    }
}

/// The transpose of [`Patches`].
#[derive(Clone, Copy)]
struct PatchesTransposed<'a>(Patches<'a>);

impl Operand for PatchesTransposed<'_> {
    fn size(&self) -> (usize, usize) {
        let (pixels, taps) = self.0.size();
        (taps, pixels)
    }

    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        pixels: Range<usize>,
        panel: &mut [f32],
    ) {
        let rows = first..last.min(first + width);
        for (tap, channel, part) in self.0.by_tap(rows.clone()) {
            let place = part.start - first;
            for (pixel, target) in pixels.clone().zip(panel.chunks_exact_mut(width)) {
                let seen = self.0.under_tap(pixel, tap, channel, part.len());
                target[place..place + part.len()].copy_from_slice(seen);
            }
        }
        for target in panel.chunks_exact_mut(width) {
            target[rows.len()..].fill(0.0);
        }
    }
}

/// W′, C × 9F: row c, column t·F + f is W\[f, 8 − t, c\].
#[derive(Clone, Copy)]
struct RotatedFilters<'a> {
    shape: ConvolutionShape,
    weight: &'a [f32],
}

impl Operand for RotatedFilters<'_> {
    fn size(&self) -> (usize, usize) {
        (self.shape.in_channels, 9 * self.shape.out_channels)
    }

    fn pack(
        &self,
        first: usize,
        last: usize,
        width: usize,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        let ConvolutionShape {
            in_channels,
            out_channels,
            ..
        } = self.shape;
        let present = width.min(last - first);
        let weights = columns.map(|column| {
            let (tap, filter) = (column / out_channels, column % out_channels);
            let start = (9 * filter + 8 - tap) * in_channels + first;
            &self.weight[start..start + present]
        });
        copy_columns(weights, present, width, panel);
    }
}
