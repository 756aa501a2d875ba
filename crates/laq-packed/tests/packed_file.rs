//! Files of packed weights: what is written is read, and damage is an error.
#![cfg(feature = "std")]

use std::collections::BTreeMap;
use std::fs;

use laq_packed::{
    Activations, Matrix, PackError, PackedBytes, PackedFile, PackedFileError, PackedFormatError,
    PackedTensor, Packing, Tensor, TensorFileError,
};
use laq_solvers::{Codebook, Scale};
use proptest::prelude::*;
use tempfile::TempDir;

/// Two packed tensors and one in f32.
fn tensors() -> BTreeMap<String, Tensor> {
    let codebook = Codebook::linear(3).expect("a codebook");
    let linear = PackedTensor::from_levels(
        &[2, 5],
        &[3, -3, 0, 1, -1, 2, -2, 0, 0, 3],
        &codebook,
        &[Scale::One(0.7), Scale::One(1.4)],
        Packing::of(&codebook).expect("a packing"),
    );
    let ternary = PackedTensor::from_levels(
        &[3, 2, 2],
        &[1, 0, -1, 1, 0, 0, -1, -1, 1, 1, 1, 0],
        &Codebook::Ternary,
        &[Scale::Two {
            positive: 0.5,
            negative: 0.25,
        }],
        Packing::Trits,
    );
    let full = Tensor::F32 {
        shape: vec![3],
        values: vec![1.5, -2.0, 0.0],
    };
    BTreeMap::from([
        (
            "linear".to_owned(),
            Tensor::Packed(linear.expect("a tensor")),
        ),
        (
            "ternary".to_owned(),
            Tensor::Packed(ternary.expect("a tensor")),
        ),
        ("full".to_owned(), full),
    ])
}

fn written() -> (TempDir, Vec<u8>) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("file");
    let metadata = BTreeMap::from([("key".to_owned(), "value \"ŵ\"".to_owned())]);
    PackedFile::write(&path, &tensors(), metadata).expect("a file");
    let bytes = fs::read(&path).expect("the file");
    (folder, bytes)
}

#[test]
fn tensors_and_metadata_are_read_back() {
    let (folder, _) = written();
    let file = PackedFile::open(&folder.path().join("file")).expect("a file");
    assert_eq!(file.names(), ["full", "linear", "ternary"]);
    for (name, tensor) in tensors() {
        assert_eq!(file.tensor(&name).expect("a tensor"), tensor);
    }
    assert_eq!(
        file.metadata().collect::<Vec<_>>(),
        [("key".to_owned(), "value \"ŵ\"".to_owned())]
    );
    let Tensor::Packed(ternary) = &tensors()["ternary"] else {
        panic!("packed");
    };
    assert_eq!(
        ternary.decode(),
        [
            0.5, 0.0, -0.25, 0.5, 0.0, 0.0, -0.25, -0.25, 0.5, 0.5, 0.5, 0.0
        ]
    );
    assert_eq!(ternary.counts(), [3, 4, 5]);
    assert_eq!(ternary.bytes(), 3 + 8);
}

#[test]
fn bytes_in_memory_are_read_as_the_file() {
    let (_, bytes) = written();
    let file = PackedBytes::new(&bytes).expect("a file");
    assert_eq!(file.names(), ["full", "linear", "ternary"]);
    assert_eq!(file.metadata().count(), 1);
    for (name, tensor) in tensors() {
        assert_eq!(file.tensor(&name).expect("a tensor"), tensor);
        assert_eq!(file.is_packed(&name), matches!(tensor, Tensor::Packed(_)));
        let (matrix, expected) = (file.matrix(&name).expect("a matrix"), Matrix::of(&tensor));
        let expected = expected.expect("a matrix");
        let x: Vec<f32> = (0..matrix.columns()).map(|i| i as f32 - 1.5).collect();
        for activations in [Activations::F32, Activations::Int8] {
            let product = |matrix: &Matrix| {
                let mut y = vec![0.0; matrix.rows()];
                matrix.multiply(activations, &x, &mut y).expect("finite");
                y
            };
            assert_eq!(product(&matrix), product(&expected), "{name}");
        }
    }
    for length in 0..bytes.len() {
        assert!(matches!(
            PackedBytes::new(&bytes[..length]),
            Err(PackedFormatError::Safetensors(_))
        ));
    }
}

#[test]
fn an_open_file_survives_its_replacement() {
    let (folder, _) = written();
    let path = folder.path().join("file");
    let file = PackedFile::open(&path).expect("a file");
    let others = BTreeMap::from([("full".to_owned(), tensors()["full"].clone())]);
    PackedFile::write(&path, &others, BTreeMap::new()).expect("a file");
    for (name, tensor) in tensors() {
        assert_eq!(file.tensor(&name).expect("a tensor"), tensor);
    }
}

/// The error of a file and of the same bytes.
fn format_error(file: PackedFileError, bytes: PackedFormatError) -> PackedFormatError {
    let PackedFileError::Format { source, .. } = file else {
        panic!("{file}");
    };
    assert_eq!(source.to_string(), bytes.to_string());
    source
}

/// The error of a file with a text replaced by another of the same length.
fn replaced(from: &str, to: &str) -> PackedFormatError {
    assert_eq!(from.len(), to.len());
    let (folder, mut bytes) = written();
    let place = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes());
    let place = place.expect("the text");
    bytes[place..place + from.len()].copy_from_slice(to.as_bytes());
    let path = folder.path().join("changed");
    fs::write(&path, &bytes).expect("write");
    let read = PackedFile::open(&path).and_then(|file| file.tensor("ternary"));
    let in_memory = PackedBytes::new(&bytes).and_then(|file| file.tensor("ternary"));
    format_error(
        read.expect_err("an error"),
        in_memory.expect_err("an error"),
    )
}

#[test]
fn descriptions_that_do_not_fit_are_errors() {
    let codes = |error: &PackedFormatError| match error {
        PackedFormatError::Codes { source, .. } => format!("{source:?}"),
        other => panic!("{other}"),
    };
    let error = replaced("format_version\":\"1\"", "format_version\":\"4\"");
    assert!(matches!(error, PackedFormatError::Newer { .. }), "{error}");
    let error = replaced("laq.format_version", "laq.format_versiom");
    assert!(
        matches!(error, PackedFormatError::NotPacked { .. }),
        "{error}"
    );
    let error = replaced("\\\"groups\\\":1", "\\\"grouqs\\\":1");
    assert!(
        matches!(error, PackedFormatError::Metadata { .. }),
        "{error}"
    );
    let error = replaced("trits5", "trits7");
    assert!(
        matches!(error, PackedFormatError::Metadata { .. }),
        "{error}"
    );
    let error = replaced("\\\"groups\\\":1", "\\\"groups\\\":9");
    assert!(matches!(error, PackedFormatError::Tensor { .. }), "{error}");
    let error = replaced("ternary.scale", "ternary.scalf");
    assert!(matches!(error, PackedFormatError::Tensor { .. }), "{error}");
    let error = replaced("[-1.0,0.0,1.0]", "[-1.0,0.0,0.0]");
    assert!(codes(&error).contains("Table"), "{error}");
    let error = replaced("\\\"shape\\\":[3,2,2]", "\\\"shape\\\":[3,2,3]");
    assert!(codes(&error).contains("Length"), "{error}");
    // The second has as many elements, in other rows.
    for shape in ["[4,2,2]", "[2,3,2]"] {
        let error = replaced("\\\"shape\\\":[3,2,2]", &format!("\\\"shape\\\":{shape}"));
        assert!(codes(&error).contains("Shape"), "{error}");
    }
}

#[test]
fn codes_and_scales_that_do_not_exist_are_errors() {
    let (folder, bytes) = written();
    let path = folder.path().join("changed");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("write");
        PackedFile::open(&path)
            .and_then(|file| {
                ["linear", "ternary"]
                    .map(|name| file.tensor(name))
                    .into_iter()
                    .collect::<Result<Vec<_>, _>>()
            })
            .expect_err("an error")
    };
    let mut damaged = bytes.clone();
    // The packed codes are the last tensors of the file.
    *damaged.last_mut().expect("bytes") = 255;
    let error = read(&damaged);
    assert!(
        matches!(
            &error,
            PackedFileError::Format {
                source: PackedFormatError::Codes {
                    source: PackError::Byte { byte: 255, .. },
                    ..
                },
                ..
            }
        ),
        "{error}"
    );
    let nan = f32::NAN.to_le_bytes();
    let scale = 0.25f32.to_le_bytes();
    let place = bytes
        .windows(4)
        .rposition(|window| window == scale)
        .expect("the scale");
    let mut damaged = bytes.clone();
    damaged[place..place + 4].copy_from_slice(&nan);
    let error = read(&damaged);
    assert!(
        matches!(
            &error,
            PackedFileError::Format {
                source: PackedFormatError::Codes {
                    source: PackError::Step { .. },
                    ..
                },
                ..
            }
        ),
        "{error}"
    );
    let error = read(&bytes[..bytes.len() - 1]);
    assert!(
        matches!(
            error,
            PackedFileError::TensorFile(TensorFileError::Truncated { .. })
        ),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is accepted has as many weights as its shape, and the product of its decoded weights.
    #[test]
    fn modified_files_are_errors_or_decode(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(),
            prop::sample::select(b"0123456789[]{},:\"-.".to_vec()),
        ]), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (folder, mut bytes) = written();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let path = folder.path().join("changed");
        fs::write(&path, &bytes).expect("write");
        let in_memory = PackedBytes::new(&bytes);
        let file = match PackedFile::open(&path) {
            Ok(file) => file,
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                return Ok(());
            }
        };
        let in_memory = in_memory.expect("the same file");
        for name in file.names() {
            let read = file.tensor(&name);
            prop_assert_eq!(read.is_ok(), in_memory.tensor(&name).is_ok());
            prop_assert_eq!(read.is_ok(), in_memory.matrix(&name).is_ok());
            prop_assert_eq!(read.is_ok(), file.matrix(&name).is_ok());
            let Ok(Tensor::Packed(tensor)) = read else {
                continue;
            };
            let weights = tensor.decode();
            prop_assert_eq!(weights.len(), tensor.shape().iter().product::<usize>());
            if let (Ok(matrix), false) = (tensor.matrix(), weights.is_empty()) {
                let mut decoded = vec![0.0; weights.len()];
                matrix.decode(&mut decoded);
                prop_assert_eq!(decoded, weights);
                matrix.multiply(&vec![1.0; matrix.columns()], &mut vec![0.0; matrix.rows()]);
            }
        }
    }
}
