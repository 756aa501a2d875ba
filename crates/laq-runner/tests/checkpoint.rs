//! The checkpoint file: what goes in comes out, and nothing else is ever taken for it.

use std::fs;
use std::path::{Path, PathBuf};

use laq_models::{StateData, StateTensor};
use laq_runner::checkpoint::{Checkpoint, CheckpointError};
use laq_runner::config::{key, parse};
use laq_runner::record::Best;
use laq_runner::record::LayerRecord;
use laq_runner::run_state::{Progress, RunState, StepTimes};
use tempfile::TempDir;

fn checkpoint() -> Checkpoint {
    let experiment = parse(
        "title = \"a \\\"checksum\\\":\\\" b\"\ndata.name = \"demo\"\nquantize.method = \"lat-a\"",
        "test",
    )
    .expect("a good experiment");
    let tensor = |name: &str, shape: &[usize], data| StateTensor {
        name: name.into(),
        shape: shape.into(),
        data,
    };
    Checkpoint {
        run: RunState {
            key: key(&experiment),
            training_version: 1,
            experiment,
            alphabet: vec![10, 32, 65, 255],
            data_sha256: "0".repeat(64),
            kernel: "portable".into(),
            start: None,
            earlier_plans: Vec::new(),
            progress: Progress {
                epoch: 3,
                step: 17,
                loss_sum: 0.1 + 0.2,
                layers: Some(vec![LayerRecord {
                    name: "lstm.weight_hh.cell".into(),
                    scale: vec![0.1, f32::MIN_POSITIVE],
                    sparsity: 1.0 / 3.0,
                    weighted_error: 1e-12,
                    iterations: 3,
                }]),
                epoch_seconds: 1.0 / 3.0,
                epoch_times: StepTimes {
                    steps: 17,
                    seconds: 1e-300,
                    quantize_seconds: 5e-324,
                },
                seconds: 12_345.678,
                times: StepTimes {
                    steps: 3 * u64::from(u32::MAX),
                    seconds: 1e300,
                    quantize_seconds: 0.1,
                },
                best: Some(Best {
                    epoch: 2,
                    train_loss: 1.1,
                    validation_loss: 1.2,
                    test_loss: 1.3,
                    validation_error: Some(2.5),
                    test_error: Some(2.25),
                }),
            },
        },
        network: vec![
            tensor(
                "w",
                &[2, 3],
                StateData::F32(vec![0.1, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, 1.0, 2.0]),
            ),
            tensor("levels", &[3], StateData::I8(vec![-128, 0, 127])),
            tensor("17 of 16 steps", &[1], StateData::U64(vec![u64::MAX - 1])),
            tensor("none", &[0], StateData::F32(vec![])),
        ],
    }
}

#[test]
fn a_state_that_does_not_know_of_comparisons_is_one_without() {
    let run = checkpoint().run;
    let mut older = serde_json::to_value(&run).expect("JSON");
    let experiment = older["experiment"].as_object_mut().expect("an object");
    assert!(experiment.remove("comparison").is_some());
    let read: RunState = serde_json::from_value(older).expect("an older state");
    assert_eq!(read, run);
}

fn written() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("last.safetensors");
    checkpoint().write(&path).expect("written");
    let bytes = fs::read(&path).expect("read");
    (folder, path, bytes)
}

fn error_of(path: &Path, bytes: &[u8]) -> CheckpointError {
    fs::write(path, bytes).expect("a temporary file");
    Checkpoint::read(path).expect_err("a file that is not a good checkpoint")
}

#[test]
fn a_written_checkpoint_is_read_back() {
    let (_folder, path, _) = written();
    let (found, expected) = (Checkpoint::read(&path).expect("read"), checkpoint());
    assert_eq!(found.run, expected.run);
    let sorted = |checkpoint: &Checkpoint| {
        let mut tensors: Vec<_> = checkpoint
            .network
            .iter()
            .map(|tensor| format!("{tensor:?}"))
            .collect();
        tensors.sort();
        tensors
    };
    assert_eq!(sorted(&found), sorted(&expected));
}

#[test]
fn every_truncation_is_an_error() {
    let (_folder, path, bytes) = written();
    for length in 0..bytes.len() {
        let error = error_of(&path, &bytes[..length]);
        let CheckpointError::Truncated { found, .. } = error else {
            panic!("{length} bytes: {error:?}");
        };
        assert_eq!(found, length as u64);
    }
}

#[test]
fn every_altered_byte_is_an_error() {
    let (_folder, path, bytes) = written();
    for place in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[place] ^= 1;
        error_of(&path, &altered);
    }
    let mut altered = bytes.clone();
    *altered.last_mut().expect("not empty") ^= 0x80;
    let error = error_of(&path, &altered);
    assert!(
        matches!(error, CheckpointError::Altered { .. }),
        "{error:?}"
    );
    let mut longer = bytes;
    longer.push(0);
    error_of(&path, &longer);
}

/// With a checksum that fits, as after an edit by a program.
#[test]
fn progress_that_cannot_be_is_an_error() {
    let (_folder, path, _) = written();
    let check = |change: &dyn Fn(&mut Progress), expected: &str| {
        let mut checkpoint = checkpoint();
        change(&mut checkpoint.run.progress);
        let error = error_of(&path, &checkpoint.to_bytes().expect("bytes"));
        assert!(error.to_string().contains(expected), "{error}");
        assert!(
            matches!(error, CheckpointError::Altered { .. }),
            "{error:?}"
        );
    };
    check(&|progress| progress.epoch = 0, "epoch 0 has");
    check(&|progress| progress.times.steps = 16, "17 of 16 steps");
    check(&|progress| progress.times.steps = u64::MAX, "at most");
    check(&|progress| progress.step = 1 << 63, "at most");
    check(&|progress| progress.epoch = u32::MAX, "epoch 4294967295 of");
}

#[test]
fn a_newer_version_is_an_error() {
    let (_folder, path, bytes) = written();
    let mark = b"\"format_version\":\"1\"";
    let place = bytes
        .windows(mark.len())
        .position(|window| window == mark)
        .expect("the version");
    let mut newer = bytes;
    newer[place + mark.len() - 2] = b'7';
    let error = error_of(&path, &newer);
    assert!(
        matches!(error, CheckpointError::Newer { found: 7, .. }),
        "{error:?}"
    );
}

#[test]
fn other_files_are_refused() {
    let (_folder, path, _) = written();
    let none: [(&str, Vec<u8>); 0] = [];
    let empty =
        safetensors::serialize(none.iter().map(|(n, _)| (*n, view())), None).expect("empty");
    for bytes in [b"just some text, of no format at all".to_vec(), empty] {
        let error = error_of(&path, &bytes);
        assert!(
            matches!(error, CheckpointError::Foreign { .. }),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(
            message.contains("last.safetensors is not a checkpoint"),
            "{message}"
        );
    }
    let missing = path.with_file_name("missing.safetensors");
    let message = Checkpoint::read(&missing).expect_err("no file").to_string();
    assert!(
        message.contains("cannot read") && message.contains("missing.safetensors"),
        "{message}"
    );
}

fn view() -> safetensors::tensor::TensorView<'static> {
    safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![0], &[])
        .expect("an empty view")
}

#[test]
fn values_out_of_range_are_refused_although_the_checksum_is_right() {
    let (_folder, path, _) = written();
    let mut bad = checkpoint();
    bad.run.experiment.data.batch = usize::MAX;
    bad.write(&path).expect("written");
    let message = Checkpoint::read(&path)
        .expect_err("a batch of 2⁶⁴")
        .to_string();
    assert!(
        message.contains("data.batch") && message.contains("1 to 1000000"),
        "{message}"
    );
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let (_folder, path, bytes) = written();
    let mut invalid = checkpoint();
    invalid.network[0].shape.push(2);
    let message = invalid.write(&path).expect_err("no tensor").to_string();
    assert!(message.contains("cannot be written"), "{message}");
    assert_eq!(fs::read(&path).expect("the old file"), bytes);
}
