//! A hostile server. What is downloaded is right or refused, and nothing else gets the name of the file.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::case::{Case, ensure};
use super::random::Random;

/// The only files of the catalogue without a checksum have a length and a number of different bytes.
const DATASET: &str = "linux-kernel";
const FILE: &str = "data/linux-kernel/linux_input.txt";
const LENGTH: usize = 6_206_996;
const SYMBOLS: usize = 101;

/// What the server does with a request. Without other words it sends the content, from the start of the range that is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Good,
    Status(u16),
    /// Closes the connection before the end.
    Cut(usize),
    /// Names another length.
    Length(usize),
    OtherContent,
    IgnoredRange,
    OtherRange,
    Redirect(&'static str),
    EndlessHeaders,
    EndlessBody,
    EndlessChunk,
    SlowStart,
    Garbage,
    Nothing,
}

impl Answer {
    fn draw(random: &Random) -> Self {
        const STATUS: [u16; 9] = [204, 301, 403, 404, 416, 429, 500, 503, 999];
        const LENGTHS: [usize; 5] = [0, 1, LENGTH - 1, LENGTH + 1, usize::MAX];
        const TARGETS: [&str; 5] = [
            "/again",
            "//",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "\u{1}",
        ];
        match random.below(18) {
            0 | 1 => Self::Status(random.pick(&STATUS)),
            2..=4 => Self::Cut(random.below(LENGTH)),
            5 => Self::Length(random.pick(&LENGTHS)),
            6 => Self::OtherContent,
            7 => Self::IgnoredRange,
            8 => Self::OtherRange,
            9 => Self::Redirect(random.pick(&TARGETS)),
            10 => Self::EndlessHeaders,
            11 => Self::EndlessBody,
            12 => Self::EndlessChunk,
            13 => Self::SlowStart,
            14 => Self::Garbage,
            15 => Self::Nothing,
            _ => Self::Good,
        }
    }
}

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    let content: Vec<u8> = (0..LENGTH)
        .map(|at| (at * at % 8191 % SYMBOLS) as u8 + b' ')
        .collect();
    let mut answers: Vec<Answer> = (0..1 + random.below(5))
        .map(|_| Answer::draw(random))
        .collect();
    if random.one_in(2) {
        answers.push(Answer::Good);
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let is_over = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            let mut answers = answers.iter();
            let streams = listener.incoming().map_while(Result::ok);
            for stream in streams.take_while(|_| !is_over.load(Ordering::Relaxed)) {
                let answer = answers.next().unwrap_or(&Answer::Status(404));
                // The other side may hang up.
                let _ = reply(&stream, *answer, &content);
            }
        });
        // The addresses of the catalogue are not asked: nothing listens where the proxy should be.
        let laq = case.laq(&format!(
            "download {DATASET} --mirror http://{address} --quiet"
        ));
        let ended = laq.variable("ALL_PROXY", "http://127.0.0.1:9").run();
        is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(address);
        ended
    })?;
    let is_good = ended.good_or_refused()?.is_good();
    let file = case.read(FILE).ok();
    ensure(
        file == is_good.then_some(content),
        format!(
            "{} from {answers:?}",
            if is_good { "the content" } else { "no file" }
        ),
        || format!("{:?} bytes", file.map(|file| file.len())),
    )?;
    let is_verified = !case.path(&format!("{FILE}.new")).exists();
    ensure(is_verified, "no unverified file", || format!("{FILE}.new"))
}

/// Answers a request.
fn reply(mut stream: &TcpStream, answer: Answer, content: &[u8]) -> io::Result<()> {
    let timeout = Some(Duration::from_secs(10));
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)?;
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let other = match answer {
        Answer::OtherContent => vec![0; 8 * LENGTH],
        _ => Vec::new(),
    };
    let content = if other.is_empty() { content } else { &other };
    let compressed;
    let content = match request.first() {
        Some(first) if first.contains(".gz ") => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(content)?;
            compressed = encoder.finish()?;
            &compressed
        }
        _ => &content[..LENGTH],
    };
    let asked = request.iter().find_map(|line| {
        let range = line
            .to_ascii_lowercase()
            .strip_prefix("range: bytes=")?
            .to_owned();
        range.strip_suffix('-')?.parse::<usize>().ok()
    });
    let start = asked.unwrap_or(0).min(content.len());
    let status = if asked.is_some() {
        "206 Partial Content"
    } else {
        "200 OK"
    };
    let (size, rest) = (content.len(), &content[start..]);
    let head = |status: &str, length: usize, from: usize| {
        let range = format!("Content-Range: bytes {from}-{}/{size}", size - 1);
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}\r\nConnection: close\r\n\r\n"
        )
    };
    let good = head(status, rest.len(), start);
    let (head, body, times) = match answer {
        Answer::Good | Answer::OtherContent | Answer::SlowStart => (good, rest, 1),
        Answer::Status(code) => (head(&code.to_string(), 0, 0), &[][..], 1),
        Answer::Cut(at) => (good, &rest[..at.min(rest.len())], 1),
        Answer::Length(length) => (head(status, length, start), rest, 1),
        Answer::IgnoredRange => (head("200 OK", size, 0), content, 1),
        Answer::OtherRange => (head("206 Partial Content", size - 1, 1), &content[1..], 1),
        Answer::Redirect(to) => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            (head, &[][..], 1)
        }
        Answer::EndlessHeaders => (
            "HTTP/1.1 200 OK\r\n".into(),
            &b"X-More: and more\r\n"[..],
            1 << 22,
        ),
        Answer::EndlessBody => ("HTTP/1.1 200 OK\r\n\r\n".into(), content, 10),
        Answer::EndlessChunk => {
            let chunk = "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
            (format!("HTTP/1.1 200 OK\r\n{chunk}"), content, 10)
        }
        Answer::Garbage => (String::new(), &content[..4096], 1),
        Answer::Nothing => (String::new(), &[][..], 1),
    };
    stream.write_all(head.as_bytes())?;
    let slowly = if answer == Answer::SlowStart {
        body.len().min(20)
    } else {
        0
    };
    for byte in &body[..slowly] {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(50));
    }
    (0..times).try_for_each(|_| stream.write_all(&body[slowly..]))?;
    stream.shutdown(Shutdown::Both)
}
