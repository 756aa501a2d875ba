//! Whether a file holds what the catalogue says it holds.
//!
//! Size and checksum are those of the content, so it does not matter how a mirror compressed it. Loading and
//! downloading use the same check.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::DataFile;

/// What is known of a file's content beside its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The SHA-256 of the content, in lower-case hexadecimal.
    Sha256(&'static str),
    /// No checksum is known, because the file could not be had when the catalogue was written. The published
    /// number of distinct bytes is checked in its place: it tells this text from another that was cut to the same
    /// size, but does not see a changed character.
    Symbols(usize),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(_) => f.write_str("size and sha256"),
            Self::Symbols(_) => {
                f.write_str("size and number of symbols only; no checksum is known")
            }
        }
    }
}

/// What was found where a data file should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// The content is the catalogue's.
    Good,
    /// There is no such file.
    Missing,
    /// The file has another size: it is empty, cut short, or another file.
    WrongSize {
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// The size is right and the content is not.
    Altered {
        /// What was found and what was expected, in words.
        what: String,
    },
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::Missing => f.write_str("missing"),
            Self::WrongSize { found: 0, expected } => {
                write!(f, "empty (expected {expected} bytes)")
            }
            Self::WrongSize { found, expected } if found < expected => {
                write!(f, "cut short ({found} bytes, expected {expected})")
            }
            Self::WrongSize { found, expected } => {
                write!(f, "too long ({found} bytes, expected {expected})")
            }
            Self::Altered { what } => write!(f, "altered ({what})"),
        }
    }
}

impl DataFile {
    /// Compares the file at `path` with the catalogue. A file of the wrong size is not read.
    ///
    /// # Errors
    ///
    /// Any error of reading the file, except that it is not there, which is [`FileState::Missing`].
    pub fn inspect(&self, path: &Path) -> io::Result<FileState> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FileState::Missing),
            Err(error) => Err(error),
            Ok(file) => {
                let found = file.metadata()?.len();
                match found == self.bytes {
                    true => self.examine(file, &mut |_| {}),
                    false => Ok(FileState::WrongSize {
                        found,
                        expected: self.bytes,
                    }),
                }
            }
        }
    }

    /// Compares content that is already in memory with the catalogue.
    pub fn inspect_bytes(&self, content: &[u8]) -> FileState {
        self.examine(content, &mut |_| {})
            .expect("a slice can be read")
    }

    /// Reads `content` to its end and compares it; `seen` hears how many bytes were read so far.
    pub(crate) fn examine(
        &self,
        mut content: impl Read,
        seen: &mut dyn FnMut(u64),
    ) -> io::Result<FileState> {
        let mut hash = Sha256::new();
        let mut occurs = [false; 256];
        let mut found = 0;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            found += read as u64;
            match self.check {
                Check::Sha256(_) => hash.update(&buffer[..read]),
                Check::Symbols(_) => buffer[..read]
                    .iter()
                    .for_each(|&byte| occurs[usize::from(byte)] = true),
            }
            seen(found);
        }
        if found != self.bytes {
            return Ok(FileState::WrongSize {
                found,
                expected: self.bytes,
            });
        }
        let difference = match self.check {
            Check::Sha256(expected) => {
                let found = hex(&hash.finalize());
                (found != expected).then(|| format!("sha256 {found}, expected {expected}"))
            }
            Check::Symbols(expected) => {
                let found = occurs.iter().filter(|&&occurs| occurs).count();
                (found != expected).then(|| format!("{found} distinct bytes, expected {expected}"))
            }
        };
        Ok(difference.map_or(FileState::Good, |what| FileState::Altered { what }))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
