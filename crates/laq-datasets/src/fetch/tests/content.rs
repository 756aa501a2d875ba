//! Verification of content, compressed and not.

use super::*;

#[test]
fn altered_content_is_discarded() {
    let content = random_content(10_000);
    let served = content.clone();
    let server = Server::start(move |_, request| {
        let mut altered = served.clone();
        altered[5000] ^= u8::from(request.0 == "a/sub.txt");
        Reply::whole(&altered)
    });
    let fixture = Fixture::new();
    let error = fixture.error(&dataset(&content, &[server.url("a/sub.txt")]));
    assert_has(
        &error,
        &["a/sub.txt (its content is altered (sha256 ", "--mirror"],
    );
    assert!(fixture.names().is_empty());

    let urls = [server.url("a/sub.txt"), server.url("b/sub.txt")];
    let outcome = fixture.download(&dataset(&content, &urls)).unwrap();
    assert_has(
        &outcome.to_string(),
        &["downloaded from", "not available from", "altered"],
    );
    assert_eq!(
        server.requests().last().unwrap(),
        &("b/sub.txt".to_owned(), None)
    );
    fixture.assert_complete(&content);
}

/// An error page with status 200 has another size and does not change the partial file.
#[test]
fn a_response_of_another_size_is_rejected() {
    let server = Server::start(|_, _| Reply::ignoring_range(b"<html>sorry</html>"));
    let content = random_content(10_000);
    let fixture = Fixture::new();
    fixture.put(".part", &content[..6000]);
    let error = fixture.error(&dataset(&content, &[server.url("sub.txt")]));
    assert_has(&error, &["found 18 bytes, expected 10000", "6000 bytes in"]);
    assert!(fixture.read(".part").unwrap() == content[..6000]);
}

#[test]
fn an_endless_response_is_rejected() {
    let server = Server::start(|_, _| Reply::Raw {
        status: "200 OK",
        headers: String::new(),
        body: vec![b'x'; 2_000_000],
    });
    let fixture = Fixture::new();
    let error = fixture.error(&dataset(&random_content(10_000), &[server.url("sub.txt")]));
    assert_has(&error, &["found more than 10000 bytes"]);
    assert!(fixture.names().is_empty());
}

/// Some servers label the .gz file as an encoding, and the client then unpacks it on the way.
#[test]
fn a_file_decompressed_by_the_client_is_accepted() {
    let content = random_content(10_000);
    let packed = gzip(&content);
    let server = Server::start(move |_, _| Reply::Raw {
        status: "200 OK",
        headers: format!(
            "Content-Encoding: gzip\r\nContent-Length: {}\r\n",
            packed.len()
        ),
        body: packed.clone(),
    });
    let fixture = Fixture::new();
    fixture
        .download(&dataset(&content, &[server.url("sub.txt.gz")]))
        .unwrap();
    fixture.assert_complete(&content);
}

#[test]
fn invalid_compressed_files_are_rejected() {
    let content = random_content(10_000);
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
        let fixture = Fixture::with_mirror(folder.path().to_str().unwrap());
        let error = fixture.error(&dataset(&content, &[]));
        assert_has(&error, &["sub.txt.gz", words]);
        assert!(fixture.names().is_empty());

        let server = Server::start(move |_, _| Reply::ignoring_range(&packed));
        let fixture = Fixture::new();
        assert_has(
            &fixture.error(&dataset(&content, &[server.url("sub.txt.gz")])),
            &[words],
        );
        assert!(fixture.names().is_empty());
    }
}

#[test]
fn an_invalid_file_is_replaced_only_by_a_verified_one() {
    let content = random_content(10_000);
    let mut altered = content.clone();
    altered[0] ^= 1;
    let served = content.clone();
    let server = Server::start(move |_, request| match request.0.as_str() {
        "bad/sub.txt" => Reply::whole(&vec![0; 10_000]),
        _ => Reply::whole(&served),
    });
    for (found, words) in [
        (&altered[..], "altered"),
        (&content[..10], "truncated"),
        (b"", "empty"),
    ] {
        let fixture = Fixture::new();
        fixture.put("", found);
        let error = fixture.error(&dataset(&content, &[server.url("bad/sub.txt")]));
        assert_has(&error, &[words, "was not changed"]);
        assert!(fixture.read("").unwrap() == found);

        let outcome = fixture
            .download(&dataset(&content, &[server.url("sub.txt")]))
            .unwrap();
        assert!(matches!(outcome.files[0].action, Action::Replaced { .. }));
        assert_has(&outcome.to_string(), &[words, "replaced from"]);
        fixture.assert_complete(&content);
    }
}

#[test]
fn a_file_without_checksum_is_reported() {
    let content = random_content(10_000);
    let mut file = dataset(&content, &[]).files[0];
    file.check = Check::Symbols(256);
    let dataset = Dataset {
        files: vec![file].leak(),
        ..dataset(&content, &[])
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sub.txt"), vec![b'x'; 10_000]).unwrap();
    let fixture = Fixture::with_mirror(folder.path().to_str().unwrap());
    assert_has(
        &fixture.error(&dataset),
        &["1 distinct bytes, expected 256"],
    );
    fs::write(folder.path().join("sub.txt"), &content).unwrap();
    let outcome = fixture.download(&dataset).unwrap();
    assert_has(
        &outcome.to_string(),
        &["size and number of symbols only; no checksum is known"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever a server does (it stops, ignores ranges, returns errors) and whatever an earlier run left, the file
    /// is either complete or absent, and the next download from a good server completes it.
    #[test]
    fn no_server_behaviour_leaves_an_invalid_file(
        behaviour in proptest::collection::vec((0usize..6, 0usize..3000), 1..12),
        left in proptest::option::of((0usize..4000, any::<bool>())),
    ) {
        let content = random_content(3000);
        let fixture = Fixture::new();
        if let Some((bytes, good)) = left {
            let mut part = content.repeat(2)[..bytes].to_vec();
            if !good {
                part.iter_mut().for_each(|byte| *byte ^= 1);
            }
            fixture.put(".part", &part);
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
        let first = fixture.download(&dataset(&content, &[server.url("sub.txt")]));
        prop_assert_eq!(first.is_ok(), fixture.read("").is_some());
        if first.is_ok() {
            fixture.assert_complete(&content);
        }
        let served = content.clone();
        let good = Server::start(move |_, _| Reply::whole(&served));
        fixture.download(&dataset(&content, &[good.url("sub.txt")])).unwrap();
        fixture.assert_complete(&content);
    }
}
