//! `laq gpu-check`: correctness and speed of a GPU, in one folder.
//!
//! 1. The conformance suite of the backend.
//! 2. A few steps of the paper's networks on the CPU and on the device.
//! 3. The time of training steps and of quantization, with PyTorch's steps where PyTorch is
//!    installed.
//! 4. The variants of the LSTM's recurrence, and the throughput of concurrent training.
//!
//! The README.md of the folder starts with a summary. `--device cpu` runs everything but the
//! variants on the CPU.

mod concurrency;
mod pytorch;
mod summary;
mod workload;

use std::fmt::{Display, Write as _};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use laq_tensor::conformance;

pub(crate) use self::concurrency::throughput_worker;
use self::summary::{Compared, Findings};
use self::workload::Workload;
use laq_packed::thread_pool;
use laq_runner::RunError;
use laq_runner::device::{DeviceChoice, DeviceOptions, OpenDevice, Precision};
use laq_runner::environment::Environment;
use laq_runner::files::{FileError, write_atomically};

/// The arguments of the command.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The device to check.
    pub(crate) device: DeviceOptions,
    /// The time limit. Each section has its share of it, and what those before it left.
    pub(crate) minutes: f64,
    /// The output folder.
    pub(crate) out: PathBuf,
    /// The Python interpreter; PyTorch is optional.
    pub(crate) python: String,
    /// Small networks, to test the command in seconds.
    pub(crate) small: bool,
    /// This program, which the measurements start as [`throughput_worker`]; `None` skips them.
    pub(crate) program: Option<PathBuf>,
}

/// The result of the checks.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The summary, with which README.md starts.
    pub(crate) summary: String,
    /// Whether all checks passed.
    pub(crate) good: bool,
}

/// The timed networks of the paper.
const NETWORKS: [&str; 3] = ["char-lstm", "mnist", "cifar10"];
/// The timed methods.
const METHODS: [&str; 5] = ["full", "lat-a", "lat-e", "laq-log-3", "laq-log-3-e"];
/// The largest relative difference of losses between device and CPU over [`COMPARED_STEPS`].
const LOSS_TOLERANCE: f64 = 2e-3;
const COMPARED_STEPS: usize = 4;

/// The time of a training step.
#[derive(Clone, Debug)]
struct Timed {
    network: &'static str,
    method: &'static str,
    seconds: f64,
    /// Of these, the seconds spent quantizing.
    quantize_seconds: f64,
    /// The number of quantized weights.
    weights: usize,
}

/// Checks the device; `report` receives the name of each section as it starts.
///
/// # Errors
///
/// The device is not available, or a file cannot be written. A failed check is part of the outcome.
pub(crate) fn gpu_check(
    request: &Request,
    stop: &AtomicBool,
    report: &mut (dyn FnMut(&str) + Send),
) -> Result<Outcome, RunError> {
    let time = Duration::from_secs_f64(60.0 * request.minutes.clamp(0.0, 1e6));
    let start = Instant::now();
    if request.device.choice == DeviceChoice::Auto {
        let usable = laq_cuda::probe().usable();
        usable.map_err(|reason| RunError::NoGpu { reason })?;
    }
    fs::create_dir_all(&request.out).map_err(FileError::on("create", &request.out))?;
    let pool = thread_pool(None)?;
    let exact = DeviceOptions {
        precision: Precision::Float32,
        ..request.device
    };
    let (device, _) = OpenDevice::open(exact, None)?;
    // Keeps the context of the device alive across sections.
    let (kept, _) = OpenDevice::open(request.device, None)?;
    let name = kept.to_string();
    let environment = Environment::detect(&name, pool.current_num_threads());
    let made = format!(
        "{}, laq {}, commit {}, {}. Written by `laq gpu-check`.",
        environment.cpu, environment.laq, environment.commit, environment.date
    );
    let on_gpu = kept.is_cuda();
    let mut check = Check {
        request,
        limits: Limits { end: start, stop },
        on_gpu,
        findings: Findings::new(name, made),
        text: String::new(),
    };
    // A failing section is reported in the README and does not stop the others.
    pool.install(|| -> Result<(), RunError> {
        report(&format!("{}: conformance", check.findings.name));
        check.limits.end = start + time.mul_f64(0.3);
        if let Err(error) = check.conformance(&device) {
            check.failed("conformance", &error);
        }
        drop(device);
        check.write()?;
        report("comparison with the CPU");
        check.compare_with_cpu(exact);
        check.write()?;
        report("training steps");
        check.limits.end = start + time.mul_f64(0.5);
        check.steps()?;
        check.write()?;
        report("PyTorch");
        check.limits.end = start + time.mul_f64(0.75);
        check.pytorch()?;
        check.write()
    })?;
    report("variants of the recurrence");
    check.limits.end = start + time.mul_f64(0.9);
    check.lstm_variants();
    check.write()?;
    report("concurrent training");
    check.limits.end = start + time;
    check.concurrency();
    check.write()?;
    Ok(Outcome {
        good: check.findings.good(),
        summary: check.findings.page(),
    })
}

/// When the current section ends.
#[derive(Clone, Copy)]
struct Limits<'a> {
    end: Instant,
    stop: &'a AtomicBool,
}

impl Limits<'_> {
    fn is_stopped(self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn is_over(self) -> bool {
        self.is_stopped() || Instant::now() >= self.end
    }
}

/// A running check.
struct Check<'a> {
    request: &'a Request,
    limits: Limits<'a>,
    on_gpu: bool,
    findings: Findings,
    /// The details after the summary.
    text: String,
}

impl Check<'_> {
    fn is_stopped(&self) -> bool {
        self.limits.is_stopped()
    }

    fn is_over(&self) -> bool {
        self.limits.is_over()
    }

    /// Records a failed section.
    fn failed(&mut self, what: &str, error: &dyn Display) {
        let failure = format!("{what}: {error}").replace(['|', '\n'], " ");
        let _ = writeln!(self.text, "\nFAILED: {failure}\n");
        self.findings.failures.push(failure);
    }

    fn file(&self, name: &str, text: &str) -> Result<(), RunError> {
        write_atomically(&self.request.out.join(name), text.as_bytes())?;
        Ok(())
    }

    fn write(&self) -> Result<(), RunError> {
        let page = self.findings.page();
        self.file("README.md", &(page + &self.text))
    }

    /// Runs the conformance suite of backends, with products in float32.
    fn conformance(&mut self, device: &OpenDevice) -> Result<(), RunError> {
        let checks = match device {
            OpenDevice::Cpu(backend) => conformance::run(backend)?,
            OpenDevice::Cuda(backend) => conformance::run(backend.as_ref())?,
        };
        let mut lines = String::from("name,error,tolerance,passed\n");
        for check in &checks {
            let name = check.name.replace('"', "'");
            let _ = writeln!(
                lines,
                "\"{name}\",{:e},{:e},{}",
                check.error,
                check.tolerance,
                check.passed()
            );
        }
        self.file("conformance.csv", &lines)?;
        let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
        let _ = write!(
            self.text,
            "\n## Conformance\n\n{} of {} comparisons passed (conformance.csv; products in float32).\n",
            checks.len() - failed.len(),
            checks.len()
        );
        for check in failed.iter().take(10) {
            let _ = writeln!(
                self.text,
                "- FAILED: {}: {:e}, at most {:e}",
                check.name, check.error, check.tolerance
            );
        }
        self.findings.conformance = Some((checks.len() - failed.len(), checks.len()));
        Ok(())
    }

    /// Compares the first losses of the paper's networks on the CPU and on the device.
    fn compare_with_cpu(&mut self, exact: DeviceOptions) {
        self.text.push_str("\n## Comparison with the CPU\n\n");
        let _ = writeln!(
            self.text,
            "Largest relative difference of the losses of {COMPARED_STEPS} steps (products in float32):\n\n\
             | network | method | difference |\n|---|---|---|"
        );
        for network in NETWORKS {
            for method in ["full", "lat-a", "lat-e"] {
                if self.is_over() {
                    self.text.push_str("| (out of time) | | |\n");
                    return;
                }
                let losses = |device: DeviceOptions| -> Result<Vec<f64>, RunError> {
                    let (device, _) = OpenDevice::open(device, None)?;
                    let mut workload = Workload::new(network, method, device, self.request.small)?;
                    let losses = (0..COMPARED_STEPS).map(|_| Ok(workload.run(1)?.0));
                    losses.collect()
                };
                let both = losses(DeviceOptions::CPU).and_then(|cpu| Ok((cpu, losses(exact)?)));
                let (here, there) = match both {
                    Ok(both) => both,
                    Err(error) => {
                        self.failed(&format!("{network} with {method}"), &error);
                        continue;
                    }
                };
                let differences = here.iter().zip(&there).map(|(a, b)| ((a - b) / a).abs());
                // `total_cmp` puts NaN above all numbers.
                let difference = differences.max_by(f64::total_cmp).unwrap_or(f64::NAN);
                let compared = Compared {
                    network,
                    method,
                    difference,
                };
                let mark = if compared.is_good() { "" } else { " FAILED" };
                let _ = writeln!(
                    self.text,
                    "| {network} | {method} | {difference:.1e}{mark} |"
                );
                self.findings.compared.push(compared);
            }
        }
    }

    /// Times a step of each network and method.
    fn steps(&mut self) -> Result<(), RunError> {
        let mut lines = String::from("network,method,seconds,quantize_seconds,weights\n");
        self.file("steps.csv", &lines)?;
        for network in NETWORKS {
            for method in METHODS {
                if self.is_over() {
                    break;
                }
                let (timed, diagnostics) = match self.timed(network, method) {
                    Ok(timed) => timed,
                    Err(error) => {
                        self.failed(&format!("time of {network} with {method}"), &error);
                        continue;
                    }
                };
                let Timed {
                    seconds,
                    quantize_seconds,
                    weights,
                    ..
                } = timed;
                let _ = writeln!(
                    lines,
                    "{network},{method},{seconds},{quantize_seconds},{weights}"
                );
                // At once, so that a check that is cut short leaves what it found.
                self.file("steps.csv", &lines)?;
                // The diagnostics hardly depend on the method.
                if method == METHODS[0] {
                    for line in diagnostics {
                        let _ = writeln!(self.text, "\n{network}: {line}");
                    }
                }
                self.findings.timed.push(timed);
            }
        }
        Ok(())
    }

    /// The time of a step, and the diagnostics of the device.
    fn timed(
        &self,
        network: &'static str,
        method: &'static str,
    ) -> Result<(Timed, Vec<String>), RunError> {
        let (device, _) = OpenDevice::open(self.request.device, None)?;
        let mut workload = Workload::new(network, method, device, self.request.small)?;
        let (seconds, quantize_seconds) = workload.time()?;
        let timed = Timed {
            network,
            method,
            seconds,
            quantize_seconds,
            weights: workload.weights()?,
        };
        Ok((timed, workload.diagnostics()))
    }
}
