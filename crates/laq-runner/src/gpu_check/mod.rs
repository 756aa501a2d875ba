//! `laq gpu-check`: all that one wants to know of a GPU in half an hour, in one folder.
//!
//! 1. The conformance suite on the device.
//! 2. The paper's networks, a few steps on the processor and on the device side by side.
//! 3. The time of their training steps and of solving alone, beside PyTorch's steps where there is one.
//! 4. The LSTM's recurrence in both forms, and the steps of several networks that are trained at the same time.
//! 5. As many cells of both tables as the time allows, in the order in which they tell most. What was not finished goes on
//!    when the command is given again with the same folder.
//!
//! The folder's README begins with all that was found on one page.
//!
//! On the processor (`--device cpu`) the command rehearses itself.

mod case;
mod cells;
mod pytorch;
mod several;
mod summary;

use std::fmt::{Display, Write as _};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use laq_tensor::conformance;

use self::case::Case;
pub use self::several::keep_pace;
use self::summary::{Compared, Findings};
use crate::RunError;
use crate::device::{Computer, DeviceChoice, DeviceOptions, Precision};
use crate::environment::Environment;
use crate::files::{FileError, write_atomically};
use crate::session::pool;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The device; the processor for a rehearsal.
    pub device: DeviceOptions,
    /// Minutes in all. Once they are over no further part is begun, and a cell under way is saved.
    pub minutes: f64,
    /// The folder that everything goes into.
    pub out: PathBuf,
    /// Where the configurations of the tables are.
    pub configs: PathBuf,
    /// Where the data are.
    pub data_dir: PathBuf,
    /// The Python that may have PyTorch.
    pub python: String,
    /// Networks so small that the rehearsal is done in seconds.
    pub small: bool,
    /// Cells that are trained at the same time; on a GPU by default as many as have made the most steps.
    pub jobs: Option<usize>,
    /// The `laq` program, for several processes.
    pub program: Option<PathBuf>,
}

/// Whether everything that was checked was right.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The page that the folder's README begins with.
    pub summary: String,
    /// Whether no comparison failed.
    pub good: bool,
}

/// The networks of the paper that are timed.
const NETWORKS: [&str; 3] = ["char-lstm", "mnist", "cifar10"];
/// The methods that are timed.
const METHODS: [&str; 5] = ["full", "lat-a", "lat-e", "laq-log-3", "laq-log-3-e"];
/// How far losses of the device may be from those of the processor, relatively, over [`COMPARED_STEPS`].
const LOSS_TOLERANCE: f64 = 2e-3;
const COMPARED_STEPS: usize = 4;

/// A timed step.
#[derive(Clone, Debug)]
struct Timed {
    network: &'static str,
    method: &'static str,
    seconds: f64,
    /// Of these, seconds spent in solving for all quantized weights.
    quantize_seconds: f64,
    /// How many these are.
    weights: usize,
}

/// Checks the device; `say` hears of what is being done.
///
/// # Errors
///
/// A device that cannot be used, and files that cannot be written. What the device computes wrongly is no error: it is in the
/// outcome.
pub fn gpu_check(
    request: &Request,
    stop: &AtomicBool,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Outcome, RunError> {
    let end = Instant::now() + Duration::from_secs_f64(60.0 * request.minutes.clamp(0.0, 1e6));
    if request.device.choice == DeviceChoice::Auto {
        let found = laq_cuda::probe().usable();
        found.map_err(|reason| RunError::NoGpu { reason })?;
    }
    fs::create_dir_all(&request.out).map_err(FileError::on("create", &request.out))?;
    let pool = pool(None)?;
    let exact = DeviceOptions {
        precision: Precision::Float32,
        ..request.device
    };
    let (computer, _) = Computer::open(exact, None)?;
    // The device's context stays from the first case to the last.
    let (kept, _) = Computer::open(request.device, None)?;
    let name = kept.to_string();
    let environment = Environment::found(&name, pool.current_num_threads());
    let made = format!(
        "On {}, by laq {} of commit {}, {}. Made by `laq gpu-check`.",
        environment.cpu, environment.laq, environment.commit, environment.date
    );
    let on_gpu = kept.is_cuda();
    let mut check = Check {
        request,
        limits: Limits { end, stop },
        on_gpu,
        findings: Findings::new(name, made, on_gpu && !request.small),
        text: String::new(),
    };
    // What a part cannot do keeps the others from nothing, and stands in the README.
    pool.install(|| -> Result<(), RunError> {
        say(&format!("{}: conformance", check.findings.name));
        if let Err(error) = check.conformance(&computer) {
            check.failed("conformance", &error);
        }
        drop(computer);
        check.write()?;
        say("steps beside the processor's");
        check.beside_the_cpu(exact);
        check.write()?;
        say("training steps");
        check.steps()?;
        check.write()?;
        say("PyTorch");
        check.pytorch()?;
        check.write()
    })?;
    say("the forms of the recurrence");
    check.forms();
    check.write()?;
    say("several networks at the same time");
    check.several();
    check.write()?;
    check.cells(say)?;
    check.write()?;
    Ok(Outcome {
        good: check.findings.good(),
        summary: check.findings.page(),
    })
}

/// When a check is to end.
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

/// A check under way.
struct Check<'a> {
    request: &'a Request,
    limits: Limits<'a>,
    on_gpu: bool,
    findings: Findings,
    /// The details, which come after the page.
    text: String,
}

impl Check<'_> {
    fn is_stopped(&self) -> bool {
        self.limits.is_stopped()
    }

    fn is_over(&self) -> bool {
        self.limits.is_over()
    }

    /// Tells of a part that could not be done.
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

    /// The suite that every backend must pass, with products in f32.
    fn conformance(&mut self, computer: &Computer) -> Result<(), RunError> {
        let checks = match computer {
            Computer::Cpu(backend) => conformance::run(backend)?,
            Computer::Cuda(backend) => conformance::run(backend.as_ref())?,
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

    /// The first steps of the paper's networks on the processor and on the device.
    fn beside_the_cpu(&mut self, exact: DeviceOptions) {
        self.text.push_str("\n## Beside the processor\n\n");
        let _ = writeln!(
            self.text,
            "The losses of {COMPARED_STEPS} steps, largest relative difference (products in float32):\n\n\
             | network | method | difference |\n|---|---|---|"
        );
        for network in NETWORKS {
            for method in ["full", "lat-a", "lat-e"] {
                if self.is_over() {
                    self.text.push_str("| (the time was over) | | |\n");
                    return;
                }
                let losses = |device: DeviceOptions| -> Result<Vec<f64>, RunError> {
                    let (computer, _) = Computer::open(device, None)?;
                    let mut case = Case::new(network, method, computer, self.request.small)?;
                    let losses = (0..COMPARED_STEPS).map(|_| Ok(case.run(1)?.0));
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
                // A NaN is the largest of all.
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

    /// The time of a step of every network and method.
    fn steps(&mut self) -> Result<(), RunError> {
        let mut lines = String::from("network,method,seconds,quantize_seconds,weights\n");
        for network in NETWORKS {
            for method in METHODS {
                if self.is_over() {
                    break;
                }
                let (timed, notes) = match self.timed(network, method) {
                    Ok(timed) => timed,
                    Err(error) => {
                        self.failed(&format!("the time of {network} with {method}"), &error);
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
                // They are much the same for all methods.
                if method == METHODS[0] {
                    for note in notes {
                        let _ = writeln!(self.text, "\nNote on {network}: {note}");
                    }
                }
                self.findings.timed.push(timed);
            }
        }
        self.file("steps.csv", &lines)
    }

    /// A step's time, and what the device tells of how it was done.
    fn timed(
        &self,
        network: &'static str,
        method: &'static str,
    ) -> Result<(Timed, Vec<String>), RunError> {
        let (computer, _) = Computer::open(self.request.device, None)?;
        let mut case = Case::new(network, method, computer, self.request.small)?;
        let (seconds, quantize_seconds) = case.time()?;
        let timed = Timed {
            network,
            method,
            seconds,
            quantize_seconds,
            weights: case.weights()?,
        };
        Ok((timed, case.notes()))
    }
}
