//! The folder of one run, held by one process at a time.
//!
//! | file | content |
//! |---|---|
//! | `config.toml` | the resolved experiment |
//! | `environment.json` | [`crate::environment::Environment`] |
//! | `metrics.jsonl` | one [`EpochRecord`] a line |
//! | `comparison.jsonl` | one [`ComparisonRecord`] a line, where the experiment asks for comparisons |
//! | `*.jsonl.damaged` | lines of these that could not be read when the run was resumed |
//! | `events.out.tfevents.laq` | TensorBoard events, one an epoch, with `log.tensorboard` |
//! | `summary.json` | [`Summary`] |
//! | `last.safetensors`, `best.safetensors` | [`crate::checkpoint`]s: the newest, and that of the best epoch |
//! | `packed.safetensors` | with `checkpoint.keep = "packed"`, once finished: the network of the best epoch, instead of both |
//! | `lock`, `running.json` | held while the run is trained; see [`crate::running`] |

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use laq_packed::PackedFile;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::checkpoint::{BEST, LAST};
use crate::config::{Data, Experiment, differences, parse};
use crate::environment::Environment;
use crate::files::{FileError, remove_abandoned, write_atomically};
use crate::packed::run_in;
use crate::record::{ComparisonRecord, EpochRecord, Summary};
use crate::run_state::RunState;
use crate::running::{Holder, Position, RUNNING, has_no_locks, read_running};
use crate::{RunError, TRAINING_VERSION, tensorboard};

const LOCK: &str = "lock";
const CONFIG: &str = "config.toml";
const ENVIRONMENT: &str = "environment.json";
const SUMMARY: &str = "summary.json";
const METRICS: &str = "metrics.jsonl";
const COMPARISON: &str = "comparison.jsonl";

/// The network of a run that has ended, instead of its checkpoints.
const PACKED: &str = "packed.safetensors";

/// Rejects an output that would replace a file of the run in its folder, also through a link.
///
/// # Errors
///
/// [`RunError::OutIsOfRun`].
pub fn check_out(out: &Path) -> Result<(), RunError> {
    let own = [
        BEST,
        LAST,
        PACKED,
        LOCK,
        CONFIG,
        ENVIRONMENT,
        SUMMARY,
        METRICS,
        COMPARISON,
        RUNNING,
    ];
    let target = out.canonicalize().unwrap_or(out.into());
    let folder = target.parent().unwrap_or(Path::new(""));
    let is_of_run = own
        .iter()
        .any(|name| target.file_name() == Some(name.as_ref()))
        && [CONFIG, ENVIRONMENT]
            .iter()
            .all(|name| folder.join(name).is_file());
    match is_of_run {
        true => Err(RunError::OutIsOfRun { out: out.into() }),
        false => Ok(()),
    }
}

/// The newest checkpoint of the run in `folder`.
#[must_use]
pub fn last_checkpoint(folder: &Path) -> PathBuf {
    folder.join(LAST)
}

/// The checkpoint of the best epoch of the run in `folder`.
#[must_use]
pub fn best_checkpoint(folder: &Path) -> PathBuf {
    folder.join(BEST)
}

/// The packed network of the finished run in `folder`, instead of its checkpoints.
#[must_use]
pub fn packed_network(folder: &Path) -> PathBuf {
    folder.join(PACKED)
}

/// The summary of the run in `folder`, if there is one that can be read.
#[must_use]
pub fn read_summary(folder: &Path) -> Option<Summary> {
    serde_json::from_slice(&fs::read(folder.join(SUMMARY)).ok()?).ok()
}

/// Compares the summary of a finished run with its weights, which are believed. Their headers alone are read.
///
/// # Errors
///
/// [`RunError::OtherSummary`] if they differ, and weights that cannot be read. A run whose weights were removed is
/// as its summary says.
pub fn check_summary(folder: &Path, summary: &Summary) -> Result<(), RunError> {
    let (last, packed) = (last_checkpoint(folder), packed_network(folder));
    let (weights, run, epochs) = if last.is_file() {
        let run = RunState::read(&last)?;
        let epochs = run.epochs_done();
        (last, run, epochs)
    } else if let Some(run) = packed_state(&packed)? {
        (packed, run, summary.epochs)
    } else {
        return Ok(());
    };
    let is_of_run = run.key == summary.key && epochs == summary.epochs;
    match is_of_run && run.progress.best == summary.best() {
        true => Ok(()),
        false => Err(RunError::OtherSummary {
            summary: folder.join(SUMMARY),
            weights,
        }),
    }
}

/// The state of the run in the header of its packed network; `None` if there is no such file.
pub(crate) fn packed_state(path: &Path) -> Result<Option<RunState>, RunError> {
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(run_in(&PackedFile::open(path)?)?))
}

/// An error if `best` in the file `path`, of the best epoch, does not belong to the run that `last` is the last
/// checkpoint of.
pub(crate) fn check_best(path: &Path, best: &RunState, last: &RunState) -> Result<(), RunError> {
    // It is written before the last checkpoint: after a crash it may be of a later epoch.
    let is_later = best.epochs_done() > last.epochs_done();
    if best.is_as(last) && (is_later || best.progress.best == last.progress.best) {
        return Ok(());
    }
    Err(RunError::OtherBest {
        path: path.into(),
        epoch: best.epochs_done(),
        is_of_run: best.is_as(last),
        expected: last.progress.best.map(|best| best.epoch),
    })
}

/// An error if a new run in `folder` would replace a file that is not of `experiment`. With `resume`, files of an
/// earlier start of it may be replaced.
pub(crate) fn check_new(
    folder: &Path,
    experiment: &Experiment,
    resume: bool,
) -> Result<(), RunError> {
    let names = [CONFIG, METRICS, COMPARISON, tensorboard::FILE, SUMMARY];
    let files = names.map(|name| folder.join(name));
    let Some(file) = files.into_iter().find(|path| path.exists()) else {
        return Ok(());
    };
    if !resume {
        return Err(RunError::HasFiles { file });
    }
    let config = folder.join(CONFIG);
    let unknown = |detail| RunError::UnknownFiles {
        file,
        config: config.clone(),
        detail,
    };
    let text = match fs::read_to_string(&config) {
        Ok(text) => text,
        Err(error) => return Err(unknown(error.to_string())),
    };
    let there = match parse(&text, "it") {
        Ok(there) => there,
        Err(error) => return Err(unknown(error.to_string())),
    };
    let mut differences = differences(experiment, &there);
    // Without a checkpoint nothing is known of the content.
    if experiment.data.path != there.data.path {
        let path = |data: &Data| json!(data.path).to_string();
        let (here, there) = (path(&experiment.data), path(&there.data));
        differences.push(format!("data.path: {here} here, {there} there"));
    }
    let version = read_summary(folder).map_or(0, |summary| summary.training_version);
    if ![0, TRAINING_VERSION].contains(&version) {
        differences.push(format!(
            "training version: {TRAINING_VERSION} here, {version} there"
        ));
    }
    match differences.is_empty() {
        true => Ok(()),
        false => Err(RunError::OtherExperiment {
            checkpoint: config,
            differences,
        }),
    }
}

/// An error if a file in `folder` has a name that a run uses, but is not of a run.
fn check_foreign(folder: &Path) -> Result<(), RunError> {
    for name in [LOCK, ENVIRONMENT, RUNNING] {
        let path = folder.join(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found.map_err(FileError::on("read", &path))?,
        };
        let found: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let is_ours = match name {
            ENVIRONMENT => found["laq"].is_string(),
            RUNNING => found["host"].is_string() && found["pid"].is_u64(),
            _ => bytes.is_empty(),
        };
        if !is_ours {
            return Err(RunError::Foreign { path });
        }
    }
    Ok(())
}

/// The process that trains the run in `folder`, in words; `None` if there is none.
#[must_use]
pub fn trained_by(folder: &Path) -> Option<String> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    let running = read_running(folder).filter(|(running, age)| running.is_current(*age));
    let running = running.map(|(running, _)| running);
    match lock.try_lock_shared() {
        Ok(()) => {
            let _ = lock.unlock();
            // Machines do not see each other's locks everywhere; one of this machine is free.
            let elsewhere = running.filter(|running| !running.is_here());
            elsewhere.map(|running| running.name())
        }
        Err(TryLockError::Error(_)) => running.map(|running| running.name()),
        Err(TryLockError::WouldBlock) => {
            Some(running.map_or("another process".into(), |running| running.name()))
        }
    }
}

/// The epochs of the run in `folder`. Lines that cannot be read are skipped: the last one may be
/// incomplete.
#[must_use]
pub fn read_epochs(folder: &Path) -> Vec<EpochRecord> {
    read_lines(&folder.join(METRICS))
}

/// The comparisons with the exact solver of the run in `folder`. Lines that cannot be read are
/// skipped.
#[must_use]
pub fn read_comparisons(folder: &Path) -> Vec<ComparisonRecord> {
    read_lines(&folder.join(COMPARISON))
}

/// Writes a JSON file atomically.
///
/// # Errors
///
/// Values that JSON does not have, and errors of the system.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| FileError::on("write", path)(error.into()))?;
    write_atomically(path, format!("{text}\n").as_bytes())
}

fn read_lines<Record: DeserializeOwned>(path: &Path) -> Vec<Record> {
    let bytes = fs::read(path).unwrap_or_default();
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

/// A run's folder; no other process holds it while this lives.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    // Removes its file before the lock is freed.
    holder: Holder,
    /// The system frees the lock when the process ends, however it ends; none on a file system without
    /// locks.
    _lock: Option<Lock>,
}

#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A child process that is being started may hold a copy of the descriptor, so closing the
        // file alone could leave the lock held. If this fails, the lock ends with the process.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// The system's lock on the folder, where the file system has locks.
    fn take(folder: &Path) -> Result<Option<Self>, RunError> {
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(FileError::on("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Err(RunError::Locked {
                folder: folder.into(),
                holder: read_running(folder).map(|(running, _)| running.name()),
            }),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(None),
            Err(TryLockError::Error(source)) => Err(FileError {
                action: "lock",
                path,
                source,
            }
            .into()),
        }
    }
}

impl RunFolder {
    /// Makes the folder if need be, and takes it.
    ///
    /// # Errors
    ///
    /// A folder that cannot be made, that another process holds, or that has files of others under the names of ours.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(path).map_err(FileError::on("make the run folder", path))?;
        check_foreign(path)?;
        let lock = Lock::take(path)?;
        let holder = Holder::take(path, lock.is_some())?;
        // Also of files that are not written again.
        remove_abandoned(path);
        Ok(Self {
            path: path.into(),
            holder,
            _lock: lock,
        })
    }

    /// Says every few seconds how far the run is; `None` before its data are loaded.
    ///
    /// # Errors
    ///
    /// [`RunError::Locked`] if another process has taken the folder meanwhile.
    pub(crate) fn beat(&mut self, position: Option<Position>) -> Result<(), RunError> {
        self.holder.beat(position)
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write_config(&self, experiment: &Experiment) -> Result<(), RunError> {
        let text =
            toml::to_string(experiment).map_err(|error| RunError::Internal(error.to_string()))?;
        Ok(write_atomically(&self.path.join(CONFIG), text.as_bytes())?)
    }

    pub(crate) fn write_environment(&self, environment: &Environment) -> Result<(), RunError> {
        Ok(write_json(&self.path.join(ENVIRONMENT), environment)?)
    }

    pub(crate) fn write_summary(&self, summary: &Summary) -> Result<(), RunError> {
        Ok(write_json(&self.path.join(SUMMARY), summary)?)
    }

    pub(crate) fn append_epoch(&self, record: &EpochRecord) -> Result<(), RunError> {
        self.append(METRICS, record)
    }

    pub(crate) fn append_comparison(&self, record: &ComparisonRecord) -> Result<(), RunError> {
        self.append(COMPARISON, record)
    }

    /// Appends the TensorBoard event of an epoch.
    pub(crate) fn append_event(&self, record: &EpochRecord) -> Result<(), RunError> {
        self.append_bytes(tensorboard::FILE, &tensorboard::event_record(record))
    }

    fn append(&self, name: &str, record: &impl Serialize) -> Result<(), RunError> {
        let mut line =
            serde_json::to_string(record).map_err(|error| RunError::Internal(error.to_string()))?;
        line.push('\n');
        self.append_bytes(name, line.as_bytes())
    }

    fn append_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let path = self.path.join(name);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_data()
            })
            .map_err(FileError::on("write", &path))?;
        Ok(())
    }

    /// Removes the metrics after `epochs` epochs, the comparisons after `steps` steps, and partial
    /// lines: a run that resumes from an older checkpoint writes them again. Rewrites the
    /// TensorBoard events from the remaining metrics if `with_events`, or if there are any. Returns
    /// what is defective; lines that cannot be read go into a file of their own.
    pub(crate) fn cut_records(
        &self,
        epochs: u32,
        steps: u64,
        with_events: bool,
    ) -> Result<Vec<String>, RunError> {
        let mut defects = Vec::new();
        defects.extend(self.cut(METRICS, |record: EpochRecord| record.epoch <= epochs)?);
        defects.extend(self.missing_epochs(epochs));
        let events = self.path.join(tensorboard::FILE);
        if with_events || events.exists() {
            write_atomically(&events, &tensorboard::file(&read_epochs(&self.path)))?;
        }
        defects.extend(self.cut(COMPARISON, |record: ComparisonRecord| record.step <= steps)?);
        Ok(defects)
    }

    /// Which of the first `epochs` epochs the metrics lack, in words.
    pub(crate) fn missing_epochs(&self, epochs: u32) -> Option<String> {
        let found: BTreeSet<u32> = (read_epochs(&self.path).iter())
            .map(|record| record.epoch)
            .collect();
        let missing: Vec<u32> = (1..=epochs)
            .filter(|epoch| !found.contains(epoch))
            .collect();
        let [first, others @ ..] = &missing[..] else {
            return None;
        };
        let path = self.path.join(METRICS);
        let epochs = match others.last() {
            None => format!("epoch {first}"),
            Some(last) if last - first == others.len() as u32 => {
                format!("epochs {first} to {last}")
            }
            Some(_) => {
                let names: Vec<String> = missing.iter().map(u32::to_string).collect();
                format!("epochs {}", names.join(", "))
            }
        };
        Some(format!(
            "{} lacks {epochs}, which the run has done: the lines were lost",
            path.display()
        ))
    }

    fn cut<Record: DeserializeOwned>(
        &self,
        name: &str,
        keep: impl Fn(Record) -> bool,
    ) -> Result<Option<String>, RunError> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::on("read", &path)(error).into()),
        };
        let (mut kept, mut unreadable) = (Vec::new(), Vec::new());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match line.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (line, false),
            };
            match serde_json::from_slice(text).map(&keep) {
                Ok(true) => kept.extend([text, b"\n"].concat()),
                Ok(false) => {}
                Err(_) if is_whole => unreadable.extend(line),
                // The run was killed while it wrote the line.
                Err(_) => {}
            }
        }
        let defect = match unreadable.is_empty() {
            true => None,
            false => {
                let damaged = format!("{name}.damaged");
                self.append_bytes(&damaged, &unreadable)?;
                let path = path.display();
                Some(format!(
                    "{path} has lines that cannot be read; they are in {damaged} now"
                ))
            }
        };
        if kept != bytes {
            write_atomically(&path, &kept)?;
        }
        Ok(defect)
    }
}
