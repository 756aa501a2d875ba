//! The backward passes of the f64 reference against central differences of its forward passes.
//!
//! The conformance suite compares the backward passes of the backends with those of the reference.

mod quotients;

use laq_tensor::{DenseShape, Loss, LstmShape, reference};
use proptest::prelude::*;

use quotients::{check, dot, uniform};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn lstm(
        (shape, input, weight_ih, weight_hh, bias, output_gradient) in
            (1usize..5, 1usize..4, 1usize..5, 1usize..5).prop_flat_map(
                |(length, batch, vocabulary, hidden)| {
                    let rows = length * batch;
                    (
                        Just(LstmShape { length, batch, vocabulary, hidden }),
                        prop::collection::vec(0u8..vocabulary as u8, rows),
                        uniform(4 * hidden * vocabulary),
                        uniform(4 * hidden * hidden),
                        uniform(4 * hidden),
                        uniform(rows * hidden),
                    )
                },
            )
    ) {
        let loss = |weight_ih: &[f64], weight_hh: &[f64], bias: &[f64]| {
            let trace = reference::lstm_forward(shape, &input, weight_ih, weight_hh, bias);
            dot(&trace.hidden, &output_gradient)
        };
        let trace = reference::lstm_forward(shape, &input, &weight_ih, &weight_hh, &bias);
        let found =
            reference::lstm_backward(shape, &input, &weight_hh, &trace, &output_gradient, f64::INFINITY);
        check("weight_ih", &weight_ih, &found.weight_ih, |w| loss(w, &weight_hh, &bias));
        check("weight_hh", &weight_hh, &found.weight_hh, |w| loss(&weight_ih, w, &bias));
        check("bias", &bias, &found.bias, |b| loss(&weight_ih, &weight_hh, b));
    }

    #[test]
    fn dense(
        (shape, input, weight, bias, output_gradient) in (1usize..5, 1usize..5, 1usize..5).prop_flat_map(
            |(rows, inputs, outputs)| (
                Just(DenseShape { rows, inputs, outputs }),
                uniform(rows * inputs),
                uniform(outputs * inputs),
                uniform(outputs),
                uniform(rows * outputs),
            ),
        )
    ) {
        let loss = |input: &[f64], weight: &[f64], bias: &[f64]| {
            dot(&reference::dense_forward(shape, input, weight, bias), &output_gradient)
        };
        let [of_input, of_weight, of_bias] =
            reference::dense_backward(shape, &input, &weight, &output_gradient);
        check("input", &input, &of_input, |x| loss(x, &weight, &bias));
        check("weight", &weight, &of_weight, |w| loss(&input, w, &bias));
        check("bias", &bias, &of_bias, |b| loss(&input, &weight, b));
    }

    #[test]
    fn cross_entropy(
        (targets, logits) in (1usize..6, 1usize..6).prop_flat_map(|(rows, classes)| (
            prop::collection::vec(0u8..classes as u8, rows),
            prop::collection::vec(-5.0f64..5.0, rows * classes),
        ))
    ) {
        let (_, gradient) = reference::loss_and_gradient(Loss::CrossEntropy, &targets, &logits);
        check("logits", &logits, &gradient, |y| reference::loss_and_gradient(Loss::CrossEntropy, &targets, y).0);
    }
}

/// Clipping by hand: with one step and one hidden unit, the gradient of the bias is that of the
/// pre-activation.
#[test]
fn clipping_bounds_the_gradient_of_every_pre_activation() {
    let shape = LstmShape {
        length: 1,
        batch: 1,
        vocabulary: 1,
        hidden: 1,
    };
    let weight_ih = [0.3, -0.2, 0.5, 0.1];
    let trace = reference::lstm_forward(shape, &[0], &weight_ih, &[0.0; 4], &[0.0; 4]);
    let free = reference::lstm_backward(shape, &[0], &[0.0; 4], &trace, &[100.0], f64::INFINITY);
    let clipped = reference::lstm_backward(shape, &[0], &[0.0; 4], &trace, &[100.0], 5.0);
    for (free, clipped) in free.bias.iter().zip(&clipped.bias) {
        assert_eq!(*clipped, free.clamp(-5.0, 5.0));
    }
    assert!(free.bias.iter().any(|gradient| gradient.abs() > 5.0));
}
