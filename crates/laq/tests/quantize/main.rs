//! `laq quantize`: options, output and errors.

#[path = "../../laq-packed/tests/fixtures/mod.rs"]
mod fixtures;

use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use fixtures::*;
use half::f16;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

/// `laq quantize` in a folder of test files.
struct Quantize {
    folder: TestDir,
}

impl Quantize {
    fn new() -> Self {
        Self {
            folder: TestDir::new(),
        }
    }

    fn laq(&self, arguments: &str) -> Output {
        Command::new(cargo_bin!("laq"))
            .current_dir(self.folder.folder.path())
            .arg("quantize")
            .args(arguments.split_whitespace())
            .output()
            .expect("laq runs")
    }

    /// Runs a command that must succeed; returns its standard output.
    fn good(&self, arguments: &str) -> String {
        let output = self.laq(arguments);
        let message = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(0), "{arguments}: {message}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn records(&self, arguments: &str) -> Vec<Value> {
        let printed = self.good(&format!("{arguments} --json"));
        let lines = printed.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Runs a command that must fail with exit code 1 and a message with all of `expected`, and
    /// leave no file.
    fn bad(&self, arguments: &str, expected: &[&str]) {
        let before = self.folder.files();
        let output = self.laq(arguments);
        let message = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{arguments}: {message}");
        assert!(message.starts_with("error: "), "{message}");
        for part in expected {
            assert!(
                message.contains(part),
                "{arguments}: no {part:?} in {message:?}"
            );
        }
        assert_eq!(self.folder.files(), before, "{arguments}");
    }
}

/// The levels of the best scale are the nearest ones, so the best of all cuts through the sorted
/// magnitudes is the optimum.
#[test]
fn the_exact_method_finds_the_optimum_of_each_channel() {
    let cli = Quantize::new();
    cli.good(
        "--method lat-e --granularity row --weights w.safetensors --curvature d.safetensors --out q.safetensors",
    );
    let written = Written::read(&cli.folder.path("q.safetensors"));
    for name in ["linear.weight", "conv.weight", "embedding.weight"] {
        let old = find(&model(), name);
        let (w, d) = (values(&old), values(&find(&curvature(), name)));
        let decoded = written.decode(name);
        let length = w.len() / old.shape[0];
        for channel in 0..old.shape[0] {
            let range = channel * length..(channel + 1) * length;
            let mut pairs: Vec<(f64, f64)> = range
                .clone()
                .map(|i| (f64::from(w[i]).abs(), f64::from(d[i])))
                .collect();
            pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
            let energy: f64 = pairs.iter().map(|(x, d)| 0.5 * d * x * x).sum();
            let gain = |count: usize| {
                let product: f64 = pairs[..count].iter().map(|(x, d)| d * x).sum();
                let square: f64 = pairs[..count].iter().map(|(_, d)| d).sum();
                0.5 * product * product / square
            };
            let best = (1..=length)
                .map(|count| energy - gain(count))
                .fold(energy, f64::min);
            let error: f64 = range
                .map(|i| 0.5 * f64::from(d[i]) * (f64::from(w[i]) - f64::from(decoded[i])).powi(2))
                .sum();
            assert!(
                (error - best).abs() <= 1e-6 * energy,
                "{name} {channel}: {error} {best}"
            );
        }
    }
}

/// Bytes written by hand: 1, −1.5, 0 and 0.25 in the three types.
#[test]
fn half_precision_is_bit_exact() {
    let cli = Quantize::new();
    let f16_bytes = [0x00, 0x3c, 0x00, 0xbe, 0x00, 0x00, 0x00, 0x34];
    let bf16_bytes = [0x80, 0x3f, 0xc0, 0xbf, 0x00, 0x00, 0x80, 0x3e];
    cli.folder.write(
        "w.safetensors",
        &file_bytes(&[
            raw("half", Dtype::F16, &[2, 2], &f16_bytes),
            raw("brain", Dtype::BF16, &[2, 2], &bf16_bytes),
            f32s("single", &[2, 2], &[1.0, -1.5, 0.0, 0.25]),
        ]),
    );
    // α = (1 + 1.5) / 2 for the levels 1, −1, 0, 0; the error is ½ (0.25² + 0.25² + 0.25²).
    for record in
        cli.records("--method lat-e --weights w.safetensors --out q.safetensors --dequantized")
    {
        assert_eq!(record["scale"], json!([1.25]), "{record}");
        assert_eq!(record["weighted_error"], json!(0.09375), "{record}");
        assert_eq!(record["sparsity"], json!(0.5), "{record}");
    }
    let written = Written::read(&cli.folder.path("q.safetensors"));
    for name in ["half", "brain", "single"] {
        assert_eq!(written.multipliers(name), [1.0, -1.0, 0.0, 0.0], "{name}");
        assert_eq!(written.f32s(&format!("{name}.scale")), [1.25]);
    }
    let bytes = |name: &str| written.tensors[name].2.clone();
    assert_eq!(bytes("half"), [0x00, 0x3d, 0x00, 0xbd, 0, 0, 0, 0]);
    assert_eq!(bytes("brain"), [0xa0, 0x3f, 0xa0, 0xbf, 0, 0, 0, 0]);
    assert_eq!(written.f32s("single"), [1.25, -1.25, 0.0, 0.0]);
}

/// A scale that f16 does not hold, because the best one for levels in thirds is above the largest
/// weight.
#[test]
fn finite_weights_stay_finite() {
    let cli = Quantize::new();
    let weights = [65504.0, 65504.0, 65504.0, 43900.0, 43900.0, 21950.0];
    cli.folder.write(
        "w.safetensors",
        &file_bytes(&[f16s("w", &[1, 6], &weights)]),
    );
    let records = cli.records(
        "--method laq-linear-e --bits 3 --weights w.safetensors --out q.safetensors --dequantized",
    );
    assert!(
        records[0]["scale"][0].as_f64() > Some(65520.0 / 3.0),
        "{records:?}"
    );
    let written = Written::read(&cli.folder.path("q.safetensors"));
    let largest = f16::MAX.to_le_bytes();
    assert_eq!(written.tensors["w"].2[..2], largest);
    assert!(written.decode("w")[0] > 65520.0);
}

#[test]
fn other_tensors_are_copied() {
    let cli = Quantize::new();
    cli.good("--method lat-e --weights w.safetensors --out q.safetensors");
    let (old, new) = (
        Written::read(&cli.folder.path("w.safetensors")),
        Written::read(&cli.folder.path("q.safetensors")),
    );
    for (name, tensor) in &old.tensors {
        if !MATRICES.contains(&name.as_str()) {
            assert_eq!(&new.tensors[name], tensor, "{name}");
        }
    }
    let names = |dequantized: bool| {
        let copied = old
            .tensors
            .keys()
            .filter(|name| dequantized || !MATRICES.contains(&name.as_str()));
        let packed = MATRICES.iter();
        let packed = packed.flat_map(|name| [format!("{name}.packed"), format!("{name}.scale")]);
        let mut names: Vec<String> = copied.cloned().chain(packed).collect();
        names.sort();
        names
    };
    assert_eq!(
        new.tensors.keys().cloned().collect::<Vec<_>>(),
        names(false)
    );
    for (key, value) in &old.metadata {
        assert_eq!(&new.metadata[key], value);
    }
    assert_eq!(new.metadata["laq.method"], "lat-e");
    let entries: Value = serde_json::from_str(&new.metadata["laq.tensors"]).expect("JSON");
    assert_eq!(
        entries["linear.weight"],
        json!({"shape": [7, 11], "packing": "bits2", "values": [-1.0, 0.0, 1.0], "groups": 1, "two_scales": false})
    );

    cli.good("--method lat-e --weights w.safetensors --out q.safetensors --dequantized");
    let new = Written::read(&cli.folder.path("q.safetensors"));
    assert_eq!(new.tensors.keys().cloned().collect::<Vec<_>>(), names(true));
    assert_eq!(new.f32s("linear.weight"), new.decode("linear.weight"));
}

#[test]
fn globs_select_tensors() {
    let cli = Quantize::new();
    for (globs, expected) in [
        ("", &MATRICES[..]),
        ("--include linear.*", &["linear.bias", "linear.weight"]),
        (
            "--include *.weight --exclude conv* --exclude nothing*",
            &["embedding.weight", "linear.weight"],
        ),
        ("--include temperature", &["temperature"]),
        (
            "--include *s --include con?.*",
            &["conv.weight", "linear.bias"],
        ),
        ("--exclude [!l]*", &["linear.weight"]),
    ] {
        let records = cli.records(&format!(
            "--method lab --weights w.safetensors --out q.safetensors {globs}"
        ));
        let mut names: Vec<_> = records
            .iter()
            .map(|record| record["name"].as_str().expect("a name"))
            .collect();
        let mut expected = expected.to_vec();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{globs}");
    }
}

/// A file of llama.cpp with one matrix of `columns` columns in F32.
fn gguf(columns: u64) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [
        &b"GGUF"[..],
        &3u32.to_le_bytes(),
        &1u64.to_le_bytes(),
        &0u64.to_le_bytes(),
    ]
    .concat();
    bytes.extend([&text("a.weight")[..], &2u32.to_le_bytes()].concat());
    bytes.extend([columns, 2].iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend([&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend((0..2 * columns).flat_map(|i| (0.1 * (i as f32).sin()).to_le_bytes()));
    bytes
}

#[test]
fn a_model_of_llama_cpp_is_quantized_to_another() {
    let cli = Quantize::new();
    cli.folder.write("m.gguf", &gguf(64));
    let printed = cli.good("--weights m.gguf --format q2_0 --out q.gguf");
    for part in [
        "a.weight",
        "q2_0",
        "100 %",
        "1 tensors quantized, 0 copied; 128 weights",
    ] {
        assert!(printed.contains(part), "{printed}");
    }
    let quantized = cli.folder.read("q.gguf");
    assert!(quantized.starts_with(b"GGUF") && quantized.len() < 300);
    let record = &cli.records("--weights m.gguf --format q4_0 --type a*=iq4_nl --out q.gguf")[0];
    assert_eq!(
        (&record["method"], &record["n"]),
        (&"iq4_nl".into(), &128.into())
    );
    for (arguments, expected) in [
        (
            "--method lat-e",
            &["GGUF file", "--format instead of --method"][..],
        ),
        ("--format int4-g128", &["int4-g128", "q4_0"]),
        (
            "--format q4_0 --dequantized",
            &["--dequantized is for safetensors"],
        ),
        (
            "--format tq2_0",
            &["a.weight cannot be quantized to tq2_0", "256", "q2_0|q4_0"],
        ),
        ("--format q4_0 --imatrix m.gguf", &["no importance matrix"]),
    ] {
        cli.bad(
            &format!("{arguments} --weights m.gguf --out q.gguf"),
            expected,
        );
    }
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let cli = Quantize::new();
    let run = |threads: u32, granularity: &str| {
        cli.good(&format!(
            "--method laq-linear-3-e {granularity} --weights w.safetensors --curvature d.safetensors --out \
             q.safetensors --threads {threads}"
        ));
        cli.folder.read("q.safetensors")
    };
    for granularity in ["", "--granularity row", "--granularity block:5"] {
        let one = run(1, granularity);
        assert!(one == run(2, granularity) && one == run(5, granularity));
    }
}

#[test]
fn without_json_a_table_is_printed() {
    let cli = Quantize::new();
    let printed = cli.good("--method lat2-e --weights w.safetensors --out q.safetensors");
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 6, "{printed}");
    assert!(lines[0].starts_with("tensor") && lines[0].ends_with("ms"));
    assert!(lines[1..5].iter().all(|line| line.len() == lines[0].len()));
    // 77 weights of F32 and 114 of F16 or BF16; then rows of 11, 18 and 4 codes of 2 bits, and 4
    // pairs of scales.
    let before = (77.0 * 32.0 + 114.0 * 16.0) / 191.0;
    let after = 8.0 * (7.0 * 3.0 + 5.0 * 5.0 + 6.0 + 8.0 * 4.0) / 191.0;
    for part in [
        "4 tensors quantized, 4 copied; 191 weights",
        &format!("{before:.2} bits each before, {after:.2} packed"),
        "q.safetensors",
    ] {
        assert!(lines[5].contains(part), "{part:?} in {printed}");
    }
}

#[test]
fn records_are_complete() {
    let cli = Quantize::new();
    // All zeros, which DoReFa has no level for: the error has nothing that it could be relative to.
    cli.folder.write(
        "w.safetensors",
        &file_bytes(&[f32s("w", &[2, 2], &[0.0; 4])]),
    );
    let record = &cli.records("--method dorefa-2 --weights w.safetensors --out q.safetensors")[0];
    let keys: Vec<_> = record.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "name",
            "n",
            "method",
            "scale",
            "weighted_error",
            "relative_error",
            "sparsity",
            "bits",
            "milliseconds"
        ]
    );
    assert_eq!(record["relative_error"], Value::Null);
    assert_eq!(record["scale"], json!([f64::from(1.0f32 / 3.0)]));
    let record = &cli
        .records("--method lat2-e --granularity row --weights w.safetensors --out q.safetensors")
        [0];
    assert_eq!(record["relative_error"], json!(0.0));
    assert_eq!(record["scale"], json!([[0.0, 0.0], [0.0, 0.0]]));
}

#[test]
fn invalid_requests_are_errors() {
    let cli = Quantize::new();
    let quantize = "--method lat-e --weights w.safetensors --out q.safetensors";
    for (arguments, expected) in [
        (
            "--method lat-x --weights w.safetensors --out q.safetensors",
            &["lat-x", "did you mean"][..],
        ),
        (
            "--method full --weights w.safetensors --out q.safetensors",
            &["full does not quantize"],
        ),
        (
            "--method lat-e --weights none.safetensors --out q.safetensors",
            &["cannot read none.safetensors"],
        ),
        (
            "--method lat-e --weights . --out q.safetensors",
            &["cannot read ."],
        ),
        (
            "--method lat-e --weights w.safetensors --out w.safetensors",
            &["w.safetensors is an input file"],
        ),
        (
            "--method lat-e --weights w.safetensors --out ./d.safetensors --curvature d.safetensors",
            &["is an input file"],
        ),
        (
            "--method lat-e --weights w.safetensors --out .",
            &["not a regular file"],
        ),
        (
            "--method lat-e --weights w.safetensors --out none/q.safetensors",
            &["cannot write none/q.safetensors"],
        ),
        (
            &format!("{quantize} --include lineer.*"),
            &[
                "--include lineer.* matches no tensor",
                "linear.bias",
                "and 3 more",
            ],
        ),
        (
            &format!("{quantize} --exclude conv.wieght"),
            &["--exclude conv.wieght", "it has conv.weight, "],
        ),
        (
            &format!("{quantize} --include [a"),
            &["--include [a: ", "Pattern syntax error"],
        ),
        (
            &format!("{quantize} --include steps"),
            &[
                "--include steps",
                "cannot be quantized",
                "I64",
                "F32, F16 or BF16",
            ],
        ),
        (
            "--method lab --packing trits --weights w.safetensors --out q.safetensors --bits 1",
            &["lab has a fixed number of bits"],
        ),
        (
            "--method laq-linear-3 --packing trits --weights w.safetensors --out q.safetensors",
            &["7 levels", "at most 3"],
        ),
        (
            "--format q2_1 --weights w.safetensors --out q.safetensors",
            &["unknown format \"q2_1\"", "did you mean q2_0?", "int4-g128"],
        ),
        (
            "--method q2_0 --granularity row --weights w.safetensors --out q.safetensors",
            &["block of 64 weights", "omit the granularity"],
        ),
        (
            &format!("{quantize} --imatrix d.safetensors"),
            &["--imatrix is for GGUF"],
        ),
        (
            &format!("{quantize} --exclude *"),
            &["no tensor to quantize", "--include"],
        ),
        (
            &format!("{quantize} --include * --granularity row"),
            &["temperature has no dimensions", "--exclude"],
        ),
        (
            &format!("{quantize} --include linear.* --curvature d.safetensors"),
            &["no curvature for linear.bias:"],
        ),
    ] {
        cli.bad(arguments, expected);
    }
    for arguments in [
        "",
        "--method lat-e",
        &format!("{quantize} --granularity rows"),
        &format!("{quantize} --bits x"),
        &format!("{quantize} --format q2_0"),
        &format!("{quantize} --type *=q9"),
    ] {
        assert_eq!(cli.laq(arguments).status.code(), Some(2), "{arguments}");
    }
}

#[test]
fn invalid_tensors_are_errors_and_keep_the_old_file() {
    let cli = Quantize::new();
    cli.folder.write("q.safetensors", b"old");
    let w = |values: &[f32]| f32s("w", &[2, 3], values);
    let good = w(&[1.0; 6]);
    let nan = w(&[1.0, 2.0, 3.0, 4.0, 5.0, f32::NAN]);
    let huge = f16s("w", &[2, 3], &[f32::NEG_INFINITY; 6]);
    let negative = w(&[1.0, 2.0, 3.0, -4.0, 5.0, 6.0]);
    let first = f32s("a", &[4, 4], &[1.0; 16]);
    for (weights, curvature, expected) in [
        (
            vec![first.clone(), nan.clone()],
            None,
            &["w[1, 2] in w.safetensors is NaN", "finite"][..],
        ),
        (vec![huge], None, &["w[0, 0] in w.safetensors is -inf"]),
        (
            vec![good.clone()],
            Some(nan),
            &["w[1, 2] in d.safetensors is NaN"],
        ),
        (
            vec![good.clone()],
            Some(negative),
            &["w[1, 0] in d.safetensors is -4", "not negative"],
        ),
        (
            vec![good.clone()],
            Some(f32s("w", &[3, 2], &[1.0; 6])),
            &["w has shape [3, 2] in d.safetensors", "[2, 3]"],
        ),
        (
            vec![good.clone()],
            Some(f32s("v", &[2, 3], &[1.0; 6])),
            &["d.safetensors has no curvature for w:"],
        ),
        (
            vec![good.clone()],
            Some(raw("w", Dtype::I16, &[2, 3], &[0; 12])),
            &["type I16 in d.safetensors", "BF16"],
        ),
        (
            vec![raw("w", Dtype::F64, &[1, 2], &[0; 16])],
            None,
            &["w in w.safetensors has F64 elements", "--exclude 'w'"],
        ),
        (
            vec![good.clone(), f32s("w.packed", &[1], &[1.0])],
            None,
            &["already has a tensor w.packed", "--exclude"],
        ),
        (
            vec![good, raw("w.scale", Dtype::I8, &[1], &[1])],
            None,
            &["already has a tensor w.scale"],
        ),
        (
            vec![raw("v", Dtype::I8, &[1], &[1])],
            None,
            &["no tensor to quantize", "it has v"],
        ),
        (vec![], None, &["no tensor to quantize", "no tensors"]),
    ] {
        cli.folder.write("w.safetensors", &file_bytes(&weights));
        cli.folder.write(
            "d.safetensors",
            &file_bytes(&Vec::from_iter(curvature.clone())),
        );
        let with = if curvature.is_some() {
            " --curvature d.safetensors"
        } else {
            ""
        };
        for granularity in ["", " --granularity row"] {
            let arguments = "--method lat-e --weights w.safetensors --out q.safetensors";
            cli.bad(&format!("{arguments}{with}{granularity}"), expected);
        }
        assert_eq!(cli.folder.read("q.safetensors"), b"old");
    }
}

#[test]
fn invalid_files_are_errors() {
    let cli = Quantize::new();
    let good = file_bytes(&model());
    let with_header = |header: &str, data: usize| {
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &vec![0; data]].concat()
    };
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (bytes, expected) in [
        (
            good[..good.len() - 1].to_vec(),
            &[
                "is truncated",
                &(good.len() - 1).to_string(),
                &good.len().to_string(),
            ][..],
        ),
        (good[..50].to_vec(), &["is truncated"]),
        ([&good[..], &[0]].concat(), &["describes"]),
        (good[..5].to_vec(), &["not a safetensors file"]),
        (vec![], &["not a safetensors file"]),
        (b"To be, or not to be".to_vec(), &["not a safetensors file"]),
        (
            b"PK\x03\x04\x00\x00\x08\x08\x00\x00".to_vec(),
            &["torch.save", "zip", "safetensors.torch.save_file"],
        ),
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
            &["torch.save", "pickle", "safetensors.torch.save_file"],
        ),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff{}".to_vec(),
            &["18446744073709551615", "100000000"],
        ),
        (with_header("{\"w\": ", 0), &["header", "invalid", "EOF"]),
        (with_header("{\"w\": 3}", 0), &["header", "invalid"]),
        (
            with_header(&entry("[2, 2]", "[0, 17]"), 17),
            &["header", "invalid"],
        ),
        (
            with_header(&entry("[2, 2]", "[4, 20]"), 20),
            &["header", "invalid", "offset"],
        ),
        (
            with_header(&entry("[2, 2]", "[0, 16]"), 8),
            &["is truncated"],
        ),
        (
            with_header(&entry("[2, 2]", "[16, 0]"), 16),
            &["header", "invalid"],
        ),
        (
            with_header(&entry("[-2, 2]", "[0, 16]"), 16),
            &["header", "invalid"],
        ),
        (
            with_header(
                &entry("[4294967296, 4294967296, 4294967296]", "[0, 16]"),
                16,
            ),
            &["header", "invalid"],
        ),
        (
            with_header(&entry("[2, 2]", "[0, 16]").replace("F32", "F33"), 16),
            &["header", "invalid", "F33"],
        ),
    ] {
        cli.folder.write("bad.safetensors", &bytes);
        let expected = [&["bad.safetensors"], expected].concat();
        cli.bad(
            "--method lat-e --weights bad.safetensors --out q.safetensors",
            &expected,
        );
        cli.bad("--method lat-e --weights w.safetensors --curvature bad.safetensors --out q.safetensors", &expected);
    }
}

/// A limit of the file size simulates a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error_and_keeps_the_old_file() {
    let cli = Quantize::new();
    cli.folder.write(
        "w.safetensors",
        &file_bytes(&[f32s("w", &[100, 400], &numbers(1, 40_000))]),
    );
    cli.folder.write("q.safetensors", b"old");
    let before = cli.folder.files();
    let script = "ulimit -f 16; trap '' XFSZ; exec \"$0\" quantize --method lat-e --weights w.safetensors --out \
                  q.safetensors";
    let output = Command::new("sh")
        .current_dir(cli.folder.folder.path())
        .args(["-c", script])
        .arg(cargo_bin!("laq"))
        .output()
        .expect("a shell");
    let message = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.starts_with("error: cannot write q.safetensors"),
        "{message}"
    );
    assert_eq!(cli.folder.files(), before);
    assert_eq!(cli.folder.read("q.safetensors"), b"old");
}
