//! Atomic file writes: a reader or a crash never sees a partial file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file that cannot be read or written.
#[derive(Debug, Error)]
#[error("cannot {action} {path}: {source}{}", advice(.source))]
pub struct FileError {
    /// `read`, `write`, …
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The error of the system.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space: the previous file is intact"
        }
        _ => "",
    }
}

impl FileError {
    /// For `map_err`: an error of `action` on `path`.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self {
            action,
            path,
            source,
        }
    }
}

/// Writes `bytes` to `path` atomically: writes a temporary file in the same folder, syncs and
/// renames it. `path` holds the old content or the new at any time.
///
/// # Errors
///
/// Any error of the system; `path` is unchanged then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, ".tmp", |file| {
        file.write_all(bytes).map_err(FileError::on("write", path))
    })
}

/// Writes `path` atomically with a callback, as [`write_atomically`] does. The temporary file is
/// `path` with `suffix` appended.
///
/// # Errors
///
/// Errors of `write` and of the system; `path` is unchanged then and the temporary file is removed.
pub fn replace<E: From<FileError>>(
    path: &Path,
    suffix: &str,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    let temporary = path.with_file_name(name);
    let write_and_rename = || -> Result<(), E> {
        let mut file = File::create(&temporary).map_err(FileError::on("write", path))?;
        write(&mut file)?;
        file.sync_all().map_err(FileError::on("write", path))?;
        drop(file);
        fs::rename(&temporary, path).map_err(FileError::on("write", path))?;
        Ok(())
    };
    write_and_rename().inspect_err(|_| {
        // Frees the space; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    })?;
    Ok(sync_folder(path)?)
}

/// Syncs the folder of `path`, where folders can be opened as files.
fn sync_folder(path: &Path) -> Result<(), FileError> {
    // The parent of a bare file name is empty.
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(FileError::on("write", folder))?;
    }
    Ok(())
}
