//! The files of a run folder, evaluations and estimates.

use super::*;

#[test]
fn the_run_folder_has_experiment_and_environment() {
    let test_dir = TestDir::new();
    let more = "title = \"mine\"\npaper = { value = 1.25, status = \"printed\", epochs = 200 }";
    let experiment = test_dir.experiment("lat2-a", more);
    let summary = test_dir.train(&experiment, "run").expect("a run");
    let folder = test_dir.path("run");
    assert_eq!(
        load(&folder.join("config.toml"), &[], &[]).expect("its own print"),
        experiment
    );
    assert_eq!(read_summary(&folder), Some(summary.clone()));
    assert_eq!(
        (summary.title.as_str(), summary.method.as_str()),
        ("mine", "lat2-a")
    );
    assert_eq!(summary.paper, experiment.paper);
    assert_eq!(
        (summary.epochs, summary.epochs_done, summary.max_batches),
        (3, 3, Some(5))
    );
    assert_eq!(summary.stand_in, None);
    assert!(summary.seconds > 0.0 && summary.quantize_share > 0.0 && summary.quantize_share < 1.0);
    assert_eq!(
        summary.peak_memory_bytes.is_some(),
        cfg!(target_os = "linux")
    );
    let environment = fs::read_to_string(folder.join("environment.json")).expect("an environment");
    let environment: serde_json::Value = serde_json::from_str(&environment).expect("JSON");
    for name in [
        "commit",
        "laq",
        "training_version",
        "cpu",
        "kernel",
        "threads",
        "os",
        "date",
    ] {
        assert!(!environment[name].is_null(), "{name}");
    }
    assert_eq!(fields(&summary), SUMMARY);
    assert_eq!(fields(&test_dir.metrics("run")[0]), METRICS);
    let layers = &test_dir.metrics("run")[0].layers;
    assert_eq!(
        layers.len(),
        8,
        "four gates, from the input and from the state"
    );
    assert!(
        layers
            .iter()
            .all(|layer| layer.scale.len() == 2 && layer.weighted_error > 0.0)
    );
    assert!(layers.iter().any(|layer| layer.sparsity > 0.0));
    let names: Vec<_> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().ends_with(".tmp")),
        "{names:?}"
    );
}

/// The fields of `summary.json`, which other programs read.
const SUMMARY: [&str; 27] = [
    "status",
    "reason",
    "key",
    "training_version",
    "title",
    "method",
    "data",
    "stand_in",
    "epochs",
    "epochs_done",
    "best_epoch",
    "train_loss",
    "validation_loss",
    "test_loss",
    "validation_error",
    "test_error",
    "seconds",
    "seconds_per_step",
    "quantize_share",
    "steps",
    "max_batches",
    "paper",
    "commit",
    "cpu",
    "threads",
    "kernel",
    "peak_memory_bytes",
];

/// The fields of a line of `metrics.jsonl`; likewise.
const METRICS: [&str; 11] = [
    "epoch",
    "train_loss",
    "validation_loss",
    "test_loss",
    "validation_error",
    "test_error",
    "learning_rate",
    "seconds",
    "seconds_per_step",
    "quantize_share",
    "layers",
];

fn fields(record: &impl serde::Serialize) -> Vec<String> {
    let value = serde_json::to_value(record).expect("JSON");
    value
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect()
}

#[test]
fn evaluation_reproduces_the_losses_of_training() {
    let test_dir = TestDir::new();
    let experiment = test_dir.experiment("ttq", "");
    let summary = test_dir.train(&experiment, "run").expect("a run");
    let on = |source: Source| {
        evaluate(
            &test_dir.path("run"),
            &source,
            DeviceOptions::CPU,
            Some(1),
            &mut |_, _| {},
        )
        .expect("an evaluation")
    };
    let split = |split| Source::Split {
        split,
        data_dir: None,
    };
    let test = on(split(Split::Test));
    assert_eq!(Some(test.loss), summary.test_loss);
    assert_eq!(Some(test.epochs_done), summary.best_epoch);
    assert_eq!(
        (test.examples, test.examples + test.left_out),
        (280, text_of(&test_dir, 0.9..1.0).len() - 1)
    );
    assert_eq!(
        Some(on(split(Split::Validation)).loss),
        summary.validation_loss
    );
    // The same characters as a text of their own.
    let part = test_dir.path("part.txt");
    fs::write(&part, text_of(&test_dir, 0.9..1.0)).expect("a temporary file");
    let found = on(Source::File(part.clone()));
    assert_eq!((Some(found.loss), found.examples), (summary.test_loss, 280));
    // A text of a single sequence, less than a batch.
    fs::write(&part, "wind tide sail").expect("a temporary file");
    let found = on(Source::File(part));
    assert_eq!((found.examples, found.left_out), (10, 3));
    assert!(found.loss.is_finite());
}

fn text_of(test_dir: &TestDir, part: std::ops::Range<f64>) -> String {
    let text = fs::read_to_string(test_dir.path("text.txt")).expect("the text");
    let place = |share: f64| {
        let train = (text.len() as f64 * 0.8).floor() as usize;
        if share < 1.0 {
            train + (text.len() as f64 * 0.1).floor() as usize
        } else {
            text.len()
        }
    };
    text[place(part.start)..place(part.end)].to_string()
}

#[test]
fn an_estimate_counts_the_steps_of_the_run() {
    let test_dir = TestDir::new();
    let experiment = test_dir.experiment("lat-a", "");
    let found = estimate(&experiment, DeviceOptions::CPU, Some(2)).expect("an estimate");
    let mut batches = [0; 3];
    let summary = test_dir
        .train_until(&experiment, "run", None, &mut |event| {
            if let Event::Started { batches: found, .. } = event {
                batches = *found;
            }
            false
        })
        .expect("a run");
    assert_eq!(
        [
            found.batches.train,
            found.batches.validation,
            found.batches.test
        ],
        batches
    );
    assert_eq!(
        (found.steps, &found.key, found.threads),
        (summary.steps, &summary.key, 2)
    );
    let evaluations = 3.0 * (batches[1] + batches[2]) as f64;
    let expected = 15.0 * found.seconds_per_step + evaluations * found.seconds_per_evaluation;
    assert!((found.seconds - expected).abs() < 1e-9 && found.seconds > 0.0);
}

#[test]
fn an_estimate_needs_no_data() {
    let experiment = parse(
        "data = { name = \"war-and-peace\", dir = \"/nowhere\", length = 100, batch = 100 }\n\
         model.hidden = 2\nquantize.method = \"full\"\ntrain.epochs = 1",
        "test",
    )
    .expect("an experiment");
    let found = estimate(&experiment, DeviceOptions::CPU, None).expect("an estimate");
    // 80 %, 10 % and 10 % of 3,258,246 characters, by 10,000.
    assert_eq!(
        [
            found.batches.train,
            found.batches.validation,
            found.batches.test
        ],
        [260, 32, 32]
    );
}

#[test]
fn metrics_are_cut_back_to_the_checkpoint() {
    let test_dir = TestDir::new();
    let experiment = test_dir.experiment("lat-a", "");
    test_dir.train(&experiment, "whole").expect("a whole run");
    let stop = &mut at(2, 3);
    test_dir
        .train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    let path = test_dir.path("run").join("metrics.jsonl");
    let first = fs::read_to_string(&path).expect("metrics");
    // The line of an epoch that no checkpoint knows of, and half a line.
    let second = first.replace("\"epoch\":1", "\"epoch\":2");
    fs::write(
        &path,
        format!("{first}{second}{}", &first[..first.len() / 2]),
    )
    .expect("metrics");
    test_dir.train(&experiment, "run").expect("the rest");
    assert_eq!(run_bits(&test_dir, "whole"), run_bits(&test_dir, "run"));
}

#[test]
fn comparisons_change_nothing_and_survive_interruptions() {
    let test_dir = TestDir::new();
    let read = |name: &str| {
        fs::read_to_string(test_dir.path(name).join("comparison.jsonl")).expect("comparisons")
    };
    for method in ["lat-a", "lat2-a", "laq-linear-4", "laq-log-3"] {
        let plain = format!("{method}-plain");
        test_dir
            .train(&test_dir.experiment(method, ""), &plain)
            .expect("a run without comparisons");
        assert!(!test_dir.path(&plain).join("comparison.jsonl").exists());
        let experiment = test_dir.experiment(method, "comparison.every = 4");
        let whole = format!("{method}-whole");
        test_dir.train(&experiment, &whole).expect("a whole run");
        assert_eq!(
            run_bits(&test_dir, &plain),
            run_bits(&test_dir, &whole),
            "{method}"
        );

        let text = read(&whole);
        let records: Vec<ComparisonRecord> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a record"))
            .collect();
        assert!(records.iter().map(|record| record.step).eq([4, 8, 12]));
        for record in &records {
            assert_eq!(record.layers.len(), 8);
            let sum: f64 = record.layers.iter().map(|layer| layer.weighted_error).sum();
            assert_eq!(record.weighted_error, sum);
            for layer in &record.layers {
                let ratio = layer.weighted_error / layer.exact_weighted_error;
                assert_eq!(layer.ratio, Some(ratio));
                // The exact scale is rounded to an f32.
                assert!((1.0 - 1e-6..10.0).contains(&ratio), "{method}: {layer:?}");
            }
        }

        // Stopped after every step, and once with the line of a step that no checkpoint knows of,
        // and half a line.
        let parts = format!("{method}-parts");
        loop {
            let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
            let summary = test_dir
                .train_until(&experiment, &parts, None, stop)
                .expect("a part of a run");
            if summary.status == Status::Finished {
                break;
            }
            if summary.steps == 6 {
                let spoilt = format!("{text}{}", &text[..text.len() / 7]);
                fs::write(test_dir.path(&parts).join("comparison.jsonl"), spoilt).expect("written");
            }
        }
        assert_eq!(text, read(&parts), "{method}");
        assert_eq!(
            run_bits(&test_dir, &whole),
            run_bits(&test_dir, &parts),
            "{method}"
        );
    }
}

#[test]
fn a_finished_run_is_not_trained_again_to_be_compared() {
    let test_dir = TestDir::new();
    let summary = test_dir
        .train(&test_dir.experiment("lat-a", ""), "run")
        .expect("a run");
    let asked = test_dir.experiment("lat-a", "comparison.every = 1");
    assert_eq!(
        test_dir.train(&asked, "run").expect("the same run"),
        summary
    );
    assert!(!test_dir.path("run/comparison.jsonl").exists());
}

/// A process that was killed leaves its temporary file, also of a file that a finished run does not write again.
#[test]
fn temporary_files_of_killed_processes_are_removed() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let path = |name: &str| dir.path("run").join(name);
    let (left, other) = ("environment.json.12-0.laq.tmp", "notes.tmp");
    for name in [left, other] {
        fs::write(path(name), name).expect("written");
    }
    let bits = run_bits(&dir, "run");
    dir.train(&experiment, "run").expect("the finished run");
    assert!(!path(left).exists() && path(other).exists());
    assert_eq!(run_bits(&dir, "run"), bits);
}
