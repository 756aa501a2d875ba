//! The commands of Slurm.

use std::collections::BTreeSet;
use std::process::Command;

use crate::LabError;

/// Submits a job, and returns its number.
pub(super) fn sbatch(words: &[String]) -> Result<u64, LabError> {
    let out = run("sbatch", ["--parsable".to_owned()].iter().chain(words))?;
    // The number, and on a federation the cluster behind a semicolon.
    let number = out.trim().split(';').next().unwrap_or_default();
    number.parse().map_err(|_| {
        LabError::Launch(format!(
            "sbatch answered {:?}, expected the number of a job",
            out.trim()
        ))
    })
}

/// Array and index of this user's tasks in the queue.
pub(super) fn tasks() -> Result<Vec<(u64, usize)>, LabError> {
    let words = ["--me", "--noheader", "--array", "--format=%F %K"];
    let out = run("squeue", words.map(String::from).iter())?;
    let task = |line: &str| {
        let (array, index) = line.trim().split_once(' ')?;
        Some((array.parse().ok()?, index.trim().parse().ok()?))
    };
    Ok(out.lines().filter_map(task).collect())
}

/// This user's jobs in the queue; an array counts as one.
pub(super) fn jobs() -> Result<BTreeSet<u64>, LabError> {
    let words = ["--me", "--noheader", "--format=%F"];
    let out = run("squeue", words.map(String::from).iter())?;
    Ok(out
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect())
}

/// Cancels jobs.
pub(super) fn scancel(jobs: &[u64]) -> Result<(), LabError> {
    let words: Vec<String> = jobs.iter().map(u64::to_string).collect();
    run("scancel", words.iter()).map(|_| ())
}

fn run<'a>(program: &str, words: impl Iterator<Item = &'a String>) -> Result<String, LabError> {
    let output = Command::new(program).args(words).output().map_err(|error| {
        LabError::Launch(format!(
            "cannot start {program} ({error}): --launcher slurm needs the commands of Slurm, as a login node has them"
        ))
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Launch(format!(
        "{program} ended with {}: {}",
        output.status,
        message.trim()
    )))
}
