//! The binary format of CIFAR-10 and CIFAR-100.
//!
//! A file is a sequence of records: one or two bytes of labels, then 3,072 bytes of pixels as red,
//! green and blue planes of 32 rows of 32. The data sets are distributed as an archive (`.tar.gz`)
//! of such files, which is read without unpacking it to disk.

use std::io::{BufRead, Read};

use flate2::bufread::GzDecoder;

use super::error::{fill, unreadable};
use super::{FormatError, ImageSize, RawImages};

/// Shape of every image.
pub const SHAPE: ImageSize = ImageSize {
    height: 32,
    width: 32,
    channels: 3,
};
const PIXELS: usize = SHAPE.elements();

/// The bytes before the pixels of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// CIFAR-10: the class.
    Class,
    /// CIFAR-100: one of 20 coarse classes, which is ignored, then the class.
    CoarseAndClass,
}

/// Reads records until `content` ends.
///
/// Allocates at most twice the bytes read.
///
/// # Errors
///
/// [`FormatError`] if a record is truncated, a label is not below `classes`, there are more than
/// `most` records, or reading fails.
pub fn read(
    mut content: impl Read,
    labels: Labels,
    classes: usize,
    most: usize,
) -> Result<RawImages, FormatError> {
    let label_bytes = match labels {
        Labels::Class => 1,
        Labels::CoarseAndClass => 2,
    };
    let mut record = [0; 2 + PIXELS];
    let record = &mut record[..label_bytes + PIXELS];
    let (mut pixels, mut found) = (Vec::new(), Vec::new());
    loop {
        let place = || format!("record {}", found.len());
        match fill(&mut content, record).map_err(unreadable(place))? {
            0 => break,
            bytes if bytes < record.len() => {
                return Err(FormatError::new(
                    place(),
                    format!("{bytes} bytes before the end"),
                    format!("{} bytes a record", record.len()),
                ));
            }
            _ if found.len() == most => {
                let found = format!("more than {most} records");
                return Err(FormatError::new("end of the file", found, "no more"));
            }
            _ => {}
        }
        let (head, planes) = record.split_at(label_bytes);
        let label = head[label_bytes - 1];
        if usize::from(label) >= classes {
            return Err(FormatError::new(
                place(),
                format!("label {label}"),
                format!("a label below {classes}"),
            ));
        }
        found.push(label);
        interleave(planes, &mut pixels);
    }
    Ok(RawImages {
        shape: SHAPE,
        pixels: pixels.into(),
        labels: found,
    })
}

/// Reads the files `names` from a gzip-compressed tar archive, in the order of `names`. Files are
/// matched by the last component of their path; others are skipped.
///
/// # Errors
///
/// [`FormatError`] if the archive is damaged or a file is missing or repeated, and any error of
/// [`read`].
pub fn read_archive(
    content: impl BufRead,
    names: &[&str],
    labels: Labels,
    classes: usize,
    most: usize,
) -> Result<Vec<RawImages>, FormatError> {
    let mut files: Vec<Option<RawImages>> = vec![None; names.len()];
    let mut archive = tar::Archive::new(GzDecoder::new(content));
    let damaged = || unreadable(|| "archive".into());
    for entry in archive.entries().map_err(damaged())? {
        let entry = entry.map_err(damaged())?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let base = path.rsplit('/').next().unwrap_or_default();
        let Some(place) = names.iter().position(|&name| name == base) else {
            continue;
        };
        if files[place].is_some() {
            return Err(FormatError::new(
                "archive",
                format!("{base} twice"),
                "it once",
            ));
        }
        let images = read(entry, labels, classes, most).map_err(|error| error.within(&path))?;
        files[place] = Some(images);
    }
    let lacks = |name| FormatError::new("archive", format!("no file {name}"), names.join(", "));
    names
        .iter()
        .zip(files)
        .map(|(name, images)| images.ok_or_else(|| lacks(name)))
        .collect()
}

/// Appends one image: planes (CHW) to interleaved pixels (HWC).
fn interleave(planes: &[u8], pixels: &mut Vec<u8>) {
    let (red, rest) = planes.split_at(PIXELS / 3);
    let (green, blue) = rest.split_at(PIXELS / 3);
    for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
        pixels.extend([red, green, blue]);
    }
}
