//! `run.sh` of `cargo xtask gpu-kit`, with a `laq` that writes down its arguments.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const LAQ: &str = r#"#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
case $1 in
gpu-check) echo "no GPU"; exit 1 ;;
reproduce) for out; do :; done; mkdir -p "$out/cell"; echo 1 >"$out/cell/packed.safetensors"; echo 2 >"$out/cell/metrics.jsonl" ;;
esac
"#;

/// A kit with run folders to go on with.
fn kit() -> TempDir {
    let kit = TempDir::new().expect("a temporary folder");
    let program = |name: &str, text: &str| {
        let path = kit.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    };
    program("run.sh", include_str!("../src/gpu_kit/run.sh"));
    program("laq", LAQ);
    fs::create_dir_all(kit.path().join("runs/table1/paper/before")).expect("a folder");
    fs::write(
        kit.path().join("runs/table1/paper/before/summary.json"),
        "{}",
    )
    .expect("written");
    kit
}

fn run(kit: &Path, arguments: &str) -> Output {
    Command::new(kit.join("run.sh"))
        .args(arguments.split(' '))
        .current_dir(kit)
        .output()
        .expect("a shell")
}

#[test]
fn every_section_runs_and_a_failed_one_stops_no_other() {
    let kit = kit();
    let output = run(kit.path(), "6000 --device cpu --jobs 3 --out found");
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| fs::read_to_string(kit.path().join(name)).expect(name);
    let calls = read("calls");
    let calls: Vec<&str> = calls.lines().collect();
    let begins = [
        "doctor",
        "download mnist war-and-peace",
        "gpu-check --device cpu",
        "reproduce table1",
        "reproduce table2",
    ];
    assert_eq!(calls.len(), begins.len(), "{calls:?}");
    for (call, begin) in calls.iter().zip(begins) {
        assert!(call.starts_with(begin), "{call}");
    }
    // Half of the time, then what is left of 80 and of 95 percent; all take less than two seconds.
    let minutes = |call: &str| -> f64 {
        let words: Vec<&str> = call.split(' ').collect();
        let place = words.iter().position(|word| *word == "--minutes");
        words[place.expect("--minutes") + 1]
            .parse()
            .expect("a number")
    };
    for (call, expected) in calls[2..].iter().zip([50.0, 80.0, 95.0]) {
        assert!((minutes(call) - expected).abs() < 0.5, "{call}");
    }
    for call in &calls[3..] {
        assert!(
            call.contains("--preset paper") && call.contains("--jobs 3 "),
            "{call}"
        );
        assert!(call.contains("--keep packed"), "{call}");
    }
    let times = read("found/times.txt");
    assert!(
        times.contains("gpu-check: ") && times.contains("exit code 1"),
        "{times}"
    );
    assert_eq!(times.matches("exit code 0").count(), 4, "{times}");
    assert_eq!(read("found/runs/table1/paper/before/summary.json"), "{}");
    let listed = |name: &str| {
        let tar = Command::new("tar")
            .arg("tf")
            .arg(kit.path().join("found").join(name))
            .output();
        String::from_utf8(tar.expect("tar").stdout).expect("UTF-8")
    };
    let figures = listed("figures.tar.gz");
    for file in [
        "times.txt",
        "table2.txt",
        "cell/metrics.jsonl",
        "before/summary.json",
    ] {
        assert!(figures.contains(file), "{figures}");
    }
    assert!(!figures.contains("safetensors"), "{figures}");
    assert_eq!(listed("networks.tar").lines().count(), 2);
}

#[test]
fn what_has_no_time_left_is_named() {
    let kit = kit();
    assert!(run(kit.path(), "0").status.success());
    let times = fs::read_to_string(kit.path().join("out/times.txt")).expect("times");
    assert_eq!(
        times.matches("left out, the time is over").count(),
        5,
        "{times}"
    );
    assert!(!kit.path().join("calls").exists());
}

#[test]
fn wrong_arguments_are_errors() {
    let kit = kit();
    for (arguments, expected) in [
        ("soon", "expected a number of seconds"),
        ("--device cpu", "expected the number of seconds"),
        ("60 --jobs", "--jobs needs a value"),
    ] {
        let output = run(kit.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(expected), "{message}");
    }
}
