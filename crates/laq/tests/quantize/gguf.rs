//! Files of llama.cpp.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use super::Quantize;

/// A file of llama.cpp with one matrix of `columns` columns in F32.
fn gguf(columns: u64) -> Vec<u8> {
    let values = (0..2 * columns).flat_map(|i| (0.1 * (i as f32).sin()).to_le_bytes());
    file(columns, 0, values.collect())
}

/// A file with one matrix of two rows in the type with this number.
fn file(columns: u64, kind: u32, data: Vec<u8>) -> Vec<u8> {
    let mut bytes = header(&[("a.weight", [columns, 2], kind, 0)]);
    bytes.extend(data);
    bytes
}

/// The header of matrices: name, columns and rows, number of the type, place of the data.
fn header(matrices: &[(&str, [u64; 2], u32, u64)]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = [
        &b"GGUF"[..],
        &3u32.to_le_bytes(),
        &(matrices.len() as u64).to_le_bytes(),
        &0u64.to_le_bytes(),
    ]
    .concat();
    for (name, sizes, kind, place) in matrices {
        bytes.extend([&text(name)[..], &2u32.to_le_bytes()].concat());
        bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend([&kind.to_le_bytes()[..], &place.to_le_bytes()].concat());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

/// With less memory than a tensor has bytes it is copied, and with less than it takes to round it this is told.
#[test]
#[cfg(target_os = "linux")]
fn no_limit_of_memory_aborts_the_program() {
    let cli = Quantize::new();
    let header = header(&[
        ("a.weight", [32, 2], 0, 0),
        ("big.weight", [4096, 8192], 0, 256),
    ]);
    let mut file = File::create(cli.folder.path("m.gguf")).expect("a file");
    file.write_all(&header).expect("written");
    let length = header.len() as u64 + 256 + 4 * 4096 * 8192;
    file.set_len(length).expect("a sparse file");
    let code_within = |kibibytes: u32, option: &str| {
        let script = format!(
            "ulimit -v {kibibytes}; exec \"$0\" quantize m.gguf --format q4_0 {option} --threads 1 --out q.gguf"
        );
        let output = Command::new("sh")
            .current_dir(cli.folder.folder.path())
            .args(["-c", &script])
            .arg(cargo_bin!("laq"))
            .output();
        output.expect("a shell").status.code()
    };
    assert_eq!(code_within(180_000, "--exclude big.weight"), Some(0));
    for kibibytes in [500_000, 560_000, 600_000] {
        let code = code_within(kibibytes, "--type big.weight=q8_0");
        assert!(matches!(code, Some(0 | 1)), "{kibibytes}: {code:?}");
    }
    assert_eq!(code_within(640_000, "--type big.weight=q8_0"), Some(0));
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
    let printed = cli.good("--weights m.gguf --format q4_0 --type a*=bf16 --out q.gguf");
    assert!(printed.contains("F32     bf16"), "{printed}");
    for (types, is_unused, is_solved) in [
        ("--type a*=bf16", false, false),
        ("--type *=iq4_nl --type a*=bf16", true, true),
    ] {
        let output = cli.laq(&format!("m.gguf --format q4_0 {types} --out q.gguf"));
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(
            told.contains("--type a* applies to no tensor"),
            is_unused,
            "{told}"
        );
        assert_eq!(told.contains("weighted by w²"), is_solved, "{told}");
    }
    cli.folder.write("k.gguf", &gguf(256));
    for format in ["q2_k", "q3_k", "q4_k", "iq4_xs"] {
        let record = &cli.records(&format!("--weights k.gguf --format {format} --out q.gguf"))[0];
        assert_eq!(record["method"], format);
        let error = record["relative_error"].as_f64().expect("a number");
        assert!(error > 0.0 && error < 0.02, "{format}: {error}");
    }
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
        (
            "--format q8_0",
            &[
                "unknown format \"q8_0\"",
                "q4_k, iq4_xs; single tensors",
                "--type",
            ],
        ),
        (
            "--format q4_k",
            &["a.weight cannot be quantized to q4_k", "256"],
        ),
    ] {
        cli.bad(
            &format!("{arguments} --weights m.gguf --out q.gguf"),
            expected,
        );
    }
}

#[test]
fn a_quantized_model_is_quantized_again_on_request() {
    let cli = Quantize::new();
    // Q8_0: the scale 1/16 in f16, and 32 integers.
    let block = [vec![0x00, 0x2c], (0..32).collect()].concat();
    cli.folder.write("m.gguf", &file(32, 8, block.repeat(2)));
    let arguments = "--weights m.gguf --format iq4_nl --out q.gguf";
    cli.bad(arguments, &["quantized already: a.weight", "--requantize"]);
    for asked_for in ["--requantize", "--include a*", "--type *=q4_0"] {
        let record = &cli.records(&format!("{arguments} {asked_for}"))[0];
        assert_eq!(
            (&record["from"], &record["bits_before"]),
            (&"Q8_0".into(), &8.5.into()),
            "{asked_for}"
        );
    }
    let printed = cli.good(&format!("{arguments} --requantize"));
    assert!(printed.contains("Q8_0   iq4_nl"), "{printed}");
    cli.bad(
        "--method lat-e --weights w.safetensors --out q.safetensors --requantize",
        &["--requantize is for GGUF"],
    );
}
