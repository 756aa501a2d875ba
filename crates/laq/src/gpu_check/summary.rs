//! The summary, with which README.md starts.

use std::fmt::Write as _;

use super::concurrency::{LstmVariant, Throughput, throughput_summary, variant_summary};
use super::pytorch::Answers;
use super::{COMPARED_STEPS, LOSS_TOLERANCE, Timed};

/// The results of all sections.
#[derive(Debug)]
pub(super) struct Findings {
    /// The device.
    pub(super) name: String,
    /// The machine and the program.
    pub(super) made: String,
    /// Passed and total comparisons of the conformance suite.
    pub(super) conformance: Option<(usize, usize)>,
    pub(super) compared: Vec<Compared>,
    pub(super) timed: Vec<Timed>,
    /// The error is the reason why PyTorch was not timed.
    pub(super) pytorch: Result<Answers, String>,
    /// Of concurrent training.
    pub(super) throughputs: Vec<Throughput>,
    /// Of the LSTM's recurrence.
    pub(super) variants: Vec<LstmVariant>,
    /// Failed sections, with the reason.
    pub(super) failures: Vec<String>,
}

/// A comparison of losses between device and CPU.
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

/// The network whose quantization is reported: the one with the most weights.
const SOLVED: &str = "cifar10";

impl Findings {
    /// No results yet.
    pub(super) fn new(name: String, made: String) -> Self {
        Findings {
            name,
            made,
            conformance: None,
            compared: Vec::new(),
            timed: Vec::new(),
            pytorch: Err("not yet run".to_owned()),
            throughputs: Vec::new(),
            variants: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Whether all sections ran and all comparisons passed.
    pub(super) fn good(&self) -> bool {
        self.failures.is_empty()
            && self.conformance.is_none_or(|(passed, all)| passed == all)
            && self.compared.iter().all(Compared::is_good)
    }

    /// Renders the summary.
    pub(super) fn page(&self) -> String {
        let mut text = format!(
            "# {}\n\n{}\n\n| check | result |\n|---|---|\n",
            self.name, self.made
        );
        let conformance = match self.conformance {
            Some((passed, all)) => format!("{passed} of {all} comparisons passed"),
            None => "not yet measured".to_owned(),
        };
        let version = match &self.pytorch {
            Ok(answers) => answers.version.clone().unwrap_or_default(),
            Err(why) => format!("not timed: {}", why.replace('|', "/")),
        };
        for (check, result) in [
            ("conformance", conformance),
            ("losses against the CPU", self.losses()),
            ("PyTorch", version),
            ("LSTM recurrence", variant_summary(&self.variants)),
            ("concurrent training", throughput_summary(&self.throughputs)),
        ] {
            let _ = writeln!(text, "| {check} | {result} |");
        }
        if !self.good() {
            text.push_str("\n**Some checks failed.**\n\n");
            for failure in &self.failures {
                let _ = writeln!(text, "- {failure}");
            }
        }
        self.steps(&mut text);
        self.solving(&mut text);
        text
    }

    fn losses(&self) -> String {
        // `total_cmp` puts NaN above all numbers.
        let worst = (self.compared.iter()).max_by(|a, b| a.difference.total_cmp(&b.difference));
        let Some(worst) = worst else {
            return "not yet measured".to_owned();
        };
        format!(
            "largest relative difference {:.1e} ({}, {}; tolerance {LOSS_TOLERANCE:.0e}) over {} networks and methods, \
             {COMPARED_STEPS} steps each",
            worst.difference,
            worst.network,
            worst.method,
            self.compared.len()
        )
    }

    fn steps(&self, text: &mut String) {
        text.push_str(
            "\n## Training steps\n\nMilliseconds per step. laq: the median of repetitions of 20 steps (of one step above 30 ms). \
             Ratio: laq's time over PyTorch's best variant for the same method.\n\n",
        );
        text.push_str("| network | method | laq | quantization | PyTorch best | ratio |\n|---|---|---|---|---|---|\n");
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
                "| {} | {} | {:.3} | {:.3} | {best} | {ratio} |",
                step.network,
                step.method,
                1e3 * step.seconds,
                1e3 * step.quantize_seconds
            );
        }
    }

    fn solving(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n## Quantization\n\nOf all weights of {SOLVED}, by the clock of the device within a step. GB/s: of \
             one read of w and v.\n\n| method | weights | ms | GB/s |\n|---|---|---|---|\n"
        );
        for step in &self.timed {
            if step.network != SOLVED || step.weights == 0 {
                continue;
            }
            let milliseconds = 1e3 * step.quantize_seconds;
            let bytes = (step.weights * 2 * size_of::<f32>()) as f64;
            let _ = writeln!(
                text,
                "| {} | {} | {milliseconds:.3} | {:.1} |",
                step.method,
                step.weights,
                1e-9 * bytes / step.quantize_seconds
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

    fn findings() -> Findings {
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
            ..Findings::new("a device".into(), "Made here.".into())
        }
    }

    #[test]
    fn ratios_are_to_the_best_variant() {
        let page = findings().page();
        for line in [
            "| conformance | 9 of 9 comparisons passed |",
            "| char-lstm | full | 2.000 | 0.400 | 2.200 (eager) | 0.91 |",
            "| mnist | full | 0.300 | 0.400 | 0.500 (eager) | 0.60 |",
            "| cifar10 | full | 1.000 | 0.400 |  |  |",
            "| cifar10 | laq-log-3 | 9.000 | 0.400 |  |  |",
            "| lat-e | 14000000 | 0.400 | 280.0 |",
            "| laq-log-3 | 14000000 | 0.400 | 280.0 |",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line}: {page}");
        }
    }

    #[test]
    fn failures_are_reported() {
        let mut findings = findings();
        assert!(findings.good());
        findings.compared.push(Compared {
            network: "cifar10",
            method: "lat-a",
            difference: f64::NAN,
        });
        assert!(!findings.good());
        let page = findings.page();
        assert!(page.contains("Some checks failed"), "{page}");
        assert!(page.contains("largest relative difference NaN (cifar10, lat-a;"));
        findings.compared.clear();
        findings.conformance = Some((8, 9));
        assert!(!findings.good());
    }
}
