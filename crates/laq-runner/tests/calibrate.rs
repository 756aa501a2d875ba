//! Curvature files of trained networks.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use common::TestDir;
use laq_packed::{OutError, Plan, Request, method};
use laq_runner::calibrate::{CURVATURE, CalibrateOptions, Calibration, calibrate};
use laq_runner::checkpoint::Checkpoint;
use laq_runner::device::DeviceOptions;
use laq_runner::export::{ExportOptions, export_packed};
use laq_runner::{CurvatureKind, RunError};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

fn options(kind: CurvatureKind) -> CalibrateOptions {
    CalibrateOptions {
        kind,
        batches: 4,
        batch: None,
        data_dir: None,
        device: DeviceOptions::CPU,
        threads: None,
    }
}

fn run(dir: &TestDir, name: &str, options: &CalibrateOptions) -> Result<Calibration, RunError> {
    let (stop, out) = (AtomicBool::new(false), dir.path("curvature.safetensors"));
    let found = calibrate(&dir.path(name), &out, options, &stop, &mut |_, _| {})?;
    Ok(found.expect("nothing stops it"))
}

#[test]
fn a_file_of_curvatures_has_the_names_and_shapes_of_the_weights() {
    let dir = TestDir::new();
    for (name, experiment) in [
        ("text", dir.experiment("full", "")),
        ("images", dir.digits("lat-e", "")),
    ] {
        dir.train(&experiment, name).expect("a run");
        let exported = dir.path("weights.safetensors");
        let decoded = ExportOptions {
            decoded: true,
            ..ExportOptions::default()
        };
        export_packed(&dir.path(name), &exported, decoded).expect("weights");
        let weights = fs::read(&exported).expect("a file");
        let weights = SafeTensors::deserialize(&weights).expect("safetensors");
        for kind in [CurvatureKind::Fisher, CurvatureKind::Inputs] {
            let found = run(&dir, name, &options(kind)).expect("curvatures");
            assert_eq!(found.batches, 4);
            let bytes = fs::read(dir.path("curvature.safetensors")).expect("a file");
            let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("safetensors");
            let description = &metadata.metadata().as_ref().expect("metadata")[CURVATURE];
            assert!(description.contains(found.kind), "{description}");
            let file = SafeTensors::deserialize(&bytes).expect("safetensors");
            for (name, view) in file.iter() {
                let of = weights.tensor(name).expect("weights of this name");
                assert_eq!((view.dtype(), view.shape()), (Dtype::F32, of.shape()));
            }
            // Every matrix, and no mean image, is quantized by its curvature.
            let plan = Plan::new(Request {
                weights: exported.clone(),
                curvature: Some(dir.path("curvature.safetensors")),
                out: dir.path("quantized.safetensors"),
                method: method("lat-e", None).expect("a method"),
                packing: None,
                dequantized: false,
                include: Vec::new(),
                exclude: Vec::new(),
                channel_axes: Vec::new(),
                threads: None,
            });
            let plan = plan.expect("all have a curvature");
            let is_weight = |name: &str| name.ends_with(".weight") || name.contains("weight_");
            assert!(plan.names().count() > 0 && plan.names().all(is_weight));
            assert!(found.tensors.iter().all(|tensor| tensor.mean > 0.0));
        }
    }
}

/// Fewer sequences a batch, on any number of threads; the run stays as it is.
#[test]
fn curvatures_do_not_depend_on_threads() {
    let dir = TestDir::new();
    let experiment = dir.experiment("full", "");
    dir.train(&experiment, "run").expect("a run");
    let before = common::bits(&dir.path("run/best.safetensors"));
    let files = [1, 2, 3].map(|threads| {
        let options = CalibrateOptions {
            batch: Some(1),
            threads: Some(threads),
            batches: 1_000_000,
            ..options(CurvatureKind::Fisher)
        };
        let found = run(&dir, "run", &options).expect("curvatures");
        assert!((200..300).contains(&found.batches), "{}", found.batches);
        fs::read(dir.path("curvature.safetensors")).expect("a file")
    });
    assert!(files[0] == files[1] && files[1] == files[2]);
    assert_eq!(before, common::bits(&dir.path("run/best.safetensors")));
    let Checkpoint { run, .. } =
        Checkpoint::read(&dir.path("run/best.safetensors")).expect("a checkpoint");
    assert_eq!(run.key, laq_runner::config::key(&experiment));
}

#[test]
fn a_calibration_that_fails_or_is_interrupted_writes_nothing() {
    let dir = TestDir::new();
    let fails = |name: &str| {
        let error = run(&dir, name, &options(CurvatureKind::Fisher)).expect_err("nothing");
        assert!(!dir.path("curvature.safetensors").exists());
        error
    };
    assert!(matches!(fails("nowhere"), RunError::NoCheckpoint { .. }));
    let packed = dir.experiment("lat-e", "checkpoint.keep = \"packed\"");
    dir.train(&packed, "packed").expect("a packed run");
    assert!(matches!(fails("packed"), RunError::NoLatentWeights { .. }));
    dir.train(&dir.digits("full", ""), "images").expect("a run");
    let (go_on, out) = (AtomicBool::new(false), dir.path("curvature.safetensors"));
    let small = CalibrateOptions {
        batch: Some(2),
        ..options(CurvatureKind::Fisher)
    };
    let images = dir.path("images");
    let found = calibrate(&images, &out, &small, &go_on, &mut |_, _| {});
    assert!(matches!(found, Err(RunError::SmallBatch { batch: 2, .. })));
    dir.train(&dir.experiment("full", ""), "run")
        .expect("a run");
    let best = dir.path("run/best.safetensors");
    let before = fs::read(&best).expect("a checkpoint");
    let fisher = options(CurvatureKind::Fisher);
    let found = calibrate(&dir.path("run"), &best, &fisher, &go_on, &mut |_, _| {});
    assert!(matches!(
        found,
        Err(RunError::Out(OutError::IsInput { .. }))
    ));
    assert!(before == fs::read(&best).expect("a checkpoint"));
    let nowhere = dir.path("nowhere/d.safetensors");
    let found = calibrate(&dir.path("run"), &nowhere, &fisher, &go_on, &mut |_, _| {});
    assert!(matches!(found, Err(RunError::File(_))));
    let (stop, out) = (AtomicBool::new(true), dir.path("curvature.safetensors"));
    let options = options(CurvatureKind::Fisher);
    let found = calibrate(&dir.path("run"), &out, &options, &stop, &mut |_, _| {});
    assert!(found.expect("no error").is_none() && !out.exists());
    // In the last batch.
    let stop = AtomicBool::new(false);
    let found = calibrate(
        &dir.path("run"),
        &out,
        &options,
        &stop,
        &mut |index, count| {
            stop.store(index + 1 == count, Ordering::Relaxed);
        },
    );
    assert!(found.expect("no error").is_none() && !out.exists());
    fs::write(
        dir.path("text.txt"),
        "another text, long enough? ".repeat(200),
    )
    .expect("a text");
    assert!(matches!(fails("run"), RunError::OtherData { .. }));
}
