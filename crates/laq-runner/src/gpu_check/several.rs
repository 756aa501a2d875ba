//! Several networks in training on one device at the same time: in threads of one process, each with a stream of its own, and
//! in processes.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::case::Case;
use super::{Check, Request};
use crate::RunError;
use crate::device::Computer;

/// How many at the same time.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
/// The networks that are trained together, with ternary weights; the others fill a GPU by themselves.
const NETWORKS: [&str; 2] = ["char-lstm", "mnist"];
const METHOD: &str = "lat-a";
/// How long each is counted.
const COUNTED: Duration = Duration::from_secs(1);
/// How long processes may take.
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
    processes: Option<f64>,
}

/// How many networks at the same time make the most steps in threads, by what was measured; one where nothing was.
pub(super) fn best_count(paces: &[Pace]) -> usize {
    let of_lstm = paces.iter().filter(|pace| pace.network == NETWORKS[0]);
    let best = of_lstm.max_by(|a, b| a.threads.total_cmp(&b.threads));
    best.map_or(1, |pace| pace.count)
}

/// Trains one network for a `gpu-check` in another process: says `ready`, the loss and notes, waits for a line, and says
/// how many steps it has made, and in which time.
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
    let notes = case.notes().join("; ").replace('\n', " ");
    writeln!(output, "ready {loss} {notes}")
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
    let (loss, _) = case.run(steps)?;
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
        case.run(at_once)?;
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
    Ok(sum_of_rates(counted.into_iter()))
}

/// What a process has told.
struct Counted {
    loss: f64,
    notes: String,
    steps: usize,
    time: Duration,
}

impl Counted {
    /// From the lines of [`keep_pace`].
    fn parse(lines: &[String]) -> Option<Self> {
        let [ready, counted] = lines else { return None };
        let (loss, notes) = ready.strip_prefix("ready ")?.split_once(' ')?;
        let (steps, seconds) = counted.split_once(' ')?;
        Some(Counted {
            loss: loss.parse().ok()?,
            notes: notes.to_owned(),
            steps: steps.parse().ok()?,
            time: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
        })
    }
}

/// The command of a process that trains one network; see [`keep_pace`].
fn keeping_pace(request: &Request, program: &Path, network: &str) -> Command {
    let (device, precision) = (request.device.choice, request.device.precision);
    let mut command = Command::new(program);
    command.args(["gpu-check", "--keep-pace", network]);
    command.args(["--device", &device.to_string()]);
    command.args(["--precision", &precision.to_string()]);
    command.args(request.small.then_some("--small"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Processes that are ended when they are not waited for any more.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A form of the LSTM's recurrence, by the name that `LAQ_LSTM` has for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
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
    /// Trains `count` networks in as many processes, in a form of the recurrence if one is given. They begin to count when all
    /// are ready. Whoever waits for something that never comes is ended after a while.
    fn in_processes(
        &self,
        program: &Path,
        network: &str,
        count: usize,
        form: Option<&str>,
    ) -> Result<Vec<Counted>, String> {
        let lost = |error: std::io::Error| error.to_string();
        let mut processes = Processes(Vec::new());
        let (tell, told) = channel();
        for index in 0..count {
            let mut command = keeping_pace(self.request, program, network);
            command.envs(form.map(|form| ("LAQ_LSTM", form)));
            let mut child = command.spawn().map_err(lost)?;
            let output = BufReader::new(child.stdout.take().expect("it is piped"));
            processes.0.push(child);
            let tell = tell.clone();
            thread::spawn(move || {
                for line in output.lines().map_while(Result::ok) {
                    if tell.send((index, line)).is_err() {
                        return;
                    }
                }
            });
        }
        let (end, mut lines) = (Instant::now() + LONGEST, vec![Vec::new(); count]);
        let have = |lines: &[Vec<String>], least| lines.iter().all(|said| said.len() >= least);
        while !have(&lines, 2) {
            match told.recv_timeout(Duration::from_millis(20)) {
                Ok((index, line)) => {
                    let were_ready = have(&lines, 1);
                    lines[index].push(line);
                    if !were_ready && have(&lines, 1) {
                        for child in &mut processes.0 {
                            // With the line goes the end of its input.
                            let mut input = child.stdin.take().expect("it is piped");
                            writeln!(input).map_err(lost)?;
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if self.is_stopped() {
                        return Err("it was stopped".to_owned());
                    }
                    if Instant::now() >= end {
                        return Err(format!("it took more than {} s", LONGEST.as_secs()));
                    }
                    for child in &mut processes.0 {
                        let ended = child.try_wait().map_err(lost)?;
                        if let Some(status) = ended.filter(|status| !status.success()) {
                            return Err(format!("a process ended with {status}"));
                        }
                    }
                }
            }
        }
        let counted = lines.iter().map(|lines| {
            Counted::parse(lines).ok_or_else(|| format!("a process said {lines:?}, not its steps"))
        });
        counted.collect()
    }

    /// The LSTM with its recurrence step by step, and in one kernel.
    pub(super) fn forms(&mut self) {
        let Some(program) = self.request.program.as_ref().filter(|_| self.on_gpu) else {
            return;
        };
        self.text.push_str(
            "\n## The recurrence of the LSTM\n\nThe paper's LSTM with `lat-a`: step by step, and in one kernel \
             (`LAQ_LSTM=sequence`), each in a process of its own.\n\n| form | ms a step | loss |\n|---|---|---|\n",
        );
        for name in FORMS {
            if self.is_over() {
                return;
            }
            let counted = match self.in_processes(program, NETWORKS[0], 1, Some(name)) {
                Ok(counted) => counted,
                Err(_) if self.is_stopped() => return,
                Err(error) => {
                    self.failed(&format!("the recurrence, form {name}"), &error);
                    continue;
                }
            };
            let Counted {
                loss,
                notes,
                steps,
                time,
            } = &counted[0];
            let steps_instead = (notes.split("; ")).find(|note| note.contains("step by step"));
            if let Some(why) = steps_instead {
                let _ = writeln!(self.text, "| {name} | not possible: {why} | |");
                continue;
            }
            let form = Form {
                name,
                milliseconds: 1e3 * time.as_secs_f64() / *steps as f64,
                loss: *loss,
            };
            let milliseconds = form.milliseconds;
            let _ = writeln!(self.text, "| {name} | {milliseconds:.3} | {loss:.5} |");
            self.findings.forms.push(form);
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
    pub(super) fn several(&mut self) {
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
                let pace = match self.pace(network, count) {
                    Ok(pace) => pace,
                    Err(_) if self.is_stopped() => return,
                    Err(error) => {
                        self.failed(&format!("{count} times {network} at the same time"), &error);
                        break;
                    }
                };
                let processes = pace.processes.map(|rate| format!("{rate:.1}"));
                let _ = writeln!(
                    self.text,
                    "| {network} | {count} | {:.1} | {} |",
                    pace.threads,
                    processes.unwrap_or_default()
                );
                self.findings.paces.push(pace);
            }
        }
    }

    fn pace(&self, network: &'static str, count: usize) -> Result<Pace, String> {
        let threads = in_threads(self.request, network, count);
        let processes = match &self.request.program {
            Some(program) => {
                let counted = self.in_processes(program, network, count, None)?;
                let counted = counted.iter().map(|one| (one.steps, one.time));
                Some(sum_of_rates(counted))
            }
            None => None,
        };
        Ok(Pace {
            network,
            count,
            threads: threads.map_err(|error| error.to_string())?,
            processes,
        })
    }
}

/// The line of the page: the most steps in threads and in processes.
pub(super) fn line(paces: &[Pace]) -> String {
    let of = |network: &str| {
        let of = || paces.iter().filter(|pace| pace.network == network);
        let one = of().find(|pace| pace.count == 1)?;
        let most = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max) / one.threads;
        let threads = most(&mut of().map(|pace| pace.threads));
        let processes = most(&mut of().filter_map(|pace| pace.processes));
        let of_processes = match one.processes {
            Some(_) => format!(", {processes:.2} × in processes"),
            None => String::new(),
        };
        Some(format!(
            "{network} {threads:.2} × the steps of one in threads{of_processes}"
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
