//! A local HTTP server with scripted replies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request: the path without the leading slash, and the first byte of the range.
pub(super) type Request = (String, Option<usize>);

/// The reply to a request.
pub(super) enum Reply {
    /// Sends a status line, headers and a body, then closes.
    Raw {
        status: &'static str,
        headers: String,
        body: Vec<u8>,
    },
    /// Sends at most `bytes` bytes of `content` from the start of the range.
    Part { content: Vec<u8>, bytes: usize },
    /// As `Part`, then keeps the connection open until the client closes it.
    Stall { content: Vec<u8>, bytes: usize },
    /// As `Part`, then a byte every 20 ms until the client closes the connection.
    Trickle { content: Vec<u8>, bytes: usize },
}

impl Reply {
    pub(super) fn whole(content: &[u8]) -> Self {
        Self::Part {
            content: content.to_vec(),
            bytes: content.len(),
        }
    }

    pub(super) fn status(status: &'static str) -> Self {
        let body = b"<html>no</html>".to_vec();
        Self::Raw {
            status,
            headers: format!("Content-Length: {}\r\n", body.len()),
            body,
        }
    }

    /// The complete file, ignoring the range.
    pub(super) fn ignoring_range(content: &[u8]) -> Self {
        let headers = format!("Content-Length: {}\r\n", content.len());
        Self::Raw {
            status: "200 OK",
            headers,
            body: content.to_vec(),
        }
    }
}

pub(super) struct Server {
    pub(super) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers requests with `reply`, a function of the index of the request and the request.
    pub(super) fn start(mut reply: impl FnMut(usize, &Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&stream) else {
                    continue;
                };
                seen.lock().unwrap().push(request.clone());
                // The client may close the connection at any time.
                let _ = answer(&mut stream, reply(number, &request), request.1);
            }
        });
        Self { address, requests }
    }

    pub(super) fn url(&self, path: &str) -> &'static str {
        format!("{}/{path}", self.address).leak()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The first bytes of the requested ranges.
    pub(super) fn ranges(&self) -> Vec<Option<usize>> {
        self.requests()
            .into_iter()
            .map(|(_, range)| range)
            .collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines
        .next()?
        .ok()?
        .split(' ')
        .nth(1)?
        .trim_start_matches('/')
        .to_owned();
    let mut range = None;
    for line in lines {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(start) = line.strip_prefix("range: bytes=") {
            range = start.trim_end_matches('-').parse().ok();
        }
    }
    Some((path, range))
}

fn answer(stream: &mut TcpStream, reply: Reply, range: Option<usize>) -> std::io::Result<()> {
    let trickles = matches!(reply, Reply::Trickle { .. });
    let (content, bytes, stall) = match reply {
        Reply::Raw {
            status,
            headers,
            body,
        } => {
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n"
            )?;
            return stream.write_all(&body);
        }
        Reply::Part { content, bytes } | Reply::Trickle { content, bytes } => {
            (content, bytes, false)
        }
        Reply::Stall { content, bytes } => (content, bytes, true),
    };
    let total = content.len();
    let start = range.unwrap_or(0);
    if start >= total {
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
    }
    let head = match range {
        None => "200 OK\r\n".to_owned(),
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\n",
            total - 1
        ),
    };
    write!(
        stream,
        "HTTP/1.1 {head}Connection: close\r\nContent-Length: {}\r\n\r\n",
        total - start
    )?;
    let sent = (start + bytes).min(total);
    stream.write_all(&content[start..sent])?;
    if trickles {
        for byte in &content[sent..] {
            thread::sleep(Duration::from_millis(20));
            stream.write_all(&[*byte])?;
        }
    }
    if stall {
        stream.flush()?;
        stream.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
