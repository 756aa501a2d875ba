//! The readers of safetensors files: `laq quantize`, also of an index of shards, and checkpoints. The target corrects a
//! checkpoint's checksum, which a fuzzer cannot find, unless the first byte is odd; this byte and the next select what is
//! asked for.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use laq_packed::{Granularity, Packing, Plan, Request, method};
use laq_runner::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

const METHODS: [&str; 8] = [
    "lat-a",
    "lat-e",
    "lat2-a",
    "lab",
    "laq-linear-4",
    "laq-log-3",
    "absmean",
    "nvfp4",
];

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, method_kind], content)) = input.split_first_chunk() else {
        return;
    };
    let mut content = content.to_vec();
    if kind % 2 == 0 {
        seal(&mut content);
    }
    let path = |name: &str| -> PathBuf { FOLDER.path().join(name) };
    fs::write(path("in"), &content).expect("the temporary folder is writable");
    if let Err(error) = Checkpoint::read(&path("in")) {
        assert!(!error.to_string().is_empty());
    }
    // The index of the shard `a.safetensors`.
    let is_index = kind >= 128;
    let input = path(if is_index { "in.json" } else { "in" });
    if is_index {
        fs::write(&input, &content).expect("the temporary folder is writable");
        fs::write(path("a.safetensors"), shard()).expect("the temporary folder is writable");
    }
    let id = METHODS[usize::from(method_kind) % METHODS.len()];
    let method = method(id, None).expect("a method that is there");
    let granularity = match kind % 4 {
        0 | 1 => Granularity::Tensor,
        2 => Granularity::Row,
        _ => Granularity::Block(7),
    };
    let channel_axis = usize::from(method_kind / 64);
    let plan = Plan::new(Request {
        weights: input.clone(),
        curvature: (kind % 8 >= 4).then_some(input),
        out: path(if is_index { "shards" } else { "out" }),
        // A format has its own.
        method: (method.clone().with_granularity(granularity)).unwrap_or(method),
        packing: (kind % 64 >= 32).then_some(Packing::Trits),
        dequantized: kind % 16 >= 8,
        include: Vec::new(),
        exclude: Vec::new(),
        channel_axes: vec![("*".into(), channel_axis)],
        threads: Some(1),
    });
    match plan {
        Err(error) => assert!(!error.to_string().is_empty()),
        // What is found to be possible is done, so that the content is read as well.
        Ok(plan) => drop(plan.run(&AtomicBool::new(false), &mut |_| {})),
    }
});

/// A file with one tensor, `w`.
fn shard() -> Vec<u8> {
    let header = br#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header, &[0; 16]].concat()
}

/// Writes the SHA-256 of the file with zeros in its place behind the first `"checksum":"`.
fn seal(content: &mut [u8]) {
    const MARK: &[u8] = b"\"checksum\":\"";
    let found = content
        .windows(MARK.len())
        .position(|window| window == MARK);
    let Some(start) = found.map(|place| place + MARK.len()) else {
        return;
    };
    let Some(place) = content.get_mut(start..start + 64) else {
        return;
    };
    place.fill(b'0');
    let sum = Sha256::digest(&*content);
    for (place, byte) in content[start..].chunks_mut(2).zip(sum) {
        let digits = format!("{byte:02x}");
        place.copy_from_slice(digits.as_bytes());
    }
}
