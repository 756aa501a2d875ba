//! Exported networks: files that compute with the bits of training, and refuse what does not fit.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::TestDir;
use laq_datasets::{ImageSet, Preprocessing, Split};
use laq_packed::gguf::{BlockType, GgufFile};
use laq_packed::network::NETWORK;
use laq_packed::onnx::OnnxOptions;
use laq_packed::{Network, NetworkError, PackedFile, Packing, Tensor};
use laq_runner::RunError;
use laq_runner::config::Experiment;
use laq_runner::device::DeviceOptions;
use laq_runner::evaluate::{Evaluation, Source, evaluate};
use laq_runner::export::{
    ExportOptions, Exported, export_gguf, export_onnx, export_packed, open_network,
};

fn score(path: &Path) -> Result<Evaluation, RunError> {
    let split = Source::Split {
        split: Split::Test,
        data_dir: None,
    };
    evaluate(path, &split, DeviceOptions::CPU, Some(2), &mut |_, _| {})
}

/// Trains, exports, and compares the evaluation of the file with that of the checkpoint.
fn check(dir: &TestDir, experiment: &Experiment, name: &str, options: ExportOptions) -> Exported {
    dir.train(experiment, name).expect("a run");
    let file = dir.path(&format!("{name}.safetensors"));
    let exported = export_packed(&dir.path(name), &file, options).expect("an export");
    let (trained, packed) = (score(&dir.path(name)).unwrap(), score(&file).unwrap());
    assert_eq!(trained.loss.to_bits(), packed.loss.to_bits(), "{name}");
    assert_eq!(trained.error, packed.error, "{name}");
    assert_eq!(
        (trained.examples, trained.epochs_done, &trained.method),
        (packed.examples, packed.epochs_done, &packed.method)
    );
    exported
}

const METHODS: [&str; 13] = [
    "full",
    "binary-connect",
    "lab",
    "lat-a",
    "lat2-e",
    "ttq",
    "dorefa-2",
    "laq-linear-3",
    "laq-log-4-e",
    "q1_0",
    "q2_0",
    "iq4_nl",
    "nvfp4",
];

#[test]
fn exported_language_models_have_the_losses_of_training() {
    let dir = TestDir::new();
    // More hidden units than a slice of the dense product, for one of them.
    for (method, hidden) in METHODS
        .map(|method| (method, 6))
        .into_iter()
        .chain([("lat-a", 530)])
    {
        let experiment = dir.experiment(method, &format!("model.hidden = {hidden}"));
        let name = format!("{method}-{hidden}");
        let exported = check(&dir, &experiment, &name, ExportOptions::default());
        assert_eq!(exported.tensors.len(), 5);
        let bits = |name: &str| {
            let found = exported.tensors.iter().find(|tensor| tensor.name == name);
            found.expect("a tensor").bits
        };
        let expected = match method {
            "full" => 32.0,
            "binary-connect" | "lab" | "q1_0" => 1.0,
            "laq-linear-3" => 3.0,
            "laq-log-4-e" | "iq4_nl" | "nvfp4" => 4.0,
            _ => 2.0,
        };
        assert_eq!(bits("lstm.weight_hh"), expected, "{method}");
        assert_eq!(bits("output.weight"), 32.0);
    }
}

#[test]
fn exported_networks_with_finer_scales_have_the_losses_of_training() {
    let dir = TestDir::new();
    for granularity in ["tensor", "row", "block:4", "block:7"] {
        let more = format!("quantize.granularity = \"{granularity}\"");
        for method in ["lat-e", "lat2-a", "laq-linear-4-e"] {
            let name = format!("{method}-{granularity}").replace(':', "-");
            let experiment = dir.experiment(method, &more);
            check(&dir, &experiment, &name, ExportOptions::default());
            let model = dir.path("model.onnx");
            let run = dir.path(&name);
            let onnx = OnnxOptions {
                opset: 21,
                step: false,
                qonnx: false,
            };
            export_onnx(&run, &model, ExportOptions::default(), onnx).expect("a model");
        }
        let name = format!("digits-{granularity}").replace(':', "-");
        let experiment = dir.digits("lat-a", &more);
        check(&dir, &experiment, &name, ExportOptions::default());
    }
}

/// Bit by bit, what a file in the format of training has is what was trained.
#[test]
fn what_is_trained_in_a_format_of_gguf_is_stored_without_loss() {
    let dir = TestDir::new();
    for of in BlockType::ALL {
        // Rows of one block, of two, and of none: the input layer has as many columns as there are characters.
        for blocks in [1, 2] {
            let hidden = blocks * of.weights();
            let more = format!("model.hidden = {hidden}\ntrain.epochs = 1\ntrain.max_batches = 2");
            let name = format!("{of}-{blocks}");
            dir.train(&dir.experiment(of.id(), &more), &name)
                .expect("a run");
            let (run, out) = (dir.path(&name), dir.path("out.gguf"));
            let options = ExportOptions::default();
            let exported = export_gguf(&run, &out, options).expect("a file");
            let packed = dir.path("packed.safetensors");
            export_packed(&run, &packed, options).expect("a file");
            let (packed, file) = (
                PackedFile::open(&packed).unwrap(),
                GgufFile::open(&out).unwrap(),
            );
            for (tensor, exported) in file.tensors().iter().zip(&exported.tensors) {
                let mut bytes = Vec::new();
                file.read(tensor, &mut bytes).expect("bytes");
                let is_blocks = tensor.name == "lstm.weight_hh";
                let decoded = match is_blocks {
                    true => of.decode(&bytes).expect("blocks"),
                    false => (bytes.chunks_exact(4))
                        .map(|b| f32::from_le_bytes(b.try_into().expect("four")))
                        .collect(),
                };
                assert_eq!(tensor.element.name.eq_ignore_ascii_case(of.id()), is_blocks);
                let trained = packed.tensor(&tensor.name).expect("a tensor");
                assert_eq!(
                    (&tensor.shape[..], decoded),
                    (trained.shape(), trained.to_f32())
                );
                assert_eq!(
                    (&exported.name, exported.bits == 32.0),
                    (&tensor.name, !is_blocks)
                );
            }
        }
    }
}

/// The blocks of a filter are those of its last dimension.
#[test]
fn convolutions_are_stored_in_their_format() {
    let dir = TestDir::new();
    let experiment = dir.digits("q4_0", "model.filters = [32]\nmodel.convolutions = 2");
    dir.train(&experiment, "run").expect("a run");
    let out = dir.path("out.gguf");
    export_gguf(&dir.path("run"), &out, ExportOptions::default()).expect("a file");
    let file = GgufFile::open(&out).expect("a file");
    let types = |name: &str| {
        let tensor = file.tensors().iter().find(|tensor| tensor.name == name);
        tensor.expect(name).element.name
    };
    assert_eq!(types("conv2.weight"), "Q4_0");
    // Nine weights with a channel each are no whole block.
    assert_eq!(types("conv1.weight"), "F32");
}

#[test]
fn exported_classifiers_have_the_losses_of_training() {
    let dir = TestDir::new();
    for (method, more) in [
        ("lat-a", ""),
        ("laq-log-3-e", "model.loss = \"cross-entropy\""),
        (
            "lat2-e",
            "model.batch_norm = false\nmodel.output_batch_norm = false",
        ),
        ("full", "model.filters = []"),
        (
            "laq-linear-4-e",
            "model.filters = [70, 5]\nmodel.convolutions = 2\nmodel.units = []",
        ),
    ] {
        let experiment = dir.digits(method, more);
        check(&dir, &experiment, method, ExportOptions::default());
    }
}

#[test]
fn the_mean_image_is_exported() {
    let dir = TestDir::new();
    let experiment = dir.digits("lat-a", "data.preprocessing = \"mean-image\"");
    check(&dir, &experiment, "centred", ExportOptions::default());
    let data = &experiment.data;
    let set = ImageSet::load(
        &data.name,
        &data.dir,
        Some(Preprocessing::MeanImage),
        &mut |_| {},
    )
    .expect("the embedded images");
    let expected = set.split(Split::Train).mean().expect("a mean");
    // From the file and from the run.
    for path in ["centred.safetensors", "centred"] {
        let Ok(Network::Feedforward(network)) = open_network(&dir.path(path)) else {
            panic!("not a classifier");
        };
        assert_eq!(network.mean_image(), Some(expected), "{path}");
    }
}

#[test]
fn trits_and_a_quantized_output_layer_make_the_file_smaller() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-e", "model.hidden = 40");
    let trits = ExportOptions {
        packing: Some(Packing::Trits),
        ..ExportOptions::default()
    };
    let by_bits = check(&dir, &experiment, "bits", ExportOptions::default());
    let by_trits = check(&dir, &experiment, "trits", trits);
    assert!(by_trits.file_bytes < by_bits.file_bytes);
    let file = dir.path("small.safetensors");
    let output = ExportOptions {
        output_bits: Some(8),
        ..trits
    };
    let small = export_packed(&dir.path("bits"), &file, output).expect("an export");
    assert!(small.file_bytes < by_trits.file_bytes);
    let (exact, rounded) = (score(&dir.path("bits")).unwrap(), score(&file).unwrap());
    assert!((exact.loss - rounded.loss).abs() < 1e-3 * exact.loss);

    let wrong = ExportOptions {
        packing: Some(Packing::Trits),
        ..ExportOptions::default()
    };
    let experiment = dir.experiment("laq-linear-3", "");
    dir.train(&experiment, "linear").expect("a run");
    let error = export_packed(&dir.path("linear"), &file, wrong).unwrap_err();
    assert!(matches!(error, RunError::Export(_)), "{error}");
}

#[test]
fn a_sampler_repeats_its_seed_and_agrees_with_the_sequence() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let path = dir.path("run.safetensors");
    export_packed(&dir.path("run"), &path, ExportOptions::default()).expect("an export");
    let Ok(Network::CharLstm(network)) = Network::open(&path) else {
        panic!("not a language model");
    };
    let draw = |temperature, seed| {
        let mut sampler = network
            .sample(b"tide ", temperature, seed)
            .expect("a sampler");
        (0..40)
            .map(|_| sampler.draw().expect("a character"))
            .collect::<Vec<u8>>()
    };
    assert_eq!(draw(1.0, 7), draw(1.0, 7));
    assert_ne!(draw(1.0, 7), draw(1.0, 8));
    assert_eq!(draw(0.0, 1), draw(0.0, 2));
    // At temperature 0 every character has the largest logit of the whole sequence before it.
    let text = [b"tide ".to_vec(), draw(0.0, 1)].concat();
    let tokens = network.encode(&text).expect("the alphabet");
    let symbols = network.alphabet().len();
    let mut logits = vec![0.0; tokens.len() * symbols];
    network
        .sequence_logits(&tokens, 1, &mut logits)
        .expect("logits");
    for (place, logits) in logits.chunks(symbols).enumerate().skip(4).take(40) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(logits[usize::from(tokens[place + 1])], largest);
    }
    let error = |prompt: &[u8], temperature| {
        let error = network.sample(prompt, temperature, 1).unwrap_err();
        assert!(matches!(error, NetworkError::Input { .. }), "{error}");
        error.to_string()
    };
    error(b"", 1.0);
    error(b"tide", f64::NAN);
    error(b"tide", -1.0);
    assert!(error(b"tide\xff", 1.0).contains("byte 0xff"));
}

#[test]
fn files_that_are_no_network_are_errors() {
    let dir = TestDir::new();
    let experiment = dir.digits("lat-a", "");
    dir.train(&experiment, "run").expect("a run");
    let path = dir.path("run.safetensors");
    export_packed(&dir.path("run"), &path, ExportOptions::default()).expect("an export");
    let file = PackedFile::open(&path).expect("a file");
    let tensors: BTreeMap<String, Tensor> = (file.names().into_iter())
        .map(|name| (name.clone(), file.tensor(&name).expect("a tensor")))
        .collect();
    let metadata: BTreeMap<String, String> = file.metadata().collect();
    type Change<'a> = &'a dyn Fn(&mut BTreeMap<String, Tensor>, &mut BTreeMap<String, String>);
    let changed = |change: Change<'_>| {
        let (mut tensors, mut metadata) = (tensors.clone(), metadata.clone());
        change(&mut tensors, &mut metadata);
        let path = dir.path("changed.safetensors");
        PackedFile::write(&path, &tensors, metadata).expect("a file");
        Network::open(&path).unwrap_err()
    };
    let error = changed(&|_, metadata| drop(metadata.remove(NETWORK)));
    assert!(matches!(error, NetworkError::NoNetwork { .. }), "{error}");
    let error = changed(&|_, metadata| drop(metadata.insert(NETWORK.into(), "{}".into())));
    assert!(matches!(error, NetworkError::Spec { .. }), "{error}");
    let error = changed(&|tensors, _| drop(tensors.remove("dense1.norm.mean")));
    assert!(matches!(error, NetworkError::File(_)), "{error}");
    let error = changed(&|tensors, _| {
        let other = tensors["output.weight"].clone();
        tensors.insert("dense1.weight".into(), other);
    });
    assert!(matches!(error, NetworkError::Shape { .. }), "{error}");
    let error = changed(&|_, metadata| {
        let spec = metadata[NETWORK].replace("\"classes\":10", "\"classes\":11");
        metadata.insert(NETWORK.into(), spec);
    });
    assert!(matches!(error, NetworkError::Spec { .. }), "{error}");

    // As `laq quantize` writes it: weights without a network or a run.
    let weights = dir.path("weights.safetensors");
    PackedFile::write(&weights, &tensors, BTreeMap::new()).expect("a file");
    let error = open_network(&weights).unwrap_err();
    let has_no_network = matches!(
        error,
        RunError::PackedNetwork(NetworkError::NoNetwork { .. })
    );
    assert!(has_no_network, "{error}");
    let error = score(&weights).unwrap_err();
    assert!(matches!(error, RunError::NoRun { .. }), "{error}");

    let Ok(Network::Feedforward(network)) = Network::open(&path) else {
        panic!("not a classifier");
    };
    let error = network.outputs(&[0.0; 3]).unwrap_err();
    assert!(matches!(error, NetworkError::Input { .. }), "{error}");
    let [height, width, channels] = network.input();
    let classes = network
        .classify(&vec![0.5; height * width * channels])
        .expect("classes");
    assert_eq!(classes[0].len(), network.classes());
    assert!(classes[0].is_sorted_by(|a, b| a.output >= b.output));
}

/// A run folder that has its packed network alone is exported as one with checkpoints.
#[test]
fn a_packed_run_is_exported() {
    let dir = TestDir::new();
    let whole = dir.experiment("lat-a", "");
    dir.train(&whole, "whole").expect("a run");
    let packed = dir.experiment("lat-a", "checkpoint.keep = \"packed\"");
    dir.train(&packed, "packed").expect("a run");
    let weights = |run: &str, options: ExportOptions| {
        let file = dir.path(&format!("{run}.safetensors"));
        export_packed(&dir.path(run), &file, options).expect("an export");
        let file = PackedFile::open(&file).expect("a file");
        let tensors = file.names().into_iter();
        let weights = tensors.map(|name| file.tensor(&name).expect("a tensor").to_f32());
        weights.collect::<Vec<_>>()
    };
    for packing in [
        None,
        Some(Packing::Trits),
        Some(Packing::bits(4).expect("4 bits")),
    ] {
        let options = ExportOptions {
            packing,
            ..ExportOptions::default()
        };
        assert_eq!(weights("whole", options), weights("packed", options));
    }
    let options = ExportOptions {
        packing: Some(Packing::bits(1).expect("1 bit")),
        ..ExportOptions::default()
    };
    let error = export_packed(&dir.path("packed"), &dir.path("x"), options).expect_err("3 levels");
    assert!(matches!(error, RunError::Export(_)), "{error}");
    let onnx = dir.path("packed.onnx");
    let of_onnx = OnnxOptions {
        opset: 21,
        step: false,
        qonnx: false,
    };
    let options = ExportOptions::default();
    export_onnx(&dir.path("packed"), &onnx, options, of_onnx).expect("an export");
    assert!(fs::metadata(&onnx).expect("a file").len() > 0);
}
