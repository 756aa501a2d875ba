//! Missing and damaged checkpoints.

use super::*;

#[test]
fn invalid_checkpoints() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    run(&test_dir, &["train", "tiny.toml"]);
    run(
        &test_dir,
        &[
            "train",
            "tiny.toml",
            "--run-dir",
            "other",
            "--set",
            "model.hidden=7",
        ],
    );
    let (last, best) = (
        test_dir.path("runs/tiny/last.safetensors"),
        test_dir.path("runs/tiny/best.safetensors"),
    );
    let bytes = fs::read(&last).expect("read");
    let rejected = |bytes: &[u8], expected: &[&str]| {
        fs::write(&last, bytes).expect("written");
        fs::write(&best, bytes).expect("written");
        assert_fails(
            &test_dir,
            &["train", "tiny.toml", "--resume"],
            &[&["last.safetensors"], expected].concat(),
        );
        assert_fails(
            &test_dir,
            &["eval", "runs/tiny"],
            &[&["best.safetensors"], expected].concat(),
        );
    };
    rejected(&bytes[..bytes.len() - 1000], &["is truncated"]);
    rejected(&[], &["is truncated"]);
    let mut altered = bytes.clone();
    altered[bytes.len() - 7] ^= 4;
    rejected(&altered, &["was altered or damaged", "checksum"]);
    // The remedies differ.
    assert_fails(
        &test_dir,
        &["train", "tiny.toml", "--resume"],
        &["last.safetensors", "delete it", "--resume"],
    );
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny"],
        &["best.safetensors", "pass last.safetensors"],
    );
    let version = b"\"format_version\":\"1\"";
    let place = bytes
        .windows(version.len())
        .position(|window| window == version)
        .expect("the version");
    let mut newer = bytes.clone();
    newer[place + version.len() - 2] = b'2';
    rejected(&newer, &["newer version", "update it"]);
    rejected(b"To be, or not to be", &["is not a checkpoint"]);
    // A valid checkpoint of another experiment.
    fs::copy(test_dir.path("other/last.safetensors"), &last).expect("copied");
    let expected = [
        "last.safetensors",
        "another experiment",
        "model.hidden: 6 here, 7 there",
    ];
    assert_fails(&test_dir, &["train", "tiny.toml", "--resume"], &expected);
    // A checkpoint of this experiment with the tensors of another.
    let mut mixed =
        Checkpoint::read(&test_dir.path("other/last.safetensors")).expect("a checkpoint");
    mixed.run.experiment = load(&test_dir.path("tiny.toml"), &[], &[]).expect("the experiment");
    mixed.write(&best).expect("written");
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny"],
        &["best.safetensors", "does not match", "lstm.weight"],
    );
}

#[test]
fn a_missing_best_checkpoint_is_an_error() {
    let test_dir = TestDir::new();
    let experiment = test_dir.experiment("lat-a", "");
    // Before the end of the first epoch there is only the last checkpoint.
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    test_dir
        .train_until(&experiment, "runs/tiny", None, stop)
        .expect("a part of a run");
    let found = json(&test_dir, &["eval", "runs/tiny", "--json"]);
    assert_eq!(found["checkpoint"], "runs/tiny/last.safetensors");
    run(&test_dir, &["train", "tiny.toml", "--resume"]);
    fs::remove_file(test_dir.path("runs/tiny/best.safetensors")).expect("removed");
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny"],
        &[
            "runs/tiny",
            "best.safetensors is missing",
            "pass last.safetensors",
        ],
    );
    run(&test_dir, &["eval", "runs/tiny/last.safetensors"]);
}

#[test]
fn invalid_evaluations() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny"],
        &["runs/tiny has no checkpoint"],
    );
    run(&test_dir, &["train", "tiny.toml"]);
    fs::write(test_dir.path("foreign.txt"), "wind tide sail \u{e9}t\u{e9}").expect("a file");
    let expected = ["foreign.txt", "0xc3", "offset 15", "best.safetensors"];
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny", "--text", "foreign.txt"],
        &expected,
    );
    fs::write(test_dir.path("short.txt"), "wind tide").expect("a file");
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny", "--text", "short.txt"],
        &["short.txt has 9 bytes", "at least 11"],
    );
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny", "--text", "none.txt"],
        &["none.txt", "cannot read"],
    );
    let text = fs::read_to_string(test_dir.path("text.txt")).expect("the text");
    fs::write(test_dir.path("text.txt"), text.replace("wind", "rain")).expect("a file");
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny"],
        &["text.txt", "differs from"],
    );
}

/// The weights of a checkpoint are quantized as those of its export, and the result is evaluated; moments stay out.
#[test]
fn checkpoints_are_quantized() {
    let test_dir = TestDir::new();
    test_dir.file("full", "");
    run(&test_dir, &["train", "tiny.toml"]);
    let quantize = |model: &str, out: &str| {
        let arguments = [
            "quantize",
            model,
            "--bits",
            "3",
            "--granularity",
            "row",
            "--out",
            out,
        ];
        let output = laq(&test_dir, &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (
            fs::read(test_dir.path(out)).expect("a file"),
            stderr(&output),
        )
    };
    let export = [
        "export",
        "runs/tiny",
        "--to",
        "safetensors-f32",
        "--out",
        "full.safetensors",
    ];
    run(&test_dir, &export);
    let (expected, notes) = quantize("full.safetensors", "exported.safetensors");
    assert_eq!(notes, "");
    let before = fs::read_dir(test_dir.folder.path())
        .expect("a folder")
        .count();
    for model in ["runs/tiny", "runs/tiny/best.safetensors"] {
        let (found, notes) = quantize(model, "quantized.safetensors");
        assert!(found == expected, "{model}");
        assert!(
            notes.contains("Adam's moments and the rest are left out"),
            "{notes}"
        );
    }
    let after = fs::read_dir(test_dir.folder.path())
        .expect("a folder")
        .count();
    assert_eq!(after, before + 1);
    let loss = |path: &str| {
        let found = json(&test_dir, &["eval", path, "--json"]);
        found["loss"].as_f64().expect("a number")
    };
    let (quantized, full) = (loss("quantized.safetensors"), loss("runs/tiny"));
    assert!((quantized - full).abs() < 0.5, "{quantized} {full}");
    assert_eq!(quantized, loss("exported.safetensors"));
    // Of a run that keeps its packed network alone.
    let keep = [
        "train",
        "tiny.toml",
        "--set",
        "checkpoint.keep=packed",
        "--run-dir",
        "runs/packed",
    ];
    run(&test_dir, &keep);
    let (_, notes) = quantize("runs/packed", "packed.safetensors");
    assert_eq!(notes, "");
    assert_eq!(quantized, loss("packed.safetensors"));
    // A damaged one is not taken for a model of others.
    let path = test_dir.path("runs/tiny/best.safetensors");
    let mut bytes = fs::read(&path).expect("a checkpoint");
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("written");
    assert_fails(
        &test_dir,
        &[
            "quantize",
            "runs/tiny/best.safetensors",
            "--out",
            "damaged.safetensors",
        ],
        &["was altered or damaged", "best.safetensors"],
    );
}
