//! Texts in memory: loading, verification, splits and encoding.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{
    Alphabet, Dataset, FileState, Kind, Split, SplitRule, UnknownDataset, catalogue, demo, find,
};

/// A text as three splits of symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The name of the data set, or the path of a file.
    pub name: String,
    /// The distinct bytes of all splits.
    pub alphabet: Alphabet,
    /// Symbols of the training split, in the order of the text.
    pub train: Vec<u8>,
    /// Symbols of the validation split.
    pub validation: Vec<u8>,
    /// Symbols of the test split.
    pub test: Vec<u8>,
}

/// The fractions of a text for training and validation; the rest is for testing.
///
/// Of `n` bytes, the first `⌊n·train⌋` are for training, the next `⌊n·validation⌋` for validation
/// and the rest for testing; products are computed in `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fractions {
    /// Fraction for training, above 0.
    pub train: f64,
    /// Fraction for validation, above 0; the sum with `train` is below 1.
    pub validation: f64,
}

impl Fractions {
    /// The ranges of train, validation and test in a text of `bytes` bytes.
    pub(crate) fn cut(&self, bytes: usize) -> [Range<usize>; 3] {
        let share = |fraction: f64| (bytes as f64 * fraction).floor() as usize;
        let train = share(self.train).min(bytes);
        let validation = (train + share(self.validation)).min(bytes);
        [0..train, train..validation, validation..bytes]
    }

    fn check(&self) -> Result<(), TextError> {
        let valid = self.train > 0.0 && self.validation > 0.0 && self.train + self.validation < 1.0;
        valid.then_some(()).ok_or(TextError::Fractions {
            train: self.train,
            validation: self.validation,
        })
    }
}

/// The errors of loading a text.
#[derive(Debug, Error)]
pub enum TextError {
    /// No data set has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownDataset),
    /// The data set is images.
    #[error("{name} is a set of images, expected a text: {}", texts.join(", "))]
    NotText {
        /// The data set.
        name: String,
        /// The names of the texts.
        texts: Vec<&'static str>,
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
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A split is empty.
    #[error("{name} has {bytes} bytes, which leaves the {split} split empty; use a longer text")]
    Empty {
        /// The text.
        name: String,
        /// Its size.
        bytes: usize,
        /// The first empty split.
        split: Split,
    },
    /// The fractions are out of range.
    #[error(
        "found the fractions {train} for training and {validation} for validation, expected both above 0 and their sum \
         below 1, since the rest is for testing; for example 0.8 and 0.1"
    )]
    Fractions {
        /// The fraction for training.
        train: f64,
        /// The fraction for validation.
        validation: f64,
    },
}

impl TextError {
    /// The error for the image set `name`.
    pub fn not_text(name: &str) -> Self {
        let texts = catalogue()
            .iter()
            .filter(|dataset| dataset.symbols().is_some())
            .map(|dataset| dataset.name)
            .collect();
        let name = name.to_owned();
        Self::NotText { name, texts }
    }
}

impl Text {
    /// The data set called `name`, from its files under `data_dir`; `demo` needs no files.
    ///
    /// Size and checksum of every file are verified.
    ///
    /// # Errors
    ///
    /// [`TextError::Unknown`], [`TextError::NotText`], [`TextError::Data`] or [`TextError::Io`].
    pub fn load(name: &str, data_dir: &Path) -> Result<Self, TextError> {
        Self::load_dataset(find(name)?, data_dir)
    }

    /// [`load`](Self::load) for any [`Dataset`]; one without files is the demo text.
    ///
    /// # Errors
    ///
    /// [`TextError::NotText`], [`TextError::Data`], [`TextError::Io`], or [`TextError::Empty`] if a
    /// split is empty.
    pub fn load_dataset(dataset: &Dataset, data_dir: &Path) -> Result<Self, TextError> {
        let Kind::Text { split, .. } = dataset.kind else {
            return Err(TextError::not_text(dataset.name));
        };
        if dataset.files.is_empty() {
            return Ok(Self::demo());
        }
        let mut contents = Vec::new();
        for file in dataset.files {
            let path = dataset.path(file, data_dir);
            match file.inspect(&path) {
                Ok(FileState::Valid) => {}
                Ok(state) => {
                    return Err(TextError::Data {
                        dataset: dataset.name,
                        path,
                        state,
                        advice: advice(dataset, data_dir),
                    });
                }
                Err(source) => return Err(TextError::Io { path, source }),
            }
            let content = fs::read(&path).map_err(|source| TextError::Io { path, source })?;
            contents.push(content);
        }
        match split {
            SplitRule::Fractions(fractions) => {
                Self::cut(dataset.name, &contents.concat(), fractions)
            }
            // With fewer than three files a split is empty, which is reported below.
            SplitRule::Files => {
                let part = |index: usize| contents.get(index).map_or(&[][..], Vec::as_slice);
                Self::from_parts(dataset.name, [part(0), part(1), part(2)])
            }
        }
    }

    /// Any file as a text, split by `fractions`.
    ///
    /// # Errors
    ///
    /// [`TextError::Fractions`], [`TextError::Io`], or [`TextError::Empty`] if a split is empty.
    pub fn from_file(path: &Path, fractions: Fractions) -> Result<Self, TextError> {
        fractions.check()?;
        let unreadable = |source| TextError::Io {
            path: path.to_owned(),
            source,
        };
        // A device such as /dev/zero has no end.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            let message = "it is no plain file";
            return Err(unreadable(io::Error::new(
                io::ErrorKind::InvalidInput,
                message,
            )));
        }
        let content = fs::read(path).map_err(unreadable)?;
        Self::cut(&path.display().to_string(), &content, fractions)
    }

    /// The generated text of this crate: the almanac of an invented harbour.
    pub fn demo() -> Self {
        let fractions = Fractions {
            train: 0.8,
            validation: 0.1,
        };
        Self::cut(demo::NAME, demo::text().as_bytes(), fractions)
            .expect("no split of the demo text is empty")
    }

    /// The symbols of one split.
    pub fn split(&self, split: Split) -> &[u8] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }

    fn cut(name: &str, content: &[u8], fractions: Fractions) -> Result<Self, TextError> {
        Self::from_parts(
            name,
            fractions.cut(content.len()).map(|range| &content[range]),
        )
    }

    fn from_parts(name: &str, parts: [&[u8]; 3]) -> Result<Self, TextError> {
        for (split, part) in Split::ALL.into_iter().zip(parts) {
            if part.is_empty() {
                let bytes = parts.iter().map(|part| part.len()).sum();
                return Err(TextError::Empty {
                    name: name.to_owned(),
                    bytes,
                    split,
                });
            }
        }
        let alphabet = Alphabet::of(&parts);
        let [train, validation, test] = parts.map(|part| {
            alphabet
                .encode(part)
                .expect("the alphabet contains these bytes")
        });
        Ok(Self {
            name: name.to_owned(),
            alphabet,
            train,
            validation,
            test,
        })
    }
}

/// How to repair an invalid data file.
pub(crate) fn advice(dataset: &Dataset, data_dir: &Path) -> String {
    let mirror = match dataset.files.iter().all(|file| file.urls.is_empty()) {
        true => " --mirror DIR",
        false => "",
    };
    let dir = match data_dir == Path::new("data") {
        true => String::new(),
        false => format!(" --data-dir {}", data_dir.display()),
    };
    let note = match mirror.is_empty() {
        true => "",
        false => ", where DIR is a folder or URL with the file: it has no canonical address",
    };
    format!(
        "download it with `laq download {}{mirror}{dir}`{note}",
        dataset.name
    )
}
