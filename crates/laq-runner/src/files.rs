//! Writing files so that a reader, or a crash, never meets half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file of a run that cannot be read or written.
#[derive(Debug, Error)]
#[error("cannot {action} {path}: {source}{}", advice(.source))]
pub struct FileError {
    /// `read`, `write`, …
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space: what was saved before is untouched"
        }
        _ => "",
    }
}

impl FileError {
    /// For `map_err`: wraps what the system said about doing `action` to `path`.
    pub(crate) fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self {
            action,
            path,
            source,
        }
    }
}

/// Puts `bytes` under `path` in one step: a file beside it is written, brought to the disk and renamed, so that
/// `path` holds the old content or the new one, whatever happens in between.
///
/// # Errors
///
/// What the system says; `path` is then as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, ".tmp", |file| {
        file.write_all(bytes).map_err(FileError::on("write", path))
    })
}

/// Puts what `write` writes under `path` in one step, as [`write_atomically`] does. The file beside it is called as
/// `path` is, with `ending` behind.
///
/// # Errors
///
/// What `write` and the system say; `path` is then as it was, and the file beside it is gone.
pub(crate) fn replace<E: From<FileError>>(
    path: &Path,
    ending: &str,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    let beside = path.with_file_name(name);
    let put = || -> Result<(), E> {
        let mut file = File::create(&beside).map_err(FileError::on("write", path))?;
        write(&mut file)?;
        file.sync_all().map_err(FileError::on("write", path))?;
        drop(file);
        fs::rename(&beside, path).map_err(FileError::on("write", path))?;
        Ok(())
    };
    put().inspect_err(|_| {
        // The space goes back; if even that fails, the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    })?;
    Ok(sync_folder(path)?)
}

/// Brings the renaming of `path` to the disk, where folders can be opened as files.
fn sync_folder(path: &Path) -> Result<(), FileError> {
    // The parent of a bare file name is the empty path.
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(FileError::on("write", folder))?;
    }
    Ok(())
}
