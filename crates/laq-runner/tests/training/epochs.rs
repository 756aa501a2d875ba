//! Runs that are resumed with another number of epochs than they were planned with.

use laq_runner::record::EarlierPlan;

use super::*;

/// The experiment with this number of epochs, and more.
fn planned(dir: &TestDir, method: &str, epochs: u32, more: &str) -> Experiment {
    dir.experiment(method, &format!("train.epochs = {epochs}\n{more}"))
}

fn test_loss(dir: &TestDir, name: &str) -> f64 {
    let source = Source::Split {
        split: Split::Test,
        data_dir: None,
    };
    let found = evaluate(
        &dir.path(name),
        &source,
        DeviceOptions::CPU,
        Some(1),
        &mut |_, _| {},
    );
    found.expect("an evaluation").loss
}

/// Of a finished run, of one within an epoch, and of one between epochs; with a learning rate that falls later on.
#[test]
fn more_epochs_have_the_bits_of_a_run_that_was_planned_with_them() {
    let dir = TestDir::new();
    let later = "train.schedule = { kind = \"milestones\", epochs = [4], factor = 0.5 }";
    for (method, more) in [("full", ""), ("lat-a", later), ("ttq", "")] {
        let whole = planned(&dir, method, 6, more);
        let summary = dir
            .train(&whole, &format!("{method}-whole"))
            .expect("a run");
        assert!(summary.earlier_plans.is_empty());
        for (step, done) in [(None, 3), (Some(2), 1), (Some(5), 1)] {
            let name = format!("{method}-{step:?}");
            let short = planned(&dir, method, 3, "");
            let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { epoch: 2, step: at, .. } if Some(*at) == step);
            dir.train_until(&short, &name, None, stop).expect("a part");
            let first = &mut |event: &Event<'_>| matches!(event, Event::Step { .. });
            let part = dir.train_until(&whole, &name, None, first).expect("a part");
            let folder = dir.path(&name);
            // The best weights so far are still those of the run.
            assert!(test_loss(&dir, &name).is_finite());
            let plan = EarlierPlan {
                epochs: 3,
                epochs_done: done,
            };
            let finished = dir.train(&whole, &name).expect("the rest");
            for summary in [&part, &finished] {
                assert_eq!(summary.earlier_plans, [plan], "{name}");
                assert_eq!((&summary.key, summary.epochs), (&key(&whole), 6));
            }
            assert_eq!(
                run_bits(&dir, &name),
                run_bits(&dir, &format!("{method}-whole")),
                "{name}"
            );
            assert_eq!(test_loss(&dir, &name), finished.test_loss.expect("a loss"));
            check_summary(&folder, &finished).expect("the figures of the weights");
            let last = Checkpoint::read(&folder.join("last.safetensors")).expect("a checkpoint");
            assert_eq!(last.run.earlier_plans, [plan]);
            assert_eq!(last.run.key, finished.key);
            let config = load(&folder.join("config.toml"), &[], &[]).expect("an experiment");
            assert_eq!(key(&config), finished.key);
            assert_eq!(dir.train(&whole, &name).expect("it is finished"), finished);
        }
    }
}

/// What a killed process leaves behind, from the first file of the new plan on.
#[test]
fn a_run_resumes_from_any_moment_of_its_new_plan() {
    let dir = TestDir::new();
    let [short, long] =
        [3, 5].map(|epochs| planned(&dir, "lat-a", epochs, "checkpoint.minutes = 0"));
    dir.train(&short, "whole").expect("a run");
    let mut moments = 0;
    let stop = &mut |event: &Event<'_>| {
        if matches!(event, Event::Saved { .. } | Event::Epoch(_)) {
            copy(&dir.path("whole"), &dir.path(&format!("moment-{moments}")));
            moments += 1;
        }
        false
    };
    dir.train_until(&long, "whole", None, stop)
        .expect("the rest");
    assert!(moments > 10, "{moments}");
    for moment in 0..moments {
        let name = format!("moment-{moment}");
        dir.train(&long, &name).expect("the rest of a run");
        assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, &name), "{name}");
    }
}

#[test]
fn fewer_epochs_are_those_of_a_run_that_was_planned_with_them() {
    let dir = TestDir::new();
    let long = planned(&dir, "lat-a", 9, "");
    for (stop, enough) in [((3, 2), 3), ((4, 1), 4)] {
        let name = format!("run-{enough}");
        dir.train_until(&long, &name, None, &mut at(stop.0, stop.1))
            .expect("a part of a run");
        let before = fs::read(dir.path(&name).join("last.safetensors")).expect("a checkpoint");
        for epochs in 1..enough {
            let error = dir.train(&planned(&dir, "lat-a", epochs, ""), &name);
            let error = error.expect_err("too few").to_string();
            let expected = [
                format!("has begun epoch {enough}, and train.epochs = {epochs}"),
                format!("set it to {enough} or more"),
            ];
            for part in expected {
                assert!(error.contains(&part), "{part:?} is not in {error:?}");
            }
        }
        let after = fs::read(dir.path(&name).join("last.safetensors")).expect("a checkpoint");
        assert!(before == after, "a refused run changed the checkpoint");
        let short = planned(&dir, "lat-a", enough, "");
        dir.train(&short, &name).expect("the rest");
        let whole = format!("whole-{enough}");
        dir.train(&short, &whole).expect("a run");
        assert_eq!(run_bits(&dir, &name), run_bits(&dir, &whole));
    }
    // All that is planned now is done.
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Epoch(record) if record.epoch == 4);
    dir.train_until(&long, "done", None, stop).expect("a part");
    let short = planned(&dir, "lat-a", 4, "");
    let summary = dir.train(&short, "done").expect("nothing is left");
    assert_eq!((summary.status, summary.steps), (Status::Finished, 20));
    assert_eq!(run_bits(&dir, "done"), run_bits(&dir, "whole-4"));
}

/// Epochs that are done keep their learning rates, and all else of the experiment.
#[test]
fn what_changes_the_epochs_that_are_done_is_another_experiment() {
    let dir = TestDir::new();
    let experiment = planned(&dir, "lat-a", 3, "");
    dir.train(&experiment, "run").expect("a run");
    let before = fs::read(dir.path("run/last.safetensors")).expect("a checkpoint");
    for (more, part) in [
        (
            "train.schedule = { kind = \"milestones\", epochs = [2], factor = 0.5 }",
            "train.schedule",
        ),
        (
            "train.schedule = { kind = \"exponential\", after = 2, factor = 0.5 }",
            "train.schedule",
        ),
        (
            "train.learning_rate = 0.03",
            "train.learning_rate: 0.03 here, 0.02 there",
        ),
        ("train.max_batches = 6", "train.max_batches"),
        ("train.seed = 7", "train.seed: 7 here"),
    ] {
        let error = dir.train(&planned(&dir, "lat-a", 6, more), "run");
        let error = error.expect_err(more);
        assert!(matches!(error, RunError::OtherExperiment { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let after = fs::read(dir.path("run/last.safetensors")).expect("a checkpoint");
    assert!(before == after, "a refused run changed the checkpoint");
}

/// The packed network of a run whose best epoch is of the earlier plan.
#[test]
fn a_run_with_more_epochs_is_packed() {
    let dir = TestDir::new();
    // Too fast to get better with every epoch.
    let digits = |epochs: u32, seed: u32, keep: &str| {
        let train = format!("train = {{ epochs = {epochs}, learning_rate = 0.3, seed = {seed} }}");
        dir.digits("lat-a", &format!("{train}\ncheckpoint.keep = \"{keep}\""))
    };
    let best_is_early = |seed: &u32| {
        let whole = dir.train(&digits(6, *seed, "all"), &format!("whole-{seed}"));
        whole.expect("a run").best_epoch <= Some(3)
    };
    let seed = (1..50).find(best_is_early).expect("a seed");
    dir.train(&digits(3, seed, "all"), "run").expect("a run");
    let longer = digits(6, seed, "packed");
    let finished = dir.train(&longer, "run").expect("the rest");
    assert!(finished.best_epoch <= Some(3));
    assert!(dir.path("run/packed.safetensors").is_file());
    assert!(!dir.path("run/last.safetensors").exists());
    assert_eq!(dir.train(&longer, "run").expect("it is finished"), finished);
    check_summary(&dir.path("run"), &finished).expect("the figures of the weights");
    assert_eq!(test_loss(&dir, "run"), finished.test_loss.expect("a loss"));
    // The weights that more epochs begin with are gone.
    let error = dir.train(&digits(7, seed, "packed"), "run");
    let error = error.expect_err("no checkpoint").to_string();
    assert!(error.contains("has ended after 6 epochs"), "{error}");
}
