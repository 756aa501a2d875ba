//! Downloads from a server on this machine, and from folders, that go wrong in every way they can.

mod server;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use rand_chacha::rand_core::RngCore;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::server::{Reply, Server};
use super::*;
use crate::{Check, Fractions, Kind, SplitRule};

/// Content that cannot be compressed and repeats nowhere, so that a piece in the wrong place shows.
fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    crate::random::stream("test", &[]).fill_bytes(&mut content);
    content
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

/// A data set of one file `sub.txt` with this content, that a mirror may keep in the folder `kept`.
fn dataset(content: &[u8], urls: &[&'static str]) -> Dataset {
    let sum: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let file = DataFile {
        name: "sub.txt",
        mirror_path: "kept/sub.txt",
        urls: urls.to_vec().leak(),
        bytes: content.len() as u64,
        check: Check::Sha256(sum.leak()),
    };
    Dataset {
        name: "some-set",
        title: "Some set",
        files: vec![file].leak(),
        kind: Kind::Text {
            split: SplitRule::Fractions(Fractions {
                train: 0.8,
                validation: 0.1,
            }),
            symbols: 256,
        },
        stand_in: None,
    }
}

/// A data folder, and the options that keep tests quick.
struct Place {
    dir: TempDir,
    options: DownloadOptions,
}

impl Place {
    fn new() -> Self {
        let pause = Duration::ZERO;
        let patience = Duration::from_secs(20);
        Self {
            dir: tempfile::tempdir().unwrap(),
            options: DownloadOptions {
                mirror: None,
                pause,
                patience,
            },
        }
    }

    fn with_mirror(mirror: impl Into<String>) -> Self {
        let mut place = Self::new();
        place.options.mirror = Some(mirror.into());
        place
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir
            .path()
            .join("some-set")
            .join(format!("sub.txt{suffix}"))
    }

    fn put(&self, suffix: &str, content: &[u8]) {
        fs::create_dir_all(self.dir.path().join("some-set")).unwrap();
        fs::write(self.path(suffix), content).unwrap();
    }

    fn read(&self, suffix: &str) -> Option<Vec<u8>> {
        fs::read(self.path(suffix)).ok()
    }

    fn download(&self, dataset: &Dataset) -> Result<Outcome, DownloadError> {
        download(dataset, self.dir.path(), &self.options, &mut |_| {})
    }

    fn error(&self, dataset: &Dataset) -> String {
        let error = self.download(dataset).unwrap_err().to_string();
        assert!(!error.contains('\n'), "one paragraph: {error}");
        error
    }

    /// Whatever has happened, the file is there and whole, and nothing else is.
    fn assert_whole(&self, content: &[u8]) {
        assert!(self.read("").unwrap() == content);
        assert_eq!(self.names(), ["sub.txt"]);
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("some-set")) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn assert_has(words: &str, needles: &[&str]) {
    for needle in needles {
        assert!(words.contains(needle), "no {needle:?} in: {words}");
    }
}

/// An address at which nobody listens.
fn nobody() -> &'static str {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/sub.txt", listener.local_addr().unwrap()).leak()
}

#[test]
fn a_file_is_fetched_once() {
    let content = content(200_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let dataset = dataset(&content, &[server.url("sub.txt")]);
    let place = Place::new();
    let outcome = place.download(&dataset).unwrap();
    assert_eq!(
        outcome.files[0].action,
        Action::Fetched {
            from: server.url("sub.txt").into()
        }
    );
    assert_has(
        &outcome.to_string(),
        &[
            "some-set: ",
            "fetched from http://",
            "(checked: size and sha256)",
        ],
    );
    place.assert_whole(&content);

    let outcome = place.download(&dataset).unwrap();
    assert_eq!(outcome.files[0].action, Action::AlreadyGood);
    assert_eq!(server.requests(), [("sub.txt".to_owned(), None)]);
}

#[test]
fn progress_counts_up_to_the_size() {
    let content = content(300_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Part {
            content: served.clone(),
            bytes: 100_000,
        },
        _ => Reply::whole(&served),
    });
    let dataset = dataset(&content, &[server.url("sub.txt")]);
    let place = Place::new();
    let mut phases = Vec::new();
    let mut last = (0, 0);
    download(
        &dataset,
        place.dir.path(),
        &place.options,
        &mut |progress| {
            assert_eq!((progress.dataset, progress.file), ("some-set", "sub.txt"));
            assert!(progress.done <= progress.total);
            let phase = match progress.phase {
                Phase::Check => "check",
                Phase::Fetch(address) => {
                    assert_eq!(address, server.url("sub.txt"));
                    "fetch"
                }
                Phase::Retry(reason) => {
                    assert_has(reason, &["stopped after 100000 of 300000 bytes"]);
                    "retry"
                }
                Phase::Unpack => "unpack",
                Phase::Verify => "verify",
            };
            if phases.last() == Some(&phase) {
                assert!(progress.done >= last.0, "{phase} went back");
            }
            last = (progress.done, progress.total);
            if phases.last() != Some(&phase) {
                phases.push(phase);
            }
        },
    )
    .unwrap();
    assert_eq!(phases, ["check", "fetch", "retry", "fetch", "verify"]);
    assert_eq!(last, (300_000, 300_000));
}

#[test]
fn an_address_without_the_file_gives_way_to_the_next() {
    let content = content(5000);
    let served = content.clone();
    let server = Server::start(move |_, request| match request.0.as_str() {
        "gone/sub.txt" => Reply::status("404 Not Found"),
        "secret/sub.txt" => Reply::status("403 Forbidden"),
        _ => Reply::whole(&served),
    });
    let urls = [
        nobody(),
        server.url("gone/sub.txt"),
        server.url("secret/sub.txt"),
        server.url("sub.txt"),
    ];
    let place = Place::new();
    let outcome = place.download(&dataset(&content, &urls)).unwrap();
    let failed = &outcome.files[0].failed;
    assert_eq!(
        failed
            .iter()
            .map(|attempt| attempt.address.as_str())
            .collect::<Vec<_>>(),
        urls[..3]
    );
    assert_has(&failed[0].reason, &["cannot be reached"]);
    assert_has(&failed[1].reason, &["404"]);
    assert_has(&failed[2].reason, &["403"]);
    place.assert_whole(&content);
}

#[test]
fn the_error_lists_every_address_and_what_to_do() {
    let server = Server::start(|_, _| Reply::status("404 Not Found"));
    let urls = [server.url("a/sub.txt"), server.url("b/sub.txt"), nobody()];
    let place = Place::with_mirror(server.address.clone());
    let error = place.error(&dataset(&content(5000), &urls));
    assert_has(&error, &urls);
    assert_has(
        &error,
        &[
            "some-set: sub.txt",
            "404",
            "cannot be reached",
            "5000 bytes with sha256",
            "--mirror DIR|URL",
        ],
    );
    assert_has(
        &error,
        &["neither sub.txt nor kept/sub.txt nor some-set/sub.txt"],
    );
    assert!(place.names().is_empty());
    let asked: Vec<_> = server
        .requests()
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    let names = [
        "sub.txt",
        "sub.txt.gz",
        "kept/sub.txt",
        "kept/sub.txt.gz",
        "some-set/sub.txt",
        "some-set/sub.txt.gz",
    ];
    assert_eq!(asked[..6], names);
}

#[test]
fn a_stopped_transfer_goes_on_where_it_was() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::Part {
        content: served.clone(),
        bytes: 4000,
    });
    let place = Place::new();
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(4000), Some(8000)]);
    place.assert_whole(&content);
}

#[test]
fn a_silent_server_counts_as_stopped() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Stall {
            content: served.clone(),
            bytes: 6000,
        },
        _ => Reply::whole(&served),
    });
    let mut place = Place::new();
    place.options.patience = Duration::from_millis(300);
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(6000)]);
    place.assert_whole(&content);
}

#[test]
fn the_next_run_goes_on_where_the_last_one_gave_up() {
    let content = content(10_000);
    let served = content.clone();
    let broken = Server::start(move |number, _| match number {
        0 => Reply::Part {
            content: served.clone(),
            bytes: 7000,
        },
        _ => Reply::Part {
            content: served.clone(),
            bytes: 0,
        },
    });
    let place = Place::new();
    let error = place.error(&dataset(&content, &[broken.url("sub.txt")]));
    assert_has(
        &error,
        &[
            "stopped after 7000 of 10000 bytes",
            "7000 bytes stay in",
            "sub.txt.part",
        ],
    );
    assert_eq!(broken.ranges(), [None, Some(7000), Some(7000), Some(7000)]);
    assert!(place.read(".part").unwrap() == content[..7000]);
    assert_eq!(place.read(""), None);

    let served = content.clone();
    let whole = Server::start(move |_, _| Reply::whole(&served));
    place
        .download(&dataset(&content, &[whole.url("sub.txt")]))
        .unwrap();
    assert_eq!(whole.ranges(), [Some(7000)]);
    place.assert_whole(&content);
}

#[test]
fn another_address_goes_on_where_the_first_gave_up() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, request| match (number, request.0.as_str()) {
        (0, "a/sub.txt") => Reply::Part {
            content: served.clone(),
            bytes: 3000,
        },
        (_, "a/sub.txt") => Reply::status("500 Internal Server Error"),
        _ => Reply::whole(&served),
    });
    let place = Place::new();
    let outcome = place
        .download(&dataset(
            &content,
            &[server.url("a/sub.txt"), server.url("b/sub.txt")],
        ))
        .unwrap();
    assert_has(&outcome.files[0].failed[0].reason, &["500"]);
    assert_eq!(
        server.requests().last().unwrap(),
        &("b/sub.txt".to_owned(), Some(3000))
    );
    place.assert_whole(&content);
}

/// A transfer that moves on is not given up, however often it stops.
#[test]
fn a_server_that_stops_often_but_moves_on_gets_there() {
    let content = content(700_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::Part {
        content: served.clone(),
        bytes: 70_000,
    });
    let place = Place::new();
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.requests().len(), 10);
    place.assert_whole(&content);
}

#[test]
fn a_server_that_ignores_ranges_starts_over() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::ignoring_range(&served));
    let place = Place::new();
    place.put(".part", &content[..6000]);
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [Some(6000)]);
    place.assert_whole(&content);
}

/// What an earlier run left is gone as soon as a server starts over, so that it cannot end up behind new bytes.
#[test]
fn starting_over_forgets_what_was_there() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Raw {
            status: "200 OK",
            headers: "Content-Length: 10000\r\n".into(),
            body: served[..3000].to_vec(),
        },
        _ => Reply::whole(&served),
    });
    let place = Place::new();
    place.put(".part", &[7; 6000]);
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [Some(6000), Some(3000)]);
    place.assert_whole(&content);
}

/// Without a length in the answer, the end of the connection may be the end of the file or not.
#[test]
fn an_answer_without_a_length_that_ends_early_is_taken_up() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Raw {
            status: "200 OK",
            headers: String::new(),
            body: served[..3000].to_vec(),
        },
        _ => Reply::whole(&served),
    });
    let place = Place::new();
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(3000)]);
    place.assert_whole(&content);
}

#[test]
fn a_server_that_sends_another_range_starts_over() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, request| match request.1 {
        None => Reply::whole(&served),
        Some(_) => Reply::Raw {
            status: "206 Partial Content",
            headers: "Content-Range: bytes 0-9999/10000\r\nContent-Length: 10000\r\n".into(),
            body: served.clone(),
        },
    });
    let place = Place::new();
    place.put(".part", &content[..6000]);
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [Some(6000), None]);
    place.assert_whole(&content);
}

/// A .part file that is whole needs no request; one that is too long is dropped.
#[test]
fn odd_part_files_are_dealt_with() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let dataset = dataset(&content, &[server.url("sub.txt")]);
    let place = Place::new();
    place.put(".part", &content);
    place.download(&dataset).unwrap();
    assert!(server.requests().is_empty());
    place.assert_whole(&content);

    let place = Place::new();
    place.put(".part", &vec![1; 20_000]);
    place.download(&dataset).unwrap();
    assert_eq!(server.ranges(), [None]);
    place.assert_whole(&content);
}

/// The bytes of an earlier run may be the bad ones, so the address that finished them gets a second chance.
#[test]
fn a_bad_beginning_is_fetched_again() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let place = Place::new();
    place.put(".part", &[7; 6000]);
    let outcome = place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert!(outcome.files[0].failed.is_empty());
    assert_eq!(server.ranges(), [Some(6000), None]);
    place.assert_whole(&content);
}

#[test]
fn altered_content_is_thrown_away() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, request| {
        let mut altered = served.clone();
        altered[5000] ^= u8::from(request.0 == "a/sub.txt");
        Reply::whole(&altered)
    });
    let place = Place::new();
    let error = place.error(&dataset(&content, &[server.url("a/sub.txt")]));
    assert_has(
        &error,
        &["a/sub.txt (its content is altered (sha256 ", "--mirror"],
    );
    assert!(place.names().is_empty());

    let urls = [server.url("a/sub.txt"), server.url("b/sub.txt")];
    let outcome = place.download(&dataset(&content, &urls)).unwrap();
    assert_has(
        &outcome.to_string(),
        &["fetched from", "not from", "altered"],
    );
    assert_eq!(
        server.requests().last().unwrap(),
        &("b/sub.txt".to_owned(), None)
    );
    place.assert_whole(&content);
}

/// A page that says sorry with status 200 has another size, and leaves an unfinished transfer as it is.
#[test]
fn an_answer_of_another_size_is_refused_unread() {
    let server = Server::start(|_, _| Reply::ignoring_range(b"<html>sorry</html>"));
    let content = content(10_000);
    let place = Place::new();
    place.put(".part", &content[..6000]);
    let error = place.error(&dataset(&content, &[server.url("sub.txt")]));
    assert_has(
        &error,
        &["offers 18 bytes, expected 10000", "6000 bytes stay in"],
    );
    assert!(place.read(".part").unwrap() == content[..6000]);
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let server = Server::start(|_, _| Reply::Raw {
        status: "200 OK",
        headers: String::new(),
        body: vec![b'x'; 2_000_000],
    });
    let place = Place::new();
    let error = place.error(&dataset(&content(10_000), &[server.url("sub.txt")]));
    assert_has(&error, &["sends more than 10000 bytes"]);
    assert!(place.names().is_empty());
}

#[test]
fn a_busy_server_is_asked_again() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::status("503 Service Unavailable"),
        1 => Reply::status("429 Too Many Requests"),
        _ => Reply::whole(&served),
    });
    let place = Place::new();
    place
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    place.assert_whole(&content);
}

#[test]
fn a_redirect_is_followed() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, request| match request.0.as_str() {
        "old/sub.txt" => Reply::Raw {
            status: "302 Found",
            headers: "Location: /new/sub.txt\r\nContent-Length: 0\r\n".into(),
            body: Vec::new(),
        },
        _ => Reply::whole(&served),
    });
    let place = Place::new();
    place
        .download(&dataset(&content, &[server.url("old/sub.txt")]))
        .unwrap();
    place.assert_whole(&content);
}

/// A mirror on the network may hold the file under any of its names, compressed or not.
#[test]
fn a_mirror_on_the_network_is_searched() {
    let content = content(10_000);
    for name in [
        "sub.txt",
        "sub.txt.gz",
        "kept/sub.txt",
        "kept/sub.txt.gz",
        "some-set/sub.txt.gz",
    ] {
        let served = content.clone();
        let server =
            Server::start(
                move |_, request| match (request.0 == name, name.ends_with(".gz")) {
                    (true, true) => Reply::whole(&gzip(&served)),
                    (true, false) => Reply::whole(&served),
                    (false, _) => Reply::status("404 Not Found"),
                },
            );
        let place = Place::with_mirror(format!("{}/", server.address));
        let outcome = place.download(&dataset(&content, &[nobody()])).unwrap();
        assert_eq!(
            outcome.files[0].action,
            Action::Fetched {
                from: server.url(name).into()
            }
        );
        assert!(outcome.files[0].failed.is_empty());
        place.assert_whole(&content);
    }
}

#[test]
fn a_compressed_transfer_goes_on_where_it_was() {
    let content = content(10_000);
    let packed = gzip(&content);
    let server = Server::start(move |_, _| Reply::Part {
        content: packed.clone(),
        bytes: 4000,
    });
    let place = Place::new();
    place.put(".part", &content[..100]);
    place
        .download(&dataset(&content, &[server.url("sub.txt.gz")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(4000), Some(8000)]);
    place.assert_whole(&content);
}

/// Some servers label the .gz file as an encoding, and the client then unpacks it on the way.
#[test]
fn a_file_that_was_unpacked_on_the_way_is_taken() {
    let content = content(10_000);
    let packed = gzip(&content);
    let server = Server::start(move |_, _| Reply::Raw {
        status: "200 OK",
        headers: format!(
            "Content-Encoding: gzip\r\nContent-Length: {}\r\n",
            packed.len()
        ),
        body: packed.clone(),
    });
    let place = Place::new();
    place
        .download(&dataset(&content, &[server.url("sub.txt.gz")]))
        .unwrap();
    place.assert_whole(&content);
}

#[test]
fn broken_or_wrong_compressed_files_are_refused() {
    let content = content(10_000);
    let mut longer = content.clone();
    longer.push(b'x');
    let (mut broken, cut, empty) = (gzip(&content), gzip(&content)[..5000].to_vec(), Vec::new());
    broken[6000] ^= 0xff;
    let cases = [
        (broken, "cannot be read"),
        (cut, "cannot be read"),
        (gzip(&longer), "too long"),
        (empty, "empty"),
    ];
    for (packed, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sub.txt.gz"), &packed).unwrap();
        let place = Place::with_mirror(folder.path().to_str().unwrap());
        let error = place.error(&dataset(&content, &[]));
        assert_has(&error, &["sub.txt.gz", words]);
        assert!(place.names().is_empty());

        let server = Server::start(move |_, _| Reply::ignoring_range(&packed));
        let place = Place::new();
        assert_has(
            &place.error(&dataset(&content, &[server.url("sub.txt.gz")])),
            &[words],
        );
        assert!(place.names().is_empty());
    }
}

#[test]
fn a_mirror_folder_is_searched_and_never_changed() {
    let content = content(10_000);
    for name in [
        "sub.txt",
        "sub.txt.gz",
        "kept/sub.txt",
        "kept/sub.txt.gz",
        "some-set/sub.txt",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let stored = if name.ends_with(".gz") {
            gzip(&content)
        } else {
            content.clone()
        };
        fs::write(&path, &stored).unwrap();
        let place = Place::with_mirror(folder.path().to_str().unwrap());
        place.put(".part", &content[..100]);
        place.download(&dataset(&content, &[])).unwrap();
        place.assert_whole(&content);
        assert!(fs::read(path).unwrap() == stored);
    }
}

/// A bad file in a mirror is told of, and the good one behind it is taken.
#[test]
fn a_mirror_folder_with_a_bad_and_a_good_file_serves() {
    let content = content(10_000);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("kept")).unwrap();
    fs::create_dir(folder.path().join("sub.txt")).unwrap();
    fs::write(folder.path().join("sub.txt.gz"), gzip(b"something else")).unwrap();
    fs::write(folder.path().join("kept/sub.txt"), &content).unwrap();
    let place = Place::with_mirror(folder.path().to_str().unwrap());
    let outcome = place.download(&dataset(&content, &[])).unwrap();
    assert_eq!(outcome.files[0].failed.len(), 1);
    assert_has(
        &outcome.files[0].failed[0].reason,
        &["cut short (14 bytes, expected 10000)"],
    );
    place.assert_whole(&content);
}

#[test]
fn an_altered_file_is_reported_and_replaced_by_a_verified_one_alone() {
    let content = content(10_000);
    let mut altered = content.clone();
    altered[0] ^= 1;
    let served = content.clone();
    let server = Server::start(move |_, request| match request.0.as_str() {
        "bad/sub.txt" => Reply::whole(&vec![0; 10_000]),
        _ => Reply::whole(&served),
    });
    for (found, words) in [
        (&altered[..], "altered"),
        (&content[..10], "cut short"),
        (b"", "empty"),
    ] {
        let place = Place::new();
        place.put("", found);
        let error = place.error(&dataset(&content, &[server.url("bad/sub.txt")]));
        assert_has(&error, &[words, "was left as it is"]);
        assert!(place.read("").unwrap() == found);

        let outcome = place
            .download(&dataset(&content, &[server.url("sub.txt")]))
            .unwrap();
        assert!(matches!(outcome.files[0].action, Action::Replaced { .. }));
        assert_has(&outcome.to_string(), &[words, "replaced from"]);
        place.assert_whole(&content);
    }
}

#[test]
fn a_mirror_that_is_not_there_is_an_error_at_once() {
    let place = Place::with_mirror("/no/such/folder");
    assert_has(
        &place.error(&dataset(b"x", &[nobody()])),
        &["/no/such/folder", "not a folder", "https://"],
    );
    assert!(place.names().is_empty());
}

#[test]
fn a_stand_in_without_a_mirror_says_what_it_is() {
    let place = Place::new();
    let stand_in = crate::find("linux-6.1-kernel").unwrap();
    let error = place.error(stand_in);
    assert_has(
        &error,
        &[
            "stands in for linux-kernel",
            "no canonical address",
            "6206996 bytes",
            "--mirror",
        ],
    );
    let outcome = place.download(crate::find("demo").unwrap()).unwrap();
    assert_has(&outcome.to_string(), &["demo", "nothing to fetch"]);
}

#[test]
fn a_text_without_a_checksum_is_reported_as_such() {
    let content = content(10_000);
    let mut file = dataset(&content, &[]).files[0];
    file.check = Check::Symbols(256);
    let dataset = Dataset {
        files: vec![file].leak(),
        ..dataset(&content, &[])
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sub.txt"), vec![b'x'; 10_000]).unwrap();
    let place = Place::with_mirror(folder.path().to_str().unwrap());
    assert_has(&place.error(&dataset), &["1 distinct bytes, expected 256"]);
    fs::write(folder.path().join("sub.txt"), &content).unwrap();
    let outcome = place.download(&dataset).unwrap();
    assert_has(
        &outcome.to_string(),
        &["size and number of symbols only; no checksum is known"],
    );
}

#[test]
fn a_second_process_is_turned_away() {
    let content = content(10_000);
    let place = Place::new();
    place.put(".part", b"");
    let other = open(&place.path(".part")).unwrap();
    other.try_lock().unwrap();
    assert_has(
        &place.error(&dataset(&content, &[nobody()])),
        &["another process", "sub.txt"],
    );
    drop(other);
    assert_has(
        &place.error(&dataset(&content, &[nobody()])),
        &["could not be had"],
    );
}

/// `/dev/full` is a disk without space.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sub.txt"), &content).unwrap();
    let by_network = (Place::new(), ".part");
    let by_folder = (Place::with_mirror(folder.path().to_str().unwrap()), ".new");
    for (place, suffix) in [by_network, by_folder] {
        place.put("", b"what was there");
        std::os::unix::fs::symlink("/dev/full", place.path(suffix)).unwrap();
        let error = place.error(&dataset(&content, &[server.url("sub.txt"), nobody()]));
        assert_has(
            &error,
            &["no space is left", suffix, "10000 bytes", "run again"],
        );
        assert_eq!(place.read("").unwrap(), b"what was there");
    }
    assert_eq!(
        server.requests().len(),
        1,
        "no second address is asked when the disk is full"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    fs::write(place.dir.path().join("some-set"), b"a file in the way").unwrap();
    assert_has(
        &place.error(&dataset(b"x", &[nobody()])),
        &["some-set", "cannot be read or written"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// However often a server stops, ignores ranges or errs, and whatever an earlier run left: either the file is
    /// whole or there is none, and a good server then always brings it.
    #[test]
    fn a_bad_server_never_leaves_a_bad_file(
        behaviour in proptest::collection::vec((0usize..6, 0usize..3000), 1..12),
        left in proptest::option::of((0usize..4000, any::<bool>())),
    ) {
        let content = content(3000);
        let place = Place::new();
        if let Some((bytes, good)) = left {
            let mut part = content.repeat(2)[..bytes].to_vec();
            if !good {
                part.iter_mut().for_each(|byte| *byte ^= 1);
            }
            place.put(".part", &part);
        }
        let served = content.clone();
        let server = Server::start(move |number, _| match behaviour[number % behaviour.len()] {
            (0, _) => Reply::status("500 Internal Server Error"),
            (1, _) => Reply::ignoring_range(&served),
            (2, bytes) => Reply::Raw { status: "200 OK", headers: String::new(), body: served[..bytes].to_vec() },
            (3, bytes) => {
                let mut altered = served.clone();
                altered[bytes] ^= 1;
                Reply::whole(&altered)
            }
            (_, bytes) => Reply::Part { content: served.clone(), bytes },
        });
        let first = place.download(&dataset(&content, &[server.url("sub.txt")]));
        prop_assert_eq!(first.is_ok(), place.read("").is_some());
        if first.is_ok() {
            place.assert_whole(&content);
        }
        let served = content.clone();
        let good = Server::start(move |_, _| Reply::whole(&served));
        place.download(&dataset(&content, &[good.url("sub.txt")])).unwrap();
        place.assert_whole(&content);
    }
}
