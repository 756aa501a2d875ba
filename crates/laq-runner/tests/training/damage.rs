//! Files of a run folder that were lost, damaged, exchanged, or are of the user's.

use super::*;

/// Trains to the end; returns the summary and the warnings.
fn train_with_warnings(
    dir: &TestDir,
    experiment: &Experiment,
    run: &str,
) -> Result<(Summary, Vec<String>), RunError> {
    let mut warnings = Vec::new();
    let summary = dir.train_until(experiment, run, None, &mut |event| {
        if let Event::Warning { text } = event {
            warnings.push((*text).to_owned());
        }
        false
    })?;
    Ok((summary, warnings))
}

/// The fields of `summary.json`, changed by `change`.
fn change_summary(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("summary.json");
    let bytes = fs::read(&path).expect("a summary");
    let mut summary = serde_json::from_slice(&bytes).expect("JSON");
    change(&mut summary);
    fs::write(&path, summary.to_string()).expect("written");
}

#[test]
fn a_summary_has_the_figures_of_its_weights() {
    for keep in ["all", "packed"] {
        let dir = TestDir::new();
        let experiment = dir.experiment("lat-a", &format!("checkpoint.keep = \"{keep}\""));
        let first = dir.train(&experiment, "run").expect("a run");
        let folder = dir.path("run");
        // The text is not needed.
        fs::remove_file(dir.path("text.txt")).expect("removed");
        for (field, value) in [
            ("test_loss", serde_json::json!(1.25)),
            ("test_loss", serde_json::Value::Null),
            ("best_epoch", serde_json::json!(1)),
        ] {
            assert!(check_summary(&folder, &first).is_ok());
            change_summary(&folder, |summary| summary[field] = value.clone());
            let changed = read_summary(&folder).expect("a summary");
            let error = check_summary(&folder, &changed).expect_err("other figures");
            assert!(matches!(error, RunError::OtherSummary { .. }), "{error}");
            let (summary, warnings) =
                train_with_warnings(&dir, &experiment, "run").expect("the run");
            assert_eq!(summary, first, "{field} {value}");
            assert_eq!(read_summary(&folder).as_ref(), Some(&first));
            assert!(matches!(&warnings[..], [text] if text.contains("summary.json")));
        }
    }
}

/// As a run that goes on does.
#[test]
fn a_finished_run_writes_its_configuration_again() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let config = dir.path("run/config.toml");
    let before = fs::read_to_string(&config).expect("text");
    for text in [before.replace("seed = 1", "seed = 2"), "damaged".into()] {
        fs::write(&config, text).expect("written");
        dir.train(&experiment, "run").expect("the run");
        assert_eq!(fs::read_to_string(&config).expect("text"), before);
    }
}

#[test]
fn a_finished_run_without_weights_is_not_trained_again() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    let first = dir.train(&experiment, "run").expect("a run");
    for name in ["last", "best"] {
        fs::remove_file(dir.path(&format!("run/{name}.safetensors"))).expect("removed");
    }
    let (summary, warnings) = train_with_warnings(&dir, &experiment, "run").expect("the run");
    assert_eq!(summary, first);
    assert!(matches!(&warnings[..], [text] if text.contains("weights are gone")));
}

/// Of a run that is trained further, of one that is finished, and of one that is evaluated.
#[test]
fn the_best_checkpoint_is_that_of_the_run() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "checkpoint.minutes = 0");
    let stop = &mut at(3, 2);
    dir.train_until(&experiment, "part", None, stop)
        .expect("a part of a run");
    dir.train(&experiment, "whole").expect("a whole run");
    let other = dir.experiment("lat-a", "train.seed = 2");
    dir.train(&other, "other").expect("another run");
    let more = dir.experiment("lat-a", "train.epochs = 1");
    dir.train(&more, "short").expect("a short run");
    // As the same experiment on another kernel: the key and the epoch are the same.
    let exchanged = |folder: &str| {
        let mut best = Checkpoint::read(&dir.path(folder).join("best.safetensors")).expect("it");
        best.run
            .progress
            .best
            .as_mut()
            .expect("a best epoch")
            .test_loss += 0.5;
        best.to_bytes().expect("bytes")
    };
    let evaluated = |folder: &str| {
        let source = Source::Split {
            split: Split::Test,
            data_dir: None,
        };
        evaluate(
            &dir.path(folder),
            &source,
            DeviceOptions::CPU,
            Some(1),
            &mut |_, _| {},
        )
    };
    for folder in ["part", "whole"] {
        let best = dir.path(folder).join("best.safetensors");
        let before = fs::read(&best).expect("a checkpoint");
        for bytes in [
            fs::read(dir.path("other/best.safetensors")).expect("another run's"),
            fs::read(dir.path("short/best.safetensors")).expect("another run's"),
            exchanged(folder),
        ] {
            fs::write(&best, &bytes).expect("written");
            for error in [
                dir.train(&experiment, folder)
                    .map(drop)
                    .expect_err("another"),
                evaluated(folder).map(drop).expect_err("another"),
            ] {
                assert!(matches!(error, RunError::OtherBest { .. }), "{error}");
            }
            assert_eq!(fs::read(&best).expect("kept"), bytes);
        }
        let mut damaged = before.clone();
        *damaged.last_mut().expect("bytes") ^= 1;
        fs::write(&best, &damaged).expect("written");
        let error = dir.train(&experiment, folder).expect_err("damaged");
        assert!(error.to_string().contains("altered or damaged"), "{error}");
        fs::write(&best, &before).expect("written");
        evaluated(folder).expect("its own");
    }
    dir.train(&experiment, "part").expect("the rest");
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "part"));
}

/// The checkpoints of a run give way to its own packed network alone.
#[test]
fn a_packed_network_of_another_run_replaces_no_checkpoint() {
    let dir = TestDir::new();
    let other = dir.experiment("lat-a", "train.seed = 2\ncheckpoint.keep = \"packed\"");
    dir.train(&other, "other").expect("another run");
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let packed = dir.path("run/packed.safetensors");
    fs::copy(dir.path("other/packed.safetensors"), &packed).expect("copied");
    let before = fs::read(&packed).expect("read");
    let packs = dir.experiment("lat-a", "checkpoint.keep = \"packed\"");
    for gone in ["nothing", "best.safetensors"] {
        let _ = fs::remove_file(dir.path("run").join(gone));
        let error = dir.train(&packs, "run").expect_err("another network");
        assert!(matches!(error, RunError::OtherBest { .. }), "{error}");
        assert_eq!(fs::read(&packed).expect("read"), before);
        assert!(dir.path("run/last.safetensors").is_file());
    }
    let source = Source::Split {
        split: Split::Test,
        data_dir: None,
    };
    let run = dir.path("run");
    let error = evaluate(&run, &source, DeviceOptions::CPU, None, &mut |_, _| {});
    assert!(matches!(error, Err(RunError::OtherBest { .. })));
    fs::remove_file(&packed).expect("removed");
    dir.train(&packs, "run").expect("its own network");
    assert!(packed.is_file() && !dir.path("run/last.safetensors").exists());
}

#[test]
fn a_best_checkpoint_that_is_gone_is_restored_or_named() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let [best, last] = ["best", "last"].map(|name| dir.path(&format!("run/{name}.safetensors")));
    let before = bits(&best);
    let epoch = |path: &Path| Checkpoint::read(path).expect("it").run.progress.epoch;
    assert_eq!(epoch(&best), epoch(&last), "the last epoch is the best");
    fs::remove_file(&best).expect("removed");
    let (_, warnings) = train_with_warnings(&dir, &experiment, "run").expect("the run");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(bits(&best), before);
    // The weights of an earlier epoch are in no other file.
    let mut earlier = Checkpoint::read(&last).expect("it");
    earlier.run.progress.best.as_mut().expect("one").epoch = 2;
    earlier.write(&last).expect("written");
    fs::remove_file(&best).expect("removed");
    let (_, warnings) = train_with_warnings(&dir, &experiment, "run").expect("the run");
    assert!(
        warnings[0].contains("best.safetensors is missing"),
        "{warnings:?}"
    );
    assert!(!best.exists());
}

#[test]
fn lost_lines_of_the_metrics_are_named() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "train.epochs = 6\ncomparison.every = 5");
    let stop = &mut at(6, 2);
    dir.train_until(&experiment, "part", None, stop)
        .expect("a part of a run");
    let read = |run: &str, name: &str| fs::read(dir.path(run).join(name)).expect("read");
    let lines: Vec<Vec<u8>> = read("part", "metrics.jsonl")
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(lines.len(), 5);
    let mut spoilt = lines[3].clone();
    spoilt[20] = 0xff;
    for (number, (left, expected)) in [
        (
            vec![&lines[0], &lines[1], &lines[3], &lines[4]],
            "lacks epoch 3,",
        ),
        (vec![&lines[0], &lines[4]], "lacks epochs 2 to 4,"),
        (vec![&lines[1], &lines[2], &lines[4]], "lacks epochs 1, 4,"),
        (
            vec![&lines[0], &lines[1], &lines[2], &spoilt, &lines[4]],
            "lacks epoch 4,",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let run = format!("run-{number}");
        copy(&dir.path("part"), &dir.path(&run));
        let text: Vec<u8> = left.iter().flat_map(|line| line.iter().copied()).collect();
        fs::write(dir.path(&run).join("metrics.jsonl"), text).expect("written");
        let (summary, warnings) = train_with_warnings(&dir, &experiment, &run).expect("a run");
        assert_eq!(summary.status, Status::Finished);
        assert!(
            warnings.iter().any(|text| text.contains(expected)),
            "{warnings:?}"
        );
        let is_spoilt = left.contains(&&spoilt);
        assert_eq!(
            warnings.len(),
            if is_spoilt { 2 } else { 1 },
            "{warnings:?}"
        );
        if is_spoilt {
            assert_eq!(read(&run, "metrics.jsonl.damaged"), spoilt);
        }
        // Also where nothing is left to train.
        let (_, warnings) = train_with_warnings(&dir, &experiment, &run).expect("the run");
        assert!(warnings[0].contains(expected), "{warnings:?}");
    }
    fs::write(dir.path("part/comparison.jsonl"), b"\xff\n").expect("written");
    let (_, warnings) = train_with_warnings(&dir, &experiment, "part").expect("the rest");
    assert!(warnings[0].contains("comparison.jsonl"), "{warnings:?}");
}

/// Without a checkpoint, which would say whose they are.
#[test]
fn files_of_another_experiment_are_not_replaced() {
    let dir = TestDir::new();
    let other = dir.experiment("lat-a", "train.seed = 2\ncomparison.every = 5");
    let stop = &mut at(2, 2);
    dir.train_until(&other, "run", None, stop)
        .expect("a part of a run");
    for name in ["last", "best"] {
        fs::remove_file(dir.path(&format!("run/{name}.safetensors"))).expect("removed");
    }
    let content = || {
        let entries = fs::read_dir(dir.path("run")).expect("a folder");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| (path.clone(), fs::read(path).expect("read")))
            .collect();
        files.sort();
        files
    };
    let before = content();
    let experiment = dir.experiment("lat-a", "comparison.every = 5");
    let error = dir
        .train(&experiment, "run")
        .expect_err("another experiment");
    assert!(matches!(error, RunError::OtherExperiment { .. }), "{error}");
    assert!(
        error.to_string().contains("train.seed: 1 here, 2 there"),
        "{error}"
    );
    assert_eq!(content(), before);
    // Nothing is known of the content of a text without a checkpoint.
    let mut elsewhere = other.clone();
    elsewhere.data.path = Some(dir.path("other.txt"));
    let error = dir.train(&elsewhere, "run").expect_err("another text");
    assert!(error.to_string().contains("data.path"), "{error}");
    // It starts again what was its own.
    assert_eq!(
        dir.train(&other, "run").expect("a whole run").status,
        Status::Finished
    );
    for name in ["last.safetensors", "best.safetensors", "config.toml"] {
        fs::remove_file(dir.path("run").join(name)).expect("removed");
    }
    fs::remove_file(dir.path("run/summary.json")).expect("removed");
    let before = content();
    let error = dir.train(&other, "run").expect_err("nobody's files");
    assert!(matches!(error, RunError::UnknownFiles { .. }), "{error}");
    assert_eq!(content(), before);
}

#[test]
fn files_of_the_user_are_not_replaced() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    for name in ["lock", "environment.json", "running.json"] {
        for text in ["mine\n", "{\"mine\": 1}"] {
            let folder = dir.path(&format!("run-{name}"));
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(name), text).expect("written");
            let error = dir
                .train(&experiment, &format!("run-{name}"))
                .expect_err("a file of the user's");
            assert!(matches!(error, RunError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(fs::read_to_string(folder.join(name)).expect("read"), text);
            assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);
        }
    }
    // A run that is refused makes no lock.
    let folder = dir.path("mine");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("config.toml"), "mine").expect("written");
    dir.train(&experiment, "mine")
        .expect_err("a file of the user's");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1);
}

#[test]
fn the_content_of_a_text_counts_and_not_its_place() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "whole").expect("a whole run");
    let stop = &mut at(2, 2);
    dir.train_until(&experiment, "run", None, stop)
        .expect("a part of a run");
    fs::create_dir(dir.path("elsewhere")).expect("a folder");
    let moved_path = dir.path("elsewhere/text.txt");
    fs::rename(dir.path("text.txt"), &moved_path).expect("moved");
    let mut moved = experiment.clone();
    moved.data.path = Some(moved_path.clone());
    assert_eq!(key(&moved), key(&experiment));
    let evaluated = |data_dir: Option<PathBuf>| {
        let source = Source::Split {
            split: Split::Test,
            data_dir,
        };
        let run = dir.path("whole");
        evaluate(&run, &source, DeviceOptions::CPU, Some(1), &mut |_, _| {})
    };
    let error = evaluated(None).expect_err("no text");
    assert!(error.to_string().contains("--data-dir"), "{error}");
    let there = Some(dir.path("elsewhere"));
    let found = evaluated(there.clone()).expect("an evaluation");
    let summary = read_summary(&dir.path("whole")).expect("a summary");
    assert_eq!(Some(found.loss), summary.test_loss);
    assert_eq!(dir.train(&moved, "whole").expect("the same run"), summary);
    dir.train(&moved, "run").expect("the rest");
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "run"));
    // Another text under the same name is another one, also for a finished run.
    let text = fs::read_to_string(&moved_path).expect("the text");
    fs::write(&moved_path, text.replace("gull", "lamp")).expect("another text");
    for error in [
        dir.train(&moved, "whole")
            .map(drop)
            .expect_err("another text"),
        evaluated(there).map(drop).expect_err("another text"),
    ] {
        assert!(matches!(error, RunError::OtherData { .. }), "{error}");
    }
}

/// As a loss of power leaves it.
#[test]
fn a_checkpoint_of_zeros_is_damaged() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let last = dir.path("run/last.safetensors");
    let length = fs::metadata(&last).expect("a file").len() as usize;
    for bytes in [vec![0; length], vec![0; 20], vec![0; 3]] {
        fs::write(&last, &bytes).expect("written");
        let error = dir
            .train(&experiment, "run")
            .expect_err("zeros")
            .to_string();
        assert!(
            error.contains("delete it, and train with --resume"),
            "{error}"
        );
    }
    fs::write(&last, "mine").expect("written");
    let foreign = [&9_u64.to_le_bytes()[..], b"mine"].concat();
    fs::write(&last, foreign).expect("written");
    let error = dir
        .train(&experiment, "run")
        .expect_err("another file")
        .to_string();
    assert!(
        error.contains("move it away, and train with --resume"),
        "{error}"
    );
    fs::remove_file(&last).expect("removed");
    dir.train(&experiment, "run")
        .expect("from the other checkpoint");
}
