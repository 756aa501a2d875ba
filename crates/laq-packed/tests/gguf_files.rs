//! GGUF files: what is written is read, what is quantized decodes, and damage is an error.
#![cfg(feature = "std")]

#[path = "fixtures/gguf.rs"]
mod gguf;

use std::fs;
use std::path::Path;

use gguf::{Folder, Tensor, bytes, entry, file, floats, quantize, random, text};
use laq_packed::gguf::{
    BlockType, Curvature, GgufError, GgufFile, GgufPlan, GgufQuantizeError, GgufRequest, GgufValue,
    Importance, ImportanceError,
};
use laq_packed::{OutError, SelectionError, inspect};
use laq_solvers::Problem;
use proptest::prelude::*;

/// Two matrices, three experts, a vector, and a matrix that is quantized already.
fn model() -> Vec<u8> {
    let tokens = [
        &8u32.to_le_bytes()[..],
        &2u64.to_le_bytes(),
        &text("a"),
        &text("bc"),
    ]
    .concat();
    let entries = [
        entry("general.architecture", 8, &text("llama")),
        entry("general.file_type", 4, &0u32.to_le_bytes()),
        entry("tokens", 9, &tokens),
        entry("one", 6, &1.5f32.to_le_bytes()),
    ];
    let half = |value: &f32| half::f16::from_f32(*value).to_le_bytes();
    let tensors: [Tensor<'_>; 5] = [
        ("a.weight", &[64, 6], 0, floats(&random(384, 1))),
        (
            "b.weight",
            &[32, 3],
            1,
            random(96, 2).iter().flat_map(half).collect(),
        ),
        ("experts.weight", &[32, 2, 3], 0, floats(&random(192, 3))),
        ("norm.weight", &[64], 0, floats(&random(64, 4))),
        ("old.weight", &[32, 2], 2, vec![7; 36]),
    ];
    file(3, &entries, &tensors)
}

/// An importance matrix in GGUF.
fn importance(experts: u64) -> Vec<u8> {
    let sums = |count: usize, seed| -> Vec<u8> {
        floats(
            &random(count, seed)
                .iter()
                .map(|x| 4.0 * x * x)
                .collect::<Vec<_>>(),
        )
    };
    let entries = [entry("general.type", 8, &text("imatrix"))];
    let tensors: [Tensor<'_>; 6] = [
        ("a.weight.in_sum2", &[64, 1], 0, sums(64, 5)),
        ("a.weight.counts", &[1], 0, floats(&[4.0])),
        ("b.weight.in_sum2", &[32], 0, sums(32, 6)),
        ("b.weight.counts", &[1], 0, floats(&[4.0])),
        (
            "experts.weight.in_sum2",
            &[32, experts],
            0,
            sums(32 * experts as usize, 7),
        ),
        (
            "experts.weight.counts",
            &[experts],
            0,
            floats(&vec![4.0; experts as usize]),
        ),
    ];
    file(3, &entries, &tensors)
}

/// The curvature is that of the file, and the rest is copied.
#[test]
fn quantized_tensors_are_those_of_the_solver() {
    let folder = Folder::new(&model());
    let sums = folder.write("im.gguf", &importance(3));
    let matrix = Importance::read(&sums).expect("a matrix");
    for of in [BlockType::Q4_0, BlockType::Iq4Nl, BlockType::Mxfp4] {
        for with_importance in [false, true] {
            let mut request = folder.request(of);
            // It is no selection: the vector stays.
            request.types = vec![
                ("a.*".into(), BlockType::Q2_0.into()),
                ("norm*".into(), of.into()),
            ];
            if with_importance {
                request.curvature = Curvature::Importance(sums.clone());
            }
            let plan = GgufPlan::new(request.clone()).expect("a plan");
            assert_eq!(plan.unused_types(), ["norm*"]);
            quantize(request).expect("a file");
            let old = GgufFile::open(&folder.path("in.gguf")).expect("a file");
            let new = GgufFile::open(&folder.path("out.gguf")).expect("a file");
            for (old_tensor, tensor) in old.tensors().iter().zip(new.tensors()) {
                let name = tensor.name.as_str();
                assert_eq!(
                    (name, &tensor.shape),
                    (&old_tensor.name[..], &old_tensor.shape)
                );
                if ["norm.weight", "old.weight"].contains(&name) {
                    assert_eq!(tensor.element, old_tensor.element);
                    assert_eq!(bytes(&new, name), bytes(&old, name));
                    continue;
                }
                let raw = bytes(&old, name);
                let w: Vec<f32> = match name {
                    "b.weight" => (raw.chunks(2))
                        .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                        .collect(),
                    _ => (raw.chunks(4))
                        .map(|b| f32::from_le_bytes(b.try_into().expect("four")))
                        .collect(),
                };
                let columns = tensor.columns();
                let of = if name == "a.weight" {
                    BlockType::Q2_0
                } else {
                    of
                };
                let experts = if name == "experts.weight" { 3 } else { 1 };
                let rows_of_expert = w.len() / columns / experts;
                let d: Vec<f32> = (0..w.len())
                    .map(|at| match with_importance {
                        false => w[at] * w[at],
                        true => {
                            let expert = at / columns / rows_of_expert;
                            matrix.of(name).expect(name)[expert * columns + at % columns]
                        }
                    })
                    .collect();
                let problem = Problem::new(&w, Some(&d)).expect("numbers");
                let (expected, _) = of.quantize(problem, columns).expect("whole blocks");
                assert_eq!(bytes(&new, name), expected, "{name}");
            }
            let value = |key: &str| new.value(key).cloned();
            assert_eq!(value("one"), Some(GgufValue::Float(1.5)));
            assert_eq!(value("tokens"), Some(GgufValue::Array(2)));
            // Most weights are in Q2_0, of which llama.cpp has no such number.
            assert_eq!(value("general.file_type"), None);
        }
    }
    let summary = inspect(&folder.path("out.gguf")).expect("a summary");
    let types: Vec<&str> = summary
        .tensors
        .iter()
        .map(|tensor| &tensor.dtype[..])
        .collect();
    assert_eq!(types, ["Q2_0", "MXFP4", "MXFP4", "F32", "Q4_0"]);
    assert_eq!(summary.tensors[1].bits, Some(4.25));
}

#[test]
fn older_importance_matrices_are_read() {
    let folder = Folder::new(&model());
    let number = |number: i32| number.to_le_bytes().to_vec();
    let layer = |name: &str, calls: i32, values: &[f32]| {
        let name_length = number(name.len() as i32);
        let count = number(values.len() as i32);
        [
            name_length,
            name.into(),
            number(calls),
            count,
            floats(values),
        ]
        .concat()
    };
    let layers = [layer("a", 2, &[1.0, 4.0]), layer("b", 1, &[3.0])].concat();
    let old = [number(2), layers].concat();
    let matrix = Importance::read(&folder.write("im.dat", &old)).expect("a matrix");
    assert_eq!(matrix.of("a"), Some(&[0.5, 2.0][..]));
    assert_eq!(matrix.of("b"), Some(&[3.0][..]));
    assert_eq!(matrix.names().collect::<Vec<_>>(), ["a", "b"]);
    for length in 0..old.len() {
        let cut = Importance::read(&folder.write("cut.dat", &old[..length]));
        assert!(
            matches!(cut, Err(ImportanceError::Foreign { .. })),
            "{length}"
        );
    }
    let negative = [number(1), layer("a", 1, &[-1.0])].concat();
    let error = Importance::read(&folder.write("im.dat", &negative));
    assert!(matches!(error, Err(ImportanceError::Value { .. })));
    let error = Importance::read(&folder.path("in.gguf"));
    assert!(matches!(error, Err(ImportanceError::Foreign { .. })));
}

#[test]
fn requests_that_do_not_fit_are_errors() {
    use GgufQuantizeError::{Element, Importance, Missing, Number, Out, Rows, Selection, Size};
    let folder = Folder::new(&model());
    let old = folder.write("out.gguf", b"old");
    let plan = |change: &dyn Fn(&mut GgufRequest)| {
        let mut request = folder.request(BlockType::Q4_0);
        change(&mut request);
        let error = quantize(request).expect_err("an error");
        assert_eq!(fs::read(&old).expect("a file"), b"old");
        error
    };
    let error = plan(&|request| request.of = BlockType::Q2_0.into());
    assert!(matches!(&error, Rows { columns: 32, .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("b.weight") && message.contains("q4_0|iq4_nl|mxfp4|q8_0|f16|bf16|f32"),
        "{message}"
    );
    let error = plan(&|request| request.exclude = vec!["*".into()]);
    assert!(
        matches!(error, Selection(SelectionError::Nothing { .. })),
        "{error}"
    );
    let error = plan(&|request| request.include = vec!["c.*".into()]);
    assert!(
        matches!(error, Selection(SelectionError::NoMatch { .. })),
        "{error}"
    );
    let error = plan(&|request| request.out = request.weights.clone());
    assert!(matches!(error, Out(OutError::IsInput { .. })), "{error}");
    let with = |name: &str, bytes: &[u8]| {
        let path = folder.write(name, bytes);
        plan(&|request| request.curvature = Curvature::Importance(path.clone()))
    };
    let error = with("im.gguf", &importance(2));
    assert!(matches!(error, Size { .. }), "{error}");
    let error = with(
        "im.gguf",
        &file(3, &[entry("general.type", 8, &text("imatrix"))], &[]),
    );
    assert!(matches!(error, Missing { others: 2, .. }), "{error}");
    // Of a matrix that has some, the others are weighted by their squares.
    let sums = floats(&[1.0; 64]);
    let some: [Tensor<'_>; 2] = [
        ("a.weight.in_sum2", &[64], 0, sums),
        ("a.weight.counts", &[1], 0, floats(&[1.0])),
    ];
    let some = file(3, &[entry("general.type", 8, &text("imatrix"))], &some);
    let mut request = folder.request(BlockType::Q4_0);
    request.curvature = Curvature::Importance(folder.write("some.gguf", &some));
    let names = ["b.weight", "experts.weight"];
    assert_eq!(
        GgufPlan::new(request).expect("a plan").without_importance(),
        names
    );
    let error = with("im.gguf", &model());
    assert!(
        matches!(error, Importance(ImportanceError::Foreign { .. })),
        "{error}"
    );
    let with_integers: [Tensor<'_>; 2] = [
        ("a", &[32, 2], 0, floats(&random(64, 1))),
        ("ids", &[32, 2], 26, vec![0; 256]),
    ];
    folder.write("in.gguf", &file(3, &[], &with_integers));
    let error = plan(&|request| request.include = vec!["*".into()]);
    assert!(matches!(error, Element { .. }), "{error}");
    let mut weights = random(64, 1);
    weights[40] = f32::NAN;
    folder.write(
        "in.gguf",
        &file(3, &[], &[("a", &[32, 2], 0, floats(&weights))]),
    );
    let error = plan(&|_| {});
    assert!(
        matches!(
            error,
            Number {
                row: 1,
                column: 8,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn damaged_files_are_errors() {
    let folder = Folder::new(&model());
    let open = |bytes: &[u8]| GgufFile::open(&folder.write("x.gguf", bytes)).expect_err("an error");
    let good = model();
    for length in 0..good.len() - 31 {
        let error = open(&good[..length]);
        let is_expected = matches!(
            error,
            GgufError::Foreign { .. } | GgufError::Truncated { .. } | GgufError::Header { .. }
        );
        assert!(is_expected, "{length}: {error}");
    }
    let with_version = |version: u32| open(&file(version, &[], &[]));
    assert!(matches!(
        with_version(1),
        GgufError::Version { found: 1, .. }
    ));
    assert!(matches!(
        with_version(4),
        GgufError::Version { found: 4, .. }
    ));
    let big_endian = with_version(3u32.swap_bytes());
    assert!(
        matches!(big_endian, GgufError::BigEndian { .. }),
        "{big_endian}"
    );
    let header =
        |entries: &[Vec<u8>], tensors: &[Tensor<'_>]| match open(&file(3, entries, tensors)) {
            GgufError::Header { detail, .. } => detail,
            other => panic!("{other}"),
        };
    let one = entry("one", 0, &[1]);
    assert!(header(&[one.clone(), one], &[]).contains("twice"));
    assert!(header(&[entry("one", 13, &[])], &[]).contains("unknown type 13"));
    let alignment = entry("general.alignment", 4, &0u32.to_le_bytes());
    assert!(header(&[alignment], &[]).contains("general.alignment"));
    let row: Tensor<'_> = ("a", &[32], 0, vec![0; 128]);
    assert!(header(&[], &[row.clone(), row]).contains("twice"));
    assert!(header(&[], &[("a", &[32], 4, vec![0; 32])]).contains("unknown type 4"));
    let mut shared = file(
        3,
        &[],
        &[("a", &[32], 0, vec![0; 128]), ("b", &[32], 0, Vec::new())],
    );
    shared.truncate(shared.len() - 96);
    let second = shared
        .windows(8)
        .rposition(|bytes| bytes == 128u64.to_le_bytes())
        .expect("its offset");
    shared[second] = 0;
    shared.extend([0; 96]);
    let error = open(&shared);
    assert!(error.to_string().contains("share bytes"), "{error}");
    assert!(header(&[], &[("a", &[31], 2, vec![0; 32])]).contains("whole blocks of 32"));
    assert!(header(&[], &[("a", &[1 << 40, 1 << 40], 0, vec![])]).contains("rows"));
    assert!(header(&[], &[("a", &[1, 1, 1, 1, 1], 0, vec![0; 4])]).contains("5 dimensions"));
}

proptest! {
    #[test]
    fn modified_files_are_errors_or_are_quantized(
        changes in prop::collection::vec((0_usize..900, any::<u8>()), 1..4),
    ) {
        let folder = Folder::new(&model());
        let mut bytes = model();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        folder.write("in.gguf", &bytes);
        let mut request = folder.request(BlockType::Mxfp4);
        request.requantize = true;
        if let Err(error) = quantize(request) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        } else {
            prop_assert!(GgufFile::open(&folder.path("out.gguf")).is_ok());
        }
        let _ = inspect(Path::new(&folder.path("in.gguf")));
    }
}
