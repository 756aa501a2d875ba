//! A short run of `cargo xtask torture`, and proofs that it finds faults.
#![cfg(unix)]

#[path = "../../../xtask/src/torture/mod.rs"]
mod torture;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::cargo::cargo_bin;
use laq_test_support::{Capability, skip};
use tempfile::TempDir;

use torture::{Options, Outcome};

fn attack(laq: &Path, kinds: &[&str], cases: u64) -> Vec<Outcome> {
    let dir = TempDir::new().expect("a temporary folder");
    let options = Options {
        minutes: 0.0,
        cases: Some(cases),
        seed: Some(1),
        only: kinds.iter().map(|kind| kind.to_string()).collect(),
        case: None,
        out: None,
        dir: Some(dir.path().into()),
        laq: Some(laq.into()),
    };
    let outcomes = torture::run(&options, || unreachable!("it is built")).expect("attacks");
    for outcome in &outcomes {
        if let Some(missing) = &outcome.missing {
            let capability = match outcome.kind {
                "calls" => Capability::Strace,
                "disks" => Capability::Mount,
                kind => panic!("{kind}: {missing}"),
            };
            skip(capability, missing);
        }
    }
    outcomes
}

#[test]
fn the_program_withstands_attacks() {
    for outcome in attack(cargo_bin!("laq"), &torture::names(), 3) {
        assert_eq!(outcome.findings, 0, "{}: printed above", outcome.kind);
    }
}

/// A program with a fault: `script` before or instead of `laq`, whose path is `$laq`.
fn faulty(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("laq");
    let laq = cargo_bin!("laq").display();
    let text = format!("#!/bin/sh\nlaq='{laq}'\n{script}\nexec \"$laq\" \"$@\"\n");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

#[test]
fn faults_are_found() {
    let folder = TempDir::new().expect("a temporary folder");
    for (kinds, cases, fault) in [
        // A run that is resumed loses an epoch.
        (
            &["kills", "bits"][..],
            9,
            "if [ -s run/metrics.jsonl ]; then sed -i 1d run/metrics.jsonl; fi",
        ),
        // The old file is gone before the new one is complete.
        (
            &["calls", "disks"],
            9,
            "if [ $1 = quantize ]; then : >out.safetensors; fi",
        ),
        (
            &["crowds"],
            2,
            "if [ $1 = train ]; then mkdir -p run; : >run/last.laq.tmp; fi",
        ),
        (
            &["damage"],
            9,
            "\"$laq\" \"$@\" || exec echo 'thread main panicked at x' >&2",
        ),
        (
            &["damage", "configurations"],
            9,
            "\"$laq\" \"$@\" || kill -SEGV $$",
        ),
        // An error without a word.
        (
            &["damage", "configurations"],
            9,
            "exec \"$laq\" \"$@\" 2>/dev/null",
        ),
        // Another content.
        (
            &["downloads"],
            1,
            "mkdir -p data/linux-kernel; echo x >data/linux-kernel/linux_input.txt; echo error: none >&2; exit 1",
        ),
        // Another figure after damage.
        (
            &["damage"],
            9,
            "if [ $1 = eval ]; then echo \"{\\\"loss\\\": $$}\"; exit 0; fi",
        ),
    ] {
        let laq = faulty(folder.path(), fault);
        for outcome in attack(&laq, kinds, cases) {
            let is_skipped = outcome.missing.is_some();
            assert!(
                is_skipped || outcome.findings > 0,
                "{}: {fault}",
                outcome.kind
            );
        }
    }
}
