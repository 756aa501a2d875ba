//! `cargo xtask download`: hands the work to `laq download`, with a mirror named from where the command was typed.
//! What is there already, `laq doctor` says.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;

use crate::laq::{self, Laq};

#[derive(Args)]
pub(crate) struct Options {
    /// Data sets, texts or images; `laq doctor` lists them [default: all that have an address]
    names: Vec<String>,
    #[command(flatten)]
    mirror: Mirror,
}

/// Where else the data may be.
#[derive(Args, Clone)]
pub(crate) struct Mirror {
    /// A folder or an address that is tried before the canonical ones
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
}

/// The command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    laq::outlive_interruptions()?;
    let laq = Laq::build(&crate::root())?;
    let status = fetch(&laq, &options.names, &options.mirror)?;
    // A child that a signal ended has no code of its own.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(if laq::interrupted() {
        laq::INTERRUPTED
    } else {
        1
    })))
}

/// `laq download NAME… [--mirror …]`
pub(crate) fn fetch(laq: &Laq, names: &[String], mirror: &Mirror) -> Result<ExitStatus> {
    let mut arguments = vec![OsString::from("download")];
    arguments.extend(names.iter().map(OsString::from));
    if let Some(mirror) = &mirror.mirror {
        arguments.push("--mirror".into());
        arguments.push(if mirror.contains("://") {
            mirror.into()
        } else {
            crate::from_here(Path::new(mirror))?.into_os_string()
        });
    }
    laq.run(&arguments)
}

/// What `laq doctor --json` prints, as far as it is used.
#[derive(Deserialize)]
pub(crate) struct Doctor {
    /// The processor's name.
    pub(crate) cpu: String,
    /// Threads that a run takes if it is not told otherwise.
    pub(crate) threads: u64,
    /// What it takes for a device if it is not told otherwise.
    #[serde(default)]
    pub(crate) device: String,
    data: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    dataset: String,
    state: String,
}

/// Asks for the machine and the data.
pub(crate) fn doctor(laq: &Laq) -> Result<Doctor> {
    laq.ask(&["doctor", "--json"])
}

impl Doctor {
    /// Whether every file of a data set is there and as it should be; a file of the user's own is not known here, and
    /// left to `laq train`.
    pub(crate) fn is_present(&self, data: &str) -> bool {
        self.trouble(data).is_none()
    }

    /// "missing", or what else is wrong with the first file that is not good.
    pub(crate) fn trouble(&self, data: &str) -> Option<&str> {
        let mut files = self.data.iter().filter(|file| file.dataset == data);
        files
            .find(|file| !file.state.starts_with("good"))
            .map(|file| file.state.as_str())
    }
}
