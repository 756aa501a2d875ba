//! The `laq` binary as a child process: building it, asking it for JSON, and letting it have the terminal.
//!
//! `laq` always runs in the root of the workspace, so that the paths of the configurations mean the same from everywhere.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What `laq train` exits with after it was interrupted and has saved.
pub(crate) const INTERRUPTED: u8 = 130;

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on Ctrl-C does not end xtask: it reaches `laq` too, which saves, and xtask waits for that. The same holds of a
/// request to terminate that is sent to the whole group. Hang-ups are left as they are, so that `nohup` works.
pub(crate) fn outlive_interruptions() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&STOP)).context("cannot listen to signals")?;
    }
    Ok(())
}

/// Whether there was one of these signals.
pub(crate) fn interrupted() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Ready to run `laq`.
pub(crate) struct Laq {
    program: PathBuf,
    root: PathBuf,
}

impl Laq {
    /// Builds the release binary (nothing happens if it is up to date). The environment variable `LAQ_BIN` names another
    /// binary, which is taken as it is.
    pub(crate) fn build(root: &Path) -> Result<Laq> {
        let program = match env::var_os("LAQ_BIN") {
            Some(program) => crate::from_here(Path::new(&program))?,
            None => build_release(root)?,
        };
        Ok(Laq {
            program,
            root: root.into(),
        })
    }

    /// Runs `laq` silently and reads the JSON that it prints. An answer counts even if the exit code is not 0: `laq doctor`
    /// tells so that something is wrong.
    pub(crate) fn ask<T: DeserializeOwned>(&self, arguments: &[impl AsRef<OsStr>]) -> Result<T> {
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        match serde_json::from_slice(&output.stdout) {
            Ok(answer) => Ok(answer),
            Err(_) if !output.status.success() => {
                bail!(
                    "{} failed: {}",
                    shown(arguments),
                    String::from_utf8_lossy(&output.stderr).trim()
                )
            }
            Err(error) => Err(error).with_context(|| {
                format!(
                    "{} printed something that is not the expected JSON",
                    shown(arguments)
                )
            }),
        }
    }

    /// Runs `laq` with the terminal as its own: its progress bar shows, and Ctrl-C reaches it.
    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Result<ExitStatus> {
        self.command(arguments)
            .status()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }

    fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root);
        command
    }
}

/// `laq train …` as one reads it in a message.
fn shown(arguments: &[impl AsRef<OsStr>]) -> String {
    let words = arguments
        .iter()
        .map(|word| word.as_ref().to_string_lossy().into_owned());
    format!("`laq {}`", words.collect::<Vec<_>>().join(" "))
}

fn build_release(root: &Path) -> Result<PathBuf> {
    let arguments = ["build", "--release", "--package", "laq", "--bin", "laq"];
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "`cargo {}` failed; its messages are above",
            arguments.join(" ")
        );
    }
    // One JSON object a line; the one of the binary names the file, wherever the target folder is.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "laq")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built laq but did not say where the binary is")
}
