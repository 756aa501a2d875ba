//! GGUF files, as models and as importance matrices: what is accepted is quantized to a file that is read, from any type
//! of weights, and an error is one line.

#![no_main]

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use laq_packed::gguf::{BlockType, Curvature, GgufFile, GgufPlan, GgufRequest, Importance};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|content: &[u8]| {
    let path = |name: &str| FOLDER.path().join(name);
    fs::write(path("in"), content).expect("the temporary folder is writable");
    let _ = Importance::read(&path("in"));
    let plan = GgufPlan::new(GgufRequest {
        weights: path("in"),
        of: BlockType::Mxfp4.into(),
        types: Vec::new(),
        curvature: Curvature::Squares,
        out: path("out"),
        include: Vec::new(),
        exclude: Vec::new(),
        requantize: true,
        threads: Some(1),
    });
    let done = plan.and_then(|plan| plan.run(&AtomicBool::new(false), &mut |_| {}));
    match done {
        Ok(_) => drop(GgufFile::open(&path("out")).expect("what was written")),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
});
