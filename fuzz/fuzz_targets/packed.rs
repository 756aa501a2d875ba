//! Files of packed weights: what is accepted decodes, and its products are those of the decoded weights.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use laq_packed::{PackedBytes, PackedFile, Tensor};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|content: &[u8]| {
    let path = FOLDER.path().join("in");
    fs::write(&path, content).expect("the temporary folder is writable");
    let in_memory = PackedBytes::new(content);
    let file = match PackedFile::open(&path) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let in_memory = in_memory.expect("the same file");
    for name in file.names() {
        let read = file.tensor(&name);
        assert_eq!(read.is_ok(), in_memory.tensor(&name).is_ok());
        assert_eq!(read.is_ok(), in_memory.matrix(&name).is_ok());
        let Ok(Tensor::Packed(tensor)) = read else {
            continue;
        };
        let weights = tensor.decode();
        assert_eq!(weights.len() as u64, tensor.counts().iter().sum::<u64>());
        let Ok(matrix) = tensor.matrix() else {
            continue;
        };
        if weights.is_empty() {
            continue;
        }
        let mut decoded = vec![0.0; weights.len()];
        matrix.decode(&mut decoded);
        assert!(weights.iter().zip(&decoded).all(|(a, b)| a.to_bits() == b.to_bits()));
        matrix.multiply(&vec![1.0; matrix.columns()], &mut vec![0.0; matrix.rows()]);
    }
});
