//! Hands a command over to a fresh release build of `laq`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The options whose values are paths.
const PATHS: [&str; 5] = ["--out", "--configs", "--data-dir", "--mirror", "--page"];

/// Runs `laq COMMAND ARGUMENTS…` in the root of the workspace, where `data/` and `runs/` are.
pub(crate) fn run(command: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let root = crate::root();
    let mut laq = Command::new(build(&root, &[])?);
    laq.arg(command)
        .args(from_here(arguments, &env::current_dir()?))
        .current_dir(root);
    replace_by(laq)
}

/// Becomes the program, so that signals reach it directly.
#[cfg(unix)]
fn replace_by(mut command: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).context("cannot start laq")
}

#[cfg(not(unix))]
fn replace_by(mut command: Command) -> Result<ExitCode> {
    let code = command.status().context("cannot start laq")?.code();
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

/// Makes the paths among the arguments absolute, those of options and of folders: they were typed in the folder `here`.
/// An address is left as it is.
fn from_here(arguments: &[OsString], here: &Path) -> Vec<OsString> {
    let absolute = |path: &str| match path.contains("://") {
        true => path.into(),
        false => here.join(path).display().to_string(),
    };
    let mut before = OsStr::new("");
    let mut rewritten = Vec::new();
    for argument in arguments {
        let text = argument.to_str();
        let assigned = text.and_then(|text| text.split_once('='));
        rewritten.push(match (text, assigned) {
            (Some(path), _) if PATHS.iter().any(|name| before == *name) => absolute(path).into(),
            (_, Some((name, path))) if PATHS.contains(&name) => {
                format!("{name}={}", absolute(path)).into()
            }
            // A run folder; the tables have no separator.
            (Some(path), _) if path.contains('/') && here.join(path).is_dir() => {
                absolute(path).into()
            }
            _ => argument.clone(),
        });
        before = argument;
    }
    rewritten
}

/// Builds the release binary, with more options of rustc than the profile has; returns its path.
pub(crate) fn build(root: &Path, options: &[&str]) -> Result<PathBuf> {
    let arguments = ["rustc", "--release", "--package", "laq", "--bin", "laq"];
    let output = crate::cargo()
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .arg("--")
        .args(options)
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
    // One JSON object a line. The one of the binary contains its path, in whatever target folder.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "laq")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built laq but did not report its path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_current_folder() {
        let words = [
            "table2",
            "--out",
            "runs/x",
            "--mirror=https://a.org",
            "--mirror=copy",
            "--rows",
            "--out-of",
        ];
        let words = words.map(OsString::from);
        let expected = [
            "table2",
            "--out",
            "/here/runs/x",
            "--mirror=https://a.org",
            "--mirror=/here/copy",
            "--rows",
            "--out-of",
        ];
        assert_eq!(
            from_here(&words, Path::new("/here")),
            expected.map(OsString::from)
        );
    }
}
