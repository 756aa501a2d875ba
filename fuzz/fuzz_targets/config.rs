//! Experiments: layers separated by zero bytes, namely the file, `base.toml` that it may extend, an overlay, and values of
//! `--set`. What is accepted is the same after writing and reading it, and its sizes can be worked out.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use laq_runner::config::{key, load, parse};
use laq_runner::memory_needed;
use laq_runner::summary::summarize;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|input: &[u8]| {
    let mut layers = input.split(|byte| *byte == 0);
    let [file, _, overlay] = ["file.toml", "base.toml", "overlay.toml"].map(|name| -> PathBuf {
        let path = FOLDER.path().join(name);
        let content = layers.next().unwrap_or_default();
        fs::write(&path, content).expect("the temporary folder is writable");
        path
    });
    let sets: Vec<String> = layers
        .filter_map(|set| String::from_utf8(set.to_vec()).ok())
        .collect();
    let experiment = match load(&file, &[overlay], &sets) {
        Ok(experiment) => experiment,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let text = toml::to_string(&experiment).expect("plain values");
    let again = parse(&text, "it").expect("what was written");
    assert_eq!(again, experiment);
    assert_eq!(key(&again), key(&experiment));
    // A text is read for its alphabet; it may be any file of this machine.
    if experiment.data.path.is_none() {
        let _ = memory_needed(&experiment);
        let _ = summarize(&experiment);
    }
});
