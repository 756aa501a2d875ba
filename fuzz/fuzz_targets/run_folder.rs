//! Run folders: the content of their files, separated by zero bytes. `laq status` and `laq report` read what can be read.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use laq_lab::report::runs::page_of_runs;
use laq_lab::status::Status;
use laq_runner::run_folder::{read_comparisons, read_epochs, read_summary};
use laq_runner::running::read_running;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(folder.path().join("slurm/1")).expect("a folder");
    folder
});

const FILES: [&str; 6] = [
    "metrics.jsonl",
    "summary.json",
    "running.json",
    "comparison.jsonl",
    "cells.json",
    "slurm/1/submission.json",
];

fuzz_target!(|input: &[u8]| {
    let folder = FOLDER.path();
    let mut contents = input.split(|byte| *byte == 0);
    for name in FILES {
        let content = contents.next().unwrap_or_default();
        fs::write(folder.join(name), content).expect("the temporary folder is writable");
    }
    let lines = input.split(|byte| *byte == b'\n').count() + FILES.len();
    assert!(read_epochs(folder).len() <= lines && read_comparisons(folder).len() <= lines);
    if let Some((running, age)) = read_running(folder) {
        assert!(!running.name().is_empty());
        let _ = running.is_current(age);
    }
    match Status::of(folder) {
        Ok(status) => assert!(!status.render().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match page_of_runs(&[folder.into()]) {
        Ok(page) => assert!(page.ends_with("</html>")),
        Err(_) => assert!(read_summary(folder).is_none() || !read_epochs(folder).is_empty()),
    }
});
