//! The idx format, in which MNIST comes.
//!
//! A file is a header, big-endian throughout, and one byte a number:
//!
//! ```text
//! 0  0                     two zero bytes
//! 8                        the numbers are unsigned bytes, the one type that is read here
//! rank                     number of dimensions, 1 to 4
//! u32 × rank               the dimensions, the outermost first, none of them zero
//! bytes                    as many as the product of the dimensions, row by row
//! ```
//!
//! Nothing is allocated for the numbers: they stay where the file was read to.

use super::ImageShape;
use crate::FormatError;

/// Dimensions and numbers of an idx file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx<'a> {
    /// The dimensions, the outermost first; at least one.
    pub dimensions: Vec<usize>,
    /// The numbers, the last dimension innermost.
    pub numbers: &'a [u8],
}

/// Reads the content of an idx file of unsigned bytes.
///
/// ```
/// let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
/// let idx = laq_datasets::idx::parse(&file)?;
/// assert_eq!((idx.dimensions, idx.numbers), (vec![2, 3], &[1, 2, 3, 4, 5, 6][..]));
/// # Ok::<(), laq_datasets::FormatError>(())
/// ```
///
/// # Errors
///
/// [`FormatError::Content`] if the magic number is another, the rank is not 1 to 4, a dimension is zero, or the header
/// and the file's size do not agree.
pub fn parse(content: &[u8]) -> Result<Idx<'_>, FormatError> {
    let Some((magic, rest)) = content.split_first_chunk::<4>() else {
        let found = format!("{} bytes", content.len());
        return Err(FormatError::new("header", found, "at least 4 bytes"));
    };
    let &[0, 0, 8, rank @ 1..=4] = magic else {
        return Err(FormatError::new(
            "magic number",
            format!("{magic:02x?}"),
            "[00, 00, 08, rank] with a rank of 1 to 4: an unpacked idx file of unsigned bytes",
        ));
    };
    let rank = usize::from(rank);
    let Some((header, numbers)) = rest.split_at_checked(4 * rank) else {
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
            "at least one number",
        ));
    }
    let product = dimensions.iter().map(|&d| d as u128).product::<u128>();
    if product != numbers.len() as u128 {
        return Err(FormatError::new(
            format!("dimensions {dimensions:?}"),
            format!("{} bytes after the header", numbers.len()),
            format!("{product}"),
        ));
    }
    Ok(Idx {
        dimensions,
        numbers,
    })
}

/// Shape, place of the first pixel and number of the images in `content`, an idx file of rank 3 (images × height ×
/// width) or 4 (… × channels).
pub(crate) fn image_file(content: &[u8]) -> Result<(ImageShape, usize, usize), FormatError> {
    let idx = parse(content)?;
    let (shape, count) = match idx.dimensions[..] {
        [count, height, width] => (shape(height, width, 1), count),
        [count, height, width, channels] => (shape(height, width, channels), count),
        _ => {
            let found = format!("{:?}", idx.dimensions);
            let expected =
                "images, height and width, and perhaps channels: is this a file of labels?";
            return Err(FormatError::new("dimensions", found, expected));
        }
    };
    Ok((shape, content.len() - idx.numbers.len(), count))
}

fn shape(height: usize, width: usize, channels: usize) -> ImageShape {
    ImageShape {
        height,
        width,
        channels,
    }
}

/// The labels in `content`, an idx file of rank 1, of `count` images.
pub(crate) fn label_file(content: &[u8], count: usize) -> Result<&[u8], FormatError> {
    let idx = parse(content)?;
    match idx.dimensions[..] {
        [labels] if labels == count => Ok(idx.numbers),
        _ => Err(FormatError::new(
            "dimensions",
            format!("{:?}", idx.dimensions),
            format!("[{count}], a label for each image"),
        )),
    }
}
