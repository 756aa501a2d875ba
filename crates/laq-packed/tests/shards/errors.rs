//! Folders, indexes and shards that are refused.

use laq_packed::ModelIndexError;
use proptest::prelude::*;

use super::*;

#[test]
fn indexes_that_are_not_those_of_the_shards_are_errors() {
    use ModelIndexError::{Invalid, NoShard, NoTensor, NotNamed, Outside, TwoShards};
    let folder = sharded();
    let index_path = format!("m/{INDEX}");
    let check = |index: &str, expected: &dyn Fn(&ModelIndexError) -> bool| {
        folder.write(&index_path, index.as_bytes());
        for (weights, curvature) in [("m", None), ("w.safetensors", Some(folder.path("m")))] {
            let weights = folder.path(weights);
            let error = run(Request {
                weights,
                curvature,
                ..request(&folder)
            });
            let error = error.map(drop).expect_err(index);
            assert!(!error.to_string().is_empty());
            match error {
                QuantizeError::ModelIndex(error) => assert!(expected(&error), "{index}: {error}"),
                error => panic!("{index}: {error}"),
            }
        }
        assert!(!folder.path("q").exists());
    };
    let good = index(&shards());
    let with = |name: &str, shard: Value| {
        let mut index = good.clone();
        index["weight_map"][name] = shard;
        index.to_string()
    };
    for text in [
        String::new(),
        "[]".into(),
        "{}".into(),
        good.to_string()[..90].into(),
        format!("{good},"),
        json!({"weight_map": []}).to_string(),
        json!({"weight_map": {}, "metadata": 3}).to_string(),
        with("mask", json!(3)),
        format!("{}1{}", "{\"a\":".repeat(1000), "}".repeat(1000)),
    ] {
        check(&text, &|error| matches!(error, Invalid { .. }));
    }
    let outside = folder.path(&format!("m/{}", SHARDS[0]));
    for shard in [
        outside.to_str().expect("text"),
        "../m/a.safetensors",
        "..",
        ".",
        "",
        "./a.safetensors",
        "a/b.safetensors",
        "a.safetensors/",
        "..\\a.safetensors",
        "C:a.safetensors",
    ] {
        check(
            &with("mask", json!(shard)),
            &|error| matches!(error, Outside { name, shard: found, .. } if name == "mask" && found == shard),
        );
    }
    check(
        &with("mask", json!("model-4.safetensors")),
        &|error| matches!(error, NoShard { shards, .. } if shards[..] == ["model-4.safetensors"]),
    );
    check(
        &with("mask", json!(SHARDS[0])),
        &|error| matches!(error, NoTensor { name, shard, .. } if name == "mask" && shard == SHARDS[0]),
    );
    check(
        &with("other", json!(SHARDS[2])),
        &|error| matches!(error, NoTensor { name, .. } if name == "other"),
    );
    let mut without = good.clone();
    let map = without["weight_map"].as_object_mut().expect("a map");
    map.remove("mask").expect("an entry");
    check(
        &without.to_string(),
        &|error| matches!(error, NotNamed { name, shard, .. } if name == "mask" && shard == SHARDS[2]),
    );
    let mut twice = shards();
    twice[1].1.push(find(&model(), "mask"));
    folder.write_shards("m", &twice);
    check(
        &good.to_string(),
        &|error| matches!(error, TwoShards { name, shards, .. } if name == "mask" && *shards == [SHARDS[2], SHARDS[1]]),
    );
}

#[test]
fn folders_are_checked() {
    let folder = sharded();
    let error = |request: Request| run(request).expect_err("a defect");
    fs::create_dir(folder.path("empty")).expect("a folder");
    let none = Request {
        weights: folder.path("empty"),
        ..request(&folder)
    };
    assert!(matches!(
        error(none),
        QuantizeError::ModelIndex(ModelIndexError::NoModel { .. })
    ));
    folder.write("m/model.safetensors", &file_bytes(&model()));
    assert!(matches!(
        error(request(&folder)),
        QuantizeError::ModelIndex(ModelIndexError::TwoModels { .. })
    ));
    fs::remove_file(folder.path("m/model.safetensors")).expect("a file");
    let out = |name: &str| Request {
        out: folder.path(name),
        curvature: Some(folder.path("c")),
        ..request(&folder)
    };
    folder.write_shards("c", &[(SHARDS[1], curvature())]);
    for name in ["m", "m/", "q/../m"] {
        fs::create_dir_all(folder.path("q")).expect("a folder");
        assert!(matches!(
            error(out(name)),
            QuantizeError::Out(OutError::IsInputFolder { .. })
        ));
    }
    assert!(matches!(
        error(out("w.safetensors")),
        QuantizeError::Out(OutError::IsNoFolder { .. })
    ));
    // The curvature has a file of the name of a shard.
    assert!(matches!(
        error(out("c")),
        QuantizeError::Out(OutError::IsInput { .. })
    ));
    assert!(matches!(error(out("none/q")), QuantizeError::File(_)));
}

/// A name of an output may not be that of a tensor of another shard.
#[test]
fn outputs_of_one_shard_are_no_tensors_of_another() {
    let folder = sharded();
    let scale = f32s("linear.weight.scale", &[1], &[1.0]);
    folder.write_shards(
        "m",
        &[(SHARDS[0], shards()[0].1.clone()), (SHARDS[1], vec![scale])],
    );
    let error = run(request(&folder)).expect_err("a name that is taken");
    assert!(matches!(error, QuantizeError::Taken { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// An index with a few modified bytes gives an error or a complete output.
    #[test]
    fn modified_indexes_are_errors_and_never_panic(
        changes in prop::collection::vec((0_usize..500, prop_oneof![
            any::<u8>(),
            prop::sample::select(b"0123456789[]{},:\"-/.".to_vec()),
        ]), 1..4),
        cut in prop::option::of(0_usize..1000),
    ) {
        let folder = sharded();
        let mut bytes = index(&shards()).to_string().into_bytes();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        folder.write(&format!("m/{INDEX}"), &bytes);
        match run(request(&folder)) {
            Ok(_) => prop_assert_eq!(folder.files_of("q").len(), 4),
            Err(error) => prop_assert!(!error.to_string().is_empty() && !folder.path("q").exists()),
        }
    }
}
