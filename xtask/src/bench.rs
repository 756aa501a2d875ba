//! `cargo xtask bench`: solvers compared in one run, and training steps of several methods, interleaved.
//!
//! Cargo builds and runs the timed programs, which are in the package `laq-benches` and in an example of `laq-models`. They
//! print seconds; this module makes tables of them.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Exact solvers, sorting and alternation on the same weights, in one run
    Solvers(SolverOptions),
    /// Training steps of several methods, interleaved
    Step(StepOptions),
}

#[derive(Args)]
pub(crate) struct SolverOptions {
    /// Numbers of weights; k is 2^10 and M is 2^20 [default: 1k,16k,256k,1M,4M,16M]
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = count)]
    sizes: Vec<usize>,
    /// Exact methods, each compared with sorting and alternation on its codebook
    #[arg(long, value_delimiter = ',', value_name = "METHOD,…", default_values = METHODS)]
    methods: Vec<String>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', value_name = "N,…", default_value = "1,2", value_parser = up_to(1024))]
    threads: Vec<u32>,
    /// Rounds; every solver runs in each [default: 7]
    #[arg(long, value_name = "N", value_parser = up_to(10_000))]
    rounds: Option<u32>,
    /// Small sizes and few rounds, unless they are given: a trial run
    #[arg(long)]
    quick: bool,
    /// A Python with torch: also compare lat-e with PyTorch, at 4M and ten million weights
    #[arg(long, value_name = "PYTHON", conflicts_with = "json")]
    pytorch: Option<PathBuf>,
    /// Print a line of JSON for each timing instead of the table
    #[arg(long)]
    json: bool,
    /// Write solvers.csv and solvers.md there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct StepOptions {
    /// Networks
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NETWORK,…",
        default_value = "char-lstm,mnist"
    )]
    networks: Vec<Network>,
    /// Methods; the others are compared with the first
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "METHOD,…",
        default_value = "lat-a,lat-e"
    )]
    methods: Vec<String>,
    /// Threads [default: every core]
    #[arg(long, value_name = "N", value_parser = up_to(1024))]
    threads: Option<u32>,
    /// Rounds; every method takes a step in each
    #[arg(long, value_name = "N", default_value = "15", value_parser = up_to(10_000))]
    rounds: u32,
}

const METHODS: [&str; 7] = [
    "lat-e",
    "lat2-e",
    "laq-linear-3-e",
    "laq-linear-4-e",
    "laq-log-3-e",
    "laq-log-4-e",
    "laq-linear-8-e",
];

const SIZES: [usize; 6] = [1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22, 1 << 24];

/// The largest problem: weights, curvature and the memory of sorting are about ten gigabytes.
const MOST_WEIGHTS: usize = 1 << 28;

/// Sizes and rounds of a quick run.
const QUICK: (&[usize], u32) = (&[1 << 10, 1 << 16], 3);

/// Untimed rounds of steps: the alternating solvers need some for their warm starts.
const WARM_UP: u32 = 3;

#[derive(Clone, Copy, ValueEnum)]
enum Network {
    /// The paper's character LSTM: 512 cells, 87 symbols, 100 steps, batch 100
    CharLstm,
    /// The paper's MLP: 784–2048–2048–2048–10, ten million weights, batch 100
    Mnist,
    /// The paper's network for CIFAR-10, batch 50
    Cifar10,
}

impl Network {
    /// Its name for [`STEPS`].
    fn name(self) -> &'static str {
        match self {
            Network::CharLstm => "char-lstm",
            Network::Mnist => "mnist",
            Network::Cifar10 => "cifar10",
        }
    }
}

/// The program that takes steps.
const STEPS: [&str; 4] = ["--package", "laq-models", "--example", "step_server"];

/// The command.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Solvers(options) => solvers(options)?,
        Bench::Step(options) => step(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A number from 1 to `most`.
fn up_to(most: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=most)
}

/// "64k", "16M" or a plain number.
fn count(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'M']) {
        Some(digits) if text.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (text, 1),
    };
    let number = digits.parse::<usize>().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .filter(|&number| (1..=MOST_WEIGHTS).contains(&number))
        .ok_or_else(|| "expected a number of weights such as 1000, 64k or 16M, up to 256M".into())
}

/// A timing of `solver_table`, which prints an array for each size and number of threads.
#[derive(Clone, Deserialize, Serialize)]
struct Timed {
    weights: usize,
    threads: usize,
    method: String,
    solver: String,
    rounds: usize,
    median_seconds: f64,
    min_seconds: f64,
    turns: Option<u32>,
    weighted_error: Option<f64>,
}

/// A line of the table.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    timed: Timed,
    /// Median over that of the exact solver of the method.
    over_exact: Option<f64>,
    /// Median over that of one read of the data.
    over_read: Option<f64>,
    /// Weighted error above that of the exact solver, in percent of it.
    excess_percent: Option<f64>,
}

/// The rows of one size and number of threads, with their ratios.
fn compared(section: &[Timed]) -> Vec<Row> {
    let find = |method: &str, solver: &str| {
        let mut section = section.iter();
        section.find(|timed| (timed.method.as_str(), timed.solver.as_str()) == (method, solver))
    };
    let row = |timed: &Timed| {
        let exact = find(&timed.method, "exact");
        let over = |other: &Timed| timed.median_seconds / other.median_seconds;
        let errors = timed
            .weighted_error
            .zip(exact.and_then(|exact| exact.weighted_error));
        Row {
            timed: timed.clone(),
            over_exact: exact.map(over),
            over_read: find("", "read").map(over),
            excess_percent: errors
                .filter(|&(_, exact)| exact > 0.0)
                .map(|(error, exact)| 100.0 * (error / exact - 1.0)),
        }
    };
    section.iter().map(row).collect()
}

fn solvers(options: &SolverOptions) -> Result<()> {
    let (sizes, rounds) = if options.quick {
        QUICK
    } else {
        (&SIZES[..], 7)
    };
    let sizes = if options.sizes.is_empty() {
        sizes
    } else {
        &options.sizes
    };
    let rounds = options.rounds.unwrap_or(rounds);
    let plan = json!({
        "sizes": sizes,
        "methods": options.methods,
        "threads": options.threads,
        "rounds": rounds,
    });
    // A folder that cannot be created fails here, before minutes of timing.
    let out = options.out.as_deref().map(crate::from_here).transpose()?;
    if let Some(out) = &out {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    }

    let program = ["--package", "laq-benches", "--bin", "solver_table"];
    build(&program)?;
    let mut child = cargo_run(&program)
        .arg(plan.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let printed = child.stdout.take().context("solver_table has no output")?;
    let mut rows = Vec::new();
    for line in BufReader::new(printed).lines() {
        let section: Vec<Timed> =
            serde_json::from_str(&line?).context("solver_table printed no figures")?;
        let section = compared(&section);
        if options.json {
            for row in &section {
                println!("{}", serde_json::to_string(row)?);
            }
        } else {
            println!("{}", section_text(&section));
        }
        rows.extend(section);
        // What has been timed is kept if the rest is interrupted.
        save(out.as_deref(), &rows, "")?;
    }
    ensure!(
        child.wait()?.success(),
        "solver_table failed; its message is above"
    );
    if let Some(python) = &options.pytorch {
        let pytorch = beside_pytorch(python, options, rounds)?;
        save(out.as_deref(), &rows, &pytorch)?;
    }
    if !options.json {
        println!("{TABLE_EXPLAINED}");
    }
    Ok(())
}

/// Runs the script for each number of threads and returns what it printed.
fn beside_pytorch(python: &Path, options: &SolverOptions, rounds: u32) -> Result<String> {
    // A name without a folder is looked up in the search path.
    let python = if python.components().count() > 1 {
        crate::from_here(python)?
    } else {
        python.into()
    };
    build(&["--package", "laq-benches", "--bin", "solver_server"])?;
    let mut all = String::new();
    for threads in &options.threads {
        let mut command = Command::new(&python);
        command
            .current_dir(crate::root())
            .arg("benches/pytorch/exact_ternary.py")
            .args(["--threads", &threads.to_string()])
            .args(["--rounds", &rounds.to_string()])
            .stderr(Stdio::inherit());
        if options.quick {
            command.args(["--sizes", "65536"]);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        ensure!(
            output.status.success(),
            "benches/pytorch/exact_ternary.py failed; its message is above"
        );
        all += &text;
    }
    Ok(all)
}

fn step(options: &StepOptions) -> Result<()> {
    let threads = match options.threads {
        Some(threads) => threads as usize,
        None => available_parallelism()?.get(),
    };
    let rounds = options.rounds;
    build(&STEPS)?;
    for network in &options.networks {
        let start = |method: &String| StepServer::start(*network, method, threads);
        let mut servers: Vec<StepServer> =
            options.methods.iter().map(start).collect::<Result<_>>()?;
        let mut steps = vec![Vec::new(); servers.len()];
        for round in 0..WARM_UP + rounds {
            for (server, steps) in servers.iter_mut().zip(&mut steps) {
                let step = server.step()?;
                if round >= WARM_UP {
                    steps.push(step);
                }
            }
        }
        for server in servers {
            server.end()?;
        }
        println!(
            "{}: {threads} threads, {rounds} rounds in turn, milliseconds\n",
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
        // If it has ended, the request fails or the answer is empty, and its message is on the terminal.
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

/// A table without lines, the columns `right` aligned to the right.
fn align(lines: &[Vec<String>], right: Range<usize>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .add_rows(lines);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// The median of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        0.5 * (values[middle - 1] + values[middle])
    }
}

/// Headings of the table, after those of sizes and threads where these are columns.
const HEADINGS: [&str; 10] = [
    "method",
    "solver",
    "median",
    "min",
    "rounds",
    "ns/weight",
    "/exact",
    "/read",
    "turns",
    "excess %",
];

const TABLE_EXPLAINED: &str = "\
Seconds of one call: median and minimum over the rounds, in each of which every solver took part; one round
where a call takes over a second. `/exact` and `/read`: the median by that of the exact solver of the method,
and by that of one read of weights and curvature. `turns`: rounds of an alternating solver, of at most 10.
`excess %`: how far its weighted error is above the exact one.";

/// The fields under [`HEADINGS`].
fn fields(row: &Row) -> Vec<String> {
    let Row {
        timed,
        over_exact,
        over_read,
        excess_percent,
    } = row;
    let solver = match timed.solver.as_str() {
        "read" => "read w and d",
        "check" => "check of the input",
        "sorting" => "by sorting",
        "cold" => "alternating, cold",
        "warm" => "alternating, warm",
        other => other,
    };
    let ratio = |ratio: &Option<f64>| ratio.map(three_digits).unwrap_or_default();
    vec![
        timed.method.clone(),
        solver.into(),
        duration(timed.median_seconds),
        duration(timed.min_seconds),
        timed.rounds.to_string(),
        three_digits(1e9 * timed.median_seconds / timed.weights as f64),
        ratio(over_exact),
        ratio(over_read),
        timed
            .turns
            .map(|turns| turns.to_string())
            .unwrap_or_default(),
        timed
            .turns
            .and(*excess_percent)
            // Zero has no sign, whatever the last bits of the errors are.
            .map(|percent| format!("{:.4}", (1e4 * percent).round() / 1e4 + 0.0))
            .unwrap_or_default(),
    ]
}

/// Such as `12.7 µs`.
fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (1e6 * s, "µs"),
        s if s < 1.0 => (1e3 * s, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A positive number with three significant digits, without an exponent.
fn three_digits(value: f64) -> String {
    let before = value.log10().floor().clamp(-6.0, 2.0);
    format!("{value:.0$}", (2.0 - before) as usize)
}

/// One size and number of threads on the terminal.
fn section_text(rows: &[Row]) -> String {
    let Some(Row { timed, .. }) = rows.first() else {
        return String::new();
    };
    let mut lines = vec![HEADINGS.map(String::from).to_vec()];
    lines.extend(rows.iter().map(fields));
    format!(
        "{} weights, threads: {}\n\n{}",
        timed.weights,
        timed.threads,
        align(&lines, 2..HEADINGS.len())
    )
}

/// Writes the files to the folder, if there is one.
fn save(out: Option<&Path>, rows: &[Row], pytorch: &str) -> Result<()> {
    let Some(out) = out else {
        return Ok(());
    };
    for (name, text) in [
        ("solvers.csv", csv(rows)),
        ("solvers.md", markdown(rows, pytorch)),
    ] {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A line for each row, in full precision. No field needs quotes.
fn csv(rows: &[Row]) -> String {
    let mut text = "weights,threads,method,solver,rounds,median_seconds,min_seconds,over_exact,over_read,turns,\
                    weighted_error,excess_percent\n"
        .to_string();
    let or_empty = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for row in rows {
        let timed = &row.timed;
        let fields = [
            timed.weights.to_string(),
            timed.threads.to_string(),
            timed.method.clone(),
            timed.solver.clone(),
            timed.rounds.to_string(),
            timed.median_seconds.to_string(),
            timed.min_seconds.to_string(),
            or_empty(row.over_exact),
            or_empty(row.over_read),
            timed
                .turns
                .map(|turns| turns.to_string())
                .unwrap_or_default(),
            or_empty(timed.weighted_error),
            or_empty(row.excess_percent),
        ];
        text += &(fields.join(",") + "\n");
    }
    text
}

/// Provenance, and all rows in one table.
fn markdown(rows: &[Row], pytorch: &str) -> String {
    let mut text = format!(
        "# Solvers of the quantization problem\n\n{}\n\nMachine: {}. Commit `{}`.\n\n```\n{}\n```\n\n",
        TABLE_EXPLAINED,
        cpu(),
        commit(),
        crate::command_line()
    );
    let line = |fields: Vec<String>| format!("| {} |\n", fields.join(" | "));
    let headings = ["weights", "threads"].iter().chain(&HEADINGS);
    text += &line(headings.map(|heading| (*heading).to_string()).collect());
    text += &format!(
        "|---:|---:|---|---|{}\n",
        "---:|".repeat(HEADINGS.len() - 2)
    );
    for row in rows {
        let mut all = vec![row.timed.weights.to_string(), row.timed.threads.to_string()];
        all.extend(fields(row));
        text += &line(all);
    }
    if !pytorch.is_empty() {
        text += &format!("\nExact ternary and PyTorch:\n\n```\n{pytorch}```\n");
    }
    text
}

/// The processor's name, on Linux.
fn cpu() -> String {
    let known = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = known.lines().find(|line| line.starts_with("model name"));
    name.and_then(|line| line.split_once(':'))
        .map_or("unknown processor".into(), |(_, name)| name.trim().into())
}

/// The commit of the working tree, marked if there are uncommitted changes.
fn commit() -> String {
    let output = Command::new("git")
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .current_dir(crate::root())
        .stderr(Stdio::null())
        .output();
    output
        .ok()
        .filter(|output| output.status.success())
        .map_or("unknown".into(), |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        })
}

/// Builds a program, with cargo's messages on the terminal.
fn build(program: &[&str]) -> Result<()> {
    let status = cargo()
        .args(["build", "--release"])
        .args(program)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "`cargo build --release {}` failed; its messages are above",
            program.join(" ")
        );
    }
    Ok(())
}

/// Runs a program that is built, with the arguments that follow and the input and output of this command.
fn cargo_run(program: &[&str]) -> Command {
    let mut command = cargo();
    command
        .args(["run", "--quiet", "--release"])
        .args(program)
        .arg("--");
    command
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units() {
        for (text, expected) in [
            ("1000", Some(1000)),
            ("64k", Some(65_536)),
            ("16M", Some(16_777_216)),
            ("256M", Some(MOST_WEIGHTS)),
            ("257M", None),
            ("0", None),
            ("1.5M", None),
            ("M", None),
            ("-1", None),
            ("99999999999999M", None),
        ] {
            assert_eq!(count(text).ok(), expected, "{text}");
        }
    }

    fn timed(method: &str, solver: &str, seconds: f64, error: Option<f64>) -> Timed {
        Timed {
            weights: 1000,
            threads: 1,
            method: method.into(),
            solver: solver.into(),
            rounds: 3,
            median_seconds: seconds,
            min_seconds: 0.5 * seconds,
            turns: (solver == "warm").then_some(4),
            weighted_error: error,
        }
    }

    #[test]
    fn ratios_are_of_the_same_method() {
        let rows = compared(&[
            timed("", "read", 1e-6, None),
            timed("lat-e", "exact", 4e-6, Some(2.0)),
            timed("lat-e", "sorting", 2e-5, Some(2.0)),
            timed("lat2-e", "exact", 1e-3, Some(1.0)),
            timed("lat2-e", "warm", 5e-4, Some(1.5)),
        ]);
        let shown: Vec<String> = rows.iter().map(|row| fields(row).join("|")).collect();
        assert_eq!(
            shown,
            [
                "|read w and d|1.00 µs|0.500 µs|3|1.00||1.00||",
                "lat-e|exact|4.00 µs|2.00 µs|3|4.00|1.00|4.00||",
                "lat-e|by sorting|20.0 µs|10.0 µs|3|20.0|5.00|20.0||",
                "lat2-e|exact|1.00 ms|500 µs|3|1000|1.00|1000||",
                "lat2-e|alternating, warm|500 µs|250 µs|3|500|0.500|500|4|50.0000",
            ]
        );
        let csv = csv(&rows);
        assert!(
            csv.contains("\n1000,1,lat2-e,warm,3,0.0005,0.00025,0.5,")
                && csv.ends_with(",4,1.5,50\n"),
            "{csv}"
        );
        let fields = |line: &str| line.split(',').count();
        assert!(csv.lines().all(|line| fields(line) == 12), "{csv}");
    }

    #[test]
    fn figures_keep_three_digits() {
        for (value, expected) in [
            (0.000_123_4, "0.000123"),
            (0.27, "0.270"),
            (9.876, "9.88"),
            (99.99, "100.0"),
            (1234.5, "1234"),
        ] {
            assert_eq!(three_digits(value), expected);
        }
        assert_eq!(duration(16.689), "16.7 s");
    }

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
