//! `cargo xtask ci` with a cargo that does nothing, and with one that fails.
#![cfg(unix)]

use std::process::{Command, Output};

fn ci(cargo: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let Output { status, stderr, .. } = command
        .arg("ci")
        .env("CARGO", cargo)
        .output()
        .expect("xtask starts");
    (status.code(), String::from_utf8(stderr).expect("UTF-8"))
}

#[test]
fn every_step_is_run() {
    let (code, err) = ci("true");
    assert_eq!(code, Some(0));
    for step in [
        "cargo fmt --all --check",
        "cargo clippy --workspace --all-targets --all-features -- -D warnings",
        "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --all-features",
        "cargo test --workspace",
        "cargo bench --workspace --no-run",
        "cargo xtask reproduce table2 --preset demo",
    ] {
        assert!(
            err.lines().any(|line| line.ends_with(step)),
            "no step {step:?} in:\n{err}"
        );
    }
}

#[test]
fn the_first_failure_ends_it() {
    let (code, err) = ci("false");
    assert_eq!(code, Some(1));
    assert!(err.contains("failed: cargo fmt --all --check"), "{err}");
    assert!(!err.contains("clippy"), "{err}");
}
