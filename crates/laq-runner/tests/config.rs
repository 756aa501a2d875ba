//! Reading experiments: layers, defaults, keys and errors.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use laq_runner::config::{Experiment, Model, Schedule, differences, key, load, parse};
use proptest::prelude::*;
use tempfile::TempDir;

const SMALL: &str = "data.name = \"demo\"\nquantize.method = \"lat-a\"\n";

fn small(more: &str) -> Experiment {
    parse(&format!("{SMALL}{more}"), "test").expect(more)
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("a temporary file");
    path
}

fn sets(sets: &[&str]) -> Vec<String> {
    sets.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_the_papers() {
    let experiment = small("");
    let Model::CharLstm(model) = &experiment.model else {
        panic!("{:?}", experiment.model);
    };
    assert_eq!(
        (model.hidden, model.forget_bias, model.init_range),
        (512, 1.0, 0.08)
    );
    assert_eq!((model.output_std, model.gate_clip), (0.01, 5.0));
    assert_eq!(
        (experiment.data.length, experiment.data.batch),
        (Some(100), 100)
    );
    let train = &experiment.train;
    assert_eq!(
        (train.epochs, train.learning_rate, train.seed),
        (200, 0.002, 1)
    );
    assert_eq!(
        (train.beta1, train.beta2, train.epsilon),
        (0.9, 0.999, 1e-8)
    );
    assert_eq!(
        train.schedule,
        Schedule::Exponential {
            factor: 0.98,
            after: 10
        }
    );
    assert_eq!(experiment.title, "lat-a on demo");
    assert_eq!(experiment.checkpoint.minutes, 1.0);
    assert_eq!(experiment.comparison.every, 0);
}

#[test]
fn schedules_fall_after_their_epochs() {
    let factors = |schedule: &Schedule, epochs: &[u32]| {
        epochs
            .iter()
            .map(|&epoch| schedule.factor(epoch))
            .collect::<Vec<_>>()
    };
    let check = |schedule: Schedule, epochs: &[u32], expected: &[f64]| {
        for (found, expected) in factors(&schedule, epochs).iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{schedule:?}: {found} {expected}"
            );
        }
    };
    check(Schedule::Constant {}, &[1, 500], &[1.0, 1.0]);
    check(
        Schedule::Exponential {
            factor: 0.98,
            after: 10,
        },
        &[1, 10, 11, 13],
        &[1.0, 1.0, 0.98, 0.98 * 0.98 * 0.98],
    );
    let milestones = Schedule::Milestones {
        epochs: vec![15, 25],
        factor: 0.1,
    };
    check(
        milestones,
        &[1, 15, 16, 25, 26, 50],
        &[1.0, 1.0, 0.1, 0.1, 0.01, 0.01],
    );
    check(
        Schedule::Every {
            epochs: 15,
            factor: 0.5,
        },
        &[1, 15, 16, 30, 31],
        &[1.0, 1.0, 0.5, 0.5, 0.25],
    );
}

#[test]
fn later_layers_win() {
    let folder = TempDir::new().expect("a temporary folder");
    write(
        &folder,
        "base.toml",
        &format!("{SMALL}[train]\nepochs = 7\nseed = 7\n[model]\nhidden = 7\n"),
    );
    let file = write(
        &folder,
        "file.toml",
        "extends = \"base.toml\"\n[train]\nepochs = 8\nlearning_rate = 0.5\n",
    );
    let overlay = write(
        &folder,
        "overlay.toml",
        "[train]\nlearning_rate = 0.25\nbeta1 = 0.5\n",
    );
    let experiment = load(
        &file,
        &[overlay],
        &sets(&["train.beta1=0.75", "quantize.method=LATe"]),
    )
    .expect("layers");
    let Model::CharLstm(model) = &experiment.model else {
        panic!("{:?}", experiment.model);
    };
    let train = &experiment.train;
    assert_eq!((model.hidden, train.seed, train.epochs), (7, 7, 8));
    assert_eq!((train.learning_rate, train.beta1), (0.25, 0.75));
    assert_eq!(
        experiment.quantize.method, "lat-e",
        "an alias becomes the id"
    );
}

#[test]
fn a_format_replaces_the_method_of_layers_below() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = write(&folder, "file.toml", SMALL);
    let found = |of: &[&str]| load(&file, &[], &sets(of)).map(|found| found.quantize);
    let q2_0 = found(&["quantize.format=Q2_0"]).expect("a format");
    assert_eq!((q2_0.method.as_str(), &q2_0.granularity), ("q2_0", &None));
    assert_eq!(found(&["quantize.method=q2_0"]).expect("its id"), q2_0);
    let last = found(&["quantize.format=q2_0", "quantize.method=twn"]).expect("a method");
    assert_eq!(last.method, "twn");
    // With the granularity of the method that it replaces.
    let finer = found(&["quantize.granularity=row", "quantize.format=q2_0"]).expect("a format");
    assert_eq!(finer, q2_0);
    // The method's own granularity is no other experiment.
    let key_with = |more: &str| key(&small(more));
    assert_eq!(key_with(""), key_with("quantize.granularity = \"gate\""));
    assert_ne!(key_with(""), key_with("quantize.granularity = \"row\""));
    for (sets, expected) in [
        (
            &["quantize.format=q4_k"][..],
            "for `laq quantize` alone, because its solution is not exact",
        ),
        (
            &["quantize.format=lat-e"][..],
            "others are values of quantize.method",
        ),
        (
            &["quantize.format=q2_0", "quantize.granularity=row"],
            "block of 64 weights",
        ),
        (
            &["quantize.method=full", "quantize.granularity=row"],
            "nothing is quantized",
        ),
    ] {
        let error = found(sets).expect_err("an error").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_table_of_another_kind_replaces_the_one_below() {
    let constant = small("train.schedule = { kind = \"constant\" }");
    assert_eq!(constant.train.schedule, Schedule::Constant {});
    let changed = small("train.schedule.after = 3");
    assert_eq!(
        changed.train.schedule,
        Schedule::Exponential {
            factor: 0.98,
            after: 3
        }
    );
}

#[test]
fn a_kind_that_changes_has_its_defaults() {
    let folder = TempDir::new().expect("a temporary folder");
    let images = "quantize.method = \"lat-a\"\n[data]\nname = \"demo-digits\"\n[model]\nkind = \"feedforward\"\nunits = [3]\n";
    write(&folder, "images.toml", images);
    let text = "extends = \"images.toml\"\n[data]\nname = \"demo\"\n[model]\nkind = \"char-lstm\"\nhidden = 8\n";
    let text = write(&folder, "text.toml", text);
    let Model::CharLstm(model) = load(&text, &[], &[]).expect("a text").model else {
        panic!("a char-lstm");
    };
    assert_eq!((model.hidden, model.forget_bias), (8, 1.0));
    // All of --set is one layer.
    let every = "train.schedule.kind=every";
    let (epochs, factor) = ("train.schedule.epochs=3", "train.schedule.factor=0.5");
    for order in [
        [epochs, every, factor],
        [factor, epochs, every],
        [every, epochs, factor],
    ] {
        let schedule = load(&text, &[], &sets(&order))
            .expect("a schedule")
            .train
            .schedule;
        assert_eq!(
            schedule,
            Schedule::Every {
                epochs: 3,
                factor: 0.5
            }
        );
    }
    let message = load(&text, &[], &sets(&[factor, every]))
        .expect_err("no epochs")
        .to_string();
    assert!(
        message.contains(every) && message.contains("missing field `epochs`"),
        "{message}"
    );
}

#[test]
fn a_batch_of_one_image_has_no_variance() {
    let images = |more: &str| {
        let text = format!(
            "quantize.method = \"lat-a\"\n[data]\nname = \"demo-digits\"\nbatch = 1\n[model]\nkind = \"feedforward\"\n{more}"
        );
        parse(&text, "test").err().map(|error| error.to_string())
    };
    let found = images("").expect("batch normalization");
    assert!(
        found.contains("data.batch = 1") && found.contains("at least 2"),
        "{found}"
    );
    assert_eq!(
        images("batch_norm = false\noutput_batch_norm = false"),
        None
    );
    assert_eq!(images("units = []\noutput_batch_norm = false"), None);
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let experiment = small(
        "title = \"a\"\npaper = { value = 1.25, status = \"s\", epochs = 200 }\ntrain.max_batches = 3\n\
         train.schedule = { kind = \"milestones\", epochs = [1, 4], factor = 0.1 }\n",
    );
    let text = toml::to_string(&experiment).expect("TOML");
    assert_eq!(parse(&text, "printed").expect("its own print"), experiment);
    let file = parse(
        "data = { name = \"file\", path = \"x.txt\" }\nquantize.method = \"full\"",
        "test",
    )
    .expect("file");
    assert_eq!(
        (file.data.train_fraction, file.data.validation_fraction),
        (Some(0.8), Some(0.1))
    );
}

#[test]
fn the_key_is_of_what_changes_the_numbers() {
    let base = small("");
    assert_eq!(key(&base).len(), 12);
    for same in [
        "title = \"another\"",
        "data.dir = \"elsewhere\"",
        "checkpoint.minutes = 1",
        "comparison.every = 10",
        "paper = { value = 1.0, status = \"s\", epochs = 1 }",
        "model.forget_bias = 1",
    ] {
        assert_eq!(key(&small(same)), key(&base), "{same}");
        assert_eq!(
            differences(&small(same), &base),
            Vec::<String>::new(),
            "{same}"
        );
    }
    for (other, difference) in [
        ("model.hidden = 511", "model.hidden: 511 here, 512 there"),
        ("data.batch = 99", "data.batch: 99 here, 100 there"),
        ("train.seed = 2", "train.seed: 2 here, 1 there"),
        (
            "train.max_batches = 2",
            "train.max_batches: 2 here, not set there",
        ),
        (
            "train.schedule.after = 9",
            "train.schedule.after: 9 here, 10 there",
        ),
    ] {
        assert_ne!(key(&small(other)), key(&base), "{other}");
        assert_eq!(differences(&small(other), &base), [difference]);
    }
    // Computed once by another program from the canonical JSON, with TRAINING_VERSION 4.
    assert_eq!(key(&base), "77633b08b56e");
}

#[test]
fn errors_of_values_have_key_value_and_range() {
    for (more, expected) in [
        ("train.epochs = 0", ["train.epochs = 0", "1 to 1000000"]),
        (
            "train.learning_rate = 0",
            ["train.learning_rate = 0", "above 0"],
        ),
        (
            "train.learning_rate = nan",
            ["train.learning_rate = NaN", "above 0"],
        ),
        (
            "train.learning_rate = 1e39",
            ["train.learning_rate", "at most 3.4"],
        ),
        ("train.beta1 = 1.0", ["train.beta1 = 1", "0 to 0.999999"]),
        (
            "train.max_batches = 0",
            ["train.max_batches = 0", "1 to 1000000000"],
        ),
        (
            "train.schedule.factor = 2.0",
            ["train.schedule.factor = 2", "at most 1"],
        ),
        (
            "train.schedule = { kind = \"every\", epochs = 0, factor = 0.5 }",
            ["train.schedule.epochs = 0", "1 to"],
        ),
        (
            "train.schedule = { kind = \"milestones\", epochs = [5, 5], factor = 0.5 }",
            ["train.schedule.epochs = [5, 5]", "ascending"],
        ),
        ("model.hidden = 0", ["model.hidden = 0", "1 to 65536"]),
        (
            "model.init_range = 1.5",
            ["model.init_range = 1.5", "0 to 1"],
        ),
        (
            "model.gate_clip = -5.0",
            ["model.gate_clip = -5", "above 0"],
        ),
        ("data.batch = 0", ["data.batch = 0", "1 to 1000000"]),
        (
            "data.length = 99999999",
            ["data.length = 99999999", "1 to 1000000"],
        ),
        (
            "data.path = \"x\"",
            ["data.path = x", "data.name = \"file\""],
        ),
        (
            "data.train_fraction = 0.5",
            ["data.train_fraction = 0.5", "omitted unless"],
        ),
        (
            "quantize.scale_start = 1.0",
            ["quantize.scale_start = 1", "does not train its scales"],
        ),
        ("quantize.clip = -1.0", ["quantize.clip = -1", "above 0"]),
        (
            "quantize.granularity = \"rows\"",
            ["quantize.granularity = \"rows\"", "`block:N`"],
        ),
        (
            "quantize.format = \"q2_0\"",
            [
                "quantize.format = \"q2_0\"",
                "quantize.method is set there too",
            ],
        ),
        (
            "checkpoint.minutes = -1",
            ["checkpoint.minutes = -1", "0 to 10080"],
        ),
        (
            "comparison.every = 10000000000",
            ["comparison.every = 10000000000", "0 to 1000000000"],
        ),
    ] {
        let message = parse(&format!("{SMALL}{more}"), "my.toml")
            .expect_err(more)
            .to_string();
        assert!(message.contains("set by my.toml"), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[test]
fn only_an_alternating_method_is_compared_with_an_exact_one() {
    let compared = |method: &str| {
        let text =
            format!("data.name = \"demo\"\nquantize.method = \"{method}\"\ncomparison.every = 10");
        parse(&text, "my.toml")
    };
    for method in ["lat-a", "LAT2a", "laq-linear-3", "laq-log-8"] {
        let experiment = compared(method).expect(method);
        assert_eq!(experiment.comparison.every, 10);
    }
    for method in ["full", "lab", "ttq", "dorefa-4", "lat-e", "laq-log-3-e"] {
        let message = compared(method).expect_err(method).to_string();
        for part in [
            "comparison.every = 10 (set by my.toml)",
            "must be 0",
            &format!("quantize.method = {method:?}"),
            "laq-linear-M",
        ] {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[test]
fn errors_of_files_have_place_and_reason() {
    for (text, expected) in [
        (
            "quantize.method = \"lat-a\"",
            vec!["data.name is missing", "demo"],
        ),
        (
            "data.name = \"demo\"",
            vec!["quantize.method is missing", "laq methods"],
        ),
        (
            "data.name = \"demo\"\nquantize.method = \"latt-a\"",
            vec!["latt-a", "lat-a", "my.toml"],
        ),
        (
            "data.name = \"demo\"\nquantize.method = \"laq-log-9\"",
            vec!["laq-log-9", "2", "8", "my.toml"],
        ),
        (
            "data.name = \"war-and-peas\"\nquantize.method = \"full\"",
            vec!["war-and-peas", "did you mean \"war-and-peace\""],
        ),
        (
            "data = { name = \"file\" }\nquantize.method = \"full\"",
            vec!["data.path is missing"],
        ),
        (
            "[train]\nepoch = 3",
            vec!["my.toml", "train.epoch", "did you mean \"train.epochs\""],
        ),
        ("epochs = 3", vec!["did you mean \"train.epochs\""]),
        (
            "[trian]\nepochs = 3",
            vec!["trian.epochs", "did you mean \"train.epochs\""],
        ),
        ("zzz.yyy = 3", vec!["zzz.yyy"]),
        ("extend = 3", vec!["extend"]),
        ("train = 3", vec!["my.toml", "train"]),
        ("train.seed = -1", vec!["my.toml", "train.seed", "-1"]),
        ("train.seed = \"one\"", vec!["my.toml", "train.seed", "one"]),
        ("model.kind = \"mlp\"", vec!["my.toml", "mlp", "char-lstm"]),
        (
            "train.schedule = { kind = \"every\", epochs = 1, factor = 0.5, after = 3 }",
            vec!["my.toml", "after"],
        ),
        (
            "train.schedule = { kind = \"every\", epochs = 1 }",
            vec!["my.toml", "factor"],
        ),
        ("paper.value = 1.0", vec!["my.toml", "paper", "status"]),
        (
            "train = [",
            vec!["my.toml is not valid TOML: line 3, column 10: unclosed array"],
        ),
    ] {
        let text = if text.starts_with("data") || text.starts_with("quantize") {
            text.into()
        } else {
            format!("{SMALL}{text}")
        };
        let message = parse(&text, "my.toml").expect_err(&text).to_string();
        for part in expected {
            assert!(
                message.contains(part),
                "{part:?} is not in {message:?} about {text:?}"
            );
        }
    }
}

#[test]
fn missing_files_are_errors() {
    let folder = TempDir::new().expect("a temporary folder");
    let missing = folder.path().join("missing.toml");
    let message = load(&missing, &[], &[]).expect_err("no file").to_string();
    assert!(message.contains("missing.toml"), "{message}");
    let file = write(
        &folder,
        "file.toml",
        &format!("extends = \"base.toml\"\n{SMALL}"),
    );
    let message = load(&file, &[], &[]).expect_err("no base").to_string();
    assert!(
        message.contains("base.toml") && message.contains("`extends` in"),
        "{message}"
    );
    let good = write(&folder, "good.toml", SMALL);
    let message = load(&good, &[missing], &[])
        .expect_err("no overlay")
        .to_string();
    assert!(message.contains("missing.toml"), "{message}");
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe]).expect("a temporary file");
    let message = load(&binary, &[], &[]).expect_err("not text").to_string();
    assert!(message.contains("binary.toml"), "{message}");
}

#[test]
fn cycles_are_errors() {
    let folder = TempDir::new().expect("a temporary folder");
    let one = write(&folder, "one.toml", "extends = \"two.toml\"");
    write(&folder, "two.toml", "extends = \"one.toml\"");
    let message = load(&one, &[], &[]).expect_err("a circle").to_string();
    assert!(
        message.contains("extends itself") && message.contains("two.toml"),
        "{message}"
    );
    let chain: Vec<PathBuf> = (0..101)
        .map(|index| {
            let extends = format!("extends = \"{}.toml\"", index + 1);
            write(&folder, &format!("{index}.toml"), &extends)
        })
        .collect();
    let message = load(&chain[0], &[], &[]).expect_err("a chain").to_string();
    assert!(
        message.contains("100.toml: more than 100 files extend each other"),
        "{message}"
    );
    write(&folder, "101.toml", SMALL);
    load(&chain[2], &[], &[]).expect("100 files");
}

#[test]
fn invalid_sets_are_errors() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = write(&folder, "file.toml", SMALL);
    for (set, expected) in [
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("train..epochs=3", "key=value"),
        ("train.epoch=3", "did you mean \"train.epochs\""),
        ("train.epochs=many", "--set train.epochs=many"),
        ("train.epochs=3\nseed=4", "--set"),
        ("train.epochs=0", "set by --set train.epochs=0"),
        (
            "train.seed=9223372036854775808",
            "found 9223372036854775808, expected at most 9223372036854775807",
        ),
        (&"a.".repeat(10_000), "key=value"),
        (&format!("{}b=3", "a.".repeat(10_000)), "a.a.a.a"),
        (
            "train.epsilon=0",
            "train.epsilon = 0 (set by --set train.epsilon=0) is not allowed: it must be 1e-30 to 1",
        ),
        ("train.epsilon=1e-31", "it must be 1e-30 to 1"),
        ("train.epsilon=2", "it must be 1e-30 to 1"),
    ] {
        let message = load(&file, &[], &sets(&[set])).expect_err(set).to_string();
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message:?}"
        );
    }
}

#[test]
fn strings_need_no_quotes() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = write(&folder, "file.toml", SMALL);
    for (text, title) in [
        ("2024", "2024"),
        ("1e3", "1e3"),
        ("true", "true"),
        ("\"2024\"", "2024"),
        (" a b ", "a b"),
    ] {
        let set = format!("title={text}");
        assert_eq!(load(&file, &[], &sets(&[&set])).expect(&set).title, title);
    }
}

#[test]
fn fractions_leave_a_part_for_testing() {
    let of_file = |fractions: &str| {
        let text = format!(
            "quantize.method = \"full\"\n[data]\nname = \"file\"\npath = \"x\"\n{fractions}"
        );
        parse(&text, "my.toml")
            .map(|found| (found.data.train_fraction, found.data.validation_fraction))
    };
    assert_eq!(
        of_file("train_fraction = 0.85").unwrap(),
        (Some(0.85), Some(0.1))
    );
    for (fractions, expected) in [
        (
            "train_fraction = 0.95",
            "data.train_fraction = 0.95 (set by my.toml) is not allowed: with data.validation_fraction = 0.1, its \
             default, their sum must be below 1",
        ),
        (
            "train_fraction = 0.95\nvalidation_fraction = 0.05",
            "data.validation_fraction = 0.05 (set by my.toml) is not allowed: with data.train_fraction = 0.95",
        ),
        (
            "train_fraction = 1.0",
            "data.train_fraction = 1 (set by my.toml) is not allowed: it must be above 0 and below 1",
        ),
        (
            "validation_fraction = 0.2",
            "data.validation_fraction = 0.2",
        ),
        (
            "validation_fraction = nan",
            "it must be above 0 and below 1",
        ),
    ] {
        let message = of_file(fractions).expect_err(fractions).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn endless_files_are_errors() {
    let folder = TempDir::new().expect("a temporary folder");
    let message = load("/dev/zero".as_ref(), &[], &[])
        .expect_err("no end")
        .to_string();
    assert!(
        message.contains("/dev/zero") && message.contains("1048576 bytes"),
        "{message}"
    );
    let file = write(&folder, "file.toml", "extends = \"/dev/zero\"");
    let message = load(&file, &[], &[]).expect_err("no end").to_string();
    assert!(
        message.contains("/dev/zero") && message.contains("named by"),
        "{message}"
    );
}

/// The experiments of this repository are read with the names that they are spelt with here.
#[test]
fn every_cell_of_every_table_is_an_experiment_under_every_preset() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/table2");
    let toml_files = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .collect()
    };
    let presets = toml_files(&table.join("presets"));
    let mut keys = HashMap::new();
    for column in fs::read_dir(&table).expect("a folder") {
        let column = column.expect("an entry").path();
        if !column.is_dir() || column.ends_with("presets") {
            continue;
        }
        for cell in toml_files(&column) {
            for preset in &presets {
                let experiment =
                    load(&cell, std::slice::from_ref(preset), &[]).unwrap_or_else(|error| {
                        panic!("{} with {}: {error}", cell.display(), preset.display())
                    });
                let (row, data) = (cell.file_stem(), column.file_name());
                assert_eq!(
                    row.and_then(|row| row.to_str()),
                    Some(&*experiment.quantize.method)
                );
                assert_eq!(
                    data.and_then(|data| data.to_str()),
                    Some(&*experiment.data.name)
                );
                let what = format!("{} with {}", cell.display(), preset.display());
                if let Some(same) = keys.insert(key(&experiment), what.clone()) {
                    panic!("{what} is the same experiment as {same}");
                }
            }
        }
    }
    assert!(presets.len() >= 3 && keys.len() >= 16 * presets.len());
}

proptest! {
    /// Whatever is written into a file, it is refused with a message, or it is an experiment that prints and reads back
    /// as itself.
    #[test]
    fn no_edit_of_a_file_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[a-z0-9.=\\[\\]{}\"# \n-]{0,3}"), 1..4),
    ) {
        let mut text = toml::to_string(&small("")).expect("TOML");
        for (place, with) in edits {
            let place = place.index(text.len());
            text.replace_range(place..=place, &with);
        }
        match parse(&text, "edited") {
            Ok(experiment) => {
                let printed = toml::to_string(&experiment).expect("TOML");
                prop_assert_eq!(parse(&printed, "printed").expect("its own print"), experiment);
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert!(message.contains("edited") || message.contains("missing"), "{}", message);
            }
        }
    }
}
