//! Training steps of several methods, interleaved.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Network, STEPS, StepOptions, WARM_UP, align, build, cargo_run, median, threads};

pub(super) fn step(options: &StepOptions) -> Result<()> {
    let threads = threads(options.threads)?;
    let repetitions = options.repetitions;
    build(&STEPS)?;
    for network in &options.networks {
        let start = |method: &String| StepServer::start(*network, method, threads);
        let mut servers: Vec<StepServer> =
            options.methods.iter().map(start).collect::<Result<_>>()?;
        let mut steps = vec![Vec::new(); servers.len()];
        for repetition in 0..WARM_UP + repetitions {
            for (server, steps) in servers.iter_mut().zip(&mut steps) {
                let step = server.step()?;
                if repetition >= WARM_UP {
                    steps.push(step);
                }
            }
        }
        for server in servers {
            server.end()?;
        }
        println!(
            "{}: {threads} threads, {repetitions} repetitions in turn, milliseconds\n",
            network.name()
        );
        println!("{}", steps_text(&options.methods, &steps));
    }
    println!("{STEPS_EXPLAINED}");
    Ok(())
}

/// A program that takes a training step of one method for each line of its input.
struct StepServer {
    method: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Seconds of a training step.
#[derive(Clone, Copy)]
struct Step {
    total: f64,
    quantize: f64,
}

impl StepServer {
    fn start(network: Network, method: &str, threads: usize) -> Result<Self> {
        let mut child = cargo_run(&STEPS)
            .args([method, &threads.to_string(), network.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start cargo")?;
        Ok(Self {
            method: method.into(),
            input: child.stdin.take().context("no standard input")?,
            output: BufReader::new(child.stdout.take().context("no standard output")?),
            child,
        })
    }

    fn step(&mut self) -> Result<Step> {
        let mut line = String::new();
        // If it has ended, the request fails or the answer is empty, and its message is on the
        // terminal.
        let asked = self
            .input
            .write_all(b"\n")
            .and_then(|()| self.input.flush());
        if asked.is_ok() {
            self.output.read_line(&mut line)?;
        }
        Step::parse(&line).with_context(|| {
            format!(
                "the training of {} answered {:?}, expected seconds; its message is above",
                self.method,
                line.trim()
            )
        })
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        ensure!(
            self.child.wait()?.success(),
            "the training of {} failed at its end",
            self.method
        );
        Ok(())
    }
}

impl Step {
    /// Such as `0.5 0.01`: total and quantization.
    fn parse(line: &str) -> Option<Self> {
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        match *numbers.ok()?.as_slice() {
            [total, quantize] => Some(Self { total, quantize }),
            _ => None,
        }
    }
}

const STEPS_EXPLAINED: &str = "\
quantize: solving for the quantized weights, and their gradient; rest: everything else, over all methods.
of the first: median step by that of the first method. same rest: (rest + quantize) of both instead, which
leaves out how the rest happened to differ from step to step.";

/// A line for each method.
fn steps_text(methods: &[String], steps: &[Vec<Step>]) -> String {
    let median_of =
        |steps: &[Step], part: fn(&Step) -> f64| median(steps.iter().map(part).collect());
    let rest = median_of(&steps.concat(), |step| step.total - step.quantize);
    let first = &steps[0];
    let total = |steps: &[Step]| median_of(steps, |step| step.total);
    let with_rest = |steps: &[Step]| rest + median_of(steps, |step| step.quantize);
    let heading = [
        "method",
        "step",
        "min",
        "quantize",
        "rest",
        "of the first",
        "same rest",
    ];
    let mut lines = vec![heading.map(String::from).to_vec()];
    for (method, steps) in methods.iter().zip(steps) {
        let milliseconds = |seconds: f64| format!("{:.2}", 1e3 * seconds);
        let min = steps
            .iter()
            .map(|step| step.total)
            .fold(f64::INFINITY, f64::min);
        lines.push(vec![
            method.clone(),
            milliseconds(total(steps)),
            milliseconds(min),
            milliseconds(median_of(steps, |step| step.quantize)),
            milliseconds(rest),
            format!("{:.3}", total(steps) / total(first)),
            format!("{:.3}", with_rest(steps) / with_rest(first)),
        ]);
    }
    align(&lines, 1..heading.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_compared_with_the_first() {
        let step = |line: &str| Step::parse(line).expect("a step");
        assert!(Step::parse("").is_none() && Step::parse("0.1 x").is_none());
        let methods = ["lat-a", "lat-e"].map(String::from);
        // The rests are 90, 90 and 96, 96 milliseconds, their median 93.
        let steps = [
            vec![step("0.100 0.010"), step("0.100 0.010")],
            vec![step("0.126 0.030"), step("0.116 0.020")],
        ];
        let text = steps_text(&methods, &steps);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                [
                    "lat-a", "100.00", "100.00", "10.00", "93.00", "1.000", "1.000"
                ],
                [
                    "lat-e", "121.00", "116.00", "25.00", "93.00", "1.210", "1.146"
                ],
            ]
        );
    }
}
