//! Exported networks: the header of a file of packed weights up to a zero byte, whose length the target adds, then its
//! data. What is accepted computes, in f32 and with 8-bit activations.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use laq_packed::{Activations, Network};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

/// Elements of the largest image that is computed.
const MOST: usize = 1 << 12;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == 0);
    let (header, data) = input.split_at(end.unwrap_or(input.len()));
    let length = (header.len() as u64).to_le_bytes();
    let content = [&length, header, data.get(1..).unwrap_or_default()].concat();
    let path = FOLDER.path().join("in");
    fs::write(&path, content).expect("the temporary folder is writable");
    let mut network = match Network::open(&path) {
        Ok(network) => network,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for activations in [Activations::F32, Activations::Int8] {
        network.set_activations(activations);
        match &network {
            Network::CharLstm(network) => {
                let alphabet = network.alphabet();
                for temperature in [0.0, 1.0] {
                    let Ok(mut sampler) = network.sample(alphabet, temperature, 1) else {
                        continue;
                    };
                    let drawn = (0..3).map_while(|_| sampler.draw().ok());
                    assert!(drawn.into_iter().all(|byte| alphabet.contains(&byte)));
                }
            }
            Network::Feedforward(network) => {
                let [height, width, channels] = network.input();
                let elements = height * width * channels;
                if elements > MOST {
                    continue;
                }
                if let Ok(found) = network.classify(&vec![0.5; 2 * elements]) {
                    assert_eq!(found.len(), 2);
                    assert!(found.iter().all(|image| image.len() == network.classes()));
                }
            }
        }
    }
});
