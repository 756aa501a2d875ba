//! `inspect`: packed files, ONNX models of this and of other producers, and damage.
#![cfg(feature = "std")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use laq_packed::network::NetworkSpec;
use laq_packed::onnx::{OnnxOptions, OnnxReadError, to_onnx};
use laq_packed::{
    FileSummary, InspectError, PackedFile, PackedTensor, Packing, Quantization, Tensor, inspect,
};
use laq_solvers::{Codebook, Scale};
use laq_test_support::{Capability, skip};
use serde_json::Value;
use tempfile::TempDir;

fn packed(shape: [usize; 2], codebook: &Codebook, scales: &[Scale]) -> Tensor {
    let levels: Vec<i8> = codebook.levels().collect();
    let count = shape[0] * shape[1];
    let levels: Vec<i8> = (0..count)
        .map(|at| levels[at * at % levels.len()])
        .collect();
    let packing = Packing::of(codebook).expect("a packing");
    let tensor = PackedTensor::from_levels(&shape, &levels, codebook, scales, packing);
    Tensor::Packed(tensor.expect("a tensor"))
}

/// The tensors of a language model of five characters and three hidden units.
fn tensors(codebook: &Codebook, scale: impl Fn(f32) -> Scale) -> BTreeMap<String, Tensor> {
    let gates = [0.5, 0.25, 1.5, 0.75].map(&scale);
    let f32s = |count: usize| Tensor::F32 {
        shape: vec![count],
        values: vec![0.5; count],
    };
    let named = [
        ("lstm.weight_ih", packed([12, 5], codebook, &gates)),
        ("lstm.weight_hh", packed([12, 3], codebook, &[scale(0.5)])),
        ("lstm.bias", f32s(12)),
        ("output.weight", packed([5, 3], codebook, &[scale(0.3)])),
        ("output.bias", f32s(5)),
    ];
    named.map(|(name, tensor)| (name.to_owned(), tensor)).into()
}

fn model(tensors: &BTreeMap<String, Tensor>, opset: u32, qonnx: bool) -> Vec<u8> {
    let spec = NetworkSpec::CharLstm {
        alphabet: b"abcde".to_vec(),
        hidden: 3,
    };
    let options = OnnxOptions {
        opset,
        step: false,
        qonnx,
    };
    let metadata = BTreeMap::from([("laq.method".to_owned(), "lat-a".to_owned())]);
    let (model, _) = to_onnx(&spec, tensors, options, &metadata).expect("a model");
    model
}

fn quantization<'a>(summary: &'a FileSummary, name: &str) -> &'a Quantization {
    let tensor = summary.tensors.iter().find(|tensor| tensor.name == name);
    let quantization = tensor.and_then(|tensor| tensor.quantization.as_ref());
    quantization.unwrap_or_else(|| panic!("{name} in {summary:?}"))
}

/// Each level that occurs and its share.
fn values(of: &Quantization) -> Vec<(f32, f64)> {
    let levels = of.levels.iter().filter(|level| level.share > 0.0);
    levels
        .map(|level| (level.multiplier, level.share))
        .collect()
}

fn distinct(scales: &[f32]) -> Vec<f32> {
    let mut scales = scales.to_vec();
    scales.sort_by(f32::total_cmp);
    scales.dedup();
    scales
}

#[test]
fn an_exported_model_has_the_levels_and_scales_of_the_packed_file() {
    let folder = TempDir::new().expect("a folder");
    let (file, onnx) = (folder.path().join("file"), folder.path().join("onnx"));
    let linear = Codebook::linear(3).expect("a codebook");
    for codebook in [&Codebook::Binary, &Codebook::Ternary, &linear] {
        let tensors = tensors(codebook, Scale::One);
        PackedFile::write(&file, &tensors, BTreeMap::new()).expect("a file");
        let expected = inspect(&file).expect("a packed file");
        for (opset, qonnx) in [(21, false), (25, false), (21, true)] {
            fs::write(&onnx, model(&tensors, opset, qonnx)).expect("write");
            let found = inspect(&onnx).expect("a model");
            assert_eq!(found.method.as_deref(), Some("lat-a"));
            assert_eq!(found.bytes, fs::metadata(&onnx).expect("a file").len());
            let header = found.onnx.as_ref().expect("a header");
            assert_eq!(header.opsets["ai.onnx"], i64::from(opset));
            assert!(header.producer.starts_with("laq "));
            for name in ["lstm.weight_ih", "lstm.weight_hh", "output.weight"] {
                let part = if qonnx { "float" } else { "integers" };
                let found = quantization(&found, &format!("{name}.{part}"));
                let expected = quantization(&expected, name);
                assert_eq!(values(found), values(expected), "{name}");
                assert_eq!(found.sparsity, expected.sparsity, "{name}");
                assert_eq!(distinct(&found.scales), distinct(&expected.scales));
                assert_eq!(found.groups, found.scales.len());
            }
        }
    }
}

#[test]
fn weights_with_a_scale_for_each_sign_are_the_values_of_a_table() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("onnx");
    let two = |scale: f32| Scale::Two {
        positive: scale,
        negative: scale / 2.0,
    };
    let tensors = tensors(&Codebook::Ternary, two);
    for opset in [21, 25] {
        fs::write(&path, model(&tensors, opset, false)).expect("write");
        let found = inspect(&path).expect("a model");
        for name in ["lstm.weight_ih", "output.weight"] {
            let found = quantization(&found, &format!("{name}.packed"));
            let mut weights = tensors[name].to_f32();
            weights.sort_by(f32::total_cmp);
            let share = 1.0 / weights.len() as f64;
            let runs = weights.chunk_by(|a, b| a == b);
            let expected: Vec<_> = runs.map(|run| (run[0], run.len() as f64 * share)).collect();
            let found = values(found);
            assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.0, expected.0);
                assert!((found.1 - expected.1).abs() < 1e-12);
            }
        }
    }
}

#[test]
fn other_tensors_have_their_element_types() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("onnx");
    let tensors = tensors(&Codebook::Ternary, Scale::One);
    fs::write(&path, model(&tensors, 21, false)).expect("write");
    let found = inspect(&path).expect("a model");
    let tensor = found.tensors.iter().find(|tensor| tensor.name == "depth");
    let tensor = tensor.expect("the number of characters");
    assert_eq!((tensor.dtype.as_str(), tensor.bits), ("INT64", Some(64.0)));
    assert_eq!((&tensor.shape[..], tensor.bytes), (&[1][..], 8));
    assert_eq!(tensor.quantization, None);
}

#[test]
fn models_of_another_producer_have_the_levels_that_onnx_decodes() {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import numpy, onnx"]).is_ok_and(|output| output.status.success()) {
        skip(Capability::Onnx, "python3 has no numpy or onnx");
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/quantized_models.py");
    let arguments = [script.as_path(), folder.path()].map(|path| path.to_str().expect("text"));
    let output = python(&arguments).expect("python3 runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let expected = fs::read(folder.path().join("expected.json")).expect("a file");
    let expected: BTreeMap<String, Value> = serde_json::from_slice(&expected).expect("JSON");
    for (name, expected) in &expected {
        let found = inspect(&folder.path().join(format!("{name}.onnx"))).expect(name);
        let found = serde_json::to_value(&found.tensors[0]).expect("JSON");
        let keys = |value: &Value| value.as_object().expect("an object").len();
        assert_eq!(keys(&found), keys(expected), "{name}: {found}");
        for (key, expected) in expected.as_object().expect("an object") {
            assert_eq!(floats(&found[key]), floats(expected), "{name}, {key}");
        }
    }
}

/// With every number in f32: reading JSON may change the last bit of f64.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map(|number| number as f32).into(),
        Value::Array(values) => values.iter().map(floats).collect(),
        Value::Object(entries) => (entries.iter())
            .map(|(key, value)| (key.clone(), floats(value)))
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn damaged_models_are_errors_of_one_line_or_decode() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("onnx");
    let two = |scale| Scale::Two {
        positive: scale,
        negative: 1.0,
    };
    for model in [
        model(&tensors(&Codebook::Ternary, Scale::One), 25, false),
        model(&tensors(&Codebook::Ternary, Scale::One), 21, true),
        model(&tensors(&Codebook::Ternary, two), 21, false),
    ] {
        let check = |bytes: &[u8]| {
            // Overwriting a file makes some file systems wait for the disk.
            let _ = fs::remove_file(&path);
            fs::write(&path, bytes).expect("write");
            match inspect(&path) {
                Ok(summary) => {
                    for tensor in &summary.tensors {
                        let levels = tensor.quantization.iter().flat_map(|found| &found.levels);
                        let share: f64 = levels.map(|level| level.share).sum();
                        assert!(share == 0.0 || (share - 1.0).abs() < 1e-9);
                    }
                    Ok(())
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(!text.is_empty() && !text.contains('\n'), "{text}");
                    Err(error)
                }
            }
        };
        check(&model).expect("a model");
        // The graph ends before the operator sets and the metadata.
        let whole = model.len() - 80;
        for place in 0..model.len() {
            let cut = check(&model[..place]);
            assert!(cut.is_err() || place > whole, "{place}");
            let mut flipped = model.clone();
            flipped[place] ^= 1 << (place % 8);
            let _ = check(&flipped);
        }
        assert!(matches!(
            check(&model[..whole]),
            Err(InspectError::Onnx(OnnxReadError::Decode { .. }))
        ));
        assert!(matches!(
            check(&model[..2]),
            Err(InspectError::Onnx(OnnxReadError::NoGraph { .. }))
        ));
        assert!(matches!(check(b"text"), Err(InspectError::Foreign { .. })));
        assert!(matches!(check(b""), Err(InspectError::Foreign { .. })));
    }
    let missing = inspect(&folder.path().join("missing"));
    assert!(matches!(missing, Err(InspectError::Packed(_))));
}
