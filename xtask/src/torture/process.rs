//! A process of `laq`, and what holds for every one: it ends in time, without a panic, by no signal but that which was sent,
//! and within a limit of memory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::case::{Case, ensure, finding};
use super::figures::{compare, of_json};

/// Far longer than any command here takes, on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(180);
/// Far more memory than any command here needs, in kB.
const MEMORY_LIMIT: u64 = 1 << 20;
const POLL: Duration = Duration::from_millis(1);

/// Exit codes with an error: see docs/src/train.md. 75 is that of a run which another process trains.
const ERRORS: [i32; 3] = [1, 2, 75];
pub(crate) const LOCKED: i32 = 75;
const INTERRUPTED: i32 = 130;

/// A command to be started.
pub(crate) struct Laq<'a> {
    case: &'a Case<'a>,
    folder: PathBuf,
    prefix: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    /// A signal that the prefix sends.
    injected: Option<Signal>,
}

impl Case<'_> {
    /// `laq` in the folder of the case.
    pub(crate) fn laq(&self, arguments: &str) -> Laq<'_> {
        Laq::new(self, &self.folder, arguments)
    }
}

impl<'a> Laq<'a> {
    /// `laq` with `arguments`, separated by spaces, in `folder`.
    pub(crate) fn new(case: &'a Case<'a>, folder: &Path, arguments: &str) -> Self {
        Self {
            case,
            folder: folder.into(),
            prefix: Vec::new(),
            arguments: arguments.split_whitespace().map(OsString::from).collect(),
            environment: Vec::new(),
            injected: None,
        }
    }

    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn threads(self, number: usize) -> Self {
        self.argument("--threads").argument(number.to_string())
    }

    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Starts another program with the command as its last arguments.
    pub(crate) fn under<S: Into<OsString>>(mut self, prefix: impl IntoIterator<Item = S>) -> Self {
        self.prefix.extend(prefix.into_iter().map(Into::into));
        self
    }

    /// Sets limits of the shell first, such as `-v 100000`.
    pub(crate) fn limited(self, limit: &str) -> Self {
        let script = format!("ulimit {limit} && exec \"$@\"");
        self.under(["sh", "-c", &script, "sh"])
    }

    /// The prefix may end the process by this signal.
    pub(crate) fn may_be_killed(mut self) -> Self {
        self.injected = Some(Signal::KILL);
        self
    }

    pub(crate) fn start(self) -> Result<Running<'a>> {
        let words: Vec<OsString> = (self.prefix.into_iter())
            .chain([self.case.laq.clone().into()])
            .chain(self.arguments)
            .collect();
        let number = self.case.counts.add_process();
        let log = |kind: &str| self.case.folder.join(format!("log-{number}.{kind}"));
        let create = |kind: &str| File::create(log(kind)).context("cannot write a log");
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(&self.folder)
            .env("CUDA_VISIBLE_DEVICES", "")
            .env_remove("LAQ_KERNEL")
            .env_remove("RAYON_NUM_THREADS")
            .envs(self.environment)
            .stdin(File::open("/dev/null")?)
            .stdout(create("out")?)
            .stderr(create("err")?)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", words[0].display()))?;
        Ok(Running {
            case: self.case,
            child,
            started: Instant::now(),
            out: log("out"),
            err: log("err"),
            command: format!("{words:?}"),
            allowed: self.injected,
        })
    }

    /// Runs the command to its end.
    pub(crate) fn run(self) -> Result<Ended> {
        self.start()?.end(None)
    }

    /// Runs the command, and sends `signal` if it still runs after `delay`.
    pub(crate) fn run_until(self, signal: Signal, delay: Duration) -> Result<Ended> {
        self.start()?.end(Some((signal, delay)))
    }
}

/// A process.
pub(crate) struct Running<'a> {
    case: &'a Case<'a>,
    child: Child,
    started: Instant,
    out: PathBuf,
    err: PathBuf,
    command: String,
    allowed: Option<Signal>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Of a case that has ended with a finding.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Running<'_> {
    /// Waits for the end, which `stop` may bring about.
    pub(crate) fn end(mut self, mut stop: Option<(Signal, Duration)>) -> Result<Ended> {
        let pid = Pid::from_child(&self.child);
        let memory = format!("/proc/{}/status", self.child.id());
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            let time = self.started.elapsed();
            if time > TIME_LIMIT {
                return finding(
                    format!("the end of {} within {TIME_LIMIT:?}", self.command),
                    "it hangs",
                );
            }
            if let Some((signal, _)) = stop.take_if(|(_, delay)| time >= *delay) {
                self.case.counts.add_kill();
                self.allowed = Some(signal);
                kill_process(pid, signal)?;
            }
            let peak = peak_memory(&memory).unwrap_or(0);
            ensure(
                peak <= MEMORY_LIMIT,
                format!("{} in {MEMORY_LIMIT} kB of memory", self.command),
                || format!("{peak} kB"),
            )?;
            thread::sleep(POLL);
        };
        let text = |path: &Path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into());
        let ended = Ended {
            command: self.command.clone(),
            status,
            time: self.started.elapsed(),
            out: text(&self.out)?,
            err: text(&self.err)?,
        };
        let panics = ["panicked at", "has overflowed its stack"];
        ensure(
            !panics.iter().any(|panic| ended.err.contains(panic)),
            format!("no panic of {}", ended.command),
            || ended.err.clone(),
        )?;
        let signal = status.signal();
        ensure(
            signal.is_none() || signal == self.allowed.map(Signal::as_raw),
            format!("an exit code of {}", ended.command),
            || ended.seen(),
        )?;
        Ok(ended)
    }
}

/// The peak resident memory in kB, where the system tells it.
fn peak_memory(status: &str) -> Option<u64> {
    let status = fs::read_to_string(status).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.split_whitespace().next()?.parse().ok()
}

/// A process that has ended as it may.
pub(crate) struct Ended {
    pub(crate) command: String,
    status: ExitStatus,
    pub(crate) time: Duration,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn is_good(&self) -> bool {
        self.code() == Some(0)
    }

    fn seen(&self) -> String {
        format!("{}: {}", self.status, self.err.trim_end())
    }

    /// A finding unless it has succeeded.
    pub(crate) fn good(self) -> Result<Self> {
        ensure(
            self.is_good(),
            format!("success of {}", self.command),
            || self.seen(),
        )?;
        Ok(self)
    }

    /// A finding unless it has failed with one message.
    pub(crate) fn refused(self) -> Result<Self> {
        let is_error = |line: &&str| line.starts_with("error: ") && line.len() > "error: ".len();
        let errors = self.err.lines().filter(is_error).count();
        ensure(
            self.code().is_some_and(|code| ERRORS.contains(&code)) && errors == 1,
            format!(
                "exit code {ERRORS:?} and a line `error: …` of {}",
                self.command
            ),
            || self.seen(),
        )?;
        Ok(self)
    }

    /// A finding unless it has succeeded, or failed with one message.
    pub(crate) fn good_or_refused(self) -> Result<Self> {
        match self.is_good() {
            true => Ok(self),
            false => self.refused(),
        }
    }

    /// A finding unless both have printed the same figures.
    pub(crate) fn is_same(&self, other: &Self) -> Result<()> {
        compare(
            &of_json("output", &self.out)?,
            &of_json("output", &other.out)?,
        )
    }

    /// A finding unless it has succeeded, saved, or ended by the signal.
    pub(crate) fn stopped(self) -> Result<Self> {
        let code = self.code();
        ensure(
            [None, Some(0), Some(INTERRUPTED)].contains(&code),
            format!(
                "success, exit code {INTERRUPTED} or the end by the signal of {}",
                self.command
            ),
            || self.seen(),
        )?;
        Ok(self)
    }
}
