//! `cargo xtask ci`: every check of the project. `.ci/run` prepares a machine and runs it.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

/// Arguments of cargo, and the environment variables of each step. The tests include the dependencies between the crates.
const STEPS: &[(&str, &[(&str, &str)])] = &[
    ("fmt --all --check", &[]),
    (
        "clippy --workspace --all-targets --all-features -- -D warnings",
        &[],
    ),
    // One by one: in a workspace another crate would enable the feature.
    (
        "check -p laq-datasets --no-default-features --all-targets",
        &[],
    ),
    (
        "check -p laq-solvers --no-default-features --all-targets",
        &[],
    ),
    ("check -p laq-cuda --no-default-features --all-targets", &[]),
    (
        "doc --workspace --no-deps --all-features",
        &[("RUSTDOCFLAGS", "-D warnings")],
    ),
    ("test --workspace", &[]),
    // Again, to print the registers and shared memory of the kernels, or why they are not compiled here.
    ("test --workspace --test compile -- --nocapture", &[]),
    ("bench --workspace --no-run", &[]),
    (
        "xtask reproduce table2 --preset demo --out target/ci/table2",
        &[],
    ),
    (
        "xtask reproduce table1 --preset demo --out target/ci/table1",
        &[],
    ),
];

/// The command: stops at the first step that fails.
pub(crate) fn run() -> Result<ExitCode> {
    let root = crate::root();
    // Finished cells are reused: those of an earlier check would prove nothing.
    let left = root.join("target/ci");
    if left.exists() {
        fs::remove_dir_all(&left).with_context(|| format!("cannot remove {}", left.display()))?;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (index, (step, variables)) in STEPS.iter().enumerate() {
        let shown: String = variables
            .iter()
            .map(|(name, value)| format!("{name}='{value}' "))
            .collect();
        eprintln!("\n[{}/{}] {shown}cargo {step}", index + 1, STEPS.len());
        let start = Instant::now();
        let status = Command::new(&cargo)
            .args(step.split(' '))
            .envs(variables.iter().copied())
            .current_dir(&root)
            .status()
            .context("cannot start cargo")?;
        if !status.success() {
            eprintln!("\nfailed: {shown}cargo {step} ({status})");
            return Ok(ExitCode::FAILURE);
        }
        eprintln!("ok, {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}
