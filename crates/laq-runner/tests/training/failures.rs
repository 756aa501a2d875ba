//! Runs that fail lose nothing.

use super::*;

#[test]
fn a_value_that_is_not_finite_stops_the_run() {
    let dir = TestDir::new();
    let good = dir.experiment("lat-a", "train.epochs = 2");
    dir.train(&good, "good").expect("a run");
    // The output layer is not clipped: a step of this size makes its product overflow.
    let bad = dir.experiment("lat-a", "train.learning_rate = 1e38");
    let error = dir.train(&bad, "bad").expect_err("an overflow");
    assert!(matches!(error, RunError::Step { .. }), "{error:?}");
    let message = error.to_string();
    for part in [
        "epoch 1",
        "layer",
        "output",
        "last.safetensors is the last checkpoint",
        "learning rate 1e38",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    let summary = read_summary(&dir.path("bad")).expect("a summary");
    assert_eq!(
        (summary.status, summary.reason),
        (Status::Failed, Some(message))
    );
    let kept =
        Checkpoint::read(&dir.path("bad").join("last.safetensors")).expect("the last checkpoint");
    let finite = |tensor: &laq_models::StateTensor| match &tensor.data {
        laq_models::StateData::F32(values) => values.iter().all(|value| value.is_finite()),
        _ => true,
    };
    assert!(kept.network.iter().all(finite));
}

/// The same after epochs that went well: their checkpoints stay as they were.
#[test]
fn a_late_overflow_keeps_the_checkpoints() {
    let dir = TestDir::new();
    let experiment = dir.experiment("full", "");
    let stop = &mut at(2, 2);
    dir.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    let (last, best) = (
        dir.path("run").join("last.safetensors"),
        dir.path("run").join("best.safetensors"),
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
    let message = dir
        .train(&experiment, "run")
        .expect_err("a poisoned weight")
        .to_string();
    assert!(message.contains("weight_hh"), "{message}");
    assert_eq!(fs::read(&last).expect("read"), before_last);
    assert_eq!(fs::read(&best).expect("read"), before_best);
    // What the message recommends for a bad last checkpoint works.
    fs::remove_file(&last).expect("removed");
    assert_eq!(
        dir.train(&experiment, "run").expect("the rest").status,
        Status::Finished
    );
}

/// `/dev/full` takes no byte, as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_stops_the_run_and_loses_nothing() {
    use std::os::unix::fs::symlink;
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "whole").expect("a whole run");
    let at = |event: &Event<'_>, last: usize| matches!(event, Event::Step { epoch: 1, step, .. } if *step == last);
    dir.train_until(&experiment, "run", None, &mut |event| at(event, 2))
        .expect("a part of a run");
    let last = dir.path("run/last.safetensors");
    let before = bits(&last);
    let full = dir.path("run/metrics.jsonl");
    let fill = &mut |event: &Event<'_>| {
        if at(event, 4) {
            symlink("/dev/full", &full).expect("a link");
        }
        false
    };
    let error = dir.train_until(&experiment, "run", None, fill);
    let message = error.expect_err("a full disk").to_string();
    for part in [
        "cannot write",
        "metrics.jsonl",
        "No space left",
        "free some space",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(bits(&last), before);
    // With space again it goes on, with the same bits.
    fs::remove_file(&full).expect("removed");
    dir.train(&experiment, "run").expect("the rest");
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "run"));
}

/// As after a suspension, or a preparation of minutes.
#[test]
fn a_folder_that_another_machine_took_while_loading_is_left_alone() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    let stops = |event: &Event<'_>| {
        matches!(
            event,
            Event::Step {
                epoch: 1,
                step: 2,
                ..
            }
        )
    };
    dir.train_until(&experiment, "run", None, &mut |event| stops(event))
        .expect("a part of a run");
    let files = ["last.safetensors", "summary.json", "metrics.jsonl"]
        .map(|name| dir.path("run").join(name));
    let read = || files.each_ref().map(|file| fs::read(file).ok());
    let before = read();
    let running = dir.path("run/running.json");
    let take = &mut |event: &Event<'_>| {
        if let Event::Device { .. } = event {
            fs::write(&running, r#"{ "host": "another", "pid": 7 }"#).expect("written");
        }
        false
    };
    let error = dir.train_until(&experiment, "run", None, take);
    let error = error.expect_err("a folder that was taken");
    assert!(matches!(error, RunError::Locked { .. }), "{error:?}");
    assert!(read() == before);
    assert!(running.exists());
}

#[test]
fn a_locked_folder_is_an_error_with_the_process() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    let locked = RunFolder::open(&dir.path("run")).expect("the folder");
    let error = dir.train(&experiment, "run").expect_err("a locked folder");
    let RunError::Locked { holder, .. } = &error else {
        panic!("{error:?}")
    };
    let process = format!("process {} on ", std::process::id());
    let holder = holder.as_deref().expect("its name");
    assert!(holder.starts_with(&process), "{holder}");
    drop(locked);
    dir.train(&experiment, "run").expect("a free folder");
}
