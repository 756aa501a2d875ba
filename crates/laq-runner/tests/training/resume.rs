//! Resumption: a stopped run has the bits of one that was not.

use super::*;

#[test]
fn a_run_stopped_after_every_step_has_the_same_bits() {
    let dir = TestDir::new();
    for method in METHODS {
        let experiment = dir.experiment(method, "");
        let (whole, parts) = (format!("{method}-whole"), format!("{method}-parts"));
        let summary = dir.train(&experiment, &whole).expect("a whole run");
        assert_eq!((summary.status, summary.steps), (Status::Finished, 15));
        let mut sessions = 0;
        loop {
            sessions += 1;
            let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
            let summary = dir
                .train_until(&experiment, &parts, None, stop)
                .expect("a part of a run");
            assert_eq!(read_summary(&dir.path(&parts)).as_ref(), Some(&summary));
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
        assert_eq!(run_bits(&dir, &whole), run_bits(&dir, &parts), "{method}");
    }
}

/// The start is set before the first step, and not again by a resumed run.
#[test]
fn trained_scales_start_where_the_experiment_says() {
    let dir = TestDir::new();
    let experiment = dir.experiment("ttq", "quantize.scale_start = 1.0");
    let summary = dir.train(&experiment, "whole").expect("a whole run");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 3, .. });
    while dir
        .train_until(&experiment, "parts", None, stop)
        .expect("a part of a run")
        .status
        != Status::Finished
    {}
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "parts"));
    let scales = |name: &str| -> Vec<f32> {
        let epochs = read_epochs(&dir.path(name));
        let layers = epochs[0].layers.iter();
        layers.flat_map(|layer| layer.scale.clone()).collect()
    };
    // Five steps of at most the learning rate each.
    let (found, largest) = (scales("whole"), 5.0 * experiment.train.learning_rate as f32);
    assert!(
        !found.is_empty() && found.iter().all(|s| (s - 1.0).abs() <= 1.01 * largest),
        "{found:?}"
    );
    let from_twn = dir.experiment("ttq", "");
    dir.train(&from_twn, "twn").expect("a run");
    assert!(scales("twn").iter().all(|scale| *scale < 0.5));
    assert_ne!(
        summary.key,
        read_summary(&dir.path("twn")).expect("a summary").key
    );
}

/// Scales of rows and blocks are kept as those of gates.
#[test]
fn finer_scales_are_resumed_with_the_same_bits() {
    let dir = TestDir::new();
    for (method, granularity) in [("lat-a", "row"), ("lat2-e", "block:4"), ("ttq", "block:5")] {
        let more = format!("quantize.granularity = \"{granularity}\"");
        let experiment = dir.experiment(method, &more);
        let name = |part: &str| format!("{method}-{part}");
        dir.train(&experiment, &name("whole")).expect("a whole run");
        let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 4, .. });
        let train = &mut || dir.train_until(&experiment, &name("parts"), None, stop);
        while train().expect("a part of a run").status != Status::Finished {}
        assert_eq!(
            run_bits(&dir, &name("whole")),
            run_bits(&dir, &name("parts"))
        );
        // A line of the metrics has the gates, whatever the number of scales.
        let layers = |name: &str| read_epochs(&dir.path(name))[0].layers.len();
        dir.train(&dir.experiment(method, ""), method)
            .expect("a run");
        assert_eq!(layers(&name("whole")), layers(method));
    }
}

#[test]
fn a_run_stopped_in_evaluation_has_the_same_bits() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "whole").expect("a whole run");
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
        let summary = dir
            .train_until(&experiment, "parts", None, stop)
            .expect("a part of a run");
        assert_eq!(
            (summary.status, summary.epochs_done),
            (Status::Interrupted, 0)
        );
    }
    assert!(evaluated > 0);
    dir.train(&experiment, "parts").expect("the rest");
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "parts"));
}

/// What a killed process leaves behind is the folder as it was at some moment.
#[test]
fn a_run_resumes_from_its_folder_at_any_step() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "checkpoint.minutes = 0");
    let mut moments = 0;
    let stop = &mut |event: &Event<'_>| {
        if matches!(
            event,
            Event::Saved { .. } | Event::Epoch(_) | Event::Evaluating { batch: 0, .. }
        ) {
            copy(&dir.path("whole"), &dir.path(&format!("moment-{moments}")));
            moments += 1;
        }
        false
    };
    dir.train_until(&experiment, "whole", None, stop)
        .expect("a whole run");
    assert!(moments > 15, "{moments}");
    for moment in 0..moments {
        let name = format!("moment-{moment}");
        dir.train(&experiment, &name).expect("the rest of a run");
        assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, &name), "{name}");
    }
}

/// Epochs between two checkpoints are repeated.
#[test]
fn a_run_resumes_from_a_checkpoint_of_an_earlier_epoch() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "checkpoint.minutes = 10080");
    let (mut epochs, mut saved) = (0, Vec::new());
    let stop = &mut |event: &Event<'_>| {
        match event {
            Event::Epoch(_) => {
                epochs += 1;
                copy(&dir.path("whole"), &dir.path(&format!("epoch-{epochs}")));
            }
            Event::Saved { epoch, step } => saved.push((*epoch, *step)),
            _ => {}
        }
        false
    };
    dir.train_until(&experiment, "whole", None, stop)
        .expect("a whole run");
    assert_eq!((epochs, saved), (3, vec![(1, 0), (4, 0)]));
    for epoch in 1..=3 {
        let name = format!("epoch-{epoch}");
        assert_eq!(read_epochs(&dir.path(&name)).len(), epoch);
        dir.train(&experiment, &name).expect("the rest of a run");
        assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, &name), "{name}");
    }
}

#[test]
fn a_finished_run_is_not_changed() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    let first = dir.train(&experiment, "run").expect("a run");
    let before = fs::read(dir.path("run").join("summary.json")).expect("a summary");
    let mut events = 0;
    let again = dir
        .train_until(&experiment, "run", None, &mut |_| {
            events += 1;
            false
        })
        .expect("the same run");
    assert_eq!((first, 0), (again, events));
    assert_eq!(
        fs::read(dir.path("run").join("summary.json")).expect("a summary"),
        before
    );
}

#[test]
fn a_finished_run_keeps_its_packed_network_alone() {
    let dir = TestDir::new();
    for method in ["full", "lat-a", "ttq"] {
        let experiment = dir.experiment(method, "checkpoint.keep = \"packed\"");
        let file = |name: &str| dir.path(method).join(name);
        let mut before = Vec::new();
        let stop = &mut |event: &Event<'_>| {
            if matches!(event, Event::Saved { epoch: 4, .. }) {
                before = fs::read(file("last.safetensors")).expect("a checkpoint");
            }
            false
        };
        let summary = dir
            .train_until(&experiment, method, None, stop)
            .expect("a run");
        let weights =
            || ["last", "best", "packed"].map(|n| file(&format!("{n}.safetensors")).exists());
        assert_eq!(weights(), [false, false, true]);
        let source = Source::Split {
            split: Split::Test,
            data_dir: None,
        };
        let found = evaluate(
            &dir.path(method),
            &source,
            DeviceOptions::CPU,
            None,
            &mut |_, _| {},
        )
        .expect("an evaluation");
        assert_eq!(Some(found.loss), summary.test_loss);
        assert_eq!(
            dir.train(&experiment, method).expect("the same run"),
            summary
        );
        // Another experiment is refused, as with checkpoints.
        let other = dir.experiment(method, "checkpoint.keep = \"packed\"\ntrain.seed = 9");
        let error = dir.train(&other, method).expect_err("another experiment");
        assert!(matches!(error, RunError::OtherExperiment { .. }), "{error}");
        let summary_file = fs::read(file("summary.json")).expect("a summary");
        fs::write(file("summary.json"), "{}").expect("written");
        let error = dir.train(&experiment, method).expect_err("no summary");
        assert!(
            matches!(error, RunError::PackedWithoutSummary { .. }),
            "{error}"
        );
        fs::write(file("summary.json"), summary_file).expect("written");
        // A process that is killed in between leaves the last checkpoint.
        fs::write(file("last.safetensors"), &before).expect("written");
        assert_eq!(
            dir.train(&experiment, method).expect("the same run"),
            summary
        );
        assert_eq!(weights(), [false, false, true]);
    }
}

#[test]
fn a_run_resumes_from_the_best_checkpoint_without_the_last() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "whole").expect("a whole run");
    let stop = &mut at(3, 2);
    dir.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    fs::remove_file(dir.path("run").join("last.safetensors")).expect("removed");
    dir.train(&experiment, "run").expect("the rest");
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "run"));
}

#[test]
fn a_run_does_not_resume_on_another_text() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
    dir.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    let text = fs::read_to_string(dir.path("text.txt")).expect("the text");
    fs::write(dir.path("text.txt"), text.replace("gull", "lamp")).expect("another text");
    let error = dir.train(&experiment, "run").expect_err("another text");
    assert!(matches!(error, RunError::OtherData { .. }), "{error:?}");
}
