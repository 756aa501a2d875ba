//! The backend upholds what its launches rely on: graphs own their operands, indices are in range,
//! and the tables on the host are those of the kernels.

use laq_cuda::kernels::{SIGNATURES, Type};
use laq_cuda::{CudaBackend, KERNEL_SOURCES, StepGraph};
use laq_tensor::{
    BackendError, Dense, DenseShape, Gather, Loss, Losses, Memory, Pool, PoolShape, Steps,
};

use crate::emulator::Emulator;
use crate::emulator::device::Emulated;

fn backend() -> Option<CudaBackend<Emulated>> {
    Emulator::get().map(|emulator| CudaBackend::new(Emulated::new(emulator)))
}

/// A graph replays on the tensors that it captured after all other owners dropped them.
#[test]
fn a_graph_outlives_its_tensors() {
    let Some(backend) = backend() else {
        return;
    };
    let shape = DenseShape {
        rows: 2,
        inputs: 3,
        outputs: 4,
    };
    let mut graph = StepGraph::default();
    let mut output = backend.zeros(&[2, 4]).unwrap();
    let expected = {
        let mut input = backend.zeros(&[2, 3]).unwrap();
        let mut weight = backend.zeros(&[4, 3]).unwrap();
        let mut bias = backend.zeros(&[4]).unwrap();
        backend
            .write(&[1.0, -2.0, 3.0, 0.5, 4.0, -1.0], &mut input)
            .unwrap();
        let weights: Vec<f32> = (0..12u8).map(f32::from).collect();
        backend.write(&weights, &mut weight).unwrap();
        backend.write(&[0.25f32; 4], &mut bias).unwrap();
        let mut step = || backend.dense_forward(shape, &input, &weight, Some(&bias), &mut output);
        for _ in 0..3 {
            backend.capture_or_replay(&mut graph, &mut step).unwrap();
        }
        backend.read(&output).unwrap()
    };
    backend.write(&[0.0f32; 8], &mut output).unwrap();
    // Allocations that would reuse the memory of the dropped tensors.
    let mut others = Vec::new();
    for shape in [&[2, 3][..], &[4, 3], &[4]] {
        let mut other = backend.zeros(shape).unwrap();
        let values = vec![f32::NAN; shape.iter().product()];
        backend.write(&values, &mut other).unwrap();
        others.push(other);
    }
    let mut body = || unreachable!("the step is captured");
    backend.capture_or_replay(&mut graph, &mut body).unwrap();
    assert_eq!(backend.read(&output).unwrap(), expected);
    // The output, too, may be dropped before a replay.
    drop(output);
    backend.capture_or_replay(&mut graph, &mut body).unwrap();
}

/// Memory is freed with the graph and the tensors, whichever is dropped last.
#[test]
fn a_graph_frees_its_tensors() {
    let Some(backend) = backend() else {
        return;
    };
    let allocated = || backend.device().allocations();
    let before = allocated();
    let mut tensor = backend.zeros(&[100]).unwrap();
    let mut graph = StepGraph::default();
    for _ in 0..2 {
        let mut step = || backend.relu(&mut tensor);
        backend.capture_or_replay(&mut graph, &mut step).unwrap();
    }
    assert_eq!(allocated(), before + 1);
    drop(tensor);
    assert_eq!(allocated(), before + 1);
    drop(graph);
    assert_eq!(allocated(), before);
}

#[test]
fn an_index_out_of_range_is_an_error() {
    let Some(backend) = backend() else {
        return;
    };
    let mut tokens = backend.indices::<u8>(3, 5).unwrap();
    backend.write(&[4, 0, 1], &mut tokens).unwrap();
    let error = backend.write(&[0, 5, 1], &mut tokens).unwrap_err();
    let expected = |position, value, bound| {
        move |error: &BackendError| {
            matches!(error, BackendError::IndexOutOfRange { position: p, value: v, bound: b }
                if (*p, *v, *b) == (position, value, bound))
        }
    };
    assert!(expected(1, 5, 5)(&error), "{error:?}");
    let error = backend.write_at(&[9], 2, &mut tokens).unwrap_err();
    assert!(expected(0, 9, 5)(&error), "{error:?}");
    assert_eq!(
        backend.read(&tokens).unwrap().as_slice().unwrap(),
        [4, 0, 1]
    );
    let mut permutation = backend.indices::<u32>(2, 70_000).unwrap();
    let error = backend
        .write(&[69_999, 70_000], &mut permutation)
        .unwrap_err();
    assert!(expected(1, 70_000, 70_000)(&error), "{error:?}");
}

/// Asserts that `call` panics with a message that contains `expected`.
fn assert_panics<T>(expected: &str, call: impl FnOnce() -> T) {
    let call = std::panic::AssertUnwindSafe(|| drop(call()));
    let panic = std::panic::catch_unwind(call).expect_err("a panic");
    let message = panic.downcast_ref::<String>().expect("a formatted message");
    assert!(message.contains(expected), "{message}");
}

/// Operands that would make a kernel access memory out of bounds.
#[test]
fn operands_of_the_wrong_size_panic() {
    let Some(backend) = backend() else {
        return;
    };
    let targets = backend.indices::<u8>(2, 5).unwrap();
    let mut logits = backend.zeros(&[2, 4]).unwrap();
    let mut log = backend.step_log().unwrap();
    assert_panics("indices below 5 into 4 entries", || {
        backend.loss_and_gradient(Loss::CrossEntropy, &targets, &mut logits, &mut log)
    });
    let shape = PoolShape {
        batch: 1,
        height: 4,
        width: 4,
        channels: 1,
    };
    let input = backend.zeros(&[15]).unwrap();
    let mut argmax = backend.indices(4, PoolShape::WINDOW).unwrap();
    let mut output = backend.zeros(&[4]).unwrap();
    assert_panics("elements of an operand", || {
        backend.max_pool_forward(shape, &input, &mut argmax, &mut output)
    });
    let [images, mut pixels] = [3, 2].map(|count| backend.zeros(&[count, 4]).unwrap());
    let labels = backend.indices(3, 10).unwrap();
    let mut targets = backend.indices(2, 10).unwrap();
    let permutation = backend.indices(4, 4).unwrap();
    assert_panics("indices below 4 into 3 entries", || {
        backend.gather_images(
            &images,
            &labels,
            &permutation,
            0,
            2,
            &mut pixels,
            &mut targets,
        )
    });
}

/// The parameter of a C++ signature: name and type.
fn parameter(text: &str) -> (String, String) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, words) = words.split_last().expect("a parameter");
    (name.to_string(), words.join(" "))
}

/// The C++ type of a parameter of the table. `Count` is a typedef.
fn c_type(parameter: Type) -> String {
    match parameter {
        Type::Value(name) => name.to_owned(),
        Type::Write(name) => format!("{name}*"),
        Type::Read(name) => match name.strip_suffix('*') {
            Some(target) => format!("{target}* const*"),
            None => format!("const {name}*"),
        },
    }
}

/// The table of kernels has the signatures of the sources, in name, order and type.
#[test]
fn the_table_has_the_signatures_of_the_sources() {
    let mut found = Vec::new();
    for (file, source) in KERNEL_SOURCES {
        for signature in source.split("extern \"C\" __global__ void ").skip(1) {
            let (name, rest) = signature.split_once('(').expect("a kernel");
            let (parameters, _) = rest.split_once(')').expect("parameters");
            let parameters: Vec<_> = parameters.split(',').map(parameter).collect();
            found.push((file.to_owned(), name.to_owned(), parameters));
        }
    }
    let mut expected: Vec<_> = SIGNATURES
        .iter()
        .map(|signature| {
            let parameters = signature.parameters.iter();
            (
                signature.source.to_owned(),
                signature.kernel.to_owned(),
                parameters
                    .map(|&(name, found)| (name.to_owned(), c_type(found)))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}
