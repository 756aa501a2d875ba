//! The `laq` binary: its output, exit codes and errors.

#[path = "../../laq-runner/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use common::{Lab, run_bits};
use laq_runner::checkpoint::Checkpoint;
use laq_runner::config::{key, load};
use laq_runner::record::Status;
use laq_runner::run_folder::{RunFolder, read_summary};
use laq_runner::train::Event;
use laq_tensor::CpuBackend;
use laq_tensor::cpu::Isa;
use serde_json::Value;

fn laq(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin!("laq"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
        .current_dir(lab.folder.path())
        .args(arguments)
        .output()
        .expect("laq runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Runs what must succeed, and gives what it prints.
fn good(lab: &Lab, arguments: &[&str]) -> String {
    let output = laq(lab, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        stderr(&output)
    );
    stdout(&output)
}

/// Runs what must fail with exit code 1 and a message of one paragraph that holds `expected`.
fn bad(lab: &Lab, arguments: &[&str], expected: &[&str]) {
    let output = laq(lab, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    let message = message
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_else(|| panic!("{message}"));
    for part in expected {
        assert!(
            message.contains(part),
            "{arguments:?}: {part:?} is not in {message:?}"
        );
    }
    assert!(!stderr(&output).contains("panicked"), "{message}");
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&good(lab, arguments)).expect("JSON")
}

#[test]
fn training_leaves_its_run_under_the_name_of_its_file() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    let said = good(&lab, &["train", "tiny.toml"]);
    assert!(
        said.contains("finished") && said.contains("best epoch") && said.contains("runs/tiny"),
        "{said}"
    );
    let summary = read_summary(&lab.path("runs/tiny")).expect("a summary");
    assert_eq!((summary.status, summary.epochs_done), (Status::Finished, 3));
    // The same once more: already done.
    assert_eq!(good(&lab, &["train", "tiny.toml", "--resume"]), said);
}

#[test]
fn progress_is_plain_lines_where_there_is_no_terminal() {
    let lab = Lab::new();
    lab.file("full", "");
    let output = laq(&lab, &["train", "tiny.toml", "--run-dir", "a"]);
    let lines: Vec<_> = stderr(&output).lines().map(str::to_string).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with("using cpu ("), "{lines:?}");
    assert!(
        lines[1].starts_with("starting in epoch 1 of 3 after 0 of 5 steps"),
        "{lines:?}"
    );
    assert!(
        lines[4].starts_with("epoch 3/3: train ") && lines[4].contains("ETA 0s"),
        "{lines:?}"
    );
    let output = laq(
        &lab,
        &["train", "tiny.toml", "--run-dir", "b", "--progress", "none"],
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn overlays_and_sets_reach_the_run() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    fs::write(lab.path("over.toml"), "train.epochs = 2").expect("a file");
    let more = [
        "--overlay",
        "over.toml",
        "--set",
        "train.max_batches=2",
        "--threads",
        "1",
        "--run-dir",
        "x",
    ];
    good(&lab, &[&["train", "tiny.toml"], &more[..]].concat());
    let summary = read_summary(&lab.path("x")).expect("a summary");
    assert_eq!((summary.epochs, summary.steps, summary.threads), (2, 4, 1));
    let expected = load(
        &lab.path("tiny.toml"),
        &[lab.path("over.toml")],
        &["train.max_batches=2".into()],
    );
    assert_eq!(summary.key, key(&expected.expect("the experiment")));
}

#[test]
fn the_resolved_experiment_is_printed() {
    let lab = Lab::new();
    let path = lab.file("LATa", "");
    let printed = good(&lab, &["config", "tiny.toml"]);
    fs::write(lab.path("printed.toml"), printed).expect("a file");
    let experiment = load(&path, &[], &[]).expect("the experiment");
    assert_eq!(
        load(&lab.path("printed.toml"), &[], &[]).expect("its print"),
        experiment
    );
    let printed = json(&lab, &["config", "tiny.toml", "--json"]);
    assert_eq!(printed["key"], key(&experiment));
    assert_eq!(printed["config"]["quantize"]["method"], "lat-a");
    assert!(good(&lab, &["config"]).contains("learning_rate = 0.002"));
}

#[test]
fn methods_are_listed() {
    let lab = Lab::new();
    let printed = good(&lab, &["methods"]);
    let families = json(&lab, &["methods", "--json"]);
    let families = families.as_array().expect("an array");
    assert_eq!(families.len(), laq_solvers::families().len());
    for family in families {
        assert!(printed.contains(family["id"].as_str().expect("an id")));
        assert!(!family["source"].as_str().expect("a source").is_empty());
    }
}

#[test]
fn an_estimate_has_what_a_plan_needs() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    let found = json(&lab, &["estimate", "tiny.toml", "--json"]);
    assert_eq!(
        (&found["steps"], &found["batches"]["train"]),
        (&15.into(), &5.into())
    );
    assert!(found["seconds"].as_f64() > Some(0.0) && found["quantize_share"].is_f64());
    assert!(good(&lab, &["estimate", "tiny.toml"]).contains("15 steps"));
}

#[test]
fn evaluations_are_printed() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    good(&lab, &["train", "tiny.toml"]);
    let summary = read_summary(&lab.path("runs/tiny")).expect("a summary");
    let found = json(&lab, &["eval", "runs/tiny", "--json"]);
    assert_eq!(found["loss"].as_f64(), summary.test_loss);
    let found = json(
        &lab,
        &[
            "eval",
            "runs/tiny/best.safetensors",
            "--split",
            "validation",
            "--json",
        ],
    );
    assert_eq!(found["loss"].as_f64(), summary.validation_loss);
    let said = good(&lab, &["eval", "runs/tiny", "--text", "text.txt"]);
    assert!(said.contains("nats per character on text.txt"), "{said}");
}

#[test]
fn the_doctor_looks_at_data_and_machine() {
    let lab = Lab::new();
    let found = json(&lab, &["doctor", "--json"]);
    assert!(!found["kernel"].as_str().expect("a kernel").is_empty());
    // No GPU is shown to the tests, so something is missing and is said.
    let cuda = found["cuda"].as_array().expect("what there is of CUDA");
    assert_eq!(cuda[0]["name"], "driver");
    assert_eq!(cuda[0]["good"], false);
    let device = found["device"].as_str().expect("a device");
    assert!(device.starts_with("cpu, for "), "{device}");
    let data = found["data"].as_array().expect("data").clone();
    let state = |name: &str| {
        data.iter()
            .find(|file| file["dataset"] == name)
            .expect(name)["state"]
            .clone()
    };
    assert_eq!(state("war-and-peace"), "missing");
    assert!(state("demo").as_str().expect("a state").starts_with("good"));
    assert!(good(&lab, &["doctor"]).contains("war-and-peace"));
    fs::create_dir_all(lab.path("data/war-and-peace")).expect("a folder");
    fs::write(
        lab.path("data/war-and-peace/warpeace_input.txt"),
        "Well, Prince",
    )
    .expect("a file");
    bad(
        &lab,
        &["doctor"],
        &[
            "warpeace_input.txt",
            "12",
            "3258246",
            "laq download war-and-peace",
        ],
    );
}

#[test]
fn wrong_command_lines_are_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
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
    ] {
        assert_eq!(laq(&lab, arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn wrong_experiments_are_told_and_leave_nothing() {
    let lab = Lab::new();
    lab.file("lat-a", "");
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
        bad(&lab, &arguments, &expected);
    }
    assert!(
        !lab.path("runs").exists(),
        "no run folder for what is no experiment"
    );
}

#[test]
fn bad_data_are_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    let bad_text = |content: Option<&str>, expected: &[&str]| {
        match content {
            Some(content) => fs::write(lab.path("text.txt"), content).expect("a file"),
            None => fs::remove_file(lab.path("text.txt")).expect("removed"),
        }
        bad(&lab, &["train", "tiny.toml", "--resume"], expected);
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
    bad(&lab, &catalogued, &["data.kind"]);
    fs::write(
        lab.path("w.toml"),
        "data.name = \"war-and-peace\"\nquantize.method = \"full\"\nmodel.hidden = 2",
    )
    .expect("a file");
    let w = |expected: &[&str]| {
        let always = [
            "war-and-peace/warpeace_input.txt",
            "laq download war-and-peace",
        ];
        bad(
            &lab,
            &["train", "w.toml", "--resume"],
            &[&always[..], expected].concat(),
        );
    };
    w(&["missing"]);
    fs::create_dir_all(lab.path("data/war-and-peace")).expect("a folder");
    let path = lab.path("data/war-and-peace/warpeace_input.txt");
    fs::write(&path, "").expect("a file");
    w(&["3258246"]);
    fs::write(&path, vec![b'a'; 3_258_245]).expect("a file");
    w(&["3258245", "3258246"]);
    fs::write(&path, vec![b'a'; 3_258_246]).expect("a file");
    w(&["sha256", "fb66ba99"]);
}

#[test]
fn a_batch_larger_than_the_split_is_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    for command in [&["train"][..], &["estimate"]] {
        let arguments = [command, &["tiny.toml", "--set", "data.batch=100"]].concat();
        bad(
            &lab,
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
fn a_network_larger_than_the_machine_is_told() {
    let lab = Lab::new();
    let huge = "[data]\nname = \"demo\"\nlength = 100\nbatch = 100\n[model]\nhidden = 65536\n[quantize]\nmethod = \"full\"\n";
    fs::write(lab.path("huge.toml"), huge).expect("a file");
    let expected = ["model.hidden = 65536", "MB of memory", "lower one of them"];
    bad(
        &lab,
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
    bad(
        &lab,
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
}

#[test]
fn an_unknown_kernel_is_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    let mut command = Command::new(cargo_bin!("laq"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command
        .current_dir(lab.folder.path())
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

#[test]
fn a_run_that_is_there_is_not_begun_again() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    good(&lab, &["train", "tiny.toml"]);
    let before = run_bits(&lab, "runs/tiny");
    bad(
        &lab,
        &["train", "tiny.toml"],
        &[
            "runs/tiny already has a checkpoint",
            "--resume",
            "--run-dir",
        ],
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
    bad(&lab, &other, &expected);
    assert_eq!(run_bits(&lab, "runs/tiny"), before);
}

#[test]
fn files_of_a_run_without_its_checkpoints_are_not_replaced() {
    let lab = Lab::new();
    lab.file("lat-a", "comparison.every = 5");
    good(&lab, &["train", "tiny.toml"]);
    let file = |name: &str| lab.path("runs/tiny").join(name);
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
        bad(
            &lab,
            &["train", "tiny.toml"],
            &["runs/tiny", name, "--run-dir", "--resume"],
        );
        assert_eq!(fs::read(file(name)).expect("read"), before);
        fs::remove_file(file(name)).expect("removed");
    }
    // The lock and the environment alone hold nothing back.
    good(&lab, &["train", "tiny.toml"]);
}

#[test]
fn an_experiment_is_not_replaced_by_its_own_run() {
    let lab = Lab::new();
    let path = lab.file("lat-a", "# mine");
    let config = lab.path("config.toml");
    fs::rename(path, &config).expect("renamed");
    let before = fs::read(&config).expect("read");
    for (command, expected) in [
        (
            &["train", "config.toml", "--run-dir", "."][..],
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
            "config.toml is there",
        ),
    ] {
        bad(&lab, command, &[expected, "--run-dir"]);
        assert_eq!(fs::read(&config).expect("read"), before);
    }
}

/// The same bits cannot come from another kernel; an evaluation may be done with any.
#[test]
fn a_run_goes_on_with_its_own_kernel_alone() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    lab.train(&experiment, "whole").expect("a whole run");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    lab.train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let own = CpuBackend::new().expect("a CPU backend").isa().name();
    let with = |kernel: &str, arguments: &[&str]| {
        let mut command = Command::new(cargo_bin!("laq"));
        command.env("CUDA_VISIBLE_DEVICES", "");
        command
            .current_dir(lab.folder.path())
            .env("LAQ_KERNEL", kernel);
        command.args(arguments).output().expect("laq runs")
    };
    let resume = ["train", "tiny.toml", "--resume"];
    // A processor without another kernel has nothing to refuse.
    for other in Isa::available().map(Isa::name) {
        if other == own {
            continue;
        }
        let before = run_file(&lab);
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
        assert_eq!(run_file(&lab), before);
        let output = with(other, &["eval", "runs/tiny"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let output = with(own, &resume);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(run_bits(&lab, "runs/tiny"), run_bits(&lab, "whole"));
}

/// No GPU is shown to the tests.
#[test]
fn a_missing_device_is_an_error() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    for (device, code, parts) in [
        ("cuda:0", 1, ["cuda:0", "--device cpu"]),
        ("cuda:7", 1, ["cuda:7", "--device cpu"]),
        (
            "gpu",
            2,
            ["unknown device \"gpu\"", "auto, cpu, cuda or cuda:N"],
        ),
    ] {
        let output = laq(&lab, &["train", "tiny.toml", "--device", device]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{}", stderr(&output));
        }
    }
    assert!(!lab.path("runs/tiny/last.safetensors").exists());
    let precision = ["--device", "cpu", "--precision", "float32"];
    good(&lab, &[&["train", "tiny.toml"][..], &precision].concat());
}

/// The output of `gpu-check` on the CPU, with small networks.
fn gpu_check(lab: &Lab, python: &str) -> String {
    let arguments = "gpu-check --device cpu --small --minutes 1".split(' ');
    let arguments = arguments.chain(["--python", python]);
    good(lab, &arguments.collect::<Vec<_>>())
}

/// All sections on the CPU, with small networks and without PyTorch.
#[test]
fn gpu_check_runs_on_the_cpu() {
    let lab = Lab::new();
    let said = gpu_check(&lab, "no-such-python");
    for part in [
        "| conformance | ",
        "| losses against the CPU | largest relative difference 0.0e0 ",
        "| PyTorch | not timed: cannot start no-such-python (",
        "| LSTM recurrence | not measured |",
        "| concurrent training | char-lstm ",
        "| network | method | laq | quantization | PyTorch best | ratio |\n",
        "| cifar10 | laq-log-3-e | ",
        "| method | weights | ms | GB/s |\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let file = |name: &str| fs::read_to_string(lab.path("gpu-check").join(name)).expect(name);
    let readme = file("README.md");
    let details = readme
        .strip_prefix(&said)
        .expect("it begins with what is printed");
    for part in [
        "## Conformance",
        "comparisons passed",
        "| char-lstm | lat-e | 0.0e0 |",
        "Not timed: cannot start no-such-python (",
        "| mnist | 2 | ",
    ] {
        assert!(details.contains(part), "{part}: {details}");
    }
    assert_eq!(file("steps.csv").lines().count(), 16);
    // Full precision quantizes nothing.
    let weights = |method: &str| {
        let steps = file("steps.csv");
        let step = steps.lines().find(|line| line.starts_with(method));
        let weights = step.and_then(|line| line.rsplit(',').next()?.parse::<usize>().ok());
        weights.expect("a number")
    };
    assert_eq!(weights("cifar10,full"), 0);
    assert_eq!(weights("cifar10,laq-log-3-e"), weights("cifar10,lat-a"));
    assert!(weights("cifar10,lat-a") > 0);
    assert!(
        file("conformance.csv")
            .lines()
            .skip(1)
            .all(|line| line.ends_with(",true"))
    );
    bad(&lab, &["gpu-check", "--out", "other"], &["--device cpu"]);
    assert!(!lab.path("other").exists());
}

/// A script takes the place of Python: the tables show its output and its failure.
#[cfg(unix)]
#[test]
fn gpu_check_compares_with_pytorch() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let python = lab.path("python");
    let script = r#"#!/bin/sh
echo '{"torch": "2.11", "device": "cpu"}'
echo '{"network": "mnist", "method": "lat-e", "variant": "eager", "seconds": 1000}'
echo '{"network": "mnist", "method": "lat-e", "variant": "compiled", "error": "no compiler"}'
echo "$@" >&2
exit 3
"#;
    fs::write(&python, script).expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("set");
    let said = gpu_check(&lab, "./python");
    for part in ["| PyTorch | 2.11 |\n", " | 1000000.000 (eager) | 0.00 |\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let file = |name: &str| fs::read_to_string(lab.path("gpu-check").join(name)).expect(name);
    for part in [
        "| mnist | lat-e | eager | 1000000.000 | 0.00 |\n",
        "| mnist | lat-e | compiled | no compiler |  |\n",
        "pytorch.py failed (exit status: 3): ",
    ] {
        assert!(file("README.md").contains(part), "{}", file("README.md"));
    }
    let asked = file("pytorch.log");
    for part in ["gpu-check/pytorch.py --device cpu", "--small", "--seconds "] {
        assert!(asked.contains(part), "{asked}");
    }
}

/// A run that started on a GPU is resumed elsewhere only on request, and evaluated anywhere.
#[test]
fn a_run_goes_on_with_its_own_device_alone() {
    let lab = Lab::new();
    let experiment = lab.experiment("ttq", "");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    lab.train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let path = lab.path("runs/tiny/last.safetensors");
    let mut checkpoint = Checkpoint::read(&path).expect("a checkpoint");
    checkpoint.run.kernel = "cuda (NVIDIA H100, TF32)".into();
    checkpoint.write(&path).expect("a checkpoint");
    let before = run_file(&lab);
    // The GPU is looked for, as the run was begun on one.
    let output = laq(&lab, &["train", "tiny.toml", "--resume"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--device cpu"),
        "{}",
        stderr(&output)
    );
    assert_eq!(run_file(&lab), before);
    good(&lab, &["eval", "runs/tiny"]);
    good(&lab, &["train", "tiny.toml", "--resume", "--device", "cpu"]);
    let summary = read_summary(&lab.path("runs/tiny")).expect("a summary");
    assert_eq!(summary.status, Status::Finished);
}

fn run_file(lab: &Lab) -> Vec<u8> {
    fs::read(lab.path("runs/tiny/last.safetensors")).expect("read")
}

#[test]
fn bad_checkpoints_are_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    good(&lab, &["train", "tiny.toml"]);
    good(
        &lab,
        &[
            "train",
            "tiny.toml",
            "--run-dir",
            "other",
            "--set",
            "model.hidden=7",
        ],
    );
    let (last, best) = (
        lab.path("runs/tiny/last.safetensors"),
        lab.path("runs/tiny/best.safetensors"),
    );
    let bytes = fs::read(&last).expect("read");
    let refused = |bytes: &[u8], expected: &[&str]| {
        fs::write(&last, bytes).expect("written");
        fs::write(&best, bytes).expect("written");
        bad(
            &lab,
            &["train", "tiny.toml", "--resume"],
            &[&["last.safetensors"], expected].concat(),
        );
        bad(
            &lab,
            &["eval", "runs/tiny"],
            &[&["best.safetensors"], expected].concat(),
        );
    };
    refused(&bytes[..bytes.len() - 1000], &["is cut off"]);
    refused(&[], &["is cut off"]);
    let mut altered = bytes.clone();
    altered[bytes.len() - 7] ^= 4;
    refused(&altered, &["was altered or damaged", "checksum"]);
    // What is to be done about the one does not help with the other.
    bad(
        &lab,
        &["train", "tiny.toml", "--resume"],
        &["last.safetensors", "delete it", "goes on"],
    );
    bad(
        &lab,
        &["eval", "runs/tiny"],
        &["best.safetensors", "give last.safetensors by name"],
    );
    let version = b"\"format_version\":\"1\"";
    let place = bytes
        .windows(version.len())
        .position(|window| window == version)
        .expect("the version");
    let mut newer = bytes.clone();
    newer[place + version.len() - 2] = b'2';
    refused(&newer, &["newer version", "update laq"]);
    refused(b"To be, or not to be", &["is not a checkpoint"]);
    // Another model's: whole, but not this experiment's.
    fs::copy(lab.path("other/last.safetensors"), &last).expect("copied");
    let expected = [
        "last.safetensors",
        "another experiment",
        "model.hidden: 6 here, 7 there",
    ];
    bad(&lab, &["train", "tiny.toml", "--resume"], &expected);
    // One that says it is this experiment's, with another's tensors.
    let mut mixed = Checkpoint::read(&lab.path("other/last.safetensors")).expect("a checkpoint");
    mixed.run.experiment = load(&lab.path("tiny.toml"), &[], &[]).expect("the experiment");
    mixed.write(&best).expect("written");
    bad(
        &lab,
        &["eval", "runs/tiny"],
        &["best.safetensors", "does not fit", "lstm.weight"],
    );
}

#[test]
fn a_lost_best_epoch_is_not_replaced_by_the_last() {
    let lab = Lab::new();
    let experiment = lab.experiment("lat-a", "");
    // While no epoch is done there is no best one, and the last weights are all there are.
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    lab.train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let found = json(&lab, &["eval", "runs/tiny", "--json"]);
    assert_eq!(found["checkpoint"], "runs/tiny/last.safetensors");
    good(&lab, &["train", "tiny.toml", "--resume"]);
    fs::remove_file(lab.path("runs/tiny/best.safetensors")).expect("removed");
    bad(
        &lab,
        &["eval", "runs/tiny"],
        &[
            "runs/tiny",
            "best.safetensors is missing",
            "give last.safetensors by name",
        ],
    );
    good(&lab, &["eval", "runs/tiny/last.safetensors"]);
}

#[test]
fn bad_evaluations_are_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    bad(
        &lab,
        &["eval", "runs/tiny"],
        &["runs/tiny has no checkpoint"],
    );
    good(&lab, &["train", "tiny.toml"]);
    bad(
        &lab,
        &["eval", "runs/tiny", "--data-dir", "."],
        &["best.safetensors", "--data-dir", "--text"],
    );
    fs::write(lab.path("foreign.txt"), "wind tide sail \u{e9}t\u{e9}").expect("a file");
    let expected = ["foreign.txt", "0xc3", "offset 15", "best.safetensors"];
    bad(
        &lab,
        &["eval", "runs/tiny", "--text", "foreign.txt"],
        &expected,
    );
    fs::write(lab.path("short.txt"), "wind tide").expect("a file");
    bad(
        &lab,
        &["eval", "runs/tiny", "--text", "short.txt"],
        &["short.txt has 9 bytes", "needs 11"],
    );
    bad(
        &lab,
        &["eval", "runs/tiny", "--text", "none.txt"],
        &["none.txt", "cannot read"],
    );
    let text = fs::read_to_string(lab.path("text.txt")).expect("the text");
    fs::write(lab.path("text.txt"), text.replace("wind", "rain")).expect("a file");
    bad(
        &lab,
        &["eval", "runs/tiny"],
        &["text.txt", "the content differs"],
    );
}

#[test]
fn a_held_run_folder_is_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    let _held = RunFolder::open(&lab.path("runs/tiny")).expect("the folder");
    let process = if cfg!(unix) {
        format!("process {}", std::process::id())
    } else {
        "process".into()
    };
    bad(
        &lab,
        &["train", "tiny.toml"],
        &["runs/tiny is held by", &process, "--run-dir"],
    );
}

#[test]
fn a_run_folder_that_is_a_file_is_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    bad(
        &lab,
        &["train", "tiny.toml", "--run-dir", "text.txt"],
        &["cannot make the run folder text.txt"],
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    good(
        &lab,
        &[
            "train",
            "tiny.toml",
            "--set",
            "train.epochs=2",
            "--run-dir",
            "good",
        ],
    );
    fs::create_dir_all(lab.path("runs/tiny")).expect("a folder");
    // A full disk from the start: found before the first step.
    std::os::unix::fs::symlink("/dev/full", lab.path("runs/tiny/last.safetensors.tmp"))
        .expect("a link");
    bad(
        &lab,
        &["train", "tiny.toml"],
        &[
            "cannot write",
            "last.safetensors",
            "No space left",
            "free some space",
        ],
    );
    let summary = read_summary(&lab.path("runs/tiny")).expect("a summary");
    assert_eq!(summary.status, Status::Failed);
    good(&lab, &["train", "tiny.toml", "--resume"]);
}

#[test]
fn a_loss_that_is_no_number_is_told() {
    let lab = Lab::new();
    lab.file("ttq", "");
    let arguments = ["train", "tiny.toml", "--set", "train.learning_rate=1e38"];
    bad(
        &lab,
        &arguments,
        &[
            "NaN or infinite",
            "layer",
            "last.safetensors",
            "last good checkpoint",
            "learning rate",
        ],
    );
    let summary = read_summary(&lab.path("runs/tiny")).expect("a summary");
    assert_eq!(summary.status, Status::Failed);
    assert!(summary.reason.expect("a reason").contains("layer"));
    let estimate = ["estimate", "tiny.toml", "--set", "train.learning_rate=1e38"];
    bad(&lab, &estimate, &["cannot be timed", "1e38", "layer"]);
}

#[test]
fn bad_downloads_are_told() {
    let lab = Lab::new();
    bad(
        &lab,
        &["download", "war-and-peas"],
        &["war-and-peas", "war-and-peace"],
    );
    bad(
        &lab,
        &["download", "linux-6.1-kernel"],
        &["linux-6.1-kernel", "no canonical address", "--mirror"],
    );
    bad(
        &lab,
        &["download", "war-and-peace", "--mirror", "nowhere"],
        &["nowhere", "expected an existing folder"],
    );
    assert!(good(&lab, &["download", "demo"]).contains("generated by the program"));
}

/// Ctrl-C, a plain kill and a hang-up: saved, exit code 130, and then the same numbers as without.
#[test]
#[cfg(unix)]
fn signals_save_and_the_run_goes_on() {
    use rustix::process::Signal;
    let lab = Lab::new();
    lab.file("lat-a", "train.epochs = 12");
    good(&lab, &["train", "tiny.toml", "--run-dir", "whole"]);
    for (signal, epoch) in [(Signal::INT, 2), (Signal::TERM, 5), (Signal::INT, 12)] {
        let mut run = Session::start(&lab, &[]);
        run.reach(epoch);
        run.send(signal);
        run.ends_interrupted();
        let summary = read_summary(&lab.path("parts")).expect("a summary");
        assert_eq!(summary.status, Status::Interrupted);
        assert!(summary.epochs_done >= epoch);
    }
    let losses = |name: &str| {
        let records = lab.metrics(name).into_iter().take(12);
        records
            .map(|record| (record.epoch, record.train_loss, record.validation_loss))
            .collect::<Vec<_>>()
    };
    assert_eq!(losses("whole"), losses("parts"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_hang_up_that_is_ignored_from_outside_stays_ignored() {
    use rustix::process::Signal;
    let lab = Lab::new();
    lab.file("lat-a", "");
    let mut run = Session::start(&lab, &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]);
    let epoch = run.reach(1);
    run.send(Signal::HUP);
    run.reach(epoch + 20);
    run.send(Signal::INT);
    run.ends_interrupted();
}

/// Whoever reads what a run says may go away: the run does not mind, and its exit code stays.
#[test]
#[cfg(unix)]
fn closed_pipes_change_nothing() {
    let lab = Lab::new();
    lab.file("lat-a", "");
    let mut run = Session::start(&lab, &[]);
    drop(run.child.stdout.take());
    let epoch = run.reach(1);
    // The thread that reads ends with its receiver, and closes its end of the pipe.
    run.lines = mpsc::channel().1;
    let deadline = Instant::now() + PATIENCE;
    while read_summary(&lab.path("parts")).is_none_or(|summary| summary.epochs_done < epoch + 20) {
        assert!(Instant::now() < deadline, "the run stands still");
        thread::sleep(Duration::from_millis(10));
    }
    run.send(rustix::process::Signal::INT);
    assert_eq!(run.child.wait().expect("its end").code(), Some(130));
    let summary = read_summary(&lab.path("parts")).expect("a summary");
    assert_eq!(summary.status, Status::Interrupted);
}

/// Far more than a run needs to come to its next line, even on a busy machine.
#[cfg(unix)]
const PATIENCE: Duration = Duration::from_secs(120);

/// The run `parts` in a process of its own; it ends with the test, if by nothing else.
#[cfg(unix)]
struct Session {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

#[cfg(unix)]
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
impl Session {
    /// Starts or resumes the run, with `prefix` before the command. It has more epochs than any test waits for.
    fn start(lab: &Lab, prefix: &[&str]) -> Self {
        let laq = cargo_bin!("laq").to_str().expect("a path");
        let train = "train tiny.toml --run-dir parts --resume --set train.epochs=5000";
        let words: Vec<&str> = [prefix, &[laq][..]]
            .concat()
            .into_iter()
            .chain(train.split(' '))
            .collect();
        let mut child = std::process::Command::new(words[0])
            .current_dir(lab.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(&words[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("laq runs");
        // A thread reads the pipe, which must not fill up.
        let errors = BufReader::new(child.stderr.take().expect("its errors"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            errors
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// Waits until `epoch` or a later one is done, and returns it.
    fn reach(&self, epoch: u32) -> u32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("a run that goes on");
            let done = line
                .strip_prefix("epoch ")
                .and_then(|line| line.split_once('/'));
            if let Some(done) = done
                .and_then(|(done, _)| done.parse().ok())
                .filter(|&done| done >= epoch)
            {
                return done;
            }
        }
    }

    fn send(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("a signal");
    }

    /// It logs that it stops, saves, and prints the command that resumes.
    fn ends_interrupted(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .expect("a line about stopping");
            if line.starts_with("stopping: ") {
                break;
            }
        }
        let mut said = String::new();
        let mut output = self.child.stdout.take().expect("its output");
        output.read_to_string(&mut said).expect("text");
        assert_eq!(self.child.wait().expect("its end").code(), Some(130));
        assert!(
            said.contains("interrupted and saved in parts") && said.contains("resume with: "),
            "{said}"
        );
        assert!(
            said.contains(" train tiny.toml --run-dir parts --resume --set 'train.epochs=5000'"),
            "{said}"
        );
    }
}
