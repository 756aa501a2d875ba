//! TensorBoard event files, read by an independent decoder.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use common::{TestDir, at, bits};
use laq_runner::RunError;
use laq_runner::config::key;
use laq_runner::device::DeviceOptions;
use laq_runner::record::{EpochRecord, Status};
use laq_runner::train::{Options, train};
use laq_test_support::{Capability, skip};

const FILE: &str = "events.out.tfevents.laq";
const ENABLED: &str = "log.tensorboard = true";

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// CRC-32C bit by bit, with the mask of TFRecord.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !file.is_empty() {
        let length = take(&mut file, 8);
        assert_eq!(take(&mut file, 4), masked_crc(length));
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
        let data = take(&mut file, length as usize);
        assert_eq!(take(&mut file, 4), masked_crc(data));
        records.push(data);
    }
    records
}

/// The fields of a message: their numbers, integers, and the bytes of other types.
fn fields(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let (number, bytes): (u64, &[u8]) = match tag & 7 {
            0 => (varint(&mut message), &[]),
            1 => (0, take(&mut message, 8)),
            2 => {
                let length = varint(&mut message);
                (0, take(&mut message, length as usize))
            }
            5 => (0, take(&mut message, 4)),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, number, bytes));
    }
    fields
}

type Scalars = BTreeMap<String, f32>;

/// The scalars of each epoch; checks the header and the order of wall times.
fn events(dir: &TestDir, run: &str) -> BTreeMap<u64, Scalars> {
    let file = fs::read(dir.path(run).join(FILE)).expect("events");
    let (mut epochs, mut last) = (BTreeMap::new(), 0.0);
    for (index, record) in records(&file).into_iter().enumerate() {
        let (mut step, mut scalars) = (0, Scalars::new());
        for (field, number, bytes) in fields(record) {
            match (field, index) {
                (1, _) => {
                    let time = f64::from_le_bytes(bytes.try_into().expect("8 bytes"));
                    assert!(time > 1.6e9 && time >= last, "{time} after {last}");
                    last = time;
                }
                (3, 0) => assert_eq!(bytes, b"brain.Event:2"),
                (2, 1..) => step = number,
                (5, 1..) => {
                    for (field, _, value) in fields(bytes) {
                        assert_eq!(field, 1);
                        let value = fields(value);
                        let [(1, _, tag), (2, _, value)] = value[..] else {
                            panic!("{value:?}");
                        };
                        let value = f32::from_le_bytes(value.try_into().expect("4 bytes"));
                        let tag = String::from_utf8(tag.to_vec()).expect("UTF-8");
                        assert_eq!(scalars.insert(tag, value), None);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        if index > 0 {
            assert_eq!(epochs.insert(step, scalars), None);
        }
    }
    epochs
}

fn expected(record: &EpochRecord) -> Scalars {
    let mut scalars = Scalars::new();
    let mut put = |tag: String, value: Option<f64>| {
        scalars.extend(value.map(|value| (tag, value as f32)));
    };
    put("loss/train".into(), Some(record.train_loss));
    put("loss/validation".into(), Some(record.validation_loss));
    put("loss/test".into(), record.test_loss);
    put("error/validation".into(), record.validation_error);
    put("error/test".into(), record.test_error);
    put("learning_rate".into(), Some(record.learning_rate));
    for layer in &record.layers {
        let name = &layer.name;
        put(format!("sparsity/{name}"), Some(layer.sparsity));
        let suffixes: &[&str] = match layer.scale.len() {
            1 => &[""],
            2 => &["/positive", "/negative"],
            other => panic!("{other} scales"),
        };
        for (suffix, &scale) in suffixes.iter().zip(&layer.scale) {
            put(format!("scale/{name}{suffix}"), Some(scale.into()));
        }
    }
    scalars
}

fn check(dir: &TestDir, run: &str) {
    let metrics = dir.metrics(run);
    let metrics = metrics
        .iter()
        .map(|record| (record.epoch.into(), expected(record)));
    let metrics: BTreeMap<u64, Scalars> = metrics.collect();
    assert_eq!(metrics.len(), 3);
    assert_eq!(events(dir, run), metrics);
}

#[test]
fn events_hold_the_metrics_of_each_epoch() {
    let dir = TestDir::new();
    for (name, experiment) in [
        ("text", dir.experiment("lat-a", ENABLED)),
        ("two-scales", dir.experiment("lat2-a", ENABLED)),
        ("full", dir.experiment("full", ENABLED)),
        ("digits", dir.digits("lat-a", ENABLED)),
    ] {
        dir.train(&experiment, name).expect("a run");
        check(&dir, name);
    }
    assert!(events(&dir, "digits")[&1].contains_key("error/test"));
    assert!(!events(&dir, "text")[&1].contains_key("error/test"));
}

/// TensorBoard's own reader finds the numbers of `metrics.jsonl`.
#[test]
fn tensorboard_reads_the_events() {
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).output()
    };
    let found = python(&["-c", "import tensorboard"]);
    if !found.is_ok_and(|output| output.status.success()) {
        return skip(Capability::TensorBoard, "python3 cannot import tensorboard");
    }
    let dir = TestDir::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/read_events.py");
    for (name, experiment) in [
        ("two-scales", dir.experiment("lat2-a", ENABLED)),
        ("digits", dir.digits("lat-a", ENABLED)),
    ] {
        dir.train(&experiment, name).expect("a run");
        let run = dir.path(name);
        let output = python(&[script, run.to_str().expect("a path")]).expect("python3 starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    }
}

#[test]
fn events_are_off_by_default_and_change_no_numbers() {
    let dir = TestDir::new();
    let (off, on) = (
        dir.experiment("lat-a", ""),
        dir.experiment("lat-a", ENABLED),
    );
    assert!(!off.log.tensorboard && on.log.tensorboard);
    assert_eq!(key(&off), key(&on));
    dir.train(&off, "off").expect("a run");
    dir.train(&on, "on").expect("a run");
    assert!(!dir.path("off").join(FILE).exists());
    let last = |run| bits(&dir.path(run).join("last.safetensors"));
    assert_eq!(last("off"), last("on"));
}

/// Events after the checkpoint, and a partial record at the end, are removed.
#[test]
fn a_resumed_run_writes_no_event_twice() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", ENABLED);
    let stop = &mut at(2, 2);
    let summary = dir
        .train_until(&experiment, "run", None, stop)
        .expect("a part");
    assert_eq!(summary.status, Status::Interrupted);
    let checkpoint = dir.path("run/last.safetensors");
    let bytes = fs::read(&checkpoint).expect("a checkpoint");
    dir.train(&experiment, "run").expect("the rest");
    check(&dir, "run");
    fs::write(&checkpoint, bytes).expect("a checkpoint");
    let mut file = OpenOptions::new()
        .append(true)
        .open(dir.path("run").join(FILE))
        .expect("events");
    file.write_all(&[9, 0, 0]).expect("a partial record");
    dir.train(&experiment, "run").expect("the rest again");
    check(&dir, "run");
}

#[test]
fn a_new_run_does_not_replace_events() {
    let dir = TestDir::new();
    let experiment = dir.experiment("lat-a", ENABLED);
    let run_dir = dir.path("run");
    fs::create_dir_all(&run_dir).expect("a folder");
    fs::write(run_dir.join(FILE), "events").expect("a file");
    let options = Options {
        run_dir,
        resume: false,
        threads: None,
        device: DeviceOptions::CPU,
    };
    let result = train(&experiment, &options, &AtomicBool::new(false), &mut |_| {});
    let Err(RunError::HasFiles { file }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(file, options.run_dir.join(FILE));
    assert_eq!(fs::read(&file).expect("a file"), b"events");
}

/// A checkpoint of an older version has no table `log`.
#[test]
fn the_table_may_be_missing_in_a_checkpoint() {
    let experiment = TestDir::new().experiment("lat-a", "");
    let mut json = serde_json::to_value(&experiment).expect("JSON");
    json.as_object_mut()
        .expect("an object")
        .remove("log")
        .expect("a table");
    assert_eq!(
        serde_json::from_value::<laq_runner::config::Experiment>(json).expect("an experiment"),
        experiment
    );
}
