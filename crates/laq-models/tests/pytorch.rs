//! One training step of feedforward networks against PyTorch's numbers in `pytorch/feedforward.txt`
//! (made by `pytorch/make_feedforward.py`).

use std::collections::HashMap;

use laq_models::{
    AdamSettings, Batch, FeedforwardSpec, ImageShape, Loss, StateData, StateTensor, Training,
};
use laq_solvers::Method;
use laq_tensor::CpuBackend;
use laq_tensor::cpu::Isa;

/// Name to numbers, of one network.
type Golden = HashMap<String, Vec<f64>>;

fn golden(network: &str) -> Golden {
    include_str!("pytorch/feedforward.txt")
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix(network)?.strip_prefix('/')?.split(' ');
            let name = words.next()?.to_string();
            let numbers = words.skip(1).map(|word| word.parse().unwrap()).collect();
            Some((name, numbers))
        })
        .collect()
}

fn floats(tensor: &StateTensor) -> &[f32] {
    match &tensor.data {
        StateData::F32(values) => values,
        other => panic!("{} holds {other:?}", tensor.name),
    }
}

/// Compares `found` with the golden numbers, relative to the largest of these.
fn check(what: &str, found: impl IntoIterator<Item = f64>, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance * largest,
            "{what}[{index}]: {found}, PyTorch has {expected}"
        );
    }
}

fn one_step_is_pytorchs(network: &str, spec: &FeedforwardSpec) {
    let golden = golden(network);
    let labels: Vec<u8> = golden["labels"].iter().map(|&label| label as u8).collect();
    let images: Vec<f32> = golden["images"].iter().map(|&x| x as f32).collect();
    let batch = Batch::images(&images, &labels);
    for isa in Isa::available() {
        let what = |name: &str| format!("{network} on {}: {name}", isa.name());
        let (backend, full) = (CpuBackend::with_isa(isa), Method::try_from("full").unwrap());
        let adam = AdamSettings::default();
        let mut training =
            Training::feedforward(backend, spec, labels.len(), &full, adam, 1).unwrap();
        let mut state = training.save().unwrap();
        let mut parameters = Vec::new();
        for tensor in &mut state {
            let is_average =
                tensor.name.ends_with("norm.mean") || tensor.name.ends_with("variance");
            if let Some(values) = golden.get(&tensor.name).filter(|_| !is_average) {
                parameters.push(tensor.name.clone());
                tensor.data = StateData::F32(values.iter().map(|&x| x as f32).collect());
            }
        }
        let gradients = golden.keys().filter(|name| name.ends_with(".gradient"));
        assert_eq!(parameters.len(), gradients.count(), "{network}");
        training.load(&state).unwrap();

        let loss = training.step(batch, 0.01).unwrap().loss;
        check(&what("loss"), [loss], &golden["loss"], 1e-6);
        let state = training.save().unwrap();
        let of = |name: &str| {
            let tensor = state.iter().find(|tensor| tensor.name == name);
            let values = floats(tensor.unwrap_or_else(|| panic!("no {name}")));
            values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()
        };
        for name in &parameters {
            // After the first step Adam's first moment is a tenth of the gradient.
            let moment = of(&format!("{name}.first_moment"));
            let gradient = golden[&format!("{name}.gradient")].as_slice();
            // Normalizing few numbers a channel magnifies f32's rounding, more so layer by layer.
            check(&what(name), moment.iter().map(|m| 10.0 * m), gradient, 3e-5);
            // Adam divides a gradient by its size, so one that rounds to nothing may move either
            // way.
            let after = of(name);
            for ((after, expected), gradient) in after
                .iter()
                .zip(&golden[&format!("{name}.after")])
                .zip(gradient)
            {
                let tolerance = if gradient.abs() > 1e-7 { 2e-5 } else { 0.021 };
                assert!(
                    (after - expected).abs() <= tolerance,
                    "{}: {after} after the step, PyTorch has {expected}",
                    what(name)
                );
            }
        }
        for (name, expected) in &golden {
            if name.ends_with("norm.mean") || name.ends_with("norm.variance") {
                check(&what(name), of(name), expected, 2e-6);
            }
        }
        let evaluation = training.evaluate(batch).unwrap();
        check(
            &what("evaluation"),
            [evaluation.loss],
            &golden["evaluation.loss"],
            1e-4,
        );
        let errors = evaluation.errors.unwrap() as f64;
        check(&what("errors"), [errors], &golden["evaluation.errors"], 0.0);
    }
}

fn image(size: usize, channels: usize) -> ImageShape {
    ImageShape {
        height: size,
        width: size,
        channels,
    }
}

#[test]
fn the_mlp() {
    let spec = FeedforwardSpec {
        input: image(4, 1),
        units: vec![15, 17, 13],
        ..FeedforwardSpec::mnist()
    };
    one_step_is_pytorchs("mlp", &spec);
}

#[test]
fn the_vgg() {
    let spec = FeedforwardSpec {
        input: image(8, 3),
        filters: vec![4, 6, 5],
        units: vec![11, 12],
        ..FeedforwardSpec::cifar10()
    };
    one_step_is_pytorchs("vgg", &spec);
}

#[test]
fn the_vgg_with_biases_and_softmax_at_the_end() {
    let spec = FeedforwardSpec {
        input: image(8, 3),
        classes: 23,
        filters: vec![4, 6],
        units: vec![11],
        ..FeedforwardSpec::cifar100()
    };
    assert_eq!(spec.loss, Loss::CrossEntropy);
    one_step_is_pytorchs("vgg100", &spec);
}
