//! ZCA whitening: a linear map that takes the correlations out of the training images and stays close to the images.

use std::io;
use std::ops::Range;
use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use super::cache::{self, Magic};
use super::{ImageError, Pixels, RawImages, contrast};

/// Added to every variance before its root divides.
const REGULARIZER: f64 = 0.1;

/// The largest image: the map of a larger one would not fit into the memory of most machines.
const MOST_NUMBERS: usize = 12_288;

/// Images that are taken into memory at once, and those that a thread works on. What a sum is made of depends on them,
/// and on nothing else: the same bits with any number of threads.
const BATCH: usize = 1024;
const IMAGES: usize = 128;
/// Columns of the covariance that a thread works on.
const COLUMNS: usize = 256;

/// Global contrast normalization, and then the whitening map that was fitted to training images:
///
/// x ↦ U (Λ + 0.1)^(−1/2) Uᵀ (gcn(x) − mean), where U Λ Uᵀ is the covariance of gcn(x) over the training images.
///
/// The regularizer 0.1 is the paper's (PAPER.md, 5).
pub struct Whitening {
    mean: Vec<f64>,
    /// Symmetric, numbers × numbers.
    map: Vec<f64>,
}

impl Whitening {
    /// Fits the map to `images`, all of the same shape and none of them constant.
    ///
    /// It takes about n³ · 10 operations and three times 8n² bytes, n being the numbers of an image: half a minute and 230 MB
    /// for 32 × 32 pixels in three colours.
    ///
    /// # Errors
    ///
    /// [`ImageError::Mismatch`] for images of more than 12,288 numbers, and where the eigenvalues cannot be found.
    pub fn fit(images: &RawImages) -> Result<Self, ImageError> {
        let mismatch = |reason| ImageError::Mismatch {
            name: "ZCA whitening".to_owned(),
            reason,
        };
        let numbers = images.shape.numbers();
        if numbers > MOST_NUMBERS {
            return Err(mismatch(format!(
                "an image of {} has {numbers} numbers, and at most {MOST_NUMBERS} can be whitened; choose another \
                 preprocessing, or smaller images",
                images.shape
            )));
        }
        let mean = mean(images);
        let covariance = covariance(images, &mean);
        let eigen = MatRef::from_column_major_slice(&covariance, numbers, numbers)
            .self_adjoint_eigen(Side::Lower)
            .map_err(|error| mismatch(format!("the covariance has no eigenvalues: {error:?}")))?;
        // U (Λ + r)^(−1/4): its product with its own transpose is the map.
        let mut root = eigen.U().to_owned();
        for (column, &variance) in root.col_iter_mut().zip(eigen.S().column_vector().iter()) {
            let factor = (variance.max(0.0) + REGULARIZER).powf(-0.25);
            column.iter_mut().for_each(|value| *value *= factor);
        }
        let mut map = covariance;
        map.par_chunks_mut(COLUMNS * numbers)
            .enumerate()
            .for_each(|(chunk, map)| {
                let columns = map.len() / numbers;
                matmul(
                    MatMut::from_column_major_slice_mut(map, numbers, columns),
                    Accum::Replace,
                    root.as_ref(),
                    root.subrows(chunk * COLUMNS, columns).transpose(),
                    1.0,
                    Par::Seq,
                );
            });
        Ok(Self { mean, map })
    }

    /// The images `range`, whitened: one after the other, each as height × width × channels with the channels innermost.
    ///
    /// # Panics
    ///
    /// If there are not so many images, or they are not of the shape that the map was fitted to.
    pub fn apply(&self, images: &RawImages, range: Range<usize>) -> Vec<f32> {
        let numbers = self.mean.len();
        assert_eq!(numbers, images.shape.numbers());
        let pixels = &images.pixels[range.start * numbers..range.end * numbers];
        let mut whitened = vec![0.0; pixels.len()];
        let map = MatRef::from_column_major_slice(&self.map, numbers, numbers);
        pixels
            .par_chunks(IMAGES * numbers)
            .zip(whitened.par_chunks_mut(IMAGES * numbers))
            .for_each(|(pixels, whitened)| {
                let count = pixels.len() / numbers;
                let centred = centred(pixels, &self.mean);
                let mut product = vec![0.0; pixels.len()];
                matmul(
                    MatMut::from_column_major_slice_mut(&mut product, numbers, count),
                    Accum::Replace,
                    map,
                    MatRef::from_column_major_slice(&centred, numbers, count),
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
    let mut mean = vec![0.0; images.shape.numbers()];
    for image in images.pixels.chunks_exact(mean.len()) {
        for (sum, x) in mean.iter_mut().zip(contrast::global(image)) {
            *sum += x;
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= images.len() as f64);
    mean
}

/// The lower triangle of the normalized images' covariance, column by column.
fn covariance(images: &RawImages, mean: &[f64]) -> Vec<f64> {
    let numbers = mean.len();
    let mut covariance = vec![0.0; numbers * numbers];
    for pixels in images.pixels.chunks(BATCH * numbers) {
        let count = pixels.len() / numbers;
        let centred = centred(pixels, mean);
        let centred = MatRef::from_column_major_slice(&centred, numbers, count);
        covariance
            .par_chunks_mut(COLUMNS * numbers)
            .enumerate()
            .for_each(|(chunk, covariance)| {
                let columns = covariance.len() / numbers;
                let first = chunk * COLUMNS;
                let covariance = MatMut::from_column_major_slice_mut(covariance, numbers, columns);
                matmul(
                    covariance.subrows_mut(first, numbers - first),
                    Accum::Add,
                    centred.subrows(first, numbers - first),
                    centred.subrows(first, columns).transpose(),
                    1.0 / images.len() as f64,
                    Par::Seq,
                );
            });
    }
    covariance
}

/// gcn(x) − mean, image by image.
fn centred(pixels: &[u8], mean: &[f64]) -> Vec<f64> {
    let mut centred = vec![0.0; pixels.len()];
    pixels
        .par_chunks_exact(mean.len())
        .zip(centred.par_chunks_exact_mut(mean.len()))
        .for_each(|(image, centred)| {
            let pairs = contrast::global(image).zip(mean);
            for (centred, (x, mean)) in centred.iter_mut().zip(pairs) {
                *centred = x - mean;
            }
        });
    centred
}

/// The magic of a [`cache`](super::cache) file of whitened images.
const MAGIC: Magic = *b"laq-whitened-v1\n";

/// The numbers of all splits, whitened by what is fitted to the first: as little-endian `f32`.
pub(super) fn whiten(splits: &[RawImages; 3]) -> Result<Pixels, ImageError> {
    let mut bytes = Vec::new();
    write_all(splits, |part| bytes.extend_from_slice(part))?;
    Ok(bytes.into())
}

/// The same from the file `path`, which is made if it is not there or was not made from the same splits, by their
/// [`content_digest`](super::content_digest).
pub(super) fn whiten_once(
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
            "fitting ZCA whitening to {train} images and whitening {images} into {path}, once"
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
