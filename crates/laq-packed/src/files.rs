//! Atomic file writes: a reader or a crash never sees a partial file.
//!
//! The new content goes to a temporary file beside the old one, which is renamed when it is complete. The file that
//! replaces another has its mode; a symbolic link stays, and its target is replaced. A process locks its temporary files:
//! those of one that was killed are held by nobody, and the next write of the same file removes them.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf, is_separator};
use std::process;
use std::time::SystemTime;

use thiserror::Error;

/// The end of the names of temporary files, after the name of the file and two numbers.
const TEMPORARY: &str = ".laq.tmp";

/// Folders of open files, whose entries are no files of a disk even where they look so.
const OPEN_FILES: [&str; 2] = ["/dev/fd", "/proc"];

/// More symbolic links than that are a circle.
const MAX_LINKS: usize = 40;

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
        io::ErrorKind::FileTooLarge => {
            "; raise the limit of the size of files (ulimit -f): the previous file is intact"
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

/// Opens a file to read. A folder is refused, and a pipe or a device, which cannot be read from any place: opening a pipe
/// waits for its writer.
///
/// # Errors
///
/// Any error of the system, and a path that is no file.
pub fn open(path: &Path) -> Result<File, FileError> {
    let refused = |why| Err(io::Error::new(ErrorKind::InvalidInput, why));
    let opened = fs::metadata(path).and_then(|found| match found.file_type() {
        kind if kind.is_file() => File::open(path),
        kind if kind.is_dir() => refused("it is a folder, expected a file"),
        _ => refused(
            "it is a pipe or a device, expected a regular file: write its content to one first",
        ),
    });
    opened.map_err(FileError::on("read", path))
}

/// Writes `bytes` to `path` atomically: writes a temporary file in the same folder, syncs and
/// renames it. `path` holds the old content or the new at any time.
///
/// # Errors
///
/// Any error of the system, and a path that is no plain file; `path` is unchanged then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, |file| {
        file.write_all(bytes).map_err(FileError::on("write", path))
    })
}

/// Writes `path` atomically with a callback, as [`write_atomically`] does.
///
/// # Errors
///
/// Errors of `write` and of the system; `path` is unchanged then and the temporary file is removed.
pub fn replace<E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    Ok(Temporary::write(path, write)?.rename()?)
}

/// The time of the clock that gives new files in `folder` their times, which may be that of a server.
///
/// # Errors
///
/// No file can be made there.
pub fn clock_of(folder: &Path) -> io::Result<SystemTime> {
    let path = folder.join("clock");
    let file = Temporary::create(&path).map_err(|error| error.source)?;
    file.file.metadata()?.modified()
}

/// A file under a temporary name, which is removed when it is dropped before it is renamed.
#[derive(Debug)]
pub(crate) struct Temporary {
    /// The path that is named in errors.
    path: PathBuf,
    /// The file to replace.
    target: PathBuf,
    temporary: PathBuf,
    /// Locked, where the file system has locks.
    file: File,
    is_renamed: bool,
}

impl Temporary {
    /// Writes and syncs the content of `path` under another name.
    pub(crate) fn write<E: From<FileError>>(
        path: &Path,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut written = Self::create(path)?;
        write(&mut written.file)?;
        let synced = written.file.sync_all();
        synced.map_err(FileError::on("write", path))?;
        Ok(written)
    }

    /// Makes an empty file for the content of `path`, with the mode of the file that it will replace.
    fn create(path: &Path) -> Result<Self, FileError> {
        let made = target(path).and_then(|target| {
            let name = target.file_name().unwrap_or_default().as_encoded_bytes();
            remove_abandoned_of(folder_of(&target), |found| found == name);
            let old = fs::metadata(&target).ok();
            let (temporary, file) = new_file(&target, old.is_some())?;
            let made = Self {
                path: path.into(),
                target,
                temporary,
                file,
                is_renamed: false,
            };
            if let Some(old) = old {
                keep_mode(&made.file, &old)?;
            }
            Ok(made)
        });
        made.map_err(FileError::on("write", path))
    }

    /// Replaces the path and syncs its folder.
    pub(crate) fn rename(mut self) -> Result<(), FileError> {
        fs::rename(&self.temporary, &self.target).map_err(FileError::on("write", &self.path))?;
        self.is_renamed = true;
        sync_folder(&self.target)
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

/// The file that is replaced when `path` is written: itself, or what it links to. An error if that is no plain file, or
/// ends with a separator as a folder does.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let last = target.as_os_str().as_encoded_bytes().last();
        if last.is_some_and(|last| is_separator(char::from(*last))) {
            let detail = "it ends as the path of a folder; give the path of a file";
            return Err(io::Error::new(ErrorKind::InvalidInput, detail));
        }
        let found = match fs::symlink_metadata(&target) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(target),
            Err(error) => return Err(error),
        };
        let is_open_file = OPEN_FILES.iter().any(|folder| target.starts_with(folder));
        if is_open_file || !found.is_file() && !found.is_symlink() {
            let detail =
                "it is not a plain file, which alone can be replaced; give the path of a file";
            return Err(io::Error::new(ErrorKind::InvalidInput, detail));
        }
        if found.is_file() {
            return Ok(target);
        }
        let link = fs::read_link(&target)?;
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::new(
        ErrorKind::InvalidInput,
        "it is a symbolic link to itself",
    ))
}

/// An error if `path` cannot be written because it, or what it links to, is no plain file.
pub(crate) fn check_target(path: &Path) -> Result<(), FileError> {
    target(path).map(drop).map_err(FileError::on("write", path))
}

/// A new, locked file beside `target`, for its owner alone if `is_private`.
fn new_file(target: &Path, is_private: bool) -> io::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if is_private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = is_private;
    let mut number = 0;
    loop {
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}-{number}{TEMPORARY}", process::id()));
        let temporary = target.with_file_name(name);
        number += 1;
        let file = match options.open(&temporary) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        // Another process may have found it before it was locked, and remove it.
        match file.try_lock() {
            Ok(()) if !temporary.exists() => {}
            Err(TryLockError::WouldBlock) => {}
            // Without locks, nobody removes it.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok((temporary, file)),
        }
    }
}

/// Removes the temporary files in `folder` that no process holds, of whatever files they were to be.
pub fn remove_abandoned(folder: &Path) {
    remove_abandoned_of(folder, |_| true);
}

/// Removes the temporary files in `folder` that no process holds, if they were to be a file of a name that `is_it`.
fn remove_abandoned_of(folder: &Path, is_it: impl Fn(&[u8]) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|found| found.is_file());
        let found = entry.file_name();
        if !is_file || !file_of(&found).is_some_and(&is_it) {
            continue;
        }
        // What cannot be locked or removed stays; it is in nobody's way.
        let file = OpenOptions::new().write(true).open(entry.path());
        if file.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The name of the file that the temporary file `found` was to be; `None` for the name of another file.
fn file_of(found: &OsStr) -> Option<&[u8]> {
    let name = (found.as_encoded_bytes()).strip_suffix(TEMPORARY.as_bytes())?;
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    let mut parts = name[dot + 1..].split(|byte| *byte == b'-');
    let mut is_number = || {
        (parts.next()).is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
    };
    (is_number() && is_number() && parts.next().is_none()).then_some(&name[..dot])
}

/// Gives `file` the mode of `old` and, where this process may, its owner.
fn keep_mode(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            let _ = fchown(file, Some(old.uid()), Some(old.gid()));
        }
    }
    // Some file systems have one mode for all files.
    match new.permissions() == old.permissions() {
        true => Ok(()),
        false => file.set_permissions(old.permissions()),
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

/// Removes a file, or the one that it links to, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match target(path).and_then(fs::remove_file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(FileError::on("replace", path)(error))
        }
        _ => Ok(()),
    }
}

/// The folder of `path`; the parent of a bare file name is empty.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or(Path::new("."))
}

/// Syncs the folder of `path`, where folders can be opened as files.
fn sync_folder(path: &Path) -> Result<(), FileError> {
    let folder = folder_of(path);
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(FileError::on("write", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    }

    /// A killed process cannot remove its files, and holds no lock.
    #[test]
    fn temporary_files_that_nobody_holds_are_removed_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let pid = process::id();
        let others = [
            "q.tmp",
            "q.12.tmp",
            "q.laq.tmp",
            "q.mine.laq.tmp",
            "q.12-.laq.tmp",
            "q.1-2-3.laq.tmp",
            "q.x.12-0.laq.tmp",
            "p.12-0.laq.tmp",
            "q.12-0.laq.tmp.txt",
        ];
        let abandoned = ["q.12-0.laq.tmp".into(), format!("q.{pid}-0.laq.tmp")];
        for name in others
            .into_iter()
            .chain(abandoned.iter().map(String::as_str))
        {
            fs::write(path(name), name).expect("written");
        }
        let held = Temporary::create(&path("q")).expect("a file");
        assert!(!path(&abandoned[0]).exists());
        assert_eq!(
            held.temporary,
            path(&abandoned[1]),
            "the number is free again"
        );
        write_atomically(&path("q"), b"new").expect("written");
        assert!(held.temporary.exists(), "its process lives");
        drop(held);
        let mut expected = [&others[..], &["q"]].concat();
        expected.sort_unstable();
        assert_eq!(names(folder.path()), expected);
        for name in others {
            assert_eq!(fs::read_to_string(path(name)).expect("read"), name);
        }
        assert_eq!(fs::read(path("q")).expect("read"), b"new");
    }

    #[test]
    #[cfg(unix)]
    fn a_file_that_replaces_another_has_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("q");
        let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o7777;
        write_atomically(&path, b"1").expect("written");
        let plain = folder.path().join("plain");
        File::create(&plain).expect("a file");
        let new = fs::metadata(plain).expect("a file").permissions().mode() & 0o7777;
        assert_eq!(mode(), new, "as other new files");
        for expected in [0o600, 0o640, 0o444, 0o755] {
            let permissions = fs::Permissions::from_mode(expected);
            fs::set_permissions(&path, permissions).expect("a mode");
            replace(&path, |file| {
                let found = file.metadata().expect("a file").permissions().mode() & 0o7777;
                assert_eq!(found, expected, "also while it is written");
                file.write_all(b"2").map_err(FileError::on("write", &path))
            })
            .expect("written");
            assert_eq!(mode(), expected);
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_link_stays_and_its_target_is_written() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("there")).expect("a folder");
        fs::write(path("there/old"), "old").expect("written");
        symlink(path("there/old"), path("absolute")).expect("a link");
        symlink("there/old", path("relative")).expect("a link");
        symlink("relative", path("chain")).expect("a link");
        symlink("there/new", path("dangling")).expect("a link");
        for (link, target) in [
            ("absolute", "there/old"),
            ("relative", "there/old"),
            ("chain", "there/old"),
            ("dangling", "there/new"),
        ] {
            write_atomically(&path(link), link.as_bytes()).expect("written");
            assert!(path(link).is_symlink(), "{link}");
            assert!(!path(target).is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(path(target)).expect("read"), link);
        }
        remove(&path("dangling")).expect("removed");
        assert!(path("dangling").is_symlink() && !path("there/new").exists());
        assert_eq!(names(&path("there")), ["old"]);
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_plain_file_is_not_replaced() {
        use std::os::unix::fs::symlink;
        use std::os::unix::net::UnixListener;
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("folder")).expect("a folder");
        let _listener = UnixListener::bind(path("socket")).expect("a socket");
        symlink("/dev/null", path("null")).expect("a link");
        symlink("circle", path("circle")).expect("a link");
        // An open file of this process, which looks like a plain one.
        let open = File::create(path("open")).expect("a file");
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        symlink(format!("/proc/self/fd/{number}"), path("output")).expect("a link");
        symlink("new/", path("link")).expect("a link");
        let mut refused = vec![
            "folder", "socket", "null", "circle", "new/", "open/", "link",
        ];
        if cfg!(target_os = "linux") {
            refused.push("output");
        }
        let before = names(folder.path());
        for name in refused {
            let error = write_atomically(&path(name), b"new").expect_err(name);
            assert_eq!(error.source.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(check_target(&path(name)).is_err());
        }
        assert_eq!(names(folder.path()), before);
        assert!(path("null").is_symlink());
        assert_eq!(open.metadata().expect("a file").len(), 0);
    }
}
