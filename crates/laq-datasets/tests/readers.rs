//! The readers of image files: on files that scipy wrote, on files written here, and on damaged
//! ones.

mod formats;

use laq_datasets::cifar::{self, Labels};
use laq_datasets::{FormatError, idx, mat, svhn};
use proptest::prelude::*;

use formats::{Mat, interleaved};

const MATS: [Mat; 4] = [
    Mat {
        big: false,
        compressed: false,
    },
    Mat {
        big: false,
        compressed: true,
    },
    Mat {
        big: true,
        compressed: false,
    },
    Mat {
        big: true,
        compressed: true,
    },
];

/// Asserts that the fields of the error contain all of `words`.
fn assert_error_contains<T>(result: Result<T, FormatError>, words: &[&str]) {
    let error = match result {
        Ok(_) => panic!("found no error, expected one with {words:?}"),
        Err(FormatError::Content {
            place,
            found,
            expected,
        }) => format!("{place}: found {found}, expected {expected}"),
        Err(FormatError::Read { place, source }) => format!("{place}; {source}"),
    };
    for word in words {
        assert!(error.contains(word), "{word:?} in {error:?}");
    }
}

#[test]
fn idx_files() {
    let file = formats::idx(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let found = idx::parse(&file).unwrap();
    assert_eq!(found.dimensions, [2, 3]);
    assert_eq!(found.elements, [1, 2, 3, 4, 5, 6]);
    // The others could be anything, and their product would not fit into 64 bits.
    assert_error_contains(
        idx::parse(&formats::idx(&[u32::MAX, u32::MAX, u32::MAX, 0], &[])),
        &["4294967295, 0]", "dimension of zero"],
    );

    assert_error_contains(idx::parse(&[]), &["header", "0 bytes"]);
    assert_error_contains(
        idx::parse(&file[..11]),
        &["header", "11 bytes", "12 bytes for 2 dimensions"],
    );
    assert_error_contains(
        idx::parse(&file[..17]),
        &["[2, 3]", "5 bytes", "expected 6"],
    );
    assert_error_contains(
        idx::parse(&[&file[..], &[0]].concat()),
        &["7 bytes", "expected 6"],
    );
    // Floating point, no dimensions, and a file that is still packed.
    assert_error_contains(idx::parse(&[0, 0, 0x0d, 1, 0, 0, 0, 0]), &["magic", "0d"]);
    assert_error_contains(idx::parse(&[0, 0, 8, 0]), &["magic"]);
    assert_error_contains(
        idx::parse(&[0x1f, 0x8b, 8, 0, 0]),
        &["magic", "1f, 8b", "uncompressed"],
    );
    let huge = formats::idx(&[u32::MAX; 4], &[1]);
    assert_error_contains(idx::parse(&huge), &["1 bytes", "340282366"]);
}

#[test]
fn cifar_files_are_records() {
    let ten = formats::cifar(&[(&[3], 0), (&[9], 1)]);
    let found = cifar::read(&ten[..], Labels::Class, 10, 2).unwrap();
    assert_eq!(found.labels, [3, 9]);
    assert_eq!(found.pixels[..], interleaved(0..2));
    let hundred = formats::cifar(&[(&[19, 99], 5), (&[0, 0], 6), (&[200, 7], 7)]);
    let found = cifar::read(&hundred[..], Labels::CoarseAndClass, 100, 3).unwrap();
    assert_eq!(found.labels, [99, 0, 7]);
    assert_eq!(found.pixels[..], interleaved(5..8));
    assert!(
        cifar::read(&[][..], Labels::Class, 10, 2)
            .unwrap()
            .is_empty()
    );

    let read = |file: &[u8]| cifar::read(file, Labels::Class, 10, 2);
    assert_error_contains(
        read(&ten[..3073 + 1000]),
        &["record 1", "1000 bytes", "3073 bytes"],
    );
    assert_error_contains(read(&[&ten[..], &ten].concat()), &["more than 2 records"]);
    assert_error_contains(
        read(&formats::cifar(&[(&[1], 0), (&[10], 1)])),
        &["record 1", "label 10", "below 10"],
    );
    assert_error_contains(
        cifar::read(&hundred[..], Labels::CoarseAndClass, 99, 3),
        &["record 0", "label 99", "below 99"],
    );
}

#[test]
fn cifar_archives_are_read_in_the_order_asked_for() {
    let [a, b] = [&[(&[1][..], 0), (&[2], 1)][..], &[(&[3], 2)]].map(formats::cifar);
    let archive = formats::tar_gz(&[
        ("set/b.bin", &b),
        ("set/meta.txt", b"words"),
        ("set/a.bin", &a),
    ]);
    let read =
        |archive: &[u8], names: &[&str]| cifar::read_archive(archive, names, Labels::Class, 10, 2);
    let found = read(&archive, &["a.bin", "b.bin"]).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(
        (&found[0].labels[..], &found[1].labels[..]),
        (&[1, 2][..], &[3][..])
    );
    assert_eq!(found[1].pixels[..], interleaved([2]));

    assert_error_contains(read(&archive, &["a.bin", "c.bin"]), &["no file c.bin"]);
    let twice = formats::tar_gz(&[("x/b.bin", &b), ("y/b.bin", &b)]);
    assert_error_contains(read(&twice, &["b.bin"]), &["b.bin twice"]);
    let cut = formats::tar_gz(&[("set/b.bin", &b[..100])]);
    assert_error_contains(
        read(&cut, &["b.bin"]),
        &["set/b.bin, record 0", "100 bytes"],
    );
    assert_error_contains(read(&archive[..archive.len() / 2], &["a.bin"]), &[]);
    assert_error_contains(read(b"no archive at all", &["a.bin"]), &["archive"]);
    // A file whose header exceeds the archive.
    let mut lying = tar::Header::new_ustar();
    lying.set_path("b.bin").unwrap();
    lying.set_size(1 << 40);
    lying.set_mode(0o644);
    lying.set_cksum();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, lying.as_bytes()).unwrap();
    assert_error_contains(read(&gz.finish().unwrap(), &["b.bin"]), &["archive", "EOF"]);
}

const COMPRESSED: &[u8] = include_bytes!("golden/compressed.mat");
const PLAIN: &[u8] = include_bytes!("golden/plain.mat");
const MIXED: &[u8] = include_bytes!("golden/mixed.mat");
const ONE: &[u8] = include_bytes!("golden/one.mat");

#[test]
fn files_of_scipy_are_read() {
    for (file, count) in [(COMPRESSED, 12), (PLAIN, 2), (MIXED, 11)] {
        let found = svhn::read(file, 100).unwrap();
        let labels: Vec<u8> = (1..=count).map(|label| (label % 10) as u8).collect();
        assert_eq!(found.labels, labels);
        assert_eq!(svhn::read_labels(file, 100).unwrap(), labels);
        assert_eq!(found.pixels[..], interleaved(0..count));
    }
    let one = svhn::read(ONE, 1).unwrap();
    assert_eq!(
        (&one.labels[..], &one.pixels[..]),
        (&[0][..], &interleaved([0])[..])
    );
}

/// Text, cells, structures and complex numbers are passed over; arrays of numbers are all seen.
#[test]
fn arrays_are_visited_in_the_order_of_the_file() {
    let mut seen = Vec::new();
    mat::read(MIXED, &mut |array| {
        seen.push((array.name.clone(), array.dimensions.clone(), array.stored));
        Ok(())
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            ("y".into(), vec![11, 1], mat::Stored::F64),
            ("X".into(), vec![32, 32, 3, 11], mat::Stored::U8)
        ]
    );
}

#[test]
fn every_type_of_number_is_read_in_either_byte_order() {
    for mat in MATS {
        let order = |mut bytes: Vec<u8>, width: usize| {
            if mat.big {
                bytes.chunks_mut(width).for_each(<[u8]>::reverse);
            }
            bytes
        };
        let cases = [
            (1, 1, vec![0xfe, 7], [-2.0, 7.0]),
            (2, 1, vec![0xfe, 7], [254.0, 7.0]),
            (
                3,
                2,
                [(-3i16).to_le_bytes(), 500i16.to_le_bytes()].concat(),
                [-3.0, 500.0],
            ),
            (
                4,
                2,
                [65_533u16.to_le_bytes(), 500u16.to_le_bytes()].concat(),
                [65_533.0, 500.0],
            ),
            (
                5,
                4,
                [(-70_000i32).to_le_bytes(), 1i32.to_le_bytes()].concat(),
                [-70_000.0, 1.0],
            ),
            (
                6,
                4,
                [u32::MAX.to_le_bytes(), 1u32.to_le_bytes()].concat(),
                [4_294_967_295.0, 1.0],
            ),
            (
                7,
                4,
                [0.5f32.to_le_bytes(), (-8f32).to_le_bytes()].concat(),
                [0.5, -8.0],
            ),
            (
                9,
                8,
                [0.1f64.to_le_bytes(), (-8f64).to_le_bytes()].concat(),
                [0.1, -8.0],
            ),
            (
                12,
                8,
                [(-5i64).to_le_bytes(), 9i64.to_le_bytes()].concat(),
                [-5.0, 9.0],
            ),
            (
                13,
                8,
                [(1u64 << 40).to_le_bytes(), 9u64.to_le_bytes()].concat(),
                [1_099_511_627_776.0, 9.0],
            ),
        ];
        for (code, width, data, expected) in cases {
            let data = order(data, width);
            let file = mat.file(&[mat.array("numbers", 6, &[2], code, &data)]);
            let mut visited = false;
            mat::read(&file[..], &mut |array| {
                assert_eq!(array.stored.width(), width);
                for expected in expected {
                    assert_eq!(array.read_number(String::new)?, expected);
                }
                assert_error_contains(
                    array.read_number(|| "third".into()),
                    &["third", "the end of array numbers"],
                );
                visited = true;
                Ok(())
            })
            .unwrap();
            assert!(visited);
        }
    }
}

#[test]
fn labels_and_images_must_match() {
    for mat in MATS {
        let good = mat.file(&[mat.x(&[4, 5]), mat.y(&[10, 9])]);
        let found = svhn::read(&good[..], 2).unwrap();
        assert_eq!(
            (&found.labels[..], &found.pixels[..]),
            (&[0, 9][..], &interleaved([4, 5])[..])
        );

        let check = |arrays: &[Vec<u8>], words: &[&str]| {
            assert_error_contains(svhn::read(&mat.file(arrays)[..], 2), words);
        };
        check(
            &[mat.x(&[4, 5]), mat.y(&[1])],
            &["array y", "1 labels", "2, one for each image"],
        );
        check(&[mat.x(&[4, 5])], &["no numeric array y"]);
        check(&[mat.y(&[1])], &["no numeric array X"]);
        check(&[mat.y(&[1]), mat.y(&[1]), mat.x(&[1])], &["array y twice"]);
        check(&[mat.x(&[1]), mat.x(&[1])], &["array X twice"]);
        check(&[mat.x(&[1, 2, 3])], &["[32, 32, 3, 3]", "at most 2"]);
        check(&[mat.y(&[1, 2, 3])], &["array y", "[3, 1]", "at most 2"]);
        check(&[mat.y(&[1, 11])], &["label 1", "found 11", "1 to 10"]);
        check(&[mat.y(&[0])], &["label 0", "found 0"]);
        let nan = mat.array("y", 6, &[1, 1], 9, &[0xff; 8]);
        check(&[nan], &["label 0", "NaN"]);
        let doubles = mat.array("X", 6, &[32, 32, 3], 9, &[0; 3072 * 8]);
        check(&[doubles], &["array X", "F64", "uint8"]);
        let transposed = mat.array("X", 9, &[1, 3, 32, 32], 2, &[0; 3072]);
        check(&[transposed], &["array X", "[1, 3, 32, 32]"]);
    }
}

#[test]
fn invalid_mat_files_are_errors() {
    let read = |file: &[u8]| svhn::read(file, 100).map(|_| ());
    assert_error_contains(read(b""), &["header", "0 bytes", "128 bytes"]);
    assert_error_contains(read(&[b' '; 200]), &["header", "byte order"]);
    let mut hdf = PLAIN[..128].to_vec();
    hdf[124..126].copy_from_slice(&[0, 2]);
    assert_error_contains(read(&hdf), &["7.3", "HDF5", "-v7"]);
    hdf[124..126].copy_from_slice(&[9, 9]);
    assert_error_contains(read(&hdf), &["version 0x0909"]);
    assert_error_contains(read(&PLAIN[..128]), &["no numeric array X"]);
    let strange = [&PLAIN[..128], &[77, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_error_contains(read(&strange), &["element 0", "type 77"]);
    // Four dimensions whose product does not fit into 64 bits.
    let mat = MATS[0];
    let huge = mat.array("X", 9, &[i32::MAX as u32; 4], 2, &[0; 16]);
    assert_error_contains(read(&mat.file(&[huge])), &["array X", "16 bytes"]);
    let negative = mat.array("X", 9, &[32, u32::MAX], 2, &[0; 16]);
    assert_error_contains(read(&mat.file(&[negative])), &["dimension -1"]);
    // A compressed element whose checksum is wrong: the last bytes of the file are those of y.
    let mut damaged = COMPRESSED.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    assert_error_contains(read(&damaged), &["element 1"]);
}

/// Cut anywhere, a file is an error that names a place, except where only whole arrays are missing.
#[test]
fn errors_of_truncated_files_have_a_position() {
    for file in [COMPRESSED, PLAIN, MIXED, ONE] {
        for cut in 0..file.len() {
            match svhn::read(&file[..cut], 100) {
                Err(error) => assert!(error.to_string().contains(':'), "{error}"),
                Ok(_) => panic!("{cut} of {} bytes were enough", file.len()),
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_match_their_header(bytes: Vec<u8>, header: bool, rank in 0u8..6) {
        let mut bytes = bytes;
        if header {
            bytes.splice(0..0, [0, 0, 8, rank]);
        }
        if let Ok(found) = idx::parse(&bytes) {
            prop_assert_eq!(found.dimensions.iter().product::<usize>(), found.elements.len());
        }
    }

    #[test]
    fn small_idx_files_survive_any_change(
        dimensions in proptest::collection::vec(1u32..6, 1..5),
        place: prop::sample::Index,
        value: u8,
    ) {
        let product = dimensions.iter().product::<u32>() as usize;
        let numbers: Vec<u8> = (0..product).map(|number| number as u8).collect();
        let mut file = formats::idx(&dimensions, &numbers);
        let found = idx::parse(&file).unwrap();
        prop_assert_eq!(found.elements, &numbers[..]);
        let place = place.index(file.len());
        let same = file[place] == value;
        file[place] = value;
        match idx::parse(&file) {
            // A change of the header is an error, unless the product stays what it was.
            Ok(found) => prop_assert_eq!(found.elements.len(), product),
            Err(_) => prop_assert!(!same && place < 4 + 4 * dimensions.len()),
        }
    }

    #[test]
    fn cifar_records_survive_any_cut_and_change(
        labels in proptest::collection::vec(0u8..10, 0..4),
        two: bool,
        cut in 0usize..5000,
        place: prop::sample::Index,
        value: u8,
    ) {
        let (format, head) = match two {
            true => (Labels::CoarseAndClass, 2),
            false => (Labels::Class, 1),
        };
        let heads: Vec<_> = labels.iter().map(|&label| [0, label]).collect();
        let records: Vec<_> = heads.iter().map(|l| (&l[2 - head..], 0)).collect();
        let mut file = formats::cifar(&records);
        prop_assert_eq!(cifar::read(&file[..], format, 10, 4).unwrap().labels, &labels[..]);
        if !file.is_empty() {
            let place = place.index(file.len());
            file[place] = value;
            let at_label = place % (3072 + head) == head - 1;
            let found = cifar::read(&file[..], format, 10, 4);
            prop_assert_eq!(found.is_ok(), !at_label || value < 10);
        }
        file.truncate(file.len().saturating_sub(cut));
        let found = cifar::read(&file[..], format, 255, 4);
        prop_assert_eq!(found.is_ok(), file.len().is_multiple_of(3072 + head));
    }

    #[test]
    fn archives_survive_any_change(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        unpacked: bool,
    ) {
        let record = formats::cifar(&[(&[1], 0)]);
        let mut file = formats::tar_gz(&[("a/a.bin", &record), ("a/b.bin", &record)]);
        if unpacked {
            // A change that the checksum of the compression does not see.
            let mut plain = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&file[..]), &mut plain).unwrap();
            for (place, value) in &changes {
                // Mostly in the headers.
                let place = place.index(1024) / 512 * 3584 + place.index(512);
                plain[place] = *value;
            }
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gz, &plain).unwrap();
            file = gz.finish().unwrap();
        } else {
            for (place, value) in &changes {
                let place = place.index(file.len());
                file[place] = *value;
            }
        }
        if let Ok(found) = cifar::read_archive(&file[..], &["a.bin", "b.bin"], Labels::Class, 255, 1) {
            prop_assert_eq!(found.len(), 2);
            prop_assert!(found.iter().all(|images| images.pixels.len() == 3072 * images.len()));
        }
    }

    #[test]
    fn mat_files_survive_any_change(
        which in 0usize..4,
        arrays in proptest::collection::vec(any::<(bool, prop::sample::Index, u8)>(), 1..4),
    ) {
        let mat = Mat { compressed: false, ..MATS[which] };
        let mut parts = [mat.x(&[1]), mat.y(&[3])];
        // A change that the checksum of the compression does not see, mostly in the headers.
        for (y, place, value) in arrays {
            let part = &mut parts[usize::from(y)];
            let place = place.index(part.len().min(80));
            part[place] = value;
        }
        let file = MATS[which].file(&parts);
        if let Ok(found) = svhn::read(&file[..], 10) {
            prop_assert_eq!(found.pixels.len(), 3072 * found.len());
        }
        let _ = svhn::read_labels(&file[..], 10);
    }

    #[test]
    fn files_of_scipy_survive_any_change(
        which in 0usize..4,
        changes in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        let mut file = [COMPRESSED, PLAIN, MIXED, ONE][which].to_vec();
        for (place, value) in changes {
            let place = place.index(file.len());
            file[place] = value;
        }
        if let Ok(found) = svhn::read(&file[..], 100) {
            prop_assert_eq!(found.pixels.len(), 3072 * found.len());
        }
    }
}
