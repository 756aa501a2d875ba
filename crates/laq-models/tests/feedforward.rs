//! The feedforward networks: reproducible, resumable, learning, and safe when numbers blow up.

use laq_models::{
    AdamSettings, Batch, FeedforwardSpec, ImageShape, Loss, ModelError, StateData, Training,
};
use laq_solvers::Method;
use laq_tensor::CpuBackend;
use laq_tensor::cpu::Isa;

const BATCH: usize = 12;
const CLASSES: usize = 5;
const SHAPE: ImageShape = ImageShape {
    height: 7,
    width: 6,
    channels: 2,
};

/// A small network of every kind of layer.
fn vgg() -> FeedforwardSpec {
    FeedforwardSpec {
        input: SHAPE,
        classes: CLASSES,
        filters: vec![9, 11],
        units: vec![21],
        ..FeedforwardSpec::cifar10()
    }
}

/// Without normalization, with another loss, and with one convolution a stage.
fn plain() -> FeedforwardSpec {
    FeedforwardSpec {
        convolutions: 1,
        batch_norm: false,
        output_batch_norm: false,
        loss: Loss::CrossEntropy,
        ..vgg()
    }
}

fn build(spec: &FeedforwardSpec, id: &str, seed: u64) -> Training<CpuBackend> {
    build_on(CpuBackend::new().unwrap(), spec, id, seed)
}

fn build_on(
    backend: CpuBackend,
    spec: &FeedforwardSpec,
    id: &str,
    seed: u64,
) -> Training<CpuBackend> {
    let method = Method::try_from(id).unwrap();
    let adam = AdamSettings::default();
    Training::feedforward(backend, spec, BATCH, &method, adam, seed).unwrap()
}

/// Images whose class shows in how fast they oscillate, under noise that is a formula.
fn images(number: usize, count: usize) -> (Vec<f32>, Vec<u8>) {
    let labels: Vec<u8> = (0..count)
        .map(|i| ((i * 7 + number) % CLASSES) as u8)
        .collect();
    let mut pixels = Vec::new();
    for (index, &label) in labels.iter().enumerate() {
        for place in 0..SHAPE.elements() {
            let phase = place as f32 * (0.3 + 0.35 * f32::from(label));
            let noise = ((index * 31 + number * 17 + place * place * 13) % 29) as f32 / 29.0 - 0.5;
            pixels.push(phase.sin() + noise);
        }
    }
    (pixels, labels)
}

fn steps(training: &mut Training<CpuBackend>, from: usize, to: usize) -> Vec<f64> {
    (from..to)
        .map(|number| {
            let (pixels, labels) = images(number, BATCH);
            training
                .step(Batch::images(&pixels, &labels), 0.01)
                .unwrap()
                .loss
        })
        .collect()
}

const METHODS: [&str; 13] = [
    "full",
    "binary-connect",
    "bwn",
    "lab",
    "twn",
    "lat-e",
    "lat-a",
    "ttq",
    "lat2-e",
    "lat2-a",
    "dorefa-3",
    "laq-linear-3-e",
    "laq-log-3",
];

#[test]
fn every_method_learns() {
    let (pixels, labels) = images(1000, 10 * BATCH);
    for id in METHODS {
        let mut training = build(&vgg(), id, 1);
        let losses = steps(&mut training, 0, 150);
        let end = losses[140..].iter().sum::<f64>() / 10.0;
        assert!(end < 0.5 * losses[0], "{id}: from {} to {end}", losses[0]);
        let mut errors = 0;
        for (pixels, labels) in pixels
            .chunks(BATCH * SHAPE.elements())
            .zip(labels.chunks(BATCH))
        {
            errors += training
                .evaluate(Batch::images(pixels, labels))
                .unwrap()
                .errors
                .unwrap();
        }
        assert!(
            errors * 4 < labels.len(),
            "{id}: {errors} of {}",
            labels.len()
        );
    }
}

#[test]
fn a_network_without_normalization_learns() {
    let mut training = build(&plain(), "full", 1);
    let losses = steps(&mut training, 0, 150);
    assert!(
        (losses[0] - (CLASSES as f64).ln()).abs() < 0.5,
        "{}",
        losses[0]
    );
    let end = losses[140..].iter().sum::<f64>() / 10.0;
    assert!(end < 0.5 * losses[0], "from {} to {end}", losses[0]);
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    for isa in Isa::available() {
        for (spec, id) in [(vgg(), "full"), (vgg(), "lat-a"), (plain(), "lat2-e")] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    let mut training = build_on(CpuBackend::with_isa(isa), &spec, id, 3);
                    let losses = steps(&mut training, 0, 5);
                    (losses, training.save().unwrap())
                })
            };
            let one = run(1);
            assert_eq!(one, run(2), "{id} {}", isa.name());
            assert_eq!(one, run(8), "{id} {}", isa.name());
        }
    }
}

#[test]
fn training_continues_from_a_loaded_state_with_the_same_bits() {
    let (pixels, labels) = images(99, BATCH);
    let batch = Batch::images(&pixels, &labels);
    for (spec, id) in [
        (vgg(), "full"),
        (vgg(), "lat-a"),
        (vgg(), "ttq"),
        (plain(), "laq-log-3"),
    ] {
        for (before, look) in [(0, false), (3, false), (3, true)] {
            let mut straight = build(&spec, id, 5);
            steps(&mut straight, 0, before);
            if look {
                straight.evaluate(batch).unwrap();
            }
            let kept = straight.save().unwrap();
            let mut resumed = build(&spec, id, 6);
            steps(&mut resumed, 7, 9);
            for _ in 0..5 {
                resumed.begin_step(batch, 3e38).unwrap();
            }
            resumed.load(&kept).unwrap();
            assert_eq!(resumed.save().unwrap(), kept, "{id}");
            assert_eq!(
                straight.evaluate(batch).unwrap(),
                resumed.evaluate(batch).unwrap()
            );
            assert_eq!(
                steps(&mut straight, before, 6),
                steps(&mut resumed, before, 6),
                "{id}"
            );
            assert_eq!(straight.save().unwrap(), resumed.save().unwrap(), "{id}");
        }
    }
}

#[test]
fn an_evaluation_leaves_training_alone_and_takes_images_one_by_one() {
    let mut looked_at = build(&vgg(), "lat-a", 2);
    let mut alone = build(&vgg(), "lat-a", 2);
    steps(&mut looked_at, 0, 3);
    steps(&mut alone, 0, 3);
    let (pixels, labels) = images(50, BATCH);
    let all = looked_at.evaluate(Batch::images(&pixels, &labels)).unwrap();
    let (mut loss, mut errors) = (0.0, 0);
    for (pixels, label) in pixels.chunks(SHAPE.elements()).zip(labels.chunks(1)) {
        let one = looked_at.evaluate(Batch::images(pixels, label)).unwrap();
        loss += one.loss / BATCH as f64;
        errors += one.errors.unwrap();
    }
    assert_eq!(all.errors, Some(errors));
    assert!((all.loss - loss).abs() < 1e-12, "{} and {loss}", all.loss);
    assert_eq!(steps(&mut looked_at, 3, 6), steps(&mut alone, 3, 6));
    assert_eq!(looked_at.save().unwrap(), alone.save().unwrap());
}

#[test]
fn numbers_that_are_not_finite_change_nothing() {
    let (mut pixels, labels) = images(0, BATCH);
    let mut training = build(&vgg(), "lat-a", 4);
    steps(&mut training, 0, 2);
    training.evaluate(Batch::images(&pixels, &labels)).unwrap();
    let before = training.save().unwrap();
    pixels[40] = f32::NAN;
    let error = training
        .step(Batch::images(&pixels, &labels), 0.01)
        .unwrap_err();
    assert!(
        matches!(error, ModelError::NotFinite { step: 3, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("conv1"), "{error}");
    assert_eq!(training.save().unwrap(), before);
    let error = training
        .evaluate(Batch::images(&pixels, &labels))
        .unwrap_err();
    assert!(
        matches!(&error, ModelError::NotFiniteEvaluation { what } if what.contains("conv1")),
        "{error}"
    );
}

#[test]
fn a_later_batch_does_not_move_the_blame() {
    let mut training = build(&vgg(), "lat-a", 4);
    let (pixels, labels) = images(0, BATCH);
    let mut bad = pixels.clone();
    bad[40] = f32::NAN;
    for pixels in [&bad, &pixels] {
        training
            .begin_step(Batch::images(pixels, &labels), 0.01)
            .unwrap();
    }
    let error = training.report().unwrap_err();
    assert!(
        matches!(&error, ModelError::NotFinite { what, step: 1 } if what == "the loss"),
        "{error}"
    );
}

/// Its loss is finite, and so is the gradient itself.
#[test]
fn a_gradient_whose_square_is_infinite_changes_nothing() {
    for id in ["full", "lat-a", "ttq"] {
        let (mut pixels, labels) = images(0, BATCH);
        let mut training = build(&plain(), id, 4);
        steps(&mut training, 0, 2);
        training.evaluate(Batch::images(&pixels, &labels)).unwrap();
        let before = training.save().unwrap();
        pixels.iter_mut().for_each(|pixel| *pixel *= 1e22);
        let error = training
            .step(Batch::images(&pixels, &labels), 0.01)
            .unwrap_err();
        assert!(error.to_string().contains("the gradient"), "{id}: {error}");
        assert_eq!(training.save().unwrap(), before, "{id}");
    }
}

#[test]
fn batches_of_another_kind_or_size_are_refused() {
    let (pixels, mut labels) = images(0, BATCH);
    let mut training = build(&vgg(), "full", 1);
    let refused = |found: Result<(), ModelError>, words: &[&str]| {
        let message = found.unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    };
    let step = |training: &mut Training<CpuBackend>, batch: Batch<'_>| {
        training.step(batch, 0.01).map(drop)
    };
    refused(
        step(&mut training, Batch::text(&[0], &[0])),
        &["text", "images"],
    );
    let fewer = Batch::images(&pixels[..SHAPE.elements()], &labels[..1]);
    refused(
        step(&mut training, fewer),
        &["1 labels", "expected 12 labels"],
    );
    refused(
        step(&mut training, Batch::images(&pixels[1..], &labels)),
        &["1007 numbers", "84 numbers for each"],
    );
    labels[3] = 5;
    refused(
        step(&mut training, Batch::images(&pixels, &labels)),
        &["label 5 at index 3", "5 classes"],
    );
    let none = training.evaluate(Batch::images(&[], &[])).map(drop);
    refused(none, &["0 labels", "or fewer, but not none"]);
}

/// Behind a dense layer the normalization of one image is constant; it can be evaluated all the same.
#[test]
fn a_batch_of_one_image_is_refused_where_it_is_normalized() {
    let (pixels, labels) = images(0, 1);
    let batch = Batch::images(&pixels, &labels);
    let train = |spec: &FeedforwardSpec| {
        let method = Method::try_from("lat-a").unwrap();
        let adam = AdamSettings::default();
        let backend = CpuBackend::new().unwrap();
        let mut training = Training::feedforward(backend, spec, 1, &method, adam, 1).unwrap();
        training.evaluate(batch).unwrap();
        training
            .step(batch, 0.01)
            .err()
            .map(|error| error.to_string())
    };
    assert!(
        train(&vgg())
            .unwrap()
            .contains("batch is 1, expected at least 2")
    );
    assert_eq!(train(&plain()), None);
}

#[test]
fn settings_out_of_their_range_are_refused() {
    let method = Method::try_from("full").unwrap();
    for (spec, batch, name) in [
        (
            FeedforwardSpec {
                classes: 1,
                ..vgg()
            },
            BATCH,
            "classes is 1",
        ),
        (
            FeedforwardSpec {
                classes: 257,
                ..vgg()
            },
            BATCH,
            "classes is 257",
        ),
        (
            FeedforwardSpec {
                filters: vec![4; 3],
                ..vgg()
            },
            BATCH,
            "nothing would be left",
        ),
        (
            FeedforwardSpec {
                filters: vec![4; 40],
                ..vgg()
            },
            BATCH,
            "nothing would be left",
        ),
        (
            FeedforwardSpec {
                filters: vec![0],
                ..vgg()
            },
            BATCH,
            "filters is [0]",
        ),
        (
            FeedforwardSpec {
                units: vec![3, 0],
                ..vgg()
            },
            BATCH,
            "units is [3, 0]",
        ),
        (
            FeedforwardSpec {
                convolutions: 0,
                ..vgg()
            },
            BATCH,
            "convolutions is 0",
        ),
        (
            FeedforwardSpec {
                norm_epsilon: 0.0,
                ..vgg()
            },
            BATCH,
            "norm_epsilon is 0",
        ),
        (
            FeedforwardSpec {
                norm_momentum: f32::NAN,
                ..vgg()
            },
            BATCH,
            "norm_momentum is NaN",
        ),
        (vgg(), 0, "batch is 0"),
    ] {
        let backend = CpuBackend::new().unwrap();
        let adam = AdamSettings::default();
        let built = Training::feedforward(backend, &spec, batch, &method, adam, 1);
        let message = built.err().expect(name).to_string();
        assert!(message.contains(name), "{message:?} lacks {name:?}");
    }
}

#[test]
fn a_state_of_another_network_is_refused() {
    let mut training = build(&vgg(), "full", 1);
    let mut state = training.save().unwrap();
    state.retain(|tensor| tensor.name != "conv2.norm.mean");
    let error = training.load(&state).unwrap_err().to_string();
    assert!(error.contains("conv2.norm.mean is missing"), "{error}");
    let mut state = build(&vgg(), "full", 1).save().unwrap();
    for tensor in &mut state {
        if tensor.name == "output.weight" {
            tensor.data = StateData::I8(vec![0; 105]);
        }
    }
    let error = training.load(&state).unwrap_err().to_string();
    assert!(error.contains("output.weight does not hold f32"), "{error}");
}

/// Initial weights follow PAPER.md §4.
#[test]
fn weights_start_in_the_papers_range() {
    for (id, spread) in [("full", 6.0f64), ("lat-a", 1.5)] {
        let state = build(&vgg(), id, 1).save().unwrap();
        for (name, fans) in [("conv2.weight", 9 * (9 + 9)), ("dense1.weight", 11 + 21)] {
            let tensor = state.iter().find(|tensor| tensor.name == name).unwrap();
            let StateData::F32(values) = &tensor.data else {
                panic!("{name}")
            };
            let range = (spread / f64::from(fans)).sqrt();
            let largest = values.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            assert!(
                (0.98 * range..=range * 1.000_001).contains(&f64::from(largest)),
                "{id} {name}"
            );
        }
    }
}

#[test]
fn the_papers_networks_have_their_sizes() {
    let sums = |spec: FeedforwardSpec| {
        let layers = spec.layers().unwrap();
        let weights: usize = layers.iter().map(|layer| layer.quantized_weights).sum();
        let others: usize = layers.iter().map(|layer| layer.other_weights).sum();
        let multiplications: usize = layers.iter().map(|layer| layer.multiplications).sum();
        (weights, others, multiplications)
    };
    // By hand: 784·2048 + 2·2048² + 2048·10, and two numbers for each of 3·2048 + 10 channels.
    assert_eq!(
        sums(FeedforwardSpec::mnist()),
        (10_014_720, 12_308, 10_014_720)
    );
    let convolutions = [
        (32 * 32, 3, 128),
        (32 * 32, 128, 128),
        (16 * 16, 128, 256),
        (16 * 16, 256, 256),
        (8 * 8, 256, 512),
        (8 * 8, 512, 512),
    ];
    let dense = 4 * 4 * 512 * 1024 + 1024 * 1024 + 1024 * 10;
    let weights: usize = convolutions.iter().map(|(_, c, f)| 9 * c * f).sum();
    let products: usize = convolutions.iter().map(|(p, c, f)| p * 9 * c * f).sum();
    let others = 2 * (2 * (128 + 256 + 512) + 2 * 1024 + 10);
    assert_eq!(
        sums(FeedforwardSpec::cifar10()),
        (weights + dense, others, products + dense)
    );
    let (more, _, _) = sums(FeedforwardSpec::cifar100());
    assert_eq!(more, weights + dense + 1024 * 90);
    assert_eq!(
        FeedforwardSpec::svhn().layers().unwrap()[5].output,
        [4, 4, 256]
    );
}
