//! ONNX models, through `inspect`: what is accepted has levels that add up, and an error is one line.

#![no_main]

use std::fs;
use std::sync::LazyLock;

use laq_packed::{InspectError, inspect};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|content: &[u8]| {
    let path = FOLDER.path().join("in");
    fs::write(&path, content).expect("the temporary folder is writable");
    let summary = match inspect(&path) {
        Ok(summary) => summary,
        Err(InspectError::Onnx(error)) => {
            assert_eq!(error.to_string().lines().count(), 1);
            return;
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for tensor in summary.tensors {
        let Some(quantization) = tensor.quantization else {
            continue;
        };
        let elements: usize = tensor.shape.iter().product();
        let share: f64 = (quantization.levels.iter()).map(|level| level.share).sum();
        assert!(quantization.levels.is_empty() || elements == 0 || (share - 1.0).abs() < 1e-9);
        if summary.onnx.is_some() {
            assert_eq!(quantization.groups, quantization.scales.len());
            assert!(quantization.groups <= elements && quantization.levels.len() <= elements);
            let zero_points = quantization.zero_points.len();
            assert!(zero_points == 0 || zero_points == quantization.groups);
        }
    }
});
