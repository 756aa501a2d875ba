//! The commands of Slurm.

use std::collections::BTreeSet;
use std::process::Command;

use crate::LabError;

/// Submits a job, and returns the answer.
pub(super) fn sbatch(words: &[String]) -> Result<String, LabError> {
    run("sbatch", ["--parsable".to_owned()].iter().chain(words))
}

/// The number of the job in an answer of [`sbatch`]: its last line, on a federation with the cluster
/// behind a semicolon. A site may print other lines before it.
pub(super) fn number(answer: &str) -> Result<u64, LabError> {
    let number = |line: &str| line.trim().split(';').next()?.parse().ok();
    answer.lines().rev().find_map(number).ok_or_else(|| {
        LabError::Launch(format!(
            "sbatch answered {:?}, expected the number of a job; `squeue --me` shows whether it is in the queue",
            answer.trim()
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
    let mut command = Command::new(program);
    command.args(words);
    // Ctrl-C is for this program, which then cancels the jobs.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let output = command.output().map_err(|error| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_job_is_found_behind_other_lines() {
        for answer in ["12\n", "12;cluster\n", "Welcome to the cluster\n12\n"] {
            assert_eq!(number(answer).expect("a number"), 12);
        }
        assert!(number("Submitted\n").is_err());
    }
}
