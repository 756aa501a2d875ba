//! The `laq` binary on a GPU, which is the fake driver of `laq-cuda`'s tests.
#![cfg(target_os = "linux")]

#[path = "../../laq-runner/tests/common/mod.rs"]
mod common;
#[path = "../../laq-cuda/tests/emulated/emulator/library.rs"]
mod library;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use common::{TestDir, run_bits};
use laq_runner::record::Status;
use laq_runner::run_folder::read_summary;
use laq_runner::train::Event;
use library::{install, library};
use serde_json::Value;

/// A folder for runs, and a machine with a fake GPU.
struct Machine {
    dir: TestDir,
    libraries: PathBuf,
    settings: Vec<(&'static str, &'static str)>,
}

/// What a command has left.
struct Ended {
    output: Output,
    /// The report of the fake driver.
    report: String,
}

impl Ended {
    fn text(&self) -> String {
        let [out, err] = [&self.output.stdout, &self.output.stderr].map(|text| text.clone());
        String::from_utf8([out, err].concat()).expect("text")
    }

    /// Asserts success without violations of the CUDA API or leaks, and returns the output.
    fn good(&self) -> String {
        let text = self.text();
        assert_eq!(self.output.status.code(), Some(0), "{text}{}", self.report);
        self.is_clean();
        text
    }

    fn is_clean(&self) {
        let bad = |line: &str| line.starts_with("mistake ") || line.starts_with("left ");
        assert!(!self.report.lines().any(bad), "{}", self.report);
    }

    /// Asserts exit code 1 and a message that contains all of `parts`.
    fn bad(&self, parts: &[&str]) {
        let text = self.text();
        assert_eq!(self.output.status.code(), Some(1), "{text}{}", self.report);
        for word in ["panicked", "a bug in this program"] {
            assert!(!text.contains(word), "{text}");
        }
        let message = text.lines().skip_while(|line| !line.starts_with("error: "));
        let message: String = message.flat_map(|line| [line, "\n"]).collect();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {text:?}");
        }
        self.is_clean();
    }

    fn count(&self, what: &str) -> u64 {
        let mut lines = self.report.lines();
        let found = lines.find_map(|line| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0)
    }
}

impl Machine {
    /// `None` where there is no C++ compiler; a message on stderr says so.
    fn new() -> Option<Self> {
        Self::without(&[])
    }

    /// One that lacks some of NVIDIA's libraries.
    fn without(missing: &[&str]) -> Option<Self> {
        let dir = TestDir::new();
        let libraries = dir.path("nvidia");
        fs::create_dir(&libraries).expect("a folder");
        install(library()?, &libraries, missing);
        Some(Self {
            dir,
            libraries,
            settings: Vec::new(),
        })
    }

    /// The same machine with other settings of the fake driver.
    fn with(mut self, settings: &[(&'static str, &'static str)]) -> Self {
        self.settings = settings.to_vec();
        self
    }

    fn laq(&self, arguments: &[&str]) -> Ended {
        let report = self.dir.path("report");
        let _ = fs::remove_file(&report);
        let output = Command::new(cargo_bin!("laq"))
            .current_dir(self.dir.folder.path())
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("LAQ_CUDNN")
            .env_remove("LAQ_GRAPHS")
            .env_remove("LAQ_LSTM")
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("LAQ_CACHE_DIR", self.dir.path("cache"))
            .env("FAKE_CUDA_REPORT", &report)
            .envs(self.settings.iter().copied())
            .args(arguments)
            .output()
            .expect("laq runs");
        Ended {
            output,
            report: fs::read_to_string(report).unwrap_or_default(),
        }
    }

    /// Trains `tiny.toml` in the run folder `run`.
    fn train(&self, run: &str, more: &[&str]) -> Ended {
        self.laq(&[&["train", "tiny.toml", "--run-dir", run], more].concat())
    }
}

fn on(device: &str) -> [&str; 2] {
    ["--device", device]
}

#[test]
fn doctor_lists_libraries_and_devices() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let machine = machine.with(&[("FAKE_CUDA_DEVICES", "2"), ("FAKE_CUDA_DRIVER", "12040")]);
    let text = machine.laq(&["doctor"]).good();
    for line in [
        "CUDA       driver   CUDA 12.4",
        "CUDA       cuBLAS   13.1",
        "CUDA       NVRTC    13.1",
        "CUDA       cuDNN    9.10.2",
        "CUDA       cuda:0   Fake GPU, 2.1 GB, compute capability 9.0",
        "CUDA       cuda:1   Fake GPU, 2.1 GB, compute capability 9.0",
        "device     cuda:0 (--device takes another)",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

#[test]
fn runs_are_trained_and_evaluated() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.dir.file("lat-a", "comparison.every = 5");
    let first = machine.train("a", &on("cuda:0"));
    let text = first.good();
    assert!(text.contains("cuda (Fake GPU, TF32, cuDNN)"), "{text}");
    assert!(first.count("compiled") == 1 && first.count("replays") >= 10);
    let summary = read_summary(&machine.dir.path("a")).expect("a summary");
    assert_eq!((summary.status, summary.epochs_done), (Status::Finished, 3));
    assert_eq!(summary.kernel, "cuda (Fake GPU, TF32, cuDNN)");
    // The same bits, with the kernels that were kept.
    let second = machine.train("b", &on("auto"));
    assert!(second.good().contains("a GPU is available"));
    assert!(second.count("compiled") == 0 && second.count("replays") >= 10);
    let bits = |run: &str| run_bits(&machine.dir, run);
    assert_eq!(bits("a"), bits("b"));
    // Kept kernels that are damaged are not taken.
    for file in fs::read_dir(machine.dir.path("cache")).expect("a folder") {
        fs::write(file.expect("a file").path(), "no kernels").expect("a file");
    }
    let evaluated = |device: &str| {
        let ended = machine.laq(&[&["eval", "a", "--json"][..], &on(device)].concat());
        let found: Value = serde_json::from_str(&ended.good()).expect("JSON");
        (
            ended.count("compiled"),
            found["loss"].as_f64().expect("a loss"),
        )
    };
    let (compiled, on_gpu) = evaluated("cuda:0");
    assert_eq!((compiled, Some(on_gpu)), (1, summary.test_loss));
    let (_, on_cpu) = evaluated("cpu");
    assert!((on_gpu - on_cpu).abs() < 1e-2, "{on_gpu}, {on_cpu}");
    let machine = machine.with(&[("FAKE_CUDA_FAIL_AFTER", "70")]);
    let gone = machine.laq(&[&["eval", "a"][..], &on("cuda:0")].concat());
    gone.bad(&["an illegal memory access", "--device cpu"]);
    let machine = machine.with(&[]);
    let estimate = [&["estimate", "tiny.toml"][..], &on("cuda:0")].concat();
    assert!(machine.laq(&estimate).good().contains("15 steps"));
}

#[test]
fn images_are_trained_with_and_without_cudnn() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.dir.digits("lat2-a", "train.epochs = 1");
    let train = |machine: &Machine, run: &str| {
        let arguments = ["train", "digits.toml", "--run-dir", run, "--device", "cuda"];
        machine.laq(&arguments)
    };
    let with = train(&machine, "with");
    assert!(with.good().contains(", cuDNN)"));
    let machine = machine.with(&[("LAQ_CUDNN", "off")]);
    let without = train(&machine, "without");
    assert!(!without.good().contains(", cuDNN)"));
    // What was chosen stays with the run.
    let chosen = |run: &str| {
        let path = machine.dir.path(run).join("environment.json");
        fs::read_to_string(path).expect("an environment")
    };
    assert!(chosen("with").contains(" channels: cuDNN, forward "));
    assert!(!chosen("without").contains("notes"));
    let loss = |run: &str| machine.dir.metrics(run)[0].train_loss;
    let (a, b) = (loss("with"), loss("without"));
    assert!((a - b).abs() < 0.05 * b, "{a}, {b}");
}

/// The GPU fails during a run: the last checkpoint is valid, on a GPU and on the CPU.
#[test]
fn a_run_resumes_after_the_gpu_failed() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.dir.file("ttq", "");
    let whole = machine.train("whole", &on("cuda:0"));
    whole.good();
    let operations = whole.count("operations");
    let most = |tenths: u64| -> &'static str { (operations * tenths / 10).to_string().leak() };
    let bits = |machine: &Machine, run: &str| run_bits(&machine.dir, run);
    let mut machine = machine;
    for (tenths, failure, words) in [
        (2, "700", "an illegal memory access"),
        (1, "46", "busy or unavailable"),
        (5, "700", "an illegal memory access"),
        (8, "46", "busy or unavailable"),
        (9, "700", "an illegal memory access"),
    ] {
        machine = machine.with(&[
            ("FAKE_CUDA_FAIL_AFTER", most(tenths)),
            ("FAKE_CUDA_FAILURE", failure),
        ]);
        let run = format!("gone-{tenths}");
        machine
            .train(&run, &on("cuda:0"))
            .bad(&[words, "continue with --resume"]);
        let summary = read_summary(&machine.dir.path(&run)).expect("a summary");
        assert_eq!(summary.status, Status::Failed);
        machine = machine.with(&[]);
        if tenths == 8 {
            machine.train(&run, &["--resume", "--device", "cpu"]).good();
            let summary = read_summary(&machine.dir.path(&run)).expect("a summary");
            assert_eq!(summary.status, Status::Finished);
        } else {
            machine.train(&run, &["--resume"]).good();
            assert_eq!(bits(&machine, &run), bits(&machine, "whole"));
        }
    }
}

/// Examples that do not fit into device memory are copied per batch, with the same bits.
#[test]
fn examples_that_do_not_fit_are_copied_per_batch() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.dir.digits("lat-a", "train.epochs = 1");
    let arguments = |run| ["train", "digits.toml", "--run-dir", run, "--device", "cuda"];
    let uploaded = machine.laq(&arguments("uploaded"));
    uploaded.good();
    // cuBLAS works in 34 MB of it, and the images are more than 3.
    let machine = machine.with(&[("FAKE_CUDA_MEMORY", "35000000")]);
    let per_batch = machine.laq(&arguments("per-batch"));
    per_batch.good();
    for (ended, gathers) in [(uploaded, true), (per_batch, false)] {
        assert_eq!(ended.report.contains("launched gather_images"), gathers);
    }
    assert_eq!(
        run_bits(&machine.dir, "uploaded"),
        run_bits(&machine.dir, "per-batch")
    );
}

/// A device that fails while it loads a checkpoint is not an error of the checkpoint.
#[test]
fn a_failing_device_is_not_an_error_of_the_checkpoint() {
    let Some(machine) = Machine::new() else {
        return;
    };
    machine.dir.file("lat-a", "");
    machine.train("run", &on("cuda:0")).good();
    let whole = machine.laq(&["eval", "run", "--device", "cuda:0"]);
    whole.good();
    let operations = whole.count("operations");
    let mut machine = machine;
    for tenths in 1..7 {
        let most = (operations * tenths / 10).to_string().leak();
        machine = machine.with(&[("FAKE_CUDA_FAIL_AFTER", most)]);
        let ended = machine.laq(&["eval", "run", "--device", "cuda:0"]);
        ended.bad(&["an illegal memory access", "--device cpu"]);
    }
    machine.with(&[]).laq(&["eval", "run"]).good();
}

#[test]
fn a_run_of_the_cpu_resumes_on_a_gpu_on_request() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let experiment = machine.dir.experiment("lat-a", "");
    for (run, more, because, kernel) in [
        ("a", &["--resume"][..], "started on a CPU", ""),
        (
            "b",
            &["--resume", "--device", "cuda:0"],
            "requested",
            "cuda (",
        ),
    ] {
        let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
        let begun = machine.dir.train_until(&experiment, run, None, stop);
        begun.expect("a part of a run");
        let text = machine.train(run, more).good();
        assert!(text.contains(because), "{text}");
        let summary = read_summary(&machine.dir.path(run)).expect("a summary");
        assert_eq!(summary.status, Status::Finished);
        assert!(summary.kernel.starts_with(kernel), "{}", summary.kernel);
    }
}

#[test]
fn missing_and_failing_libraries_are_errors() {
    for (missing, settings, parts) in [
        (&["cuda"][..], &[][..], &["libcuda not found"][..]),
        (&["cublas"], &[], &["libcublas not found", "pip install"]),
        (&["nvrtc"], &[], &["libnvrtc not found", "pip install"]),
        (
            &[],
            &[("FAKE_CUDA_DRIVER", "11080")],
            &["CUDA 11.8", "12.0 or later"],
        ),
        (&[], &[("FAKE_CUDA_INIT", "34")], &["is a stub"]),
        (
            &[],
            &[("FAKE_CUDA_INIT", "100")],
            &["the driver shows no GPU"],
        ),
        (
            &[],
            &[("FAKE_CUDA_INIT", "803")],
            &["cannot initialize the driver", "driver combination"],
        ),
        (
            &[],
            &[("CUDA_VISIBLE_DEVICES", "")],
            &["CUDA_VISIBLE_DEVICES"],
        ),
        (
            &[],
            &[(
                "FAKE_CUDA_NVRTC_FAILS",
                "laq.cu(7): error: a word it does not know",
            )],
            &[
                "cannot compile the kernels",
                "laq.cu(7): error: a word it does not know",
            ],
        ),
        (
            &[],
            &[("FAKE_CUDA_MEMORY", "1000000")],
            &["Fake GPU", "is out of memory"],
        ),
    ] {
        let Some(machine) = Machine::without(missing) else {
            return;
        };
        let machine = machine.with(settings);
        machine.dir.file("lat-a", "");
        let train = machine.train("a", &on("cuda:0"));
        train.bad(&[parts, &["--device cpu"]].concat());
        assert!(!machine.dir.path("a/last.safetensors").exists());
        // The doctor has no error for it.
        machine.laq(&["doctor"]).good();
    }
    let Some(machine) = Machine::without(&["cudnn"]) else {
        return;
    };
    machine.dir.file("lat-a", "");
    let text = machine.train("a", &on("cuda:0")).good();
    assert!(text.contains("cuda (Fake GPU, TF32)"), "{text}");
    let text = machine.laq(&["doctor"]).good();
    assert!(text.contains("libcudnn not found"), "{text}");
    assert!(text.contains("device     cuda:0"), "{text}");
    let missing = machine.train("b", &on("cuda:3"));
    missing.bad(&["cuda:3", "expected cuda:0 to cuda:0", "laq doctor"]);
    // One that is too old is as good as none.
    let machine = Machine::new().expect("as before");
    let machine = machine.with(&[("FAKE_CUDA_CUDNN", "8907")]);
    let text = machine.laq(&["doctor"]).good();
    assert!(text.contains("8907 is too old"), "{text}");
}

/// A library without the functions that are called.
#[test]
fn a_missing_function_is_an_error() {
    for (name, message) in [
        ("cuda", "libcuda has no function cu"),
        ("cublas", "libcublas has no function cublas"),
        ("nvrtc", "libnvrtc has no function nvrtc"),
        ("cudnn", "libcudnn has no function cudnn"),
    ] {
        let Some(machine) = Machine::without(&[name]) else {
            return;
        };
        machine.dir.file("lat-a", "");
        let source = machine.dir.path("empty.cpp");
        fs::write(&source, "int nothing;").expect("a file");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-o"]);
        command.arg(machine.libraries.join(format!("lib{name}.so")));
        command.arg(&source).unwrap();
        assert!(
            machine.laq(&["doctor"]).good().contains(message),
            "{message}"
        );
        let train = machine.train("a", &on("cuda:0"));
        if name == "cudnn" {
            train.good();
        } else {
            train.bad(&[message, "--device cpu"]);
        }
    }
}

#[test]
fn a_network_that_does_not_fit_is_an_error_with_the_largest_batch() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let machine = machine.with(&[("FAKE_CUDA_MEMORY", "36000000")]);
    machine.dir.file("lat-a", "");
    let bigger = [
        "--device",
        "cuda:0",
        "--set",
        "model.hidden=150",
        "--set",
        "data.batch=25",
    ];
    machine.train("a", &bigger).bad(&[
        "model.hidden = 150, data.length = 10 and data.batch = 25",
        "MB of memory, and 2 MB are available (what is free on the GPU)",
        "data.batch to ",
    ]);
}

/// The complete command with small networks.
#[test]
fn gpu_check_passes_on_the_fake_driver() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let arguments = "gpu-check --device cuda:0 --small --minutes 5 --python no-such-python";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let text = machine.laq(&arguments).good();
    for part in [
        "# cuda (Fake GPU, TF32, cuDNN)",
        "comparisons passed",
        "| LSTM recurrence | steps ",
        " ms a step, sequence ",
        "| concurrent training | char-lstm ",
        "| cifar10 | laq-log-3-e | ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let readme = fs::read_to_string(machine.dir.path("gpu-check/README.md")).expect("a page");
    assert!(!readme.contains("FAILED"), "{readme}");
}
