//! GGUF files whose tensors are quantized already.
#![cfg(feature = "std")]

#[path = "fixtures/gguf.rs"]
mod gguf;

use std::sync::atomic::{AtomicBool, Ordering};

use gguf::{Folder, Tensor, bytes, file, floats, quantize, random};
use laq_packed::gguf::{
    BlockType, Curvature, GgufError, GgufFile, GgufPlan, GgufQuantizeError, GgufValue, TargetType,
};
use laq_solvers::Problem;

/// Matrices in F32, Q8_0, Q6_K and Q4_0, with scales in f16 that are numbers.
fn model() -> Vec<u8> {
    let q8_0 = [vec![0x00, 0x2c], (0..32).map(|i| i * 7).collect()].concat();
    let mut q6_k: Vec<u8> = (0..210).map(|i| (i * i % 251) as u8).collect();
    q6_k[208..].copy_from_slice(&[0x10, 0x20]);
    let q4_0 = [vec![0x00, 0x2c], (0..16).map(|i| i * 13).collect()].concat();
    let tensors: [Tensor<'_>; 5] = [
        ("a.float", &[32, 2], 0, floats(&random(64, 1))),
        ("b.q8_0", &[32, 2], 8, q8_0.repeat(2)),
        ("c.q6_k", &[256, 1], 14, q6_k),
        ("d.q4_0", &[32, 3], 2, q4_0.repeat(3)),
        ("e.vector", &[32], 8, q8_0),
    ];
    file(3, &[], &tensors)
}

/// Globs of --include, --exclude and --type, and --requantize; which tensors are quantized, and which are copied because they
/// are quantized already.
type Case<'a> = ([&'a [&'a str]; 3], bool, &'a [&'a str], &'a [&'a str]);

/// They are copied unless they are asked for.
#[test]
fn quantized_tensors_are_quantized_again_where_they_are_asked_for() {
    let folder = Folder::new(&model());
    let old = GgufFile::open(&folder.path("in.gguf")).expect("a file");
    let cases: [Case<'_>; 6] = [
        (
            [&[], &[], &[]],
            false,
            &["a.float"],
            &["b.q8_0", "c.q6_k", "d.q4_0"],
        ),
        (
            [&[], &[], &[]],
            true,
            &["a.float", "b.q8_0", "c.q6_k", "d.q4_0"],
            &[],
        ),
        ([&[], &["a*", "d*"], &[]], true, &["b.q8_0", "c.q6_k"], &[]),
        (
            [&[], &[], &["c*", "d*"]],
            false,
            &["a.float", "c.q6_k", "d.q4_0"],
            &["b.q8_0"],
        ),
        (
            [&["[be]*"], &[], &["c*"]],
            false,
            &["b.q8_0", "e.vector"],
            &[],
        ),
        ([&["c*"], &[], &[]], false, &["c.q6_k"], &[]),
    ];
    for ([include, exclude, types], requantize, expected, kept) in cases {
        let mut request = folder.request(BlockType::Iq4Nl);
        let globs = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        request.include = globs(include);
        request.exclude = globs(exclude);
        request.types = types
            .iter()
            .map(|glob| ((*glob).to_owned(), BlockType::Mxfp4.into()))
            .collect();
        request.requantize = requantize;
        let plan = GgufPlan::new(request).expect("a plan");
        assert_eq!(plan.kept(), kept);
        let requantized: Vec<&str> = plan.requantized().map(|tensor| &tensor.name[..]).collect();
        let floats = expected.iter().filter(|name| **name == "a.float").count();
        assert_eq!(requantized, expected[floats..]);
        let mut records = Vec::new();
        let totals = plan.run(&AtomicBool::new(false), &mut |record| {
            records.push(record.clone());
        });
        assert_eq!(totals.expect("a file").copied, 5 - expected.len());
        let names: Vec<&str> = records.iter().map(|record| &record.name[..]).collect();
        assert_eq!(names, expected);
        let new = GgufFile::open(&folder.path("out.gguf")).expect("a file");
        for (old_tensor, new_tensor) in old.tensors().iter().zip(new.tensors()) {
            let (name, raw) = (&old_tensor.name[..], bytes(&old, &old_tensor.name));
            let Some(record) = records.iter().find(|record| record.name == name) else {
                assert_eq!(new_tensor.element, old_tensor.element);
                assert_eq!(bytes(&new, name), raw);
                continue;
            };
            let is_typed = types.iter().any(|glob| name.starts_with(&glob[..1]));
            let of = if is_typed {
                BlockType::Mxfp4
            } else {
                BlockType::Iq4Nl
            };
            let w = old_tensor.element.decode(&raw).expect("blocks");
            let d: Vec<f32> = w.iter().map(|w| w * w).collect();
            let problem = Problem::new(&w, Some(&d)).expect("numbers");
            let (expected, error) = of.quantize(problem, new_tensor.columns()).expect("blocks");
            assert_eq!(bytes(&new, name), expected, "{name}");
            assert_eq!(
                (record.from, record.bits_before, record.weighted_error),
                (old_tensor.element.name, old_tensor.element.bits(), error)
            );
        }
    }
}

/// Quantizing them again could lose: they keep their bytes.
/// Also after the last.
#[test]
fn a_stop_after_any_tensor_keeps_the_old_file() {
    let folder = Folder::new(&model());
    let mut request = folder.request(BlockType::Iq4Nl);
    request.include = vec!["*".into()];
    let out = request.out.clone();
    std::fs::write(&out, "old").expect("written");
    let plan = GgufPlan::new(request).expect("a plan");
    let count = plan.quantized().count();
    assert_eq!(count, 5);
    let names = || {
        let entries = std::fs::read_dir(out.parent().expect("a folder")).expect("a folder");
        entries.count()
    };
    let before = names();
    for last in 1..=count {
        let (stop, mut done) = (AtomicBool::new(false), 0);
        let error = plan.run(&stop, &mut |_| {
            done += 1;
            stop.store(done == last, Ordering::Relaxed);
        });
        assert!(matches!(error, Err(GgufQuantizeError::Interrupted { .. })));
        assert_eq!((done, names()), (last, before));
        assert_eq!(std::fs::read_to_string(&out).expect("read"), "old");
    }
}

#[test]
fn tensors_that_have_the_type_are_copied() {
    let folder = Folder::new(&model());
    let mut request = folder.request(BlockType::Q4_0);
    request.include = vec!["d*".into()];
    quantize(request).expect("a file");
    let open = |name: &str| GgufFile::open(&folder.path(name)).expect("a file");
    let (old, new) = (open("in.gguf"), open("out.gguf"));
    for tensor in old.tensors() {
        assert_eq!(bytes(&new, &tensor.name), bytes(&old, &tensor.name));
    }
}

/// A file says which type most of its weights have, and needs no curvature of tensors that are rounded.
#[test]
fn rounded_tensors_need_no_curvature_and_count_for_the_type_of_the_file() {
    let huge = [vec![1e30; 32], random(32, 2)].concat();
    let tensors: [Tensor<'_>; 2] = [
        ("a", &[32, 2], 0, floats(&huge)),
        ("b", &[32, 1], 0, floats(&random(32, 3))),
    ];
    let folder = Folder::new(&file(3, &[], &tensors));
    let of_b = safetensors::tensor::TensorView::new(
        safetensors::Dtype::F32,
        vec![1, 32],
        &[0, 0, 128, 63].repeat(32),
    )
    .map(|view| safetensors::serialize([("b", view)], None).expect("a file"));
    folder.write("d.safetensors", &of_b.expect("a tensor"));
    for (of, number) in [
        (TargetType::Q8_0, Some(7)),
        (TargetType::F16, Some(1)),
        (TargetType::Bf16, Some(32)),
        (BlockType::Mxfp4.into(), None),
        (BlockType::Q4_0.into(), Some(2)),
        (BlockType::Iq4Nl.into(), Some(25)),
    ] {
        let mut request = folder.request(BlockType::Q4_0);
        request.types = vec![("a".into(), of)];
        if of.is_solved() {
            // w² is beyond the largest float.
            quantize(request).expect("a file");
        } else {
            request.curvature = Curvature::File(folder.path("d.safetensors"));
            quantize(request).expect("a file");
        }
        let new = GgufFile::open(&folder.path("out.gguf")).expect("a file");
        let found = new.value("general.file_type").cloned();
        assert_eq!(found, number.map(GgufValue::Integer), "{of}");
    }
}

#[test]
fn models_are_not_quantized_again_unasked() {
    use GgufQuantizeError::{Number, Quantized};
    let folder = Folder::new(&model());
    let mut request = folder.request(BlockType::Iq4Nl);
    request.exclude = vec!["a*".into()];
    let error = quantize(request.clone()).expect_err("an error");
    assert!(matches!(error, Quantized { others: 2, .. }), "{error}");
    // One of them has the type already, and would not change.
    let mut to_q4_0 = request.clone();
    to_q4_0.of = BlockType::Q4_0.into();
    let other = quantize(to_q4_0).expect_err("an error");
    assert!(matches!(other, Quantized { others: 1, .. }), "{other}");
    let message = error.to_string();
    assert!(
        message.contains("quantized already: b.q8_0 and 2 others")
            && message.contains("--requantize"),
        "{message}"
    );
    request.exclude = vec!["[a-c]*".into()];
    request.of = BlockType::Q4_0.into();
    let error = quantize(request.clone()).expect_err("an error").to_string();
    assert!(error.contains("are q4_0 already"), "{error}");
    // A scale that is no number.
    let block = [vec![0xff, 0x7f], vec![1; 32]].concat();
    let good = [vec![0x00, 0x3c], vec![1; 32]].concat();
    let tensors: [Tensor<'_>; 1] = [("a", &[64, 2], 8, [good.repeat(3), block].concat())];
    folder.write("in.gguf", &file(3, &[], &tensors));
    request.exclude.clear();
    request.requantize = true;
    let error = quantize(request).expect_err("an error");
    assert!(
        matches!(
            error,
            Number {
                row: 1,
                column: 32,
                ..
            }
        ),
        "{error}"
    );
}

/// Floats and blocks that are decoded become floats and Q8_0.
#[test]
fn tensors_are_rounded_where_they_are_asked_for() {
    let folder = Folder::new(&model());
    let old = GgufFile::open(&folder.path("in.gguf")).expect("a file");
    let types = [
        TargetType::Q8_0,
        TargetType::F16,
        TargetType::Bf16,
        TargetType::F32,
    ];
    for of in types {
        let mut request = folder.request(BlockType::Iq4Nl);
        request.types = vec![("[a-d]*".into(), of)];
        let plan = GgufPlan::new(request).expect("a plan");
        let mut records = Vec::new();
        let totals = plan.run(&AtomicBool::new(false), &mut |record| {
            records.push(record.clone());
        });
        let new = GgufFile::open(&folder.path("out.gguf")).expect("a file");
        let bytes_after: usize = new.tensors().iter().map(|tensor| tensor.bytes()).sum();
        assert_eq!(totals.expect("a file").bytes[1], bytes_after);
        for (old_tensor, new_tensor) in old.tensors().iter().zip(new.tensors()).take(4) {
            let name = &old_tensor.name[..];
            assert_eq!(new_tensor.element, of.element());
            let w = old_tensor
                .element
                .decode(&bytes(&old, name))
                .expect("blocks");
            let v = of.element().decode(&bytes(&new, name)).expect("blocks");
            let Some(record) = records.iter().find(|record| record.name == name) else {
                // It has the type already.
                assert_eq!(w, v);
                assert_eq!(old_tensor.element, of.element());
                continue;
            };
            assert_eq!((record.method, record.bits), (of.id(), of.element().bits()));
            let error: f64 = w
                .iter()
                .zip(&v)
                .map(|(w, v)| 0.5 * (f64::from(*w) - f64::from(*v)).powi(2))
                .sum();
            assert!(
                (record.weighted_error - error).abs() <= 1e-6 * error,
                "{of} {name}"
            );
        }
    }
}

#[test]
fn truncated_models_are_errors() {
    let folder = Folder::new(&model());
    let good = model();
    let mut request = folder.request(BlockType::Iq4Nl);
    request.requantize = true;
    // The padding of the last tensor is no part of it.
    for length in (0..good.len() - 31).step_by(7) {
        folder.write("in.gguf", &good[..length]);
        let error = quantize(request.clone()).expect_err("an error");
        assert!(
            matches!(error, GgufQuantizeError::Gguf(_)),
            "{length}: {error}"
        );
    }
}

/// A tensor without rows, whose row fits in 2⁶⁴ bytes only as it is.
#[test]
fn sizes_that_overflow_are_errors() {
    let tensors: [Tensor<'_>; 1] = [("a", &[1 << 62, 0], 19, vec![])];
    let folder = Folder::new(&file(3, &[], &tensors));
    let mut request = folder.request(BlockType::Iq4Nl);
    request.requantize = true;
    quantize(request.clone()).expect("a file");
    request.types = vec![("a".into(), TargetType::F32)];
    let error = quantize(request).expect_err("an error");
    assert!(
        matches!(error, GgufQuantizeError::Gguf(GgufError::Tensor { .. })),
        "{error}"
    );
}
