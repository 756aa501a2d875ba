//! The decoded copy of SVHN, which is too large to decode in every run or to keep in memory: the
//! content of a [`cache`] file.
//!
//! ```text
//! u64 × 3     height, width, channels; all integers are little-endian
//! u64 × 3     number of training, validation and test images
//! bytes       labels of the three splits
//! bytes       pixels of the three splits
//! ```
//!
//! This is the input of [`content_digest`](super::content_digest) in its order, so the checksum of
//! the file is the digest.

use super::cache::{self, Magic};
use super::{ImageSize, RawImages};

pub(super) const MAGIC: Magic = *b"laq-images-v1\n\0\0";

/// Writes everything before the pixels.
pub(super) fn write_header(writer: &mut cache::Writer, shape: ImageSize, labels: &[Vec<u8>; 3]) {
    let counts = labels.each_ref().map(Vec::len);
    let fields = [shape.height, shape.width, shape.channels];
    for field in fields.into_iter().chain(counts) {
        writer.write(&(field as u64).to_le_bytes());
    }
    for labels in labels {
        writer.write(labels);
    }
}

/// The splits, or `None` if the size does not match the header.
pub(super) fn splits(found: &cache::Found) -> Option<[RawImages; 3]> {
    const HEADER: usize = 6 * 8;
    let content = &found.content;
    let mut fields = [0; 6];
    let header = content.get(..HEADER)?.as_chunks::<8>().0;
    for (field, &bytes) in fields.iter_mut().zip(header) {
        *field = usize::try_from(u64::from_le_bytes(bytes)).ok()?;
    }
    let [height, width, channels, counts @ ..] = fields;
    let product = height.checked_mul(width)?.checked_mul(channels)?;
    let images = (counts.into_iter()).try_fold(0usize, |sum, count| sum.checked_add(count))?;
    let expected = (product as u128 + 1) * images as u128 + HEADER as u128;
    if expected != content.len() as u128 {
        return None;
    }
    let shape = ImageSize {
        height,
        width,
        channels,
    };
    let (mut label, mut pixel) = (HEADER, HEADER + images);
    Some(counts.map(|count| {
        let labels = content[label..label + count].to_vec();
        let pixels = content.part(pixel..pixel + count * product);
        label += count;
        pixel += count * product;
        RawImages {
            shape,
            pixels,
            labels,
        }
    }))
}
