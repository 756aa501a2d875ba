//! Errors of reading images.

use std::io::{self, Read};
use std::path::PathBuf;

use thiserror::Error;

use super::Preprocessing;
use crate::{FileState, Split, UnknownDataset};

/// An error within a file of images: the part of the file, what was found and what was expected.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The content violates the format.
    #[error("{place}: found {found}, expected {expected}")]
    Content {
        /// The part of the file: a header, or a record by its number from 0.
        place: String,
        /// What was found.
        found: String,
        /// What the format requires.
        expected: String,
    },
    /// The content cannot be read or decompressed.
    #[error("{place}: {source}")]
    Read {
        /// The part of the file.
        place: String,
        /// The error of the system or the decompressor.
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

    /// The same error with the name of a file within an archive.
    pub(crate) fn within(mut self, file: &str) -> Self {
        let (Self::Content { place, .. } | Self::Read { place, .. }) = &mut self;
        *place = format!("{file}, {place}");
        self
    }
}

/// Adds the place to an error of reading or decompressing.
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
    #[error("{name} is a text, expected a set of images: {}", image_sets.join(", "))]
    NotImages {
        /// The data set.
        name: String,
        /// The names of the image sets.
        image_sets: Vec<&'static str>,
    },
    /// A file of a data set is missing, truncated, empty or altered.
    #[error("{dataset} needs {}, which is {state}; {advice}", path.display())]
    Data {
        /// The data set.
        dataset: &'static str,
        /// The file.
        path: PathBuf,
        /// The result of comparing it with the catalogue.
        state: FileState,
        /// How to repair it.
        advice: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{} cannot be read or written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file does not follow its format.
    #[error("{} has a wrong format: {source}; {advice}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The place, and what was found and expected.
        source: FormatError,
        /// What to do.
        advice: String,
    },
    /// A label is not a class.
    #[error(
        "{name}: image {record} of the {split} split has label {label}, expected 0 to {}; correct the file or the \
         number of classes", classes - 1
    )]
    Label {
        /// The image set.
        name: String,
        /// The split.
        split: Split,
        /// The index of the image in the split.
        record: usize,
        /// Its label.
        label: u8,
        /// Number of classes, at least 1.
        classes: usize,
    },
    /// An image is constant, and the preprocessing divides by its contrast.
    #[error(
        "{place} is constant, and {preprocessing} divides by the contrast of an image; remove the image, or use the \
         preprocessing none or mean-image"
    )]
    Constant {
        /// The image: its index, and its file or split.
        place: String,
        /// The preprocessing.
        preprocessing: Preprocessing,
    },
    /// Images, labels, shapes or sizes do not match.
    #[error("{name}: {reason}")]
    Mismatch {
        /// The image set.
        name: String,
        /// What does not match.
        reason: String,
    },
    /// A split is empty.
    #[error("{name} has no images in the {split} split, expected at least one in every split")]
    Empty {
        /// The image set.
        name: String,
        /// The first empty split.
        split: Split,
    },
    /// The preprocessing is `zca`, and this build has no whitening.
    #[error(
        "the preprocessing zca needs the feature `whitening` of laq-datasets, which this build does not have; enable \
         it, or use another preprocessing"
    )]
    NoWhitening,
    /// The preprocessing was fitted to training images that are not there.
    #[error("the preprocessing {preprocessing} needs the training images that it was fitted to")]
    Unfitted {
        /// The preprocessing.
        preprocessing: Preprocessing,
    },
}
