//! The time of PyTorch's training steps, measured by an embedded script.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Check, Timed};
use laq_runner::RunError;
use laq_runner::device::{DeviceChoice, Precision};
use laq_runner::files::{FileError, write_atomically};

/// The time limit of the script.
const TIME_LIMIT: Duration = Duration::from_secs(150);
/// The time beyond the limit after which the script is killed; it cannot stop during a compilation.
const GRACE: Duration = Duration::from_secs(30);

/// A line of output of `pytorch.py`.
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

/// The time of a step, or the error of PyTorch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) network: String,
    pub(super) method: String,
    pub(super) variant: String,
    pub(super) seconds: Result<f64, String>,
}

/// The output of the script.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answers {
    /// The version of PyTorch.
    pub(super) version: Option<String>,
    pub(super) measured: Vec<Measured>,
    /// Measurements skipped for lack of time.
    pub(super) left_out: Vec<String>,
    /// How the script failed.
    pub(super) ended: Option<String>,
}

impl Answers {
    /// Parses lines of JSON; ignores other lines.
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

    /// The timed variants of a step, with their seconds.
    /// The fastest variant, with its seconds per step.
    pub(super) fn best(&self, network: &str, method: &str) -> Option<(&str, f64)> {
        (self.measured.iter())
            .filter(|step| step.network == network && step.method == method)
            .filter_map(|step| Some((step.variant.as_str(), *step.seconds.as_ref().ok()?)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The table of all measurements, with the ratio of laq's steps.
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
                "\nSkipped for lack of time: {}.",
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
    /// Times the same networks in PyTorch, if it is installed.
    pub(super) fn pytorch(&mut self) -> Result<(), RunError> {
        self.text.push_str("\n## PyTorch\n\n");
        if self.is_over() {
            self.findings.pytorch = Err("out of time".into());
        } else {
            self.run_pytorch()?;
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
                    "PyTorch {version}, the same batches, products {precision}; `ratio` is laq's time over PyTorch's \
                     for the same method. pytorch.py documents the variants; pytorch.log is its standard error.\n\n{}",
                    answers.table(&self.findings.timed)
                );
            }
            Err(why) => {
                let _ = writeln!(self.text, "Not timed: {why}.");
            }
        }
        Ok(())
    }

    fn run_pytorch(&mut self) -> Result<(), RunError> {
        let path = |name: &str| self.request.out.join(name);
        let (script, results, log) = (
            path("pytorch.py"),
            path("pytorch.jsonl"),
            path("pytorch.log"),
        );
        write_atomically(&script, include_bytes!("pytorch.py"))?;
        let limit = TIME_LIMIT.min(self.limits.end.saturating_duration_since(Instant::now()));
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
                self.findings.pytorch = Err(format!("cannot start {python} ({error})"));
                // Both files are empty.
                let _ = (fs::remove_file(&results), fs::remove_file(&log));
                return Ok(());
            }
        };
        let ended = self.wait(&mut child, limit + GRACE);
        let read = |path: &Path| fs::read(path).map_err(FileError::on("read", path));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (lines, log) = (text(read(&results)?), text(read(&log)?));
        let last = log.lines().last().unwrap_or("no output");
        let mut answers = Answers::parse(&lines);
        if answers.version.is_none() {
            self.findings.pytorch = Err(last.trim_end_matches('.').to_owned());
            return Ok(());
        }
        answers.ended = match ended {
            Ok(Some(status)) if status.success() => None,
            Ok(Some(status)) => Some(format!("pytorch.py failed ({status}): {last}")),
            Ok(None) => Some("pytorch.py was stopped".into()),
            Err(error) => Some(format!("cannot wait for pytorch.py: {error}")),
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

    /// The exit status of the script; `None` if it was killed.
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
    fn lines_are_parsed_and_compared() {
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
             Skipped for lack of time: mnist lat-e compiled.\n"
        );
    }

    #[test]
    fn other_lines_are_ignored() {
        let lines = "\n{}\n[]\n7\n{\"network\": 7, \"seconds\": 1}\n{\"seconds\"";
        assert_eq!(Answers::parse(lines), Answers::default());
    }
}
