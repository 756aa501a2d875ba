//! From small files in the true formats of CIFAR-100 and SVHN, through their preprocessing, to
//! networks of their kind that learn. (`laq train` itself takes files of these sets only with the
//! checksums of the true ones.)

#[path = "../../laq-datasets/tests/formats/mod.rs"]
mod formats;

use laq_datasets::cifar::Labels;
use laq_datasets::{ImageFormat, ImageSet, ImageSize, Kind, Preprocessing, Split};
use laq_models::{AdamSettings, Batch, FeedforwardSpec, Training};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

/// Loads a set from `files`, trains on it for a while, and evaluates.
fn learn(
    files: Vec<(&'static str, Vec<u8>)>,
    (format, preprocessing): (ImageFormat, Preprocessing),
    splits: [usize; 3],
    spec: FeedforwardSpec,
) {
    let dir = tempfile::tempdir().unwrap();
    let kind = Kind::Images {
        shape: ImageSize {
            height: 32,
            width: 32,
            channels: 3,
        },
        classes: spec.classes,
        splits,
        format,
        preprocessing,
    };
    let dataset = formats::small_set(dir.path(), &files, true, kind);
    let set = ImageSet::load_dataset(&dataset, dir.path(), None, &mut |_| {}).unwrap();
    let batch = |split: Split| {
        let images = set.split(split);
        let indices: Vec<u32> = (0..images.len() as u32).collect();
        let mut pixels = vec![0.0; images.len() * set.shape().elements()];
        let mut labels = vec![0; images.len()];
        images.fill(&indices, &mut pixels, &mut labels);
        (pixels, labels)
    };
    for id in ["full", "lat-a", "laq-linear-3-e"] {
        let (pixels, labels) = batch(Split::Train);
        let mut training = Training::feedforward(
            CpuBackend::new().unwrap(),
            &spec,
            labels.len(),
            &Method::try_from(id).unwrap(),
            AdamSettings::default(),
            1,
        )
        .unwrap();
        let mut step = || {
            training
                .step(Batch::images(&pixels, &labels), 0.01)
                .unwrap()
                .loss
        };
        let first = step();
        let last = (0..60).map(|_| step()).last().unwrap();
        assert!(last < 0.5 * first, "{id}: {first} to {last}");
        let (pixels, labels) = batch(Split::Test);
        let evaluation = training.evaluate(Batch::images(&pixels, &labels)).unwrap();
        assert!(evaluation.loss.is_finite(), "{id}");
    }
}

/// The network of the paper with fewer filters and units.
fn small(spec: FeedforwardSpec) -> FeedforwardSpec {
    FeedforwardSpec {
        filters: vec![6, 8, 10],
        units: vec![24],
        ..spec
    }
}

#[test]
fn cifar_100_from_its_archive() {
    let record = |image: usize, label: u8| ([0, label], image);
    let records = |images: &[([u8; 2], usize)]| {
        let records: Vec<_> = images
            .iter()
            .map(|(labels, image)| (&labels[..], *image))
            .collect();
        formats::cifar(&records)
    };
    let train: Vec<_> = (0..10).map(|i| record(i, 33 * (i % 4) as u8)).collect();
    let archive = formats::tar_gz(&[
        ("cifar-100-binary/train.bin", &records(&train)),
        (
            "cifar-100-binary/test.bin",
            &records(&[record(12, 99), record(13, 0)]),
        ),
    ]);
    let format = ImageFormat::Cifar {
        labels: Labels::CoarseAndClass,
        train: &["train.bin"],
        test: &["test.bin"],
    };
    learn(
        vec![("cifar-100-binary.tar.gz", archive)],
        (format, Preprocessing::Gcn),
        [8, 2, 2],
        small(FeedforwardSpec::cifar100()),
    );
}

#[test]
fn svhn_from_its_three_files() {
    let mat = formats::Mat {
        big: false,
        compressed: true,
    };
    // Of every digit one training image and two extra ones are held out.
    let labels = |count: usize| -> Vec<u8> { (0..count).map(|i| (i % 10 + 1) as u8).collect() };
    let file = |from: usize, count: usize| {
        let images: Vec<usize> = (from..from + count).collect();
        mat.file(&[mat.x(&images), mat.y(&labels(count))])
    };
    learn(
        vec![
            ("train_32x32.mat", file(0, 14)),
            ("extra_32x32.mat", file(20, 24)),
            ("test_32x32.mat", file(50, 3)),
        ],
        (
            ImageFormat::Svhn {
                validation_per_class: [1, 2],
            },
            Preprocessing::Lcn,
        ),
        [8, 30, 3],
        small(FeedforwardSpec::svhn()),
    );
}
