//! Configurations for tests, and a launcher that writes results instead of training.

// Each test file is a program of its own, and none uses everything here.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use laq_lab::LabError;
use laq_lab::configs::Configs;
use laq_lab::launcher::{Change, Job, Launcher, Stop};
use laq_lab::plan::Plan;
use laq_lab::table::{Selection, TableId};
use laq_runner::TRAINING_VERSION;
use laq_runner::checkpoint::Checkpoint;
use laq_runner::config::{Model, key};
use laq_runner::record::{ComparisonRecord, EpochRecord, LayerComparisonRecord, Status, Summary};
use laq_runner::run_state::{Progress, RunState};
use tempfile::TempDir;

/// The folder of configurations of this repository.
pub(crate) fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// A folder with runs, and configurations for them.
pub(crate) struct TestDir {
    pub(crate) folder: TempDir,
}

impl TestDir {
    /// The project's configurations, with the embedded data in every column.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        copy(&configs(), &folder.path().join("configs"));
        Self { folder }
    }

    /// Two rows on the embedded text, trained in a second.
    pub(crate) fn tiny() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let configs = folder.path().join("configs");
        let file = |name: &str, text: &str| write(&configs.join(name), text);
        file(
            "paper_tables.toml",
            "status = \"invented\"\n[table2]\ncaption = \"Test cross-entropy\"\ncolumns = [\"text\"]\n\
             rows = { full = [1.0], lat-e = [2.0], lat-a = [2.0] }",
        );
        file(
            "table2/base.toml",
            "model = { kind = \"char-lstm\", hidden = 4 }\n\
             data = { name = \"demo\", length = 50, batch = 20 }\n\
             train = { epochs = 3, max_batches = 4, learning_rate = 0.02 }",
        );
        for row in ["full", "lat-e", "lat-a"] {
            let text = format!("extends = \"../base.toml\"\nquantize.method = \"{row}\"");
            file(&format!("table2/demo/{row}.toml"), &text);
            file(&format!("table2/text/{row}.toml"), &text);
        }
        file("table2/presets/demo.toml", "");
        file("table2/presets/paper.toml", "[train]\nepochs = 200");
        Self { folder }
    }

    pub(crate) fn configs(&self) -> Configs {
        Configs::at(self.folder.path().join("configs"))
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub(crate) fn plan(&self, table: TableId, preset: &str, rows: &str, columns: &str) -> Plan {
        self.seeds(table, preset, rows, columns, 1)
    }

    pub(crate) fn seeds(
        &self,
        table: TableId,
        preset: &str,
        rows: &str,
        columns: &str,
        seeds: u32,
    ) -> Plan {
        let list = |text: &str| text.split_whitespace().map(String::from).collect();
        let selection = Selection {
            table,
            preset: preset.into(),
            rows: list(rows),
            columns: list(columns),
            seeds,
            out: Some(self.out()),
        };
        Plan::new(self.configs(), &selection).expect("a plan")
    }

    pub(crate) fn file(&self, extension: &str) -> String {
        let mut files = fs::read_dir(self.out().join("report")).expect("the reports");
        let path = files.find_map(|file| {
            let path = file.expect("a file").path();
            path.extension()
                .is_some_and(|found| found == extension)
                .then_some(path)
        });
        fs::read_to_string(path.expect("the report")).expect("text")
    }
}

/// Copies a folder of configurations, and replaces the data of its columns by those embedded in the
/// program.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        let demo = if from.ends_with("table1") {
            "demo-digits"
        } else {
            "demo"
        };
        let lines = text.lines().map(|line| match line.starts_with("name = ") {
            true => format!("name = {demo:?}\n"),
            false => format!("{line}\n"),
        });
        fs::write(target, lines.collect::<String>()).expect("a file");
    }
}

/// Writes invented results. Rows can be made to fail or to be interrupted.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) fails: &'static str,
    /// Ends with a message and without a summary.
    pub(crate) crashes: &'static str,
    pub(crate) is_interrupted: &'static str,
    /// The jobs that were launched: row, seed, and steps between comparisons.
    pub(crate) launched: Mutex<Vec<(String, u64, u64)>>,
}

impl Fake {
    /// The rows that were launched since the last call.
    pub(crate) fn rows(&self) -> Vec<String> {
        let launched = std::mem::take(&mut *self.launched.lock().expect("the jobs"));
        launched.into_iter().map(|(row, ..)| row).collect()
    }

    fn train(&self, job: &Job) -> Option<String> {
        let experiment = &job.experiment;
        let row = experiment.quantize.method.clone();
        let (seed, every) = (experiment.train.seed, experiment.comparison.every);
        self.launched
            .lock()
            .expect("the jobs")
            .push((row.clone(), seed, every));
        if row == self.crashes {
            return Some("the process ended with signal 9".into());
        }
        let (status, epochs_done, reason) = if row == self.fails {
            let file = job.folder.join("metrics.jsonl");
            let reason = format!(
                "the loss is NaN in <lstm>, not a | number; see {}",
                file.display()
            );
            (Status::Failed, 1, Some(reason))
        } else if row == self.is_interrupted {
            (Status::Interrupted, 1, None)
        } else {
            (Status::Finished, experiment.train.epochs, None)
        };
        let loss = loss(&row) + 0.02 * (seed - 1) as f64;
        let is_images = matches!(experiment.model, Model::Feedforward(_));
        // In percent: four times the loss minus four.
        let error = |loss: f64| is_images.then_some(4.0 * (loss - 1.0));
        let stand_in = job.folder.to_string_lossy().contains("linux-6.1");
        let summary = Summary {
            status,
            reason,
            key: key(experiment),
            title: format!("<b>{row} & co</b>"),
            method: row.clone(),
            data: experiment.data.name.clone(),
            stand_in: stand_in.then(|| "stands in for linux-kernel".into()),
            epochs: experiment.train.epochs,
            epochs_done,
            best_epoch: Some(epochs_done),
            train_loss: Some(loss - 0.1),
            validation_loss: Some(loss + 0.01),
            test_loss: Some(loss),
            validation_error: error(loss + 0.01),
            test_error: error(loss),
            seconds: 30.5,
            seconds_per_step: 0.25,
            quantize_share: 0.02,
            steps: 100,
            commit: "abc123".into(),
            cpu: "Fake CPU".into(),
            threads: 2,
            kernel: "portable".into(),
            peak_memory_bytes: Some(104_857_600),
            ..Summary::default()
        };
        let lines = |records: Vec<String>| records.join("\n") + "\n";
        let epochs = (1..=epochs_done.min(12)).map(|epoch| {
            let loss = loss + 1.0 / f64::from(epoch);
            let record = EpochRecord {
                epoch,
                train_loss: 1.0,
                validation_loss: loss,
                validation_error: error(loss),
                ..EpochRecord::default()
            };
            serde_json::to_string(&record).expect("JSON")
        });
        write(&job.folder.join("metrics.jsonl"), &lines(epochs.collect()));
        checkpoint(job, &summary)
            .write(&job.folder.join("last.safetensors"))
            .expect("a checkpoint");
        if every > 0 {
            // 0.1 %, 10 %, none and 1 % above the optimum; the last line is incomplete.
            let ratios = [Some(1.001), Some(1.1), None, Some(1.01)];
            let comparisons = ratios.iter().zip(1..).map(|(&ratio, step)| {
                let layer = |name: &str, ratio| LayerComparisonRecord {
                    name: name.into(),
                    ratio,
                    ..LayerComparisonRecord::default()
                };
                let record = ComparisonRecord {
                    step: step * every,
                    ratio,
                    layers: vec![layer("<w>", ratio), layer("v", Some(1.02))],
                    ..ComparisonRecord::default()
                };
                serde_json::to_string(&record).expect("JSON")
            });
            let text = lines(comparisons.collect()) + "{\"step\": 99, \"rat";
            write(&job.folder.join("comparison.jsonl"), &text);
        }
        let summary = serde_json::to_string(&summary).expect("JSON");
        write(&job.folder.join("summary.json"), &summary);
        None
    }
}

impl Launcher for Fake {
    fn launch(
        &self,
        jobs: &[Job],
        stop: &Stop,
        report: &mut (dyn FnMut(Change) + Send),
    ) -> Result<(), LabError> {
        for (index, job) in jobs.iter().enumerate() {
            if stop.is_set() {
                break;
            }
            report(Change::Started(index));
            report(Change::Ended(index, self.train(job)));
        }
        Ok(())
    }
}

/// The last checkpoint of a run with this summary, without tensors.
fn checkpoint(job: &Job, summary: &Summary) -> Checkpoint {
    let progress = Progress {
        epoch: summary.epochs_done + 1,
        best: summary.best(),
        ..Progress::at_the_beginning()
    };
    let run = RunState {
        key: summary.key.clone(),
        training_version: TRAINING_VERSION,
        experiment: job.experiment.clone(),
        alphabet: Vec::new(),
        data_sha256: String::new(),
        kernel: summary.kernel.clone(),
        start: None,
        earlier_plans: Vec::new(),
        progress,
    };
    Checkpoint {
        run,
        network: Vec::new(),
    }
}

fn loss(row: &str) -> f64 {
    match row {
        "binary-connect" => 2.9,
        "bwn" => 1.31,
        "lab" => 1.305,
        "twn" => 1.35,
        "lat-e" => 1.29,
        "ttq" => 1.28,
        "lat2-e" => 1.285,
        "lat2-a" => 1.27,
        "dorefa-3" => 1.4,
        "full" | "dorefa-4" => 1.3,
        "laq-linear-3" => 1.2,
        "laq-linear-3-e" => 1.22,
        "laq-log-3" => 1.25,
        "laq-log-3-e" => 1.245,
        _ => 1.295,
    }
}
