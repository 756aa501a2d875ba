//! One file over HTTP, taken up where it stopped.
//!
//! Knows nothing of data sets: it fills a file with what an address sends, and says why where it cannot.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::{DownloadOptions, Failure, Phase};

/// An address is given up after so many tries that brought fewer than [`ENOUGH`] bytes.
const TRIES: u32 = 4;
/// A try that brought so many bytes before it stopped does not count: the file gets there in the end.
const ENOUGH: u64 = 1 << 16;

/// What is known of the size of what an address sends.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// So many bytes.
    Exactly(u64),
    /// So many bytes in compressed form.
    Packed { content: u64 },
}

impl Size {
    /// No honest answer is longer.
    fn limit(self) -> u64 {
        match self {
            Self::Exactly(bytes) => bytes,
            // Gzip adds a header and 5 bytes to each block where it cannot compress.
            Self::Packed { content } => content + content / 64 + 4096,
        }
    }

    fn fits(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(expected) => bytes == expected,
            Self::Packed { .. } => bytes <= self.limit(),
        }
    }
}

/// How one try ended that did not bring the file.
enum Stop {
    /// Trying again may help.
    ForNow(String),
    /// It will not.
    ForGood(Failure),
}

/// Fills `part`, which lies at `path`, with what `url` sends; what `part` already holds is asked for no more.
pub(super) fn fetch(
    url: &str,
    part: &mut File,
    path: &Path,
    size: Size,
    options: &DownloadOptions,
    tell: &mut dyn FnMut(Phase<'_>, u64, u64),
) -> Result<(), Failure> {
    let agent = agent(url, options);
    let disk = |error| Failure::Disk(path.to_owned(), error);
    let mut answered = false;
    let mut tries = 0;
    loop {
        let before = part.metadata().map_err(disk)?.len();
        if let Size::Exactly(bytes) = size
            && bytes == before
        {
            return Ok(());
        }
        let reason = match one_try(&agent, url, part, path, size, &mut answered, tell) {
            Ok(()) => return Ok(()),
            Err(Stop::ForGood(failure)) => return Err(failure),
            Err(Stop::ForNow(reason)) => reason,
        };
        let after = part.metadata().map_err(disk)?.len();
        if after < before.saturating_add(ENOUGH) {
            tries += 1;
        }
        if tries == TRIES {
            return Err(Failure::Unreachable(format!(
                "{reason}, and {TRIES} tries brought no more"
            )));
        }
        tell(Phase::Retry(&reason), after, size.limit());
        sleep(options.pause * tries.max(1));
    }
}

fn agent(url: &str, options: &DownloadOptions) -> Agent {
    let patience = Some(options.patience);
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(patience)
        .timeout_connect(patience)
        .timeout_recv_response(patience)
        .timeout_per_read(patience)
        .user_agent(concat!("laq-datasets/", env!("CARGO_PKG_VERSION")))
        // A range of an encoded answer would be a range of other bytes.
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

fn one_try(
    agent: &Agent,
    url: &str,
    part: &mut File,
    path: &Path,
    size: Size,
    answered: &mut bool,
    tell: &mut dyn FnMut(Phase<'_>, u64, u64),
) -> Result<(), Stop> {
    let disk = |error| Stop::ForGood(Failure::Disk(path.to_owned(), error));
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
        Err(error) if *answered => return Err(Stop::ForNow(in_words(&error))),
        Err(error) => {
            let reason = format!("it cannot be reached: {}", in_words(&error));
            return Err(Stop::ForGood(Failure::Unreachable(reason)));
        }
    };
    *answered = true;

    let status = response.status();
    let from = match status {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            part.set_len(0).map_err(disk)?;
            return Err(Stop::ForNow(
                "the server could not go on where the transfer had stopped".into(),
            ));
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(Stop::ForGood(Failure::NotThere(format!(
                "the server answered {status}"
            ))));
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(Stop::ForNow(format!("the server answered {status}")));
        }
        _ if status.is_server_error() => {
            return Err(Stop::ForNow(format!("the server answered {status}")));
        }
        _ => {
            return Err(Stop::ForGood(Failure::Bad(format!(
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
            Size::Packed { .. } => format!("at most {}", size.limit()),
        };
        let reason = format!("it offers {whole} bytes, expected {expected}");
        return Err(Stop::ForGood(Failure::Bad(reason)));
    }

    // A server that ignores the range sends the file from its start, so what is there makes room.
    if from != have {
        part.set_len(from).map_err(disk)?;
    }
    part.seek(SeekFrom::Start(from)).map_err(disk)?;
    let total = whole.unwrap_or(match size {
        Size::Exactly(bytes) | Size::Packed { content: bytes } => bytes,
    });
    let mut done = from;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    tell(Phase::Fetch(url), done, total);
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let error = in_words(&ureq::Error::from(error));
                return Err(Stop::ForNow(format!(
                    "the transfer stopped after {done} of {total} bytes ({error})"
                )));
            }
        };
        done += read as u64;
        if done > size.limit() {
            part.set_len(0).map_err(disk)?;
            let reason = format!("it sends more than {} bytes", size.limit());
            return Err(Stop::ForGood(Failure::Bad(reason)));
        }
        part.write_all(&buffer[..read]).map_err(disk)?;
        tell(Phase::Fetch(url), done, total);
    }
    match (whole, size) {
        (Some(whole), _) | (None, Size::Exactly(whole)) if done < whole => Err(Stop::ForNow(
            format!("the transfer stopped after {done} of {whole} bytes"),
        )),
        _ => Ok(()),
    }
}

/// Length of the body as the bytes that will be read, which an encoded answer does not tell.
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

fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "its host name is not known".into(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
