//! `laq export`, `sample`, `classify`, `inspect`, and `eval` of exported files.

use super::*;

/// A folder with an exported language model `text.safetensors` and its run.
fn language_model(method: &str) -> TestDir {
    let dir = TestDir::new();
    dir.file(method, "");
    run(&dir, &["train", "tiny.toml", "--progress", "none"]);
    run(
        &dir,
        &[
            "export",
            "runs/tiny",
            "--to",
            "packed",
            "--out",
            "text.safetensors",
        ],
    );
    dir
}

#[test]
fn an_exported_file_is_evaluated_and_sampled_as_its_run() {
    let dir = language_model("lat-a");
    let printed = run(
        &dir,
        &[
            "export",
            "runs/tiny",
            "--to",
            "packed",
            "--out",
            "text.safetensors",
        ],
    );
    assert!(
        printed.contains("lstm.weight_hh") && printed.contains("total"),
        "{printed}"
    );
    assert!(printed.contains("times smaller than f32"), "{printed}");
    let (of_run, of_file) = (
        json(&dir, &["eval", "runs/tiny", "--json"]),
        json(&dir, &["eval", "text.safetensors", "--json"]),
    );
    for key in ["loss", "method", "examples", "left_out", "epochs_done"] {
        assert_eq!(of_run[key], of_file[key], "{key}");
    }
    for path in ["runs/tiny", "text.safetensors"] {
        let sample = |seed: &str| {
            let options = ["--prompt", "tide ", "--length", "30", "--seed", seed];
            run(&dir, &[&["sample", path][..], &options].concat())
        };
        assert_eq!(sample("3").len(), 5 + 30 + 1);
        assert!(sample("3").starts_with("tide "));
        assert_eq!(sample("3"), sample("3"));
        assert_ne!(sample("3"), sample("4"));
    }
    let from = |path: &str| {
        run(
            &dir,
            &["sample", path, "--prompt", "tide ", "--length", "60"],
        )
    };
    assert_eq!(from("runs/tiny"), from("text.safetensors"));
    run(
        &dir,
        &[
            "sample",
            "text.safetensors",
            "--prompt",
            "t",
            "--int8",
            "--length",
            "5",
        ],
    );
}

#[test]
fn inspect_prints_bits_scales_and_levels() {
    let dir = language_model("lat-a");
    let found = json(&dir, &["inspect", "text.safetensors", "--json"]);
    let tensors = found["tensors"].as_array().expect("a list");
    let tensor = tensors
        .iter()
        .find(|tensor| tensor["name"] == "lstm.weight_hh");
    let tensor = tensor.expect("the tensor");
    assert_eq!(
        (&tensor["bits"], &tensor["groups"]),
        (&2.0.into(), &4.into())
    );
    assert_eq!(tensor["shape"], serde_json::json!([24, 6]));
    let shares: f64 = (tensor["levels"].as_array().expect("levels").iter())
        .map(|level| level["share"].as_f64().expect("a share"))
        .sum();
    assert!((shares - 1.0).abs() < 1e-12);
    let printed = run(&dir, &["inspect", "text.safetensors"]);
    assert!(
        printed.contains("output.weight") && printed.contains("0.0: "),
        "{printed}"
    );
    // A checkpoint has no packed weights.
    let printed = run(&dir, &["inspect", "runs/tiny/best.safetensors"]);
    assert!(printed.contains("lstm.weight_hh.levels"), "{printed}");
    assert_fails(
        &dir,
        &["inspect", "text.txt"],
        &["text.txt is neither a safetensors or GGUF file nor an ONNX model"],
    );
}

#[test]
fn inspect_prints_the_levels_of_onnx_models() {
    let dir = language_model("lat-a");
    let tensor = |file: &str, name: &str| {
        let found = json(&dir, &["inspect", file, "--json"]);
        let mut tensors = found["tensors"].as_array().expect("a list").iter();
        let tensor = tensors.find(|tensor| tensor["name"] == name);
        (found["onnx"].clone(), tensor.expect("the tensor").clone())
    };
    let (_, packed) = tensor("text.safetensors", "lstm.weight_hh");
    for (format, part) in [("onnx", "integers"), ("qonnx", "float")] {
        let export = ["export", "runs/tiny", "--to", format, "--out", "text.onnx"];
        run(&dir, &export);
        let (onnx, found) = tensor("text.onnx", &format!("lstm.weight_hh.{part}"));
        assert_eq!(onnx["opsets"]["ai.onnx"], 21);
        assert_eq!(onnx["metadata"]["laq.method"], "lat-a");
        for key in ["shape", "levels", "sparsity"] {
            assert_eq!(found[key], packed[key], "{format}, {key}");
        }
    }
    let (_, packed) = tensor("text.onnx", "lstm.bias");
    assert_eq!(
        (&packed["dtype"], &packed["bits"]),
        (&"FLOAT".into(), &32.0.into())
    );
    run(
        &dir,
        &["export", "runs/tiny", "--to", "onnx", "--out", "text.onnx"],
    );
    let printed = run(&dir, &["inspect", "text.onnx"]);
    for text in ["operators: ai.onnx 21", "producer: laq ", "INT4", "0.0: "] {
        assert!(printed.contains(text), "{text} in {printed}");
    }
    let model = fs::read(dir.path("text.onnx")).expect("read");
    fs::write(dir.path("cut.onnx"), &model[..model.len() / 2]).expect("write");
    assert_fails(
        &dir,
        &["inspect", "cut.onnx"],
        &["cut.onnx is no valid ONNX model", "download it again"],
    );
}

/// What the table of an export says is what the file has, also of tensors that the format has only in f32.
#[test]
fn the_sizes_of_an_export_are_those_of_its_file() {
    for (method, expected) in [("lat-a", 2.0), ("lat2-e", 32.0)] {
        let dir = language_model(method);
        fs::create_dir(dir.path("folder")).expect("a folder");
        for (format, out, overhead) in [
            ("packed", "x.safetensors", 4096),
            ("compressed-tensors", "folder", 4096),
            ("npz", "x.npz", 8192),
            ("gguf", "x.gguf", 4096),
            ("onnx", "x.onnx", 8192),
            ("qonnx", "x.onnx", 8192),
        ] {
            let export = [
                "export",
                "runs/tiny",
                "--to",
                format,
                "--out",
                out,
                "--json",
            ];
            let printed = json(&dir, &export);
            let tensors = printed["tensors"].as_array().expect("a list");
            let bytes = tensors.iter().map(|tensor| tensor["bytes"].as_u64());
            let bytes: u64 = bytes.map(|bytes| bytes.expect("a number")).sum();
            let file = printed["file_bytes"].as_u64().expect("a number");
            let range = bytes..bytes + overhead;
            assert!(
                range.contains(&file),
                "{method} {format}: {file} in {range:?}"
            );
            let of = |name: &str| {
                let found = tensors.iter().find(|tensor| tensor["name"] == name);
                found.expect("the tensor")["bits"].as_f64()
            };
            assert_eq!(of("lstm.bias"), Some(32.0), "{format}");
            if format == "compressed-tensors" {
                assert_eq!(of("lstm.weight_hh"), Some(expected));
            }
        }
    }
}

/// Rows along another axis are those of no format of ONNX: such weights are in f32.
#[test]
fn weights_with_scales_along_another_axis_are_exported() {
    let dir = language_model("full");
    let export = |from: &str, to: &str, out: &str| {
        json(&dir, &["export", from, "--to", to, "--out", out, "--json"])
    };
    export("runs/tiny", "safetensors-f32", "f32.safetensors");
    for options in [["--granularity", "row"], ["--format", "int4-g32"]] {
        let quantize = [
            "quantize",
            "f32.safetensors",
            "--channel-axis",
            "*=1",
            "--out",
            "q.safetensors",
        ];
        run(&dir, &[&quantize[..], &options].concat());
        export("q.safetensors", "safetensors-f32", "q32.safetensors");
        let values = PackedFile::open(&dir.path("q32.safetensors")).expect("a file");
        let values = values.tensor("output.weight").expect("a tensor").to_f32();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        for format in ["onnx", "qonnx"] {
            let exported = export("q.safetensors", format, "q.onnx");
            assert_eq!(exported["tensors"][4]["name"], "output.weight");
            assert_eq!(exported["tensors"][4]["bits"], 32.0, "{format} {options:?}");
            let model = fs::read(dir.path("q.onnx")).expect("a model");
            let has_weights = model.windows(bytes.len()).any(|part| part == bytes);
            assert!(has_weights, "{format} {options:?}");
        }
    }
}

/// An idx file of images.
fn idx(dimensions: &[u32], pixels: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(pixels);
    bytes
}

#[test]
fn images_are_classified_alike_from_every_format() {
    let dir = TestDir::new();
    let experiment = dir.digits(
        "lat-e",
        "model.loss = \"cross-entropy\"\ndata.preprocessing = \"none\"",
    );
    dir.train(&experiment, "run").expect("a run");
    run(
        &dir,
        &[
            "export",
            "run",
            "--to",
            "packed",
            "--out",
            "digits.safetensors",
        ],
    );
    let spec = laq_packed::Network::open(&dir.path("digits.safetensors")).expect("a network");
    let laq_packed::Network::Feedforward(network) = spec else {
        panic!("not a classifier");
    };
    let [height, width, _] = network.input();
    let pixels: Vec<u8> = (0..height * width)
        .map(|place| (place * 37 % 256) as u8)
        .collect();
    fs::write(
        dir.path("one.pgm"),
        [format!("P5 {width} {height} 255\n").as_bytes(), &pixels].concat(),
    )
    .expect("write");
    // More than are classified at a time.
    fs::write(
        dir.path("many.idx"),
        idx(&[70, height as u32, width as u32], &pixels.repeat(70)),
    )
    .expect("write");
    let classes = |image: &str, path: &str| -> Vec<Value> {
        let printed = run(&dir, &["classify", path, image, "--json", "--top", "10"]);
        let lines = printed
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        lines.map(|line: Value| line["classes"].clone()).collect()
    };
    let one = classes("one.pgm", "digits.safetensors");
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].as_array().expect("classes").len(), 10);
    let probabilities: f64 = (one[0].as_array().expect("classes").iter())
        .map(|class| class["probability"].as_f64().expect("a probability"))
        .sum();
    assert!((probabilities - 1.0).abs() < 1e-9);
    assert_eq!(
        classes("many.idx", "digits.safetensors"),
        vec![one[0].clone(); 70]
    );
    let printed = run(&dir, &["classify", "digits.safetensors", "many.idx"]);
    let last = printed.lines().last().expect("a line");
    assert!(last.starts_with("many.idx[69]: "), "{last}");
    assert_eq!(classes("one.pgm", "run"), one);
    let printed = run(
        &dir,
        &["classify", "digits.safetensors", "one.pgm", "--int8"],
    );
    assert!(
        printed.starts_with("one.pgm: ") && printed.contains(" %)"),
        "{printed}"
    );

    fs::write(dir.path("small.pgm"), b"P5 2 2 255\n\0\0\0\0").expect("write");
    fs::write(dir.path("colour.ppm"), {
        let pixels = vec![7; height * width * 3];
        [format!("P6 {width} {height} 255\n").as_bytes(), &pixels].concat()
    })
    .expect("write");
    let experiment = dir.digits("lat-e", "data.preprocessing = \"mean-image\"");
    dir.train(&experiment, "mean").expect("a run");
    let printed = run(&dir, &["classify", "mean", "one.pgm"]);
    assert!(printed.starts_with("one.pgm: "), "{printed}");
    let experiment = dir.digits("lat-e", "data.preprocessing = \"zca\"");
    dir.train(&experiment, "whitened").expect("a run");
    assert_fails(
        &dir,
        &["classify", "whitened", "one.pgm"],
        &["zca", "training images", "laq eval"],
    );

    let size = format!("expected {height} × {width} pixels");
    for (image, expected) in [
        ("small.pgm", ["2 × 2 pixels", &size]),
        ("colour.ppm", ["colours", &size]),
        ("text.txt", ["no PNG, PNM or idx file", "text.txt"]),
        ("none.png", ["cannot read", "none.png"]),
    ] {
        assert_fails(&dir, &["classify", "digits.safetensors", image], &expected);
    }
    assert_fails(
        &dir,
        &["sample", "digits.safetensors"],
        &["classifies images", "laq classify"],
    );
}

#[test]
fn files_and_options_that_do_not_fit_are_errors() {
    let dir = language_model("laq-linear-3");
    let export = [
        "export",
        "runs/tiny",
        "--to",
        "packed",
        "--out",
        "new.safetensors",
    ];
    assert_fails(
        &dir,
        &[&export[..], &["--packing", "trits"]].concat(),
        &["lstm.weight_ih", "7 levels", "at most 3", "--packing bits"],
    );
    assert!(!dir.path("new.safetensors").exists());
    assert_fails(
        &dir,
        &["export", "text.txt", "--to", "packed", "--out", "x"],
        &["text.txt"],
    );
    assert_fails(
        &dir,
        &["classify", "text.safetensors", "text.txt"],
        &["is a language model", "laq sample"],
    );
    for (arguments, expected) in [
        (&["--prompt", "tide\u{e9}"][..], ["byte 0xc3", "alphabet"]),
        (&["--prompt", ""], ["an empty prompt", "at least one"]),
        (&["--temperature=-1"], ["temperature -1", "positive"]),
    ] {
        let arguments = [&["sample", "text.safetensors"][..], arguments].concat();
        assert_fails(&dir, &arguments, &expected);
    }
    // Damaged: cut short, and a code that does not exist.
    let good = fs::read(dir.path("text.safetensors")).expect("read");
    fs::write(dir.path("cut.safetensors"), &good[..good.len() - 7]).expect("write");
    assert_fails(
        &dir,
        &["eval", "cut.safetensors"],
        &["cut.safetensors is truncated"],
    );
    assert_fails(
        &dir,
        &["sample", "cut.safetensors"],
        &["cut.safetensors is truncated"],
    );
    // Metadata of another length would move everything; a run can be wrong in the same number of bytes.
    let text = String::from_utf8_lossy(&good);
    for (right, wrong, expected) in [
        ("\\\"length\\\":10,", "\\\"length\\\":00,", "run entry"),
        (
            "\\\"length\\\":10,",
            "\\\"length\\\": 0,",
            "data.length = 0",
        ),
        (
            "\\\"epoch\\\":4,\\\"step\\\"",
            "\\\"epoch\\\":0,\\\"step\\\"",
            "epoch 0",
        ),
    ] {
        assert_eq!(text.matches(right).count(), 1, "{right}");
        let place = good
            .windows(right.len())
            .position(|part| part == right.as_bytes());
        let place = place.expect("found above");
        let mut altered = good.clone();
        altered[place..place + right.len()].copy_from_slice(wrong.as_bytes());
        fs::write(dir.path("run.safetensors"), altered).expect("write");
        for arguments in [
            &["eval", "run.safetensors"][..],
            &["eval", "run.safetensors", "--text", "text.txt"],
        ] {
            assert_fails(&dir, arguments, &["run.safetensors", "invalid", expected]);
        }
    }
    let mut damaged = good.clone();
    let last = damaged.len() - 40;
    damaged[last..].fill(0xff);
    fs::write(dir.path("bad.safetensors"), damaged).expect("write");
    assert_fails(
        &dir,
        &["sample", "bad.safetensors", "--prompt", "t"],
        &["bad.safetensors", "code 7"],
    );
}

/// The files of a run are replaced by nothing but the run.
#[test]
fn outputs_never_replace_files_of_a_run() {
    let dir = language_model("lat-a");
    let files = ["best", "last", "packed"].map(|name| format!("runs/tiny/{name}.safetensors"));
    let others =
        ["config.toml", "summary.json", "metrics.jsonl"].map(|name| format!("runs/tiny/{name}"));
    let before = |path: &String| fs::read(dir.path(path)).ok();
    for path in files.iter().chain(&others) {
        let content = before(path);
        for arguments in [
            &["export", "runs/tiny", "--to", "packed", "--out", path][..],
            &["export", "text.safetensors", "--to", "npz", "--out", path],
            &["calibrate", "runs/tiny", "--batches", "1", "--out", path],
            &["quantize", "text.safetensors", "--bits", "2", "--out", path],
            &["report", "runs/tiny", "--page", path],
        ] {
            assert_fails(
                &dir,
                arguments,
                &[path, "is a file of the run in its folder"],
            );
        }
        assert_eq!(before(path), content, "{path}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("runs/tiny/best.safetensors", dir.path("link")).expect("a link");
        let through_link = ["export", "runs/tiny", "--to", "packed", "--out", "link"];
        assert_fails(&dir, &through_link, &["link is a file of the run"]);
    }
    let onto_itself = [
        "export",
        "text.safetensors",
        "--to",
        "packed",
        "--out",
        "text.safetensors",
    ];
    assert_fails(&dir, &onto_itself, &["is an input file"]);
    run(
        &dir,
        &[
            "export",
            "runs/tiny",
            "--to",
            "packed",
            "--out",
            "best.safetensors",
        ],
    );
    run(&dir, &["eval", "runs/tiny"]);
}

#[test]
fn options_of_other_formats_are_refused_and_other_suffixes_told() {
    let dir = language_model("lat-a");
    for (to, option, value, expected) in [
        ("packed", "--opset", "25", "--opset is for --to onnx"),
        ("gguf", "--packing", "trits", "--packing is for --to packed"),
        ("onnx", "--packing", "bits", "--packing is for --to packed"),
    ] {
        let export = [
            "export",
            "runs/tiny",
            "--to",
            to,
            option,
            value,
            "--out",
            "new",
        ];
        assert_fails(&dir, &export, &[expected]);
        assert!(!dir.path("new").exists());
    }
    let npz = ["export", "runs/tiny", "--to", "npz", "--out", "a.gguf"];
    let output = laq(&dir, &npz);
    let told = "warning: a.gguf is written as npz, though its name ends in .gguf";
    assert!(
        output.status.success() && stderr(&output).contains(told),
        "{}",
        stderr(&output)
    );
    assert_fails(
        &dir,
        &["inspect", "a.gguf"],
        &["an archive of numpy arrays", "numpy.load"],
    );
    assert_fails(
        &dir,
        &["inspect", "runs/tiny"],
        &["runs/tiny", "it is a folder, expected a file"],
    );
    let folder = ["it is a folder, expected an experiment in TOML, such as its config.toml"];
    assert_fails(&dir, &["train", "runs/tiny"], &folder);
    assert_fails(
        &dir,
        &["train", "a.gguf"],
        &["it is no text, expected an experiment in TOML"],
    );
}

/// Calibrated, exported in f32 and quantized by the curvature, a network is evaluated as any other.
#[test]
fn a_calibrated_network_is_quantized_and_evaluated() {
    let dir = language_model("full");
    run(
        &dir,
        &[
            "export",
            "runs/tiny",
            "--to",
            "safetensors-f32",
            "--out",
            "f32.safetensors",
        ],
    );
    let mut files = Vec::new();
    for kind in ["fisher", "inputs"] {
        let printed = run(
            &dir,
            &[
                "calibrate",
                "runs/tiny",
                "--kind",
                kind,
                "--batches",
                "3",
                "--out",
                "d.safetensors",
            ],
        );
        assert!(
            printed.contains("output.weight") && printed.contains(kind),
            "{printed}"
        );
        let quantize = [
            "quantize",
            "--format",
            "int4-g32",
            "--weights",
            "f32.safetensors",
            "--curvature",
            "d.safetensors",
            "--out",
            "int4.safetensors",
        ];
        run(&dir, &quantize);
        files.push(fs::read(dir.path("int4.safetensors")).expect("a file"));
        let of_run = json(&dir, &["eval", "runs/tiny", "--json"])["loss"].as_f64();
        let evaluation = json(&dir, &["eval", "int4.safetensors", "--json"]);
        assert_eq!(evaluation["method"], "int4-g32");
        let of_file = evaluation["loss"].as_f64();
        let (of_run, of_file) = (of_run.expect("a loss"), of_file.expect("a loss"));
        assert!(
            of_run != of_file && (of_run - of_file).abs() < 0.1,
            "{of_run} {of_file}"
        );
    }
    assert!(files[0] != files[1], "the curvature is read");
    let export = [
        "export",
        "int4.safetensors",
        "--to",
        "packed",
        "--out",
        "again.safetensors",
    ];
    let printed = run(&dir, &export);
    assert!(
        printed.contains("every weight is that of int4.safetensors"),
        "{printed}"
    );
    let evaluation = json(&dir, &["eval", "again.safetensors", "--json"]);
    assert_eq!(evaluation["method"], "int4-g32");
}
