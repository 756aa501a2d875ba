//! A GPU through cudarc, on the fake driver.
//!
//! The loader reads `LD_LIBRARY_PATH` when a process starts, so every test here runs itself again
//! in a child process.

use std::fs;
use std::process::{Command, Output};

use laq_cuda::{Argument, Cuda, CudaBackend, Device, Launch, Precision, Settings};
use laq_models::Batch;
use laq_solvers::Method;
use laq_tensor::{BackendError, CpuBackend, Memory, conformance};

use crate::emulator::library::{install, library};
use crate::training::{Lstm, Network, Vgg, as_on_the_cpu, gathered_as_from_the_host, steps};

/// Set in the child process.
const INSIDE: &str = "LAQ_TEST_INSIDE";

/// The result of a child process.
struct Ended {
    output: Output,
    /// The report of the fake driver.
    report: String,
}

impl Ended {
    /// Asserts success, no violation of NVIDIA's documentation, and no leaks.
    fn is_clean(&self) -> &str {
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        assert!(self.output.status.success(), "{stderr}\n{}", self.report);
        let bad = |line: &&str| line.starts_with("mistake ") || line.starts_with("left ");
        let bad: Vec<_> = self.report.lines().filter(bad).collect();
        assert!(bad.is_empty() && !self.report.is_empty(), "{bad:#?}");
        &self.report
    }

    fn count(&self, what: &str) -> u64 {
        let mut lines = self.report.lines();
        let found = lines.find_map(|line| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0)
    }
}

/// Runs `inside` in a child process for each of the settings; `test` is the name of the calling
/// test.
fn on_the_fake_driver(
    test: &str,
    settings: &[&[(&str, &str)]],
    inside: impl Fn(),
) -> Option<Vec<Ended>> {
    if std::env::var_os(INSIDE).is_some() {
        inside();
        return None;
    }
    let library = library()?;
    let run = |settings: &&[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        install(library, folder.path(), &[]);
        let report = folder.path().join("report");
        let output = Command::new(std::env::current_exe().unwrap())
            .args([&format!("driver::{test}"), "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .env("LD_LIBRARY_PATH", folder.path())
            .env("FAKE_CUDA_REPORT", &report)
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("LAQ_CUDNN")
            .env_remove("LAQ_GRAPHS")
            .env_remove("LAQ_LSTM")
            .envs(settings.iter().copied())
            .output()
            .unwrap();
        Ended {
            output,
            report: fs::read_to_string(report).unwrap_or_default(),
        }
    };
    Some(settings.iter().map(run).collect())
}

fn opened(index: usize) -> CudaBackend<Cuda> {
    of_precision(index, Precision::Float32)
}

fn of_precision(index: usize, precision: Precision) -> CudaBackend<Cuda> {
    CudaBackend::new(Cuda::open(index, precision, None).unwrap())
}

#[test]
fn the_backend_conforms() {
    let settings: [&[_]; 2] = [&[], &[("LAQ_CUDNN", "off")]];
    let ended = on_the_fake_driver("the_backend_conforms", &settings, || {
        let backend = opened(0);
        let without = std::env::var_os("LAQ_CUDNN").is_some();
        assert_eq!(backend.device_name().ends_with(", cuDNN)"), !without);
        let checks = conformance::run(&backend).unwrap();
        let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    });
    for (ended, by_products) in ended.into_iter().flatten().zip([false, true]) {
        ended.is_clean();
        assert_eq!(ended.report.contains("launched im2col"), by_products);
    }
}

#[test]
fn networks_train_as_on_the_cpu() {
    let settings: [&[_]; 3] = [
        &[],
        &[("FAKE_CUDA_POOLS", "0"), ("LAQ_CUDNN", "off")],
        &[("LAQ_GRAPHS", "off"), ("LAQ_CUDNN", "off")],
    ];
    let ended = on_the_fake_driver("networks_train_as_on_the_cpu", &settings, || {
        if std::env::var_os("LAQ_CUDNN").is_none() {
            as_on_the_cpu(&Lstm, "ttq", || opened(0));
            as_on_the_cpu(&Lstm, "lat2-e", || opened(0));
            as_on_the_cpu(&Vgg, "full", || opened(0));
            gathered_as_from_the_host(|| opened(0));
        }
        as_on_the_cpu(&Vgg, "lat-a", || opened(0));
    });
    for (ended, recorded) in ended.into_iter().flatten().zip([true, true, false]) {
        ended.is_clean();
        let [graphs, replays] = ["graphs", "replays"].map(|what| ended.count(what));
        let right = match recorded {
            true => graphs > 2 && replays > 3 * graphs,
            false => graphs == 0 && replays == 0,
        };
        assert!(right, "{}", ended.report);
    }
}

/// Where cuDNN fails on the algorithms that it ranked, convolutions use im2col; which the
/// diagnostics report.
#[test]
fn cudnn_may_fail() {
    let settings: [&[_]; 2] = [&[], &[("FAKE_CUDA_CUDNN_REFUSES", "1")]];
    let ended = on_the_fake_driver("cudnn_may_fail", &settings, || {
        let method = Method::try_from("lat-a").unwrap();
        let mut training = Vgg.build(opened(0), &method);
        let losses = steps(&Vgg, &mut training, 0..2);
        let expected = steps(
            &Vgg,
            &mut Vgg.build(CpuBackend::new().unwrap(), &method),
            0..2,
        );
        for (a, b) in losses.iter().zip(&expected) {
            assert!((a - b).abs() < 2e-3 * b, "{losses:?}, {expected:?}");
        }
        let lines = training.diagnostics().join("; ");
        let refuses = std::env::var_os("FAKE_CUDA_CUDNN_REFUSES").is_some();
        let expected_line = match refuses {
            true => "im2col, because of cuDNN: CudnnError(CUDNN_STATUS_NOT_SUPPORTED)",
            false => "cuDNN, forward CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM",
        };
        assert!(lines.contains(expected_line), "{lines}");
    });
    for (ended, by_products) in ended.into_iter().flatten().zip([false, true]) {
        ended.is_clean();
        assert_eq!(ended.report.contains("launched im2col"), by_products);
    }
}

#[test]
fn settings_are_checked() {
    let pairs = ["LAQ_GRAPHS", "LAQ_LSTM", "LAQ_CUDNN"].map(|variable| [(variable, "Off")]);
    let settings = pairs.each_ref().map(|pair| &pair[..]);
    on_the_fake_driver("settings_are_checked", &settings, || {
        let message = Settings::from_environment().unwrap_err().to_string();
        assert!(message.contains("\"Off\", expected "), "{message}");
        let opened = Cuda::open(0, Precision::Tf32, None);
        assert_eq!(opened.unwrap_err().to_string(), message);
    })
    .into_iter()
    .flatten()
    .for_each(|ended| assert!(ended.output.status.success(), "{}", ended.report));
}

/// TF32 gives nearly the same losses, but not the same.
#[test]
fn tensor_cores_round() {
    let ended = on_the_fake_driver("tensor_cores_round", &[&[]], || {
        let method = Method::try_from("lat-a").unwrap();
        let losses = |precision| {
            let backend = of_precision(0, precision);
            steps(&Vgg, &mut Vgg.build(backend, &method), 0..3)
        };
        let (rounded, exact) = (losses(Precision::Tf32), losses(Precision::Float32));
        assert_ne!(rounded, exact);
        for (a, b) in rounded.iter().zip(&exact) {
            assert!((a - b).abs() < 0.02 * b, "{rounded:?}, {exact:?}");
        }
    });
    for ended in ended.into_iter().flatten() {
        ended.is_clean();
    }
}

/// LSTMs in one kernel, captured, where requested and supported.
#[test]
fn lstms_in_one_kernel() {
    let asked = ("LAQ_LSTM", "sequence");
    let settings: [&[_]; 2] = [&[asked], &[asked, ("FAKE_CUDA_COOPERATIVE", "0")]];
    let ended = on_the_fake_driver("lstms_in_one_kernel", &settings, || {
        let method = Method::try_from("lat-a").unwrap();
        let losses = |precision| {
            let mut training = Lstm::of_cells(128, of_precision(0, precision), &method);
            let losses = steps(&Lstm, &mut training, 0..4);
            (losses, training.diagnostics())
        };
        let ((rounded, lines), (exact, others)) =
            (losses(Precision::Tf32), losses(Precision::Float32));
        for (a, b) in rounded.iter().zip(&exact) {
            assert!((a - b).abs() < 0.01 * b, "{rounded:?}, {exact:?}");
        }
        let without = std::env::var_os("FAKE_CUDA_COOPERATIVE").is_some();
        let step_by_step =
            |lines: &[String]| lines.iter().any(|line| line.contains("step by step"));
        assert_eq!(step_by_step(&lines), without, "{lines:?}");
        assert!(step_by_step(&others), "{others:?}");
    });
    for (ended, possible) in ended.into_iter().flatten().zip([true, false]) {
        ended.is_clean();
        for kernel in ["lstm_sequence_128", "lstm_sequence_backward_128"] {
            let launched = ended.report.contains(&format!("launched {kernel}\n"));
            assert_eq!(launched, possible, "{}", ended.report);
        }
        assert!(ended.count("replays") >= 4);
    }
}

/// Several devices in several threads, and networks that move between threads.
#[test]
fn threads_and_devices() {
    let settings: [&[_]; 1] = [&[("FAKE_CUDA_DEVICES", "2")]];
    let ended = on_the_fake_driver("threads_and_devices", &settings, || {
        let method = Method::try_from("lat-e").unwrap();
        let expected = steps(&Lstm, &mut Lstm.build(opened(0), &method), 0..6);
        std::thread::scope(|scope| {
            for index in [0, 1, 0] {
                let (method, expected) = (&method, &expected);
                scope.spawn(move || {
                    let mut training = Lstm.build(opened(index), method);
                    let mut losses = steps(&Lstm, &mut training, 0..3);
                    // The other thread used another device before.
                    let other = std::thread::spawn(move || {
                        drop(opened(1 - index));
                        losses.extend(steps(&Lstm, &mut training, 3..6));
                        losses
                    });
                    assert_eq!(other.join().unwrap(), *expected);
                });
            }
        });
        let message = Cuda::open(2, Precision::Tf32, None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("expected cuda:0 to cuda:1"), "{message}");
    });
    for ended in ended.into_iter().flatten() {
        ended.is_clean();
    }
}

/// A device lost at any call, also within a capture, gives an error and no panic.
#[test]
fn a_lost_device_is_an_error() {
    let places = ["3", "40", "200", "450", "900", "1500"];
    let settings = places.map(|place| {
        let failure = if place == "200" { "46" } else { "700" };
        [
            ("FAKE_CUDA_FAIL_AFTER", place),
            ("FAKE_CUDA_FAILURE", failure),
        ]
    });
    let settings = settings.each_ref().map(|pair| &pair[..]);
    let ended = on_the_fake_driver("a_lost_device_is_an_error", &settings, || {
        let method = Method::try_from("lat-a").unwrap();
        let train = || -> Result<(), String> {
            let device = Cuda::open(0, Precision::Tf32, None).map_err(|error| error.to_string())?;
            let mut training = Vgg
                .try_build(CudaBackend::new(device), &method)
                .map_err(|error| error.to_string())?;
            for number in 0..30 {
                let (pixels, labels) = Vgg::batch(number);
                let begun = training.begin_step(Batch::images(&pixels, &labels), 0.01);
                begun.map_err(|error| error.to_string())?;
                training.report().map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let message = train().unwrap_err();
        let words = ["an illegal memory access", "busy or unavailable"];
        assert!(words.iter().any(|part| message.contains(part)), "{message}");
        // Every later use of the device is an error.
        let again = Cuda::open(0, Precision::Tf32, None);
        assert!(
            matches!(again, Err(BackendError::Device { .. })),
            "{again:?}"
        );
    });
    for ended in ended.into_iter().flatten() {
        ended.is_clean();
    }
}

#[test]
fn out_of_memory_is_an_error() {
    let settings = ["1000000", "33600000", "33700000", "34500000"];
    let settings = settings.map(|bytes| [("FAKE_CUDA_MEMORY", bytes)]);
    let settings = settings.each_ref().map(|pair| &pair[..]);
    let ended = on_the_fake_driver("out_of_memory_is_an_error", &settings, || {
        let built = Cuda::open(0, Precision::Tf32, None).map_err(|error| error.to_string());
        let built = built.and_then(|device| {
            let spec = laq_models::CharLstmSpec::paper(200);
            let text = laq_models::TextShape {
                length: 5,
                batch: 4,
            };
            let method = Method::try_from("lat-e").unwrap();
            let (backend, adam) = (CudaBackend::new(device), Default::default());
            let built = laq_models::Training::char_lstm(backend, &spec, text, &method, adam, 1);
            built.map(drop).map_err(|error| error.to_string())
        });
        let message = built.unwrap_err();
        assert!(message.contains("is out of memory"), "{message}");
    });
    for ended in ended.into_iter().flatten() {
        ended.is_clean();
    }
}

/// The fake driver rejects and reports what NVIDIA's documentation forbids.
#[test]
fn the_fake_driver_is_strict() {
    let ended = on_the_fake_driver("the_fake_driver_is_strict", &[&[]], || {
        let gpu = Cuda::open(0, Precision::Float32, None).unwrap();
        let memory = gpu.allocate(16).unwrap();
        let launch = |address: u64, grid, count: usize| {
            let arguments: [Argument; 3] = [address.into(), 4u64.into(), 0.0f32.into()];
            // SAFETY: the fake driver checks all arguments.
            unsafe {
                gpu.launch(&Launch {
                    kernel: "relu",
                    grid,
                    block: [32, 1, 1],
                    arguments: &arguments[..count],
                    cooperative: false,
                })
            }
        };
        let address = gpu.address(&memory);
        launch(address, [1, 1, 1], 2).unwrap();
        for (grid, arguments) in [
            ([1, 65_536, 1], 2),
            ([0, 1, 1], 2),
            ([1, 1, 1], 1),
            ([1, 1, 1], 3),
        ] {
            assert!(launch(address, grid, arguments).is_err());
        }
        // Each of these invalidates a capture.
        gpu.begin_capture().unwrap();
        assert!(gpu.allocate(16).is_err());
        assert!(gpu.end_capture().is_err());
        gpu.begin_capture().unwrap();
        assert!(gpu.upload(&[0; 16], 0, &memory).is_err());
        assert!(gpu.end_capture().is_err());
        gpu.begin_capture().unwrap();
        assert!(gpu.download(&memory, &mut [0; 16]).is_err());
        assert!(gpu.end_capture().is_err());
        gpu.begin_capture().unwrap();
        launch(address, [1, 1, 1], 2).unwrap();
        let mut graph = gpu.end_capture().unwrap();
        // Memory is freed after the work submitted before; a later fault is returned by the next
        // wait.
        launch(address, [1, 1, 1], 2).unwrap();
        let other = gpu.allocate(16).unwrap();
        gpu.upload(&[1; 16], 0, &other).unwrap();
        drop(memory);
        let mut bytes = [0; 16];
        gpu.download(&other, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 16]);
        // SAFETY: the fake driver checks all arguments.
        unsafe { gpu.replay(&mut graph).unwrap() };
        let message = gpu.download(&other, &mut bytes).unwrap_err().to_string();
        assert!(message.contains("an illegal memory access"), "{message}");
        assert!(gpu.allocate(16).is_err());
    });
    for ended in ended.into_iter().flatten() {
        let stderr = String::from_utf8_lossy(&ended.output.stderr);
        assert!(ended.output.status.success(), "{stderr}");
        let mistakes = (ended.report.lines()).filter_map(|line| line.strip_prefix("mistake "));
        assert_eq!(
            mistakes.collect::<Vec<_>>(),
            [
                "cuLaunchKernel: relu has an invalid grid",
                "cuLaunchKernel: relu has an invalid grid",
                "cuLaunchKernel: relu takes more arguments",
                "cuLaunchKernel: relu takes fewer arguments",
                "cuMemAllocAsync: not during a capture",
                "cuMemcpyHtoDAsync: not during a capture",
                "cuMemcpyDtoHAsync: not during a capture",
                "cuStreamSynchronize: not during a capture",
                "deferred: argument 0 of relu is not in allocated memory",
            ]
        );
    }
}
