//! Why a run failed where its summary does not say: a file of its folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use laq_runner::files::{FileError, write_atomically};
use laq_runner::run_folder::last_checkpoint;

/// The most that is read of a reason.
const MAX_BYTES: u64 = 4096;

fn file(folder: &Path) -> PathBuf {
    folder.join("failure.txt")
}

/// Records why the run in `folder` failed.
///
/// # Errors
///
/// A file that cannot be written.
pub fn record(folder: &Path, reason: &str) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(FileError::on("make", folder))?;
    write_atomically(&file(folder), format!("{reason}\n").as_bytes())
}

/// Removes what an earlier try has recorded.
pub(crate) fn forget(folder: &Path) {
    let _ = fs::remove_file(file(folder));
}

/// Why the last try of the run in `folder` failed, if that was recorded, on one line.
pub(crate) fn reason(folder: &Path) -> Option<String> {
    let path = file(folder);
    let mut reason = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut reason));
    if read.is_err() || !is_news(&path, folder) {
        return None;
    }
    let reason = String::from_utf8_lossy(&reason);
    let one_line = reason.trim_end().replace(char::is_control, " ");
    Some(one_line)
}

/// Whether `path` exists, and the run in `folder` has saved nothing since it was written.
pub(crate) fn is_news(path: &Path, folder: &Path) -> bool {
    let written = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let files = [folder.join("summary.json"), last_checkpoint(folder)];
    let saved = files.iter().filter_map(|file| written(file)).max();
    written(path).is_some_and(|written| saved.is_none_or(|saved| saved <= written))
}
