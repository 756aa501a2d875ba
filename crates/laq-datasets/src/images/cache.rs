//! Files that are made once from a data set and mapped into memory from then on.
//!
//! ```text
//! 16 bytes    magic: what the content is, and in which version
//! 32 bytes    key: SHA-256 of what the content was made from
//! bytes       content
//! 32 bytes    SHA-256 of the content
//! ```
//!
//! A file is written beside its final name and renamed when it is whole. One that is cut short, altered or made from
//! something else is as good as none, and is made again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::Pixels;

/// What the content is, and in which version.
pub(super) type Magic = [u8; 16];
/// SHA-256 of what the content was made from.
pub(super) type Key = [u8; 32];

/// A content and its SHA-256.
pub(super) struct Found {
    pub(super) content: Pixels,
    pub(super) digest: [u8; 32],
}

/// The content at `path`, if it is there, was made from the same (`key`), and is whole.
pub(super) fn open(path: &Path, magic: &Magic, key: &Key) -> io::Result<Option<Found>> {
    const AROUND: usize = 16 + 32 + 32;
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let Ok(bytes) = usize::try_from(file.metadata()?.len()) else {
        return Ok(None);
    };
    if bytes < AROUND {
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
    // SAFETY: the mapped bytes must not change while they are borrowed. The file got its name when it was whole, and
    // this crate never writes to a file under that name again: a new copy is another file that takes its name, and
    // the old one stays what it is for whoever has it mapped. A user who overwrites it in place, against what the
    // documentation asks, gets other pixels or ends the program, as with any mapped file.
    unsafe { Mmap::map(file) }
}

/// The content at `path`; where there is none, `make` writes it, once, while other processes wait.
///
/// `report` hears of waiting.
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
    // Another process may have made it while this one waited.
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
    open(path, magic, key)
        .map_err(&failed)?
        .ok_or_else(|| failed(io::Error::other("what was just written reads differently")))
}

/// A file in the making.
pub(super) struct Writer {
    target: PathBuf,
    unfinished: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    /// The first error of writing; nothing is written after it.
    failed: Option<io::Error>,
}

impl Writer {
    fn new(target: &Path, magic: &Magic, key: &Key) -> io::Result<Self> {
        let unfinished = target.with_extension("new");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
        file.write_all(magic)?;
        file.write_all(key)?;
        Ok(Self {
            target: target.to_owned(),
            unfinished,
            file,
            hash: Sha256::new(),
            failed: None,
        })
    }

    /// Appends to the content. An error ends the making when all is written.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.hash.update(bytes);
            self.failed = self.file.write_all(bytes).err();
        }
    }

    /// Gives the file its name, or removes it if something could not be written.
    fn finish(mut self) -> io::Result<()> {
        let finished = match self.failed.take() {
            Some(error) => Err(error),
            None => self.put_in_place(),
        };
        if finished.is_err() {
            self.abandon();
        }
        finished
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let sum = self.hash.finalize_reset();
        self.file.write_all(&sum)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.unfinished, &self.target)
    }

    fn abandon(self) {
        // A leftover does no harm: the next file begins by emptying it.
        let _ = fs::remove_file(&self.unfinished);
    }
}

/// Waits until this process alone may make the file `path`; for as long as the file that is returned lives.
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
            "waiting for another process that prepares the same images ({})",
            path.display()
        ));
        file.lock()?;
    }
    Ok(file)
}
