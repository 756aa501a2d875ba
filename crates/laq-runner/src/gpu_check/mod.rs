//! `laq gpu-check`: all that one wants to know of a GPU in half an hour, in one folder.
//!
//! 1. The conformance suite on the device.
//! 2. The paper's networks, a few steps on the processor and on the device side by side.
//! 3. The time of their training steps, beside PyTorch's where there is one.
//! 4. As many cells of both tables as the time allows, in the order in which they tell most. What was not finished goes on
//!    when the command is given again with the same folder.
//!
//! On the processor (`--device cpu`) the command rehearses itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use laq_models::{
    AdamSettings, CharLstmSpec, Examples, FeedforwardSpec, ImageShape, TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::{Backend, conformance};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::config;
use crate::device::{Computer, DeviceChoice, DeviceOptions, Precision, Trainer};
use crate::environment::Environment;
use crate::files::{FileError, write_atomically};
use crate::record::Status;
use crate::run_folder::read_summary;
use crate::session::pool;
use crate::train::{Options, train};

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
}

/// Whether everything that was checked was right.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The summary, which is also in the folder's README.
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
/// Rows of the tables in the order in which they are trained.
const ROWS: [&str; 12] = [
    "lat-a",
    "full",
    "lat-e",
    "twn",
    "lat2-a",
    "ttq",
    "laq-log-3",
    "laq-linear-3",
    "lat2-e",
    "lab",
    "bwn",
    "binary-connect",
];
/// The columns, and the data that they need.
const COLUMNS: [(&str, &str); 3] = [
    ("table2", "war-and-peace"),
    ("table1", "mnist"),
    ("table1", "cifar10-jpeg"),
];

/// A timed step.
#[derive(Clone, Debug, Serialize)]
struct Timed {
    network: &'static str,
    method: &'static str,
    seconds: f64,
    quantize_seconds: f64,
}

/// A line of `pytorch.py`.
#[derive(Clone, Debug, Deserialize)]
struct PyTorchLine {
    network: Option<String>,
    variant: Option<String>,
    seconds: Option<f64>,
    error: Option<String>,
    torch: Option<String>,
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
    let mut check = Check {
        request,
        end,
        stop,
        text: String::new(),
        good: true,
    };
    let exact = DeviceOptions {
        precision: Precision::Float32,
        ..request.device
    };
    let (computer, _) = Computer::open(exact, None)?;
    let name = Computer::open(request.device, None)?.0.to_string();
    let environment = Environment::found(&name, pool.current_num_threads());
    let _ = write!(
        check.text,
        "# {name}\n\n{} on {}, laq {} of commit {}, {}. Made by `laq gpu-check`.\n",
        name, environment.cpu, environment.laq, environment.commit, environment.date
    );
    pool.install(|| -> Result<(), RunError> {
        say(&format!("{name}: conformance"));
        check.conformance(&computer)?;
        drop(computer);
        say("steps beside the processor's");
        check.beside_the_cpu(exact)?;
        say("training steps");
        let timed = check.steps()?;
        say("PyTorch");
        check.pytorch(&timed)?;
        check.write()?;
        Ok(())
    })?;
    check.cells(say)?;
    check.write()?;
    Ok(Outcome {
        good: check.good,
        summary: check.text,
    })
}

/// A check under way.
struct Check<'a> {
    request: &'a Request,
    end: Instant,
    stop: &'a AtomicBool,
    text: String,
    good: bool,
}

impl Check<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.end
    }

    fn file(&self, name: &str, text: &str) -> Result<(), RunError> {
        write_atomically(&self.request.out.join(name), text.as_bytes())?;
        Ok(())
    }

    fn write(&self) -> Result<(), RunError> {
        self.file("README.md", &self.text)
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
        self.good &= failed.is_empty();
        Ok(())
    }

    /// The first steps of the paper's networks on the processor and on the device.
    fn beside_the_cpu(&mut self, exact: DeviceOptions) -> Result<(), RunError> {
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
                    return Ok(());
                }
                let losses = |device: DeviceOptions| -> Result<Vec<f64>, RunError> {
                    let (computer, _) = Computer::open(device, None)?;
                    let mut case = Case::new(network, method, computer, self.request.small)?;
                    let losses = (0..COMPARED_STEPS).map(|_| case.step());
                    losses.collect()
                };
                let (here, there) = (losses(DeviceOptions::CPU)?, losses(exact)?);
                let differences = here
                    .iter()
                    .zip(&there)
                    .map(|(a, b)| (a - b).abs() / a.abs());
                // A NaN is the largest of all.
                let worst = differences.fold(0.0, |most: f64, d| if d <= most { most } else { d });
                let good = worst <= LOSS_TOLERANCE;
                let mark = if good { "" } else { " FAILED" };
                let _ = writeln!(self.text, "| {network} | {method} | {worst:.1e}{mark} |");
                self.good &= good;
            }
        }
        Ok(())
    }

    /// The time of a step of every network and method.
    fn steps(&mut self) -> Result<Vec<Timed>, RunError> {
        let mut timed = Vec::new();
        for network in NETWORKS {
            for method in METHODS {
                if self.is_over() {
                    break;
                }
                let (computer, _) = Computer::open(self.request.device, None)?;
                let mut case = Case::new(network, method, computer, self.request.small)?;
                let (seconds, quantize_seconds) = case.time()?;
                timed.push(Timed {
                    network,
                    method,
                    seconds,
                    quantize_seconds,
                });
            }
        }
        let mut lines = String::from("network,method,seconds,quantize_seconds\n");
        self.text
            .push_str("\n## Training steps\n\nMilliseconds a step: the median of rounds of 20 steps, in a process that does nothing else.\n\n| network | method | step | of it quantizing |\n|---|---|---|---|\n");
        for step in &timed {
            let _ = writeln!(
                lines,
                "{},{},{},{}",
                step.network, step.method, step.seconds, step.quantize_seconds
            );
            let _ = writeln!(
                self.text,
                "| {} | {} | {:.3} | {:.3} |",
                step.network,
                step.method,
                1e3 * step.seconds,
                1e3 * step.quantize_seconds
            );
        }
        self.file("steps.csv", &lines)?;
        Ok(timed)
    }

    /// The same networks in PyTorch, where python has it.
    fn pytorch(&mut self, timed: &[Timed]) -> Result<(), RunError> {
        self.text.push_str("\n## PyTorch\n\n");
        if self.is_over() {
            self.text.push_str("Not timed: the time was over.\n");
            return Ok(());
        }
        let script = self.request.out.join("pytorch.py");
        write_atomically(&script, include_bytes!("pytorch.py"))?;
        let device = match self.request.device.choice {
            DeviceChoice::Cuda(index) => format!("cuda:{index}"),
            DeviceChoice::Cpu => "cpu".to_owned(),
            DeviceChoice::Auto => "cuda:0".to_owned(),
        };
        let rounds = if self.request.small {
            ["1", "1"]
        } else {
            ["7", "20"]
        };
        let output = Command::new(&self.request.python)
            .arg(&script)
            .arg(device)
            .args(rounds)
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                let _ = writeln!(
                    self.text,
                    "Not timed: {} does not start ({error}).",
                    self.request.python
                );
                return Ok(());
            }
        };
        let lines = String::from_utf8_lossy(&output.stdout);
        self.file("pytorch.jsonl", &lines)?;
        let found: Vec<PyTorchLine> = (lines.lines())
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let Some(version) = found.iter().find_map(|line| line.torch.as_ref()) else {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or("it said nothing");
            let _ = writeln!(self.text, "Not timed: {last}");
            return Ok(());
        };
        let _ = writeln!(
            self.text,
            "PyTorch {version}, full precision, TF32, the same batches; `ratio` is laq's `full` over it.\n\n\
             | network | variant | ms | ratio |\n|---|---|---|---|"
        );
        for line in &found {
            let (Some(network), Some(variant)) = (&line.network, &line.variant) else {
                continue;
            };
            let ours = (timed.iter())
                .find(|step| step.network == network && step.method == "full")
                .map(|step| step.seconds);
            let (time, ratio) = match (line.seconds, ours) {
                (Some(theirs), Some(ours)) => (
                    format!("{:.3}", 1e3 * theirs),
                    format!("{:.2}", ours / theirs),
                ),
                (Some(theirs), None) => (format!("{:.3}", 1e3 * theirs), String::new()),
                (None, _) => (line.error.clone().unwrap_or_default(), String::new()),
            };
            let _ = writeln!(self.text, "| {network} | {variant} | {time} | {ratio} |");
        }
        Ok(())
    }

    /// Cells of the tables, until the time is over.
    fn cells(&mut self, say: &mut (dyn FnMut(&str) + Send)) -> Result<(), RunError> {
        self.text.push_str(
            "\n## Cells\n\nPreset `paper`; what is not finished goes on with the same command.\n\n\
             | table | column | row | state | epochs | ms a step | test | seconds |\n|---|---|---|---|---|---|---|---|\n",
        );
        for (table, column) in COLUMNS {
            for row in ROWS {
                if self.is_over() {
                    self.text.push_str("\nThe time was over.\n");
                    return Ok(());
                }
                say(&format!("{table}: {row} on {column}"));
                let line = self.cell(table, column, row);
                let _ = writeln!(self.text, "| {table} | {column} | {row} | {line} |");
                self.write()?;
            }
        }
        Ok(())
    }

    /// Trains a cell as far as the time allows; what the table says of it.
    fn cell(&self, table: &str, column: &str, row: &str) -> String {
        let folder = self.request.configs.join(table);
        let path = folder.join(column).join(format!("{row}.toml"));
        let preset = |name: &Path| folder.join("presets").join(name);
        let overlays: Vec<PathBuf> = [
            preset(Path::new("paper.toml")),
            preset(&Path::new("paper").join(format!("{column}.toml"))),
        ]
        .into_iter()
        .filter(|overlay| overlay.is_file())
        .collect();
        let data = format!("data.dir={:?}", self.request.data_dir.display().to_string());
        let experiment = match config::load(&path, &overlays, &[data]) {
            Ok(experiment) => experiment,
            Err(error) => return format!("not trained: {error} | | | |"),
        };
        let run_dir = (self.request.out.join("runs").join(table))
            .join(column)
            .join(row);
        let options = Options {
            run_dir: run_dir.clone(),
            resume: true,
            threads: None,
            device: self.request.device,
        };
        let over = AtomicBool::new(false);
        let done = train(&experiment, &options, &over, &mut |_| {
            if self.is_over() {
                over.store(true, Ordering::Relaxed);
            }
        });
        if let Err(error) = &done {
            return format!("failed: {} | | | |", error.to_string().replace('|', "/"));
        }
        let Some(summary) = read_summary(&run_dir) else {
            return "no summary | | | |".to_owned();
        };
        let test = match (summary.test_error, summary.test_loss) {
            (Some(error), _) => format!("{error:.2} %"),
            (None, Some(loss)) => format!("{loss:.4}"),
            _ => String::new(),
        };
        let state = match summary.status {
            Status::Finished => "finished",
            _ => "cut short",
        };
        format!(
            "{state} | {} of {} | {:.3} | {test} | {:.0}",
            summary.epochs_done,
            summary.epochs,
            1e3 * summary.seconds_per_step,
            summary.seconds
        )
    }
}

/// A network in training with a batch that is made up, and lies on the device.
struct Case {
    network: Box<dyn Trainer>,
}

impl Case {
    fn new(network: &str, method: &str, computer: Computer, small: bool) -> Result<Self, RunError> {
        match computer {
            Computer::Cpu(backend) => Self::on(backend, network, method, small),
            Computer::Cuda(backend) => Self::on(*backend, network, method, small),
        }
    }

    fn on<B: Backend + 'static>(
        backend: B,
        network: &str,
        method: &str,
        small: bool,
    ) -> Result<Self, RunError> {
        let method =
            Method::try_from(method).map_err(|error| RunError::Internal(error.to_string()))?;
        let adam = AdamSettings::default();
        let images = |backend: B, mut spec: FeedforwardSpec, mut batch: usize| {
            if small {
                batch = 10;
                spec.units.fill(32);
                spec.filters.fill(8);
                spec.input = ImageShape {
                    height: 8,
                    width: 8,
                    channels: spec.input.channels,
                };
            }
            let labels: Vec<u8> = (0..batch).map(|i| (i % spec.classes) as u8).collect();
            let mut state = 1u32;
            let random = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let numbers = spec.input.numbers();
            let pixels: Vec<f32> = (0..batch * numbers).map(random).collect();
            let mut network = Training::feedforward(backend, &spec, batch, &method, adam, 1)
                .map_err(RunError::Build)?;
            let examples = Examples::Images {
                labels: &labels,
                numbers,
                fill: &mut |first, piece| {
                    piece.copy_from_slice(&pixels[first * numbers..][..piece.len()]);
                },
            };
            network.hold(examples).map_err(RunError::Build)?;
            Ok(Case {
                network: Box::new(network),
            })
        };
        match network {
            "mnist" => images(backend, FeedforwardSpec::mnist(), 100),
            "cifar10" => images(backend, FeedforwardSpec::cifar10(), 50),
            _ => {
                let size = if small { 10 } else { 100 };
                let shape = TextShape {
                    length: size,
                    batch: size,
                };
                let spec = CharLstmSpec {
                    hidden: if small { 32 } else { 512 },
                    ..CharLstmSpec::paper(87)
                };
                let mut network = Training::char_lstm(backend, &spec, shape, &method, adam, 1)
                    .map_err(RunError::Build)?;
                let count = size * size + 1;
                let text: Vec<u8> = (0..count as u32).map(|i| (i * i % 87) as u8).collect();
                network
                    .hold(Examples::Text(&text))
                    .map_err(RunError::Build)?;
                Ok(Case {
                    network: Box::new(network),
                })
            }
        }
    }

    fn begin(&mut self) -> Result<(), RunError> {
        self.network
            .begin_held_step(0, RATE)
            .map_err(|source| RunError::Estimate {
                learning_rate: RATE,
                source,
            })
    }

    /// The loss of one more step.
    fn step(&mut self) -> Result<f64, RunError> {
        self.begin()?;
        Ok(self.report()?.0)
    }

    /// The last loss and the seconds of quantizing since the last report.
    fn report(&mut self) -> Result<(f64, f64), RunError> {
        let report = self.network.report().map_err(|source| RunError::Estimate {
            learning_rate: RATE,
            source,
        })?;
        let loss = report.losses.last().copied().unwrap_or(f64::NAN);
        Ok((loss, report.quantize_seconds))
    }

    /// Median seconds of a step, and of them quantizing, after the solver has settled.
    fn time(&mut self) -> Result<(f64, f64), RunError> {
        let start = Instant::now();
        self.step()?;
        // On a processor a step takes so long that fewer must do.
        let (warm, rounds, steps) = if start.elapsed() > Duration::from_millis(30) {
            (2, 3, 1)
        } else {
            (30, 7, 20)
        };
        for _ in 0..warm {
            self.begin()?;
        }
        self.report()?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            for _ in 0..steps {
                self.begin()?;
            }
            let (_, quantizing) = self.report()?;
            let each = |seconds: f64| seconds / f64::from(steps);
            times.push((each(start.elapsed().as_secs_f64()), each(quantizing)));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(times[times.len() / 2])
    }
}

/// The learning rate of the steps that are timed.
const RATE: f64 = 0.002;
