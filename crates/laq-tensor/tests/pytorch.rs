//! A character LSTM, forward and backward, against results of PyTorch in `pytorch/lstm.txt`, which
//! `pytorch/make_lstm.py` writes.

use std::collections::HashMap;

use laq_tensor::cpu::Isa;
use laq_tensor::{
    CpuBackend, Dense, DenseShape, Loss, Losses, Lstm, LstmGradients, LstmParameters, LstmShape,
    Memory, Steps,
};
use ndarray::{ArrayD, IxDyn};

fn golden() -> HashMap<&'static str, ArrayD<f64>> {
    include_str!("pytorch/lstm.txt")
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            let shape: Vec<usize> = words
                .next()
                .unwrap()
                .split('x')
                .map(|size| size.parse().unwrap())
                .collect();
            let values = words.map(|word| word.parse().unwrap()).collect();
            (name, ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap())
        })
        .collect()
}

fn bytes(tensor: &ArrayD<f64>) -> Vec<u8> {
    tensor.iter().map(|&index| index as u8).collect()
}

#[test]
fn loss_and_gradients_match_pytorch() {
    let golden = golden();
    let (length, batch) = (golden["inputs"].shape()[0], golden["inputs"].shape()[1]);
    let (vocabulary, hidden) = (
        golden["output_weight"].shape()[0],
        golden["output_weight"].shape()[1],
    );
    let shape = LstmShape {
        length,
        batch,
        vocabulary,
        hidden,
    };
    let dense = DenseShape {
        rows: shape.rows(),
        inputs: hidden,
        outputs: vocabulary,
    };
    for isa in Isa::available() {
        let backend = CpuBackend::with_isa(isa);
        let zeros = |name: &str| backend.zeros(golden[name].shape()).unwrap();
        let upload = |name: &str| {
            let mut tensor = zeros(name);
            let values: Vec<f32> = golden[name].iter().map(|&x| x as f32).collect();
            backend.write(&values, &mut tensor).unwrap();
            tensor
        };
        let (weight_ih, weight_hh, bias) =
            (upload("weight_ih"), upload("weight_hh"), upload("bias"));
        let (weight, output_bias) = (upload("output_weight"), upload("output_bias"));
        let [inputs, targets] = ["inputs", "targets"].map(|name| {
            let values = bytes(&golden[name]);
            let mut indices = backend.indices(values.len(), vocabulary).unwrap();
            backend.write(&values, &mut indices).unwrap();
            indices
        });
        let parameters = || LstmParameters {
            weight_ih: &weight_ih,
            weight_hh: &weight_hh,
            bias: &bias,
        };
        for (label, clip) in [
            ("free", f32::INFINITY),
            ("clipped", golden["clip"][[0]] as f32),
        ] {
            let mut workspace = backend.lstm_workspace(shape).unwrap();
            let mut states = backend.zeros(&[shape.rows(), hidden]).unwrap();
            let mut state_gradient = states.clone();
            let mut logits = backend.zeros(&[shape.rows(), vocabulary]).unwrap();
            let names = [
                "weight_ih",
                "weight_hh",
                "bias",
                "output_weight",
                "output_bias",
            ];
            let [
                mut of_ih,
                mut of_hh,
                mut of_bias,
                mut of_weight,
                mut of_output_bias,
            ] = names.map(zeros);
            backend
                .lstm_forward(&inputs, parameters(), &mut workspace, &mut states)
                .unwrap();
            backend
                .dense_forward(dense, &states, &weight, Some(&output_bias), &mut logits)
                .unwrap();
            let (mut log, mut losses) = (backend.step_log().unwrap(), Vec::new());
            backend
                .loss_and_gradient(Loss::CrossEntropy, &targets, &mut logits, &mut log)
                .unwrap();
            backend.read_log(&mut log, &mut losses).unwrap();
            let loss = losses[0];
            backend
                .dense_backward(
                    dense,
                    &states,
                    &weight,
                    &logits,
                    Some(&mut state_gradient),
                    &mut of_weight,
                    Some(&mut of_output_bias),
                )
                .unwrap();
            backend
                .lstm_backward(
                    &inputs,
                    parameters(),
                    &states,
                    &mut state_gradient,
                    clip,
                    &mut workspace,
                    LstmGradients {
                        weight_ih: &mut of_ih,
                        weight_hh: &mut of_hh,
                        bias: &mut of_bias,
                    },
                )
                .unwrap();
            assert!((loss - golden["loss"][[0]]).abs() < 1e-6, "{loss}");
            for (name, found) in
                names
                    .into_iter()
                    .zip([of_ih, of_hh, of_bias, of_weight, of_output_bias])
            {
                let expected = &golden[format!("{label}.{name}").as_str()];
                let largest = expected
                    .iter()
                    .fold(0.0f64, |largest, x| largest.max(x.abs()));
                for (index, (found, expected)) in found.as_slice().iter().zip(expected).enumerate()
                {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(
                        error <= 2e-6 * largest,
                        "{}: {label}.{name}[{index}]: {found}, PyTorch: {expected}",
                        isa.name()
                    );
                }
            }
        }
        let (free, clipped) = (&golden["free.weight_hh"], &golden["clipped.weight_hh"]);
        assert!(
            free.iter()
                .zip(clipped)
                .any(|(a, b)| (a - b).abs() > 0.1 * a.abs())
        );
    }
}
