//! What was found, on one page: the README of the folder begins with it.

use std::fmt::Write as _;

use super::cells::Cells;
use super::pytorch::Answers;
use super::several::{self, Form, Pace};
use super::{COMPARED_STEPS, LOSS_TOLERANCE, Timed};

/// All that the page tells.
#[derive(Debug)]
pub(super) struct Findings {
    /// The device.
    pub(super) name: String,
    /// The machine and the program.
    pub(super) made: String,
    /// Whether the paper's networks ran on a GPU, so that the times mean something.
    pub(super) times_matter: bool,
    /// Comparisons of the conformance suite that passed, and all.
    pub(super) conformance: Option<(usize, usize)>,
    pub(super) compared: Vec<Compared>,
    pub(super) timed: Vec<Timed>,
    /// Or why PyTorch was not timed.
    pub(super) pytorch: Result<Answers, String>,
    /// Of several networks at the same time.
    pub(super) paces: Vec<Pace>,
    /// Of the LSTM's recurrence.
    pub(super) forms: Vec<Form>,
    pub(super) cells: Cells,
    /// What could not be done, and why.
    pub(super) failures: Vec<String>,
}

/// Losses of the device beside those of the processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    pub(super) network: &'static str,
    pub(super) method: &'static str,
    /// The largest relative difference.
    pub(super) difference: f64,
}

impl Compared {
    pub(super) fn is_good(&self) -> bool {
        self.difference <= LOSS_TOLERANCE
    }
}

/// How fast a training step is to be on a GPU.
struct Target {
    network: &'static str,
    milliseconds: f64,
    /// The largest part of PyTorch's time for the same method.
    ratio: f64,
    beside: Beside,
}

/// The variant of PyTorch that a target names.
enum Beside {
    /// Every one, as all run cuDNN's LSTM.
    Best,
    Compiled,
}

const TARGETS: [Target; 3] = [
    Target {
        network: "char-lstm",
        milliseconds: 3.0,
        ratio: 0.8,
        beside: Beside::Best,
    },
    Target {
        network: "mnist",
        milliseconds: 0.25,
        ratio: 0.5,
        beside: Beside::Compiled,
    },
    Target {
        network: "cifar10",
        milliseconds: 1.5,
        ratio: 0.7,
        beside: Beside::Compiled,
    },
];
/// The methods that the targets are for.
const TARGET_METHODS: [&str; 3] = ["full", "lat-a", "lat-e"];
/// The network whose solving is told, the one with the most weights.
const SOLVED: &str = "cifar10";
/// Milliseconds that exact solving of all its weights may take.
const SOLVING_TARGET: f64 = 0.5;

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

impl Findings {
    /// Nothing found yet.
    pub(super) fn new(name: String, made: String, times_matter: bool) -> Self {
        Findings {
            name,
            made,
            times_matter,
            conformance: None,
            compared: Vec::new(),
            timed: Vec::new(),
            pytorch: Err("not yet asked".to_owned()),
            paces: Vec::new(),
            forms: Vec::new(),
            cells: Cells::default(),
            failures: Vec::new(),
        }
    }

    /// Whether no comparison failed, and everything but cells could be done.
    pub(super) fn good(&self) -> bool {
        self.failures.is_empty()
            && self.conformance.is_none_or(|(passed, all)| passed == all)
            && self.compared.iter().all(Compared::is_good)
    }

    /// The page.
    pub(super) fn page(&self) -> String {
        let mut text = format!(
            "# {}\n\n{}\n\n| what | found |\n|---|---|\n",
            self.name, self.made
        );
        let conformance = match self.conformance {
            Some((passed, all)) => format!("{passed} of {all} comparisons passed"),
            None => "not yet known".to_owned(),
        };
        let version = match &self.pytorch {
            Ok(answers) => answers.version.clone().unwrap_or_default(),
            Err(why) => format!("not timed: {}", why.replace('|', "/")),
        };
        let Cells {
            finished,
            cut_short,
            failed,
        } = self.cells;
        let all = Cells::ALL;
        for (what, found) in [
            ("conformance", conformance),
            ("losses beside the processor's", self.losses()),
            ("PyTorch", version),
            ("LSTM's recurrence", several::line_of_forms(&self.forms)),
            ("several at the same time", several::line(&self.paces)),
            (
                "cells of the tables",
                format!("{finished} of {all} finished, {cut_short} cut short, {failed} failed"),
            ),
        ] {
            let _ = writeln!(text, "| {what} | {found} |");
        }
        if !self.good() {
            text.push_str("\n**Not everything that was checked is right.**\n\n");
            for failure in &self.failures {
                let _ = writeln!(text, "- {failure}");
            }
        }
        self.steps(&mut text);
        self.solving(&mut text);
        text
    }

    fn losses(&self) -> String {
        // A NaN is the largest of all.
        let worst = (self.compared.iter()).max_by(|a, b| a.difference.total_cmp(&b.difference));
        let Some(worst) = worst else {
            return "not yet known".to_owned();
        };
        format!(
            "{:.1e} is the largest relative difference ({}, {}; at most {LOSS_TOLERANCE:.0e}) of {} networks and methods, \
             {COMPARED_STEPS} steps each",
            worst.difference,
            worst.network,
            worst.method,
            self.compared.len()
        )
    }

    /// The heading of a column of targets, its line and its content, where there is one.
    fn target_column(&self, content: &str) -> String {
        if self.times_matter {
            format!(" {content} |")
        } else {
            String::new()
        }
    }

    fn steps(&self, text: &mut String) {
        text.push_str(
            "\n## Training steps\n\nMilliseconds a step; laq's is the median of rounds of 20 steps (of one where a step takes more \
             than 30 ms), in a process that does nothing else. The ratio is laq's over that of PyTorch's best variant for the same method.\n\n",
        );
        let _ = writeln!(
            text,
            "| network | method | laq | of it quantizing | PyTorch's best | ratio |{}\n|---|---|---|---|---|---|{}",
            self.target_column("target"),
            self.target_column("---").replace(' ', "")
        );
        for step in &self.timed {
            let best = (self.pytorch.as_ref().ok())
                .and_then(|answers| answers.best(step.network, step.method));
            let (best, ratio) = match best {
                Some((variant, seconds)) => (
                    format!("{:.3} ({variant})", 1e3 * seconds),
                    format!("{:.2}", step.seconds / seconds),
                ),
                None => Default::default(),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {:.3} | {:.3} | {best} | {ratio} |{}",
                step.network,
                step.method,
                1e3 * step.seconds,
                1e3 * step.quantize_seconds,
                self.target_column(&self.target(step))
            );
        }
    }

    /// Whether a step is as fast as it is to be.
    fn target(&self, step: &Timed) -> String {
        let target = (TARGETS.iter()).find(|target| target.network == step.network);
        let Some(target) = target.filter(|_| TARGET_METHODS.contains(&step.method)) else {
            return String::new();
        };
        let mut text = format!(
            "{} ms {}",
            target.milliseconds,
            verdict(1e3 * step.seconds <= target.milliseconds)
        );
        let (theirs, name) = match (&self.pytorch, &target.beside) {
            (Ok(answers), Beside::Best) => (answers.best(step.network, step.method), "PyTorch"),
            (Ok(answers), Beside::Compiled) => (
                (answers.times(step.network, step.method)).find(|time| time.0 == "compiled"),
                "PyTorch compiled",
            ),
            (Err(_), _) => return text,
        };
        let _ = match theirs {
            Some((_, seconds)) => {
                let ratio = step.seconds / seconds;
                let reached = verdict(ratio <= target.ratio);
                write!(text, "; {} × {name} {reached} ({ratio:.2})", target.ratio)
            }
            None => write!(text, "; {} × {name} not known", target.ratio),
        };
        text
    }

    fn solving(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n## Solving alone\n\nFor all weights of {SOLVED} once, by the device's clock within the steps; GB/s are those of \
             one read of w and v.\n\n| method | weights | ms | GB/s |{}\n|---|---|---|---|{}\n",
            self.target_column("target"),
            self.target_column("---").replace(' ', "")
        );
        for step in &self.timed {
            if step.network != SOLVED || step.weights == 0 {
                continue;
            }
            let milliseconds = 1e3 * step.quantize_seconds;
            let bytes = (step.weights * 2 * size_of::<f32>()) as f64;
            let target = if step.method.ends_with("-e") {
                let reached = verdict(milliseconds <= SOLVING_TARGET);
                format!("{SOLVING_TARGET} ms {reached}")
            } else {
                String::new()
            };
            let _ = writeln!(
                text,
                "| {} | {} | {milliseconds:.3} | {:.1} |{}",
                step.method,
                step.weights,
                1e-9 * bytes / step.quantize_seconds,
                self.target_column(&target)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pytorch::Measured;
    use super::*;

    fn timed(network: &'static str, method: &'static str, milliseconds: f64) -> Timed {
        Timed {
            network,
            method,
            seconds: 1e-3 * milliseconds,
            quantize_seconds: 4e-4,
            weights: if method == "full" { 0 } else { 14_000_000 },
        }
    }

    fn findings(times_matter: bool) -> Findings {
        let measured = |network: &str, variant: &str, milliseconds: f64| Measured {
            network: network.into(),
            method: "full".into(),
            variant: variant.into(),
            seconds: Ok(1e-3 * milliseconds),
        };
        Findings {
            conformance: Some((9, 9)),
            compared: vec![Compared {
                network: "mnist",
                method: "full",
                difference: 1e-4,
            }],
            timed: vec![
                timed("char-lstm", "full", 2.0),
                timed("mnist", "full", 0.3),
                timed("cifar10", "full", 1.0),
                timed("cifar10", "lat-e", 1.0),
                timed("cifar10", "laq-log-3", 9.0),
            ],
            pytorch: Ok(Answers {
                version: Some("2.11".into()),
                measured: vec![
                    measured("char-lstm", "eager", 2.2),
                    measured("char-lstm", "compiled", 4.0),
                    measured("mnist", "eager", 0.5),
                    measured("mnist", "compiled", 1.0),
                ],
                ..Answers::default()
            }),
            ..Findings::new("a device".into(), "Made here.".into(), times_matter)
        }
    }

    #[test]
    fn targets_are_judged_by_the_variants_that_they_name() {
        let page = findings(true).page();
        for line in [
            "| conformance | 9 of 9 comparisons passed |",
            "| cells of the tables | 0 of 36 finished, 0 cut short, 0 failed |",
            "| char-lstm | full | 2.000 | 0.400 | 2.200 (eager) | 0.91 | 3 ms reached; 0.8 × PyTorch MISSED (0.91) |",
            "| mnist | full | 0.300 | 0.400 | 0.500 (eager) | 0.60 | 0.25 ms MISSED; 0.5 × PyTorch compiled reached (0.30) |",
            "| cifar10 | full | 1.000 | 0.400 |  |  | 1.5 ms reached; 0.7 × PyTorch compiled not known |",
            "| cifar10 | laq-log-3 | 9.000 | 0.400 |  |  |  |",
            "| lat-e | 14000000 | 0.400 | 280.0 | 0.5 ms reached |",
            "| laq-log-3 | 14000000 | 0.400 | 280.0 |  |",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line}: {page}");
        }
    }

    #[test]
    fn a_rehearsal_says_nothing_of_targets() {
        let page = findings(false).page();
        for word in ["target", "reached", "MISSED"] {
            assert!(!page.contains(word), "{page}");
        }
        assert!(page.contains("| mnist | full | 0.300 | 0.400 | 0.500 (eager) | 0.60 |\n"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut found = findings(true);
        assert!(found.good());
        found.compared.push(Compared {
            network: "cifar10",
            method: "lat-a",
            difference: f64::NAN,
        });
        assert!(!found.good());
        let page = found.page();
        assert!(page.contains("Not everything"), "{page}");
        assert!(page.contains("NaN is the largest relative difference (cifar10, lat-a;"));
        found.compared.clear();
        found.conformance = Some((8, 9));
        assert!(!found.good());
    }
}
