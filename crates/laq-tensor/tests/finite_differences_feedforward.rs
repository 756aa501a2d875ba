//! Batch normalization, max pooling, ReLU and the squared hinge of the f64 reference: backward
//! passes against central differences.

mod quotients;

use laq_tensor::{Loss, NormShape, PoolShape, reference};
use proptest::prelude::*;

use quotients::{check, dot, uniform};

/// Shuffled values whose distances, also to 0, exceed the step of the central differences.
fn apart(count: usize) -> impl Strategy<Value = Vec<f64>> {
    let values: Vec<f64> = (0..count)
        .map(|k| (k as f64 + 0.5) / count as f64 * 4.0 - 2.0)
        .collect();
    Just(values).prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn norm(
        (shape, input, scale, shift, output_gradient) in (2usize..7, 1usize..4, any::<bool>()).prop_flat_map(
            |(rows, channels, relu)| {
                let shape = NormShape { rows, channels, epsilon: 1e-2, relu };
                (Just(shape), apart(rows * channels), uniform(channels), uniform(channels), uniform(rows * channels))
            },
        )
    ) {
        let output = |input: &[f64], scale: &[f64], shift: &[f64]| {
            let [mean, variance] = reference::batch_statistics(shape, input);
            reference::batch_norm_forward(shape, input, scale, shift, [&mean, &variance])
        };
        // ReLU is not differentiable at 0.
        let bare = NormShape { relu: false, ..shape };
        let [mean, variance] = reference::batch_statistics(shape, &input);
        let before = reference::batch_norm_forward(bare, &input, &scale, &shift, [&mean, &variance]);
        prop_assume!(!shape.relu || before.iter().all(|y| y.abs() > 1e-3));
        let loss = |input: &[f64], scale: &[f64], shift: &[f64]| dot(&output(input, scale, shift), &output_gradient);
        let [of_input, of_scale, of_shift] = reference::batch_norm_backward(shape, &input, &scale, &shift, &output_gradient);
        check("input", &input, &of_input, |x| loss(x, &scale, &shift));
        check("scale", &scale, &of_scale, |g| loss(&input, g, &shift));
        check("shift", &shift, &of_shift, |b| loss(&input, &scale, b));
    }

    #[test]
    fn max_pool(
        (shape, input, output_gradient) in (1usize..3, 1usize..6, 1usize..6, 1usize..4).prop_flat_map(
            |(batch, height, width, channels)| {
                let shape = PoolShape { batch, height, width, channels };
                (Just(shape), apart(batch * height * width * channels), uniform(shape.outputs()))
            },
        )
    ) {
        let (_, argmax) = reference::max_pool_forward(shape, &input);
        let of_input = reference::max_pool_backward(input.len(), &argmax, &output_gradient);
        check("input", &input, &of_input, |x| dot(&reference::max_pool_forward(shape, x).0, &output_gradient));
    }

    #[test]
    fn relu((input, output_gradient) in (1usize..20).prop_flat_map(|count| (apart(2 * count), uniform(2 * count)))) {
        let of_input = reference::relu_backward(&reference::relu(&input), &output_gradient);
        check("input", &input, &of_input, |x| dot(&reference::relu(x), &output_gradient));
    }

    #[test]
    fn squared_hinge(
        (targets, outputs) in (1usize..5, 1usize..6).prop_flat_map(|(rows, classes)| {
            (prop::collection::vec(0..classes as u8, rows), prop::collection::vec(-3.0..3.0, rows * classes))
        })
    ) {
        let (_, gradient) = reference::loss_and_gradient(Loss::SquaredHinge, &targets, &outputs);
        check("outputs", &outputs, &gradient, |y| reference::loss_and_gradient(Loss::SquaredHinge, &targets, y).0);
    }
}

#[test]
fn batch_statistics_by_hand() {
    let shape = NormShape {
        rows: 3,
        channels: 2,
        epsilon: 0.0,
        relu: false,
    };
    let [mean, variance] = reference::batch_statistics(shape, &[1.0, 5.0, 2.0, 5.0, 6.0, 8.0]);
    assert_eq!((mean, variance), (vec![3.0, 6.0], vec![14.0 / 3.0, 2.0]));
}

#[test]
fn max_pool_selects_the_first_of_equal_pixels_and_the_first_nan() {
    let shape = PoolShape {
        batch: 1,
        height: 2,
        width: 2,
        channels: 1,
    };
    let (output, argmax) = reference::max_pool_forward(shape, &[1.0, 7.0, 7.0, 7.0]);
    assert_eq!((output, argmax), (vec![7.0], vec![1]));
    let (output, argmax) = reference::max_pool_forward(shape, &[1.0, f64::NAN, 7.0, f64::NAN]);
    assert!(output[0].is_nan() && argmax == [1]);
}

/// One row, the target beyond the margin and the other class not: (1 + 0.5)² / 2.
#[test]
fn squared_hinge_by_hand() {
    let (loss, gradient) = reference::loss_and_gradient(Loss::SquaredHinge, &[0], &[1.5, 0.5]);
    assert_eq!((loss, gradient), (1.125, vec![0.0, 1.5]));
}
