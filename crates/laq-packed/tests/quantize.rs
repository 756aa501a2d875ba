//! The output of every method against an independent decoder, and robustness to invalid files.
#![cfg(feature = "std")]

mod fixtures;

use std::sync::atomic::{AtomicBool, Ordering};

use fixtures::*;
use laq_packed::{Granularity, PackedFile, Packing, Plan, QuantizeError, Request, Tensor, method};
use laq_solvers::{Codebook, Method, formats};
use proptest::prelude::*;
use safetensors::tensor::Dtype;

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-12 * scale
}

#[test]
fn the_file_alone_restores_the_weights_of_every_method() {
    let folder = TestDir::new();
    let never = AtomicBool::new(false);
    let formats = formats().iter().flat_map(|format| format.methods());
    let methods = Method::all().chain(formats);
    for method in methods.filter(|method| method.quantizer().is_some()) {
        let ternary = *method.quantizer().expect("checked").codebook() == Codebook::Ternary;
        let granularities = match method.family().block {
            Some(block) => vec![Granularity::Block(block)],
            None => vec![Granularity::Tensor, Granularity::Row, Granularity::Block(3)],
        };
        for granularity in granularities {
            let method = method.clone().with_granularity(granularity).expect("valid");
            for weighted in [false, true] {
                let request = Request {
                    curvature: weighted.then(|| folder.path("d.safetensors")),
                    packing: (ternary && weighted).then_some(Packing::Trits),
                    ..folder.request(method.clone())
                };
                let plan = Plan::new(request).expect("a plan");
                let mut records = Vec::new();
                let totals = plan
                    .run(&never, &mut |record| records.push(record.clone()))
                    .expect("a file");
                let written = Written::read(&folder.path("q.safetensors"));
                let file = PackedFile::open(&folder.path("q.safetensors")).expect("a file");
                let mut errors = 0.0;
                for record in &records {
                    let name = record.name.as_str();
                    let old = find(&model(), name);
                    let decoded = written.decode(name);
                    let read = file.tensor(name).expect("a tensor");
                    assert!(matches!(read, Tensor::Packed(_)), "{method} {name}");
                    assert_eq!(
                        (read.to_f32(), read.shape()),
                        (decoded.clone(), &old.shape[..])
                    );
                    let (dtype, shape, bytes) = &written.tensors[name];
                    assert_eq!((*dtype, shape), (old.dtype, &old.shape), "{method} {name}");
                    let rounded: Vec<u8> = match old.dtype {
                        Dtype::F16 => f16s("", &old.shape, &decoded).bytes,
                        Dtype::BF16 => bf16s("", &old.shape, &decoded).bytes,
                        _ => f32s("", &old.shape, &decoded).bytes,
                    };
                    assert_eq!(bytes, &rounded, "{method} {name}");

                    let w = values(&old);
                    let d = match weighted {
                        true => values(&find(&curvature(), name)),
                        false => vec![1.0; w.len()],
                    };
                    let sum = |term: &dyn Fn(usize) -> f64| (0..w.len()).map(term).sum::<f64>();
                    let error = 0.5
                        * sum(&|i| {
                            f64::from(d[i]) * (f64::from(w[i]) - f64::from(decoded[i])).powi(2)
                        });
                    let energy = 0.5 * sum(&|i| f64::from(d[i]) * f64::from(w[i]).powi(2));
                    assert!(
                        close(record.weighted_error, error, energy),
                        "{method} {name}: {} {error}",
                        record.weighted_error
                    );
                    let relative = if error == 0.0 { 0.0 } else { error / energy };
                    assert!(
                        close(record.relative_error.expect("a number"), relative, 1.0),
                        "{method} {name}"
                    );
                    let zeros = written.multipliers(name);
                    let zeros = zeros
                        .iter()
                        .filter(|&&multiplier| multiplier == 0.0)
                        .count();
                    let share = zeros as f64 / w.len().max(1) as f64;
                    assert_eq!((record.n, record.sparsity), (w.len(), share));
                    errors += error;
                }
                let names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
                assert_eq!(names, plan.names().collect::<Vec<_>>());
                assert_eq!((totals.tensors, totals.copied), (3, 5));
                assert!(close(totals.weighted_error, errors, totals.energy));
            }
        }
    }
}

/// A tensor with the dimension `axis` in front, by its indices.
fn moved(shape: &[usize], axis: usize, values: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let mut front = shape.to_vec();
    let length = front.remove(axis);
    let after: usize = shape[axis + 1..].iter().product();
    let mut parts = vec![Vec::new(); length];
    for (index, value) in values.iter().enumerate() {
        parts[index / after % length].push(*value);
    }
    front.insert(0, length);
    (front, parts.concat())
}

#[test]
fn another_axis_of_channels_is_the_first_of_the_transposed_tensor() {
    let folder = TestDir::new();
    let shape = [4, 6, 3, 2];
    let (w, d) = (numbers(21, 144), positive(22, 144));
    let solve = |shape: &[usize], w: &[f32], d: &[f32], request: Request| {
        folder.write("w.safetensors", &file_bytes(&[f32s("w", shape, w)]));
        folder.write("d.safetensors", &file_bytes(&[f32s("w", shape, d)]));
        let request = Request {
            curvature: Some(folder.path("d.safetensors")),
            ..request
        };
        let plan = Plan::new(request).expect("a plan");
        let mut records = Vec::new();
        let never = AtomicBool::new(false);
        let run = plan.run(&never, &mut |record| records.push(record.clone()));
        run.expect("a file");
        let file = PackedFile::open(&folder.path("q.safetensors")).expect("a file");
        let tensor = file.tensor("w").expect("a tensor");
        assert_eq!(tensor.shape(), shape);
        let written = Written::read(&folder.path("q.safetensors"));
        assert_eq!(written.f32s("w"), tensor.to_f32());
        let matrix = file.matrix("w").expect("a matrix");
        assert_eq!(
            (matrix.rows(), matrix.columns()),
            (shape[0], 144 / shape[0])
        );
        let version = written.metadata["laq.format_version"].clone();
        (tensor.to_f32(), records.remove(0), version)
    };
    for id in ["lat-e", "lat2-e", "laq-linear-3"] {
        for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Block(5)] {
            let method: Method = id.parse().expect("a method");
            let method = method.with_granularity(granularity).expect("valid");
            let request = folder.request(method);
            for axis in 1..4 {
                let axes = vec![("w".into(), axis), ("*".into(), 0)];
                let of_axis = Request {
                    channel_axes: axes,
                    ..request.clone()
                };
                let (front, of_front) = moved(&shape, axis, &w);
                let (_, curvature) = moved(&shape, axis, &d);
                let (found, record, version) = solve(&shape, &w, &d, of_axis);
                let (expected, of_first, _) = solve(&front, &of_front, &curvature, request.clone());
                assert_eq!(version, "3", "{id} {granularity} {axis}");
                assert_eq!(
                    moved(&shape, axis, &found).1,
                    expected,
                    "{id} {granularity} {axis}"
                );
                assert_eq!(record.weighted_error, of_first.weighted_error);
                assert_eq!(record.scale, of_first.scale);
            }
        }
    }
    // An error has the index of the file.
    let mut bad = w.clone();
    bad[36 + 5 * 6 + 2 * 2 + 1] = f32::NAN;
    folder.write("w.safetensors", &file_bytes(&[f32s("w", &shape, &bad)]));
    let request = Request {
        channel_axes: vec![("*".into(), 1)],
        ..folder.request("lat-e".parse().expect("a method"))
    };
    let plan = Plan::new(request.clone()).expect("a plan");
    let error = plan
        .run(&AtomicBool::new(false), &mut |_| {})
        .expect_err("NaN");
    assert!(error.to_string().contains("w[1, 5, 2, 1]"), "{error}");
    for (axis, glob, expected) in [
        (4, "*", "no axis 4"),
        (1, "v*", "--channel-axis v* matches no"),
    ] {
        let channel_axes = vec![(glob.into(), axis)];
        let error = Plan::new(Request {
            channel_axes,
            ..request.clone()
        })
        .expect_err("an error");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn channels_of_which_nothing_is_left_are_told() {
    let folder = TestDir::new();
    let mut w = numbers(31, 5 * 64);
    for channel in [1, 3] {
        for weight in &mut w[channel * 64..][..64] {
            *weight *= if channel == 1 { 1e-3 } else { 2e-3 };
        }
    }
    folder.write("w.safetensors", &file_bytes(&[f32s("w", &[5, 8, 8], &w)]));
    let lost = |granularity: Granularity| {
        let method = method("lat-e", None)
            .expect("a method")
            .with_granularity(granularity);
        let plan = Plan::new(folder.request(method.expect("valid"))).expect("a plan");
        let mut found = None;
        let run = plan.run(&AtomicBool::new(false), &mut |record| {
            found = record.lost_channels.clone();
        });
        run.expect("a file");
        found
    };
    let found = lost(Granularity::Tensor).expect("two channels");
    assert_eq!((found.count, found.channels, found.worst), (2, 5, 1));
    assert_eq!(found.relative_error, 1.0);
    assert_eq!(lost(Granularity::Row), None);
    assert_eq!(lost(Granularity::Block(16)), None);
}

#[test]
fn an_alternating_method_is_compared_with_rounding() {
    let folder = TestDir::new();
    let w = numbers(41, 4_000);
    folder.write("w.safetensors", &file_bytes(&[f32s("w", &[2, 2_000], &w)]));
    for id in ["laq-linear-6", "laq-linear-6-e", "lat-a"] {
        let method: Method = id.parse().expect("a method");
        let codebook = method.quantizer().expect("it quantizes").codebook().clone();
        let plan = Plan::new(folder.request(method.clone())).expect("a plan");
        let mut found = Vec::new();
        let run = plan.run(&AtomicBool::new(false), &mut |record| {
            found.push(record.clone())
        });
        run.expect("a file");
        let largest = w.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let nearest = |w: &f32| {
            let values = codebook.values().into_iter().map(|value| largest * value);
            values.fold(f64::INFINITY, |least, value| {
                least.min((f64::from(*w) - f64::from(value)).powi(2))
            })
        };
        let expected = 0.5 * w.iter().map(nearest).sum::<f64>();
        match (method.is_alternating(), found[0].rounding_error) {
            (true, Some(error)) => assert!(
                close(error, expected, 1e6 * expected),
                "{id}: {error} {expected}"
            ),
            (false, None) => {}
            other => panic!("{id}: {other:?}"),
        }
    }
}

#[test]
fn names_are_globs_of_themselves() {
    let folder = TestDir::new();
    let names = ["blocks[0].w", "blocks0.w", "it's", "a*", "ab", "x[", "?!"];
    let tensors = names.map(|name| f32s(name, &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    folder.write("w.safetensors", &file_bytes(&tensors));
    let selected = |include: &str| {
        let request = Request {
            include: vec![include.into()],
            ..folder.request("lab".parse().expect("a method"))
        };
        let plan = Plan::new(request)?;
        Ok::<_, QuantizeError>(plan.names().map(String::from).collect::<Vec<_>>())
    };
    let of = |include| selected(include).expect("names");
    assert_eq!(of("blocks[0].w"), ["blocks0.w", "blocks[0].w"]);
    assert_eq!(of("blocks[[]0].w"), ["blocks[0].w"]);
    assert_eq!(of("x["), ["x["]);
    assert_eq!(of("a*"), ["a*", "ab"]);
    assert!(selected("y[").is_err());
    // What an error proposes selects the tensor and no other, as a shell reads it.
    let tensors = names.map(|name| raw(name, Dtype::F64, &[2, 2], &[0; 32]));
    folder.write("w.safetensors", &file_bytes(&tensors));
    let mut request = folder.request("lab".parse().expect("a method"));
    for left in (1..=names.len()).rev() {
        let error = Plan::new(request.clone()).expect_err("F64").to_string();
        let (_, proposal) = error.split_once("copy it unchanged with ").expect(&error);
        let words = shlex::split(proposal).expect("words");
        assert_eq!((words.len(), &words[0][..]), (2, "--exclude"), "{error}");
        request.exclude.push(words[1].clone());
        assert_eq!(request.exclude.len(), names.len() + 1 - left);
    }
    let error = Plan::new(request).expect_err("nothing is left").to_string();
    assert!(error.contains("has no tensor to quantize"), "{error}");
}

/// Also one whose scales are floats of two dimensions, as weights are.
#[test]
fn tensors_that_are_packed_already_stay_packed() {
    let folder = TestDir::new();
    let quantized = |weights: &str, method: &str, include: &[&str], out: &str| {
        let method: Method = method.parse().expect("a method");
        let request = Request {
            weights: folder.path(weights),
            out: folder.path(out),
            dequantized: false,
            include: include.iter().map(ToString::to_string).collect(),
            ..folder.request(
                method
                    .with_granularity(Granularity::Block(3))
                    .expect("blocks"),
            )
        };
        let never = AtomicBool::new(false);
        Plan::new(request)?.run(&never, &mut |_| {})?;
        Ok::<_, QuantizeError>(Written::read(&folder.path(out)))
    };
    let first = quantized("w.safetensors", "lab", &["linear.weight"], "1").expect("packed");
    let version = |written: &Written| written.metadata["laq.format_version"].clone();
    for include in [&[][..], &["conv*", "linear*"]] {
        let second = quantized("1", "lat-e", include, "2").expect("packed");
        assert_eq!(version(&second), "2");
        assert_eq!(
            second.decode("linear.weight"),
            first.decode("linear.weight")
        );
        let file = PackedFile::open(&folder.path("2")).expect("a packed file");
        assert!(file.is_packed("linear.weight") && file.is_packed("conv.weight"));
        assert_eq!(file.is_packed("embedding.weight"), include.is_empty());
        assert_eq!(file.is_packed("linear.bias"), !include.is_empty());
        for name in file.names().iter().filter(|name| file.is_packed(name)) {
            file.tensor(name).expect(name);
        }
    }
    let written = folder.read("1");
    let at = written
        .windows(5)
        .position(|found| found == b"bits1")
        .expect("a packing");
    let damaged = [&written[..at], b"bits9", &written[at + 5..]].concat();
    folder.write("1", &damaged);
    let error = quantized("1", "lat-e", &["conv*"], "2")
        .err()
        .expect("a packing");
    assert!(
        error.to_string().contains("laq.tensors is invalid"),
        "{error}"
    );
}

#[test]
fn a_stop_after_any_tensor_keeps_the_old_file() {
    let folder = TestDir::new();
    folder.write("q.safetensors", b"old");
    let before = folder.files();
    let plan = Plan::new(folder.request("lat-e".parse().expect("a method"))).expect("a plan");
    // Also after the last.
    for count in 1..=plan.names().count() {
        let stop = AtomicBool::new(false);
        let mut done = 0;
        let error = plan
            .run(&stop, &mut |_| {
                done += 1;
                stop.store(done == count, Ordering::Relaxed);
            })
            .expect_err("an interruption");
        assert!(matches!(error, QuantizeError::Interrupted { .. }));
        assert_eq!((done, folder.files()), (count, before.clone()));
        assert_eq!(folder.read("q.safetensors"), b"old");
    }
}

#[test]
fn bits_complete_an_id() {
    for (id, bits, expected) in [
        ("laq-linear", Some(4), "laq-linear-4"),
        ("laq-linear-M", Some(4), "laq-linear-4"),
        ("laq-linear-4", Some(4), "laq-linear-4"),
        ("laq-linear-4", None, "laq-linear-4"),
        ("laq-log-e", Some(3), "laq-log-3-e"),
        ("LAQ-log-M-e", Some(2), "laq-log-2-e"),
        ("LAQ_linear", Some(5), "laq-linear-5"),
        ("dorefa", Some(8), "dorefa-8"),
        ("lat-e", None, "lat-e"),
    ] {
        let found = method(id, bits).expect(id);
        assert_eq!(found.id(), expected, "{id} {bits:?}");
    }
    let error = |id: &str, bits| method(id, bits).expect_err(id);
    assert!(matches!(
        error("lat-e", Some(2)),
        QuantizeError::NoBits { bits: 2, .. }
    ));
    assert!(matches!(
        error("full", Some(3)),
        QuantizeError::NoBits { bits: 3, .. }
    ));
    assert!(matches!(
        error("full", None),
        QuantizeError::FullPrecision { .. }
    ));
    assert!(matches!(
        error("laq-linear-4", Some(3)),
        QuantizeError::OtherBits {
            own: 4,
            bits: 3,
            ..
        }
    ));
    for (id, bits) in [
        ("laq-linear", Some(9)),
        ("laq-linear", None),
        ("laq-liner", Some(4)),
    ] {
        assert!(
            matches!(error(id, bits), QuantizeError::Method(_)),
            "{id} {bits:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A file with a few modified bytes gives an error or a complete output.
    #[test]
    fn modified_files_are_errors_and_never_panic(
        changes in prop::collection::vec((0_usize..700, prop_oneof![
            any::<u8>(),
            prop::sample::select(b"0123456789[]{},:\"-eF".to_vec()),
        ]), 1..4),
        cut in prop::option::of(0_usize..1500),
        granularity in prop::option::of(prop::sample::select(vec![
            Granularity::Row,
            Granularity::Block(3),
        ])),
    ) {
        let folder = TestDir::new();
        let mut bytes = file_bytes(&model());
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        folder.write("w.safetensors", &bytes);
        let mut request = folder.request("lat-e".parse().expect("a method"));
        if let Some(granularity) = granularity {
            request.method = request.method.with_granularity(granularity).expect("not a format");
        }
        let names = |plan: &Plan| plan.names().map(String::from).collect::<Vec<_>>();
        let done = Plan::new(request).and_then(|plan| {
            plan.run(&AtomicBool::new(false), &mut |_| {}).map(|_| names(&plan))
        });
        match done {
            Ok(names) => {
                let written = Written::read(&folder.path("q.safetensors"));
                for name in names {
                    prop_assert_eq!(&written.tensors[&name].1, &written.shape(&name));
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
