//! The folder of configurations: the one embedded in the program, or another.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use laq_runner::files::FileError;
use tempfile::TempDir;

use crate::LabError;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs");

/// A folder laid out as `configs/` of the repository.
#[derive(Debug)]
pub struct Configs {
    folder: PathBuf,
    /// Holds the extracted copy of the embedded files.
    _extracted: Option<TempDir>,
}

impl Configs {
    /// The configurations embedded in this program, extracted to a temporary folder while this
    /// value lives.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn embedded() -> Result<Self, LabError> {
        let failed = |source| FileError {
            action: "extract the configurations to",
            path: std::env::temp_dir(),
            source,
        };
        let extracted = TempDir::with_prefix("laq-configs-").map_err(failed)?;
        EMBEDDED.extract(extracted.path()).map_err(failed)?;
        Ok(Self {
            folder: extracted.path().into(),
            _extracted: Some(extracted),
        })
    }

    /// The configurations in `folder`.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            _extracted: None,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
