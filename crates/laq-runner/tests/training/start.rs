//! Runs that start from the weights of another.

use super::*;

use laq_models::{StateData, StateTensor};
use laq_runner::config::Experiment;

/// A finished run in full precision, and an experiment with `method` that starts from it.
fn started(dir: &TestDir, method: &str) -> Experiment {
    let full = dir.experiment("full", "");
    dir.train(&full, "full").expect("a run in full precision");
    let start = format!("train.start = '{}'", dir.path("full").display());
    dir.experiment(method, &start)
}

fn network(path: &Path) -> Vec<StateTensor> {
    Checkpoint::read(path).expect("a checkpoint").network
}

#[test]
fn a_run_starts_from_the_best_weights_of_another_and_records_it() {
    let dir = TestDir::new();
    for method in METHODS {
        let experiment = started(&dir, method);
        let stop = &mut |event: &Event<'_>| matches!(event, Event::Started { .. });
        let name = &format!("from-full-{method}");
        dir.train_until(&experiment, name, None, stop)
            .expect("a start");
        let best = network(&dir.path("full").join("best.safetensors"));
        let begun = Checkpoint::read(&dir.path(name).join("last.safetensors"));
        let begun = begun.expect("a checkpoint");
        for tensor in &best {
            let same = begun
                .network
                .iter()
                .find(|found| found.name == tensor.name)
                .expect("the same parameters");
            match &tensor.data {
                StateData::U64(_) => {}
                // Trained scales have no moments yet, so Adam starts anew.
                _ if method == "ttq" && tensor.name.ends_with("moment") => {}
                _ => assert_eq!(tensor, same, "{method}"),
            }
        }
        let start = begun.run.start.expect("a record of the start");
        assert_eq!((&start.method[..], start.sha256.len()), ("full", 64));
        let summary = read_summary(&dir.path(name)).expect("a summary");
        assert_eq!(summary.start, experiment.train.start);
        fs::remove_dir_all(dir.path("full")).expect("removed");
    }
}

/// Once a run has begun, it has all that it needs.
#[test]
fn a_started_run_resumes_with_the_same_bits_without_its_start() {
    let dir = TestDir::new();
    let experiment = started(&dir, "lat-e");
    dir.train(&experiment, "whole").expect("a whole run");
    let stop = &mut |event: &Event<'_>| matches!(event, Event::Step { step: 2, .. });
    let mut sessions = 0;
    while dir
        .train_until(&experiment, "parts", None, stop)
        .expect("a part of a run")
        .status
        != Status::Finished
    {
        sessions += 1;
        fs::remove_dir_all(dir.path("full")).unwrap_or_default();
    }
    assert!(sessions > 1);
    assert_eq!(run_bits(&dir, "whole"), run_bits(&dir, "parts"));
}

/// The content of the start belongs to the run, wherever it lies.
#[test]
fn a_start_is_known_by_its_content() {
    let dir = TestDir::new();
    let experiment = started(&dir, "lat-e");
    dir.train(&experiment, "run").expect("a run");
    copy(&dir.path("full"), &dir.path("moved"));
    let moved = format!("train.start = '{}'", dir.path("moved").display());
    let moved = dir.experiment("lat-e", &moved);
    dir.train(&moved, "run").expect("the finished run");
    let drawn = dir.experiment("lat-e", "");
    let error = dir.train(&drawn, "run").expect_err("another experiment");
    assert!(
        error
            .to_string()
            .contains("train.start: not set here, true there"),
        "{error}"
    );
    let other = dir.experiment("full", "train.seed = 2");
    dir.train(&other, "other").expect("another run");
    copy(&dir.path("other"), &dir.path("moved"));
    let error = dir.train(&moved, "run").expect_err("another start");
    assert!(matches!(error, RunError::OtherStart { .. }), "{error}");
}

#[test]
fn a_start_that_does_not_fit_is_an_error_of_one_line() {
    let dir = TestDir::new();
    let full = dir.experiment("full", "");
    dir.train(&full, "full").expect("a run in full precision");
    let start = format!("train.start = '{}'", dir.path("full").display());
    let fails = |experiment: &Experiment, name: &str| {
        let error = dir.train(experiment, name).expect_err("no start");
        assert!(!dir.path(name).join("last.safetensors").exists());
        error.to_string()
    };
    let wider = dir.experiment("lat-e", &format!("model.hidden = 8\n{start}"));
    let error = fails(&wider, "wider");
    assert!(error.contains("does not match the network: "), "{error}");
    let missing = dir.experiment("lat-e", "train.start = 'nowhere'");
    let error = fails(&missing, "missing");
    assert!(error.contains("nowhere has no checkpoint"), "{error}");
    let packed = dir.experiment("lat-e", "checkpoint.keep = \"packed\"");
    dir.train(&packed, "packed").expect("a packed run");
    let packed = format!("train.start = '{}'", dir.path("packed").display());
    let error = fails(&dir.experiment("lat-e", &packed), "from-packed");
    assert!(error.contains("has quantized weights alone"), "{error}");
    copy(&dir.path("full"), &dir.path("no-best"));
    fs::remove_file(dir.path("no-best/best.safetensors")).expect("removed");
    let no_best = format!("train.start = '{}'", dir.path("no-best").display());
    let error = fails(&dir.experiment("lat-e", &no_best), "from-no-best");
    assert!(error.contains("best.safetensors is missing"), "{error}");
    let images = "data = { name = 'demo-digits' }\nmodel = { kind = 'feedforward', units = [2] }";
    let images = parse(
        &format!("quantize.method = 'lat-e'\n{images}\n{start}"),
        "test",
    );
    let error = fails(&images.expect("an experiment"), "images");
    assert!(
        error.contains("was trained on a text, and this run is on images"),
        "{error}"
    );
    let text = fs::read_to_string(dir.path("text.txt")).expect("the text");
    fs::write(dir.path("text.txt"), text.replace("fog", "FOG")).expect("another text");
    let error = fails(&dir.experiment("lat-e", &start), "other-text");
    assert!(error.contains("another alphabet"), "{error}");
}

/// Weights beyond ±1 are clipped in the first step, or stay where the experiment allows them.
#[test]
fn latent_weights_stay_within_the_clip() {
    let dir = TestDir::new();
    let wide = "model.init_range = 1.0\ntrain.learning_rate = 0.3";
    dir.train(&dir.experiment("full", wide), "full")
        .expect("a run in full precision");
    let largest = |name: &str| {
        let network = network(&dir.path(name).join("last.safetensors"));
        let of = network
            .iter()
            .find(|tensor| tensor.name == "lstm.weight_hh");
        match &of.expect("a parameter").data {
            StateData::F32(values) => values.iter().fold(0.0f32, |most, w| most.max(w.abs())),
            _ => panic!("weights in f32"),
        }
    };
    assert!(largest("full") > 1.5, "{}", largest("full"));
    let start = format!(
        "train.learning_rate = 0.001\ntrain.start = '{}'",
        dir.path("full").display()
    );
    for (name, more, low, high) in [
        ("clipped", "", 1.0, 1.0),
        ("free", "quantize.clip = 1.25", 1.25, 1.25),
        ("wide", "quantize.clip = 1e30", 1.5, 1e30),
    ] {
        let experiment = dir.experiment("lat-e", &format!("{start}\n{more}"));
        dir.train(&experiment, name).expect("a run");
        let largest = largest(name);
        assert!((low..=high).contains(&largest), "{name}: {largest}");
    }
}
