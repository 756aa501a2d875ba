//! `running.json`: who trains the run of a folder, and how far it is.
//!
//! The system's lock on the file `lock` keeps out the processes of this machine, and is freed when a
//! process ends, however it ends. Some network file systems have no locks, others have them within one
//! machine only. Therefore the holder also writes its name here every few seconds: a machine that finds
//! another one's file waits until it is [`STALE`].

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::files::{clock_of, write_atomically};

pub(crate) const RUNNING: &str = "running.json";

/// The time between two writes.
const BEAT: Duration = Duration::from_secs(5);
/// After this time without a write the holder counts as gone.
pub const STALE: Duration = Duration::from_secs(300);
/// How long two machines that take a folder at the same time look which of them was the last to write.
const SETTLE: Duration = Duration::from_secs(2);

/// Who trains a run, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Running {
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// The job of a queue, such as `1234_5` of Slurm; null without a queue.
    pub job: Option<String>,
    /// When the process took the folder, in seconds since 1970.
    pub since: u64,
    /// How far the run is; null before its first step.
    pub position: Option<Position>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Of so many.
    pub epochs: u32,
    /// Steps done in the epoch.
    pub step: usize,
    /// Of so many.
    pub steps: usize,
    /// The mean loss of the epoch so far; null before its first step.
    pub loss: Option<f64>,
    /// Mean wall-clock seconds of a training step of this run; 0 before the first.
    pub seconds_per_step: f64,
    /// Seconds of training and evaluation that are left; null before there is an estimate.
    pub seconds_left: Option<f64>,
}

impl Running {
    /// This process.
    fn here() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            host: host(),
            pid: std::process::id(),
            job: job(),
            since: since.unwrap_or_default().as_secs(),
            position: None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.host, self.pid, self.since) == (&other.host, other.pid, other.since)
    }

    /// Whether the process still trains, as far as this machine can tell of a file of this age.
    #[must_use]
    pub fn is_current(&self, age: Duration) -> bool {
        age < STALE && (!self.is_here() || is_alive(self.pid))
    }

    /// Whether it is a process of this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.host == host()
    }

    /// Such as `process 12 on node3 (job 1234_5)`.
    #[must_use]
    pub fn name(&self) -> String {
        let job = self.job.as_ref().map(|job| format!(" (job {job})"));
        format!(
            "process {} on {}{}",
            self.pid,
            self.host,
            job.unwrap_or_default()
        )
    }
}

/// What a folder says of its run, and how old that is.
#[must_use]
pub fn read_running(folder: &Path) -> Option<(Running, Duration)> {
    read_running_at(folder, SystemTime::now())
}

fn read_running_at(folder: &Path, now: SystemTime) -> Option<(Running, Duration)> {
    let path = folder.join(RUNNING);
    let found = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let written = fs::metadata(&path).and_then(|data| data.modified()).ok()?;
    let age = now.duration_since(written);
    Some((found, age.unwrap_or_default()))
}

/// A held `running.json`: removed when dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    path: PathBuf,
    running: Running,
    /// The last write that succeeded.
    written: Instant,
    /// The last write that was tried.
    tried: Instant,
}

impl Holder {
    /// Takes the folder. With `locked`, this process has the system's lock, so that another process of
    /// this machine has ended.
    pub(crate) fn take(folder: &Path, locked: bool) -> Result<Self, RunError> {
        let mut holder = Self {
            path: folder.join(RUNNING),
            running: Running::here(),
            written: Instant::now(),
            tried: Instant::now(),
        };
        let now = clock_of(folder).unwrap_or_else(|_| SystemTime::now());
        let other = read_running_at(folder, now);
        if let Some((other, age)) = &other {
            let ended = locked && other.host == holder.running.host;
            if !ended && other.is_current(*age) {
                return Err(locked_by(folder, other));
            }
        }
        holder.write()?;
        let elsewhere = other.is_some_and(|(other, _)| other.host != holder.running.host);
        if elsewhere || !locked {
            // The last of several that replace the file wins.
            std::thread::sleep(SETTLE);
            holder.check()?;
        }
        Ok(holder)
    }

    /// Writes the position, which is `None` before the data are loaded, if it is the first, or the last attempt is some
    /// seconds ago. An error of the file system is one only when others may soon take the folder.
    pub(crate) fn beat(&mut self, position: Option<Position>) -> Result<(), RunError> {
        let is_first = position.is_some() && self.running.position.is_none();
        if !is_first && self.tried.elapsed() < BEAT {
            return Ok(());
        }
        self.running.position = position;
        self.tried = Instant::now();
        self.check()?;
        match self.write() {
            Err(error) if self.written.elapsed() > STALE / 2 => Err(error),
            _ => Ok(()),
        }
    }

    /// An error if another process has taken the folder, as after a suspension of minutes.
    fn check(&self) -> Result<(), RunError> {
        let folder = self.path.parent().unwrap_or(&self.path);
        match read_running(folder) {
            Some((other, _)) if !other.is_same(&self.running) => Err(locked_by(folder, &other)),
            _ => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), RunError> {
        let text = serde_json::to_string_pretty(&self.running)
            .map_err(|error| RunError::Internal(error.to_string()))?;
        write_atomically(&self.path, format!("{text}\n").as_bytes())?;
        self.written = Instant::now();
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.check().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the system's lock failed because the file system has none.
pub(crate) fn has_no_locks(error: &std::io::Error) -> bool {
    // NFS without a lock service.
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    error.kind() == ErrorKind::Unsupported
}

fn locked_by(folder: &Path, other: &Running) -> RunError {
    RunError::Locked {
        folder: folder.into(),
        holder: Some(other.name()),
    }
}

/// The name of this machine.
fn host() -> String {
    #[cfg(unix)]
    {
        let names = rustix::system::uname();
        names.nodename().to_string_lossy().into_owned()
    }
    #[cfg(not(unix))]
    {
        std::env::var("COMPUTERNAME").unwrap_or_default()
    }
}

/// The job of Slurm that this process belongs to.
fn job() -> Option<String> {
    let variable = |name| std::env::var(name).ok();
    let task = || {
        let array = variable("SLURM_ARRAY_JOB_ID")?;
        Some(format!("{array}_{}", variable("SLURM_ARRAY_TASK_ID")?))
    };
    task().or_else(|| variable("SLURM_JOB_ID"))
}

/// Whether a process of this machine exists; where that is unknown, it does.
fn is_alive(pid: u32) -> bool {
    #[cfg(unix)]
    {
        let pid = i32::try_from(pid).ok();
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else {
            return false;
        };
        rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
    }
    #[cfg(not(unix))]
    {
        let _ = pid;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, running: &Running, age: Duration) {
        let path = folder.join(RUNNING);
        let text = serde_json::to_string(running).expect("JSON");
        fs::write(&path, text).expect("written");
        let file = fs::File::options().write(true).open(&path).expect("a file");
        file.set_modified(SystemTime::now() - age).expect("a time");
    }

    fn elsewhere() -> Running {
        Running {
            host: "another".into(),
            pid: 1,
            job: Some("7_3".into()),
            ..Running::default()
        }
    }

    #[test]
    fn the_file_of_another_machine_is_respected_until_it_is_stale() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), &elsewhere(), STALE / 2);
        for locked in [true, false] {
            let error = Holder::take(folder.path(), locked).expect_err("held elsewhere");
            assert!(
                error.to_string().contains("process 1 on another (job 7_3)"),
                "{error}"
            );
        }
        write(folder.path(), &elsewhere(), 2 * STALE);
        let holder = Holder::take(folder.path(), true).expect("a stale file");
        let (found, _) = read_running(folder.path()).expect("ours");
        assert!(found.is_same(&holder.running));
        drop(holder);
        assert_eq!(read_running(folder.path()), None);
    }

    #[test]
    fn a_process_of_this_machine_that_has_ended_holds_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let ended = Running {
            host: host(),
            pid: child.id(),
            ..Running::default()
        };
        child.wait().expect("its end");
        write(folder.path(), &ended, Duration::ZERO);
        drop(Holder::take(folder.path(), false).expect("no process"));
        // With the system's lock the number may belong to another process by now.
        let reused = Running {
            pid: std::process::id(),
            ..ended
        };
        write(folder.path(), &reused, Duration::ZERO);
        assert!(Holder::take(folder.path(), false).is_err());
        drop(Holder::take(folder.path(), true).expect("the lock"));
    }

    #[test]
    fn a_holder_notices_that_another_took_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut holder = Holder::take(folder.path(), true).expect("free");
        holder.beat(Some(Position::default())).expect("ours");
        let (found, _) = read_running(folder.path()).expect("ours");
        assert_eq!(found.position, Some(Position::default()));
        write(folder.path(), &elsewhere(), Duration::ZERO);
        holder
            .beat(Some(Position::default()))
            .expect("too early to look");
        holder.tried = Instant::now().checked_sub(2 * BEAT).expect("a time");
        assert!(holder.beat(Some(Position::default())).is_err());
        drop(holder);
        assert!(read_running(folder.path()).is_some(), "the other's file");
    }
}
