//! The errors of this crate.

use std::path::PathBuf;

use laq_datasets::{DownloadError, UnknownDataset};
use laq_runner::RunError;
use laq_runner::config::ConfigError;
use laq_runner::files::FileError;
use thiserror::Error;

use crate::table::Unknown;

/// Why a table cannot be planned, trained or reported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// A row, column or preset that the table does not have.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The folder of configurations is incomplete or inconsistent.
    #[error("{path}: {message}")]
    Configs {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A cell's configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// This machine cannot be examined.
    #[error(transparent)]
    Machine(#[from] RunError),
    /// A configuration names a data set that the catalogue does not have.
    #[error(transparent)]
    Dataset(#[from] UnknownDataset),
    /// A data set cannot be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A folder has no files of a run.
    #[error("{} has no summary.json and no metrics.jsonl: expected a run folder, such as runs/NAME", .0.display())]
    NoRun(PathBuf),
    /// There is no run in or below a folder.
    #[error("{} has no runs: expected a run folder, or one above run folders, such as runs/table2", .0.display())]
    NoRuns(PathBuf),
    /// A file of the user's has the name of one of a table.
    #[error("{} is not a list of the cells of a table: move it away, or use another --out", .0.display())]
    Foreign(PathBuf),
    /// The launcher cannot start runs.
    #[error("cannot launch runs: {0}")]
    Launch(String),
}

impl LabError {
    pub(crate) fn configs(path: impl Into<PathBuf>, message: impl ToString) -> Self {
        Self::Configs {
            path: path.into(),
            message: message.to_string(),
        }
    }
}
