//! The resumable transfer of one file over HTTP.
//!
//! Independent of data sets: transfers the content of a URL to a file, or returns the reason of a
//! failure.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Instant;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::{DownloadOptions, Failure, Phase};

/// The number of attempts that transfer fewer than [`MIN_PROGRESS`] bytes before an address is
/// abandoned.
const MAX_ATTEMPTS: u32 = 4;
/// An attempt that transfers this many bytes does not count.
const MIN_PROGRESS: u64 = 1 << 16;

/// The expected size of a response.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// The exact number of bytes.
    Exactly(u64),
    /// Compressed; the number of bytes after decompression.
    Compressed { content: u64 },
}

impl Size {
    /// The upper bound of a valid response.
    fn limit(self) -> u64 {
        match self {
            Self::Exactly(bytes) => bytes,
            // For incompressible data gzip adds a header and 5 bytes per block.
            Self::Compressed { content } => content + content / 64 + 4096,
        }
    }

    fn fits(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(expected) => bytes == expected,
            Self::Compressed { .. } => bytes <= self.limit(),
        }
    }
}

/// How a transfer came to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fetched {
    /// In one response.
    AtOnce,
    /// In several, each of which went on after the last.
    InPieces,
}

/// The error of an attempt.
enum AttemptError {
    /// Worth another attempt.
    Transient(String),
    /// Not worth another attempt.
    Permanent(Failure),
}

/// Downloads `url` to `part`, the file at `path`; resumes after the bytes that it already has.
pub(super) fn fetch(
    url: &str,
    part: &mut File,
    path: &Path,
    size: Size,
    options: &DownloadOptions,
    report: &mut dyn FnMut(Phase<'_>, u64, u64),
) -> Result<Fetched, Failure> {
    let agent = agent(url, options);
    let disk = |error| Failure::Disk(path.to_owned(), error);
    let mut answered = false;
    let mut attempts = 0;
    let mut fetched = Fetched::AtOnce;
    loop {
        let before = part.metadata().map_err(disk)?.len();
        if let Size::Exactly(bytes) = size
            && bytes == before
        {
            return Ok(fetched);
        }
        let reason = match attempt(
            &agent,
            url,
            part,
            path,
            size,
            options,
            &mut answered,
            report,
        ) {
            Ok(()) => return Ok(fetched),
            Err(AttemptError::Permanent(failure)) => return Err(failure),
            Err(AttemptError::Transient(reason)) => reason,
        };
        let after = part.metadata().map_err(disk)?.len();
        if after > 0 {
            fetched = Fetched::InPieces;
        }
        if after < before.saturating_add(MIN_PROGRESS) {
            attempts += 1;
        }
        if attempts == MAX_ATTEMPTS {
            return Err(Failure::Unreachable(format!(
                "{reason}; no progress after {MAX_ATTEMPTS} attempts"
            )));
        }
        report(Phase::Retry(&reason), after, size.limit());
        sleep(options.retry_delay * attempts.max(1));
    }
}

fn agent(url: &str, options: &DownloadOptions) -> Agent {
    let timeout = Some(options.timeout);
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(timeout)
        .timeout_connect(timeout)
        .timeout_recv_response(timeout)
        .timeout_per_read(timeout)
        .user_agent(concat!("laq-datasets/", env!("CARGO_PKG_VERSION")))
        // With another encoding, ranges would refer to encoded bytes.
        .accept_encoding("identity");
    let host = url
        .parse::<Uri>()
        .ok()
        .and_then(|uri| uri.host().map(str::to_owned));
    if host.is_some_and(|host| ["127.0.0.1", "localhost", "[::1]"].contains(&host.as_str())) {
        config = config.proxy(None);
    }
    config.build().into()
}

fn attempt(
    agent: &Agent,
    url: &str,
    part: &mut File,
    path: &Path,
    size: Size,
    options: &DownloadOptions,
    answered: &mut bool,
    report: &mut dyn FnMut(Phase<'_>, u64, u64),
) -> Result<(), AttemptError> {
    let disk = |error| AttemptError::Permanent(Failure::Disk(path.to_owned(), error));
    let mut have = part.metadata().map_err(disk)?.len();
    if have >= size.limit() {
        part.set_len(0).map_err(disk)?;
        have = 0;
    }
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error) if *answered => return Err(AttemptError::Transient(describe(&error))),
        Err(error) => {
            let reason = format!("cannot be reached: {}", describe(&error));
            return Err(AttemptError::Permanent(Failure::Unreachable(reason)));
        }
    };
    *answered = true;

    let status = response.status();
    let from = match status {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        // Nothing is left to send where an earlier run received all of it.
        StatusCode::RANGE_NOT_SATISFIABLE
            if have > 0 && matches!(size, Size::Compressed { .. }) =>
        {
            return Ok(());
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            part.set_len(0).map_err(disk)?;
            return Err(AttemptError::Transient(
                "the server cannot resume the transfer".into(),
            ));
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(AttemptError::Permanent(Failure::Missing(format!(
                "the server answered {status}"
            ))));
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(AttemptError::Transient(format!(
                "the server answered {status}"
            )));
        }
        _ if status.is_server_error() => {
            return Err(AttemptError::Transient(format!(
                "the server answered {status}"
            )));
        }
        _ => {
            return Err(AttemptError::Permanent(Failure::Invalid(format!(
                "the server answered {status}"
            ))));
        }
    };
    let whole = content_length(&response).map(|length| length.saturating_add(from));
    if let Some(whole) = whole
        && !size.fits(whole)
    {
        let expected = match size {
            Size::Exactly(bytes) => format!("{bytes}"),
            Size::Compressed { .. } => format!("at most {}", size.limit()),
        };
        let reason = format!("found {whole} bytes, expected {expected}");
        return Err(AttemptError::Permanent(Failure::Invalid(reason)));
    }

    if let Some(whole) = whole
        && whole < have
    {
        let reason = format!(
            "found {whole} bytes, fewer than the {have} of {}; remove that file if it is of another download",
            path.display()
        );
        return Err(AttemptError::Permanent(Failure::Invalid(reason)));
    }

    // A server that ignores the range sends the file from its start: what `part` has is skipped.
    part.seek(SeekFrom::Start(have)).map_err(disk)?;
    let total = whole.unwrap_or(match size {
        Size::Exactly(bytes) | Size::Compressed { content: bytes } => bytes,
    });
    let mut done = from;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    report(Phase::Fetch(url), done, total);
    let mut window = (Instant::now(), done);
    loop {
        if window.0.elapsed() >= options.timeout {
            let received = done - window.1;
            if received < options.least_bytes {
                return Err(AttemptError::Transient(format!(
                    "the server sent {received} bytes in {:.0?} and {done} of {total} in all",
                    options.timeout
                )));
            }
            window = (Instant::now(), done);
        }
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let error = describe(&ureq::Error::from(error));
                return Err(AttemptError::Transient(format!(
                    "the transfer stopped after {done} of {total} bytes ({error})"
                )));
            }
        };
        let skipped = have.saturating_sub(done).min(read as u64) as usize;
        done += read as u64;
        if done > size.limit() {
            part.set_len(have).map_err(disk)?;
            let reason = format!("found more than {} bytes", size.limit());
            return Err(AttemptError::Permanent(Failure::Invalid(reason)));
        }
        part.write_all(&buffer[skipped..read]).map_err(disk)?;
        report(Phase::Fetch(url), done, total);
    }
    let whole = match size {
        Size::Exactly(bytes) => bytes,
        Size::Compressed { .. } => whole.unwrap_or(have),
    };
    match done < whole {
        true => Err(AttemptError::Transient(format!(
            "the transfer stopped after {done} of {whole} bytes"
        ))),
        false => Ok(()),
    }
}

/// Length of the body in bytes; unknown for an encoded response.
fn content_length(response: &Response<Body>) -> Option<u64> {
    let headers = response.headers();
    match headers.contains_key(header::CONTENT_ENCODING) {
        true => None,
        false => headers
            .get(header::CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok(),
    }
}

/// The first number of `Content-Range: bytes 100-199/200`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "unknown host name".into(),
        ureq::Error::Timeout(_) => "timeout".into(),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
