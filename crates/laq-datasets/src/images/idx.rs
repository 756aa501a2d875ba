//! The idx format, which MNIST uses.
//!
//! A file has a big-endian header, then one byte per element:
//!
//! ```text
//! 0  0                     two zero bytes
//! 8                        the element type unsigned byte, the only one supported
//! rank                     number of dimensions, 1 to 4
//! u32 × rank               the dimensions, outermost first, none of them zero
//! bytes                    the elements, row-major
//! ```
//!
//! The elements are borrowed from the content of the file.

use super::ImageSize;
use crate::FormatError;

/// Dimensions and elements of an idx file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx<'a> {
    /// The dimensions, outermost first; at least one.
    pub dimensions: Vec<usize>,
    /// The elements, row-major.
    pub elements: &'a [u8],
}

/// Reads the content of an idx file of unsigned bytes.
///
/// ```
/// let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
/// let idx = laq_datasets::idx::parse(&file)?;
/// assert_eq!((idx.dimensions, idx.elements), (vec![2, 3], &[1, 2, 3, 4, 5, 6][..]));
/// # Ok::<(), laq_datasets::FormatError>(())
/// ```
///
/// # Errors
///
/// [`FormatError::Content`] if the magic number is wrong, the rank is not 1 to 4, a dimension is
/// zero, or the header does not match the size of the file.
pub fn parse(content: &[u8]) -> Result<Idx<'_>, FormatError> {
    let Some((magic, rest)) = content.split_first_chunk::<4>() else {
        let found = format!("{} bytes", content.len());
        return Err(FormatError::new("header", found, "at least 4 bytes"));
    };
    let &[0, 0, 8, rank @ 1..=4] = magic else {
        return Err(FormatError::new(
            "magic number",
            format!("{magic:02x?}"),
            "[00, 00, 08, rank] with a rank of 1 to 4: an uncompressed idx file of unsigned bytes",
        ));
    };
    let rank = usize::from(rank);
    let Some((header, elements)) = rest.split_at_checked(4 * rank) else {
        return Err(FormatError::new(
            "header",
            format!("{} bytes", content.len()),
            format!("{} bytes for {rank} dimensions", 4 + 4 * rank),
        ));
    };
    let dimensions: Vec<usize> = header
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&dimension| u32::from_be_bytes(dimension) as usize)
        .collect();
    if dimensions.contains(&0) {
        return Err(FormatError::new(
            format!("dimensions {dimensions:?}"),
            "a dimension of zero",
            "at least 1",
        ));
    }
    let product = dimensions.iter().map(|&d| d as u128).product::<u128>();
    if product != elements.len() as u128 {
        return Err(FormatError::new(
            format!("dimensions {dimensions:?}"),
            format!("{} bytes after the header", elements.len()),
            format!("{product}"),
        ));
    }
    Ok(Idx {
        dimensions,
        elements,
    })
}

/// Shape, offset of the first pixel and number of the images in `content`, an idx file of rank 3 (N
/// × height × width) or 4 (… × channels).
pub(crate) fn image_file(content: &[u8]) -> Result<(ImageSize, usize, usize), FormatError> {
    let idx = parse(content)?;
    let (shape, count) = match idx.dimensions[..] {
        [count, height, width] => (shape(height, width, 1), count),
        [count, height, width, channels] => (shape(height, width, channels), count),
        _ => {
            let found = format!("{:?}", idx.dimensions);
            let expected =
                "count, height, width and optionally channels; is this a file of labels?";
            return Err(FormatError::new("dimensions", found, expected));
        }
    };
    Ok((shape, content.len() - idx.elements.len(), count))
}

fn shape(height: usize, width: usize, channels: usize) -> ImageSize {
    ImageSize {
        height,
        width,
        channels,
    }
}

/// The labels in `content`, an idx file of rank 1, of `count` images.
pub(crate) fn label_file(content: &[u8], count: usize) -> Result<&[u8], FormatError> {
    let idx = parse(content)?;
    match idx.dimensions[..] {
        [labels] if labels == count => Ok(idx.elements),
        _ => Err(FormatError::new(
            "dimensions",
            format!("{:?}", idx.dimensions),
            format!("[{count}], a label for each image"),
        )),
    }
}
