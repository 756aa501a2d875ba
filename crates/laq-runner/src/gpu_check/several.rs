//! Several networks in training on one device at the same time: in threads of one process, each with a stream of its own, and
//! in processes.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::case::Case;
use super::{Check, Request};
use crate::RunError;
use crate::device::{Computer, DeviceChoice, Precision};

/// How many at the same time.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// The networks that are trained together, with ternary weights; the others fill a GPU by themselves.
const NETWORKS: [&str; 2] = ["char-lstm", "mnist"];
const METHOD: &str = "lat-a";
/// How long each is counted.
const COUNTED: Duration = Duration::from_secs(1);
/// How long a process may take that tries a form of the recurrence.
const LONGEST: Duration = Duration::from_secs(90);
/// The forms of the recurrence.
const FORMS: [&str; 2] = ["steps", "sequence"];
/// How far their losses may be apart after [`WARM`] steps, relatively.
const FORM_TOLERANCE: f64 = 0.01;
/// Steps before the counting, so that the solver has settled.
const WARM: usize = 30;

/// Steps of all together in a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    network: &'static str,
    count: usize,
    threads: f64,
    processes: f64,
}

/// How many networks at the same time make the most steps in threads, by what was measured; one where nothing was.
pub(super) fn best_count(paces: &[Pace]) -> usize {
    let of_lstm = paces.iter().filter(|pace| pace.network == NETWORKS[0]);
    let best = of_lstm.max_by(|a, b| a.threads.total_cmp(&b.threads));
    best.map_or(1, |pace| pace.count)
}

/// Trains one network for a `gpu-check` in another process: says `ready` and the loss, waits for a line, and says how many
/// steps it has made, and in which time.
///
/// # Errors
/// When the device cannot be used.
pub fn keep_pace(
    request: &Request,
    network: &str,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), RunError> {
    let told =
        |error: std::io::Error| RunError::Internal(format!("the pipe to gpu-check: {error}"));
    let (mut case, loss) = warmed_up(request, network)?;
    writeln!(output, "ready {loss}")
        .and_then(|()| output.flush())
        .map_err(told)?;
    input.read_line(&mut String::new()).map_err(told)?;
    let (steps, time) = count_steps(&mut case, request)?;
    writeln!(output, "{steps} {}", time.as_secs_f64()).map_err(told)
}

/// A network whose solver has settled, and its loss.
fn warmed_up(request: &Request, network: &str) -> Result<(Case, f64), RunError> {
    let (computer, _) = Computer::open(request.device, None)?;
    let mut case = Case::new(network, METHOD, computer, request.small)?;
    let steps = if request.small { 1 } else { WARM };
    let loss = case.steps(steps)?;
    Ok((case, loss))
}

/// Steps until the time is over, and what they took.
fn count_steps(case: &mut Case, request: &Request) -> Result<(usize, Duration), RunError> {
    // So many that waiting for them costs nothing.
    let (time, at_once) = if request.small {
        (Duration::ZERO, 2)
    } else {
        (COUNTED, 50)
    };
    let (start, mut steps) = (Instant::now(), 0);
    loop {
        case.steps(at_once)?;
        steps += at_once;
        if start.elapsed() >= time {
            return Ok((steps, start.elapsed()));
        }
    }
}

/// Steps a second of `count` networks in threads.
fn in_threads(request: &Request, network: &str, count: usize) -> Result<f64, RunError> {
    let begin = Barrier::new(count);
    let counted = thread::scope(|scope| {
        let train = || -> Result<(usize, Duration), RunError> {
            let case = warmed_up(request, network);
            // One that failed must not keep the others waiting.
            begin.wait();
            count_steps(&mut case?.0, request)
        };
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(train)).collect();
        let ended = threads.into_iter().map(|thread| {
            let failed = |_| Err(RunError::Internal("a thread of gpu-check failed".into()));
            thread.join().unwrap_or_else(failed)
        });
        ended.collect::<Result<Vec<_>, _>>()
    })?;
    Ok(sum_of_rates(counted))
}

/// Steps a second of `count` networks in processes of `program`.
fn in_processes(
    request: &Request,
    program: &Path,
    network: &str,
    count: usize,
) -> Result<f64, RunError> {
    let mut processes = Processes(Vec::new());
    for _ in 0..count {
        let child = keeping_pace(request, program, network).spawn();
        processes.0.push(child.map_err(failed)?);
    }
    let mut outputs = Vec::new();
    for child in &mut processes.0 {
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let _ = output.read_line(&mut line);
        if !line.starts_with("ready") {
            return Err(failed(format!("it said {line:?} instead of ready")));
        }
        outputs.push(output);
    }
    for child in &mut processes.0 {
        let mut input = child.stdin.take().expect("it is piped");
        writeln!(input).map_err(failed)?;
    }
    let mut counted = Vec::new();
    for mut output in outputs {
        let mut said = String::new();
        let _ = output.read_to_string(&mut said);
        let found = counted_steps(&said);
        counted.push(found.ok_or_else(|| failed(format!("it said {said:?}, not its steps")))?);
    }
    Ok(sum_of_rates(counted))
}

/// What [`keep_pace`] says at last.
fn counted_steps(said: &str) -> Option<(usize, Duration)> {
    let (steps, seconds) = said.trim().split_once(' ')?;
    let time = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    Some((steps.parse().ok()?, time))
}

fn failed(what: impl std::fmt::Display) -> RunError {
    RunError::Internal(format!("a process of gpu-check: {what}"))
}

/// The command of a process that trains one network; see [`keep_pace`].
fn keeping_pace(request: &Request, program: &Path, network: &str) -> Command {
    let device = match request.device.choice {
        DeviceChoice::Cuda(index) => format!("cuda:{index}"),
        DeviceChoice::Cpu => "cpu".to_owned(),
        DeviceChoice::Auto => "auto".to_owned(),
    };
    let precision = match request.device.precision {
        Precision::Tf32 => "tf32",
        Precision::Float32 => "float32",
    };
    let mut command = Command::new(program);
    command.args(["gpu-check", "--keep-pace", network, "--device", &device]);
    command.args(["--precision", precision]);
    command.args(request.small.then_some("--small"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// A form of the LSTM's recurrence, by the name that `LAQ_LSTM` has for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    name: &'static str,
    milliseconds: f64,
    loss: f64,
}

/// Trains the LSTM in this form, in a process that is ended when it takes too long: what waits for something that never comes
/// is found out, and keeps nobody.
fn in_form(request: &Request, program: &Path, name: &'static str) -> Result<Form, RunError> {
    let mut command = keeping_pace(request, program, NETWORKS[0]);
    command.env("LAQ_LSTM", name);
    let child = command.spawn().map_err(failed)?;
    let mut process = Processes(vec![child]);
    let child = &mut process.0[0];
    // Its input ends here, so that it begins to count at once.
    drop(child.stdin.take());
    let start = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().map_err(failed)? {
            break ended;
        }
        if start.elapsed() > LONGEST {
            return Err(failed(format!(
                "it was ended after {} s",
                LONGEST.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    let mut output = child.stdout.take().expect("it is piped");
    output.read_to_string(&mut said).map_err(failed)?;
    let found = said.strip_prefix("ready ").and_then(|rest| {
        let (loss, counted) = rest.split_once('\n')?;
        Some((loss.parse().ok()?, counted_steps(counted)?))
    });
    let (loss, (steps, time)) =
        found.ok_or_else(|| failed(format!("it said {said:?} ({ended})")))?;
    Ok(Form {
        name,
        milliseconds: 1e3 * time.as_secs_f64() / steps as f64,
        loss,
    })
}

/// Processes that end with this program, however it ends.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn sum_of_rates(counted: Vec<(usize, Duration)>) -> f64 {
    let rates = counted
        .iter()
        .map(|(steps, time)| *steps as f64 / time.as_secs_f64());
    rates.sum()
}

impl Check<'_> {
    /// The LSTM with its recurrence step by step, and in one kernel.
    pub(super) fn forms(&mut self) {
        let Some(program) = &self.request.program else {
            return;
        };
        self.text.push_str(
            "\n## The recurrence of the LSTM\n\nThe paper's LSTM with `lat-a`: step by step, and in one kernel \
             (`LAQ_LSTM=sequence`), each in a process of its own.\n\n| form | ms a step | loss |\n|---|---|---|\n",
        );
        for name in FORMS {
            if self.is_over() {
                break;
            }
            match in_form(self.request, program, name) {
                Ok(form) => {
                    let Form {
                        milliseconds, loss, ..
                    } = form;
                    let _ = writeln!(self.text, "| {name} | {milliseconds:.3} | {loss:.5} |");
                    self.findings.forms.push(form);
                }
                Err(error) => self.failed(&format!("the recurrence, form {name}"), &error),
            }
        }
        if let [one, other] = self.findings.forms[..] {
            let apart = ((one.loss - other.loss) / one.loss).abs();
            if apart.is_nan() || apart > FORM_TOLERANCE {
                let what = format!("losses of {} and {}", one.loss, other.loss);
                self.failed("the forms of the recurrence", &what);
            }
        }
    }

    /// How many steps several networks make together.
    pub(super) fn several(&mut self) -> Result<(), RunError> {
        self.text.push_str(
            "\n## Several networks at the same time\n\nSteps of all together in a second, with `lat-a`; in threads of one process, \
             each with its own stream, and in processes.\n\n\
             | network | at the same time | in threads | in processes |\n|---|---|---|---|\n",
        );
        for network in NETWORKS {
            for count in COUNTS {
                if self.is_over() || self.request.small && count > 2 {
                    break;
                }
                let threads = in_threads(self.request, network, count);
                let processes = match &self.request.program {
                    Some(program) => in_processes(self.request, program, network, count),
                    None => Ok(f64::NAN),
                };
                let (threads, processes) = match (threads, processes) {
                    (Ok(threads), Ok(processes)) => (threads, processes),
                    (Err(error), _) | (Ok(_), Err(error)) => {
                        self.failed(&format!("{count} times {network} at the same time"), &error);
                        break;
                    }
                };
                let _ = writeln!(
                    self.text,
                    "| {network} | {count} | {threads:.1} | {processes:.1} |"
                );
                self.findings.paces.push(Pace {
                    network,
                    count,
                    threads,
                    processes,
                });
            }
        }
        Ok(())
    }
}

/// The line of the page: the most steps in threads and in processes.
pub(super) fn line(paces: &[Pace]) -> String {
    let of = |network: &str| {
        let of = || paces.iter().filter(|pace| pace.network == network);
        let one = of().find(|pace| pace.count == 1)?;
        let most = |rate: fn(&Pace) -> f64| of().map(rate).fold(0.0, f64::max);
        Some(format!(
            "{network} {:.2} × the steps of one in threads, {:.2} × in processes",
            most(|pace| pace.threads) / one.threads,
            most(|pace| pace.processes) / one.threads
        ))
    };
    let lines: Vec<String> = NETWORKS.into_iter().filter_map(of).collect();
    match lines.is_empty() {
        true => "not known".to_owned(),
        false => lines.join("; "),
    }
}

/// The line of the page on the forms of the recurrence.
pub(super) fn line_of_forms(forms: &[Form]) -> String {
    let line = |form: &Form| format!("{} {:.3} ms a step", form.name, form.milliseconds);
    match forms {
        [] => "not known".to_owned(),
        forms => forms.iter().map(line).collect::<Vec<_>>().join(", "),
    }
}
