//! Devices and `laq gpu-check`.

use super::*;

/// No GPU is shown to the tests.
#[test]
fn a_missing_device_is_an_error() {
    let dir = TestDir::new();
    dir.file("lat-a", "");
    for (device, code, parts) in [
        ("cuda:0", 1, ["cuda:0", "--device cpu"]),
        ("cuda:7", 1, ["cuda:7", "--device cpu"]),
        (
            "gpu",
            2,
            ["unknown device \"gpu\"", "auto, cpu, cuda or cuda:N"],
        ),
    ] {
        let output = laq(&dir, &["train", "tiny.toml", "--device", device]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{}", stderr(&output));
        }
    }
    assert!(!dir.path("runs/tiny/last.safetensors").exists());
    let precision = ["--device", "cpu", "--precision", "float32"];
    run(&dir, &[&["train", "tiny.toml"][..], &precision].concat());
}

/// The output of `gpu-check` on the CPU, with small networks.
fn gpu_check(dir: &TestDir, python: &str) -> String {
    let arguments = "gpu-check --device cpu --small --minutes 1".split(' ');
    let arguments = arguments.chain(["--python", python]);
    run(dir, &arguments.collect::<Vec<_>>())
}

/// All sections on the CPU, with small networks and without PyTorch.
#[test]
fn gpu_check_runs_on_the_cpu() {
    let dir = TestDir::new();
    let text = gpu_check(&dir, "no-such-python");
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
        assert!(text.contains(part), "{part}: {text}");
    }
    let file = |name: &str| fs::read_to_string(dir.path("gpu-check").join(name)).expect(name);
    let readme = file("README.md");
    let details = readme
        .strip_prefix(&text)
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
    assert_fails(&dir, &["gpu-check", "--out", "other"], &["--device cpu"]);
    assert!(!dir.path("other").exists());
}

/// A script takes the place of Python: the tables show its output and its failure.
#[cfg(unix)]
#[test]
fn gpu_check_compares_with_pytorch() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TestDir::new();
    let python = dir.path("python");
    let script = r#"#!/bin/sh
echo '{"torch": "2.11", "device": "cpu"}'
echo '{"network": "mnist", "method": "lat-e", "variant": "eager", "seconds": 1000}'
echo '{"network": "mnist", "method": "lat-e", "variant": "compiled", "error": "no compiler"}'
echo "$@" >&2
exit 3
"#;
    fs::write(&python, script).expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("set");
    let text = gpu_check(&dir, "./python");
    for part in ["| PyTorch | 2.11 |\n", " | 1000000.000 (eager) | 0.00 |\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let file = |name: &str| fs::read_to_string(dir.path("gpu-check").join(name)).expect(name);
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
fn a_run_resumes_only_on_its_device() {
    let dir = TestDir::new();
    let experiment = dir.experiment("ttq", "");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    dir.train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let path = dir.path("runs/tiny/last.safetensors");
    let mut checkpoint = Checkpoint::read(&path).expect("a checkpoint");
    checkpoint.run.kernel = "cuda (NVIDIA H100, TF32)".into();
    checkpoint.write(&path).expect("a checkpoint");
    let before = last_checkpoint(&dir);
    // A run that began on a GPU is continued on a GPU.
    let output = laq(&dir, &["train", "tiny.toml", "--resume"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--device cpu"),
        "{}",
        stderr(&output)
    );
    assert_eq!(last_checkpoint(&dir), before);
    run(&dir, &["eval", "runs/tiny"]);
    run(&dir, &["train", "tiny.toml", "--resume", "--device", "cpu"]);
    let summary = read_summary(&dir.path("runs/tiny")).expect("a summary");
    assert_eq!(summary.status, Status::Finished);
}
