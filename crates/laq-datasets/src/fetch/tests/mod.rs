//! Downloads from a local server and from folders, with injected failures.

mod content;
mod errors;
mod resume;
mod server;
mod sources;

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

/// Random content: misplaced pieces change the checksum.
fn random_content(bytes: usize) -> Vec<u8> {
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
    let sum = hex::encode(Sha256::digest(content));
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

/// A data folder, and options without delays.
struct Fixture {
    dir: TempDir,
    options: DownloadOptions,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            options: DownloadOptions {
                mirror: None,
                retry_delay: Duration::ZERO,
                timeout: Duration::from_secs(20),
                least_bytes: 0,
            },
        }
    }

    fn with_mirror(mirror: impl Into<String>) -> Self {
        let mut fixture = Self::new();
        fixture.options.mirror = Some(mirror.into());
        fixture
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

    /// Asserts that the folder has the complete file only.
    fn assert_complete(&self, content: &[u8]) {
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

/// A URL of a port without a listener.
fn unreachable_url() -> &'static str {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/sub.txt", listener.local_addr().unwrap()).leak()
}
