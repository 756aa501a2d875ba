//! Runs on images: resumption, the best epoch, and summaries.

mod common;

use common::{TestDir, run_bits};
use laq_datasets::Split;
use laq_runner::RunError;
use laq_runner::config::{Loss, Model, Schedule, parse};
use laq_runner::device::DeviceOptions;
use laq_runner::estimate::estimate;
use laq_runner::evaluate::{Source, evaluate};
use laq_runner::record::Status;
use laq_runner::summary::summarize;
use laq_runner::train::Event;

#[test]
fn a_run_that_is_stopped_anywhere_has_the_same_bits() {
    let dir = TestDir::new();
    for method in ["full", "lat-a", "ttq"] {
        let experiment = dir.digits(method, "");
        let (whole, parts) = (format!("{method}-whole"), format!("{method}-parts"));
        let summary = dir.train(&experiment, &whole).expect("a whole run");
        assert_eq!((summary.status, summary.steps), (Status::Finished, 15));
        let mut sessions = 0;
        loop {
            sessions += 1;
            let stop = &mut |event: &Event<'_>| match event {
                Event::Step { .. } => true,
                Event::Evaluating { batch, .. } => *batch == 40 && sessions % 2 == 0,
                _ => false,
            };
            let summary = dir
                .train_until(&experiment, &parts, Some(1 + sessions % 3), stop)
                .expect("a part of a run");
            if summary.status == Status::Finished {
                break;
            }
        }
        assert!(sessions > 15, "{sessions}");
        assert_eq!(run_bits(&dir, &whole), run_bits(&dir, &parts), "{method}");
    }
}

#[test]
fn the_best_epoch_has_the_fewest_errors_and_of_equal_ones_is_the_latest() {
    let dir = TestDir::new();
    // Too fast to get better with every epoch.
    let experiment = dir.digits("lat-a", "train.epochs = 8\ntrain.learning_rate = 0.3");
    let summary = dir.train(&experiment, "run").expect("a run");
    let records = dir.metrics("run");
    let errors: Vec<f64> = records
        .iter()
        .map(|record| record.validation_error.expect("a share of images"))
        .collect();
    let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
    let best = errors
        .iter()
        .rposition(|&error| error == least)
        .expect("one");
    assert_eq!(summary.best_epoch, Some(best as u32 + 1));
    assert_eq!(summary.validation_error, Some(least));
    assert_eq!(summary.test_error, records[best].test_error);
    assert_eq!(summary.test_loss, records[best].test_loss);
    let mut lowest = f64::INFINITY;
    for record in &records {
        let error = record.validation_error.expect("a share of images");
        assert_eq!(record.test_error.is_some(), error <= lowest, "{errors:?}");
        assert_eq!(record.test_error.is_some(), record.test_loss.is_some());
        lowest = lowest.min(error);
        // Of 1,000 images.
        assert!((10.0 * error - (10.0 * error).round()).abs() < 1e-9);
    }
}

#[test]
fn a_network_learns_the_digits() {
    let dir = TestDir::new();
    let more = "model = { filters = [8], units = [32] }\n\
                data.batch = 50\n\
                train = { epochs = 2, max_batches = 1000, schedule = { kind = \"every\", epochs = 1, factor = 0.3 } }";
    for method in ["full", "lat-e"] {
        let summary = dir.train(&dir.digits(method, more), method).expect("a run");
        assert_eq!(summary.steps, 160);
        let error = summary.test_error.expect("a share of images");
        assert!(error < 20.0, "{method}: {error} % of the test images");
    }
}

#[test]
fn an_evaluation_gives_the_errors_of_the_training() {
    let dir = TestDir::new();
    // 1,000 is no multiple of 16: the last batch is not full.
    let summary = dir.train(&dir.digits("lat2-a", ""), "run").expect("a run");
    let on = |split| {
        let source = Source::Split {
            split,
            data_dir: None,
        };
        evaluate(
            &dir.path("run"),
            &source,
            DeviceOptions::CPU,
            Some(1),
            &mut |_, _| {},
        )
        .expect("an evaluation")
    };
    let test = on(Split::Test);
    assert_eq!(test.error, summary.test_error);
    assert_eq!(Some(test.loss), summary.test_loss);
    assert_eq!((test.examples, test.left_out), (1000, 0));
    assert_eq!(on(Split::Validation).error, summary.validation_error);
    assert_eq!(on(Split::Train).examples, 4000);
    let text = Source::File(dir.path("text.txt"));
    let error = evaluate(
        &dir.path("run"),
        &text,
        DeviceOptions::CPU,
        Some(1),
        &mut |_, _| {},
    )
    .expect_err("a text");
    assert!(matches!(error, RunError::NoText { .. }), "{error}");
}

#[test]
fn an_estimate_needs_no_data() {
    let text = "model = { kind = \"feedforward\", filters = [2], units = [4] }\n\
                data = { name = \"svhn\", batch = 50 }\n\
                quantize.method = \"lat-a\"\n\
                train.epochs = 3";
    let experiment = parse(text, "my.toml").expect("a good experiment");
    let found = estimate(&experiment, DeviceOptions::CPU, Some(1)).expect("an estimate");
    // 598,388 / 6,000 / 26,032 images, of which the last 38 are left out of training.
    assert_eq!(
        (
            found.batches.train,
            found.batches.validation,
            found.batches.test
        ),
        (11_967, 120, 521)
    );
    assert_eq!(found.steps, 3 * 11_967);
}

#[test]
fn the_defaults_are_the_papers() {
    let text = "model.kind = \"feedforward\"\ndata.name = \"mnist\"\nquantize.method = \"lat-a\"";
    let experiment = parse(text, "my.toml").expect("a good experiment");
    let Model::Feedforward(model) = &experiment.model else {
        panic!("{:?}", experiment.model);
    };
    assert_eq!((model.filters.len(), &model.units), (0, &vec![2048; 3]));
    assert!(model.batch_norm && model.output_batch_norm);
    assert_eq!((model.norm_epsilon, model.norm_factor), (1e-4, 0.1));
    assert_eq!(model.loss, Loss::SquaredHinge);
    assert_eq!(experiment.data.batch, 100);
    assert_eq!(experiment.data.preprocessing.as_deref(), Some("mean-image"));
    assert_eq!(
        (experiment.train.epochs, experiment.train.learning_rate),
        (50, 0.01)
    );
    assert_eq!(
        experiment.train.schedule,
        Schedule::Milestones {
            epochs: vec![15, 25],
            factor: 0.1
        }
    );
}

#[test]
fn settings_for_the_other_kind_of_data_are_refused() {
    let small =
        "model.kind = \"feedforward\"\ndata.name = \"mnist\"\nquantize.method = \"lat-a\"\n";
    for (text, expected) in [
        (
            format!("{small}data.length = 10"),
            vec!["data.length = 10", "mnist is made of images"],
        ),
        (
            format!("{small}model.hidden = 10"),
            vec!["hidden", "filters"],
        ),
        (
            small.replace("mnist", "war-and-peace"),
            vec!["data.name", "cifar10", "is for images"],
        ),
        (
            small.replace("mnist", "minst"),
            vec!["did you mean \"mnist\"?"],
        ),
        (
            small.replace("feedforward", "feedfoward"),
            vec!["feedfoward", "char-lstm"],
        ),
        (
            "data.name = \"mnist\"\nquantize.method = \"full\"".into(),
            vec!["data.name", "war-and-peace", "\"char-lstm\" is for texts"],
        ),
        (
            "data = { name = \"demo\", preprocessing = \"none\" }\nquantize.method = \"full\""
                .into(),
            vec!["data.preprocessing = \"none\"", "demo is a text"],
        ),
        (
            format!("{small}data.preprocessing = \"mean\""),
            vec!["data.preprocessing = \"mean\"", "mean-image"],
        ),
        (
            format!("{small}model.filters = [0]"),
            vec!["model.filters = [0]", "1 to 65536"],
        ),
        (
            format!("{small}model.units = [70000]"),
            vec!["model.units = [70000]", "1 to 65536"],
        ),
        (
            format!("{small}model.convolutions = 0"),
            vec!["model.convolutions = 0", "1 to 16"],
        ),
        (
            format!("{small}model.norm_factor = 1.5"),
            vec!["model.norm_factor = 1.5", "at most 1"],
        ),
        (
            format!("{small}model.loss = \"hinge\""),
            vec!["hinge", "squared-hinge"],
        ),
    ] {
        let message = parse(&text, "my.toml").expect_err(&text).to_string();
        for part in expected {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[test]
fn impossible_networks_are_errors() {
    let dir = TestDir::new();
    for (more, expected) in [
        ("model.filters = [2, 2, 2, 2, 2]", "nothing would be left"),
        (
            "data.batch = 5000",
            "4000 images, expected at least data.batch = 5000",
        ),
        (
            // More than the memory too.
            "data.batch = 1000000\nmodel.filters = [512]",
            "4000 images, expected at least data.batch = 1000000",
        ),
        ("model.units = [65536, 65536, 65536]", "MB of memory"),
    ] {
        let found = dir.train(&dir.digits("full", more), "run");
        let message = found.expect_err(more).to_string();
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message:?}"
        );
    }
}

#[test]
fn a_summary_counts_weights_bits_and_operations() {
    let summary = |method: &str| {
        let text = format!(
            "model.kind = \"feedforward\"\ndata.name = \"mnist\"\nquantize.method = \"{method}\""
        );
        summarize(&parse(&text, "my.toml").expect("a good experiment")).expect("a summary")
    };
    let weights = 784 * 2048 + 2 * 2048 * 2048 + 2048 * 10;
    let others = 2 * (3 * 2048 + 10);
    for (method, bits, scales) in [
        ("full", 32, 0),
        ("lab", 1, 1),
        ("lat-a", 2, 1),
        ("lat2-e", 2, 2),
        ("laq-log-3", 3, 1),
        ("dorefa-3", 3, 1),
    ] {
        let found = summary(method);
        assert_eq!(found.bits, bits, "{method}");
        assert_eq!(found.layers.len(), 4);
        let total = &found.total;
        assert_eq!(
            (total.quantized_weights, total.other_weights),
            (weights, others)
        );
        assert_eq!(total.f32_bytes, 4 * (weights + others));
        let packed = weights * bits as usize / 8 + 4 * (4 * scales + others);
        assert_eq!(total.quantized_bytes, packed, "{method}");
        assert_eq!(total.operations, 2 * weights);
    }
    let text = "data.name = \"war-and-peace\"\nquantize.method = \"lat-a\"";
    let found = summarize(&parse(text, "my.toml").expect("a good experiment")).expect("a summary");
    assert_eq!(found.layers[0].quantized_weights, 2048 * (87 + 512));
    assert_eq!(found.layers[1].other_weights, 87 * 513);
}
