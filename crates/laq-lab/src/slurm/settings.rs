//! How jobs are submitted.

use std::fs;
use std::path::PathBuf;

use laq_runner::files::FileError;
use serde::Deserialize;

use crate::LabError;
use crate::configs::Configs;

/// How jobs are submitted: `[launcher.slurm]` in `launcher.toml` of the configurations, and options of
/// the command line, which win.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `--partition` of sbatch.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--time`, such as `12:00:00`.
    pub time: Option<String>,
    /// `--gres`, such as `gpu:1`.
    pub gres: Option<String>,
    /// How many tasks run at a time, at most.
    pub array_limit: Option<u32>,
    /// Further arguments of sbatch.
    pub sbatch_args: Vec<String>,
}

impl Settings {
    /// The settings of `configs`; none without a `launcher.toml`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or with other keys.
    pub fn load(configs: &Configs) -> Result<Self, LabError> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct File {
            launcher: Launchers,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Launchers {
            slurm: Settings,
        }
        let path = configs.folder().join("launcher.toml");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).map_err(FileError::on("read", &path))?;
        let file: File =
            toml::from_str(&text).map_err(|error| LabError::configs(&path, error.message()))?;
        Ok(file.launcher.slurm)
    }

    /// These settings, with those of `over` where it has any.
    #[must_use]
    pub fn with(self, over: Self) -> Self {
        Self {
            partition: over.partition.or(self.partition),
            account: over.account.or(self.account),
            time: over.time.or(self.time),
            gres: over.gres.or(self.gres),
            array_limit: over.array_limit.or(self.array_limit),
            sbatch_args: [self.sbatch_args, over.sbatch_args].concat(),
        }
    }
}

/// What is submitted beside the cells.
#[derive(Clone, Debug)]
pub struct Request {
    /// How.
    pub settings: Settings,
    /// The `laq` program, on a path that the nodes have too.
    pub program: PathBuf,
    /// The arguments of `laq` that report the table.
    pub report: Vec<String>,
}
