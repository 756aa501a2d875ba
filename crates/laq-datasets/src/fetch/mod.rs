//! Verified, resumable downloads.
//!
//! A file arrives under a name of its own and gets its final name only after its content was verified:
//!
//! | name | what it is |
//! |---|---|
//! | `NAME` | verified content; a good one is never touched, a bad one is replaced by a verified one alone |
//! | `NAME.part`, `NAME.gz.part` | what has come over the network so far; stays for the next run to go on from |
//! | `NAME.new` | a copy from a folder, or unpacked content, before it is verified; removed if it is not good |
//!
//! The addresses are tried one after the other: the mirror of the caller's, the canonical address, further
//! ones. This module decides what to try and what to keep, [`http`] moves the bytes over a network, and
//! [`report`] holds the words for what happened. Whether content is good is for [`crate::check`] to say.

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
    /// A folder, or an address that begins with `http://` or `https://`, to try before all others. Each file is
    /// looked for under its own name, under [`DataFile::mirror_path`] and under `data set/name`, each also
    /// with `.gz` behind it. Default: none.
    pub mirror: Option<String>,
    /// Wait before a stopped transfer is taken up again; the second wait is twice as long, and so on. Default: 1 s.
    pub pause: Duration,
    /// A server that sends nothing for so long counts as stopped. Default: 30 s.
    pub patience: Duration,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            mirror: None,
            pause: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}

/// What a download is doing, as often as something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The data set.
    pub dataset: &'a str,
    /// The file of the data set.
    pub file: &'a str,
    /// What is being done with the file.
    pub phase: Phase<'a>,
    /// Bytes of this phase that are done; a resumed transfer starts with what was there.
    pub done: u64,
    /// Bytes of this phase in all. A compressed transfer whose server does not say counts the uncompressed size.
    pub total: u64,
}

/// One step of fetching a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase<'a> {
    /// Looking at the file that is already there.
    Check,
    /// Bytes arrive from this address or file.
    Fetch(&'a str),
    /// A transfer has stopped, for the reason given, and is about to be taken up again.
    Retry(&'a str),
    /// Compressed content is unpacked.
    Unpack,
    /// Size and checksum are compared.
    Verify,
}

/// Brings every file of `dataset` that is not already good to `data_dir/<data set>/<file>`.
///
/// Stops at the first file that cannot be had; what was fetched before stays. `progress` is called from this
/// thread, at least once for each phase.
///
/// Proxies are taken from the usual environment variables, except for addresses of this machine.
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
/// [`DownloadError`]: no address had the file, the mirror is no folder, another process fetches the same file,
/// the disk is full, or a local file cannot be written. In each case the files under their final names are what
/// they were.
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

/// Why one place did not yield the file.
#[derive(Debug)]
enum Failure {
    /// The place answered that it does not have the file.
    NotThere(String),
    /// The place could not be asked or did not go on, so asking it for another name is no use.
    Unreachable(String),
    /// What it has is not the file.
    Bad(String),
    /// The bytes could not be written here, so that no other place would help.
    Disk(PathBuf, io::Error),
}

/// An address with every place below it where the file may be.
struct Source {
    address: String,
    places: Vec<String>,
}

/// One file on its way.
struct Job<'a> {
    dataset: &'a Dataset,
    file: &'static DataFile,
    target: PathBuf,
    options: &'a DownloadOptions,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Job<'_> {
    fn run(mut self) -> Result<Fetched, DownloadError> {
        self.tell(Phase::Check, 0);
        let found = self.inspect_target()?;
        self.tell(Phase::Check, self.file.bytes);
        if found == FileState::Good {
            return Ok(self.fetched(Action::AlreadyGood, Vec::new()));
        }
        if let Some(folder) = self.target.parent() {
            fs::create_dir_all(folder).map_err(|error| self.local(folder, error))?;
        }
        // The lock on the .part file keeps a second process away. That process may have finished while this one
        // waited for the first look, and then the file under the final name is good, and must not be touched.
        let mut part = self.open(&self.beside(".part"))?;
        match part.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DownloadError::Busy {
                    path: self.target.clone(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(self.local(&self.beside(".part"), error)),
        }
        let found = self.inspect_target()?;
        if found == FileState::Good {
            self.tidy();
            return Ok(self.fetched(Action::AlreadyGood, Vec::new()));
        }

        let mut failed = Vec::new();
        for source in self.sources() {
            if let Some((verified, from)) = self.try_source(&source, &mut part, &mut failed)? {
                self.put_in_place(&verified)?;
                let action = match found {
                    FileState::Missing => Action::Fetched { from },
                    was => Action::Replaced { from, was },
                };
                return Ok(self.fetched(action, failed));
            }
        }
        self.tidy();
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

    /// The mirror, then the addresses of the catalogue.
    fn sources(&self) -> Vec<Source> {
        let mirror = self.options.mirror.iter().map(|mirror| {
            let own_layout = format!("{}/{}", self.dataset.name, self.file.name);
            let names = [self.file.name, self.file.mirror_path, &own_layout];
            let root = mirror.trim_end_matches('/');
            let places = names
                .iter()
                .flat_map(|name| [format!("{root}/{name}"), format!("{root}/{name}.gz")]);
            Source {
                address: mirror.clone(),
                places: places.collect(),
            }
        });
        let catalogue = self.file.urls.iter().map(|url| {
            let address = (*url).to_owned();
            Source {
                places: vec![address.clone()],
                address,
            }
        });
        mirror.chain(catalogue).collect()
    }

    /// Tries every place of `source`. Returns the path of verified content and the place it came from, or
    /// `None` after it has written down why not.
    fn try_source(
        &mut self,
        source: &Source,
        part: &mut File,
        failed: &mut Vec<Attempt>,
    ) -> Result<Option<(PathBuf, String)>, DownloadError> {
        let failed_before = failed.len();
        let mut not_there = String::new();
        for place in &source.places {
            let result = match is_url(place) {
                true => self.try_network(place, part),
                false => self.try_folder(Path::new(place)),
            };
            match result {
                Ok(verified) => return Ok(Some((verified, place.clone()))),
                Err(Failure::NotThere(reason)) => not_there = reason,
                Err(Failure::Bad(reason)) => failed.push(Attempt {
                    address: place.clone(),
                    reason,
                }),
                Err(Failure::Unreachable(reason)) => {
                    failed.push(Attempt {
                        address: place.clone(),
                        reason,
                    });
                    return Ok(None);
                }
                Err(Failure::Disk(path, error)) => return Err(self.local(&path, error)),
            }
        }
        if failed.len() == failed_before {
            let reason = match source.places.len() {
                1 => not_there,
                _ => format!(
                    "it has neither {0} nor {1} nor {2}/{0}, nor one of them with .gz behind it",
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
            return Err(Failure::NotThere("there is no such file".into()));
        }
        let place = path.display().to_string();
        let unreadable = |error: io::Error| Failure::Bad(format!("it cannot be read: {error}"));
        let content = File::open(path).map_err(unreadable)?;
        let new = match self.is_packed(&place) {
            true => self.unpack(content)?,
            false => self.copy(content, Phase::Fetch(&place))?,
        };
        self.verify(&new)?;
        Ok(new)
    }

    fn try_network(&mut self, url: &str, part: &mut File) -> Result<PathBuf, Failure> {
        let packed = self.is_packed(url);
        let part_path = self.beside(if packed { ".gz.part" } else { ".part" });
        let disk = |error| Failure::Disk(part_path.clone(), error);
        let mut packed_part;
        let part = match packed {
            true => {
                packed_part = open(&part_path).map_err(disk)?;
                &mut packed_part
            }
            false => part,
        };
        loop {
            let resumed = part.metadata().map_err(disk)?.len() > 0;
            let (dataset, file, progress) =
                (self.dataset.name, self.file.name, &mut *self.progress);
            let mut tell = |phase: Phase<'_>, done, total| {
                progress(Progress {
                    dataset,
                    file,
                    phase,
                    done,
                    total,
                })
            };
            let size = match packed {
                true => http::Size::Packed {
                    content: self.file.bytes,
                },
                false => http::Size::Exactly(self.file.bytes),
            };
            http::fetch(url, part, &part_path, size, self.options, &mut tell)?;
            let content = match packed {
                true => {
                    part.rewind().map_err(disk)?;
                    self.unpack(&*part)
                }
                false => Ok(part_path.clone()),
            };
            match content.and_then(|content| self.verify(&content).map(|()| content)) {
                Err(Failure::Bad(reason)) => {
                    // The bytes are of no use, here or at another address. When some of them came from an
                    // earlier run they may be the ones at fault, so the address gets a second chance.
                    part.set_len(0).map_err(disk)?;
                    if !resumed {
                        return Err(Failure::Bad(reason));
                    }
                }
                result => return result,
            }
        }
    }

    /// Whether the place holds the file compressed. The rule is the name: a file that is called .gz itself is
    /// wanted as it is.
    fn is_packed(&self, place: &str) -> bool {
        place.ends_with(".gz") && !self.file.name.ends_with(".gz")
    }

    /// Unpacks `packed` to the .new file. A server may have unpacked it on the way, as some do when they label
    /// it as an encoding; then it is copied.
    fn unpack(&mut self, packed: impl Read) -> Result<PathBuf, Failure> {
        let mut packed = BufReader::new(packed);
        let start = io::BufRead::fill_buf(&mut packed)
            .map_err(|error| Failure::Bad(format!("it cannot be read: {error}")))?;
        match start.starts_with(&[0x1f, 0x8b]) {
            true => self.copy(MultiGzDecoder::new(packed), Phase::Unpack),
            false => self.copy(packed, Phase::Unpack),
        }
    }

    /// Writes `content` to the .new file, at most one byte more than is expected.
    fn copy(&mut self, content: impl Read, phase: Phase<'_>) -> Result<PathBuf, Failure> {
        let path = self.beside(".new");
        let result = File::create(&path)
            .map_err(|error| Failure::Disk(path.clone(), error))
            .and_then(|mut new| {
                let mut content = content.take(self.file.bytes + 1);
                let mut buffer = vec![0; 1 << 16];
                let mut done = 0;
                self.tell(phase, done);
                loop {
                    let read = match content.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => {
                            return Err(Failure::Bad(format!("it cannot be read: {error}")));
                        }
                    };
                    new.write_all(&buffer[..read])
                        .map_err(|error| Failure::Disk(path.clone(), error))?;
                    done += read as u64;
                    self.tell(phase, done);
                }
            });
        match result {
            Ok(()) => Ok(path),
            Err(failure) => {
                // Removing is a courtesy; the failure itself is what the caller must hear of.
                let _ = fs::remove_file(&path);
                Err(failure)
            }
        }
    }

    /// Checks the content at `path`; bad content in a .new file is removed.
    fn verify(&mut self, path: &Path) -> Result<(), Failure> {
        let disk = |error| Failure::Disk(path.to_owned(), error);
        let content = File::open(path).map_err(disk)?;
        self.tell(Phase::Verify, 0);
        let file = self.file;
        match file
            .examine(content, &mut |done| self.tell(Phase::Verify, done))
            .map_err(disk)?
        {
            FileState::Good => Ok(()),
            bad => {
                if path == self.beside(".new") {
                    fs::remove_file(path).map_err(disk)?;
                }
                Err(Failure::Bad(format!("its content is {bad}")))
            }
        }
    }

    /// Gives verified content its final name, for good even if the power goes, and clears the rest away.
    fn put_in_place(&self, verified: &Path) -> Result<(), DownloadError> {
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
            // One of them is gone by its renaming, and a leftover does no harm.
            let _ = fs::remove_file(self.beside(suffix));
        }
        Ok(())
    }

    /// Removes .part files that hold nothing to go on from, and the folder if nothing else is in it.
    fn tidy(&self) {
        for path in [self.beside(".part"), self.beside(".gz.part")] {
            if fs::metadata(&path).is_ok_and(|part| part.len() == 0) {
                let _ = fs::remove_file(path);
            }
        }
        if let Some(folder) = self.target.parent() {
            let _ = fs::remove_dir(folder);
        }
    }

    /// The .part file that the next run will go on from, and its size.
    fn kept(&self) -> Option<(PathBuf, u64)> {
        [".part", ".gz.part"].into_iter().find_map(|suffix| {
            let path = self.beside(suffix);
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

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.target.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn tell(&mut self, phase: Phase<'_>, done: u64) {
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

/// Opens for reading and writing, with what is there kept.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}
