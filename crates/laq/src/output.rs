//! The standard streams, and the signals that stop a command.

use std::io::{self, ErrorKind, Write, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
pub(crate) use laq_lab::launcher::{LOCKED, STOPPED as INTERRUPTED};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static QUIET: AtomicBool = AtomicBool::new(false);

/// The standard output. When the reader closes it early, as `head` does, the command continues,
/// with the same exit code.
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match stdout().write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match stdout().flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
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

/// Writes a line to the standard error, `--quiet` or not.
pub(crate) fn log_error(line: &str) {
    let _ = writeln!(stderr(), "{line}");
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
