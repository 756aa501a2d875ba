//! The training step as a whole: reproducible, resumable, learning, and safe when numbers blow up.

use laq_models::{AdamSettings, Batch, CharLstmSpec, ModelError, StateData, TextShape, Training};
use laq_solvers::{Method, Scale};
use laq_tensor::CpuBackend;
use laq_tensor::cpu::Isa;

const SHAPE: TextShape = TextShape {
    length: 12,
    batch: 10,
};
const SYMBOLS: usize = 11;

const METHODS: [&str; 18] = [
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
    "laq-linear-3",
    "laq-log-3",
    "dorefa-4",
    "laq-linear-4",
    "laq-log-4",
    "absmean",
    "absmax-4",
];

fn build(spec: &CharLstmSpec, id: &str, seed: u64) -> Result<Training<CpuBackend>, ModelError> {
    build_on(CpuBackend::new().unwrap(), spec, id, seed)
}

fn build_on(
    backend: CpuBackend,
    spec: &CharLstmSpec,
    id: &str,
    seed: u64,
) -> Result<Training<CpuBackend>, ModelError> {
    let method = Method::try_from(id).unwrap();
    Training::char_lstm(backend, spec, SHAPE, &method, AdamSettings::default(), seed)
}

fn spec() -> CharLstmSpec {
    CharLstmSpec {
        hidden: 37,
        ..CharLstmSpec::paper(SYMBOLS)
    }
}

fn training(id: &str, seed: u64) -> Training<CpuBackend> {
    build(&spec(), id, seed).unwrap()
}

/// Inputs and targets of a text that is a formula, one step apart.
fn batch(number: usize) -> (Vec<u8>, Vec<u8>) {
    let rows = SHAPE.length * SHAPE.batch;
    let symbol = |time: usize, sequence: usize| {
        let position = time + 5 * sequence + 3 * number;
        ((position * position / 7 + 2 * position) % SYMBOLS) as u8
    };
    (0..rows)
        .map(|row| (row / SHAPE.batch, row % SHAPE.batch))
        .map(|(time, sequence)| (symbol(time, sequence), symbol(time + 1, sequence)))
        .unzip()
}

fn steps(training: &mut Training<CpuBackend>, from: usize, to: usize) -> Vec<f64> {
    (from..to)
        .map(|number| {
            let (inputs, targets) = batch(number);
            training
                .step(Batch::text(&inputs, &targets), 0.01)
                .unwrap()
                .loss
        })
        .collect()
}

#[test]
fn every_method_learns() {
    for id in METHODS {
        let mut training = training(id, 1);
        let losses = steps(&mut training, 0, 120);
        let uniform = (SYMBOLS as f64).ln();
        assert!(
            (losses[0] - uniform).abs() < 0.3,
            "{id} starts at {}",
            losses[0]
        );
        let end = losses[100..].iter().sum::<f64>() / 20.0;
        assert!(end < 0.8 * uniform, "{id} ends at {end}");
    }
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    for isa in Isa::available() {
        for id in ["full", "lat-a", "lat2-e", "ttq", "laq-linear-4"] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    let backend = CpuBackend::with_isa(isa);
                    let mut training = build_on(backend, &spec(), id, 3).unwrap();
                    let losses = steps(&mut training, 0, 8);
                    (losses, training.save().unwrap())
                })
            };
            let one = run(1);
            assert_eq!(one, run(2), "{id} {}", isa.name());
            assert_eq!(one, run(8), "{id} {}", isa.name());
        }
    }
}

/// A method continues from another's weights; where that is full precision, as if it had never stopped.
#[test]
fn training_starts_from_the_weights_of_another_method() {
    for id in METHODS {
        let mut before = training("full", 5);
        steps(&mut before, 0, 3);
        let kept = before.save().unwrap();
        let mut started = training(id, 6);
        started.start_from(&kept).unwrap();
        assert_eq!(started.steps_taken(), 0);
        let state = started.save().unwrap();
        for tensor in &kept {
            let found = state.iter().find(|found| found.name == tensor.name);
            match &tensor.name[..] {
                "training.counters" => {
                    let counters = if id == "ttq" {
                        vec![0, 0]
                    } else {
                        vec![0, 0, 3]
                    };
                    let counters = StateData::U64(counters);
                    assert_eq!(found.map(|found| &found.data), Some(&counters));
                }
                // The trained scales have no moments yet, so Adam starts anew.
                name if id == "ttq" && name.ends_with("moment") => {
                    let zeros = StateData::F32(vec![0.0; tensor.shape.iter().product()]);
                    assert_eq!(found.map(|found| &found.data), Some(&zeros));
                }
                _ => assert_eq!(found, Some(tensor), "{id}"),
            }
        }
        // And again from there: the steps of both count.
        let losses = steps(&mut started, 3, 5);
        if id == "full" {
            assert_eq!(losses, steps(&mut before, 3, 5));
        }
        let mut again = training(id, 7);
        again.start_from(&started.save().unwrap()).unwrap();
        let state = again.save().unwrap();
        let counters = if id == "ttq" {
            vec![0, 0]
        } else {
            vec![0, 0, 5]
        };
        let counters = StateData::U64(counters);
        assert!(state.iter().any(|tensor| tensor.data == counters));
        let error = started.start_from(&kept).unwrap_err().to_string();
        assert!(
            error.contains("before its first step, and 2 were taken"),
            "{error}"
        );
    }
}

#[test]
fn training_continues_from_a_loaded_state_with_the_same_bits() {
    for id in METHODS {
        // Saved before the first step, between steps, and after a look at the network.
        for (steps_before, look) in [(0, false), (3, false), (3, true)] {
            let mut straight = training(id, 5);
            steps(&mut straight, 0, steps_before);
            let (inputs, targets) = batch(99);
            if look {
                straight.evaluate(Batch::text(&inputs, &targets)).unwrap();
            }
            let kept = straight.save().unwrap();
            let mut resumed = training(id, 6);
            steps(&mut resumed, 7, 9);
            resumed.load(&kept).unwrap();
            assert_eq!(resumed.save().unwrap(), kept, "{id}");
            assert_eq!(resumed.steps_taken(), steps_before as u64);
            if look {
                assert_eq!(
                    straight.evaluate(Batch::text(&inputs, &targets)).unwrap(),
                    resumed.evaluate(Batch::text(&inputs, &targets)).unwrap(),
                    "{id}"
                );
            }
            assert_eq!(
                steps(&mut straight, 3, 7),
                steps(&mut resumed, 3, 7),
                "{id}"
            );
            assert_eq!(straight.save().unwrap(), resumed.save().unwrap(), "{id}");
        }
    }
}

#[test]
fn evaluation_and_comparison_do_not_change_training() {
    for id in METHODS {
        let (mut evaluated, mut plain) = (training(id, 2), training(id, 2));
        let (inputs, targets) = batch(77);
        for step in 0..4 {
            evaluated.evaluate(Batch::text(&inputs, &targets)).unwrap();
            evaluated.layers().unwrap();
            evaluated
                .compare(&Method::try_from("lat-e").unwrap())
                .unwrap();
            let (a, b) = (
                steps(&mut evaluated, step, step + 1),
                steps(&mut plain, step, step + 1),
            );
            assert_eq!(a, b, "{id}");
        }
        assert_eq!(evaluated.save().unwrap(), plain.save().unwrap(), "{id}");
    }
}

/// Training with the exact method on the same weights and moments agrees with the comparison.
#[test]
fn a_comparison_is_with_what_the_other_method_does() {
    for (id, exact) in [
        ("lat-a", "lat-e"),
        ("lat2-a", "lat2-e"),
        ("laq-linear-3", "laq-linear-3-e"),
        ("laq-log-4", "laq-log-4-e"),
    ] {
        let mut alternating = training(id, 6);
        steps(&mut alternating, 0, 3);
        let mut other = training(exact, 7);
        other.load(&alternating.save().unwrap()).unwrap();
        let method = Method::try_from(exact).unwrap();
        assert_eq!(
            Method::try_from(id).unwrap().exact_counterpart(),
            Some(method.clone())
        );
        let compared = alternating.compare(&method).unwrap();
        let (own, others) = (alternating.layers().unwrap(), other.layers().unwrap());
        assert_eq!((compared.len(), own.len(), others.len()), (8, 8, 8));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
        for ((found, own), other) in compared.iter().zip(own).zip(others) {
            assert_eq!((&found.name, &own.name), (&own.name, &other.name), "{id}");
            assert!(
                close(found.weighted_error, own.weighted_error),
                "{id}: {found:?}"
            );
            assert!(
                close(found.other_weighted_error, other.weighted_error),
                "{id}: {found:?}"
            );
            assert!(
                found.other_weighted_error <= found.weighted_error * (1.0 + 1e-6),
                "{id}"
            );
        }
    }
    let lat_e = Method::try_from("lat-e").unwrap();
    assert_eq!(training("full", 1).compare(&lat_e).unwrap(), []);
}

#[test]
fn layers_report_what_the_method_promises() {
    for id in METHODS {
        let mut training = training(id, 4);
        steps(&mut training, 0, 3);
        let layers = training.layers().unwrap();
        assert_eq!(layers.len(), if id == "full" { 0 } else { 8 }, "{id}");
        for layer in layers {
            let weights = if layer.name.contains("weight_ih") {
                37 * SYMBOLS
            } else {
                37 * 37
            };
            assert_eq!(layer.weights, weights, "{id} {}", layer.name);
            assert!(layer.weighted_error.is_finite() && layer.weighted_error >= 0.0);
            let two_scales = ["ttq", "lat2-e", "lat2-a"].contains(&id);
            assert_eq!(matches!(layer.scale, Scale::Two { .. }), two_scales, "{id}");
            let has_zeros =
                !["binary-connect", "bwn", "lab"].contains(&id) && !id.starts_with("dorefa");
            assert_eq!(layer.sparsity > 0.0, has_zeros, "{id} {}", layer.name);
            assert!(layer.sparsity < 1.0);
        }
    }
}

#[test]
fn values_that_are_not_finite_are_errors_and_change_nothing() {
    for (id, name, expected) in [
        ("lat-a", "lstm.weight_hh", "lstm.weight_hh.input"),
        (
            "full",
            "lstm.weight_hh",
            "the weights of layer lstm.weight_hh",
        ),
        (
            "full",
            "output.weight",
            "the weights of layer output.weight",
        ),
        ("lat-a", "output.bias", "the weights of layer output.bias"),
    ] {
        let mut training = training(id, 1);
        let mut state = training.save().unwrap();
        let tensor = state.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let StateData::F32(numbers) = &mut tensor.data else {
            panic!("{name} is not f32")
        };
        numbers[0] = f32::NAN;
        training.load(&state).unwrap();
        let (inputs, targets) = batch(0);
        let error = training
            .step(Batch::text(&inputs, &targets), 0.01)
            .unwrap_err();
        assert!(
            matches!(
                error,
                ModelError::NotFinite { .. } | ModelError::Solve { .. }
            ),
            "{id} {name}: {error:?}"
        );
        assert!(error.to_string().contains(expected), "{id} {name}: {error}");
        for (before, after) in state.iter().zip(&training.save().unwrap()) {
            if let (StateData::F32(before), StateData::F32(after)) = (&before.data, &after.data) {
                let bits = |numbers: &[f32]| -> Vec<u32> {
                    numbers.iter().map(|number| number.to_bits()).collect()
                };
                let is_weight = !before.is_empty() && !after.is_empty();
                assert!(!is_weight || bits(before) == bits(after), "{id} {name}");
            }
        }
    }
}

/// Infinity times a moment of zero would be NaN.
#[test]
fn a_learning_rate_beyond_f32_changes_nothing() {
    let mut training = training("full", 1);
    let before = training.save().unwrap();
    let (inputs, targets) = batch(0);
    let error = training
        .step(Batch::text(&inputs, &targets), 1e40)
        .unwrap_err();
    assert!(error.to_string().contains("learning_rate"), "{error}");
    assert_eq!(training.save().unwrap(), before);
}

#[test]
fn counters_beyond_every_training_are_refused() {
    let mut state = training("full", 1).save().unwrap();
    for tensor in &mut state {
        if let StateData::U64(counters) = &mut tensor.data {
            counters[0] = u64::MAX;
        }
    }
    for error in [
        training("full", 1).load(&state).unwrap_err(),
        training("full", 1).start_from(&state).unwrap_err(),
    ] {
        assert!(error.to_string().contains("steps"), "{error}");
    }
}

#[test]
fn states_of_another_network_are_refused() {
    let mut ternary = training("lat-a", 1);
    let state = ternary.save().unwrap();
    let mut small = build(
        &CharLstmSpec {
            hidden: 5,
            ..spec()
        },
        "lat-a",
        1,
    )
    .unwrap();
    let message = small.load(&state).unwrap_err().to_string();
    assert!(
        message.contains("lstm.weight_ih has shape [148, 11], expected [20, 11]"),
        "{message}"
    );
    let message = ternary.load(&state[..3]).unwrap_err().to_string();
    assert!(message.contains("is missing"), "{message}");
    let mut binary = training("bwn", 1);
    let mut solved = training("lat-a", 1);
    solved.layers().unwrap();
    let message = binary
        .load(&solved.save().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("level 0, which bwn does not have"),
        "{message}"
    );
    // Adam would move its scales by the moments.
    let mut trained = training("ttq", 1);
    steps(&mut trained, 0, 2);
    let message = ternary
        .load(&trained.save().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("8 scales, expected 0 or 4, those of lat-a"),
        "{message}"
    );
    let message = ternary
        .load(&training("full", 1).save().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("lstm.weight_ih.levels is missing"),
        "{message}"
    );
}

#[test]
fn settings_and_batches_out_of_range_are_refused() {
    let refused = |change: fn(&mut CharLstmSpec)| {
        let mut spec = spec();
        change(&mut spec);
        build(&spec, "twn", 1).err().map(|error| error.to_string())
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(
        refused(|s| s.symbols = 257).unwrap(),
        "symbols is 257, expected 1 to 256"
    );
    assert_eq!(
        refused(|s| s.hidden = 0).unwrap(),
        "hidden is 0, expected 1 to 65536"
    );
    assert!(refused(|s| s.hidden = usize::MAX).is_some());
    assert_eq!(
        refused(|s| s.gate_clip = 0.0).unwrap(),
        "gate_clip is 0, expected above 0, and at most 1e38"
    );
    assert!(refused(|s| s.init_range = f32::NAN).is_some());
    assert!(refused(|s| s.init_range = 2e38).is_some());
    assert!(refused(|s| s.output_std = -1.0).is_some());
    assert!(refused(|s| s.forget_bias = f32::INFINITY).is_some());

    let refused = |adam: AdamSettings| {
        let backend = CpuBackend::new().unwrap();
        let method = Method::try_from("twn").unwrap();
        let built = Training::char_lstm(backend, &spec(), SHAPE, &method, adam, 1);
        built.err().map(|error| error.to_string())
    };
    let adam = AdamSettings::default();
    assert_eq!(refused(adam), None);
    let message = refused(AdamSettings { beta1: 1.0, ..adam }).unwrap();
    assert_eq!(message, "beta1 is 1, expected at least 0 and below 1");
    assert!(
        refused(AdamSettings {
            beta2: f64::NAN,
            ..adam
        })
        .is_some()
    );
    assert!(
        refused(AdamSettings {
            epsilon: 0.0,
            ..adam
        })
        .is_some()
    );

    let mut training = training("full", 1);
    let (mut inputs, targets) = batch(0);
    let message = training
        .step(Batch::text(&inputs[1..], &targets), 0.01)
        .unwrap_err()
        .to_string();
    assert!(message.contains("119 inputs, expected 120"), "{message}");
    inputs[17] = 11;
    let message = training
        .step(Batch::text(&inputs, &targets), 0.01)
        .unwrap_err()
        .to_string();
    assert!(message.contains("symbol 11 at index 17"), "{message}");
    let (inputs, _) = batch(0);
    let before = training.save().unwrap();
    assert!(
        training
            .step(Batch::text(&inputs, &targets), f64::NAN)
            .is_err()
    );
    assert_eq!(before, training.save().unwrap());
}
