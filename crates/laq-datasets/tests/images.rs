//! Image sets from raw images, and the demo images.

use std::path::Path;

use laq_datasets::{
    ImageError, ImageSet, ImageShape, Preprocessing, RawImages, Split, catalogue, find,
};

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
        shape: ImageShape {
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
