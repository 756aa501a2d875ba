//! Models in shards: the output against that of one file, and calls that end early.
#![cfg(feature = "std")]

#[path = "../fixtures/mod.rs"]
mod fixtures;

mod errors;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use fixtures::*;
use laq_packed::{
    Granularity, OutError, PackedFile, Plan, QuantizeError, Request, SelectionError, TensorRecord,
    Totals,
};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

/// A folder with the shards `m`, `d.safetensors` in shards too, and the files of `TestDir`.
fn sharded() -> TestDir {
    let folder = TestDir::new();
    folder.write_shards("m", &shards());
    let [first @ .., second, _] = &curvature()[..] else {
        panic!("several tensors")
    };
    folder.write_shards(
        "d",
        &[
            ("a.safetensors", first.to_vec()),
            ("b.safetensors", vec![second.clone()]),
        ],
    );
    folder
}

/// The request to quantize the shards `m` to `q`.
fn request(folder: &TestDir) -> Request {
    Request {
        weights: folder.path("m"),
        out: folder.path("q"),
        ..folder.request("lat-e".parse().expect("a method"))
    }
}

fn run(request: Request) -> Result<(BTreeMap<String, TensorRecord>, Totals), QuantizeError> {
    let mut records = BTreeMap::new();
    let totals = Plan::new(request)?.run(&AtomicBool::new(false), &mut |record| {
        let mut record = record.clone();
        record.milliseconds = 0.0;
        records.insert(record.name.clone(), record);
    })?;
    Ok((records, totals))
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// The tensors of the shards `folder`, after a check that the index is that of its files.
fn read_shards(folder: &TestDir, name: &str) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let index = json_of(&folder.path(&format!("{name}/{INDEX}")));
    let mut tensors = BTreeMap::new();
    let mut files = folder.files_of(name);
    files.retain(|file| file != INDEX);
    for file in files {
        let path = folder.path(&format!("{name}/{file}"));
        PackedFile::open(&path).expect("a file of packed weights");
        for (tensor, content) in Written::read(&path).tensors {
            assert_eq!(index["weight_map"][&tensor], *file, "{tensor}");
            assert!(tensors.insert(tensor, content).is_none());
        }
    }
    let named = index["weight_map"].as_object().expect("a map").len();
    assert_eq!(named, tensors.len());
    let size: usize = tensors.values().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(
        index["metadata"],
        json!({"total_parameters": 200, "total_size": size})
    );
    tensors
}

#[test]
fn shards_have_the_tensors_of_one_file() {
    let folder = sharded();
    let granularities = [Granularity::Tensor, Granularity::Row, Granularity::Block(3)];
    for (method, weighted, dequantized) in [
        ("lat-e", false, false),
        ("laq-linear-3-e", true, true),
        ("lat2-e", true, false),
    ] {
        for granularity in granularities {
            let method: laq_solvers::Method = method.parse().expect("a method");
            let method = method.with_granularity(granularity).expect("valid");
            let one = Request {
                curvature: weighted.then(|| folder.path("d.safetensors")),
                dequantized,
                ..folder.request(method)
            };
            let many = Request {
                weights: folder.path("m"),
                curvature: weighted.then(|| folder.path("d")),
                out: folder.path("q"),
                ..one.clone()
            };
            let (records, totals) = run(one).expect("a file");
            let (of_shards, sum) = run(many).expect("shards");
            assert_eq!(of_shards, records);
            assert_eq!(
                (sum.tensors, sum.copied, sum.weights, sum.bits_after),
                (
                    totals.tensors,
                    totals.copied,
                    totals.weights,
                    totals.bits_after
                )
            );
            assert!((sum.weighted_error - totals.weighted_error).abs() <= 1e-12 * totals.energy);

            let one = Written::read(&folder.path("q.safetensors"));
            assert_eq!(read_shards(&folder, "q"), one.tensors);
            let mut entries = serde_json::Map::new();
            for name in SHARDS {
                let shard = Written::read(&folder.path(&format!("q/{name}")));
                let of_shard: Value =
                    serde_json::from_str(&shard.metadata["laq.tensors"]).expect("JSON");
                entries.extend(of_shard.as_object().expect("a map").clone());
                for (key, value) in shard
                    .metadata
                    .iter()
                    .filter(|(key, _)| *key != "laq.tensors")
                {
                    // A shard without blocks needs no version that has them.
                    assert!(
                        value == &one.metadata[key] || key == "laq.format_version",
                        "{key}"
                    );
                }
            }
            let of_one: Value = serde_json::from_str(&one.metadata["laq.tensors"]).expect("JSON");
            assert_eq!(Value::from(entries), of_one);
        }
    }
}

#[test]
fn a_folder_is_its_index_or_its_file() {
    let folder = sharded();
    let contents = || -> Vec<Vec<u8>> {
        let files = folder.files_of("q");
        files
            .iter()
            .map(|name| folder.read(&format!("q/{name}")))
            .collect()
    };
    run(request(&folder)).expect("shards");
    assert_eq!(folder.files_of("q"), [&SHARDS[..], &[INDEX]].concat());
    let by_folder = contents();
    run(Request {
        weights: folder.path(&format!("m/{INDEX}")),
        ..request(&folder)
    })
    .expect("shards");
    assert_eq!(contents(), by_folder);

    let mut index = json_of(&folder.path(&format!("m/{INDEX}")));
    for metadata in [Some(Value::Null), None] {
        match metadata {
            Some(metadata) => index["metadata"] = metadata,
            None => drop(index.as_object_mut().expect("a map").remove("metadata")),
        }
        folder.write(&format!("m/{INDEX}"), index.to_string().as_bytes());
        run(request(&folder)).expect("shards");
        let written = json_of(&folder.path(&format!("q/{INDEX}")));
        let size = written["metadata"]["total_size"].clone();
        assert!(size.is_number());
        assert_eq!(written["metadata"], json!({"total_size": size}));
    }
    folder.write_shards("m", &shards());
    run(request(&folder)).expect("shards");

    fs::create_dir(folder.path("one")).expect("a folder");
    fs::rename(
        folder.path("w.safetensors"),
        folder.path("one/model.safetensors"),
    )
    .expect("a file");
    let one = Request {
        weights: folder.path("one"),
        ..folder.request("lat-e".parse().expect("a method"))
    };
    assert!(!Plan::new(one.clone()).expect("a plan").is_sharded());
    run(one).expect("a file");
    assert_eq!(
        Written::read(&folder.path("q.safetensors")).tensors,
        read_shards(&folder, "q")
    );
}

#[test]
fn globs_select_among_the_tensors_of_all_shards() {
    let folder = sharded();
    let with = |include: &[&str], exclude: &[&str]| Request {
        include: include.iter().map(|glob| (*glob).into()).collect(),
        exclude: exclude.iter().map(|glob| (*glob).into()).collect(),
        ..request(&folder)
    };
    for (include, exclude, expected) in [
        (&["conv*"][..], &[][..], &["conv.weight"][..]),
        (
            &[],
            &["conv*", "nothing*"],
            &["embedding.weight", "linear.weight"],
        ),
        (&["*.bias", "temp*"], &[], &["linear.bias", "temperature"]),
    ] {
        let (records, _) = run(with(include, exclude)).expect("shards");
        assert_eq!(records.into_keys().collect::<Vec<_>>(), expected);
        read_shards(&folder, "q");
    }
    for (include, exclude) in [(&["convolution*"][..], &[][..]), (&[], &["convolution*"])] {
        let error = run(with(include, exclude)).expect_err("no match");
        assert!(matches!(
            error,
            QuantizeError::Selection(SelectionError::NoMatch { .. })
        ));
    }
}

#[test]
fn a_call_that_ends_early_keeps_the_old_files() {
    let folder = sharded();
    let nan = vec![bf16s("embedding.weight", &[1, 2], &[1.0, f32::NAN])];
    folder.write_shards("n", &[(SHARDS[0], shards()[0].1.clone()), (SHARDS[2], nan)]);
    let interrupt = || {
        let plan = Plan::new(request(&folder)).expect("a plan");
        let stop = AtomicBool::new(false);
        let mut done = 0;
        let error = plan.run(&stop, &mut |_| {
            done += 1;
            stop.store(done == 3, Ordering::Relaxed);
        });
        assert!(matches!(error, Err(QuantizeError::Interrupted { .. })));
        let error = run(Request {
            weights: folder.path("n"),
            ..request(&folder)
        });
        assert!(matches!(error, Err(QuantizeError::Number { .. })));
    };
    // Neither a file nor the folder.
    interrupt();
    assert!(!folder.path("q").exists());
    let old = |name: &str| (name.to_owned(), format!("the old {name}"));
    let mut files: BTreeMap<String, String> = SHARDS.into_iter().map(old).collect();
    files.extend([old(INDEX), old("config.json")]);
    fs::create_dir(folder.path("q")).expect("a folder");
    for (name, content) in &files {
        folder.write(&format!("q/{name}"), content.as_bytes());
    }
    interrupt();
    assert!(folder.files_of("q").iter().eq(files.keys()));
    for (name, content) in &files {
        assert_eq!(folder.read(&format!("q/{name}")), content.as_bytes());
    }
    run(request(&folder)).expect("shards");
    assert!(folder.files_of("q").iter().eq(files.keys()));
    fs::remove_file(folder.path("q/config.json")).expect("a file that is not touched");
    read_shards(&folder, "q");
}

/// A folder in the place of the second shard stops the call after the first is replaced.
#[test]
fn no_index_is_left_of_shards_that_are_replaced_in_part() {
    let folder = sharded();
    run(request(&folder)).expect("shards");
    let plan = Plan::new(request(&folder)).expect("a plan");
    let second = folder.path(&format!("q/{}", SHARDS[1]));
    let mut left = plan.names().count();
    let error = plan.run(&AtomicBool::new(false), &mut |_| {
        left -= 1;
        if left == 0 {
            fs::remove_file(&second).expect("a file");
            fs::create_dir(&second).expect("a folder");
        }
    });
    assert!(matches!(error, Err(QuantizeError::File(_))));
    assert_eq!(folder.files_of("q"), SHARDS);
    let error = run(request(&folder)).expect_err("no file");
    assert!(matches!(
        error,
        QuantizeError::Out(OutError::IsNoFile { .. })
    ));
}
