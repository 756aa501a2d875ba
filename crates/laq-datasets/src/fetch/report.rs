//! What a download did, or why it could not, in one paragraph for the user.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::{Check, DataFile, Dataset, FileState};

/// What [`download`](super::download) did with each file of a data set. Its `Display` is one line a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The data set.
    pub dataset: &'static str,
    /// Its files; none for a data set that needs no files.
    pub files: Vec<Fetched>,
}

/// One file that is now good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its name.
    pub file: &'static str,
    /// Where it lies.
    pub path: PathBuf,
    /// What its content was checked by, beside its size.
    pub check: Check,
    /// What had to be done.
    pub action: Action,
    /// Addresses that were tried before and did not have it.
    pub failed: Vec<Attempt>,
}

/// What had to be done for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it was there and good.
    AlreadyGood,
    /// It was not there, and was fetched.
    Fetched {
        /// The address or file it came from.
        from: String,
    },
    /// What was there was not good, and was replaced.
    Replaced {
        /// The address or file it came from.
        from: String,
        /// What was wrong with the file before.
        was: FileState,
    },
}

/// An address that did not yield a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The address, or the file or folder of a mirror.
    pub address: String,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.files.is_empty() {
            return write!(f, "{}: part of the program, nothing to fetch", self.dataset);
        }
        for (index, file) in self.files.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {} ", self.dataset, file.path.display())?;
            match &file.action {
                Action::AlreadyGood => write!(f, "was already there")?,
                Action::Fetched { from } => write!(f, "fetched from {from}")?,
                Action::Replaced { from, was } => write!(f, "was {was}; replaced from {from}")?,
            }
            write!(f, " (checked: {})", file.check)?;
            for attempt in &file.failed {
                write!(f, "; not from {attempt}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.reason)
    }
}

/// Why a file could not be fetched.
#[derive(Debug, Error)]
pub enum DownloadError {
    /// The mirror is neither a folder nor an address.
    #[error(
        "the mirror {mirror:?} is not a folder that is there, and no address that begins with http:// or https://"
    )]
    Mirror {
        /// What was given.
        mirror: String,
    },
    /// No address had the file.
    #[error(transparent)]
    NotFound(#[from] Box<NotFound>),
    /// Another process is at it.
    #[error("another process is fetching {} right now; wait until it is done, then run again", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error(
        "no space is left on the disk of {}, and the whole file takes {needed} bytes; free some space and run again{}",
        path.display(), kept_in_words(kept)
    )]
    Full {
        /// The file that could not be written.
        path: PathBuf,
        /// Size of the whole file.
        needed: u64,
        /// The unfinished transfer that the next run goes on from, and its size in bytes.
        kept: Option<(PathBuf, u64)>,
    },
    /// A local file or folder cannot be read or written.
    #[error("{} cannot be read or written: {source}; is the folder yours to write?", path.display())]
    Local {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A file that no address had.
#[derive(Clone, Debug, Error)]
pub struct NotFound {
    /// The data set.
    pub dataset: Dataset,
    /// The file.
    pub file: DataFile,
    /// Where it should lie.
    pub target: PathBuf,
    /// What lies there, untouched.
    pub found: FileState,
    /// The unfinished transfer that the next run goes on from, and its size in bytes.
    pub kept: Option<(PathBuf, u64)>,
    /// Every address that was tried; none if the catalogue has none and no mirror was given.
    pub failed: Vec<Attempt>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dataset,
            file,
            target,
            found,
            kept,
            failed,
        } = self;
        write!(f, "{}: {} could not be had", dataset.name, file.name)?;
        if let Some(stand_in) = dataset.stand_in {
            write!(f, "; this data set {stand_in}")?;
        }
        if file.urls.is_empty() {
            f.write_str("; it has no canonical address and comes from a mirror alone")?;
        }
        for (index, attempt) in failed.iter().enumerate() {
            write!(f, "{} {attempt}", if index == 0 { "; tried" } else { "," })?;
        }
        if *found != FileState::Missing {
            write!(f, "; {} is {found} and was left as it is", target.display())?;
        }
        f.write_str(&kept_in_words(kept))?;
        let content = match file.check {
            Check::Sha256(sum) => format!("sha256 {sum}"),
            Check::Md5(sum) => format!("md5 {sum}"),
            Check::Symbols(symbols) => format!("{symbols} distinct bytes"),
        };
        write!(
            f,
            ". Run again if the network was at fault, or get a file of {} bytes with {content} elsewhere and give the \
             folder or address that holds it: --mirror DIR|URL",
            file.bytes
        )
    }
}

fn kept_in_words(kept: &Option<(PathBuf, u64)>) -> String {
    match kept {
        Some((path, bytes)) => {
            format!(
                "; {bytes} bytes stay in {} and the next run goes on from there",
                path.display()
            )
        }
        None => String::new(),
    }
}
