//! The training loop: the same bits however a run is stopped and on however many threads, and what
//! it leaves behind.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod epochs;
mod failures;
mod files;
mod numbers;
mod resume;
mod start;

use std::fs;
use std::path::{Path, PathBuf};

use common::{TestDir, at, bits, run_bits};
use laq_datasets::Split;
use laq_runner::RunError;
use laq_runner::checkpoint::Checkpoint;
use laq_runner::config::{Experiment, key, load, parse};
use laq_runner::device::DeviceOptions;
use laq_runner::estimate::estimate;
use laq_runner::evaluate::{Source, evaluate};
use laq_runner::record::{ComparisonRecord, Status, Summary};
use laq_runner::run_folder::{RunFolder, check_summary, read_epochs, read_summary};
use laq_runner::train::Event;

/// Methods whose state goes from step to step in different ways: none, levels, trained scales, two
/// scales.
const METHODS: [&str; 8] = [
    "full",
    "binary-connect",
    "lat-a",
    "ttq",
    "lat2-a",
    "laq-log-3",
    "q2_0",
    "nvfp4",
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
