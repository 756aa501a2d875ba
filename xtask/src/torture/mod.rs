//! `cargo xtask torture`: attacks on `laq`, drawn at random and repeatable.
//!
//! A kind of attack, a row of [`KINDS`], draws a case from a seed and a number, runs `laq` in a folder of its own, and compares
//! what it did with what nothing has disturbed. The kinds take turns, so that each has the same share of the time.

mod bits;
mod calls;
mod case;
mod configurations;
mod crowds;
mod damage;
mod disks;
mod downloads;
mod figures;
mod kills;
mod memory;
mod process;
mod random;
mod samples;
mod work;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};

use self::case::{Case, Counts, References};
use self::random::Random;

/// A kind of attack.
struct Kind {
    name: &'static str,
    /// What the machine lacks for it.
    missing: fn() -> Option<String>,
    run: fn(&Case<'_>) -> Result<()>,
}

const fn kind(
    name: &'static str,
    missing: fn() -> Option<String>,
    run: fn(&Case<'_>) -> Result<()>,
) -> Kind {
    Kind { name, missing, run }
}

const NOTHING: fn() -> Option<String> = || None;

const KINDS: &[Kind] = &[
    kind("kills", NOTHING, kills::run),
    kind("calls", calls::missing, calls::run),
    kind("disks", disks::missing, disks::run),
    kind("crowds", NOTHING, crowds::run),
    kind("damage", NOTHING, damage::run),
    kind("downloads", NOTHING, downloads::run),
    kind("configurations", NOTHING, configurations::run),
    kind("memory", NOTHING, memory::run),
    kind("bits", NOTHING, bits::run),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The time; every kind has at least one case
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Instead of a time, the number of cases of each kind
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    pub(crate) cases: Option<u64>,
    /// What all cases are drawn from [default: the time of day]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Only these kinds, separated by commas
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_parser = names())]
    pub(crate) only: Vec<String>,
    /// One case, with --only and --seed
    #[arg(long, value_name = "N", requires = "only", requires = "seed", conflicts_with_all = ["minutes", "cases"])]
    pub(crate) case: Option<u64>,
    /// Also write the table to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The folder of the cases [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The program to attack [default: a fresh release build]
    #[arg(long, value_name = "FILE")]
    pub(crate) laq: Option<PathBuf>,
}

/// The names of all kinds.
pub(crate) fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name).collect()
}

/// What has come of a kind.
pub(crate) struct Outcome {
    pub(crate) kind: &'static str,
    /// Why it was skipped.
    pub(crate) missing: Option<String>,
    pub(crate) findings: u64,
    cases: u64,
    counts: Counts,
    time: Duration,
}

impl Outcome {
    fn is_due(&self, options: &Options, started: Instant) -> bool {
        let is_due = match (options.case, options.cases) {
            (Some(_), _) => self.cases < 1,
            (_, Some(cases)) => self.cases < cases,
            _ => self.cases < 1 || started.elapsed().as_secs_f64() < 60.0 * options.minutes,
        };
        is_due && self.missing.is_none()
    }

    /// The row of the table.
    fn row(&self) -> String {
        let Self {
            kind,
            findings,
            cases,
            ..
        } = self;
        if let Some(missing) = &self.missing {
            return format!("| {kind} | skipped: {missing} | | | | |\n");
        }
        let (processes, kills) = (self.counts.processes.get(), self.counts.kills.get());
        let seconds = self.time.as_secs();
        format!("| {kind} | {cases} | {processes} | {kills} | {findings} | {seconds} |\n")
    }
}

/// Attacks the program of the options, or else what `build` has built. Prints findings and a table.
pub(crate) fn run(
    options: &Options,
    build: impl FnOnce() -> Result<PathBuf>,
) -> Result<Vec<Outcome>> {
    let program = options
        .laq
        .iter()
        .map(|laq| format!(" --laq {}", laq.display()));
    let program: String = program.collect();
    let laq = options.laq.clone().map_or_else(build, Ok)?;
    let laq = laq.canonicalize().context("no program to attack")?;
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    let seed = options.seed.unwrap_or(now.as_secs());
    let dir = options.dir.clone().unwrap_or_else(env::temp_dir);
    let folder = tempfile::Builder::new()
        .prefix("laq-torture-")
        .tempdir_in(&dir)?
        .keep()
        .canonicalize()?;
    let references = References::in_folder(folder.join("references"));
    eprintln!(
        "{} with --seed {seed} in {}",
        laq.display(),
        folder.display()
    );
    let is_chosen =
        |kind: &&Kind| options.only.is_empty() || options.only.iter().any(|name| name == kind.name);
    let kinds: Vec<&Kind> = KINDS.iter().filter(is_chosen).collect();
    let outcome = |kind: &&Kind| Outcome {
        kind: kind.name,
        missing: (kind.missing)(),
        findings: 0,
        cases: 0,
        counts: Counts::default(),
        time: Duration::ZERO,
    };
    let mut outcomes: Vec<Outcome> = kinds.iter().map(outcome).collect();
    let started = Instant::now();
    while let Some((outcome, kind)) = (outcomes.iter_mut().zip(&kinds))
        .filter(|(outcome, _)| outcome.is_due(options, started))
        .min_by_key(|(outcome, _)| outcome.time)
    {
        let (name, begun) = (kind.name, Instant::now());
        let number = options.case.unwrap_or(outcome.cases);
        let case = Case {
            laq: &laq,
            folder: folder.join(format!("{name}-{number}")),
            random: Random::of(seed, name, number),
            counts: &outcome.counts,
            references: &references,
        };
        fs::create_dir_all(&case.folder)?;
        let done = (kind.run)(&case);
        if let Err(error) = &done {
            println!("finding: {name}, seed {seed}, case {number}\n{error:#}");
            println!("files: {}", case.folder.display());
            let again = format!("--only {name} --seed {seed} --case {number}{program}");
            println!("repeat: cargo xtask torture {again}\n");
            outcome.findings += 1;
        } else {
            fs::remove_dir_all(&case.folder)?;
        }
        outcome.time += begun.elapsed();
        outcome.cases += 1;
    }
    let head = "| kind | cases | processes | kills | findings | seconds |\n|---|---:|---:|---:|---:|---:|\n";
    let table = head.to_string() + &outcomes.iter().map(Outcome::row).collect::<String>();
    print!("{table}");
    if let Some(out) = &options.out {
        case::write(
            out,
            format!("`cargo xtask torture --seed {seed}`\n\n{table}"),
        )?;
    }
    if outcomes.iter().all(|outcome| outcome.findings == 0) {
        fs::remove_dir_all(&folder)?;
    }
    Ok(outcomes)
}
