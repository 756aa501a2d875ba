//! Verified, resumable downloads.
//!
//! A file is downloaded under a temporary name and renamed after its content is verified:
//!
//! | name | content |
//! |---|---|
//! | `NAME` | verified; an invalid file is replaced only by a verified one |
//! | `NAME.part`, `NAME.gz.part` | the bytes received so far, which the next run resumes from |
//! | `NAME.new` | a copy from a folder or decompressed content before verification; removed if invalid |
//!
//! These names are fixed, not random, because a transfer must be found again and the lock on
//! `NAME.part` admits one process.
//!
//! Sources are tried in order: the caller's mirror, the canonical address, alternatives. This
//! module chooses sources and manages files, [`http`] transfers bytes, [`report`] has the results
//! and errors, and [`crate::check`] verifies content.

mod http;
mod report;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;

pub use self::report::{Action, Attempt, DownloadError, Fetched, NotFound, Outcome};
use crate::{DataFile, Dataset, FileState};

/// Settings of [`download`].
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// A folder, or a URL that begins with `http://` or `https://`, tried first. Files are searched under
    /// their name, [`DataFile::mirror_path`] and `data set/name`, each also with the suffix `.gz`.
    /// Default: none.
    pub mirror: Option<String>,
    /// The wait before an interrupted transfer is resumed; the n-th wait is n times as long.
    /// Default: 1 s.
    pub retry_delay: Duration,
    /// The timeout of connections and reads. Default: 30 s.
    pub timeout: Duration,
    /// The fewest bytes that a server sends within the timeout; a slower transfer counts as interrupted.
    /// Default: 30 KiB.
    pub least_bytes: u64,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            mirror: None,
            retry_delay: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            least_bytes: 30 << 10,
        }
    }
}

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The data set.
    pub dataset: &'a str,
    /// The file of the data set.
    pub file: &'a str,
    /// The current step.
    pub phase: Phase<'a>,
    /// Bytes of this phase processed; a resumed transfer starts with the existing bytes.
    pub done: u64,
    /// Total bytes of this phase; the uncompressed size if the server does not send the length of
    /// a compressed file.
    pub total: u64,
}

/// One step of fetching a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase<'a> {
    /// The existing file is verified.
    Check,
    /// Bytes are received from this address or file.
    Fetch(&'a str),
    /// A transfer was interrupted for this reason and will be resumed.
    Retry(&'a str),
    /// Compressed content is decompressed.
    Unpack,
    /// Size and checksum are verified.
    Verify,
}

/// Downloads every file of `dataset` that is missing or invalid to `data_dir/<data set>/<file>`.
///
/// Stops at the first file that cannot be downloaded; earlier files are kept. `progress` is called
/// from this thread, at least once per phase.
///
/// Proxies are taken from the usual environment variables, except for local addresses.
///
/// ```no_run
/// use laq_datasets::{DownloadOptions, download, find};
///
/// let options = DownloadOptions { mirror: Some("mirror".into()), ..Default::default() };
/// let outcome = download(find("war-and-peace")?, "data".as_ref(), &options, &mut |_| {})?;
/// println!("{outcome}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`DownloadError`]: no source has the file, the mirror is not a folder, another process downloads the same
/// file, the disk is full, or a local file cannot be written. Files under their final names are
/// unchanged.
pub fn download(
    dataset: &Dataset,
    data_dir: &Path,
    options: &DownloadOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome, DownloadError> {
    if let Some(mirror) = options.mirror.as_deref()
        && !is_url(mirror)
        && !Path::new(mirror).is_dir()
    {
        return Err(DownloadError::Mirror {
            mirror: mirror.to_owned(),
        });
    }
    let mut files = Vec::new();
    for file in dataset.files {
        let target = dataset.path(file, data_dir);
        files.push(
            Job {
                dataset,
                file,
                target,
                options,
                progress,
            }
            .run()?,
        );
    }
    Ok(Outcome {
        dataset: dataset.name,
        files,
    })
}

fn is_url(address: &str) -> bool {
    address.starts_with("http://") || address.starts_with("https://")
}

/// Why a location did not yield the file.
#[derive(Debug)]
enum Failure {
    /// The location does not have the file.
    Missing(String),
    /// The server cannot be reached or stopped responding; other names are not tried.
    Unreachable(String),
    /// The content is invalid.
    Invalid(String),
    /// Writing failed locally; other locations are not tried.
    Disk(PathBuf, io::Error),
}

/// An address with every location below it where the file may be.
struct Source {
    address: String,
    locations: Vec<String>,
}

/// The download of one file.
struct Job<'a> {
    dataset: &'a Dataset,
    file: &'static DataFile,
    target: PathBuf,
    options: &'a DownloadOptions,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Job<'_> {
    fn run(mut self) -> Result<Fetched, DownloadError> {
        self.report(Phase::Check, 0);
        let found = self.inspect_target()?;
        self.report(Phase::Check, self.file.bytes);
        if found == FileState::Valid {
            return Ok(self.fetched(Action::AlreadyValid, Vec::new()));
        }
        if let Some(folder) = self.target.parent() {
            fs::create_dir_all(folder).map_err(|error| self.local(folder, error))?;
        }
        // The lock on the .part file excludes other processes. One may have completed the file
        // before the lock was taken, so the file is inspected again.
        let mut part = self.open(&self.sibling(".part"))?;
        match part.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DownloadError::Busy {
                    path: self.target.clone(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(self.local(&self.sibling(".part"), error));
            }
        }
        let found = self.inspect_target()?;
        if found == FileState::Valid {
            self.remove_temporary();
            return Ok(self.fetched(Action::AlreadyValid, Vec::new()));
        }

        let mut failed = Vec::new();
        for source in self.sources() {
            if let Some((verified, from)) = self.try_source(&source, &mut part, &mut failed)? {
                self.rename(&verified)?;
                let action = match found {
                    FileState::Missing => Action::Fetched { from },
                    was => Action::Replaced { from, was },
                };
                return Ok(self.fetched(action, failed));
            }
        }
        self.remove_temporary();
        let not_found = NotFound {
            dataset: *self.dataset,
            file: *self.file,
            target: self.target.clone(),
            found,
            kept: self.kept(),
            failed,
        };
        Err(Box::new(not_found).into())
    }

    /// The compressed file where the file belongs, if there is one, the mirror, then the addresses of the
    /// catalogue.
    fn sources(&self) -> Vec<Source> {
        let packed = self.sibling(".gz");
        let address = packed.display().to_string();
        let beside = (packed.is_file() && self.is_compressed(&address)).then(|| Source {
            locations: vec![address.clone()],
            address,
        });
        let mirror = self.options.mirror.iter().map(|mirror| {
            let own_layout = format!("{}/{}", self.dataset.name, self.file.name);
            let names = [self.file.name, self.file.mirror_path, &own_layout];
            let root = mirror.trim_end_matches('/');
            let locations = names
                .iter()
                .flat_map(|name| [format!("{root}/{name}"), format!("{root}/{name}.gz")]);
            Source {
                address: mirror.clone(),
                locations: locations.collect(),
            }
        });
        let catalogue = self.file.urls.iter().map(|url| {
            let address = (*url).to_owned();
            Source {
                locations: vec![address.clone()],
                address,
            }
        });
        beside.into_iter().chain(mirror).chain(catalogue).collect()
    }

    /// Tries every location of `source`. Returns the path of verified content and its location, or
    /// `None` with the reasons in `failed`.
    fn try_source(
        &mut self,
        source: &Source,
        part: &mut File,
        failed: &mut Vec<Attempt>,
    ) -> Result<Option<(PathBuf, String)>, DownloadError> {
        let failed_before = failed.len();
        let mut missing = String::new();
        for location in &source.locations {
            let result = match is_url(location) {
                true => self.try_network(location, part),
                false => self.try_folder(Path::new(location)),
            };
            match result {
                Ok(verified) => return Ok(Some((verified, location.clone()))),
                Err(Failure::Missing(reason)) => missing = reason,
                Err(Failure::Invalid(reason)) => failed.push(Attempt {
                    address: location.clone(),
                    reason,
                }),
                Err(Failure::Unreachable(reason)) => {
                    failed.push(Attempt {
                        address: location.clone(),
                        reason,
                    });
                    return Ok(None);
                }
                Err(Failure::Disk(path, error)) => return Err(self.local(&path, error)),
            }
        }
        if failed.len() == failed_before {
            let reason = match source.locations.len() {
                1 => missing,
                _ => format!(
                    "it has none of {0}, {1} and {2}/{0}, with or without .gz",
                    self.file.name, self.file.mirror_path, self.dataset.name
                ),
            };
            failed.push(Attempt {
                address: source.address.clone(),
                reason,
            });
        }
        Ok(None)
    }

    fn try_folder(&mut self, path: &Path) -> Result<PathBuf, Failure> {
        if !path.is_file() {
            return Err(Failure::Missing("file not found".into()));
        }
        let location = path.display().to_string();
        let unreadable = |error: io::Error| Failure::Invalid(format!("cannot be read: {error}"));
        let content = File::open(path).map_err(unreadable)?;
        let new = match self.is_compressed(&location) {
            true => self.unpack(content)?,
            false => self.copy(content, Phase::Fetch(&location))?,
        };
        self.verify(&new)?;
        Ok(new)
    }

    fn try_network(&mut self, url: &str, part: &mut File) -> Result<PathBuf, Failure> {
        let packed = self.is_compressed(url);
        let part_path = self.sibling(if packed { ".gz.part" } else { ".part" });
        let disk = |error| Failure::Disk(part_path.clone(), error);
        let mut packed_part;
        let part = match packed {
            true => {
                packed_part = open(&part_path).map_err(disk)?;
                &mut packed_part
            }
            false => part,
        };
        let mut may_retry = true;
        loop {
            let resumed = part.metadata().map_err(disk)?.len() > 0;
            let (dataset, file, progress) =
                (self.dataset.name, self.file.name, &mut *self.progress);
            let mut report = |phase: Phase<'_>, done, total| {
                progress(Progress {
                    dataset,
                    file,
                    phase,
                    done,
                    total,
                })
            };
            let size = match packed {
                true => http::Size::Compressed {
                    content: self.file.bytes,
                },
                false => http::Size::Exactly(self.file.bytes),
            };
            let fetched = http::fetch(url, part, &part_path, size, self.options, &mut report)?;
            let pieced = resumed || fetched == http::Fetched::InPieces;
            let content = match packed {
                true => {
                    part.rewind().map_err(disk)?;
                    self.unpack(&*part)
                }
                false => Ok(part_path.clone()),
            };
            match content.and_then(|content| self.verify(&content).map(|()| content)) {
                Err(Failure::Invalid(reason)) => {
                    // If the bytes are of several responses, between which the file may have changed, the
                    // address is tried once more from the start.
                    part.set_len(0).map_err(disk)?;
                    if !(pieced && may_retry) {
                        return Err(Failure::Invalid(reason));
                    }
                    may_retry = false;
                }
                result => return result,
            }
        }
    }

    /// Whether the file at `location` is compressed, by its name; a file whose own name ends in .gz
    /// is not decompressed.
    fn is_compressed(&self, location: &str) -> bool {
        location.ends_with(".gz") && !self.file.name.ends_with(".gz")
    }

    /// Decompresses `packed` to the .new file. If the HTTP client has already decompressed it
    /// (servers may label gzip as an encoding), it is copied.
    fn unpack(&mut self, packed: impl Read) -> Result<PathBuf, Failure> {
        let mut packed = BufReader::new(packed);
        let start = io::BufRead::fill_buf(&mut packed)
            .map_err(|error| Failure::Invalid(format!("cannot be read: {error}")))?;
        match start.starts_with(&[0x1f, 0x8b]) {
            true => self.copy(MultiGzDecoder::new(packed), Phase::Unpack),
            false => self.copy(packed, Phase::Unpack),
        }
    }

    /// Writes `content` to the .new file, at most one byte more than expected.
    fn copy(&mut self, content: impl Read, phase: Phase<'_>) -> Result<PathBuf, Failure> {
        let path = self.sibling(".new");
        let result = File::create(&path)
            .map_err(|error| Failure::Disk(path.clone(), error))
            .and_then(|mut new| {
                let mut content = content.take(self.file.bytes + 1);
                let mut buffer = vec![0; 1 << 16];
                let mut done = 0;
                self.report(phase, done);
                loop {
                    let read = match content.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => {
                            return Err(Failure::Invalid(format!("cannot be read: {error}")));
                        }
                    };
                    new.write_all(&buffer[..read])
                        .map_err(|error| Failure::Disk(path.clone(), error))?;
                    done += read as u64;
                    self.report(phase, done);
                }
            });
        match result {
            Ok(()) => Ok(path),
            Err(failure) => {
                // The first error is the one to return.
                let _ = fs::remove_file(&path);
                Err(failure)
            }
        }
    }

    /// Verifies the content at `path`; an invalid .new file is removed.
    fn verify(&mut self, path: &Path) -> Result<(), Failure> {
        let disk = |error| Failure::Disk(path.to_owned(), error);
        let content = File::open(path).map_err(disk)?;
        self.report(Phase::Verify, 0);
        let file = self.file;
        match file
            .examine(content, &mut |done| self.report(Phase::Verify, done))
            .map_err(disk)?
        {
            FileState::Valid => Ok(()),
            invalid => {
                if path == self.sibling(".new") {
                    fs::remove_file(path).map_err(disk)?;
                }
                Err(Failure::Invalid(format!("its content is {invalid}")))
            }
        }
    }

    /// Renames verified content to its final name, durably, and removes partial files.
    fn rename(&self, verified: &Path) -> Result<(), DownloadError> {
        let synced = OpenOptions::new()
            .write(true)
            .open(verified)
            .and_then(|file| file.sync_all());
        synced.map_err(|error| self.local(verified, error))?;
        fs::rename(verified, &self.target).map_err(|error| self.local(&self.target, error))?;
        #[cfg(unix)]
        if let Some(folder) = self.target.parent() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| self.local(folder, error))?;
        }
        for suffix in [".part", ".gz.part"] {
            // One of them may have been renamed; an old one is harmless.
            let _ = fs::remove_file(self.sibling(suffix));
        }
        Ok(())
    }

    /// Removes empty .part files, and the folder if it is empty.
    fn remove_temporary(&self) {
        for path in [self.sibling(".part"), self.sibling(".gz.part")] {
            if fs::metadata(&path).is_ok_and(|part| part.len() == 0) {
                let _ = fs::remove_file(path);
            }
        }
        if let Some(folder) = self.target.parent() {
            let _ = fs::remove_dir(folder);
        }
    }

    /// The .part file that the next run resumes from, and its size.
    fn kept(&self) -> Option<(PathBuf, u64)> {
        [".part", ".gz.part"].into_iter().find_map(|suffix| {
            let path = self.sibling(suffix);
            let bytes = fs::metadata(&path).ok()?.len();
            (bytes > 0).then_some((path, bytes))
        })
    }

    fn inspect_target(&self) -> Result<FileState, DownloadError> {
        self.file
            .inspect(&self.target)
            .map_err(|error| self.local(&self.target, error))
    }

    fn open(&self, path: &Path) -> Result<File, DownloadError> {
        open(path).map_err(|error| self.local(path, error))
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.target.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn report(&mut self, phase: Phase<'_>, done: u64) {
        let (dataset, file) = (self.dataset.name, self.file.name);
        (self.progress)(Progress {
            dataset,
            file,
            phase,
            done,
            total: self.file.bytes,
        });
    }

    fn local(&self, path: &Path, error: io::Error) -> DownloadError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DownloadError::Full {
                path: path.to_owned(),
                needed: self.file.bytes,
                kept: self.kept(),
            },
            _ => DownloadError::Local {
                path: path.to_owned(),
                source: error,
            },
        }
    }

    fn fetched(&self, action: Action, failed: Vec<Attempt>) -> Fetched {
        Fetched {
            file: self.file.name,
            path: self.target.clone(),
            check: self.file.check,
            action,
            failed,
        }
    }
}

/// Opens for reading and writing; keeps existing content.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}
