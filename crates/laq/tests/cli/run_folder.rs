//! What a run folder may contain, and its lock.

use super::*;

#[test]
fn a_run_is_not_restarted_without_resume() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    run(&test_dir, &["train", "tiny.toml"]);
    let before = run_bits(&test_dir, "runs/tiny");
    assert_fails(
        &test_dir,
        &["train", "tiny.toml"],
        &["runs/tiny has a checkpoint", "--resume", "--run-dir"],
    );
    let other = [
        "train",
        "tiny.toml",
        "--resume",
        "--set",
        "model.hidden=7",
        "--set",
        "train.seed=9",
    ];
    let expected = [
        "last.safetensors",
        "model.hidden: 7 here, 6 there",
        "train.seed: 9 here, 1 there",
        "--run-dir",
    ];
    assert_fails(&test_dir, &other, &expected);
    assert_eq!(run_bits(&test_dir, "runs/tiny"), before);
}

#[test]
fn files_without_checkpoint_are_not_replaced() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "comparison.every = 5");
    run(&test_dir, &["train", "tiny.toml"]);
    let file = |name: &str| test_dir.path("runs/tiny").join(name);
    for name in ["last.safetensors", "best.safetensors"] {
        fs::remove_file(file(name)).expect("removed");
    }
    for name in [
        "config.toml",
        "metrics.jsonl",
        "comparison.jsonl",
        "summary.json",
    ] {
        let before = fs::read(file(name)).expect("read");
        assert_fails(
            &test_dir,
            &["train", "tiny.toml"],
            &["runs/tiny", name, "--run-dir", "--resume"],
        );
        assert_eq!(fs::read(file(name)).expect("read"), before);
        fs::remove_file(file(name)).expect("removed");
    }
    // The lock and the environment do not prevent a new run.
    run(&test_dir, &["train", "tiny.toml"]);
}

#[test]
fn a_run_does_not_replace_its_configuration() {
    let test_dir = TestDir::new();
    let path = test_dir.file("lat-a", "# mine");
    let config = test_dir.path("config.toml");
    fs::rename(path, &config).expect("renamed");
    let before = fs::read(&config).expect("read");
    for (name, base) in [("mine", "config"), ("child", "mine")] {
        let text = format!("extends = \"{base}.toml\"");
        fs::write(test_dir.path(&format!("{name}.toml")), text).expect("a file");
    }
    for (command, expected) in [
        (
            &["train", "child.toml", "--run-dir", ".", "--resume"][..],
            "contains the input config.toml",
        ),
        (
            &["train", "config.toml", "--run-dir", "."],
            "contains the input config.toml",
        ),
        (
            &["train", "config.toml", "--run-dir", ".", "--resume"],
            "contains the input config.toml",
        ),
        (
            &[
                "train",
                "base.toml",
                "--run-dir",
                ".",
                "--overlay",
                "config.toml",
                "--resume",
            ],
            "contains the input config.toml",
        ),
        (
            &["train", "base.toml", "--run-dir", "."],
            "config.toml exists",
        ),
    ] {
        assert_fails(&test_dir, command, &[expected, "--run-dir"]);
        assert_eq!(fs::read(&config).expect("read"), before);
    }
}

/// Another kernel has other bits; evaluation is possible with any.
#[test]
fn a_run_resumes_only_with_its_kernel() {
    let test_dir = TestDir::new();
    let experiment = test_dir.experiment("lat-a", "");
    test_dir.train(&experiment, "whole").expect("a whole run");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    test_dir
        .train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let own = CpuBackend::new().expect("a CPU backend").isa().name();
    let with = |kernel: &str, arguments: &[&str]| {
        let mut command = Command::new(cargo_bin!("laq"));
        command.env("CUDA_VISIBLE_DEVICES", "");
        command
            .current_dir(test_dir.folder.path())
            .env("LAQ_KERNEL", kernel);
        command.args(arguments).output().expect("laq runs")
    };
    let resume = ["train", "tiny.toml", "--resume"];
    // Only if the processor has another kernel.
    for other in Isa::available().map(Isa::name) {
        if other == own {
            continue;
        }
        let before = last_checkpoint(&test_dir);
        let output = with(other, &resume);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        for part in [
            "last.safetensors",
            &format!("LAQ_KERNEL={own}"),
            other,
            "--run-dir",
        ] {
            assert!(stderr(&output).contains(part), "{}", stderr(&output));
        }
        assert_eq!(last_checkpoint(&test_dir), before);
        let output = with(other, &["eval", "runs/tiny"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let output = with(own, &resume);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        run_bits(&test_dir, "runs/tiny"),
        run_bits(&test_dir, "whole")
    );
}

#[test]
fn a_locked_run_folder() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let _locked = RunFolder::open(&test_dir.path("runs/tiny")).expect("the folder");
    let process = format!("process {} on ", std::process::id());
    // A queue tries again later.
    assert_fails_with(
        75,
        &test_dir,
        &["train", "tiny.toml"],
        &["runs/tiny is locked by", &process, "--run-dir"],
    );
}

#[test]
fn a_run_folder_that_is_a_file() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    assert_fails(
        &test_dir,
        &["train", "tiny.toml", "--run-dir", "text.txt"],
        &["cannot make the run folder text.txt"],
    );
}
