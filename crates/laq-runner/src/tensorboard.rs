//! TensorBoard event files: TFRecords of `Event` messages (protocol buffers), one event an epoch.
//!
//! The two messages have few fields, so they are encoded here instead of by a generated library.
//! A TFRecord is the length of the data (u64), its masked CRC-32C, the data, and their masked
//! CRC-32C.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::EpochRecord;

/// The file of a run folder; TensorBoard looks for `tfevents` in the name.
pub(crate) const FILE: &str = "events.out.tfevents.laq";

/// A file with one event for each of `records`. The wall times end now and are `seconds` apart.
pub(crate) fn file(records: &[EpochRecord]) -> Vec<u8> {
    let total: f64 = records.iter().map(|record| record.seconds).sum();
    let mut wall_time = now() - total;
    let mut version = Vec::new();
    put_f64(&mut version, 1, wall_time);
    put_bytes(&mut version, 3, b"brain.Event:2");
    let mut file = Vec::new();
    put_record(&mut file, &version);
    for record in records {
        wall_time += record.seconds;
        put_record(&mut file, &event(record, wall_time));
    }
    file
}

/// The TFRecord of an epoch, with the present time.
pub(crate) fn event_record(record: &EpochRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_record(&mut bytes, &event(record, now()));
    bytes
}

/// Seconds since 1970.
fn now() -> f64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.unwrap_or(Duration::ZERO).as_secs_f64()
}

/// The scalars of an epoch, by their tags.
fn scalars(record: &EpochRecord) -> Vec<(String, f32)> {
    let values = [
        ("loss/train", Some(record.train_loss)),
        ("loss/validation", Some(record.validation_loss)),
        ("loss/test", record.test_loss),
        ("error/validation", record.validation_error),
        ("error/test", record.test_error),
        ("learning_rate", Some(record.learning_rate)),
    ];
    let mut scalars: Vec<_> = values
        .into_iter()
        .filter_map(|(tag, value)| Some((tag.to_owned(), value? as f32)))
        .collect();
    for layer in &record.layers {
        let name = &layer.name;
        match layer.scale[..] {
            [positive, negative] => {
                scalars.push((format!("scale/{name}/positive"), positive));
                scalars.push((format!("scale/{name}/negative"), negative));
            }
            _ => scalars.extend(
                layer
                    .scale
                    .iter()
                    .map(|&scale| (format!("scale/{name}"), scale)),
            ),
        }
        scalars.push((format!("sparsity/{name}"), layer.sparsity as f32));
    }
    scalars
}

/// An `Event`: `wall_time` = 1, `step` = 2, `summary` = 5. A `Summary` repeats `value` = 1, with
/// `tag` = 1 and `simple_value` = 2.
fn event(record: &EpochRecord, wall_time: f64) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars(record) {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, tag.as_bytes());
        put_key(&mut message, 2, WireType::Fixed32);
        message.extend(value.to_le_bytes());
        put_bytes(&mut summary, 1, &message);
    }
    let mut event = Vec::new();
    put_f64(&mut event, 1, wall_time);
    put_key(&mut event, 2, WireType::Varint);
    put_varint(&mut event, record.epoch.into());
    put_bytes(&mut event, 5, &summary);
    event
}

/// The wire types of protocol buffers.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(out: &mut Vec<u8>, field: u64, wire: WireType) {
    put_varint(out, field << 3 | wire as u64);
}

fn put_f64(out: &mut Vec<u8>, field: u64, value: f64) {
    put_key(out, field, WireType::Fixed64);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, WireType::Bytes);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_record(out: &mut Vec<u8>, data: &[u8]) {
    let masked = |bytes: &[u8]| {
        let crc = crc32c::crc32c(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length));
    out.extend(data);
    out.extend(masked(data));
}
