//! Requests and files that are refused: the message, and the old file.

use std::fs::File;
use std::io::Write;

use laq_packed::PackedFile;

use super::*;

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
            "--format q4_0 --requantize --weights none.gguf --out q.gguf",
            &["cannot read none.gguf"],
        ),
        (
            "--method lat-e --granularity gate --weights w.safetensors --out q.safetensors",
            &["found --granularity gate, expected tensor, row or block:N"],
        ),
        (
            "--method lat-e --weights . --out q.safetensors",
            &[". has neither model.safetensors nor"],
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
            "--format q4_k --weights w.safetensors --out q.safetensors",
            &["q4_k is a format of GGUF files, which w.safetensors is not"],
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
        &format!("w.safetensors {quantize}"),
        "--method lat-e --out q.safetensors",
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
            &["w in ", "the type \"F33\"", "F32"],
        ),
        (
            with_header(
                r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
                16,
            ),
            &["header", "invalid", "w is there twice"],
        ),
        (
            with_header(r#"{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"}}"#, 0),
            &["header", "__metadata__ is there twice"],
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

/// Opening a pipe waits for its writer, and a pipe has no places.
#[test]
#[cfg(target_os = "linux")]
fn pipes_are_refused() {
    let cli = Quantize::new();
    let made = Command::new("mkfifo").arg(cli.folder.path("pipe")).status();
    assert!(made.expect("mkfifo").success());
    let arguments = "--method lat-e --out q.safetensors";
    for (arguments, path) in [
        (format!("pipe {arguments}"), "pipe"),
        (format!("/dev/null {arguments}"), "/dev/null"),
        (
            format!("w.safetensors --curvature pipe {arguments}"),
            "pipe",
        ),
    ] {
        let expected = format!("cannot read {path}: it is a pipe or a device");
        cli.bad(&arguments, &[&expected, "regular file"]);
    }
    for command in ["inspect", "eval"] {
        let output = Command::new(cargo_bin!("laq"))
            .current_dir(cli.folder.folder.path())
            .args([command, "pipe"])
            .output()
            .expect("laq runs");
        assert_eq!(output.status.code(), Some(1), "{command}");
    }
}

/// What a file needs is compared with the memory before any work.
#[test]
#[cfg(target_os = "linux")]
fn too_little_memory_is_an_error_and_keeps_the_old_file() {
    let cli = Quantize::new();
    let header = br#"{"w":{"dtype":"F16","shape":[30000,30000],"data_offsets":[0,1800000000]}}"#;
    let file = File::create(cli.folder.path("w.safetensors")).expect("a file");
    let mut writer = &file;
    let length = (header.len() as u64).to_le_bytes();
    writer
        .write_all(&[&length[..], header].concat())
        .expect("written");
    file.set_len(8 + header.len() as u64 + 1_800_000_000)
        .expect("a sparse file");
    cli.folder.write("q.safetensors", b"old");
    let script = "ulimit -v 4000000; exec \"$0\" quantize --bits 2 w.safetensors --threads 2 --out q.safetensors";
    let message = cli.fails_in_shell(script);
    for part in [
        "w with 900000000 weights takes about",
        "GiB of memory",
        "ulimit -v",
        "--exclude 'w'",
    ] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert_eq!(cli.folder.read("q.safetensors"), b"old");
}

/// Rows without weights have no scales: a file of 80 bytes asks for no memory.
#[test]
fn tensors_without_elements_are_copied() {
    let cli = Quantize::new();
    let nothing = f32s("nothing", &[200_000_000, 0], &[]);
    let some = f32s("some", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    cli.folder
        .write("w.safetensors", &file_bytes(&[nothing.clone(), some]));
    let records = cli.records("--granularity row --bits 2 w.safetensors --out q.safetensors");
    assert_eq!(records.len(), 1);
    cli.folder.write("w.safetensors", &file_bytes(&[nothing]));
    cli.bad(
        "--bits 2 w.safetensors --out p.safetensors",
        &["has no tensor to quantize"],
    );
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
    let script = "ulimit -f 16; exec \"$0\" quantize --method lat-e --weights w.safetensors --out \
                  q.safetensors";
    let message = cli.fails_in_shell(script);
    assert!(
        message.starts_with("error: cannot write q.safetensors"),
        "{message}"
    );
    assert_eq!(cli.folder.files(), before);
    assert_eq!(cli.folder.read("q.safetensors"), b"old");
}

/// The work is in the file; of the table, and of JSON alone, it is told.
#[test]
#[cfg(target_os = "linux")]
fn an_output_that_takes_nothing_does_not_undo_the_work() {
    let cli = Quantize::new();
    for (more, code, expected) in [
        ("", 0, "warning: the work is done"),
        ("--json", 1, "error: cannot write to the standard output"),
    ] {
        let arguments =
            format!("--method lat-e --weights w.safetensors --out q.safetensors {more}");
        let output = Command::new(cargo_bin!("laq"))
            .current_dir(cli.folder.folder.path())
            .arg("quantize")
            .args(arguments.split_whitespace())
            .stdout(
                std::fs::File::options()
                    .write(true)
                    .open("/dev/full")
                    .expect("it"),
            )
            .output()
            .expect("laq runs");
        let message = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(expected), "{message}");
        PackedFile::open(&cli.folder.path("q.safetensors")).expect("a file");
        std::fs::remove_file(cli.folder.path("q.safetensors")).expect("removed");
    }
}

#[test]
#[cfg(unix)]
fn outputs_that_are_no_plain_files_are_refused() {
    use std::os::unix::fs::symlink;
    let cli = Quantize::new();
    symlink("/dev/null", cli.folder.path("null")).expect("a link");
    std::fs::create_dir(cli.folder.path("folder")).expect("a folder");
    let mut outputs = vec!["null", "folder", "/dev/null", "new/"];
    if cfg!(target_os = "linux") {
        outputs.extend(["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]);
    }
    for out in outputs {
        cli.bad(
            &format!("--method lat-e --weights w.safetensors --out {out}"),
            &[out, "not a regular file"],
        );
    }
}

/// A link to an output is followed, its mode stays, and what a killed process has left is removed.
#[test]
#[cfg(unix)]
fn an_output_is_replaced_where_and_as_it_is() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let cli = Quantize::new();
    let path = |name: &str| cli.folder.path(name);
    std::fs::create_dir(path("there")).expect("a folder");
    cli.folder.write("there/q.safetensors", b"old");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path("there/q.safetensors"), private).expect("a mode");
    symlink("there/q.safetensors", path("q.safetensors")).expect("a link");
    for name in ["q.safetensors.12-0.laq.tmp", "q.safetensors.tmp"] {
        cli.folder.write(&format!("there/{name}"), b"half");
    }
    cli.good("--method lat-e --weights w.safetensors --out q.safetensors");
    assert!(path("q.safetensors").is_symlink());
    PackedFile::open(&path("there/q.safetensors")).expect("a file");
    let found = std::fs::metadata(path("there/q.safetensors")).expect("a file");
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let mut files = cli.folder.files_of("there");
    files.sort();
    assert_eq!(files, ["q.safetensors", "q.safetensors.tmp"]);
}
