//! The training loop: the same bits however a run is stopped and on however many threads, and what it leaves behind.

mod common;

use std::fs;
use std::path::Path;

use common::{Lab, bits, run_bits};
use laq_datasets::Split;
use laq_runner::RunError;
use laq_runner::checkpoint::Checkpoint;
use laq_runner::config::{load, parse};
use laq_runner::device::DeviceOptions;
use laq_runner::estimate::estimate;
use laq_runner::evaluate::{Source, evaluate};
use laq_runner::record::{ComparisonRecord, Status};
use laq_runner::run_folder::{RunFolder, read_summary};
use laq_runner::train::Event;

/// Methods whose state goes from step to step in different ways: none, levels, trained scales, two scales.
const METHODS: [&str; 6] = [
    "full",
    "binary-connect",
    "lat-a",
    "ttq",
    "lat2-a",
    "laq-log-3",
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

#[test]
fn a_run_that_is_stopped_after_every_step_has_the_same_bits() {
    let lab = Lab::new();
    for method in METHODS {
        let experiment = lab.experiment(method, "");
        let (whole, parts) = (format!("{method}-whole"), format!("{method}-parts"));
        let summary = lab.train(&experiment, &whole).expect("a whole run");
        assert_eq!((summary.status, summary.steps), (Status::Finished, 15));
        let mut sessions = 0;
        loop {
            sessions += 1;
            let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
            let summary = lab
                .train_until(&experiment, &parts, None, stop)
                .expect("a part of a run");
            assert_eq!(read_summary(&lab.path(&parts)).as_ref(), Some(&summary));
            if summary.status == Status::Finished {
                break;
            }
            assert_eq!(
                (summary.status, summary.steps),
                (Status::Interrupted, sessions)
            );
        }
        // One session a step, and one that evaluates the last epoch.
        assert_eq!(sessions, 16);
        assert_eq!(run_bits(&lab, &whole), run_bits(&lab, &parts), "{method}");
    }
}

#[test]
fn a_run_that_is_stopped_in_its_evaluations_has_the_same_bits() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    lab.train(&experiment, "whole").expect("a whole run");
    let mut evaluated = 0;
    for split in [Split::Validation, Split::Test, Split::Validation] {
        let stop = &mut |event: &Event<'_>| match event {
            Event::Evaluating {
                split: found,
                batch: 1,
            } if *found == split => true,
            Event::Evaluating { .. } => {
                evaluated += 1;
                false
            }
            _ => false,
        };
        let summary = lab
            .train_until(&experiment, "parts", None, stop)
            .expect("a part of a run");
        assert_eq!(
            (summary.status, summary.epochs_done),
            (Status::Interrupted, 0)
        );
    }
    assert!(evaluated > 0);
    lab.train(&experiment, "parts").expect("the rest");
    assert_eq!(run_bits(&lab, "whole"), run_bits(&lab, "parts"));
}

/// What a killed process leaves behind is the folder as it was at some moment.
#[test]
fn a_run_goes_on_from_the_folder_of_any_moment() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "checkpoint.minutes = 0");
    let mut moments = 0;
    let stop = &mut |event: &Event<'_>| {
        if matches!(
            event,
            Event::Saved { .. } | Event::Epoch(_) | Event::Evaluating { batch: 0, .. }
        ) {
            copy(&lab.path("whole"), &lab.path(&format!("moment-{moments}")));
            moments += 1;
        }
        false
    };
    lab.train_until(&experiment, "whole", None, stop)
        .expect("a whole run");
    assert!(moments > 15, "{moments}");
    for moment in 0..moments {
        let name = format!("moment-{moment}");
        lab.train(&experiment, &name).expect("the rest of a run");
        assert_eq!(run_bits(&lab, "whole"), run_bits(&lab, &name), "{name}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let lab = Lab::new();
    for method in METHODS {
        let experiment = lab.experiment(method, "model.hidden = 40\ntrain.epochs = 1");
        let run = |threads| {
            let name = format!("{method}-{threads}");
            let summary = lab
                .train_until(&experiment, &name, Some(threads), &mut |_| false)
                .expect("a run");
            assert_eq!(summary.threads, threads);
            run_bits(&lab, &name)
        };
        let one = run(1);
        assert_eq!(one, run(2), "{method}");
        assert_eq!(one, run(5), "{method}");
    }
}

#[test]
fn another_seed_gives_other_numbers() {
    let lab = Lab::new();
    let loss = |seed: u64| {
        let experiment = lab.experiment("lat-a", &format!("train.epochs = 1\ntrain.seed = {seed}"));
        lab.train(&experiment, &seed.to_string())
            .expect("a run")
            .train_loss
    };
    assert_ne!(loss(1), loss(2));
}

#[test]
fn the_best_epoch_has_the_lowest_validation_loss() {
    let lab = Lab::new();
    // One batch again and again is soon learnt by heart, and then the others get worse.
    let experiment = lab.experiment(
        "full",
        "train = { epochs = 40, max_batches = 1, learning_rate = 0.1 }\nmodel.hidden = 24",
    );
    let summary = lab.train(&experiment, "run").expect("a run");
    let metrics = lab.metrics("run");
    assert!(metrics.iter().map(|record| record.epoch).eq(1..=40));
    let mut lowest = f64::INFINITY;
    let mut best = None;
    for record in &metrics {
        let improved = record.validation_loss <= lowest;
        assert_eq!(
            record.test_loss.is_some(),
            improved,
            "epoch {}",
            record.epoch
        );
        if improved {
            (lowest, best) = (record.validation_loss, Some(record));
        }
    }
    let best = best.expect("an epoch");
    assert!(
        best.epoch < 40,
        "learning by heart was meant to spoil the last epoch"
    );
    assert_eq!(summary.best_epoch, Some(best.epoch));
    assert_eq!(summary.train_loss, Some(best.train_loss));
    assert_eq!(summary.validation_loss, Some(best.validation_loss));
    assert_eq!(summary.test_loss, best.test_loss);
}

#[test]
fn of_equally_good_epochs_the_latest_is_best() {
    let lab = Lab::new();
    // Steps too small to change any loss.
    let experiment = lab.experiment("full", "train.learning_rate = 1e-30");
    let summary = lab.train(&experiment, "run").expect("a run");
    let losses: Vec<_> = lab
        .metrics("run")
        .iter()
        .map(|record| record.validation_loss)
        .collect();
    assert_eq!(losses, [losses[0]; 3]);
    assert_eq!(summary.best_epoch, Some(3));
}

#[test]
fn training_learns_and_the_schedule_is_followed() {
    let lab = Lab::new();
    let more = "model.hidden = 24\ntrain.epochs = 6\ntrain.max_batches = 50\n\
                train.schedule = { kind = \"milestones\", epochs = [4], factor = 0.1 }";
    for method in ["full", "lat-a"] {
        let summary = lab
            .train(&lab.experiment(method, more), method)
            .expect("a run");
        let metrics = lab.metrics(method);
        let rates: Vec<_> = metrics.iter().map(|record| record.learning_rate).collect();
        assert_eq!(rates, [0.02, 0.02, 0.02, 0.02, 0.02 * 0.1, 0.02 * 0.1]);
        // The untrained network knows nothing of its symbols.
        let untrained = 21_f64.ln();
        let test = summary.test_loss.expect("a test loss");
        assert!(test < 0.75 * untrained, "{method}: {test} of {untrained}");
    }
}

#[test]
fn the_run_folder_says_what_was_run() {
    let lab = Lab::new();
    let more = "title = \"mine\"\npaper = { value = 1.25, status = \"printed\", epochs = 200 }";
    let experiment = lab.experiment("lat2-a", more);
    let summary = lab.train(&experiment, "run").expect("a run");
    let folder = lab.path("run");
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
    assert_eq!(fields(&lab.metrics("run")[0]), METRICS);
    let layers = &lab.metrics("run")[0].layers;
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

/// The fields of `summary.json`; `xtask` and whoever else reads it rely on these names.
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
fn an_evaluation_gives_the_losses_of_the_training() {
    let lab = Lab::new();
    let experiment = lab.experiment("ttq", "");
    let summary = lab.train(&experiment, "run").expect("a run");
    let on = |source: Source| {
        evaluate(
            &lab.path("run"),
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
        (280, text_of(&lab, 0.9..1.0).len() - 1)
    );
    assert_eq!(
        Some(on(split(Split::Validation)).loss),
        summary.validation_loss
    );
    // The same characters as a text of their own.
    let part = lab.path("part.txt");
    fs::write(&part, text_of(&lab, 0.9..1.0)).expect("a temporary file");
    let found = on(Source::File(part.clone()));
    assert_eq!((Some(found.loss), found.examples), (summary.test_loss, 280));
    // A text of a single sequence, less than a batch.
    fs::write(&part, "wind tide sail").expect("a temporary file");
    let found = on(Source::File(part));
    assert_eq!((found.examples, found.left_out), (10, 3));
    assert!(found.loss.is_finite());
}

fn text_of(lab: &Lab, part: std::ops::Range<f64>) -> String {
    let text = fs::read_to_string(lab.path("text.txt")).expect("the text");
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
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    let found = estimate(&experiment, DeviceOptions::CPU, Some(2)).expect("an estimate");
    let mut batches = [0; 3];
    let summary = lab
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
fn a_finished_run_is_left_alone() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    let first = lab.train(&experiment, "run").expect("a run");
    let before = fs::read(lab.path("run").join("summary.json")).expect("a summary");
    let mut events = 0;
    let again = lab
        .train_until(&experiment, "run", None, &mut |_| {
            events += 1;
            false
        })
        .expect("the same run");
    assert_eq!((first, 0), (again, events));
    assert_eq!(
        fs::read(lab.path("run").join("summary.json")).expect("a summary"),
        before
    );
}

#[test]
fn metrics_are_cut_back_to_the_checkpoint() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    lab.train(&experiment, "whole").expect("a whole run");
    let stop = &mut |event: &Event<'_>| {
        matches!(
            event,
            Event::Step {
                epoch: 2,
                step: 3,
                ..
            }
        )
    };
    lab.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    let path = lab.path("run").join("metrics.jsonl");
    let first = fs::read_to_string(&path).expect("metrics");
    // The line of an epoch that no checkpoint knows of, and half a line.
    let second = first.replace("\"epoch\":1", "\"epoch\":2");
    fs::write(
        &path,
        format!("{first}{second}{}", &first[..first.len() / 2]),
    )
    .expect("metrics");
    lab.train(&experiment, "run").expect("the rest");
    assert_eq!(run_bits(&lab, "whole"), run_bits(&lab, "run"));
}

#[test]
fn comparisons_change_nothing_and_survive_interruptions() {
    let lab = Lab::new();
    let read = |name: &str| {
        fs::read_to_string(lab.path(name).join("comparison.jsonl")).expect("comparisons")
    };
    for method in ["lat-a", "lat2-a", "laq-linear-4", "laq-log-3"] {
        let plain = format!("{method}-plain");
        lab.train(&lab.experiment(method, ""), &plain)
            .expect("a run without comparisons");
        assert!(!lab.path(&plain).join("comparison.jsonl").exists());
        let experiment = lab.experiment(method, "comparison.every = 4");
        let whole = format!("{method}-whole");
        lab.train(&experiment, &whole).expect("a whole run");
        assert_eq!(run_bits(&lab, &plain), run_bits(&lab, &whole), "{method}");

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

        // Stopped after every step, and once with the line of a step that no checkpoint knows of, and half a line.
        let parts = format!("{method}-parts");
        loop {
            let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
            let summary = lab
                .train_until(&experiment, &parts, None, stop)
                .expect("a part of a run");
            if summary.status == Status::Finished {
                break;
            }
            if summary.steps == 6 {
                let spoilt = format!("{text}{}", &text[..text.len() / 7]);
                fs::write(lab.path(&parts).join("comparison.jsonl"), spoilt).expect("written");
            }
        }
        assert_eq!(text, read(&parts), "{method}");
        assert_eq!(run_bits(&lab, &whole), run_bits(&lab, &parts), "{method}");
    }
}

#[test]
fn a_finished_run_is_not_trained_again_to_be_compared() {
    let lab = Lab::new();
    let summary = lab
        .train(&lab.experiment("lat-a", ""), "run")
        .expect("a run");
    let asked = lab.experiment("lat-a", "comparison.every = 1");
    assert_eq!(lab.train(&asked, "run").expect("the same run"), summary);
    assert!(!lab.path("run/comparison.jsonl").exists());
}

#[test]
fn without_its_last_checkpoint_a_run_goes_on_from_the_best() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    lab.train(&experiment, "whole").expect("a whole run");
    let stop = &mut |event: &Event<'_>| {
        matches!(
            event,
            Event::Step {
                epoch: 3,
                step: 2,
                ..
            }
        )
    };
    lab.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    fs::remove_file(lab.path("run").join("last.safetensors")).expect("removed");
    lab.train(&experiment, "run").expect("the rest");
    assert_eq!(run_bits(&lab, "whole"), run_bits(&lab, "run"));
}

#[test]
fn a_number_that_is_none_stops_the_run_and_names_the_layer() {
    let lab = Lab::new();
    let good = lab.experiment("lat-a", "train.epochs = 2");
    lab.train(&good, "good").expect("a run");
    // The output layer is not clipped: a step of this size makes its product overflow.
    let bad = lab.experiment("lat-a", "train.learning_rate = 1e38");
    let error = lab.train(&bad, "bad").expect_err("an overflow");
    assert!(matches!(error, RunError::Step { .. }), "{error:?}");
    let message = error.to_string();
    for part in [
        "epoch 1",
        "layer",
        "output",
        "last.safetensors is the last good checkpoint",
        "learning rate of 1e38",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    let summary = read_summary(&lab.path("bad")).expect("a summary");
    assert_eq!(
        (summary.status, summary.reason),
        (Status::Failed, Some(message))
    );
    let kept = Checkpoint::read(&lab.path("bad").join("last.safetensors"))
        .expect("the last good checkpoint");
    let finite = |tensor: &laq_models::StateTensor| match &tensor.data {
        laq_models::StateData::F32(values) => values.iter().all(|value| value.is_finite()),
        _ => true,
    };
    assert!(kept.network.iter().all(finite));
}

/// The same after epochs that went well: their checkpoints stay as they were.
#[test]
fn a_late_overflow_keeps_the_checkpoints() {
    let lab = Lab::new();
    let experiment = lab.experiment("full", "");
    let stop = &mut |event: &Event<'_>| {
        matches!(
            event,
            Event::Step {
                epoch: 2,
                step: 2,
                ..
            }
        )
    };
    lab.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    let (last, best) = (
        lab.path("run").join("last.safetensors"),
        lab.path("run").join("best.safetensors"),
    );
    let mut poisoned = Checkpoint::read(&last).expect("a checkpoint");
    let weights = poisoned
        .network
        .iter_mut()
        .find(|tensor| tensor.name.contains("weight_hh"))
        .expect("weights");
    let laq_models::StateData::F32(values) = &mut weights.data else {
        panic!("weights are f32")
    };
    values[0] = f32::NAN;
    poisoned.write(&last).expect("written");
    let (before_last, before_best) = (
        fs::read(&last).expect("read"),
        fs::read(&best).expect("read"),
    );
    let message = lab
        .train(&experiment, "run")
        .expect_err("a poisoned weight")
        .to_string();
    assert!(message.contains("weight_hh"), "{message}");
    assert_eq!(fs::read(&last).expect("read"), before_last);
    assert_eq!(fs::read(&best).expect("read"), before_best);
    // What the message recommends for a bad last checkpoint works.
    fs::remove_file(&last).expect("removed");
    assert_eq!(
        lab.train(&experiment, "run").expect("the rest").status,
        Status::Finished
    );
}

/// `/dev/full` takes no byte, as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_stops_the_run_and_spoils_nothing() {
    use std::os::unix::fs::symlink;
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    lab.train(&experiment, "whole").expect("a whole run");
    for name in [
        "last.safetensors.tmp",
        "best.safetensors.tmp",
        "metrics.jsonl",
        "summary.json.tmp",
    ] {
        let run = format!("run-{name}");
        let stop = &mut |event: &Event<'_>| {
            matches!(
                event,
                Event::Step {
                    epoch: 1,
                    step: 2,
                    ..
                }
            )
        };
        lab.train_until(&experiment, &run, None, stop)
            .expect("a part of a run");
        let last = lab.path(&run).join("last.safetensors");
        let before = bits(&last);
        let full = lab.path(&run).join(name);
        let fill = &mut |event: &Event<'_>| {
            if matches!(
                event,
                Event::Step {
                    epoch: 1,
                    step: 4,
                    ..
                }
            ) {
                symlink("/dev/full", &full).expect("a link");
            }
            false
        };
        let message = lab
            .train_until(&experiment, &run, None, fill)
            .expect_err("a full disk")
            .to_string();
        let file = name.trim_end_matches(".tmp");
        assert!(
            message.contains("cannot write") && message.contains(file),
            "{message}"
        );
        assert!(
            message.contains("No space left") && message.contains("free some space"),
            "{message}"
        );
        // The summary comes after the checkpoint, everything else before it.
        assert_eq!(bits(&last) == before, name != "summary.json.tmp", "{name}");
        // With space again it goes on, with the same bits.
        if full.is_symlink() {
            fs::remove_file(&full).expect("removed");
        }
        lab.train(&experiment, &run).expect("the rest");
        assert_eq!(run_bits(&lab, "whole"), run_bits(&lab, &run), "{name}");
    }
}

#[test]
fn another_text_is_not_gone_on_with() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
    lab.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    let text = fs::read_to_string(lab.path("text.txt")).expect("the text");
    fs::write(lab.path("text.txt"), text.replace("gull", "lamp")).expect("another text");
    let message = lab
        .train(&experiment, "run")
        .expect_err("another text")
        .to_string();
    assert!(
        message.contains("text.txt") && message.contains("the content differs"),
        "{message}"
    );
}

#[test]
fn a_held_folder_is_named_with_its_process() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    let held = RunFolder::open(&lab.path("run")).expect("the folder");
    let error = lab.train(&experiment, "run").expect_err("a held folder");
    let RunError::Locked { pid, .. } = &error else {
        panic!("{error:?}")
    };
    if cfg!(unix) {
        assert_eq!(*pid, Some(std::process::id()));
    }
    assert!(
        error
            .to_string()
            .contains(&lab.path("run").display().to_string()),
        "{error}"
    );
    drop(held);
    lab.train(&experiment, "run").expect("a free folder");
}
