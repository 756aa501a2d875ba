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
    Ok(Temporary::write(path, suffix, write)?.rename()?)
}

/// A complete file under a temporary name, which is removed when it is dropped before it is renamed.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    temporary: PathBuf,
    is_renamed: bool,
}

impl Temporary {
    /// Writes and syncs the content of `path` under that name with `suffix` appended.
    pub(crate) fn write<E: From<FileError>>(
        path: &Path,
        suffix: &str,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(suffix);
        let written = Self {
            path: path.into(),
            temporary: path.with_file_name(name),
            is_renamed: false,
        };
        let mut file = File::create(&written.temporary).map_err(FileError::on("write", path))?;
        write(&mut file)?;
        file.sync_all().map_err(FileError::on("write", path))?;
        Ok(written)
    }

    /// Replaces the path and syncs its folder.
    pub(crate) fn rename(mut self) -> Result<(), FileError> {
        fs::rename(&self.temporary, &self.path).map_err(FileError::on("write", &self.path))?;
        self.is_renamed = true;
        sync_folder(&self.path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            // Frees the space; the error that led here is the one to report.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A folder for files to come. One that was made here is removed when it is dropped, if it is empty.
#[derive(Debug)]
pub(crate) struct OutFolder {
    made: Option<PathBuf>,
}

impl OutFolder {
    /// Makes the folder unless it exists; its parent must exist.
    pub(crate) fn make(path: &Path) -> Result<Self, FileError> {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(_) if path.is_dir() => return Ok(Self { made: None }),
            Err(error) => return Err(FileError::on("make the folder", path)(error)),
        }
        let made = Self {
            made: Some(path.into()),
        };
        sync_folder(path)?;
        Ok(made)
    }
}

impl Drop for OutFolder {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            // Fails for a folder with files, which stays.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::on("replace", path)(error))
        }
        _ => Ok(()),
    }
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
