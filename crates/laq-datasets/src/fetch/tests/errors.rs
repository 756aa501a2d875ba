//! Errors and their messages.

use super::*;

#[test]
fn the_error_lists_every_attempt_and_the_remedy() {
    let server = Server::start(|_, _| Reply::status("404 Not Found"));
    let urls = [
        server.url("a/sub.txt"),
        server.url("b/sub.txt"),
        unreachable_url(),
    ];
    let fixture = Fixture::with_mirror(server.address.clone());
    let error = fixture.error(&dataset(&random_content(5000), &urls));
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
        &["none of sub.txt, kept/sub.txt and some-set/sub.txt"],
    );
    assert!(fixture.names().is_empty());
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
fn a_missing_mirror_is_an_error() {
    let fixture = Fixture::with_mirror("/no/such/folder");
    assert_has(
        &fixture.error(&dataset(b"x", &[unreachable_url()])),
        &["/no/such/folder", "an existing folder", "https://"],
    );
    assert!(fixture.names().is_empty());
}

#[test]
fn a_stand_in_needs_a_mirror() {
    let fixture = Fixture::new();
    let stand_in = crate::find("linux-6.1-kernel").unwrap();
    let error = fixture.error(stand_in);
    assert_has(
        &error,
        &[
            "stands in for linux-kernel",
            "no canonical address",
            "6206996 bytes",
            "--mirror",
        ],
    );
    let outcome = fixture.download(crate::find("demo").unwrap()).unwrap();
    assert_has(&outcome.to_string(), &["demo", "nothing to download"]);
}

#[test]
fn a_second_process_is_an_error() {
    let content = random_content(10_000);
    let fixture = Fixture::new();
    fixture.put(".part", b"");
    let other = open(&fixture.path(".part")).unwrap();
    other.try_lock().unwrap();
    assert_has(
        &fixture.error(&dataset(&content, &[unreachable_url()])),
        &["another process", "sub.txt"],
    );
    drop(other);
    assert_has(
        &fixture.error(&dataset(&content, &[unreachable_url()])),
        &["could not be downloaded"],
    );
}

/// `/dev/full` is a disk without space.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, _| Reply::whole(&served));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sub.txt"), &content).unwrap();
    let by_network = (Fixture::new(), ".part");
    let by_folder = (
        Fixture::with_mirror(folder.path().to_str().unwrap()),
        ".new",
    );
    for (fixture, suffix) in [by_network, by_folder] {
        fixture.put("", b"what was there");
        std::os::unix::fs::symlink("/dev/full", fixture.path(suffix)).unwrap();
        let error = fixture.error(&dataset(
            &content,
            &[server.url("sub.txt"), unreachable_url()],
        ));
        assert_has(
            &error,
            &["no space left", suffix, "10000 bytes", "run again"],
        );
        assert_eq!(fixture.read("").unwrap(), b"what was there");
    }
    assert_eq!(
        server.requests().len(),
        1,
        "no second address is asked when the disk is full"
    );
}

#[test]
fn an_unwritable_folder_is_an_error() {
    let fixture = Fixture::new();
    fs::write(fixture.dir.path().join("some-set"), b"a file in the way").unwrap();
    assert_has(
        &fixture.error(&dataset(b"x", &[unreachable_url()])),
        &["some-set", "cannot be read or written"],
    );
}
