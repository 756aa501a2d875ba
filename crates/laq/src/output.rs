//! The standard streams, and the signals that stop a command.

use std::io::{self, ErrorKind, Write, stderr, stdout};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
pub(crate) use laq_lab::launcher::{LOCKED, STOPPED as INTERRUPTED};
use laq_lab::text::escaped;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static QUIET: AtomicBool = AtomicBool::new(false);

/// The first error of the standard output.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// The standard output. When the reader closes it early, as `head` does, or it takes no more, as a
/// full disk, the command continues; [`end_output`] has the error.
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut failed = FAILED.lock().expect("no panic while it is held");
        if failed.is_some() {
            return Ok(bytes.len());
        }
        match stdout().write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                *failed = Some(error);
                Ok(bytes.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = stdout().flush() {
            let mut failed = FAILED.lock().expect("no panic while it is held");
            failed.get_or_insert(error);
        }
        Ok(())
    }
}

/// Flushes the standard output, and returns its first error unless the reader has closed it.
pub(crate) fn end_output() -> Option<io::Error> {
    let _ = Output.flush();
    let failed = FAILED.lock().expect("no panic while it is held").take();
    failed.filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

/// Lets a write beyond the limit of the size of files be an error instead of the end of the process.
pub(crate) fn survive_size_limit() {
    // An ignored signal would stay ignored in the commands that are started.
    #[cfg(unix)]
    let _ = flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Turns [`log`] off.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes a line to the standard error. A closed stream does not stop a command.
pub(crate) fn log(line: &str) {
    if !is_quiet() {
        log_error(line);
    }
}

/// Writes a line to the standard error, `--quiet` or not. Names from files have no effect on a terminal.
pub(crate) fn log_error(line: &str) {
    let _ = writeln!(stderr(), "{}", escaped(line));
}

/// Warns of a file whose name ends as those of another format than `suffix`.
pub(crate) fn warn_of_suffix(out: &Path, suffix: &str) {
    let known = ["safetensors", "gguf", "onnx", "npz"];
    let found = out.extension().and_then(|found| found.to_str());
    if let Some(found) = found.filter(|found| *found != suffix && known.contains(found)) {
        let is = if suffix.is_empty() {
            "a folder"
        } else {
            suffix
        };
        log(&format!(
            "warning: {} is written as {is}, though its name ends in .{found}",
            out.display()
        ));
    }
}

/// An error with its causes; most have the text of their cause already.
pub(crate) fn described(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = text + colon + &cause;
        }
    }
    text
}

/// Writes text to the standard output. What it has from files has no effect on a terminal.
pub(crate) fn print(text: &str) -> io::Result<()> {
    Output.write_all(escaped(text).as_bytes())
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    writeln!(Output, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A flag that Ctrl-C or a request to terminate sets; a second Ctrl-C ends the process.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    // The shutdown is registered first: the signal that sets the flag must not find it set.
    flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), stop.clone())
        .and_then(|_| flag::register(SIGINT, stop.clone()))
        .and_then(|_| flag::register(SIGTERM, stop.clone()))
        .context("cannot listen for signals")?;
    Ok(stop)
}

/// A command line, quoted for a shell.
pub(crate) fn shell_words(words: &[String]) -> String {
    let quoted = words
        .iter()
        .map(|word| shlex::try_quote(word).unwrap_or(word.into()));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(described(&error), "cannot read x: no such file");
        let error = error.context("in the folder y");
        assert_eq!(
            described(&error),
            "in the folder y: cannot read x: no such file"
        );
    }
}
