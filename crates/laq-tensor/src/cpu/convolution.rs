//! The 3 × 3 convolution as products whose larger operand is never written out.
//!
//! With one row a pixel and one column a tap and channel, the *patches* of an image are a matrix that repeats each pixel
//! nine times. The three passes are products with it:
//!
//! ```text
//! y  = patches(x) Wᵀ            W: F × 9C
//! ∂x = patches(∂y) W′ᵀ          W′: C × 9F, the filters turned round and with inputs and outputs exchanged
//! ∂W = ∂yᵀ patches(x)
//! ```
//!
//! The product packs panels of its operands anyway; [`Patches`] lets it pack them straight from the image. Where a pixel has
//! enough channels and the kernel can, its tiles read the rows in the image, and nothing is packed.

use std::ops::Range;

use super::dense::{column_sums, fill_rows};
use super::gemm::{LEAST_RUN, Matrix, Operand, ZEROS, product};
use super::kernel::Kernel;
use crate::ConvolutionShape;

pub(crate) fn forward(
    kernel: Kernel,
    shape: ConvolutionShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    if let Some(bias) = bias {
        fill_rows(bias, output);
    }
    let patches = Patches::new(shape, shape.inputs, input);
    let filters = Matrix::new(weight, shape.outputs, shape.filter());
    product(kernel, patches, filters, bias.is_some(), output);
}

pub(crate) fn backward(
    kernel: Kernel,
    shape: ConvolutionShape,
    input: &[f32],
    weight: &[f32],
    output_gradient: &[f32],
    input_gradient: Option<&mut [f32]>,
    weight_gradient: &mut [f32],
    bias_gradient: Option<&mut [f32]>,
) {
    if let Some(input_gradient) = input_gradient {
        let patches = Patches::new(shape, shape.outputs, output_gradient);
        let turned = TurnedFilters { shape, weight };
        product(kernel, patches, turned, false, input_gradient);
    }
    let gradient = Matrix::new(output_gradient, shape.pixels(), shape.outputs);
    let patches = PatchesTransposed(Patches::new(shape, shape.inputs, input));
    product(
        kernel,
        gradient.transposed(),
        patches,
        false,
        weight_gradient,
    );
    if let Some(bias_gradient) = bias_gradient {
        column_sums(output_gradient, bias_gradient);
    }
}

/// A row a pixel, a column a tap and channel: column t·C + c holds channel c of the pixel that tap t = 3p + q sees, at
/// (i + p − 1, j + q − 1), or zero outside of the image.
#[derive(Clone, Copy)]
struct Patches<'a> {
    height: usize,
    width: usize,
    channels: usize,
    images: &'a [f32],
}

/// The widest panel of any kernel.
const WIDEST: usize = 32;

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

    /// So many channels, from `channel` on, of the pixel that `tap` sees from `pixel`.
    fn seen(&self, pixel: usize, tap: usize, channel: usize, count: usize) -> &'a [f32] {
        let (i, j) = (pixel / self.width % self.height, pixel % self.width);
        let (p, q) = (tap / 3, tap % 3);
        let inside = (1..=self.height).contains(&(i + p)) && (1..=self.width).contains(&(j + q));
        if !inside {
            return &ZEROS[..count];
        }
        let seen = pixel + p * self.width + q - self.width - 1;
        &self.images[seen * self.channels + channel..][..count]
    }

    /// Cuts columns into parts that lie within one tap: tap, first channel, and columns.
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
            let mut rows = [&ZEROS[..count]; WIDEST];
            for (row, seen) in rows[..width].iter_mut().enumerate() {
                if first + row < last {
                    *seen = self.seen(first + row, tap, channel, count);
                }
            }
            let panel = &mut panel[(part.start - start) * width..(part.end - start) * width];
            interleave(&rows[..width], panel);
        }
    }

    /// The channels of a pixel lie side by side.
    fn in_place(&self, row: usize, columns: Range<usize>) -> Option<&[f32]> {
        if self.channels < LEAST_RUN {
            return None;
        }
        let (tap, channel, part) = self.by_tap(columns).next()?;
        Some(self.seen(row, tap, channel, part.len()))
    }
}

/// Writes the first numbers of all rows, then the second ones, and so on.
fn interleave(rows: &[&[f32]], target: &mut [f32]) {
    // Sixteen numbers of a row are one cache line: read it once, scatter within the panel.
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
                let seen = self.0.seen(pixel, tap, channel, part.len());
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
struct TurnedFilters<'a> {
    shape: ConvolutionShape,
    weight: &'a [f32],
}

impl Operand for TurnedFilters<'_> {
    fn size(&self) -> (usize, usize) {
        (self.shape.inputs, 9 * self.shape.outputs)
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
            inputs, outputs, ..
        } = self.shape;
        let present = width.min(last - first);
        for (column, target) in columns.zip(panel.chunks_exact_mut(width)) {
            let (tap, filter) = (column / outputs, column % outputs);
            let start = (9 * filter + 8 - tap) * inputs + first;
            target[..present].copy_from_slice(&self.weight[start..start + present]);
            target[present..].fill(0.0);
        }
    }
}
