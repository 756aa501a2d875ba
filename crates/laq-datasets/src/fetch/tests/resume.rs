//! Resumption of interrupted transfers.

use super::*;

#[test]
fn an_interrupted_transfer_is_resumed() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::Part {
        content: served.clone(),
        bytes: 4000,
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(4000), Some(8000)]);
    fixture.assert_complete(&content);
}

#[test]
fn a_stalled_transfer_is_resumed_after_the_timeout() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Stall {
            content: served.clone(),
            bytes: 6000,
        },
        _ => Reply::whole(&served),
    });
    let mut fixture = Fixture::new();
    fixture.options.timeout = Duration::from_millis(300);
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(6000)]);
    fixture.assert_complete(&content);
}

/// A byte comes before every timeout, but 10,000 of them would take minutes.
#[test]
fn a_trickling_transfer_is_resumed() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Trickle {
            content: served.clone(),
            bytes: 6000,
        },
        _ => Reply::whole(&served),
    });
    let mut fixture = Fixture::new();
    fixture.options.timeout = Duration::from_millis(300);
    fixture.options.least_bytes = 1000;
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    let ranges = server.ranges();
    assert!(matches!(ranges[..], [None, Some(6000..7000)]), "{ranges:?}");
    fixture.assert_complete(&content);
}

/// The first response is cut and of an older content of the same size.
#[test]
fn a_file_that_changes_between_two_responses_is_fetched_again() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Part {
            content: vec![7; 10_000],
            bytes: 4000,
        },
        _ => Reply::whole(&served),
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(4000), None]);
    fixture.assert_complete(&content);
}

#[test]
fn the_next_run_resumes_a_failed_transfer() {
    let content = random_content(10_000);
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
    let fixture = Fixture::new();
    let error = fixture.error(&dataset(&content, &[broken.url("sub.txt")]));
    assert_has(
        &error,
        &[
            "stopped after 7000 of 10000 bytes",
            "7000 bytes in",
            "sub.txt.part",
        ],
    );
    assert_eq!(broken.ranges(), [None, Some(7000), Some(7000), Some(7000)]);
    assert!(fixture.read(".part").unwrap() == content[..7000]);
    assert_eq!(fixture.read(""), None);

    let served = content.clone();
    let whole = Server::start(move |_, _| Reply::whole(&served));
    fixture
        .download(&dataset(&content, &[whole.url("sub.txt")]))
        .unwrap();
    assert_eq!(whole.ranges(), [Some(7000)]);
    fixture.assert_complete(&content);
}

#[test]
fn another_address_resumes_a_failed_transfer() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, request| match (number, request.0.as_str()) {
        (0, "a/sub.txt") => Reply::Part {
            content: served.clone(),
            bytes: 3000,
        },
        (_, "a/sub.txt") => Reply::status("500 Internal Server Error"),
        _ => Reply::whole(&served),
    });
    let fixture = Fixture::new();
    let outcome = fixture
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
    fixture.assert_complete(&content);
}

/// A transfer that moves on is not given up, however often it stops.
#[test]
fn attempts_with_progress_are_not_limited() {
    let content = random_content(700_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::Part {
        content: served.clone(),
        bytes: 70_000,
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.requests().len(), 10);
    fixture.assert_complete(&content);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::ignoring_range(&served));
    let fixture = Fixture::new();
    fixture.put(".part", &content[..6000]);
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [Some(6000)]);
    fixture.assert_complete(&content);
}

/// A server that ignores the range sends nothing new before the bytes that are here.
#[test]
fn an_interrupted_start_keeps_the_partial_file() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Raw {
            status: "200 OK",
            headers: "Content-Length: 10000\r\n".into(),
            body: served[..3000].to_vec(),
        },
        1 => Reply::Raw {
            status: "200 OK",
            headers: "Content-Length: 10000\r\n".into(),
            body: served[..8000].to_vec(),
        },
        _ => Reply::whole(&served),
    });
    let fixture = Fixture::new();
    fixture.put(".part", &content[..6000]);
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [Some(6000), Some(6000), Some(8000)]);
    fixture.assert_complete(&content);
}

/// The page of a captive portal, with and without its length, in place of either file; and one without end.
#[test]
fn another_page_keeps_the_partial_file() {
    let content = random_content(10_000);
    let packed = gzip(&content);
    for (url, suffix, kept) in [
        ("sub.txt", ".part", &content[..6000]),
        ("sub.txt.gz", ".gz.part", &packed[..6000]),
    ] {
        for (headers, page) in [
            ("Content-Length: 26\r\n", vec![b'x'; 26]),
            ("", vec![b'x'; 26]),
            ("", vec![b'x'; 2_000_000]),
        ] {
            let server = Server::start(move |_, _| Reply::Raw {
                status: "200 OK",
                headers: headers.into(),
                body: page.clone(),
            });
            let fixture = Fixture::new();
            fixture.put(suffix, kept);
            let error = fixture.error(&dataset(&content, &[server.url(url)]));
            assert_has(&error, &["the 6000 bytes in"]);
            assert!(fixture.read(suffix).unwrap() == kept, "{error}");
        }
    }
}

/// The process ended between the last byte and the new name.
#[test]
fn a_complete_compressed_partial_file_is_used() {
    let content = random_content(10_000);
    let packed = gzip(&content);
    let length = packed.len();
    for whole in [
        Reply::whole as fn(&[u8]) -> Reply,
        Reply::ignoring_range as fn(&[u8]) -> Reply,
    ] {
        let served = packed.clone();
        let server = Server::start(move |_, _| whole(&served));
        let fixture = Fixture::new();
        fixture.put(".gz.part", &packed);
        fixture
            .download(&dataset(&content, &[server.url("sub.txt.gz")]))
            .unwrap();
        assert_eq!(server.ranges(), [Some(length)]);
        fixture.assert_complete(&content);
    }
}

/// Without a length in the answer, the end of the connection may be the end of the file or not.
#[test]
fn a_response_without_length_is_resumed() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Raw {
            status: "200 OK",
            headers: String::new(),
            body: served[..3000].to_vec(),
        },
        _ => Reply::whole(&served),
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(3000)]);
    fixture.assert_complete(&content);
}

#[test]
fn another_range_starts_over() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, request| match request.1 {
        None => Reply::whole(&served),
        Some(_) => Reply::Raw {
            status: "206 Partial Content",
            headers: "Content-Range: bytes 0-9999/10000\r\nContent-Length: 10000\r\n".into(),
            body: served.clone(),
        },
    });
    let fixture = Fixture::new();
    fixture.put(".part", &content[..6000]);
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert_eq!(server.ranges(), [Some(6000), None]);
    fixture.assert_complete(&content);
}

/// A .part file that is whole needs no request; one that is too long is dropped.
#[test]
fn complete_and_too_long_partial_files() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let dataset = dataset(&content, &[server.url("sub.txt")]);
    let fixture = Fixture::new();
    fixture.put(".part", &content);
    fixture.download(&dataset).unwrap();
    assert!(server.requests().is_empty());
    fixture.assert_complete(&content);

    let fixture = Fixture::new();
    fixture.put(".part", &vec![1; 20_000]);
    fixture.download(&dataset).unwrap();
    assert_eq!(server.ranges(), [None]);
    fixture.assert_complete(&content);
}

/// The bytes of an earlier run may be the bad ones, so the address that finished them gets a second
/// chance.
#[test]
fn an_invalid_partial_file_is_downloaded_again() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let fixture = Fixture::new();
    fixture.put(".part", &[7; 6000]);
    let outcome = fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    assert!(outcome.files[0].failed.is_empty());
    assert_eq!(server.ranges(), [Some(6000), None]);
    fixture.assert_complete(&content);
}

#[test]
fn a_busy_server_is_retried() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::status("503 Service Unavailable"),
        1 => Reply::status("429 Too Many Requests"),
        _ => Reply::whole(&served),
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("sub.txt")]))
        .unwrap();
    fixture.assert_complete(&content);
}

#[test]
fn a_compressed_transfer_is_resumed() {
    let content = random_content(10_000);
    let packed = gzip(&content);
    let server = Server::start(move |_, _| Reply::Part {
        content: packed.clone(),
        bytes: 4000,
    });
    let fixture = Fixture::new();
    fixture.put(".part", &content[..100]);
    fixture
        .download(&dataset(&content, &[server.url("sub.txt.gz")]))
        .unwrap();
    assert_eq!(server.ranges(), [None, Some(4000), Some(8000)]);
    fixture.assert_complete(&content);
}
