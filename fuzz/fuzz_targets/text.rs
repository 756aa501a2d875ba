//! Texts: any file, split by the fractions of the first two bytes, and its sequences, whose length and number are the next
//! two.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use laq_datasets::{Fractions, Sequences, Split, Text};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|input: &[u8]| {
    let Some((&[train, validation, length, batch], content)) = input.split_first_chunk() else {
        return;
    };
    let path = FOLDER.path().join("in");
    fs::write(&path, content).expect("the temporary folder is writable");
    let fractions = Fractions {
        train: f64::from(train) / 255.0,
        validation: f64::from(validation) / 255.0,
    };
    let text = match Text::from_file(&path, fractions) {
        Ok(text) => text,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut whole = Vec::new();
    for split in Split::ALL {
        whole.extend(
            text.alphabet
                .decode(text.split(split))
                .expect("its symbols"),
        );
        let (length, batch) = (length.into(), batch.into());
        let Ok(sequences) = Sequences::new(text.split(split), length, batch) else {
            continue;
        };
        let order: Vec<u32> = (0..sequences.count() as u32).rev().collect();
        let mut inputs = vec![0; length * batch];
        let mut targets = inputs.clone();
        for index in 0..sequences.batches() {
            sequences.fill(&order, index, &mut inputs, &mut targets);
            assert!(
                inputs
                    .iter()
                    .chain(&targets)
                    .all(|&symbol| usize::from(symbol) < text.alphabet.len())
            );
        }
    }
    assert_eq!(whole, content);
});
