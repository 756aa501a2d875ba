//! Preprocessing against numpy and scipy (golden/make_preprocessed.py), against plain loops, and on
//! the disk.

mod formats;

use std::fs;
use std::path::Path;

use laq_datasets::{
    Dataset, ImageError, ImageFormat, ImageSet, ImageSize, Kind, Preprocessing, RawImages, Split,
    Whitening,
};
use proptest::prelude::*;

fn raw(shape: [usize; 3], pixels: &[u8]) -> RawImages {
    let [height, width, channels] = shape;
    let shape = ImageSize {
        height,
        width,
        channels,
    };
    RawImages {
        shape,
        pixels: pixels.to_vec().into(),
        labels: vec![0; pixels.len() / shape.elements()],
    }
}

/// All images of all splits, as a network sees them.
fn inputs(set: &ImageSet) -> Vec<f32> {
    let of_split = |split| {
        let images = set.split(split);
        let mut inputs = vec![0.0; images.len() * set.shape().elements()];
        let indices: Vec<u32> = (0..images.len() as u32).collect();
        images.fill(&indices, &mut inputs, &mut vec![0; images.len()]);
        inputs
    };
    Split::ALL.into_iter().flat_map(of_split).collect()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (place, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "at {place}: {a}, expected {b}");
    }
}

const SHAPE: [usize; 3] = [8, 9, 3];
const NUMBERS: usize = 8 * 9 * 3;
const COUNTS: [usize; 3] = [24, 2, 4];
const ALL: usize = 30 * NUMBERS;

fn golden() -> (Vec<u8>, Vec<Vec<f32>>) {
    let content = include_bytes!("golden/preprocessed.bin");
    let (pixels, numbers) = content.split_at(ALL);
    let numbers: Vec<f32> = (numbers.as_chunks().0.iter())
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect();
    assert_eq!(numbers.len(), 3 * ALL);
    (
        pixels.to_vec(),
        numbers.chunks(ALL).map(<[f32]>::to_vec).collect(),
    )
}

fn golden_splits() -> [RawImages; 3] {
    let (pixels, _) = golden();
    let all = raw(SHAPE, &pixels);
    let [train, validation, _] = COUNTS;
    [
        all.part(0..train),
        all.part(train..train + validation),
        all.part(train + validation..30),
    ]
}

#[test]
fn equals_numpy_and_scipy() {
    let (_, expected) = golden();
    let load = |preprocessing| {
        inputs(&ImageSet::from_raw("golden", 1, golden_splits(), preprocessing).unwrap())
    };
    // The largest numbers are about 20; whitening multiplies by up to 1/√0.1.
    assert_close(&load(Preprocessing::Gcn), &expected[0], 2e-6);
    assert_close(&load(Preprocessing::Zca), &expected[1], 2e-6);
    assert_close(&load(Preprocessing::Lcn), &expected[2], 2e-5);
}

#[test]
fn a_map_that_was_fitted_applies_to_other_images() {
    let (_, expected) = golden();
    let [train, _, test] = golden_splits();
    let whitening = Whitening::fit(&train).unwrap();
    assert_close(
        &whitening.apply(&test, 1..3),
        &expected[1][27 * NUMBERS..29 * NUMBERS],
        2e-6,
    );
}

#[test]
fn whitening_has_the_same_bits_with_any_number_of_threads() {
    // More images than a thread takes at once, more numbers than its columns of the covariance.
    let shape = [9, 10, 3];
    let pixels: Vec<u8> = (0..300u64 * 270)
        .map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let images = raw(shape, &pixels);
    let whiten = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| Whitening::fit(&images).unwrap().apply(&images, 0..300))
    };
    let one = whiten(1);
    for threads in [2, 5] {
        let more = whiten(threads);
        assert!(
            one.iter()
                .zip(&more)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }
}

proptest! {
    /// Local contrast normalization as its formula stands, in f64.
    #[test]
    fn local_contrast_is_its_formula(
        height in 1usize..12, width in 1usize..12, channels in 1usize..4, seed: u64,
    ) {
        let numbers = height * width * channels;
        prop_assume!(numbers > 1);
        let mut state = seed | 1;
        let pixels: Vec<u8> = (0..numbers)
            .map(|place| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if place == 0 { 255 } else { (state >> 57) as u8 }
            })
            .collect();
        let image = raw([height, width, channels], &pixels);
        let splits = [image.clone(), image.clone(), image];
        let found = inputs(&ImageSet::from_raw("one", 1, splits, Preprocessing::Lcn).unwrap());

        let mean = pixels.iter().map(|&x| f64::from(x)).sum::<f64>() / numbers as f64;
        let deviations: Vec<f64> = pixels.iter().map(|&x| f64::from(x) - mean).collect();
        let norm = deviations.iter().map(|x| x * x).sum::<f64>().sqrt();
        let x: Vec<f64> = deviations.iter().map(|x| 55.0 * x / norm).collect();
        let weight = |i: i64, j: i64| (-((i * i + j * j) as f64) / 8.0).exp();
        let total: f64 = (-3..=3).flat_map(|i| (-3..=3).map(move |j| weight(i, j))).sum();
        let at = |row: usize, column: usize, channel: usize| (row * width + column) * channels + channel;
        let around = |values: &[f64], row: usize, column: usize, channel: usize| -> f64 {
            let mut sum = 0.0;
            for i in -3..=3i64 {
                for j in -3..=3i64 {
                    let (r, c) = (row as i64 + i, column as i64 + j);
                    if (0..height as i64).contains(&r) && (0..width as i64).contains(&c) {
                        sum += weight(i, j) / total * values[at(r as usize, c as usize, channel)];
                    }
                }
            }
            sum
        };
        for channel in 0..channels {
            let mut centred = vec![0.0; numbers];
            for row in 0..height {
                for column in 0..width {
                    let place = at(row, column, channel);
                    centred[place] = x[place] - around(&x, row, column, channel);
                }
            }
            let squares: Vec<f64> = centred.iter().map(|c| c * c).collect();
            let deviation = |row, column| around(&squares, row, column, channel).sqrt();
            let sum: f64 = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)))
                .map(|(row, column)| deviation(row, column)).sum();
            let least = (sum / (height * width) as f64).max(1e-4);
            for row in 0..height {
                for column in 0..width {
                    let place = at(row, column, channel);
                    let expected = centred[place] / deviation(row, column).max(least);
                    prop_assert!((f64::from(found[place]) - expected).abs() < 1e-4, "{} {}", found[place], expected);
                }
            }
        }
    }
}

#[test]
fn constant_images_are_an_error() {
    let good = raw([2, 2, 1], &[1, 2, 3, 4]);
    let bad = raw([2, 2, 1], &[1, 2, 3, 4, 9, 9, 9, 9]);
    for preprocessing in [Preprocessing::Gcn, Preprocessing::Zca, Preprocessing::Lcn] {
        let splits = [good.clone(), good.clone(), bad.clone()];
        let error = ImageSet::from_raw("own", 1, splits, preprocessing).unwrap_err();
        let ImageError::Constant {
            place,
            preprocessing: found,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(place, "image 1 of the test split of own");
        assert_eq!(found, preprocessing);
    }
    let splits = [good.clone(), good, bad];
    assert!(ImageSet::from_raw("own", 1, splits, Preprocessing::None).is_ok());
}

#[test]
fn images_too_large_for_whitening_are_an_error() {
    let pixels: Vec<u8> = (0..112 * 112).map(|place| place as u8).collect();
    let images = raw([112, 112, 1], &pixels);
    let splits = [images.clone(), images.clone(), images];
    let error = ImageSet::from_raw("own", 1, splits, Preprocessing::Zca).unwrap_err();
    let ImageError::Mismatch { reason, .. } = error else {
        panic!("{error}");
    };
    assert!(reason.contains("12288"), "{reason}");
}

#[test]
fn an_unknown_name_is_an_error_with_the_known_names() {
    for preprocessing in Preprocessing::ALL {
        assert_eq!(preprocessing.name().parse(), Ok(preprocessing));
    }
    let error = "zac".parse::<Preprocessing>().unwrap_err();
    assert_eq!(error.name, "zac");
    let message = error.to_string();
    let named = |known: Preprocessing| message.contains(known.name());
    assert!(Preprocessing::ALL.into_iter().all(named), "{message}");
}

/// A data set of idx files, 7 training and 2 test images of 4 × 3 pixels, of which the last 3
/// training images are for validation.
fn idx_files(folder: &Path, pixels: &[u8]) -> Dataset {
    let images = |range: std::ops::Range<usize>| {
        let numbers = &pixels[12 * range.start..12 * range.end];
        formats::idx(&[range.len() as u32, 4, 3], numbers)
    };
    let labels = |count: usize| formats::idx(&[count as u32], &vec![1; count]);
    let files = [
        ("train", images(0..7)),
        ("train-labels", labels(7)),
        ("test", images(7..9)),
        ("test-labels", labels(2)),
    ];
    let kind = Kind::Images {
        shape: ImageSize {
            height: 4,
            width: 3,
            channels: 1,
        },
        classes: 2,
        splits: [4, 3, 2],
        format: ImageFormat::Idx,
        preprocessing: Preprocessing::Zca,
    };
    formats::small_set(folder, &files, false, kind)
}

/// What the set's inputs are, and what was reported while it was loaded.
fn load(dataset: &Dataset, folder: &Path) -> Result<(Vec<f32>, String), ImageError> {
    let mut heard = String::new();
    let set = ImageSet::load_dataset(dataset, folder, None, &mut |message| {
        heard.push_str(message)
    })?;
    Ok((inputs(&set), heard))
}

fn pixels(first: u8) -> Vec<u8> {
    (0..9 * 12u32)
        .map(|place| (place * place % 251) as u8 ^ first)
        .collect()
}

#[test]
fn images_are_whitened_once() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = idx_files(folder.path(), &pixels(0));
    let (first, heard) = load(&dataset, folder.path()).unwrap();
    assert!(
        heard.contains("fitting ZCA whitening to 4 images; writing 9"),
        "{heard}"
    );
    let (second, heard) = load(&dataset, folder.path()).unwrap();
    assert_eq!(heard, "");
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    assert_eq!(bits(&first), bits(&second));

    // The same numbers as without a file.
    let all = raw([4, 3, 1], &pixels(0));
    let splits = [all.part(0..4), all.part(4..7), all.part(7..9)];
    let set = ImageSet::from_raw("own", 2, splits, Preprocessing::Zca).unwrap();
    assert_eq!(bits(&first), bits(&inputs(&set)));

    // A file that was damaged or cut short is made again, and so is one of other images.
    let file = folder.path().join("small/whitened.images");
    let good = fs::read(&file).unwrap();
    assert_eq!(good.len(), 16 + 32 + 4 * 9 * 12 + 32);
    for place in [0, 20, 60, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[place] ^= 0x10;
        fs::remove_file(&file).unwrap();
        fs::write(&file, damaged).unwrap();
        let (again, heard) = load(&dataset, folder.path()).unwrap();
        assert!(heard.contains("fitting"));
        assert_eq!(bits(&first), bits(&again));
        assert!(fs::read(&file).unwrap() == good);
    }
    for bytes in [0, 47, 79, good.len() - 1] {
        fs::remove_file(&file).unwrap();
        fs::write(&file, &good[..bytes]).unwrap();
        assert!(load(&dataset, folder.path()).unwrap().1.contains("fitting"));
        assert!(fs::read(&file).unwrap() == good);
    }
    let other = idx_files(folder.path(), &pixels(1));
    let (numbers, heard) = load(&other, folder.path()).unwrap();
    assert!(heard.contains("fitting"));
    assert_ne!(bits(&first), bits(&numbers));
}

#[test]
fn an_unwritable_cache_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = idx_files(folder.path(), &pixels(0));
    // A folder stands where the file would be written.
    fs::create_dir(folder.path().join("small/whitened.new")).unwrap();
    let message = load(&dataset, folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("whitened.images cannot be read or written"),
        "{message}"
    );
}

#[test]
fn the_error_of_a_constant_image_has_file_and_record() {
    for (image, words) in [(2, "record 2 of"), (5, "record 5 of"), (8, "record 1 of")] {
        let folder = tempfile::tempdir().unwrap();
        let mut pixels = pixels(0);
        pixels[12 * image..12 * image + 12].fill(7);
        let dataset = idx_files(folder.path(), &pixels);
        let message = load(&dataset, folder.path()).unwrap_err().to_string();
        let file = if image < 7 {
            "small/train "
        } else {
            "small/test "
        };
        assert!(
            message.contains(words) && message.contains(file),
            "{message}"
        );
    }
}
