#![doc = include_str!("../README.md")]
// One function memory-maps files that this crate wrote; its module states why that is sound.
#![deny(unsafe_code)]

mod alphabet;
mod catalogue;
mod check;
mod demo;
#[cfg(feature = "fetch")]
mod fetch;
mod images;
mod random;
mod sequences;
mod text;

pub use alphabet::{Alphabet, SymbolError};
pub use catalogue::{
    DataFile, Dataset, ImageFormat, Kind, Split, SplitRule, UnknownDataset, catalogue, find,
};
pub use check::{Check, FileState};
#[cfg(feature = "fetch")]
pub use fetch::{
    Action, Attempt, DownloadError, DownloadOptions, Fetched, NotFound, Outcome, Phase, Progress,
    download,
};
#[cfg(feature = "whitening")]
pub use images::Whitening;
pub use images::{
    FormatError, ImageError, ImageSet, ImageSize, Images, Pixels, Preprocessing, RawImages,
    UnknownPreprocessing,
};
pub use images::{cifar, idx, mat, svhn};
pub use random::{epoch_order, identity_order};
pub use sequences::{Sequences, SequencesError, count_batches};
pub use text::{Fractions, Text, TextError};
