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
                assert_eq!((totals.tensors, totals.copied), (4, 4));
                assert!(close(totals.weighted_error, errors, totals.energy));
            }
        }
    }
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
