//! `cargo xtask ci` with a cargo that does nothing, and with one that fails.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs it for a workspace at `root`.
fn ci(cargo: &str, root: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let Output { status, stderr, .. } = command
        .arg("ci")
        .env("CARGO", cargo)
        .env("CARGO_MANIFEST_DIR", root.join("xtask"))
        .output()
        .expect("xtask starts");
    (status.code(), String::from_utf8(stderr).expect("UTF-8"))
}

#[test]
fn every_step_is_run() {
    let root = TempDir::new().expect("a temporary folder");
    let left = root.path().join("target/ci/table2");
    fs::create_dir_all(left.join("demo/full-seed1-0")).expect("a cell of an earlier check");
    let (code, err) = ci("true", root.path());
    assert_eq!(code, Some(0));
    assert!(!left.exists(), "the demo would train nothing");
    let steps: Vec<&str> = err.lines().filter(|line| line.starts_with('[')).collect();
    let last = format!("[{0}/{0}] ", steps.len());
    assert!(
        steps.last().is_some_and(|step| step.starts_with(&last)),
        "{err}"
    );
}

#[test]
fn the_first_failure_ends_it() {
    let root = TempDir::new().expect("a temporary folder");
    let (code, err) = ci("false", root.path());
    assert_eq!(code, Some(1));
    assert!(err.contains("failed: cargo fmt --all --check"), "{err}");
    assert!(!err.contains("clippy"), "{err}");
}
