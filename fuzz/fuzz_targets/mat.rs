//! MAT-files of level 5. The first byte selects whether the rest is a file, or an element that the target compresses
//! (a fuzzer cannot).

#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use laq_datasets::{mat, svhn};
use libfuzzer_sys::fuzz_target;

const MOST: usize = 8;

fuzz_target!(|input: &[u8]| {
    let Some((kind, content)) = input.split_first() else {
        return;
    };
    let mut file;
    let file = match kind % 3 {
        0 => content,
        kind => {
            let mut packed = ZlibEncoder::new(Vec::new(), Compression::none());
            packed.write_all(content).expect("a vector takes it");
            let packed = packed.finish().expect("a vector takes it");
            let big = kind == 1;
            file = vec![b' '; 124];
            file.extend(if big { *b"\x01\x00MI" } else { *b"\x00\x01IM" });
            for number in [15, packed.len() as u32] {
                file.extend(match big {
                    true => number.to_be_bytes(),
                    false => number.to_le_bytes(),
                });
            }
            file.extend(packed);
            &file
        }
    };
    let images = svhn::read(file, MOST);
    let labels = svhn::read_labels(file, MOST);
    let mut seen = 0;
    let count = svhn::read_images(file, MOST, &mut |image| {
        assert_eq!(image.len(), 3072);
        seen += 1;
        Ok(())
    });
    if let Ok(images) = images {
        assert_eq!(images.pixels.len(), 3072 * images.len());
        assert!(images.labels.iter().all(|&label| label < 10));
        assert_eq!(labels.ok(), Some(images.labels));
        assert_eq!((count.ok(), seen), (Some(seen), seen));
    }
    // Every number of every array, and the first of every array.
    for all in [true, false] {
        let _ = mat::read(file, &mut |array| {
            let elements = if all {
                array.elements()
            } else {
                array.elements().min(1)
            };
            for _ in 0..elements {
                array.read_number(|| "number".into())?;
            }
            Ok(())
        });
    }
});
