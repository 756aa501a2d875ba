//! Why images cannot be had.

use std::io::{self, Read};
use std::path::PathBuf;

use thiserror::Error;

use super::Preprocessing;
use crate::{FileState, Split, UnknownDataset};

/// What is wrong within a file of images: which part of it, what was found there and what was expected.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The content is not what the format asks for.
    #[error("{place}: found {found}, expected {expected}")]
    Content {
        /// The part of the file: a header, or a record by its number from 0.
        place: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// The content cannot be read, or what is compressed cannot be unpacked.
    #[error("{place}: {source}")]
    Read {
        /// The part of the file.
        place: String,
        /// What the system or the decompressor says.
        source: io::Error,
    },
}

impl FormatError {
    pub(crate) fn new(
        place: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Content {
            place: place.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// The same within `file`, where one file holds others.
    pub(crate) fn within(mut self, file: &str) -> Self {
        let (Self::Content { place, .. } | Self::Read { place, .. }) = &mut self;
        *place = format!("{file}, {place}");
        self
    }
}

/// Puts an error of reading or unpacking in its place.
pub(crate) fn unreadable(place: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> FormatError {
    |source| FormatError::Read {
        place: place(),
        source,
    }
}

/// Reads until `buffer` is full or `content` ends; returns the bytes read.
pub(crate) fn fill(content: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Why an image set could not be loaded.
#[derive(Debug, Error)]
pub enum ImageError {
    /// No data set has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownDataset),
    /// The data set is a text.
    #[error("{name} is a text, and images are asked for; the sets of images are {}", image_sets.join(", "))]
    NotImages {
        /// The data set.
        name: String,
        /// The names of those that are images.
        image_sets: Vec<&'static str>,
    },
    /// A file of a data set is missing, cut short, empty or altered.
    #[error("{dataset} needs {}, which is {state}; {advice}", path.display())]
    Data {
        /// The data set.
        dataset: &'static str,
        /// The file.
        path: PathBuf,
        /// What was found there.
        state: FileState,
        /// The command that mends it.
        advice: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{} cannot be read or written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not follow its format.
    #[error("{} is not what it should be: {source}; {advice}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where, and what was found and expected.
        source: FormatError,
        /// What to do.
        advice: String,
    },
    /// A label is not a class.
    #[error(
        "{name}: image {record} of the {split} split has label {label}, and labels go from 0 to {}; mend the file, or \
         give the right number of classes", classes - 1
    )]
    Label {
        /// The image set.
        name: String,
        /// The split.
        split: Split,
        /// The image's number in the split, from 0.
        record: usize,
        /// Its label.
        label: u8,
        /// Number of classes, at least 1.
        classes: usize,
    },
    /// An image is the same everywhere, and its contrast is to be normalized.
    #[error(
        "{place} is the same byte everywhere, and {preprocessing} divides by an image's contrast; leave the image out, or \
         choose none or mean-image as preprocessing"
    )]
    Constant {
        /// The image: its number from 0, and its file or its split.
        place: String,
        /// The preprocessing.
        preprocessing: Preprocessing,
    },
    /// Images, labels, shape or sizes do not belong together.
    #[error("{name}: {reason}")]
    Mismatch {
        /// The image set.
        name: String,
        /// What is at odds with what.
        reason: String,
    },
    /// A split would hold nothing.
    #[error("{name} has no images for the {split} split; every split needs at least one")]
    Empty {
        /// The image set.
        name: String,
        /// The first split that is empty.
        split: Split,
    },
}
