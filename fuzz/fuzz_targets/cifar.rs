//! Files and archives in CIFAR's binary format. The first byte selects what the rest is read as: records of either
//! kind, an archive, or the content of an archive, which the target compresses (a fuzzer cannot).

#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use laq_datasets::cifar::{Labels, read, read_archive};
use laq_datasets::{FormatError, RawImages};
use libfuzzer_sys::fuzz_target;

const MOST: usize = 3;

fn check(found: Result<RawImages, FormatError>) {
    match found {
        Ok(images) => {
            assert!(images.len() <= MOST);
            assert_eq!(images.pixels.len(), 3072 * images.len());
            assert!(images.labels.iter().all(|&label| label < 100));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, content)) = input.split_first() else {
        return;
    };
    let archive =
        |content: &[u8]| match read_archive(content, &["a.bin", "b.bin"], Labels::Class, 100, MOST)
        {
            Ok(found) => found.into_iter().for_each(|images| check(Ok(images))),
            Err(error) => check(Err(error)),
        };
    match kind % 4 {
        0 => check(read(content, Labels::Class, 100, MOST)),
        1 => check(read(content, Labels::CoarseAndClass, 100, MOST)),
        2 => archive(content),
        _ => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::none());
            packed.write_all(content).expect("a vector takes it");
            archive(&packed.finish().expect("a vector takes it"));
        }
    }
});
