//! Commands that succeed, and their output.

use super::*;

#[test]
fn train_names_the_run_folder_after_the_file() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let text = run(&test_dir, &["train", "tiny.toml"]);
    assert!(
        text.contains("finished") && text.contains("best epoch") && text.contains("runs/tiny"),
        "{text}"
    );
    let summary = read_summary(&test_dir.path("runs/tiny")).expect("a summary");
    assert_eq!((summary.status, summary.epochs_done), (Status::Finished, 3));
    // The same once more: already done.
    assert_eq!(run(&test_dir, &["train", "tiny.toml", "--resume"]), text);
}

#[test]
fn progress_is_plain_text_without_a_terminal() {
    let test_dir = TestDir::new();
    test_dir.file("full", "");
    let output = laq(&test_dir, &["train", "tiny.toml", "--run-dir", "a"]);
    let lines: Vec<_> = stderr(&output).lines().map(str::to_string).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with("using cpu ("), "{lines:?}");
    assert!(
        lines[1].starts_with("starting in epoch 1 of 3 after 0 of 5 steps"),
        "{lines:?}"
    );
    assert!(
        lines[4].starts_with("epoch 3/3: train ") && lines[4].contains("ETA 0s"),
        "{lines:?}"
    );
    let output = laq(
        &test_dir,
        &["train", "tiny.toml", "--run-dir", "b", "--progress", "none"],
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn overlays_and_sets_apply_to_the_run() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    fs::write(test_dir.path("over.toml"), "train.epochs = 2").expect("a file");
    let more = [
        "--overlay",
        "over.toml",
        "--set",
        "train.max_batches=2",
        "--threads",
        "1",
        "--run-dir",
        "x",
    ];
    run(&test_dir, &[&["train", "tiny.toml"], &more[..]].concat());
    let summary = read_summary(&test_dir.path("x")).expect("a summary");
    assert_eq!((summary.epochs, summary.steps, summary.threads), (2, 4, 1));
    let expected = load(
        &test_dir.path("tiny.toml"),
        &[test_dir.path("over.toml")],
        &["train.max_batches=2".into()],
    );
    assert_eq!(summary.key, key(&expected.expect("the experiment")));
}

#[test]
fn config_prints_the_resolved_experiment() {
    let test_dir = TestDir::new();
    let path = test_dir.file("LATa", "");
    let printed = run(&test_dir, &["config", "tiny.toml"]);
    fs::write(test_dir.path("printed.toml"), printed).expect("a file");
    let experiment = load(&path, &[], &[]).expect("the experiment");
    assert_eq!(
        load(&test_dir.path("printed.toml"), &[], &[]).expect("its print"),
        experiment
    );
    let printed = json(&test_dir, &["config", "tiny.toml", "--json"]);
    assert_eq!(printed["key"], key(&experiment));
    assert_eq!(printed["config"]["quantize"]["method"], "lat-a");
    assert!(run(&test_dir, &["config"]).contains("learning_rate = 0.002"));
}

/// Texts from files have no effect on a terminal.
#[test]
fn control_characters_are_escaped() {
    let test_dir = TestDir::new();
    let (escape, name) = ("\u{1b}", r"\u001b]0;owned");
    fs::write(
        test_dir.path("summary.json"),
        format!(r#"{{"status":"failed","reason":"{name}","title":"{name}","epochs":1}}"#),
    )
    .expect("a file");
    // The producer of a model without tensors.
    let model = b"\x08\x0a\x12\x05\x1b]0;x\x3a\x00";
    fs::write(test_dir.path("m.onnx"), model).expect("a file");
    let config = format!("title = \"{name}\"\ndata.name = \"demo\"\nquantize.method = \"lat-a\"");
    fs::write(test_dir.path("c.toml"), config).expect("a file");
    for arguments in [
        ["status", "."],
        ["inspect", "m.onnx"],
        ["summary", "c.toml"],
        ["config", "c.toml"],
    ] {
        let text = run(&test_dir, &arguments);
        assert!(
            !text.contains(escape) && text.contains("]0;"),
            "{arguments:?}: {text:?}"
        );
    }
}

#[test]
fn methods_lists_all_methods() {
    let test_dir = TestDir::new();
    let printed = run(&test_dir, &["methods"]);
    let families = json(&test_dir, &["methods", "--json"]);
    let families = families.as_array().expect("an array");
    let expected = laq_solvers::families().len() + laq_solvers::formats().len();
    assert_eq!(families.len(), expected);
    assert!(printed.contains("for 64 weights, in f16"), "{printed}");
    for family in families {
        assert!(printed.contains(family["id"].as_str().expect("an id")));
        assert!(!family["source"].as_str().expect("a source").is_empty());
    }
}

#[test]
fn profile_of_a_step() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let found = json(&test_dir, &["train", "tiny.toml", "--profile=2", "--json"]);
    assert_eq!(found["steps"], 2);
    let parts = found["parts"].as_array().expect("an array");
    let seconds = |part: &Value| part["seconds"].as_f64().expect("a number");
    let sum: f64 = parts.iter().map(seconds).sum();
    assert!(sum > 0.0 && sum <= found["seconds_per_step"].as_f64().expect("a number"));
    let has = |layer: &str, kind: &str| {
        parts
            .iter()
            .any(|part| part["layer"] == layer && part["kind"] == kind)
    };
    assert!(has("lstm", "gradients of the LSTM") && has("all", "quantize") && has("all", "Adam"));
    let text = run(&test_dir, &["train", "tiny.toml", "--profile=1"]);
    assert!(
        text.contains("GFLOP/s") && text.contains("limits, measured"),
        "{text}"
    );
    // Nothing was trained.
    assert!(!test_dir.path("runs").exists());
}

#[test]
fn estimate_as_json() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let found = json(&test_dir, &["estimate", "tiny.toml", "--json"]);
    assert_eq!(
        (&found["steps"], &found["batches"]["train"]),
        (&15.into(), &5.into())
    );
    assert!(found["seconds"].as_f64() > Some(0.0) && found["quantize_share"].is_f64());
    let text = run(&test_dir, &["estimate", "tiny.toml"]);
    let left_out = "without reading the data and writing checkpoints";
    assert!(
        text.contains("15 steps") && text.contains(left_out),
        "{text}"
    );
    assert_eq!(found["left_out"][1], "writing checkpoints");
    // Comparisons belong to the seconds.
    assert_eq!(found["seconds_per_comparison"].as_f64(), Some(0.0));
    let compared = [
        "estimate",
        "tiny.toml",
        "--json",
        "--set",
        "comparison.every=2",
    ];
    let found = json(&test_dir, &compared);
    let seconds = |name: &str| found[name].as_f64().expect("a number");
    let batches = |name: &str| found["batches"][name].as_f64().expect("a number");
    let evaluations = 3.0 * (batches("validation") + batches("test"));
    let sum = 15.0 * seconds("seconds_per_step")
        + evaluations * seconds("seconds_per_evaluation")
        + 7.0 * seconds("seconds_per_comparison");
    assert!(seconds("seconds_per_comparison") > 0.0);
    assert!((seconds("seconds") / sum - 1.0).abs() < 1e-9, "{found}");
}

#[test]
fn eval_prints_losses() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    run(&test_dir, &["train", "tiny.toml"]);
    let summary = read_summary(&test_dir.path("runs/tiny")).expect("a summary");
    let found = json(&test_dir, &["eval", "runs/tiny", "--json"]);
    assert_eq!(found["loss"].as_f64(), summary.test_loss);
    let found = json(
        &test_dir,
        &[
            "eval",
            "runs/tiny/best.safetensors",
            "--split",
            "validation",
            "--json",
        ],
    );
    assert_eq!(found["loss"].as_f64(), summary.validation_loss);
    let text = run(&test_dir, &["eval", "runs/tiny", "--text", "text.txt"]);
    assert!(text.contains("nats per character on text.txt"), "{text}");
    assert_fails(
        &test_dir,
        &["eval", "runs/tiny", "--data-dir", "nowhere"],
        &["nowhere/text.txt", "--data-dir must be the folder that has"],
    );
}

#[test]
fn doctor_inspects_data_and_machine() {
    let test_dir = TestDir::new();
    let found = json(&test_dir, &["doctor", "--json"]);
    assert!(!found["kernel"].as_str().expect("a kernel").is_empty());
    // GPUs are hidden from the tests, so the driver is reported as missing.
    let cuda = found["cuda"].as_array().expect("the parts of CUDA");
    assert_eq!(cuda[0]["name"], "driver");
    assert_eq!(cuda[0]["good"], false);
    let device = found["device"].as_str().expect("a device");
    assert!(device.starts_with("cpu, because "), "{device}");
    let data = found["data"].as_array().expect("data").clone();
    let state = |name: &str| {
        data.iter()
            .find(|file| file["dataset"] == name)
            .expect(name)["state"]
            .clone()
    };
    assert_eq!(state("war-and-peace"), "missing");
    assert!(
        state("demo")
            .as_str()
            .expect("a state")
            .starts_with("valid")
    );
    assert!(run(&test_dir, &["doctor"]).contains("war-and-peace"));
    fs::create_dir_all(test_dir.path("data/war-and-peace")).expect("a folder");
    fs::write(
        test_dir.path("data/war-and-peace/warpeace_input.txt"),
        "Well, Prince",
    )
    .expect("a file");
    assert_fails(
        &test_dir,
        &["doctor"],
        &[
            "warpeace_input.txt",
            "12",
            "3258246",
            ": `laq download war-and-peace` fetches it again",
        ],
    );
    fs::rename(test_dir.path("data"), test_dir.path("my data")).expect("moved");
    assert_fails(
        &test_dir,
        &["doctor", "--data-dir", "my data"],
        &["`laq download war-and-peace --data-dir 'my data'` fetches"],
    );
}
