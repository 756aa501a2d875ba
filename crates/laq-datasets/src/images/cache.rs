//! Files that are computed once from a data set and then memory-mapped.
//!
//! ```text
//! 16 bytes    magic: kind of content and version
//! 32 bytes    key: SHA-256 of the content's source
//! bytes       content
//! 32 bytes    SHA-256 of the content
//! ```
//!
//! A file is streamed to a temporary name in the same folder and renamed when it is complete. The
//! lock admits one writer, so the temporary name is fixed and an interrupted run leaves at most one
//! such file, which the next run overwrites: these files have up to 2 GB. A file that is truncated,
//! altered or made from another source is recomputed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::Pixels;

/// Kind of content and version.
pub(super) type Magic = [u8; 16];
/// SHA-256 of the content's source.
pub(super) type Key = [u8; 32];

/// The content of a file and its SHA-256.
pub(super) struct Found {
    pub(super) content: Pixels,
    pub(super) digest: [u8; 32],
}

/// The content at `path` if the file exists, is complete and was made from the source `key`.
pub(super) fn open(path: &Path, magic: &Magic, key: &Key) -> io::Result<Option<Found>> {
    const OVERHEAD: usize = 16 + 32 + 32;
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let Ok(bytes) = usize::try_from(file.metadata()?.len()) else {
        return Ok(None);
    };
    if bytes < OVERHEAD {
        return Ok(None);
    }
    let mut header = [0; 16 + 32];
    file.read_exact(&mut header)?;
    if header[..16] != magic[..] || header[16..] != key[..] {
        return Ok(None);
    }
    let whole = Pixels::new(map(&file)?);
    if whole.len() != bytes {
        return Ok(None);
    }
    let content = whole.part(16 + 32..bytes - 32);
    let digest: [u8; 32] = Sha256::digest(&content[..]).into();
    let same = digest[..] == whole[bytes - 32..];
    Ok(same.then_some(Found { content, digest }))
}

/// Maps `file` into memory.
#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapped bytes must not change while they are borrowed. The file got its name when
    // it was complete, and this crate never writes to a file under that name: a new copy is
    // another file that is renamed, and existing maps keep the old one. If a user overwrites
    // the file in place, reads may see other bytes or end the process, as with any mapped file.
    unsafe { Mmap::map(file) }
}

/// The content at `path`; if there is none, `make` writes it while other processes wait.
///
/// `report` is called before waiting for another process.
pub(super) fn open_or_make<E>(
    path: &Path,
    magic: &Magic,
    key: &Key,
    report: &mut dyn FnMut(&str),
    failed: impl Fn(io::Error) -> E,
    make: impl FnOnce(&mut Writer, &mut dyn FnMut(&str)) -> Result<(), E>,
) -> Result<Found, E> {
    if let Some(found) = open(path, magic, key).map_err(&failed)? {
        return Ok(found);
    }
    let _lock = lock(path, report).map_err(&failed)?;
    // Another process may have written it while this one waited.
    if let Some(found) = open(path, magic, key).map_err(&failed)? {
        return Ok(found);
    }
    let mut writer = Writer::new(path, magic, key).map_err(&failed)?;
    match make(&mut writer, report) {
        Ok(()) => writer.finish().map_err(&failed)?,
        Err(error) => {
            writer.abandon();
            return Err(error);
        }
    }
    open(path, magic, key).map_err(&failed)?.ok_or_else(|| {
        failed(io::Error::other(
            "the file that was just written has another content",
        ))
    })
}

/// A file that is being written.
pub(super) struct Writer {
    target: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    /// The first error of writing; nothing is written after it.
    failed: Option<io::Error>,
}

impl Writer {
    fn new(target: &Path, magic: &Magic, key: &Key) -> io::Result<Self> {
        let temporary = target.with_extension("new");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        file.write_all(magic)?;
        file.write_all(key)?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            file,
            hash: Sha256::new(),
            failed: None,
        })
    }

    /// Appends to the content. An error is returned by [`finish`](Self::finish).
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.hash.update(bytes);
            self.failed = self.file.write_all(bytes).err();
        }
    }

    /// Renames the file to its final name, or removes it if a write failed.
    fn finish(mut self) -> io::Result<()> {
        let finished = match self.failed.take() {
            Some(error) => Err(error),
            None => self.complete(),
        };
        if finished.is_err() {
            self.abandon();
        }
        finished
    }

    fn complete(&mut self) -> io::Result<()> {
        let sum = self.hash.finalize_reset();
        self.file.write_all(&sum)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.target)
    }

    fn abandon(self) {
        // If this fails, the next writer truncates the file.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Waits for the exclusive right to write the file `path`; released when the returned file is
/// dropped.
fn lock(path: &Path, report: &mut dyn FnMut(&str)) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let path = path.with_extension("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    if file.try_lock().is_err() {
        report(&format!(
            "waiting for another process that is preparing the same images ({})",
            path.display()
        ));
        file.lock()?;
    }
    Ok(file)
}
