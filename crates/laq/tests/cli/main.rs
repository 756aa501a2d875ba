//! The `laq` binary: its output, exit codes and errors.

#[path = "../../../laq-runner/tests/common/mod.rs"]
mod common;

mod checkpoints;
mod commands;
mod device;
mod errors;
mod packed;
mod run_folder;
mod signals;

use std::fs;
use std::io::Read;
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use common::{TestDir, run_bits};
use laq_packed::PackedFile;
use laq_runner::checkpoint::Checkpoint;
use laq_runner::config::{key, load};
use laq_runner::record::Status;
use laq_runner::run_folder::{RunFolder, read_summary};
use laq_runner::train::Event;
use laq_tensor::CpuBackend;
use laq_tensor::cpu::Isa;
use laq_test_support::lines_of;
use serde_json::Value;

fn laq(dir: &TestDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin!("laq"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
        .current_dir(dir.folder.path())
        .args(arguments)
        .output()
        .expect("laq runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Runs a command that succeeds, and returns its standard output.
fn run(dir: &TestDir, arguments: &[&str]) -> String {
    let output = laq(dir, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        stderr(&output)
    );
    stdout(&output)
}

/// Asserts that a command fails with exit code 1 and a one-line error that contains all of
/// `expected`.
fn assert_fails(dir: &TestDir, arguments: &[&str], expected: &[&str]) {
    assert_fails_with(1, dir, arguments, expected);
}

/// [`assert_fails`] with another exit code.
fn assert_fails_with(code: i32, dir: &TestDir, arguments: &[&str], expected: &[&str]) {
    let output = laq(dir, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    let message = message
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_else(|| panic!("{message}"));
    for part in expected {
        assert!(
            message.contains(part),
            "{arguments:?}: {part:?} is not in {message:?}"
        );
    }
    assert!(!stderr(&output).contains("panicked"), "{message}");
}

fn json(dir: &TestDir, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(dir, arguments)).expect("JSON")
}

/// The bytes of the last checkpoint of the run `tiny`.
fn last_checkpoint(dir: &TestDir) -> Vec<u8> {
    fs::read(dir.path("runs/tiny/last.safetensors")).expect("read")
}
