//! Image sets from raw images, from files in the formats of the paper's data sets, and the demo
//! images.

mod formats;

use std::fs;
use std::path::{Path, PathBuf};

use laq_datasets::cifar::Labels;
use laq_datasets::{
    Dataset, ImageError, ImageFormat, ImageSet, ImageSize, Images, Kind, Preprocessing, RawImages,
    Split, catalogue, find,
};

use formats::{Mat, interleaved};

fn quiet(_: &str) {}

#[test]
fn the_demo_digits_need_no_files() {
    let set = ImageSet::load("demo-digits", Path::new("/nowhere"), None, &mut quiet).unwrap();
    let dataset = find("demo-digits").unwrap();
    for split in Split::ALL {
        let images = set.split(split);
        assert_eq!(Some(images.len()), dataset.expected_images(split));
        let mut counts = [0; 10];
        images
            .labels()
            .iter()
            .for_each(|&label| counts[usize::from(label)] += 1);
        let share = images.len() / 10;
        assert!(
            counts
                .iter()
                .all(|&count| count > share / 2 && count < 2 * share)
        );
    }
    assert_eq!(set.classes(), 10);
    assert_eq!(set.preprocessing, Preprocessing::MeanImage);
}

fn raw(shape: [usize; 3], pixels: &[u8], labels: &[u8]) -> RawImages {
    let [height, width, channels] = shape;
    RawImages {
        shape: ImageSize {
            height,
            width,
            channels,
        },
        pixels: pixels.to_vec().into(),
        labels: labels.to_vec(),
    }
}

#[test]
fn a_batch_is_the_images_asked_for_less_the_training_mean() {
    let train = raw([1, 2, 1], &[0, 255, 51, 0, 102, 0], &[0, 1, 2]);
    let other = raw([1, 2, 1], &[255, 0], &[2]);
    let load = |preprocessing| {
        let splits = [train.clone(), other.clone(), other.clone()];
        ImageSet::from_raw("own", 3, splits, preprocessing).unwrap()
    };
    let (mut inputs, mut labels) = ([0.0; 4], [9; 2]);

    let plain = load(Preprocessing::None);
    plain
        .split(Split::Train)
        .fill(&[2, 0], &mut inputs, &mut labels);
    assert_eq!((inputs, labels), ([0.4, 0.0, 0.0, 1.0], [2, 0]));

    let centred = load(Preprocessing::MeanImage);
    centred
        .split(Split::Train)
        .fill(&[1, 1], &mut inputs, &mut labels);
    let mean = [0.2, 1.0 / 3.0];
    assert_eq!((inputs, labels), ([0.0, -mean[1], 0.0, -mean[1]], [1, 1]));
    // The mean is that of the training images in every split.
    centred
        .split(Split::Test)
        .fill(&[0], &mut inputs[..2], &mut labels[..1]);
    assert_eq!(inputs[..2], [1.0 - mean[0], -mean[1]]);
    // Also outside of the set.
    let found = centred.split(Split::Validation).mean().unwrap();
    let alone = Images::preprocessed("own", other.clone(), Preprocessing::MeanImage, Some(found));
    alone
        .unwrap()
        .fill(&[0], &mut inputs[..2], &mut labels[..1]);
    assert_eq!(inputs[..2], [1.0 - mean[0], -mean[1]]);
    for (preprocessing, mean) in [
        (Preprocessing::MeanImage, None),
        (Preprocessing::MeanImage, Some(&mean[..1])),
        (Preprocessing::Zca, None),
    ] {
        let error = Images::preprocessed("own", other.clone(), preprocessing, mean).unwrap_err();
        assert!(matches!(error, ImageError::Unfitted { .. }), "{error}");
    }
    let grey = raw([1, 2, 1], &[7, 7], &[0]);
    let error = Images::preprocessed("own", grey, Preprocessing::Gcn, None).unwrap_err();
    assert!(matches!(error, ImageError::Constant { .. }), "{error}");

    assert_ne!(plain.fingerprint(), centred.fingerprint());
    assert_eq!(plain.fingerprint().len(), 64);
    let mut changed = train.clone();
    changed.labels[0] = 1;
    let changed = ImageSet::from_raw(
        "own",
        3,
        [changed, other.clone(), other.clone()],
        Preprocessing::None,
    );
    assert_ne!(plain.fingerprint(), changed.unwrap().fingerprint());
}

#[test]
fn images_that_do_not_belong_together_are_errors() {
    let good = raw([1, 2, 1], &[0, 255], &[0]);
    let check = |splits, classes, words: &[&str]| {
        let error = ImageSet::from_raw("own", classes, splits, Preprocessing::None);
        let error = error.unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error:?}");
        }
    };
    let good = || good.clone();
    let none = raw([1, 2, 1], &[], &[]);
    check(
        [good(), none, good()],
        1,
        &["own", "validation", "at least one"],
    );
    let other_shape = raw([2, 1, 1], &[0, 255], &[0]);
    check(
        [good(), good(), other_shape],
        1,
        &["test", "2x1x1", "1x2x1"],
    );
    let short = raw([1, 2, 1], &[0, 255, 0], &[0, 0]);
    check(
        [short, good(), good()],
        1,
        &["train", "3 bytes", "2 labels"],
    );
    let label = raw([1, 2, 1], &[0, 255, 0, 0], &[0, 7]);
    check(
        [good(), label, good()],
        7,
        &["image 1 of the validation split", "label 7", "0 to 6"],
    );
    check([good(), good(), good()], 0, &["0 classes"]);
    check([good(), good(), good()], 257, &["257 classes"]);
    let nothing = raw([0, 2, 1], &[], &[0]);
    check([nothing.clone(), nothing.clone(), nothing], 1, &["0x2x1"]);
    let huge = raw([usize::MAX, 2, 3], &[1], &[0]);
    check([huge.clone(), huge.clone(), huge], 1, &["1 bytes"]);
}

#[test]
fn a_text_is_no_image_set() {
    let error = ImageSet::load("war-and-peace", Path::new("/nowhere"), None, &mut quiet);
    let error = error.unwrap_err();
    assert!(matches!(error, ImageError::NotImages { .. }));
    assert!(error.to_string().contains("mnist"), "{error}");
    assert!(
        catalogue()
            .iter()
            .all(|d| d.symbols().is_some() != d.expected_images(Split::Test).is_some())
    );
}

/// A folder of data with one small data set in it.
struct Small {
    dir: tempfile::TempDir,
    dataset: Dataset,
}

impl Small {
    /// Writes the files and makes the entry of a catalogue for them; the checksums are md5 if `md5`
    /// is set.
    fn new(
        files: &[(&'static str, Vec<u8>)],
        md5: bool,
        splits: [usize; 3],
        classes: usize,
        format: ImageFormat,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kind = Kind::Images {
            shape: ImageSize {
                height: 32,
                width: 32,
                channels: 3,
            },
            classes,
            splits,
            format,
            preprocessing: Preprocessing::None,
        };
        let dataset = formats::small_set(dir.path(), files, md5, kind);
        Self { dir, dataset }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("small").join(name)
    }

    /// The set, and what was reported while it was loaded.
    fn load(&self) -> Result<(ImageSet, String), ImageError> {
        let mut heard = String::new();
        let mut report = |message: &str| heard.push_str(message);
        let set = ImageSet::load_dataset(&self.dataset, self.dir.path(), None, &mut report)?;
        Ok((set, heard))
    }

    fn assert_error(&self, words: &[&str]) {
        let error = self.load().unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error:?}");
        }
    }
}

/// The split has these labels and these images, as bytes.
fn assert_split(set: &ImageSet, split: Split, labels: &[u8], pixels: &[u8]) {
    let images = set.split(split);
    assert_eq!(images.labels(), labels, "{split}");
    let indices: Vec<u32> = (0..labels.len() as u32).collect();
    let (mut inputs, mut found) = (vec![0.0; pixels.len()], vec![0; labels.len()]);
    images.fill(&indices, &mut inputs, &mut found);
    assert_eq!(found, labels, "{split}");
    let same = inputs
        .iter()
        .zip(pixels)
        .all(|(&input, &byte)| input == f32::from(byte) / 255.0);
    assert!(same, "{split}");
}

#[test]
fn idx_files_become_splits() {
    let pixels: Vec<u8> = (0..5 * 6).map(|pixel| pixel * 8).collect();
    let files = |labels: &[u8]| {
        [
            ("train-images", formats::idx(&[5, 3, 2], &pixels)),
            ("train-labels", formats::idx(&[labels.len() as u32], labels)),
            ("test-images", formats::idx(&[1, 3, 2], &[9; 6])),
            ("test-labels", formats::idx(&[1], &[1])),
        ]
    };
    let make =
        |labels: &[u8], splits| Small::new(&files(labels), false, splits, 5, ImageFormat::Idx);
    let (set, _) = make(&[0, 1, 2, 3, 4], [3, 2, 1]).load().unwrap();
    assert_eq!(set.shape().to_string(), "3x2x1");
    assert_split(&set, Split::Train, &[0, 1, 2], &pixels[..18]);
    assert_split(&set, Split::Validation, &[3, 4], &pixels[18..]);
    assert_split(&set, Split::Test, &[1], &[9; 6]);

    make(&[0, 1, 2], [3, 2, 1]).assert_error(&["train-labels", "[3]", "[5]", "laq download small"]);
    make(&[0, 1, 2, 3, 5], [3, 2, 1]).assert_error(&[
        "image 1 of the validation split",
        "label 5",
        "0 to 4",
    ]);
    make(&[0, 1, 2, 3, 4], [4, 2, 1]).assert_error(&["3 images in the train split", "expected 4"]);
    make(&[0, 1, 2, 3, 4], [3, 7, 1]).assert_error(&["0 images in the train split"]);
    let mut swapped = files(&[0, 1, 2, 3, 4]);
    swapped[0].1 = swapped[1].1.clone();
    let swapped = Small::new(&swapped, false, [3, 2, 1], 5, ImageFormat::Idx);
    swapped.assert_error(&["train-images", "found [5]", "file of labels?"]);

    let small = make(&[0, 1, 2, 3, 4], [3, 2, 1]);
    fs::write(small.path("test-labels"), b"cut").unwrap();
    small.assert_error(&[
        "test-labels",
        "truncated (3 bytes, expected 9)",
        "laq download small",
    ]);
    fs::remove_file(small.path("test-labels")).unwrap();
    small.assert_error(&["test-labels", "missing"]);
    let few = Dataset {
        files: &small.dataset.files[..1],
        ..small.dataset
    };
    let error = ImageSet::load_dataset(&few, small.dir.path(), None, &mut quiet).unwrap_err();
    assert!(error.to_string().contains("has 1 files"), "{error}");
}

const CIFAR: ImageFormat = ImageFormat::Cifar {
    labels: Labels::CoarseAndClass,
    train: &["train.bin"],
    test: &["test.bin"],
};

#[test]
fn an_archive_of_cifar_100_becomes_splits() {
    let train = formats::cifar(&[(&[0, 99], 0), (&[19, 1], 1), (&[3, 2], 2)]);
    let test = formats::cifar(&[(&[4, 50], 9)]);
    let archive = formats::tar_gz(&[
        ("cifar-100-binary/fine_label_names.txt", b"apple"),
        ("cifar-100-binary/test.bin", &test),
        ("cifar-100-binary/train.bin", &train),
    ]);
    let small = Small::new(
        &[("c.tar.gz", archive.clone())],
        true,
        [2, 1, 1],
        100,
        CIFAR,
    );
    let (set, _) = small.load().unwrap();
    assert_split(&set, Split::Train, &[99, 1], &interleaved([0, 1]));
    assert_split(&set, Split::Validation, &[2], &interleaved([2]));
    assert_split(&set, Split::Test, &[50], &interleaved([9]));

    let mut damaged = archive.clone();
    damaged[100] ^= 1;
    fs::write(small.path("c.tar.gz"), &damaged).unwrap();
    small.assert_error(&["c.tar.gz", "altered (md5", "laq download small"]);
    // With a matching checksum, so that the reader detects it.
    let damaged = Small::new(
        &[("c.tar.gz", archive[..300].to_vec())],
        true,
        [2, 1, 1],
        100,
        CIFAR,
    );
    damaged.assert_error(&["c.tar.gz has a wrong format", "laq download small"]);
    let classes = Small::new(&[("c.tar.gz", archive)], true, [2, 1, 1], 99, CIFAR);
    classes.assert_error(&[
        "c.tar.gz",
        "cifar-100-binary/train.bin, record 0",
        "label 99",
        "below 99",
    ]);
}

#[test]
fn plain_files_of_cifar_become_splits() {
    let a = formats::cifar(&[(&[1], 0), (&[2], 1)]);
    let b = formats::cifar(&[(&[3], 2)]);
    let test = formats::cifar(&[(&[4], 3)]);
    let format = ImageFormat::Cifar {
        labels: Labels::Class,
        train: &["a.bin", "b.bin"],
        test: &["test.bin"],
    };
    let files = [("a.bin", a), ("b.bin", b), ("test.bin", test)];
    let (set, _) = Small::new(&files, false, [1, 2, 1], 10, format)
        .load()
        .unwrap();
    assert_split(&set, Split::Train, &[1], &interleaved([0]));
    assert_split(&set, Split::Validation, &[2, 3], &interleaved([1, 2]));
    assert_split(&set, Split::Test, &[4], &interleaved([3]));
}

const SVHN: ImageFormat = ImageFormat::Svhn {
    validation_per_class: [1, 2],
};
const MAT: Mat = Mat {
    big: false,
    compressed: true,
};

fn svhn(labels: [&[u8]; 3]) -> Small {
    // Images are numbered across the files.
    let starts = [0, labels[0].len(), labels[0].len() + labels[1].len()];
    let files = [0, 1, 2].map(|file| {
        let images: Vec<_> = (starts[file]..).take(labels[file].len()).collect();
        let content = MAT.file(&[MAT.x(&images), MAT.y(labels[file])]);
        (["train.mat", "extra.mat", "test.mat"][file], content)
    });
    // Two classes, as digits 1 and 0 alone occur.
    let validation = 2 + 4;
    let train = labels[0].len() + labels[1].len() - validation;
    Small::new(&files, true, [train, validation, labels[2].len()], 2, SVHN)
}

#[test]
fn svhn_is_decoded_once_and_split_by_class() {
    let small = svhn([&[1, 10, 1, 1], &[10, 1, 10, 1, 1, 10], &[10, 1, 10]]);
    let check = |set: &ImageSet| {
        assert_split(set, Split::Train, &[1, 1, 0, 1], &interleaved([0, 2, 4, 5]));
        assert_split(
            set,
            Split::Validation,
            &[0, 1, 0, 1, 1, 0],
            &interleaved([1, 3, 6, 7, 8, 9]),
        );
        assert_split(set, Split::Test, &[0, 1, 0], &interleaved([10, 11, 12]));
    };
    let (first, heard) = small.load().unwrap();
    check(&first);
    assert!(heard.contains("decoding Small set"), "{heard}");
    let copy = small.path("decoded.images");
    assert!(!small.path("decoded.new").exists());

    // The second time the copy is enough.
    let hide = |away: bool| {
        for name in ["train.mat", "extra.mat", "test.mat"] {
            let (from, to) = (small.path(name), small.path(&format!("{name}.away")));
            if away {
                fs::rename(from, to)
            } else {
                fs::rename(to, from)
            }
            .unwrap();
        }
    };
    hide(true);
    let (second, heard) = small.load().unwrap();
    check(&second);
    assert_eq!(heard, "");
    assert_eq!(first.fingerprint(), second.fingerprint());

    // A copy that is damaged anywhere is not used, and not needed while the files are there. It
    // gets another name first, because the sets above are mapped to it.
    let good = fs::read(&copy).unwrap();
    for place in [0, 20, 48, 80, 97, 5000, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[place] ^= 0x40;
        fs::remove_file(&copy).unwrap();
        fs::write(&copy, damaged).unwrap();
        small.assert_error(&["train.mat", "missing"]);
    }
    for bytes in [0, 95, 96, good.len() - 1] {
        fs::remove_file(&copy).unwrap();
        fs::write(&copy, &good[..bytes]).unwrap();
        small.assert_error(&["train.mat", "missing"]);
    }
    hide(false);
    let (third, heard) = small.load().unwrap();
    check(&third);
    assert!(heard.contains("decoding"));
    assert!(fs::read(&copy).unwrap() == good);

    // Nor is a copy that was made by another rule.
    let mut other = Small {
        dir: small.dir,
        dataset: small.dataset,
    };
    if let Kind::Images { format, splits, .. } = &mut other.dataset.kind {
        *format = ImageFormat::Svhn {
            validation_per_class: [1, 1],
        };
        *splits = [6, 4, 3];
    }
    let (set, heard) = other.load().unwrap();
    assert_split(
        &set,
        Split::Validation,
        &[0, 1, 1, 0],
        &interleaved([1, 3, 8, 9]),
    );
    assert!(heard.contains("decoding"));
    check(&third);
}

#[test]
fn errors_in_svhn_files_have_file_and_record() {
    svhn([&[1, 1], &[10, 1, 10, 1], &[1]])
        .assert_error(&["train.mat has 0 images of class 0", "at least 1"]);
    svhn([&[1, 10], &[10, 1, 1, 1], &[1]])
        .assert_error(&["extra.mat has 1 images of class 0", "at least 2"]);
    svhn([&[1, 10], &[10, 10, 1, 1, 7], &[1]]).assert_error(&["label 7", "train split"]);
    svhn([&[1, 10], &[10, 10, 1, 1], &[11]]).assert_error(&["test.mat", "label 0", "found 11"]);
    let unequal = |images: &[usize]| {
        let good = MAT.file(&[MAT.x(&[1, 2]), MAT.y(&[1, 10])]);
        let extra = MAT.file(&[MAT.x(images), MAT.y(&[1, 1, 10, 10])]);
        let files = [
            ("train.mat", good.clone()),
            ("extra.mat", extra),
            ("test.mat", good),
        ];
        let small = Small::new(&files, true, [1, 6, 2], 2, SVHN);
        small.assert_error(&[
            "extra.mat",
            "array X",
            "4, one for each label",
            "laq download",
        ]);
        assert!(!small.path("decoded.images").exists() && !small.path("decoded.new").exists());
    };
    unequal(&[1, 2, 3]);
    unequal(&[1, 2, 3, 4, 5]);
}

/// Sets the default preprocessing of the small set.
fn preprocess(small: &mut Small, chosen: Preprocessing) {
    if let Kind::Images { preprocessing, .. } = &mut small.dataset.kind {
        *preprocessing = chosen;
    }
}

#[test]
fn svhn_is_normalized_per_batch() {
    let mut small = svhn([&[1, 10, 1, 1], &[10, 1, 10, 1, 1, 10], &[10, 1, 10]]);
    preprocess(&mut small, Preprocessing::Lcn);
    let (set, _) = small.load().unwrap();
    let part = |images: &[usize]| {
        let labels = vec![0; images.len()];
        raw([32, 32, 3], &interleaved(images.iter().copied()), &labels)
    };
    let splits = [
        part(&[0, 2, 4, 5]),
        part(&[1, 3, 6, 7, 8, 9]),
        part(&[10, 11, 12]),
    ];
    let expected = ImageSet::from_raw("own", 2, splits, Preprocessing::Lcn).unwrap();
    let inputs = |set: &ImageSet| {
        let mut inputs = vec![0.0; 2 * 3072];
        set.split(Split::Validation)
            .fill(&[4, 1], &mut inputs, &mut [0; 2]);
        inputs
    };
    assert_eq!(inputs(&set), inputs(&expected));
}

#[test]
fn the_error_for_a_constant_image_has_file_and_record() {
    // Image 7 is in the extra file, where it is number 3, and is held out.
    let grey = |content: &mut Vec<u8>, image: usize| {
        let first_column: Vec<u8> = (0..32)
            .map(|row| ((7 * row + 31 * image) % 251) as u8)
            .collect();
        let mut places = content.windows(32).enumerate();
        let place = places
            .find(|(_, window)| *window == first_column)
            .unwrap()
            .0;
        content[place..place + 3072].fill(5);
    };
    let mat = Mat {
        big: false,
        compressed: false,
    };
    let file = |images: std::ops::Range<usize>, labels: &[u8]| {
        mat.file(&[mat.x(&images.collect::<Vec<_>>()), mat.y(labels)])
    };
    let mut extra = file(4..10, &[10, 1, 10, 1, 1, 10]);
    grey(&mut extra, 7);
    let files = [
        ("train.mat", file(0..4, &[1, 10, 1, 1])),
        ("extra.mat", extra),
        ("test.mat", file(10..13, &[10, 1, 10])),
    ];
    let mut small = Small::new(&files, true, [4, 6, 3], 2, SVHN);
    small.load().unwrap();
    preprocess(&mut small, Preprocessing::Lcn);
    small.assert_error(&["record 3 of", "extra.mat", "lcn"]);

    // The second image of the second training file of CIFAR is the last of all, and for validation.
    let mut second = formats::cifar(&[(&[3], 2), (&[1], 3)]);
    second[3073 + 1..].fill(200);
    let files = [
        ("a.bin", formats::cifar(&[(&[1], 0), (&[2], 1)])),
        ("b.bin", second),
        ("test.bin", formats::cifar(&[(&[4], 4)])),
    ];
    let format = ImageFormat::Cifar {
        labels: Labels::Class,
        train: &["a.bin", "b.bin"],
        test: &["test.bin"],
    };
    let mut small = Small::new(&files, false, [3, 1, 1], 5, format);
    small.load().unwrap();
    preprocess(&mut small, Preprocessing::Gcn);
    small.assert_error(&["record 1 of", "b.bin", "gcn"]);
}

/// Image sets of the catalogue have the sizes of the paper.
#[test]
fn the_catalogue_has_the_splits_of_the_paper() {
    for (name, sizes, classes, files) in [
        ("mnist", [50_000, 10_000, 10_000], 10, 4),
        ("cifar10", [45_000, 5_000, 10_000], 10, 1),
        ("cifar100", [45_000, 5_000, 10_000], 100, 1),
        ("svhn", [598_388, 6_000, 26_032], 10, 3),
        ("cifar10-jpeg", [45_000, 5_000, 10_000], 10, 6),
        ("demo-digits", [4_000, 1_000, 1_000], 10, 0),
    ] {
        let dataset = find(name).unwrap();
        let found = Split::ALL.map(|split| dataset.expected_images(split).unwrap());
        assert_eq!(found, sizes, "{name}");
        assert_eq!(dataset.files.len(), files, "{name}");
        let Kind::Images { classes: found, .. } = dataset.kind else {
            panic!("{name} is images");
        };
        assert_eq!(found, classes, "{name}");
    }
    assert!(find("cifar10-jpeg").unwrap().stand_in.is_some());
}
