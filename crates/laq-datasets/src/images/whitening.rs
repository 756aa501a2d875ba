//! ZCA whitening: the linear map closest to the identity that decorrelates the training images.

use std::io;
use std::ops::Range;
use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use super::cache::{self, Magic};
use super::{ImageError, Pixels, RawImages, contrast};

/// Added to every eigenvalue of the covariance.
const REGULARIZER: f64 = 0.1;

/// The largest image: the matrix of a larger one exceeds the memory of most machines.
const MAX_ELEMENTS: usize = 12_288;

/// Images per batch, and per task. The order of summation depends on these constants only: the same
/// bits with any number of threads.
const BATCH: usize = 1024;
const IMAGES: usize = 128;
/// Columns of the covariance per task.
const COLUMNS: usize = 256;

/// Global contrast normalization, then the whitening map fitted to the training images:
///
/// x ↦ U (Λ + 0.1)^(−1/2) Uᵀ (gcn(x) − mean), where U Λ Uᵀ is the covariance of gcn(x) over the
/// training images.
///
/// The regularizer 0.1 is the paper's (PAPER.md, 5).
pub struct Whitening {
    mean: Vec<f64>,
    /// Symmetric, n × n for images of n elements.
    map: Vec<f64>,
}

impl Whitening {
    /// Fits the map to `images`, none of which is constant.
    ///
    /// Takes about 10n³ operations and 32n² bytes for images of n elements: half a minute and 300
    /// MB for 32 × 32 × 3.
    ///
    /// # Errors
    ///
    /// [`ImageError::Mismatch`] for images of more than 12,288 elements, and if the
    /// eigendecomposition does not converge.
    pub fn fit(images: &RawImages) -> Result<Self, ImageError> {
        let mismatch = |reason| ImageError::Mismatch {
            name: "ZCA whitening".to_owned(),
            reason,
        };
        let elements = images.shape.elements();
        if elements > MAX_ELEMENTS {
            return Err(mismatch(format!(
                "images of {} have {elements} elements, expected at most {MAX_ELEMENTS} for whitening; use another \
                 preprocessing or smaller images",
                images.shape
            )));
        }
        let mean = mean(images);
        let covariance = covariance(images, &mean);
        let eigen = MatRef::from_column_major_slice(&covariance, elements, elements)
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| {
                mismatch(format!(
                    "the eigendecomposition of the covariance failed: {error:?}"
                ))
            })?;
        // U (Λ + r)^(−1/4): its product with its transpose is the map.
        let mut root = eigen.U().to_owned();
        for (column, &variance) in root.col_iter_mut().zip(eigen.S().column_vector().iter()) {
            let factor = (variance.max(0.0) + REGULARIZER).powf(-0.25);
            column.iter_mut().for_each(|value| *value *= factor);
        }
        let mut map = covariance;
        map.par_chunks_mut(COLUMNS * elements)
            .enumerate()
            .for_each(|(chunk, map)| {
                let columns = map.len() / elements;
                matmul(
                    MatMut::from_column_major_slice_mut(map, elements, columns),
                    Accum::Replace,
                    root.as_ref(),
                    root.subrows(chunk * COLUMNS, columns).transpose(),
                    1.0,
                    Par::Seq,
                );
            });
        Ok(Self { mean, map })
    }

    /// The whitened images `range` (NHWC).
    ///
    /// # Panics
    ///
    /// If `range` is out of bounds, or the shape is not that of the images of the fit.
    pub fn apply(&self, images: &RawImages, range: Range<usize>) -> Vec<f32> {
        let elements = self.mean.len();
        assert_eq!(elements, images.shape.elements());
        let pixels = &images.pixels[range.start * elements..range.end * elements];
        let mut whitened = vec![0.0; pixels.len()];
        let map = MatRef::from_column_major_slice(&self.map, elements, elements);
        pixels
            .par_chunks(IMAGES * elements)
            .zip(whitened.par_chunks_mut(IMAGES * elements))
            .for_each(|(pixels, whitened)| {
                let count = pixels.len() / elements;
                let centered = centered(pixels, &self.mean);
                let mut product = vec![0.0; pixels.len()];
                matmul(
                    MatMut::from_column_major_slice_mut(&mut product, elements, count),
                    Accum::Replace,
                    map,
                    MatRef::from_column_major_slice(&centered, elements, count),
                    1.0,
                    Par::Seq,
                );
                for (whitened, product) in whitened.iter_mut().zip(product) {
                    *whitened = product as f32;
                }
            });
        whitened
    }
}

/// The mean of the normalized images.
fn mean(images: &RawImages) -> Vec<f64> {
    let mut mean = vec![0.0; images.shape.elements()];
    for image in images.pixels.chunks_exact(mean.len()) {
        for (sum, x) in mean.iter_mut().zip(contrast::global(image)) {
            *sum += x;
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= images.len() as f64);
    mean
}

/// The lower triangle of the covariance of the normalized images, column-major.
fn covariance(images: &RawImages, mean: &[f64]) -> Vec<f64> {
    let elements = mean.len();
    let mut covariance = vec![0.0; elements * elements];
    for pixels in images.pixels.chunks(BATCH * elements) {
        let count = pixels.len() / elements;
        let centered = centered(pixels, mean);
        let centered = MatRef::from_column_major_slice(&centered, elements, count);
        covariance
            .par_chunks_mut(COLUMNS * elements)
            .enumerate()
            .for_each(|(chunk, covariance)| {
                let columns = covariance.len() / elements;
                let first = chunk * COLUMNS;
                let covariance = MatMut::from_column_major_slice_mut(covariance, elements, columns);
                matmul(
                    covariance.subrows_mut(first, elements - first),
                    Accum::Add,
                    centered.subrows(first, elements - first),
                    centered.subrows(first, columns).transpose(),
                    1.0 / images.len() as f64,
                    Par::Seq,
                );
            });
    }
    covariance
}

/// gcn(x) − mean for every image.
fn centered(pixels: &[u8], mean: &[f64]) -> Vec<f64> {
    let mut centered = vec![0.0; pixels.len()];
    pixels
        .par_chunks_exact(mean.len())
        .zip(centered.par_chunks_exact_mut(mean.len()))
        .for_each(|(image, centered)| {
            let pairs = contrast::global(image).zip(mean);
            for (centered, (x, mean)) in centered.iter_mut().zip(pairs) {
                *centered = x - mean;
            }
        });
    centered
}

/// The magic of a [`cache`](super::cache) file of whitened images.
const MAGIC: Magic = *b"laq-whitened-v1\n";

/// The images of all splits, whitened by the map of the first split, as little-endian `f32`.
pub(super) fn whiten(splits: &[RawImages; 3]) -> Result<Pixels, ImageError> {
    let mut bytes = Vec::new();
    write_all(splits, |part| bytes.extend_from_slice(part))?;
    Ok(bytes.into())
}

/// [`whiten`] through the cache file `path`, which is written unless it exists for the same
/// [`content_digest`](super::content_digest).
pub(super) fn whiten_cached(
    splits: &[RawImages; 3],
    digest: &[u8; 32],
    path: &Path,
    report: &mut dyn FnMut(&str),
) -> Result<Pixels, ImageError> {
    let failed = |source| ImageError::Io {
        path: path.to_owned(),
        source,
    };
    let found = cache::open_or_make(path, &MAGIC, digest, report, failed, |writer, report| {
        let images: usize = splits.iter().map(RawImages::len).sum();
        let (train, path) = (splits[0].len(), path.display());
        report(&format!(
            "fitting ZCA whitening to {train} images; writing {images} whitened images to {path}, once"
        ));
        write_all(splits, |bytes| writer.write(bytes))
    })?;
    let bytes: usize = splits.iter().map(|raw| 4 * raw.pixels.len()).sum();
    match found.content.len() == bytes {
        true => Ok(found.content),
        false => Err(failed(io::Error::other(format!(
            "found {} bytes, expected {bytes}; remove the file",
            found.content.len()
        )))),
    }
}

fn write_all(splits: &[RawImages; 3], mut write: impl FnMut(&[u8])) -> Result<(), ImageError> {
    let whitening = Whitening::fit(&splits[0])?;
    for raw in splits {
        for start in (0..raw.len()).step_by(BATCH) {
            let whitened = whitening.apply(raw, start..raw.len().min(start + BATCH));
            let bytes: Vec<u8> = whitened.into_iter().flat_map(f32::to_le_bytes).collect();
            write(&bytes);
        }
    }
    Ok(())
}
