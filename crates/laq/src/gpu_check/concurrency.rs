//! Throughput of concurrent training on one device: threads of one process, each with its own
//! stream, and processes.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::workload::Workload;
use super::{Check, Request};
use laq_runner::RunError;
use laq_runner::device::OpenDevice;

/// Degrees of concurrency.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// The networks measured, with ternary weights; a larger one fills a GPU alone.
const NETWORKS: [&str; 2] = ["char-lstm", "mnist"];
const METHOD: &str = "lat-a";
/// The time measured.
const MEASURED: Duration = Duration::from_secs(1);
/// The time limit of the processes.
const TIME_LIMIT: Duration = Duration::from_secs(90);
/// The variants of the recurrence, as `LAQ_LSTM` names them.
const VARIANTS: [&str; 2] = ["steps", "sequence"];
/// The largest relative difference of their losses after [`WARMUP`] steps.
const VARIANT_TOLERANCE: f64 = 0.01;
/// Steps before the measurement, so that the solver has converged.
const WARMUP: usize = 30;

/// Total steps a second of concurrent networks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throughput {
    network: &'static str,
    count: usize,
    threads: f64,
    processes: Option<f64>,
}

/// Trains one network in a process of its own. Prints `ready`, the loss and the diagnostics; waits
/// for a line; prints the number of steps and their seconds.
pub(crate) fn throughput_worker(
    request: &Request,
    network: &str,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), RunError> {
    let pipe_error = |error: std::io::Error| {
        RunError::Internal(format!("the pipe to the parent process: {error}"))
    };
    let (mut workload, loss) = warmed_up(request, network)?;
    let diagnostics = workload.diagnostics().join("; ").replace('\n', " ");
    writeln!(output, "ready {loss} {diagnostics}")
        .and_then(|()| output.flush())
        .map_err(pipe_error)?;
    input.read_line(&mut String::new()).map_err(pipe_error)?;
    let (steps, time) = count_steps(&mut workload, request)?;
    writeln!(output, "{steps} {}", time.as_secs_f64()).map_err(pipe_error)
}

/// A network after [`WARMUP`] steps, and its loss.
fn warmed_up(request: &Request, network: &str) -> Result<(Workload, f64), RunError> {
    let (device, _) = OpenDevice::open(request.device, None)?;
    let mut workload = Workload::new(network, METHOD, device, request.small)?;
    let steps = if request.small { 1 } else { WARMUP };
    let (loss, _) = workload.run(steps)?;
    Ok((workload, loss))
}

/// The steps made in the time measured, and their duration.
fn count_steps(workload: &mut Workload, request: &Request) -> Result<(usize, Duration), RunError> {
    // Enough steps to hide the cost of a synchronization.
    let (time, chunk) = if request.small {
        (Duration::ZERO, 2)
    } else {
        (MEASURED, 50)
    };
    let (start, mut steps) = (Instant::now(), 0);
    loop {
        workload.run(chunk)?;
        steps += chunk;
        if start.elapsed() >= time {
            return Ok((steps, start.elapsed()));
        }
    }
}

/// Total steps a second of `count` networks in threads.
fn in_threads(request: &Request, network: &str, count: usize) -> Result<f64, RunError> {
    let begin = Barrier::new(count);
    let counted = thread::scope(|scope| {
        let train = || -> Result<(usize, Duration), RunError> {
            let workload = warmed_up(request, network);
            // A failed thread still releases the others.
            begin.wait();
            count_steps(&mut workload?.0, request)
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(train)).collect();
        let ended = threads.into_iter().map(|thread| {
            let failed = |_| Err(RunError::Internal("a training thread panicked".into()));
            thread.join().unwrap_or_else(failed)
        });
        ended.collect::<Result<Vec<_>, _>>()
    })?;
    Ok(sum_of_rates(counted.into_iter()))
}

/// The measurement of a process.
struct Measurement {
    loss: f64,
    diagnostics: String,
    steps: usize,
    time: Duration,
}

impl Measurement {
    /// Parses the lines of [`throughput_worker`].
    fn parse(lines: &[String]) -> Option<Self> {
        let [ready, counted] = lines else { return None };
        let (loss, diagnostics) = ready.strip_prefix("ready ")?.split_once(' ')?;
        let (steps, seconds) = counted.split_once(' ')?;
        Some(Measurement {
            loss: loss.parse().ok()?,
            diagnostics: diagnostics.to_owned(),
            steps: steps.parse().ok()?,
            time: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
        })
    }
}

/// The command line of a [`throughput_worker`].
fn worker_command(request: &Request, program: &Path, network: &str) -> Command {
    let (device, precision) = (request.device.choice, request.device.precision);
    let mut command = Command::new(program);
    command.args(["gpu-check", "--throughput-worker", network]);
    command.args(["--device", &device.to_string()]);
    command.args(["--precision", &precision.to_string()]);
    command.args(request.small.then_some("--small"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Processes that are killed on drop.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A measured variant of the LSTM's recurrence, as `LAQ_LSTM` names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LstmVariant {
    name: &'static str,
    milliseconds: f64,
    loss: f64,
}

fn sum_of_rates(counted: impl Iterator<Item = (usize, Duration)>) -> f64 {
    counted
        .map(|(steps, time)| steps as f64 / time.as_secs_f64())
        .sum()
}

impl Check<'_> {
    /// Trains `count` networks in processes, with `variant` of the recurrence where given. The
    /// measurement starts when all are ready, and fails after [`TIME_LIMIT`].
    fn in_processes(
        &self,
        program: &Path,
        network: &str,
        count: usize,
        variant: Option<&str>,
    ) -> Result<Vec<Measurement>, String> {
        let lost = |error: std::io::Error| error.to_string();
        let mut processes = Processes(Vec::new());
        let (sender, receiver) = channel();
        for index in 0..count {
            let mut command = worker_command(self.request, program, network);
            command.envs(variant.map(|variant| ("LAQ_LSTM", variant)));
            let mut child = command.spawn().map_err(lost)?;
            let output = BufReader::new(child.stdout.take().expect("it is piped"));
            processes.0.push(child);
            let sender = sender.clone();
            thread::spawn(move || {
                for line in output.lines().map_while(Result::ok) {
                    if sender.send((index, line)).is_err() {
                        return;
                    }
                }
            });
        }
        let (end, mut lines) = (Instant::now() + TIME_LIMIT, vec![Vec::new(); count]);
        let have = |lines: &[Vec<String>], least| lines.iter().all(|lines| lines.len() >= least);
        while !have(&lines, 2) {
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok((index, line)) => {
                    let were_ready = have(&lines, 1);
                    lines[index].push(line);
                    if !were_ready && have(&lines, 1) {
                        for child in &mut processes.0 {
                            // Dropping the pipe closes the input of the process.
                            let mut input = child.stdin.take().expect("it is piped");
                            writeln!(input).map_err(lost)?;
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if self.is_stopped() {
                        return Err("stopped".to_owned());
                    }
                    if Instant::now() >= end {
                        return Err(format!("exceeded the limit of {} s", TIME_LIMIT.as_secs()));
                    }
                    for child in &mut processes.0 {
                        let ended = child.try_wait().map_err(lost)?;
                        if let Some(status) = ended.filter(|status| !status.success()) {
                            return Err(format!("a process exited with {status}"));
                        }
                    }
                }
            }
        }
        let counted = lines.iter().map(|lines| {
            Measurement::parse(lines)
                .ok_or_else(|| format!("unexpected output of a process: {lines:?}"))
        });
        counted.collect()
    }

    /// Times the variants of the recurrence: a kernel a step, and one kernel.
    pub(super) fn lstm_variants(&mut self) {
        let Some(program) = self.request.program.as_ref().filter(|_| self.on_gpu) else {
            return;
        };
        self.text.push_str(
            "\n## The recurrence of the LSTM\n\nThe paper's LSTM with `lat-a`: a kernel a time step, and one kernel \
             (`LAQ_LSTM=sequence`), each in a process of its own.\n\n| variant | ms a step | loss |\n|---|---|---|\n",
        );
        for name in VARIANTS {
            if self.is_over() {
                return;
            }
            let counted = match self.in_processes(program, NETWORKS[0], 1, Some(name)) {
                Ok(counted) => counted,
                Err(_) if self.is_stopped() => return,
                Err(error) => {
                    self.failed(&format!("recurrence, variant {name}"), &error);
                    continue;
                }
            };
            let Measurement {
                loss,
                diagnostics,
                steps,
                time,
            } = &counted[0];
            let fallback = (diagnostics.split("; ")).find(|line| line.contains("step by step"));
            if let Some(why) = fallback {
                let _ = writeln!(self.text, "| {name} | not possible: {why} | |");
                continue;
            }
            let variant = LstmVariant {
                name,
                milliseconds: 1e3 * time.as_secs_f64() / *steps as f64,
                loss: *loss,
            };
            let milliseconds = variant.milliseconds;
            let _ = writeln!(self.text, "| {name} | {milliseconds:.3} | {loss:.5} |");
            self.findings.variants.push(variant);
        }
        if let [one, other] = self.findings.variants[..] {
            let difference = ((one.loss - other.loss) / one.loss).abs();
            if difference.is_nan() || difference > VARIANT_TOLERANCE {
                let what = format!("losses of {} and {}", one.loss, other.loss);
                self.failed("variants of the recurrence", &what);
            }
        }
    }

    /// Measures the throughput of concurrent training.
    pub(super) fn concurrency(&mut self) {
        self.text.push_str(
            "\n## Concurrent training\n\nTotal steps a second with `lat-a`: in threads of one process, \
             each with its own stream, and in processes.\n\n\
             | network | concurrency | threads | processes |\n|---|---|---|---|\n",
        );
        for network in NETWORKS {
            for count in COUNTS {
                if self.is_over() || self.request.small && count > 2 {
                    break;
                }
                let throughput = match self.throughput(network, count) {
                    Ok(throughput) => throughput,
                    Err(_) if self.is_stopped() => return,
                    Err(error) => {
                        self.failed(&format!("{count} concurrent {network}"), &error);
                        break;
                    }
                };
                let processes = throughput.processes.map(|rate| format!("{rate:.1}"));
                let _ = writeln!(
                    self.text,
                    "| {network} | {count} | {:.1} | {} |",
                    throughput.threads,
                    processes.unwrap_or_default()
                );
                self.findings.throughputs.push(throughput);
            }
        }
    }

    fn throughput(&self, network: &'static str, count: usize) -> Result<Throughput, String> {
        let threads = in_threads(self.request, network, count);
        let processes = match &self.request.program {
            Some(program) => {
                let counted = self.in_processes(program, network, count, None)?;
                let counted = counted.iter().map(|one| (one.steps, one.time));
                Some(sum_of_rates(counted))
            }
            None => None,
        };
        Ok(Throughput {
            network,
            count,
            threads: threads.map_err(|error| error.to_string())?,
            processes,
        })
    }
}

/// The summary: the best throughput of threads and of processes.
pub(super) fn throughput_summary(throughputs: &[Throughput]) -> String {
    let of = |network: &str| {
        let of = || {
            throughputs
                .iter()
                .filter(|throughput| throughput.network == network)
        };
        let one = of().find(|throughput| throughput.count == 1)?;
        let most = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max) / one.threads;
        let threads = most(&mut of().map(|throughput| throughput.threads));
        let processes = most(&mut of().filter_map(|throughput| throughput.processes));
        let of_processes = match one.processes {
            Some(_) => format!(", {processes:.2} × in processes"),
            None => String::new(),
        };
        Some(format!(
            "{network} {threads:.2} × one network in threads{of_processes}"
        ))
    };
    let lines: Vec<String> = NETWORKS.into_iter().filter_map(of).collect();
    match lines.is_empty() {
        true => "not measured".to_owned(),
        false => lines.join("; "),
    }
}

/// The summary of the variants of the recurrence.
pub(super) fn variant_summary(variants: &[LstmVariant]) -> String {
    let line =
        |variant: &LstmVariant| format!("{} {:.3} ms a step", variant.name, variant.milliseconds);
    match variants {
        [] => "not measured".to_owned(),
        variants => variants.iter().map(line).collect::<Vec<_>>().join(", "),
    }
}
