//! The convolution of the f64 reference: forward by hand, backward against central differences.

mod quotients;

use laq_tensor::{ConvolutionShape, reference};
use proptest::prelude::*;

use quotients::{check, dot, uniform};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolution(
        (shape, input, weight, bias, output_gradient) in
            (1usize..3, 1usize..5, 1usize..5, 1usize..4, 1usize..4).prop_flat_map(
                |(batch, height, width, in_channels, out_channels)| {
                    let shape = ConvolutionShape { batch, height, width, in_channels, out_channels };
                    (
                        Just(shape),
                        uniform(shape.pixels() * in_channels),
                        uniform(out_channels * shape.filter()),
                        uniform(out_channels),
                        uniform(shape.pixels() * out_channels),
                    )
                },
            )
    ) {
        let loss = |input: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
            let output = reference::convolution_forward(shape, input, weight, bias);
            dot(&output, &output_gradient)
        };
        let [of_input, of_weight, of_bias] =
            reference::convolution_backward(shape, &input, &weight, &output_gradient);
        check("input", &input, &of_input, |x| loss(x, &weight, &bias));
        check("weight", &weight, &of_weight, |w| loss(&input, w, &bias));
        check("bias", &bias, &of_bias, |b| loss(&input, &weight, b));
    }
}

/// The response to a unit impulse is the filter rotated by 180°, clipped at the edge of the image.
#[test]
fn impulse_response_is_the_rotated_filter() {
    let shape = ConvolutionShape {
        batch: 1,
        height: 3,
        width: 4,
        in_channels: 1,
        out_channels: 1,
    };
    let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let mut input = [0.0; 12];
    input[4] = 1.0; // Row 1, column 0.
    let output = reference::convolution_forward(shape, &input, &weight, &[100.0]);
    #[rustfmt::skip]
    let expected = [
        108.0, 107.0, 100.0, 100.0,
        105.0, 104.0, 100.0, 100.0,
        102.0, 101.0, 100.0, 100.0,
    ];
    assert_eq!(output, expected);
}
