//! `laq quantize`: what it writes, against a decoding and sums of its own, and what it says about bad files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use assert_cmd::cargo::cargo_bin;
use half::{bf16, f16};
use laq_runner::RunError;
use laq_runner::quantize::{Granularity, Plan, QuantizeError, Request, method};
use laq_solvers::Method;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor as the tests make it.
#[derive(Clone)]
struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn f32s(name: &'static str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        name,
        dtype: Dtype::F32,
        shape: shape.into(),
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn f16s(name: &'static str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
    Tensor {
        name,
        dtype: Dtype::F16,
        shape: shape.into(),
        bytes: bytes.collect(),
    }
}

fn bf16s(name: &'static str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes());
    Tensor {
        name,
        dtype: Dtype::BF16,
        shape: shape.into(),
        bytes: bytes.collect(),
    }
}

fn raw(name: &'static str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor {
        name,
        dtype,
        shape: shape.into(),
        bytes: bytes.into(),
    }
}

/// A file of the format's own library.
fn file_bytes(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (tensor.name, view.expect("bytes for the shape"))
    });
    let metadata = HashMap::from([
        ("format".to_string(), "pt".to_string()),
        ("quote".to_string(), "\"ŵ\"\n".to_string()),
    ]);
    safetensors::serialize(views, Some(metadata)).expect("a file")
}

/// Numbers about zero that look random, the same every time.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() + next() + next()).collect()
}

fn positive(seed: u32, count: usize) -> Vec<f32> {
    let numbers = numbers(seed, count);
    numbers.iter().map(|number| number.abs() + 0.01).collect()
}

/// One tensor of every kind that counts.
fn model() -> Vec<Tensor> {
    vec![
        f32s("linear.weight", &[7, 11], &numbers(1, 77)),
        f32s("linear.bias", &[7], &numbers(2, 7)),
        f16s("conv.weight", &[5, 2, 3, 3], &numbers(3, 90)),
        bf16s("embedding.weight", &[6, 4], &numbers(4, 24)),
        f32s("nothing.weight", &[3, 0], &[]),
        f32s("temperature", &[], &[0.7]),
        raw("steps", Dtype::I64, &[1, 2], &[7; 16]),
        raw("mask", Dtype::BOOL, &[3], &[1, 0, 1]),
    ]
}

const MATRICES: [&str; 4] = [
    "linear.weight",
    "conv.weight",
    "embedding.weight",
    "nothing.weight",
];

fn curvature() -> Vec<Tensor> {
    vec![
        f32s("linear.weight", &[7, 11], &positive(11, 77)),
        bf16s("conv.weight", &[5, 2, 3, 3], &positive(13, 90)),
        f16s("embedding.weight", &[6, 4], &positive(14, 24)),
        f32s("nothing.weight", &[3, 0], &[]),
        f32s("not.in.the.model", &[1], &[1.0]),
    ]
}

/// A folder with `w.safetensors` and `d.safetensors`.
struct Lab {
    folder: TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let lab = Self { folder };
        lab.write("w.safetensors", &file_bytes(&model()));
        lab.write("d.safetensors", &file_bytes(&curvature()));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a temporary file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }

    /// The names of all files, in order.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|entry| {
                let name = entry.expect("an entry").file_name();
                name.into_string().expect("text")
            })
            .collect();
        names.sort();
        names
    }

    fn laq(&self, arguments: &str) -> Output {
        Command::new(cargo_bin!("laq"))
            .current_dir(self.folder.path())
            .arg("quantize")
            .args(arguments.split_whitespace())
            .output()
            .expect("laq runs")
    }

    /// Runs what must succeed, and gives what it prints.
    fn good(&self, arguments: &str) -> String {
        let output = self.laq(arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(0), "{arguments}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn records(&self, arguments: &str) -> Vec<Value> {
        let printed = self.good(&format!("{arguments} --json"));
        let lines = printed.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Runs what must fail with exit code 1 and one line that holds `expected`, and must leave no file.
    fn bad(&self, arguments: &str, expected: &[&str]) {
        let before = self.files();
        let output = self.laq(arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert!(said.starts_with("error: "), "{said}");
        for part in expected {
            assert!(said.contains(part), "{arguments}: no {part:?} in {said:?}");
        }
        assert_eq!(self.files(), before, "{arguments}");
    }

    fn request(&self, method: Method) -> Request {
        Request {
            weights: self.path("w.safetensors"),
            curvature: None,
            out: self.path("q.safetensors"),
            method,
            granularity: Granularity::PerTensor,
            include: Vec::new(),
            exclude: Vec::new(),
            threads: Some(1),
        }
    }
}

/// A file that was written, read by the format's own library.
struct Written {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Written {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("the file");
        let (length, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        assert_eq!(length % 8, 0, "the data begin at a multiple of eight");
        let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
        let tensors = tensors.iter().map(|(name, view)| {
            let at = header.info(name).expect("its entry").data_offsets.0;
            assert_eq!(at * 8 % view.dtype().bitsize(), 0, "{name} is aligned");
            let shape = view.shape().to_vec();
            (
                name.to_string(),
                (view.dtype(), shape, view.data().to_vec()),
            )
        });
        Self {
            tensors: tensors.collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        }
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        let (dtype, _, bytes) = &self.tensors[name];
        assert_eq!(*dtype, Dtype::F32, "{name}");
        let numbers = bytes.chunks_exact(4);
        numbers
            .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
            .collect()
    }

    fn levels(&self, name: &str) -> Vec<i8> {
        let (dtype, _, bytes) = &self.tensors[&format!("{name}.levels")];
        assert_eq!(*dtype, Dtype::I8);
        bytes.iter().map(|b| b.cast_signed()).collect()
    }

    /// `scale · values[level − lowest]`, from nothing but the file.
    fn decode(&self, name: &str) -> Vec<f32> {
        let entry = |key: &str| self.metadata[key].as_str();
        let values: Vec<f64> =
            serde_json::from_str(entry("laq.codebook.values")).expect("a list of numbers");
        let lowest: i64 = entry("laq.codebook.lowest").parse().expect("a number");
        let levels = self.levels(name);
        let scales = self.f32s(&format!("{name}.scale"));
        let scale_shape = &self.tensors[&format!("{name}.scale")].1;
        let shape = &self.tensors[name].1;
        let per_channel = entry("laq.granularity") == "per-channel";
        let two = if per_channel {
            scale_shape.len() == 2
        } else {
            scale_shape == &[2]
        };
        let channels = if per_channel { shape[0] } else { 1 };
        assert_eq!(scales.len(), channels * if two { 2 } else { 1 });
        let decode = |(index, &level): (usize, &i8)| {
            let channel = index * channels / levels.len();
            let scale = match two {
                false => scales[channel],
                true => scales[2 * channel + usize::from(level < 0)],
            };
            scale * values[(i64::from(level) - lowest) as usize] as f32
        };
        levels.iter().enumerate().map(decode).collect()
    }
}

/// What f32 the elements of a tensor stand for.
fn values(tensor: &Tensor) -> Vec<f32> {
    let bytes = &tensor.bytes;
    match tensor.dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
            .collect(),
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(b[1]) << 24 | u32::from(b[0]) << 16))
            .collect(),
        other => panic!("{other}"),
    }
}

fn find(tensors: &[Tensor], name: &str) -> Tensor {
    let found = tensors.iter().find(|tensor| tensor.name == name);
    found.expect(name).clone()
}

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-12 * scale
}

#[test]
fn every_method_is_rebuilt_from_the_file_alone() {
    let lab = Lab::new();
    let never = AtomicBool::new(false);
    for method in Method::all().filter(|method| method.quantizer().is_some()) {
        for granularity in [Granularity::PerTensor, Granularity::PerChannel] {
            for weighted in [false, true] {
                let request = Request {
                    curvature: weighted.then(|| lab.path("d.safetensors")),
                    granularity,
                    ..lab.request(method.clone())
                };
                let plan = Plan::new(request).expect("a plan");
                let mut records = Vec::new();
                let totals = plan
                    .run(&never, &mut |record| records.push(record.clone()))
                    .expect("a file");
                let written = Written::read(&lab.path("q.safetensors"));
                let mut errors = 0.0;
                for record in &records {
                    let name = record.name.as_str();
                    let old = find(&model(), name);
                    let decoded = written.decode(name);
                    let (dtype, shape, bytes) = &written.tensors[name];
                    assert_eq!((*dtype, shape), (old.dtype, &old.shape), "{method} {name}");
                    let rounded: Vec<u8> = match old.dtype {
                        Dtype::F16 => f16s("", &old.shape, &decoded).bytes,
                        Dtype::BF16 => bf16s("", &old.shape, &decoded).bytes,
                        _ => f32s("", &old.shape, &decoded).bytes,
                    };
                    assert_eq!(bytes, &rounded, "{method} {name}");

                    let w = values(&old);
                    let d = match weighted {
                        true => values(&find(&curvature(), name)),
                        false => vec![1.0; w.len()],
                    };
                    let sum = |term: &dyn Fn(usize) -> f64| (0..w.len()).map(term).sum::<f64>();
                    let error = 0.5
                        * sum(&|i| {
                            f64::from(d[i]) * (f64::from(w[i]) - f64::from(decoded[i])).powi(2)
                        });
                    let energy = 0.5 * sum(&|i| f64::from(d[i]) * f64::from(w[i]).powi(2));
                    assert!(
                        close(record.weighted_error, error, energy),
                        "{method} {name}: {} {error}",
                        record.weighted_error
                    );
                    let relative = if error == 0.0 { 0.0 } else { error / energy };
                    assert!(
                        close(record.relative_error.expect("a number"), relative, 1.0),
                        "{method} {name}"
                    );
                    let table: Vec<f64> =
                        serde_json::from_str(&written.metadata["laq.codebook.values"])
                            .expect("values");
                    let lowest: i64 = written.metadata["laq.codebook.lowest"]
                        .parse()
                        .expect("a number");
                    let zeros = written.levels(name);
                    let zeros = zeros
                        .iter()
                        .filter(|&&level| table[(i64::from(level) - lowest) as usize] == 0.0)
                        .count();
                    let share = zeros as f64 / w.len().max(1) as f64;
                    assert_eq!((record.n, record.sparsity), (w.len(), share));
                    errors += error;
                }
                let names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
                assert_eq!(names, plan.names().collect::<Vec<_>>());
                assert_eq!((totals.tensors, totals.copied), (4, 4));
                assert!(close(totals.weighted_error, errors, totals.energy));
            }
        }
    }
}

/// The levels of the best scale are the nearest ones, so the best of all cuts through the sorted magnitudes is the optimum.
#[test]
fn the_exact_method_finds_the_best_of_all_cuts_channel_by_channel() {
    let lab = Lab::new();
    lab.good(
        "--method lat-e --per-channel --weights w.safetensors --curvature d.safetensors --out q.safetensors",
    );
    let written = Written::read(&lab.path("q.safetensors"));
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
fn half_precision_is_read_and_written_by_the_bit() {
    let lab = Lab::new();
    let f16_bytes = [0x00, 0x3c, 0x00, 0xbe, 0x00, 0x00, 0x00, 0x34];
    let bf16_bytes = [0x80, 0x3f, 0xc0, 0xbf, 0x00, 0x00, 0x80, 0x3e];
    lab.write(
        "w.safetensors",
        &file_bytes(&[
            raw("half", Dtype::F16, &[2, 2], &f16_bytes),
            raw("brain", Dtype::BF16, &[2, 2], &bf16_bytes),
            f32s("single", &[2, 2], &[1.0, -1.5, 0.0, 0.25]),
        ]),
    );
    // α = (1 + 1.5) / 2 for the levels 1, −1, 0, 0; the error is ½ (0.25² + 0.25² + 0.25²).
    for record in lab.records("--method lat-e --weights w.safetensors --out q.safetensors") {
        assert_eq!(record["scale"], json!([1.25]), "{record}");
        assert_eq!(record["weighted_error"], json!(0.09375), "{record}");
        assert_eq!(record["sparsity"], json!(0.5), "{record}");
    }
    let written = Written::read(&lab.path("q.safetensors"));
    for name in ["half", "brain", "single"] {
        assert_eq!(written.levels(name), [1, -1, 0, 0], "{name}");
        assert_eq!(written.f32s(&format!("{name}.scale")), [1.25]);
    }
    let bytes = |name: &str| written.tensors[name].2.clone();
    assert_eq!(bytes("half"), [0x00, 0x3d, 0x00, 0xbd, 0, 0, 0, 0]);
    assert_eq!(bytes("brain"), [0xa0, 0x3f, 0xa0, 0xbf, 0, 0, 0, 0]);
    assert_eq!(written.f32s("single"), [1.25, -1.25, 0.0, 0.0]);
}

/// A scale that f16 does not hold, because the best one for levels in thirds is above the largest weight.
#[test]
fn finite_weights_stay_finite() {
    let lab = Lab::new();
    let weights = [65504.0, 65504.0, 65504.0, 43900.0, 43900.0, 21950.0];
    lab.write(
        "w.safetensors",
        &file_bytes(&[f16s("w", &[1, 6], &weights)]),
    );
    let records =
        lab.records("--method laq-linear-e --bits 3 --weights w.safetensors --out q.safetensors");
    assert!(
        records[0]["scale"][0].as_f64() > Some(65520.0),
        "{records:?}"
    );
    let written = Written::read(&lab.path("q.safetensors"));
    let largest = f16::MAX.to_le_bytes();
    assert_eq!(written.tensors["w"].2[..2], largest);
    assert!(written.decode("w")[0] > 65520.0);
}

#[test]
fn all_else_is_copied() {
    let lab = Lab::new();
    lab.good("--method lat-e --weights w.safetensors --out q.safetensors");
    let (old, new) = (
        Written::read(&lab.path("w.safetensors")),
        Written::read(&lab.path("q.safetensors")),
    );
    for (name, tensor) in &old.tensors {
        if !MATRICES.contains(&name.as_str()) {
            assert_eq!(&new.tensors[name], tensor, "{name}");
        }
    }
    let added = MATRICES.iter().flat_map(|name| {
        [
            (*name).to_string(),
            format!("{name}.levels"),
            format!("{name}.scale"),
        ]
    });
    let mut expected: Vec<String> = old.tensors.keys().cloned().chain(added).collect();
    expected.sort();
    expected.dedup();
    assert_eq!(new.tensors.keys().cloned().collect::<Vec<_>>(), expected);
    for (key, value) in &old.metadata {
        assert_eq!(&new.metadata[key], value);
    }
    assert_eq!(new.metadata["laq.method"], "lat-e");
    assert_eq!(new.metadata["laq.codebook.values"], "[-1.0,0.0,1.0]");
}

#[test]
fn globs_pick_tensors() {
    let lab = Lab::new();
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
        let records = lab.records(&format!(
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
fn bits_complete_an_id() {
    for (id, bits, expected) in [
        ("laq-linear", Some(4), "laq-linear-4"),
        ("laq-linear-M", Some(4), "laq-linear-4"),
        ("laq-linear-4", Some(4), "laq-linear-4"),
        ("laq-linear-4", None, "laq-linear-4"),
        ("laq-log-e", Some(3), "laq-log-3-e"),
        ("LAQ-log-M-e", Some(2), "laq-log-2-e"),
        ("LAQ_linear", Some(5), "laq-linear-5"),
        ("dorefa", Some(8), "dorefa-8"),
        ("lat-e", None, "lat-e"),
    ] {
        let found = method(id, bits).expect(id);
        assert_eq!(found.id(), expected, "{id} {bits:?}");
    }
    for (id, bits, expected) in [
        ("lat-e", Some(2), "lat-e has no number of bits"),
        ("full", None, "full quantizes nothing"),
        ("full", Some(3), "full has no number of bits"),
        (
            "laq-linear-4",
            Some(3),
            "laq-linear-4 has 4 bits, and --bits asks for 3",
        ),
        ("laq-linear", Some(9), "`laq-linear-2` to `laq-linear-8`"),
        ("laq-linear", None, "`laq-linear-2` to `laq-linear-8`"),
        ("laq-liner", Some(4), "there is no method `laq-liner`"),
    ] {
        let error = method(id, bits).expect_err(id).to_string();
        assert!(error.contains(expected), "{id} {bits:?}: {error}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let lab = Lab::new();
    let run = |threads: u32, granularity: &str| {
        lab.good(&format!(
            "--method laq-linear-3-e {granularity} --weights w.safetensors --curvature d.safetensors --out \
             q.safetensors --threads {threads}"
        ));
        lab.read("q.safetensors")
    };
    for granularity in ["--per-tensor", "--per-channel"] {
        let one = run(1, granularity);
        assert!(one == run(2, granularity) && one == run(5, granularity));
    }
}

#[test]
fn a_table_is_printed_for_people() {
    let lab = Lab::new();
    let printed = lab.good("--method lat2-e --weights w.safetensors --out q.safetensors");
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 6, "{printed}");
    assert!(lines[0].starts_with("tensor") && lines[0].ends_with("ms"));
    assert!(lines[1..5].iter().all(|line| line.len() == lines[0].len()));
    // 77 weights of F32 and 114 of F16 or BF16; then 191 levels of 2 bits, and 4 pairs of scales.
    let before = (77.0 * 32.0 + 114.0 * 16.0) / 191.0;
    let after = (191.0 * 2.0 + 8.0 * 32.0) / 191.0;
    for part in [
        "4 tensors quantized, 4 copied; 191 weights",
        &format!("{before:.2} bits each before, {after:.2} as packed"),
        "q.safetensors",
    ] {
        assert!(lines[5].contains(part), "{part:?} in {printed}");
    }
}

#[test]
fn records_are_complete() {
    let lab = Lab::new();
    // All zeros, which DoReFa has no level for: the error has nothing that it could be relative to.
    lab.write(
        "w.safetensors",
        &file_bytes(&[f32s("w", &[2, 2], &[0.0; 4])]),
    );
    let record = &lab.records("--method dorefa-2 --weights w.safetensors --out q.safetensors")[0];
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
    assert_eq!(record["scale"], json!([1.0]));
    let record = &lab
        .records("--method lat2-e --per-channel --weights w.safetensors --out q.safetensors")[0];
    assert_eq!(record["relative_error"], json!(0.0));
    assert_eq!(record["scale"], json!([[0.0, 0.0], [0.0, 0.0]]));
}

#[test]
fn bad_requests_are_told() {
    let lab = Lab::new();
    let quantize = "--method lat-e --weights w.safetensors --out q.safetensors";
    for (arguments, expected) in [
        (
            "--method lat-x --weights w.safetensors --out q.safetensors",
            &["lat-x", "did you mean"][..],
        ),
        (
            "--method full --weights w.safetensors --out q.safetensors",
            &["full quantizes nothing"],
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
            &["w.safetensors is the file that is read"],
        ),
        (
            "--method lat-e --weights w.safetensors --out ./d.safetensors --curvature d.safetensors",
            &["is the file that is read"],
        ),
        (
            "--method lat-e --weights w.safetensors --out .",
            &["not a plain file"],
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
            &["--exclude conv.wieght", "which has conv.weight, "],
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
                "F32, F16 and BF16",
            ],
        ),
        (
            &format!("{quantize} --exclude *"),
            &["no tensor to quantize", "--include"],
        ),
        (
            &format!("{quantize} --include * --per-channel"),
            &["temperature has no dimension", "--exclude"],
        ),
        (
            &format!("{quantize} --include linear.* --curvature d.safetensors"),
            &["no curvature for linear.bias:"],
        ),
    ] {
        lab.bad(arguments, expected);
    }
    for arguments in [
        "",
        "--method lat-e",
        &format!("{quantize} --per-tensor --per-channel"),
        &format!("{quantize} --bits x"),
    ] {
        assert_eq!(lab.laq(arguments).status.code(), Some(2), "{arguments}");
    }
}

#[test]
fn bad_tensors_are_told_and_the_old_file_stays() {
    let lab = Lab::new();
    lab.write("q.safetensors", b"the old one");
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
            &[
                "w in w.safetensors has elements of type F64",
                "--exclude 'w'",
            ],
        ),
        (
            vec![good.clone(), f32s("w.levels", &[1], &[1.0])],
            None,
            &["already has w.levels", "--exclude"],
        ),
        (
            vec![good, raw("w.scale", Dtype::I8, &[1], &[1])],
            None,
            &["already has w.scale"],
        ),
        (
            vec![raw("v", Dtype::I8, &[1], &[1])],
            None,
            &["no tensor to quantize", "it has v"],
        ),
        (vec![], None, &["no tensor to quantize", "no tensor at all"]),
    ] {
        lab.write("w.safetensors", &file_bytes(&weights));
        lab.write(
            "d.safetensors",
            &file_bytes(&Vec::from_iter(curvature.clone())),
        );
        let with = if curvature.is_some() {
            " --curvature d.safetensors"
        } else {
            ""
        };
        for granularity in ["", " --per-channel"] {
            let arguments = "--method lat-e --weights w.safetensors --out q.safetensors";
            lab.bad(&format!("{arguments}{with}{granularity}"), expected);
        }
        assert_eq!(lab.read("q.safetensors"), b"the old one");
    }
}

#[test]
fn bad_files_are_told() {
    let lab = Lab::new();
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
                "is cut off",
                &(good.len() - 1).to_string(),
                &good.len().to_string(),
            ][..],
        ),
        (good[..50].to_vec(), &["is cut off"]),
        ([&good[..], &[0]].concat(), &["accounts for"]),
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
        (with_header("{\"w\": ", 0), &["header", "damaged", "EOF"]),
        (with_header("{\"w\": 3}", 0), &["header", "damaged"]),
        (
            with_header(&entry("[2, 2]", "[0, 17]"), 17),
            &["header", "damaged"],
        ),
        (
            with_header(&entry("[2, 2]", "[4, 20]"), 20),
            &["header", "damaged", "offset"],
        ),
        (with_header(&entry("[2, 2]", "[0, 16]"), 8), &["is cut off"]),
        (
            with_header(&entry("[2, 2]", "[16, 0]"), 16),
            &["header", "damaged"],
        ),
        (
            with_header(&entry("[-2, 2]", "[0, 16]"), 16),
            &["header", "damaged"],
        ),
        (
            with_header(
                &entry("[4294967296, 4294967296, 4294967296]", "[0, 16]"),
                16,
            ),
            &["header", "damaged"],
        ),
        (
            with_header(&entry("[2, 2]", "[0, 16]").replace("F32", "F33"), 16),
            &["header", "damaged", "F33"],
        ),
    ] {
        lab.write("bad.safetensors", &bytes);
        let expected = [&["bad.safetensors"], expected].concat();
        lab.bad(
            "--method lat-e --weights bad.safetensors --out q.safetensors",
            &expected,
        );
        lab.bad("--method lat-e --weights w.safetensors --curvature bad.safetensors --out q.safetensors", &expected);
    }
}

#[test]
fn a_stop_between_two_tensors_leaves_what_was_there() {
    let lab = Lab::new();
    lab.write("q.safetensors", b"the old one");
    let before = lab.files();
    let plan = Plan::new(lab.request("lat-e".parse().expect("a method"))).expect("a plan");
    let stop = AtomicBool::new(false);
    let mut done = 0;
    let error = plan
        .run(&stop, &mut |_| {
            done += 1;
            stop.store(true, Ordering::Relaxed);
        })
        .expect_err("an interruption");
    assert!(matches!(
        error,
        RunError::Quantize(QuantizeError::Interrupted { .. })
    ));
    assert_eq!((done, lab.files()), (1, before));
    assert_eq!(lab.read("q.safetensors"), b"the old one");
}

/// A file that may not grow stands for a disk that is full.
#[test]
#[cfg(unix)]
fn a_file_that_cannot_be_written_is_told() {
    let lab = Lab::new();
    lab.write(
        "w.safetensors",
        &file_bytes(&[f32s("w", &[100, 400], &numbers(1, 40_000))]),
    );
    lab.write("q.safetensors", b"the old one");
    let before = lab.files();
    let script = "ulimit -f 16; trap '' XFSZ; exec \"$0\" quantize --method lat-e --weights w.safetensors --out \
                  q.safetensors";
    let output = Command::new("sh")
        .current_dir(lab.folder.path())
        .args(["-c", script])
        .arg(cargo_bin!("laq"))
        .output()
        .expect("a shell");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: cannot write q.safetensors"),
        "{said}"
    );
    assert_eq!(lab.files(), before);
    assert_eq!(lab.read("q.safetensors"), b"the old one");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a few bytes are changed to, there is a file or an error, and a file has all that it should.
    #[test]
    fn damaged_files_are_errors_and_no_panics(
        changes in prop::collection::vec((0_usize..700, prop_oneof![
            any::<u8>(),
            prop::sample::select(b"0123456789[]{},:\"-eF".to_vec()),
        ]), 1..4),
        cut in prop::option::of(0_usize..1500),
        per_channel in any::<bool>(),
    ) {
        let lab = Lab::new();
        let mut bytes = file_bytes(&model());
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        lab.write("w.safetensors", &bytes);
        let mut request = lab.request("lat-e".parse().expect("a method"));
        if per_channel {
            request.granularity = Granularity::PerChannel;
        }
        let names = |plan: &Plan| plan.names().map(String::from).collect::<Vec<_>>();
        let done = Plan::new(request).map_err(RunError::from).and_then(|plan| {
            plan.run(&AtomicBool::new(false), &mut |_| {}).map(|_| names(&plan))
        });
        match done {
            Ok(names) => {
                let written = Written::read(&lab.path("q.safetensors"));
                for name in names {
                    let shape = &written.tensors[&name].1;
                    prop_assert_eq!(&written.tensors[&format!("{name}.levels")].1, shape);
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
