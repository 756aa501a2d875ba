//! `laq quantize`: options, output and errors.

#[path = "../../../laq-packed/tests/fixtures/mod.rs"]
mod fixtures;

mod errors;
mod gguf;
mod shards;

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

    /// Runs a script, whose `$0` is the program, that must fail with exit code 1; returns the message.
    fn fails_in_shell(&self, script: &str) -> String {
        let output = Command::new("sh")
            .current_dir(self.folder.folder.path())
            .args(["-c", script])
            .arg(cargo_bin!("laq"))
            .output()
            .expect("a shell");
        let message = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{message}");
        message
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
fn the_model_is_an_argument_or_a_flag() {
    let cli = Quantize::new();
    cli.good("--weights w.safetensors --method lat-e --out q.safetensors");
    cli.good("w.safetensors --method lat-e --out r.safetensors");
    assert_eq!(
        cli.folder.read("q.safetensors"),
        cli.folder.read("r.safetensors")
    );
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
            "--include *.weight --exclude conv*",
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
    assert_eq!(lines.len(), 5, "{printed}");
    assert!(lines[0].starts_with("tensor") && lines[0].ends_with("ms"));
    assert!(lines[1..4].iter().all(|line| line.len() == lines[0].len()));
    // 77 weights of F32 and 114 of F16 or BF16; then rows of 11, 18 and 4 codes of 2 bits, and 3
    // pairs of scales.
    let before = (77.0 * 32.0 + 114.0 * 16.0) / 191.0;
    let after = 8.0 * (7.0 * 3.0 + 5.0 * 5.0 + 6.0 + 8.0 * 3.0) / 191.0;
    for part in [
        "3 tensors quantized, 5 copied; 191 weights",
        &format!("{before:.2} bits each before, {after:.2} packed"),
        "q.safetensors",
    ] {
        assert!(lines[4].contains(part), "{part:?} in {printed}");
    }
}

#[test]
fn without_a_method_the_exact_one_of_the_bits_is_used() {
    let cli = Quantize::new();
    for (arguments, method) in [
        ("", "laq-linear-4-e"),
        ("--bits 1", "lab"),
        ("--bits 2 --granularity row", "lat-e"),
        ("--bits 3", "laq-linear-3-e"),
        ("--bits 8", "laq-linear-8-e"),
    ] {
        let records = cli.records(&format!("w.safetensors --out q.safetensors {arguments}"));
        assert_eq!(records[0]["method"], method);
        let granular = records[0]["scale"].as_array().expect("scales").len() > 1;
        assert_eq!(granular, arguments.contains("row"), "{arguments}");
    }
    cli.bad(
        "w.safetensors --out p.safetensors --bits 9",
        &["--bits 9", "1 to 8"],
    );
}

#[test]
fn results_that_a_user_would_not_expect_are_told() {
    let cli = Quantize::new();
    let mut w = numbers(1, 4_000);
    w[..2_000].iter_mut().for_each(|w| *w *= 1e-3);
    cli.folder
        .write("w.safetensors", &file_bytes(&[f32s("w", &[2, 2_000], &w)]));
    let warnings = |arguments: &str| {
        let output = cli.laq(&format!("w.safetensors --out q.safetensors {arguments}"));
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        String::from_utf8(output.stderr).expect("text")
    };
    let found = warnings("--method lat-e");
    assert!(
        found.contains("warning: w: of 1 of the 2 channels little is left"),
        "{found}"
    );
    assert!(
        found.contains("(channel 0)") && found.contains("--granularity row"),
        "{found}"
    );
    assert_eq!(warnings("--method lat-e --granularity row"), "");
    assert_eq!(warnings("--method lat-e --quiet"), "");
    // A fixed point far from the optimum: one weight is much larger than all others.
    let mut w = vec![0.01; 1_000];
    w[0] = 1.0;
    cli.folder
        .write("w.safetensors", &file_bytes(&[f32s("w", &[1, 1_000], &w)]));
    let found = warnings("--method lat-a");
    let expected = "warning: w: lat-a ends at the weighted error";
    assert!(
        found.contains(expected) && found.contains("; lat-e finds"),
        "{found}"
    );
    assert_eq!(warnings("--method lat-e"), "");
}

#[test]
fn names_keep_tables_in_shape() {
    let cli = Quantize::new();
    let long: &str = "x".repeat(70_000).leak();
    let tensors =
        [long, "a\u{1b}[2J\tb", "plain"].map(|name| f32s(name, &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    cli.folder.write("w.safetensors", &file_bytes(&tensors));
    let printed = cli.good("w.safetensors --out q.safetensors");
    let lines: Vec<_> = printed.lines().collect();
    assert!(
        lines[..4]
            .iter()
            .all(|line| line.chars().count() == lines[0].len()),
        "{printed}"
    );
    let inspect = Command::new(cargo_bin!("laq"))
        .current_dir(cli.folder.folder.path())
        .args(["inspect", "q.safetensors"])
        .output()
        .expect("laq runs");
    let inspected = String::from_utf8(inspect.stdout).expect("text");
    for printed in [printed, inspected] {
        assert!(
            printed.contains(r"a\u{1b}[2J\tb") && !printed.contains('\u{1b}'),
            "{printed}"
        );
        assert!(
            printed.lines().all(|line| line.chars().count() < 400),
            "{printed}"
        );
    }
    let output = cli.laq("w.safetensors --out p.safetensors --include a\u{1b}c");
    let message = String::from_utf8(output.stderr).expect("text");
    assert!(
        message.contains(r"a\u{1b}c") && !message.contains('\u{1b}'),
        "{message}"
    );
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
            "rounding_error",
            "lost_channels",
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
