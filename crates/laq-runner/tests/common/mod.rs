//! A tiny experiment and the folder that it lives in.

// Each test file is a program of its own, and none uses everything here.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use laq_models::StateTensor;
use laq_runner::RunError;
use laq_runner::checkpoint::Checkpoint;
use laq_runner::config::{Experiment, load};
use laq_runner::device::DeviceOptions;
use laq_runner::record::{EpochRecord, Summary};
use laq_runner::train::{Event, Options, train};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Lines of made-up text: 3,000 bytes and a little, with some structure to learn.
pub(crate) fn text() -> String {
    let words = [
        "tide", "wind", "rope", "sail", "fog", "bell", "stone", "gull",
    ];
    let mut state = 1_u32;
    let mut text = String::new();
    while text.len() < 3000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(words[(state >> 16) as usize % words.len()]);
        text.push(if state >> 30 == 0 { '\n' } else { ' ' });
    }
    text
}

/// For [`TestDir::train_until`]: stops after a step of an epoch.
pub(crate) fn at(epoch: u32, step: usize) -> impl FnMut(&Event<'_>) -> bool + Send {
    move |event| matches!(event, Event::Step { epoch: e, step: s, .. } if (*e, *s) == (epoch, step))
}

/// A temporary folder with `text.txt`.
pub(crate) struct TestDir {
    pub(crate) folder: TempDir,
}

impl TestDir {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("text.txt"), text()).expect("a temporary file");
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the file of a tiny network, 3 epochs of 5 steps of 4 sequences of 10 characters,
    /// overridden by `more`; returns its path.
    pub(crate) fn file(&self, method: &str, more: &str) -> PathBuf {
        let base = format!(
            "data = {{ name = \"file\", path = '{}', length = 10, batch = 4 }}\n\
             quantize.method = \"{method}\"\n\
             model.hidden = 6\n\
             train = {{ epochs = 3, max_batches = 5, learning_rate = 0.02 }}\n",
            self.path("text.txt").display()
        );
        let path = self.path("tiny.toml");
        fs::write(self.path("base.toml"), base).expect("a temporary file");
        fs::write(&path, format!("extends = \"base.toml\"\n{more}\n")).expect("a temporary file");
        path
    }

    pub(crate) fn experiment(&self, method: &str, more: &str) -> Experiment {
        load(&self.file(method, more), &[], &[]).expect("a good experiment")
    }

    /// A tiny network on the demo digits, 3 epochs of 5 steps of 16 images, overridden by `more`.
    pub(crate) fn digits(&self, method: &str, more: &str) -> Experiment {
        let base = format!(
            "model = {{ kind = \"feedforward\", filters = [3], convolutions = 1, units = [6] }}\n\
             data = {{ name = \"demo-digits\", batch = 16 }}\n\
             quantize.method = \"{method}\"\n\
             train = {{ epochs = 3, max_batches = 5 }}\n"
        );
        let path = self.path("digits.toml");
        fs::write(self.path("base.toml"), base).expect("a temporary file");
        fs::write(&path, format!("extends = \"base.toml\"\n{more}\n")).expect("a temporary file");
        load(&path, &[], &[]).expect("a good experiment")
    }

    /// Trains to the end in the run folder `name`, from its checkpoint if it has one.
    pub(crate) fn train(&self, experiment: &Experiment, name: &str) -> Result<Summary, RunError> {
        self.train_until(experiment, name, None, &mut |_| false)
    }

    /// As [`Self::train`], but stops when `stop` returns true.
    pub(crate) fn train_until(
        &self,
        experiment: &Experiment,
        name: &str,
        threads: Option<usize>,
        stop: &mut (dyn FnMut(&Event<'_>) -> bool + Send),
    ) -> Result<Summary, RunError> {
        let flag = AtomicBool::new(false);
        let options = Options {
            run_dir: self.path(name),
            resume: true,
            threads,
            device: DeviceOptions::CPU,
        };
        train(experiment, &options, &flag, &mut |event| {
            if stop(&event) {
                flag.store(true, Ordering::Relaxed);
            }
        })
    }

    /// The lines of the run's metrics.
    pub(crate) fn metrics(&self, name: &str) -> Vec<EpochRecord> {
        let text = fs::read_to_string(self.path(name).join("metrics.jsonl")).expect("metrics");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a record"))
            .collect()
    }
}

/// Everything of a checkpoint that must be the same bits: the tensors, and all progress but the
/// times.
pub(crate) fn bits(path: &Path) -> String {
    let checkpoint = Checkpoint::read(path).expect("a checkpoint");
    let progress = &checkpoint.run.progress;
    let best = progress.best.map(|best| {
        (
            best.epoch,
            [best.train_loss, best.validation_loss, best.test_loss].map(f64::to_bits),
            [best.validation_error, best.test_error].map(|error| error.map(f64::to_bits)),
        )
    });
    let digest = |tensor: &StateTensor| {
        // The printed digits of a float identify it.
        let digest = Sha256::digest(format!("{tensor:?}"));
        format!("{} {:x?}", tensor.name, &digest[..8])
    };
    let mut network: Vec<_> = checkpoint.network.iter().map(digest).collect();
    network.sort();
    format!(
        "{} {} {:x} {} {best:?}\n{}",
        progress.epoch,
        progress.step,
        progress.loss_sum.to_bits(),
        progress.times.steps,
        network.join("\n")
    )
}

/// Everything of a run folder that must be the same bits.
pub(crate) fn run_bits(dir: &TestDir, name: &str) -> String {
    let folder = dir.path(name);
    let metrics: Vec<_> = dir
        .metrics(name)
        .iter()
        .map(|record| {
            let losses = [
                record.train_loss,
                record.validation_loss,
                record.test_loss.unwrap_or(-1.0),
            ];
            format!(
                "{} {:?} {:?} {:?} {:?}\n",
                record.epoch,
                losses.map(f64::to_bits),
                record.validation_error,
                record.test_error,
                record.layers
            )
        })
        .collect();
    [
        bits(&folder.join("last.safetensors")),
        bits(&folder.join("best.safetensors")),
        metrics.concat(),
    ]
    .join("\n")
}
