//! Models in shards.

use std::fs;

use super::*;

/// A folder with shards and a configuration in `m`, and a curvature in shards in `d`.
fn sharded() -> Quantize {
    let cli = Quantize::new();
    cli.folder.write_shards("m", &shards());
    cli.folder.write("m/config.json", b"{}");
    cli.folder
        .write_shards("d", &[("d.safetensors", curvature())]);
    cli
}

#[test]
fn shards_are_quantized_to_shards() {
    let cli = sharded();
    let output = cli.laq("m --method lat2-e --out q");
    let (printed, message) = (
        String::from_utf8(output.stdout).expect("text"),
        String::from_utf8(output.stderr).expect("text"),
    );
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("config.json") && message.contains("not copied"));
    assert_eq!(cli.folder.files_of("q"), [&SHARDS[..], &[INDEX]].concat());
    // One table, and the totals of one file.
    let of_file = cli.good("w.safetensors --method lat2-e --out q.safetensors");
    assert_eq!(printed.lines().count(), 5, "{printed}");
    let last = |printed: &str| printed.lines().last().expect("totals").to_owned();
    assert_eq!(last(&printed), last(&of_file).replace("q.safetensors", "q"));
    let one = Written::read(&cli.folder.path("q.safetensors"));
    let index: Value =
        serde_json::from_slice(&cli.folder.read(&format!("q/{INDEX}"))).expect("JSON");
    let map = index["weight_map"].as_object().expect("a map");
    assert!(map.keys().eq(one.tensors.keys()));
    for (name, shard) in map {
        let shard = shard.as_str().expect("a name");
        let shard = Written::read(&cli.folder.path(&format!("q/{shard}")));
        assert_eq!(shard.tensors[name], one.tensors[name], "{name}");
    }
}

#[test]
fn an_index_is_a_model_and_a_curvature() {
    let cli = sharded();
    let errors = |arguments: &str| {
        let records = cli.records(arguments);
        let error = |record: &Value| {
            let name = record["name"].as_str().expect("a name").to_owned();
            (name, record["weighted_error"].as_f64())
        };
        let mut errors: Vec<_> = records.iter().map(error).collect();
        errors.sort_by(|a, b| a.0.cmp(&b.0));
        errors
    };
    let of_file =
        errors("w.safetensors --method lat-e --curvature d.safetensors --out q.safetensors");
    for arguments in [
        format!("m/{INDEX} --method lat-e --curvature d.safetensors --out q"),
        format!("--weights m --method lat-e --curvature d/{INDEX} --out q"),
        "m --method lat-e --curvature d --out q".into(),
        format!("w.safetensors --method lat-e --curvature d/{INDEX} --out q.safetensors"),
    ] {
        assert_eq!(errors(&arguments), of_file, "{arguments}");
    }
}

#[test]
fn invalid_models_are_errors() {
    let cli = sharded();
    let quantize = "m --method lat-e --out q";
    for (arguments, expected) in [
        (
            format!("{quantize} --include lineer.*"),
            &["--include lineer.* matches no tensor of", INDEX][..],
        ),
        (
            "m --method lat-e --out m".into(),
            &["--out m is the folder of the model"],
        ),
        (
            "m --method lat-e --out w.safetensors".into(),
            &["--out w.safetensors is a file", "shards"],
        ),
        (
            "m --method lat-e --out none/q".into(),
            &["cannot make the folder none/q"],
        ),
        (
            format!("m --method lat-e --out d --curvature d/{INDEX}"),
            &["d/model.safetensors.index.json is an input file"],
        ),
        (
            "w.safetensors --method lat-e --out q.safetensors --curvature m".into(),
            &["m/model-0000", "[5, 2, 3, 3]"],
        ),
    ] {
        if arguments.contains("--curvature m") {
            let other = f32s("conv.weight", &[5], &[1.0; 5]);
            let mut tensors = shards();
            tensors[1].1[1] = other;
            cli.folder.write_shards("m", &tensors);
        }
        cli.bad(&arguments, expected);
    }
    let good = index(&shards());
    let with = |name: &str, shard: &str| {
        let mut index = good.clone();
        index["weight_map"][name] = shard.into();
        index.to_string()
    };
    for (index, expected) in [
        (
            good.to_string()[..90].to_owned(),
            &["is not the index of a model in shards", "EOF", "weight_map"][..],
        ),
        (
            "{\"weight_map\": {\"w\": 3}}".into(),
            &["is not the index", "integer `3`"],
        ),
        (
            with("mask", "../m/a.safetensors"),
            &["puts mask into \"../m/a.safetensors\"", "beside the index"],
        ),
        (
            with("mask", "/a.safetensors"),
            &["puts mask into \"/a.safetensors\""],
        ),
        (
            with("mask", "model-4.safetensors"),
            &["found no model-4.safetensors beside"],
        ),
        (
            with("mask", SHARDS[0]),
            &["puts mask into model-00001-of-00003.safetensors, which does not have it"],
        ),
        (
            good.to_string().replace("\"mask\"", "\"steps\""),
            &["has mask, which", "does not name"],
        ),
    ] {
        cli.folder.write(&format!("m/{INDEX}"), index.as_bytes());
        let expected = [&["m/model.safetensors.index.json"], expected].concat();
        cli.bad(quantize, &expected);
    }
    fs::remove_file(cli.folder.path(&format!("m/{INDEX}"))).expect("a file");
    cli.bad(quantize, &["m has neither model.safetensors nor"]);
}

#[test]
fn a_shard_that_fails_leaves_nothing() {
    let cli = sharded();
    let nan = bf16s("embedding.weight", &[1, 2], &[1.0, f32::NAN]);
    let mut tensors = shards();
    tensors[2].1[0] = nan;
    cli.folder.write_shards("m", &tensors);
    let expected = [
        "embedding.weight[0, 1] in m/model-00003-of-00003.safetensors is NaN",
        "finite",
    ];
    cli.bad("m --method lat-e --out q", &expected);
}
