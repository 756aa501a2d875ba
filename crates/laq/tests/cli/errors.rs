//! Errors of command lines, experiments, data and machines.

use super::*;

#[test]
fn invalid_command_lines_exit_with_2() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    for arguments in [
        &[][..],
        &["tain"],
        &["train"],
        &["train", "tiny.toml", "--threads", "0"],
        &["train", "tiny.toml", "--progress", "loud"],
        &["train", "tiny.toml", "--epochs", "3"],
        &["eval", "runs/tiny", "--split", "tests"],
        &["eval", "runs/tiny", "--text", "a", "--split", "test"],
        &["config", "--json"],
        &["train", "-", "--run-dir", "x", "--set", "train.epochs=2"],
        &["train", "-"],
        &["gpu-check", "--minutes", "nan"],
        &["gpu-check", "--minutes=-5"],
    ] {
        assert_eq!(
            laq(&test_dir, arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

/// As PyTorch's programs take them.
#[test]
fn keys_of_an_experiment_as_options() {
    let test_dir = TestDir::new();
    for (command, option, has_tip) in [
        ("train", "--epochs", true),
        ("estimate", "--batch-size", true),
        ("train", "--overly", false),
        ("export", "--epochs", false),
    ] {
        let output = laq(&test_dir, &[command, "tiny.toml", option, "3"]);
        assert_eq!(output.status.code(), Some(2), "{command} {option}");
        let message = stderr(&output);
        assert!(message.contains(option), "{message}");
        assert_eq!(
            message.contains("such as '--set train.epochs=10'"),
            has_tip,
            "{command}: {message}"
        );
    }
}

/// The variable has the limits of `--threads`, for every command.
#[test]
fn the_number_of_threads_is_limited() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    for arguments in [&["methods"][..], &["train", "tiny.toml"], &["doctor"]] {
        for (threads, code) in [("99999", 1), ("two", 1), ("2", 0), ("0", 0)] {
            let mut command = Command::new(cargo_bin!("laq"));
            command.current_dir(test_dir.folder.path()).args(arguments);
            let output = command.env("RAYON_NUM_THREADS", threads).output();
            let output = output.expect("laq runs");
            let message = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
            if code == 1 {
                let expected = format!("RAYON_NUM_THREADS={threads}, expected 1 to 1024");
                assert!(message.contains(&expected), "{message}");
            }
            let _ = fs::remove_dir_all(test_dir.path("runs"));
        }
    }
}

#[test]
fn invalid_experiments_create_no_folder() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let train = |more: &[&'static str]| [&["train", "tiny.toml"], more].concat();
    for (arguments, expected) in [
        (vec!["train", "none.toml"], vec!["none.toml", "cannot read"]),
        (
            train(&["--overlay", "presets/shrot.toml"]),
            vec!["presets/shrot.toml", "cannot read"],
        ),
        (
            train(&["--set", "train.epoch=1"]),
            vec!["train.epoch", "did you mean \"train.epochs\"?"],
        ),
        (
            train(&["--set", "quantize.method=lat-x"]),
            vec!["lat-x", "did you mean", "lat-a"],
        ),
        (
            train(&["--set", "quantize.method=laq-log-9"]),
            vec!["laq-log-9", "laq-log-2", "laq-log-8"],
        ),
        (
            train(&["--set", "quantize.method=dorefa-1"]),
            vec!["dorefa-1", "dorefa-2", "dorefa-8"],
        ),
        (
            train(&["--set", "data.name=war-and-peas"]),
            vec!["war-and-peas", "did you mean \"war-and-peace\"?"],
        ),
        (
            train(&["--set", "train.epochs=0"]),
            vec!["train.epochs = 0", "--set train.epochs=0", "1 to 1000000"],
        ),
        (
            train(&["--set", "train.epochs=many"]),
            vec!["many", "train.epochs"],
        ),
    ] {
        assert_fails(&test_dir, &arguments, &expected);
    }
    assert!(
        !test_dir.path("runs").exists(),
        "no run folder for what is no experiment"
    );
}

#[test]
fn invalid_data() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let bad_text = |content: Option<&str>, expected: &[&str]| {
        match content {
            Some(content) => fs::write(test_dir.path("text.txt"), content).expect("a file"),
            None => fs::remove_file(test_dir.path("text.txt")).expect("removed"),
        }
        assert_fails(&test_dir, &["train", "tiny.toml", "--resume"], expected);
    };
    bad_text(
        Some(""),
        &["text.txt", "0 bytes", "train split", "use a longer text"],
    );
    bad_text(Some("a"), &["text.txt", "1 bytes", "use a longer text"]);
    bad_text(
        Some(&"ab ".repeat(30)),
        &[
            "the validation split of",
            "text.txt",
            "data.batch = 4",
            "needs at least 41",
        ],
    );
    bad_text(None, &["text.txt", "cannot be read"]);
    let catalogued = ["train", "tiny.toml", "--resume", "--set", "data={kind=1}"];
    assert_fails(&test_dir, &catalogued, &["data.kind"]);
    fs::write(
        test_dir.path("w.toml"),
        "data.name = \"war-and-peace\"\nquantize.method = \"full\"\nmodel.hidden = 2",
    )
    .expect("a file");
    let w = |expected: &[&str]| {
        let always = [
            "war-and-peace/warpeace_input.txt",
            "laq download war-and-peace",
        ];
        assert_fails(
            &test_dir,
            &["train", "w.toml", "--resume"],
            &[&always[..], expected].concat(),
        );
    };
    w(&["missing"]);
    fs::create_dir_all(test_dir.path("data/war-and-peace")).expect("a folder");
    let path = test_dir.path("data/war-and-peace/warpeace_input.txt");
    fs::write(&path, "").expect("a file");
    w(&["3258246"]);
    fs::write(&path, vec![b'a'; 3_258_245]).expect("a file");
    w(&["3258245", "3258246"]);
    fs::write(&path, vec![b'a'; 3_258_246]).expect("a file");
    w(&["sha256", "fb66ba99"]);
}

#[test]
fn a_batch_larger_than_the_split() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    for command in [&["train"][..], &["estimate"]] {
        let arguments = [command, &["tiny.toml", "--set", "data.batch=100"]].concat();
        assert_fails(
            &test_dir,
            &arguments,
            &[
                "the validation split of",
                "data.batch = 100",
                "1001",
                "smaller batch",
            ],
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_network_larger_than_the_memory() {
    let test_dir = TestDir::new();
    let huge = "[data]\nname = \"demo\"\nlength = 100\nbatch = 100\n[model]\nhidden = 65536\n[quantize]\nmethod = \"full\"\n";
    fs::write(test_dir.path("huge.toml"), huge).expect("a file");
    let expected = ["model.hidden = 65536", "MB of memory", "lower one of them"];
    assert_fails(
        &test_dir,
        &[
            "estimate",
            "huge.toml",
            "--set",
            "data.length=19",
            "--set",
            "data.batch=1000",
        ],
        &expected,
    );
    // Few characters, and weights that alone are too many.
    assert_fails(
        &test_dir,
        &[
            "estimate",
            "huge.toml",
            "--set",
            "model.hidden=60000",
            "--set",
            "data.length=10",
            "--set",
            "data.batch=1",
        ],
        &["model.hidden = 60000", "MB of memory"],
    );
    // More than the process may take, on a machine of any size.
    let output = Command::new("sh")
        .current_dir(test_dir.folder.path())
        .env("CUDA_VISIBLE_DEVICES", "")
        .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
        .arg(cargo_bin!("laq"))
        .args(["estimate", "huge.toml", "--threads", "1"])
        .args(["--set", "model.hidden=8192", "--set", "data.batch=1"])
        .output()
        .expect("a shell");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let limit = "MB are available (the limit of 1.9 GiB of address space (ulimit -v), ";
    assert!(message.contains(limit), "{message}");
}

#[test]
fn an_unknown_kernel() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let mut command = Command::new(cargo_bin!("laq"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command
        .current_dir(test_dir.folder.path())
        .env("LAQ_KERNEL", "mmx")
        .args(["train", "tiny.toml"])
        .output();
    let output = output.expect("laq runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("mmx") && stderr(&output).contains("portable"),
        "{}",
        stderr(&output)
    );
}

/// A limit of the size of files stands for a disk that is full: at the start, in the middle of an epoch, and after it.
#[test]
#[cfg(unix)]
fn a_full_disk() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "model.hidden = 40");
    run(&test_dir, &["train", "tiny.toml", "--run-dir", "whole"]);
    let limited = |more: &[&str], file: &str| {
        // In blocks of 512 bytes, or of 1,024: larger than all files but the checkpoints.
        let output = Command::new("sh")
            .current_dir(test_dir.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(["-c", "ulimit -f 30; exec \"$0\" train tiny.toml \"$@\""])
            .arg(cargo_bin!("laq"))
            .args(more)
            .output()
            .expect("a shell");
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        for part in ["error: cannot write", file, "ulimit -f"] {
            assert!(message.contains(part), "{message}");
        }
        let summary = read_summary(&test_dir.path("runs/tiny")).expect("a summary");
        assert_eq!(summary.status, Status::Failed);
    };
    // Found before the first step.
    limited(&[], "last.safetensors");
    let experiment = load(&test_dir.path("tiny.toml"), &[], &[]).expect("the experiment");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    test_dir
        .train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let before = last_checkpoint(&test_dir);
    let often = ["--resume", "--set", "checkpoint.minutes=0"];
    for (more, file) in [
        (&often[..], "last.safetensors"),
        (&["--resume"], "best.safetensors"),
    ] {
        limited(more, file);
        assert_eq!(last_checkpoint(&test_dir), before);
    }
    run(&test_dir, &["train", "tiny.toml", "--resume"]);
    assert_eq!(
        run_bits(&test_dir, "whole"),
        run_bits(&test_dir, "runs/tiny")
    );
}

/// A run is in its folder; of an evaluation the output is all there is.
#[test]
#[cfg(target_os = "linux")]
fn an_output_that_takes_nothing() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    for (arguments, code, expected) in [
        (&["train", "tiny.toml"][..], 0, "warning: the work is done"),
        (
            &["eval", "runs/tiny"],
            1,
            "error: cannot write to the standard output",
        ),
        (
            &["eval", "runs/tiny", "--json"],
            1,
            "error: cannot write to the standard output",
        ),
        (&["report", "runs/tiny"], 0, "warning: the work is done"),
    ] {
        let output = std::process::Command::new(cargo_bin!("laq"))
            .current_dir(test_dir.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(arguments)
            .stdout(
                fs::File::options()
                    .write(true)
                    .open("/dev/full")
                    .expect("it"),
            )
            .output()
            .expect("laq runs");
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn a_loss_that_is_not_finite() {
    let test_dir = TestDir::new();
    test_dir.file("ttq", "");
    let arguments = ["train", "tiny.toml", "--set", "train.learning_rate=1e38"];
    assert_fails(
        &test_dir,
        &arguments,
        &[
            "NaN, infinite or too large",
            "layer",
            "last.safetensors",
            "last checkpoint",
            "learning rate",
        ],
    );
    let summary = read_summary(&test_dir.path("runs/tiny")).expect("a summary");
    assert_eq!(summary.status, Status::Failed);
    assert!(summary.reason.expect("a reason").contains("layer"));
    let estimate = ["estimate", "tiny.toml", "--set", "train.learning_rate=1e38"];
    assert_fails(&test_dir, &estimate, &["failed", "1e38", "layer"]);
}

#[test]
fn invalid_downloads() {
    let test_dir = TestDir::new();
    assert_fails_with(
        2,
        &test_dir,
        &["download", "war-and-peas"],
        &["war-and-peas", "war-and-peace"],
    );
    assert_fails(
        &test_dir,
        &["download", "linux-6.1-kernel"],
        &["linux-6.1-kernel", "no canonical address", "--mirror"],
    );
    assert_fails(
        &test_dir,
        &["download", "war-and-peace", "--mirror", "nowhere"],
        &["nowhere", "expected an existing folder"],
    );
    assert!(run(&test_dir, &["download", "demo"]).contains("generated by the program"));
}
