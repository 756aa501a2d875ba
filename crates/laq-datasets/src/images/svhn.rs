//! The cropped digits of SVHN (Street View House Numbers): a MAT-file with `X`, 32 × 32 × 3 × N
//! bytes, and `y`, N labels from 1 to 10, where 10 is digit 0.

use std::io::Read;

use super::mat::{self, Array, Stored};
use super::{FormatError, ImageSize, RawImages};

/// Shape of every image.
pub const SHAPE: ImageSize = ImageSize {
    height: 32,
    width: 32,
    channels: 3,
};
const PIXELS: usize = SHAPE.elements();

/// Reads images and labels into memory; allocates at most twice the decompressed size.
///
/// # Errors
///
/// [`FormatError`]: an error of [`mat::read`]; `X` or `y` is missing, repeated or of another shape or type; their
/// counts differ or exceed `most`; or a label is not an integer from 1 to 10.
pub fn read(content: impl Read, most: usize) -> Result<RawImages, FormatError> {
    let (mut pixels, mut labels) = (Vec::new(), None);
    let mut images = None;
    mat::read(content, &mut |array| match array.name.as_str() {
        "X" => {
            let count = each_image(array, most, &mut |image| {
                pixels.extend_from_slice(image);
                Ok(())
            })?;
            once("X", images.replace(count))
        }
        "y" => once("y", labels.replace(digits(array, most)?)),
        _ => Ok(()),
    })?;
    let (images, labels) = (required("X", images)?, required("y", labels)?);
    if images != labels.len() {
        let found = format!("{} labels", labels.len());
        let expected = format!("{images}, one for each image of X");
        return Err(FormatError::new("array y", found, expected));
    }
    Ok(RawImages {
        shape: SHAPE,
        pixels: pixels.into(),
        labels,
    })
}

/// Reads the labels only.
///
/// # Errors
///
/// As [`read`], for the labels.
pub fn read_labels(content: impl Read, most: usize) -> Result<Vec<u8>, FormatError> {
    let mut labels = None;
    mat::read(content, &mut |array| match array.name.as_str() {
        "y" => once("y", labels.replace(digits(array, most)?)),
        _ => Ok(()),
    })?;
    required("y", labels)
}

/// Calls `each` with every image, with one image in memory at a time. Returns their number.
///
/// # Errors
///
/// As [`read`], for the images, and any error of `each`.
pub fn read_images(
    content: impl Read,
    most: usize,
    each: &mut dyn FnMut(&[u8]) -> Result<(), FormatError>,
) -> Result<usize, FormatError> {
    let mut images = None;
    mat::read(content, &mut |array| match array.name.as_str() {
        "X" => once("X", images.replace(each_image(array, most, each)?)),
        _ => Ok(()),
    })?;
    required("X", images)
}

fn once<T>(name: &str, before: Option<T>) -> Result<(), FormatError> {
    match before {
        None => Ok(()),
        Some(_) => Err(FormatError::new(
            "file",
            format!("array {name} twice"),
            "it once",
        )),
    }
}

fn required<T>(name: &str, found: Option<T>) -> Result<T, FormatError> {
    let expected = "an array X of images and an array y of labels";
    found.ok_or_else(|| FormatError::new("file", format!("no numeric array {name}"), expected))
}

/// The labels of `y`, with 10 as 0.
fn digits(array: &mut Array<'_>, most: usize) -> Result<Vec<u8>, FormatError> {
    let count = match array.dimensions[..] {
        [count, 1] | [1, count] if count <= most => count,
        _ => {
            let found = format!("dimensions {:?}", array.dimensions);
            let expected = format!("a column of at most {most} labels");
            return Err(FormatError::new("array y", found, expected));
        }
    };
    let mut labels = Vec::new();
    for record in 0..count {
        let place = || format!("label {record}");
        let label = array.read_number(place)?;
        if !(1.0..=10.0).contains(&label) || label.fract() != 0.0 {
            let expected = "an integer from 1 to 10, where 10 is digit 0";
            return Err(FormatError::new(place(), label.to_string(), expected));
        }
        labels.push((label as u8) % 10);
    }
    Ok(labels)
}

fn each_image(
    array: &mut Array<'_>,
    most: usize,
    each: &mut dyn FnMut(&[u8]) -> Result<(), FormatError>,
) -> Result<usize, FormatError> {
    // MATLAB leaves out a last dimension of 1.
    let count = match array.dimensions[..] {
        [32, 32, 3] => 1,
        [32, 32, 3, count] if count <= most => count,
        _ => {
            let found = format!("dimensions {:?}", array.dimensions);
            let expected = format!("[32, 32, 3, at most {most}]");
            return Err(FormatError::new("array X", found, expected));
        }
    };
    if array.stored != Stored::U8 {
        let found = format!("values stored as {:?}", array.stored);
        return Err(FormatError::new("array X", found, "bytes (uint8)"));
    }
    let (mut stored, mut image) = ([0; PIXELS], [0; PIXELS]);
    for record in 0..count {
        array.read_bytes(&mut stored, || format!("image {record}"))?;
        // Column-major (rows innermost) to HWC.
        for channel in 0..3 {
            for column in 0..32 {
                for row in 0..32 {
                    image[(row * 32 + column) * 3 + channel] =
                        stored[(channel * 32 + column) * 32 + row];
                }
            }
        }
        each(&image)?;
    }
    Ok(count)
}
