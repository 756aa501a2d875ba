//! PyTorch's training steps, by a script that goes with this program.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Check, Timed};
use crate::RunError;
use crate::device::{DeviceChoice, Precision};
use crate::files::{FileError, write_atomically};

/// How long the script may take, whatever time is left.
const LONGEST: Duration = Duration::from_secs(150);
/// How long it may take beyond its time until it is stopped: it cannot end while something is being compiled.
const GRACE: Duration = Duration::from_secs(30);

/// A line of `pytorch.py`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    torch: Option<String>,
    network: String,
    method: String,
    variant: String,
    seconds: Option<f64>,
    error: Option<String>,
    left_out: Vec<String>,
}

/// A step that was timed, or what PyTorch said instead.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) network: String,
    pub(super) method: String,
    pub(super) variant: String,
    pub(super) seconds: Result<f64, String>,
}

/// All that the script said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answers {
    /// Of PyTorch, where there is one.
    pub(super) version: Option<String>,
    pub(super) measured: Vec<Measured>,
    /// What there was no time for.
    pub(super) left_out: Vec<String>,
    /// How the script ended, if not as it should.
    pub(super) ended: Option<String>,
}

impl Answers {
    /// What lines of JSON say. Other lines are none of the script's.
    fn parse(lines: &str) -> Self {
        let mut answers = Self::default();
        for line in lines.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            let seconds = match (line.seconds, line.error) {
                (Some(seconds), _) => Some(Ok(seconds)),
                (None, error) => error.map(Err),
            };
            if let Some(seconds) = seconds {
                answers.measured.push(Measured {
                    network: line.network,
                    method: line.method,
                    variant: line.variant,
                    seconds,
                });
            }
            answers.version = answers.version.or(line.torch);
            answers.left_out.extend(line.left_out);
        }
        answers
    }

    /// The variants of a step that were timed, with their seconds.
    pub(super) fn times(&self, network: &str, method: &str) -> impl Iterator<Item = (&str, f64)> {
        (self.measured.iter())
            .filter(move |step| step.network == network && step.method == method)
            .filter_map(|step| Some((step.variant.as_str(), *step.seconds.as_ref().ok()?)))
    }

    /// The variant that takes the least time.
    pub(super) fn best(&self, network: &str, method: &str) -> Option<(&str, f64)> {
        self.times(network, method)
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// All of it, beside our steps of the same methods.
    fn table(&self, ours: &[Timed]) -> String {
        let mut text =
            String::from("| network | method | variant | ms | ratio |\n|---|---|---|---|---|\n");
        for step in &self.measured {
            let ours = (ours.iter())
                .find(|ours| ours.network == step.network && ours.method == step.method);
            let time = match &step.seconds {
                Ok(seconds) => format!("{:.3}", 1e3 * seconds),
                Err(error) => error.replace('|', "/"),
            };
            let ratio = match (ours, &step.seconds) {
                (Some(ours), Ok(seconds)) => format!("{:.2}", ours.seconds / seconds),
                _ => String::new(),
            };
            let Measured {
                network,
                method,
                variant,
                ..
            } = step;
            let _ = writeln!(
                text,
                "| {network} | {method} | {variant} | {time} | {ratio} |"
            );
        }
        if !self.left_out.is_empty() {
            let _ = writeln!(
                text,
                "\nThere was no time for: {}.",
                self.left_out.join("; ")
            );
        }
        if let Some(ended) = &self.ended {
            let _ = writeln!(text, "\n{ended}");
        }
        text
    }
}

impl Check<'_> {
    /// The same networks in PyTorch, where python has it.
    pub(super) fn pytorch(&mut self) -> Result<(), RunError> {
        self.text.push_str("\n## PyTorch\n\n");
        if self.is_over() {
            self.findings.pytorch = Err("the time was over".into());
        } else {
            self.ask_pytorch()?;
        }
        match &self.findings.pytorch {
            Ok(answers) => {
                let version = answers.version.as_deref().unwrap_or_default();
                let precision = match self.request.device.precision {
                    Precision::Tf32 => "in TF32 on a GPU",
                    Precision::Float32 => "in float32",
                };
                let _ = write!(
                    self.text,
                    "PyTorch {version}, the same batches, products {precision}; `ratio` is laq's step of the same method \
                     over PyTorch's. pytorch.py says what the variants are; pytorch.log is what it said beside its \
                     results.\n\n{}",
                    answers.table(&self.findings.timed)
                );
            }
            Err(why) => {
                let _ = writeln!(self.text, "Not timed: {why}.");
            }
        }
        Ok(())
    }

    fn ask_pytorch(&mut self) -> Result<(), RunError> {
        let path = |name: &str| self.request.out.join(name);
        let (script, results, log) = (
            path("pytorch.py"),
            path("pytorch.jsonl"),
            path("pytorch.log"),
        );
        write_atomically(&script, include_bytes!("pytorch.py"))?;
        let limit = LONGEST.min(self.limits.end.saturating_duration_since(Instant::now()));
        let create = |path: &Path| File::create(path).map_err(FileError::on("create", path));
        let started = self
            .script(&script, limit)
            .stdin(Stdio::null())
            .stdout(create(&results)?)
            .stderr(create(&log)?)
            .spawn();
        let python = &self.request.python;
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                self.findings.pytorch = Err(format!("{python} does not start ({error})"));
                // Both are empty.
                let _ = (fs::remove_file(&results), fs::remove_file(&log));
                return Ok(());
            }
        };
        let ended = self.wait(&mut child, limit + GRACE);
        let read = |path: &Path| fs::read(path).map_err(FileError::on("read", path));
        let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (lines, log) = (said(read(&results)?), said(read(&log)?));
        let last = log.lines().last().unwrap_or("it said nothing");
        let mut answers = Answers::parse(&lines);
        if answers.version.is_none() {
            self.findings.pytorch = Err(last.trim_end_matches('.').to_owned());
            return Ok(());
        }
        answers.ended = match ended {
            Ok(Some(status)) if status.success() => None,
            Ok(Some(status)) => Some(format!("pytorch.py failed ({status}): {last}")),
            Ok(None) => Some("pytorch.py was stopped before it had ended".into()),
            Err(error) => Some(format!("pytorch.py was lost: {error}")),
        };
        self.findings.pytorch = Ok(answers);
        Ok(())
    }

    fn script(&self, script: &Path, limit: Duration) -> Command {
        let device = match self.request.device.choice {
            DeviceChoice::Auto => DeviceChoice::Cuda(0),
            choice => choice,
        }
        .to_string();
        let precision = self.request.device.precision.to_string();
        let mut command = Command::new(&self.request.python);
        command
            .arg(script)
            .args(["--device", &device, "--precision", &precision])
            .args(["--seconds", &limit.as_secs_f64().to_string()]);
        if self.request.device.choice == DeviceChoice::Cpu {
            command.args(["--rounds", "3", "--steps", "1"]);
        }
        if self.request.small {
            command.arg("--small");
        }
        command
    }

    /// How the script ended; none if it was stopped.
    fn wait(&self, child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if self.is_stopped() || Instant::now() >= end {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"torch": "2.11.0", "device": "H100", "cudnn": 91000}
a warning
{"network": "mnist", "method": "full", "variant": "eager", "seconds": 0.001, "measured_in": 1.5}
{"network": "mnist", "method": "full", "variant": "compiled", "seconds": 0.0005, "measured_in": 1.5}
{"network": "mnist", "method": "lat-a", "variant": "compiled", "error": "it | cannot"}
{"left_out": ["mnist lat-e compiled"]}
"#;

    #[test]
    fn lines_are_read_and_set_beside_our_steps() {
        let answers = Answers::parse(LINES);
        assert_eq!(answers.version.as_deref(), Some("2.11.0"));
        assert_eq!(answers.measured.len(), 3);
        assert_eq!(answers.best("mnist", "full"), Some(("compiled", 5e-4)));
        assert_eq!(answers.best("mnist", "lat-a"), None);
        let ours = ["full", "lat-a"].map(|method| Timed {
            network: "mnist",
            method,
            seconds: 2e-4,
            quantize_seconds: 0.0,
            weights: 0,
        });
        assert_eq!(
            answers.table(&ours),
            "| network | method | variant | ms | ratio |\n|---|---|---|---|---|\n\
             | mnist | full | eager | 1.000 | 0.20 |\n\
             | mnist | full | compiled | 0.500 | 0.40 |\n\
             | mnist | lat-a | compiled | it / cannot |  |\n\n\
             There was no time for: mnist lat-e compiled.\n"
        );
    }

    #[test]
    fn lines_that_are_not_the_scripts_say_nothing() {
        let lines = "\n{}\n[]\n7\n{\"network\": 7, \"seconds\": 1}\n{\"seconds\"";
        assert_eq!(Answers::parse(lines), Answers::default());
    }
}
