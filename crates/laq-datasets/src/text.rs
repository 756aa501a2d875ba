//! A text in memory: read, checked, split and turned into symbols.

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
    /// The data set's name, or the path of a file of the user's.
    pub name: String,
    /// The distinct bytes of all three splits together.
    pub alphabet: Alphabet,
    /// Symbols of the training split, in the order of the text.
    pub train: Vec<u8>,
    /// Symbols of the validation split.
    pub validation: Vec<u8>,
    /// Symbols of the test split.
    pub test: Vec<u8>,
}

/// The shares of a text that become its training and validation splits; the rest is the test split.
///
/// Of `n` bytes the first `⌊n·train⌋` are for training, the next `⌊n·validation⌋` for validation, all that
/// follow for testing; the products are taken in `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fractions {
    /// Share for training, above 0.
    pub train: f64,
    /// Share for validation, above 0; with `train` below 1.
    pub validation: f64,
}

impl Fractions {
    /// The ranges of the three splits in a text of `bytes` bytes, in the order train, validation, test.
    pub(crate) fn cut(&self, bytes: usize) -> [Range<usize>; 3] {
        let share = |fraction: f64| (bytes as f64 * fraction).floor() as usize;
        let train = share(self.train).min(bytes);
        let validation = (train + share(self.validation)).min(bytes);
        [0..train, train..validation, validation..bytes]
    }

    fn check(&self) -> Result<(), TextError> {
        let good = self.train > 0.0 && self.validation > 0.0 && self.train + self.validation < 1.0;
        good.then_some(()).ok_or(TextError::Fractions {
            train: self.train,
            validation: self.validation,
        })
    }
}

/// Why a text could not be loaded.
#[derive(Debug, Error)]
pub enum TextError {
    /// No data set has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownDataset),
    /// The data set is images.
    #[error("{name} is a set of images, and a text is asked for; the texts are {}", texts.join(", "))]
    NotText {
        /// The data set.
        name: String,
        /// The names of those that are texts.
        texts: Vec<&'static str>,
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
    /// A file is there and cannot be read, or a file of the user's is not there.
    #[error("{} cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A split of a text would hold nothing.
    #[error(
        "{name} has {bytes} bytes, which leaves nothing for the {split} split; use a longer text"
    )]
    Empty {
        /// The text.
        name: String,
        /// Its size.
        bytes: usize,
        /// The first split that would be empty.
        split: Split,
    },
    /// The fractions leave nothing for a split.
    #[error(
        "fractions {train} for training and {validation} for validation do not work: both must be above 0 and their \
         sum below 1, because the rest is for testing; 0.8 and 0.1 are the usual ones"
    )]
    Fractions {
        /// The share for training.
        train: f64,
        /// The share for validation.
        validation: f64,
    },
}

impl TextError {
    /// That images called `name` are asked for as a text.
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

    /// [`load`](Self::load) for a data set that need not be in the catalogue; one without files is the demo text.
    ///
    /// # Errors
    ///
    /// [`TextError::NotText`], [`TextError::Data`], [`TextError::Io`], or [`TextError::Empty`] if a split would be
    /// empty.
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
            let (state, content) = match fs::read(&path) {
                Ok(content) => (file.inspect_bytes(&content), content),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    (FileState::Missing, Vec::new())
                }
                Err(source) => return Err(TextError::Io { path, source }),
            };
            if state != FileState::Good {
                let advice = advice(dataset, data_dir);
                return Err(TextError::Data {
                    dataset: dataset.name,
                    path,
                    state,
                    advice,
                });
            }
            contents.push(content);
        }
        match split {
            SplitRule::Fractions(fractions) => {
                Self::cut(dataset.name, &contents.concat(), fractions)
            }
            // A data set that has fewer than three files leaves a split empty, which is an error of its own.
            SplitRule::Files => {
                let part = |index: usize| contents.get(index).map_or(&[][..], Vec::as_slice);
                Self::from_parts(dataset.name, [part(0), part(1), part(2)])
            }
        }
    }

    /// A text file of the user's, whatever its bytes are, cut by `fractions`.
    ///
    /// # Errors
    ///
    /// [`TextError::Fractions`], [`TextError::Io`], or [`TextError::Empty`] if a split would be empty.
    pub fn from_file(path: &Path, fractions: Fractions) -> Result<Self, TextError> {
        fractions.check()?;
        let content = fs::read(path).map_err(|source| TextError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::cut(&path.display().to_string(), &content, fractions)
    }

    /// The text that is part of this crate: an invented harbour's almanac, written by a small grammar.
    pub fn demo() -> Self {
        let fractions = Fractions {
            train: 0.8,
            validation: 0.1,
        };
        Self::cut(demo::NAME, demo::text().as_bytes(), fractions)
            .expect("the demo text fills its splits")
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
                .expect("the alphabet was made from these bytes")
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

/// What to do about a data file that is not good.
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
        false => ", DIR being a folder or an address that has it: it has no canonical address",
    };
    format!(
        "fetch it with `laq download {}{mirror}{dir}`{note}",
        dataset.name
    )
}
