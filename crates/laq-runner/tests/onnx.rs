//! Exported networks in other people's software: onnxruntime computes the same outputs, and numpy reads
//! the packed file.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::TestDir;
use laq_packed::Network;
use laq_packed::network::LossSpec;
use laq_packed::onnx::OnnxOptions;
use laq_runner::RunError;
use laq_runner::config::Experiment;
use laq_runner::export::{
    ExportOptions, export_compressed_tensors, export_npz, export_onnx, export_packed,
};
use laq_test_support::{Capability, skip};
use serde_json::{Value, json};

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Trains and exports a network in every form; returns its case for the Python script.
fn case(dir: &TestDir, experiment: &Experiment, name: &str) -> Value {
    dir.train(experiment, name).expect("a run");
    let run = dir.path(name);
    let file = |ending: &str| format!("{name}.{ending}");
    let options = ExportOptions::default();
    export_packed(&run, &dir.path(&file("safetensors")), options).expect("a packed file");
    let mut models = Vec::new();
    for opset in [21, 25] {
        let model = file(&format!("{opset}.onnx"));
        let onnx = OnnxOptions {
            opset,
            step: false,
            qonnx: false,
        };
        export_onnx(&run, &dir.path(&model), options, onnx).expect("a model");
        models.push(model);
    }
    let float = ExportOptions {
        decoded: true,
        ..options
    };
    let onnx = OnnxOptions {
        opset: 21,
        step: false,
        qonnx: false,
    };
    export_onnx(&run, &dir.path(&file("f32.onnx")), float, onnx).expect("a model");
    models.push(file("f32.onnx"));
    let qonnx = OnnxOptions {
        qonnx: true,
        ..onnx
    };
    export_onnx(&run, &dir.path(&file("qonnx")), options, qonnx).expect("a model");
    export_npz(&run, &dir.path(&file("npz")), options).expect("arrays");
    export_npz(&run, &dir.path(&file("f32.npz")), float).expect("arrays");
    let folder = dir.path(&file("compressed"));
    export_compressed_tensors(&run, &folder, options).expect("a folder");
    let mut case = json!({
        "compressed": file("compressed"), "qonnx": file("qonnx"), "packed": file("safetensors"), "npz": file("npz"), "npz_f32": file("f32.npz"), "onnx": models, "inputs": file("in"), "outputs": file("out"),
    });
    let step = OnnxOptions {
        opset: 21,
        step: true,
        qonnx: false,
    };
    let stepped = export_onnx(&run, &dir.path(&file("step.onnx")), options, step);
    let (inputs, outputs) = match Network::open(&dir.path(&file("safetensors"))).expect("a network")
    {
        Network::CharLstm(network) => {
            stepped.expect("a model of one step");
            let (length, batch, symbols) = (7, 3, network.alphabet().len());
            let tokens: Vec<u8> = (0..length * batch)
                .map(|at| (at * 5 % symbols) as u8)
                .collect();
            let mut logits = vec![0.0; tokens.len() * symbols];
            network
                .sequence_logits(&tokens, batch, &mut logits)
                .expect("logits");
            case["kind"] = "text".into();
            case["loss"] = "cross-entropy".into();
            case["step"] = file("step.onnx").into();
            case["input_shape"] = json!([length, batch]);
            case["output_shape"] = json!([length, batch, symbols]);
            (tokens, logits)
        }
        Network::Feedforward(network) => {
            assert!(matches!(stepped, Err(RunError::Export(_))));
            let [height, width, channels] = network.input();
            let count = 3;
            let pixels = (0..count * height * width * channels).map(|at| (at % 97) as f32 / 96.0);
            let pixels: Vec<f32> = pixels.collect();
            let outputs = network.outputs(&pixels).expect("outputs");
            case["kind"] = "images".into();
            case["loss"] = match network.loss() {
                LossSpec::SquaredHinge => "squared-hinge".into(),
                LossSpec::CrossEntropy => "cross-entropy".into(),
            };
            case["input_shape"] = json!([count, height, width, channels]);
            case["output_shape"] = json!([count, network.classes()]);
            (f32_bytes(&pixels), outputs)
        }
    };
    fs::write(dir.path(&file("in")), inputs).expect("write");
    fs::write(dir.path(&file("out")), f32_bytes(&outputs)).expect("write");
    case
}

#[test]
fn onnxruntime_and_numpy_agree() {
    let python = |script: &str| Command::new("python3").args(["-c", script]).output();
    if !python("import numpy, onnx, onnxruntime").is_ok_and(|output| output.status.success()) {
        skip(
            Capability::Onnx,
            "python3 has no numpy, onnx or onnxruntime",
        );
        return;
    }
    let dir = TestDir::new();
    let mut cases = Vec::new();
    for method in [
        "full",
        "binary-connect",
        "lab",
        "lat-a",
        "lat2-e",
        "ttq",
        "dorefa-2",
        "dorefa-4",
        "laq-linear-3",
        "laq-linear-4",
        "laq-log-3",
        "laq-log-4-e",
        "laq-linear-6",
        "int2-g32",
        "int4-g32",
    ] {
        // Rows of two blocks, since some readers want whole ones.
        let more = if method.starts_with("int") {
            "model.hidden = 64"
        } else {
            ""
        };
        cases.push(case(&dir, &dir.experiment(method, more), method));
    }
    for (name, method, more) in [
        ("digits", "lat-a", ""),
        (
            "biased",
            "lat2-e",
            "model.batch_norm = false\nmodel.output_batch_norm = false",
        ),
        (
            "deep",
            "laq-linear-4-e",
            "model.filters = [5, 4]\nmodel.convolutions = 2",
        ),
        (
            "mlp",
            "laq-log-3",
            "model.filters = []\nmodel.loss = \"cross-entropy\"",
        ),
        ("rows", "lat-e", "quantize.granularity = \"row\""),
    ] {
        cases.push(case(&dir, &dir.digits(method, more), name));
    }
    let text = serde_json::to_string(&cases).expect("JSON");
    fs::write(dir.path("cases.json"), text).expect("write");
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../laq-packed/tests/python/check_exports.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(dir.folder.path())
        .output()
        .expect("python3 runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("20 networks"),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
