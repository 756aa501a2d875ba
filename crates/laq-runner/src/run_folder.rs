//! The folder of one run, held by one process at a time.
//!
//! | file | content |
//! |---|---|
//! | `config.toml` | the resolved experiment |
//! | `environment.json` | [`crate::environment::Environment`] |
//! | `metrics.jsonl` | one [`EpochRecord`] a line |
//! | `comparison.jsonl` | one [`ComparisonRecord`] a line, where the experiment asks for comparisons |
//! | `events.out.tfevents.laq` | TensorBoard events, one an epoch, with `log.tensorboard` |
//! | `summary.json` | [`Summary`] |
//! | `last.safetensors`, `best.safetensors` | [`crate::checkpoint`]s: the newest, and that of the best epoch |
//! | `packed.safetensors` | with `checkpoint.keep = "packed"`, once finished: the network of the best epoch, instead of both |
//! | `lock`, `running.json` | held while the run is trained; see [`crate::running`] |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::RunError;
use crate::config::Experiment;
use crate::environment::Environment;
use crate::files::{FileError, write_atomically};
use crate::record::{ComparisonRecord, EpochRecord, Summary};
use crate::running::{Holder, Position, has_no_locks, read_running};
use crate::tensorboard;

pub(crate) const BEST: &str = "best.safetensors";
const METRICS: &str = "metrics.jsonl";
const COMPARISON: &str = "comparison.jsonl";

/// The newest checkpoint of the run in `folder`.
#[must_use]
pub fn last_checkpoint(folder: &Path) -> PathBuf {
    folder.join("last.safetensors")
}

/// The checkpoint of the best epoch of the run in `folder`.
#[must_use]
pub fn best_checkpoint(folder: &Path) -> PathBuf {
    folder.join(BEST)
}

/// The packed network of the finished run in `folder`, instead of its checkpoints.
#[must_use]
pub fn packed_network(folder: &Path) -> PathBuf {
    folder.join("packed.safetensors")
}

/// The summary of the run in `folder`, if there is one that can be read.
#[must_use]
pub fn read_summary(folder: &Path) -> Option<Summary> {
    serde_json::from_slice(&fs::read(folder.join("summary.json")).ok()?).ok()
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
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
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
        let path = folder.join("lock");
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
    /// A folder that cannot be made or that another process holds.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(path).map_err(FileError::on("make the run folder", path))?;
        let lock = Lock::take(path)?;
        Ok(Self {
            path: path.into(),
            holder: Holder::take(path, lock.is_some())?,
            _lock: lock,
        })
    }

    /// Says every few seconds how far the run is.
    ///
    /// # Errors
    ///
    /// [`RunError::Locked`] if another process has taken the folder meanwhile.
    pub(crate) fn beat(&mut self, position: Position) -> Result<(), RunError> {
        self.holder.beat(position)
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint to go on from: the newest, or, where that was deleted, the best epoch's.
    #[must_use]
    pub fn checkpoint_to_resume(&self) -> Option<PathBuf> {
        [last_checkpoint(&self.path), best_checkpoint(&self.path)]
            .into_iter()
            .find(|path| path.exists())
    }

    /// The first existing file that a new run would replace.
    pub(crate) fn file_of_a_run(&self) -> Option<PathBuf> {
        let names = [
            "config.toml",
            METRICS,
            COMPARISON,
            tensorboard::FILE,
            "summary.json",
        ];
        names
            .map(|name| self.path.join(name))
            .into_iter()
            .find(|path| path.exists())
    }

    pub(crate) fn write_config(&self, experiment: &Experiment) -> Result<(), RunError> {
        let text =
            toml::to_string(experiment).map_err(|error| RunError::Internal(error.to_string()))?;
        Ok(write_atomically(
            &self.path.join("config.toml"),
            text.as_bytes(),
        )?)
    }

    pub(crate) fn write_environment(&self, environment: &Environment) -> Result<(), RunError> {
        Ok(write_json(
            &self.path.join("environment.json"),
            environment,
        )?)
    }

    pub(crate) fn write_summary(&self, summary: &Summary) -> Result<(), RunError> {
        Ok(write_json(&self.path.join("summary.json"), summary)?)
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
    /// TensorBoard events from the remaining metrics if `with_events`, or if there are any.
    pub(crate) fn cut_records(
        &self,
        epochs: u32,
        steps: u64,
        with_events: bool,
    ) -> Result<(), RunError> {
        self.cut(METRICS, |record: EpochRecord| record.epoch <= epochs)?;
        let events = self.path.join(tensorboard::FILE);
        if with_events || events.exists() {
            write_atomically(&events, &tensorboard::file(&read_epochs(&self.path)))?;
        }
        self.cut(COMPARISON, |record: ComparisonRecord| record.step <= steps)
    }

    fn cut<Record: DeserializeOwned>(
        &self,
        name: &str,
        keep: impl Fn(Record) -> bool,
    ) -> Result<(), RunError> {
        let path = self.path.join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(FileError::on("read", &path)(error).into()),
        };
        let kept: String = text
            .lines()
            .filter(|line| serde_json::from_str(line).is_ok_and(&keep))
            .flat_map(|line| [line, "\n"])
            .collect();
        if kept != text {
            write_atomically(&path, kept.as_bytes())?;
        }
        Ok(())
    }
}
