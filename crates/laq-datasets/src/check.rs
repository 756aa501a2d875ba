//! Comparison of a file's content with the catalogue.
//!
//! Size and checksum are those of the uncompressed content, so a mirror may compress files. Loading
//! and downloading use the same check.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::DataFile;

/// How the content of a file is verified, in addition to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The SHA-256 of the content, in lower-case hexadecimal.
    Sha256(&'static str),
    /// The MD5 of the content, in lower-case hexadecimal, where the authors published no better
    /// checksum. It detects damage but not forgery.
    Md5(&'static str),
    /// The number of distinct bytes, where no checksum is known because the file was not available
    /// when the catalogue was written. It distinguishes texts of the same size, but does not
    /// detect a changed character.
    Symbols(usize),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(_) => f.write_str("size and sha256"),
            Self::Md5(_) => f.write_str("size and md5"),
            Self::Symbols(_) => {
                f.write_str("size and number of symbols only; no checksum is known")
            }
        }
    }
}

/// The result of comparing a file with the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// The content matches the catalogue.
    Valid,
    /// The file does not exist.
    Missing,
    /// The size differs: the file is empty, truncated, or another file.
    WrongSize {
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// The size matches and the content does not.
    Altered {
        /// The checksums or counts found and expected.
        what: String,
    },
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::Missing => f.write_str("missing"),
            Self::WrongSize { found: 0, expected } => {
                write!(f, "empty (expected {expected} bytes)")
            }
            Self::WrongSize { found, expected } if found < expected => {
                write!(f, "truncated ({found} bytes, expected {expected})")
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
    /// A folder in its place, and any error of opening and reading the file except `NotFound`, which is
    /// [`FileState::Missing`].
    pub fn inspect(&self, path: &Path) -> io::Result<FileState> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FileState::Missing),
            Err(error) => Err(error),
            Ok(file) => {
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                let found = metadata.len();
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

    /// Reads `content` to its end and compares it. Calls `progress` with the number of bytes read
    /// so far.
    pub(crate) fn examine(
        &self,
        mut content: impl Read,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<FileState> {
        let (mut sha256, mut md5) = (Sha256::new(), Md5::new());
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
                Check::Sha256(_) => sha256.update(&buffer[..read]),
                Check::Md5(_) => md5.update(&buffer[..read]),
                Check::Symbols(_) => buffer[..read]
                    .iter()
                    .for_each(|&byte| occurs[usize::from(byte)] = true),
            }
            progress(found);
        }
        if found != self.bytes {
            return Ok(FileState::WrongSize {
                found,
                expected: self.bytes,
            });
        }
        let difference = match self.check {
            Check::Sha256(expected) => {
                let found = hex::encode(sha256.finalize());
                (found != expected).then(|| format!("sha256 {found}, expected {expected}"))
            }
            Check::Md5(expected) => {
                let found = hex::encode(md5.finalize());
                (found != expected).then(|| format!("md5 {found}, expected {expected}"))
            }
            Check::Symbols(expected) => {
                let found = occurs.iter().filter(|&&occurs| occurs).count();
                (found != expected).then(|| format!("{found} distinct bytes, expected {expected}"))
            }
        };
        Ok(difference.map_or(FileState::Valid, |what| FileState::Altered { what }))
    }
}
