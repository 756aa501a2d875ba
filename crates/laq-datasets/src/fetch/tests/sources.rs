//! Sources: addresses, mirrors, redirects.

use super::*;

#[test]
fn a_valid_file_is_not_downloaded_again() {
    let content = random_content(200_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let dataset = dataset(&content, &[server.url("sub.txt")]);
    let fixture = Fixture::new();
    let outcome = fixture.download(&dataset).unwrap();
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
            "downloaded from http://",
            "(checked: size and sha256)",
        ],
    );
    fixture.assert_complete(&content);

    let outcome = fixture.download(&dataset).unwrap();
    assert_eq!(outcome.files[0].action, Action::AlreadyValid);
    assert_eq!(server.requests(), [("sub.txt".to_owned(), None)]);
}

#[test]
fn progress_is_monotonic_and_ends_at_the_size() {
    let content = random_content(300_000);
    let served = content.clone();
    let server = Server::start(move |number, _| match number {
        0 => Reply::Part {
            content: served.clone(),
            bytes: 100_000,
        },
        _ => Reply::whole(&served),
    });
    let dataset = dataset(&content, &[server.url("sub.txt")]);
    let fixture = Fixture::new();
    let mut phases = Vec::new();
    let mut last = (0, 0);
    download(
        &dataset,
        fixture.dir.path(),
        &fixture.options,
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
fn the_next_address_is_tried_after_a_failure() {
    let content = random_content(5000);
    let served = content.clone();
    let server = Server::start(move |_, request| match request.0.as_str() {
        "gone/sub.txt" => Reply::status("404 Not Found"),
        "secret/sub.txt" => Reply::status("403 Forbidden"),
        _ => Reply::whole(&served),
    });
    let urls = [
        unreachable_url(),
        server.url("gone/sub.txt"),
        server.url("secret/sub.txt"),
        server.url("sub.txt"),
    ];
    let fixture = Fixture::new();
    let outcome = fixture.download(&dataset(&content, &urls)).unwrap();
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
    fixture.assert_complete(&content);
}

#[test]
fn a_redirect_is_followed() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, request| match request.0.as_str() {
        "old/sub.txt" => Reply::Raw {
            status: "302 Found",
            headers: "Location: /new/sub.txt\r\nContent-Length: 0\r\n".into(),
            body: Vec::new(),
        },
        _ => Reply::whole(&served),
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("old/sub.txt")]))
        .unwrap();
    fixture.assert_complete(&content);
}

/// A mirror on the network may hold the file under any of its names, compressed or not.
#[test]
fn a_mirror_url_is_searched() {
    let content = random_content(10_000);
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
        let fixture = Fixture::with_mirror(format!("{}/", server.address));
        let outcome = fixture
            .download(&dataset(&content, &[unreachable_url()]))
            .unwrap();
        assert_eq!(
            outcome.files[0].action,
            Action::Fetched {
                from: server.url(name).into()
            }
        );
        assert!(outcome.files[0].failed.is_empty());
        fixture.assert_complete(&content);
    }
}

#[test]
fn a_mirror_folder_is_searched_and_not_changed() {
    let content = random_content(10_000);
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
        let fixture = Fixture::with_mirror(folder.path().to_str().unwrap());
        fixture.put(".part", &content[..100]);
        fixture.download(&dataset(&content, &[])).unwrap();
        fixture.assert_complete(&content);
        assert!(fs::read(path).unwrap() == stored);
    }
}

/// An invalid file in a mirror is reported, and the next location is used.
#[test]
fn an_invalid_file_in_a_mirror_is_skipped() {
    let content = random_content(10_000);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("kept")).unwrap();
    fs::create_dir(folder.path().join("sub.txt")).unwrap();
    fs::write(folder.path().join("sub.txt.gz"), gzip(b"something else")).unwrap();
    fs::write(folder.path().join("kept/sub.txt"), &content).unwrap();
    let fixture = Fixture::with_mirror(folder.path().to_str().unwrap());
    let outcome = fixture.download(&dataset(&content, &[])).unwrap();
    assert_eq!(outcome.files[0].failed.len(), 1);
    assert_has(
        &outcome.files[0].failed[0].reason,
        &["truncated (14 bytes, expected 10000)"],
    );
    fixture.assert_complete(&content);
}

#[test]
fn a_compressed_file_in_the_data_folder_is_unpacked() {
    let content = random_content(10_000);
    let fixture = Fixture::new();
    fixture.put(".gz", &gzip(&content));
    fixture
        .download(&dataset(&content, &[unreachable_url()]))
        .unwrap();
    assert!(fixture.read("").unwrap() == content);
    assert_eq!(fixture.names(), ["sub.txt", "sub.txt.gz"]);

    let other = Fixture::new();
    other.put(".gz", &gzip(b"another file"));
    let error = other.error(&dataset(&content, &[unreachable_url()]));
    assert_has(&error, &["sub.txt.gz", "its content is"]);
    assert_eq!(other.names(), ["sub.txt.gz"]);
}
