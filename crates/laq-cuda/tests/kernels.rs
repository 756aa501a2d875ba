//! Every kernel, run on the CPU, against the reference.

mod emulator;

use emulator::{Emulator, arguments};
use laq_tensor::{NormShape, PoolShape, reference};

/// Numbers of either sign, zeros among them.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    (0..count)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 13 == 7 {
                0.0
            } else {
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            }
        })
        .collect()
}

#[test]
fn adam_is_that_of_the_reference_and_a_stopped_step_changes_nothing() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for count in [0usize, 1, 31, 1000, 4097] {
        let gradient = numbers(count, 1);
        for stopped in [0u32, 1] {
            let (mut weight, mut first) = (numbers(count, 2), numbers(count, 3));
            let mut second: Vec<f32> = numbers(count, 4).iter().map(|v| v * v).collect();
            let before = (weight.clone(), first.clone(), second.clone());
            let size = 0.01f32;
            emulator.launch(
                "adam",
                [3, 1, 1],
                [64, 1, 1],
                false,
                arguments![
                    &stopped,
                    gradient.as_ptr(),
                    weight.as_mut_ptr(),
                    first.as_mut_ptr(),
                    second.as_mut_ptr(),
                    count as u64,
                    0.9f32,
                    0.1f32,
                    0.999f32,
                    0.001f32,
                    &size,
                    1e-8f32,
                    1.0f32,
                ],
            );
            for i in 0..count {
                let (w, m, v) = (before.0[i], before.1[i], before.2[i]);
                let expected = if stopped == 1 {
                    (w, m, v)
                } else {
                    let g = gradient[i];
                    let m = 0.9 * m + 0.1 * g;
                    let v = 0.999 * v + 0.001 * (g * g);
                    ((w - 0.01 * m / (v.sqrt() + 1e-8)).clamp(-1.0, 1.0), m, v)
                };
                assert_eq!((weight[i], first[i], second[i]), expected, "{i} of {count}");
            }
        }
    }
}

#[test]
fn the_first_number_that_is_not_finite() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for (at, what) in [
        (None, 0.0),
        (Some(0), f32::NAN),
        (Some(700), f32::INFINITY),
        (Some(1002), f32::NEG_INFINITY),
    ] {
        let mut values = numbers(1003, 5);
        if let Some(at) = at {
            values[at] = what;
            values[1002] = f32::NAN;
        }
        let mut found = u64::MAX;
        emulator.launch(
            "first_not_finite",
            [2, 1, 1],
            [96, 1, 1],
            false,
            arguments![values.as_ptr(), 1003u64, &raw mut found,],
        );
        assert_eq!(found, at.map_or(u64::MAX, |at| at as u64));
    }
}

#[test]
fn softmax_is_that_of_the_reference() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for (rows, classes) in [(1usize, 1usize), (3, 5), (40, 32), (7, 87), (9, 101)] {
        let logits = numbers(rows * classes, 6);
        let targets: Vec<u8> = (0..rows).map(|row| (row * 7 % classes) as u8).collect();
        let (mut found, mut losses, mut total) = (logits.clone(), vec![0.0f64; rows], 0.25f64);
        emulator.launch(
            "softmax_cross_entropy",
            [2, 1, 1],
            [64, 1, 1],
            false,
            arguments![
                targets.as_ptr(),
                found.as_mut_ptr(),
                losses.as_mut_ptr(),
                rows as u32,
                classes as u32,
            ],
        );
        emulator.launch(
            "add_sum",
            [1, 1, 1],
            [64, 1, 1],
            false,
            arguments![
                losses.as_ptr(),
                rows as u64,
                1.0 / rows as f64,
                &raw mut total,
            ],
        );
        let wide: Vec<f64> = logits.iter().map(|&y| f64::from(y)).collect();
        let (loss, gradient) = reference::softmax_cross_entropy(&targets, &wide);
        assert!(
            (total - 0.25 - loss).abs() < 1e-6 * loss.max(1.0),
            "{total} and {loss}"
        );
        for (a, b) in found.iter().zip(gradient) {
            assert!((f64::from(*a) - b).abs() < 1e-6, "{a} and {b}");
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(a) - b).abs() <= tolerance * b.abs().max(1.0),
            "{what}, {i}: {a} and {b}"
        );
    }
}

#[test]
fn hinge_is_that_of_the_reference() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for (rows, classes) in [(1usize, 2usize), (5, 10), (9, 100)] {
        let outputs = numbers(rows * classes, 8);
        let targets: Vec<u8> = (0..rows).map(|row| (row * 7 % classes) as u8).collect();
        let (mut found, mut losses, mut total) = (outputs.clone(), vec![0.0f64; rows], 0.0f64);
        emulator.launch(
            "squared_hinge",
            [2, 1, 1],
            [64, 1, 1],
            false,
            arguments![
                targets.as_ptr(),
                found.as_mut_ptr(),
                losses.as_mut_ptr(),
                rows as u32,
                classes as u32,
            ],
        );
        emulator.launch(
            "add_sum",
            [1, 1, 1],
            [32, 1, 1],
            false,
            arguments![
                losses.as_ptr(),
                rows as u64,
                1.0 / (rows * classes) as f64,
                &raw mut total,
            ],
        );
        let (loss, gradient) = reference::squared_hinge(&targets, &wide(&outputs));
        assert!((total - loss).abs() < 1e-12, "{total} and {loss}");
        assert_close(&found, &gradient, 1e-7, "gradient");
    }
}

#[test]
fn norm_is_that_of_the_reference() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for (rows, channels, relu) in [
        (3usize, 1usize, true),
        (50, 33, true),
        (41, 64, false),
        (100, 7, true),
    ] {
        let shape = NormShape {
            rows,
            channels,
            epsilon: 1e-4,
            relu,
        };
        let chunk = rows.div_ceil(3);
        let chunks = rows.div_ceil(chunk);
        let grid = [channels.div_ceil(32) as u32, chunks as u32, 1];
        let count = rows * channels;
        let (input, scale, shift) = (
            numbers(count, 1),
            numbers(channels, 2),
            numbers(channels, 3),
        );
        let from_above = numbers(count, 4);
        let mut partial = vec![f64::NAN; chunks * 2 * channels];
        let (mut mean, mut variance) = (vec![f64::NAN; channels], vec![f64::NAN; channels]);
        let (mut factor, mut offset) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
        let (mut slope, mut base) = (factor.clone(), offset.clone());
        let (mut of_scale, mut of_shift) = (factor.clone(), offset.clone());
        let (mut output, mut gradient) = (vec![f32::NAN; count], from_above.clone());
        let (r, n, k) = (rows as u32, channels as u32, chunk as u32);
        let flag = u32::from(relu);
        emulator.launch(
            "norm_moments",
            grid,
            [32, 8, 1],
            false,
            arguments![input.as_ptr(), partial.as_mut_ptr(), r, n, k,],
        );
        emulator.launch(
            "norm_factors",
            [1, 1, 1],
            [32, 1, 1],
            false,
            arguments![
                partial.as_ptr(),
                chunks as u32,
                scale.as_ptr(),
                shift.as_ptr(),
                mean.as_mut_ptr(),
                variance.as_mut_ptr(),
                factor.as_mut_ptr(),
                offset.as_mut_ptr(),
                r,
                n,
                shape.epsilon,
            ],
        );
        emulator.launch(
            "norm_apply",
            [2, 1, 1],
            [64, 1, 1],
            false,
            arguments![
                input.as_ptr(),
                factor.as_ptr(),
                offset.as_ptr(),
                output.as_mut_ptr(),
                count as u64,
                n,
                flag,
            ],
        );
        emulator.launch(
            "norm_products",
            grid,
            [32, 8, 1],
            false,
            arguments![
                input.as_ptr(),
                gradient.as_ptr(),
                factor.as_ptr(),
                offset.as_ptr(),
                partial.as_mut_ptr(),
                r,
                n,
                k,
                flag,
            ],
        );
        emulator.launch(
            "norm_slopes",
            [1, 1, 1],
            [32, 1, 1],
            false,
            arguments![
                partial.as_ptr(),
                chunks as u32,
                scale.as_ptr(),
                mean.as_ptr(),
                variance.as_ptr(),
                of_scale.as_mut_ptr(),
                of_shift.as_mut_ptr(),
                slope.as_mut_ptr(),
                base.as_mut_ptr(),
                r,
                n,
                shape.epsilon,
            ],
        );
        emulator.launch(
            "norm_through",
            [2, 1, 1],
            [64, 1, 1],
            false,
            arguments![
                input.as_ptr(),
                factor.as_ptr(),
                offset.as_ptr(),
                slope.as_ptr(),
                base.as_ptr(),
                gradient.as_mut_ptr(),
                count as u64,
                n,
                flag,
            ],
        );
        let (x, a, b) = (wide(&input), wide(&scale), wide(&shift));
        let statistics = reference::norm_statistics(shape, &x);
        let expected = reference::norm_forward(shape, &x, &a, &b, [&statistics[0], &statistics[1]]);
        assert_close(&output, &expected, 2e-6, "output");
        let [of_x, of_a, of_b] = reference::norm_backward(shape, &x, &a, &b, &wide(&from_above));
        assert_close(&gradient, &of_x, 2e-5, "gradient");
        assert_close(&of_scale, &of_a, 2e-6, "of scale");
        assert_close(&of_shift, &of_b, 2e-6, "of shift");
    }
}

#[test]
fn pooling_is_that_of_the_reference() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for (batch, height, width, channels) in [
        (1usize, 2usize, 2usize, 1usize),
        (2, 5, 7, 3),
        (3, 1, 4, 2),
        (2, 4, 4, 33),
    ] {
        let shape = PoolShape {
            batch,
            height,
            width,
            channels,
        };
        let inputs = batch * height * width * channels;
        let (input, from_above) = (numbers(inputs, 1), numbers(shape.outputs(), 2));
        let (mut output, mut places) =
            (vec![f32::NAN; shape.outputs()], vec![9u8; shape.outputs()]);
        let mut gradient = vec![f32::NAN; inputs];
        let (h, w, c) = (height as u32, width as u32, channels as u32);
        emulator.launch(
            "max_pool",
            [3, 1, 1],
            [32, 1, 1],
            false,
            arguments![
                input.as_ptr(),
                places.as_mut_ptr(),
                output.as_mut_ptr(),
                shape.outputs() as u64,
                h,
                w,
                c,
            ],
        );
        emulator.launch(
            "max_pool_backward",
            [3, 1, 1],
            [32, 1, 1],
            false,
            arguments![
                places.as_ptr(),
                from_above.as_ptr(),
                gradient.as_mut_ptr(),
                inputs as u64,
                h,
                w,
                c,
            ],
        );
        let (expected, chosen) = reference::max_pool_forward(shape, &wide(&input));
        assert_close(&output, &expected, 0.0, "output");
        assert_close(
            &gradient,
            &reference::max_pool_backward(inputs, &chosen, &wide(&from_above)),
            0.0,
            "gradient",
        );
    }
}

#[test]
fn relu_is_that_of_the_reference_and_keeps_a_nan() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    for count in [0usize, 1, 33, 1000] {
        let (values, from_above) = (numbers(count, 1), numbers(count, 2));
        let (mut found, mut gradient) = (values.clone(), from_above.clone());
        let (grid, block) = ([3, 1, 1], [32, 1, 1]);
        emulator.launch(
            "relu",
            grid,
            block,
            false,
            arguments![found.as_mut_ptr(), count as u64],
        );
        assert_close(&found, &reference::relu(&wide(&values)), 0.0, "values");
        emulator.launch(
            "relu_backward",
            grid,
            block,
            false,
            arguments![found.as_ptr(), gradient.as_mut_ptr(), count as u64],
        );
        let expected = reference::relu_backward(&wide(&found), &wide(&from_above));
        assert_close(&gradient, &expected, 0.0, "gradient");
    }
    let mut nan = f32::NAN;
    emulator.launch(
        "relu",
        [1, 1, 1],
        [32, 1, 1],
        false,
        arguments![&raw mut nan, 1u64],
    );
    assert!(nan.is_nan());
}

#[test]
fn fill_writes_all_and_nothing_behind() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let mut values = vec![1.0f32; 101];
    emulator.launch(
        "fill",
        [2, 1, 1],
        [32, 1, 1],
        false,
        arguments![values.as_mut_ptr(), 100u64, 2.5f32],
    );
    assert!(values[..100].iter().all(|&value| value == 2.5));
    assert_eq!(values[100], 1.0);
}

#[test]
fn running_averages_are_those_of_their_formulas() {
    let Some(emulator) = Emulator::get() else {
        return;
    };
    let channels = 37usize;
    let (scale, shift) = (numbers(channels, 1), numbers(channels, 2));
    let (batch_mean, batch_variance) = (
        wide(&numbers(channels, 3)),
        wide(
            &numbers(channels, 4)
                .iter()
                .map(|x| x * x)
                .collect::<Vec<_>>(),
        ),
    );
    let (grid, block, n) = ([2, 1, 1], [32, 1, 1], channels as u32);
    for (rows, stopped) in [(1u32, 0u32), (50, 0), (50, 1)] {
        let (mut mean, mut variance) = (numbers(channels, 5), vec![0.5f32; channels]);
        let before = (wide(&mean), wide(&variance));
        emulator.launch(
            "norm_average",
            grid,
            block,
            false,
            arguments![
                &stopped,
                batch_mean.as_ptr(),
                batch_variance.as_ptr(),
                mean.as_mut_ptr(),
                variance.as_mut_ptr(),
                rows,
                n,
                0.25f32,
            ],
        );
        let unbiased = f64::from(rows) / f64::from((rows - 1).max(1));
        let moved = |old: &[f64], new: &[f64], by: f64| -> Vec<f64> {
            let pairs = old.iter().zip(new);
            pairs
                .map(|(old, new)| {
                    if stopped == 1 {
                        *old
                    } else {
                        0.75 * old + 0.25 * by * new
                    }
                })
                .collect()
        };
        assert_close(&mean, &moved(&before.0, &batch_mean, 1.0), 1e-7, "mean");
        let expected = moved(&before.1, &batch_variance, unbiased);
        assert_close(&variance, &expected, 1e-7, "variance");

        let (mut factor, mut offset) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
        emulator.launch(
            "norm_running_factors",
            grid,
            block,
            false,
            arguments![
                mean.as_ptr(),
                variance.as_ptr(),
                scale.as_ptr(),
                shift.as_ptr(),
                factor.as_mut_ptr(),
                offset.as_mut_ptr(),
                n,
                1e-4f32,
            ],
        );
        // The factors turn any input into what the reference says.
        let shape = NormShape {
            rows: 1,
            channels,
            epsilon: 1e-4,
            relu: false,
        };
        let input = numbers(channels, 6);
        let found: Vec<f32> = (0..channels)
            .map(|c| input[c] * factor[c] + offset[c])
            .collect();
        let statistics = [&wide(&mean)[..], &wide(&variance)];
        let expected = reference::norm_forward(
            shape,
            &wide(&input),
            &wide(&scale),
            &wide(&shift),
            statistics,
        );
        assert_close(&found, &expected, 1e-6, "output");
    }
}

/// A kernel that no test launches is not one of those of which it is said that they are tested.
#[test]
fn every_kernel_is_launched_by_a_test() {
    let tests = include_str!("kernels.rs");
    for (file, source) in laq_cuda::KERNEL_SOURCES {
        for kernel in emulator::kernels_in(source) {
            assert!(
                tests.contains(&format!("\"{kernel}\"")),
                "{kernel} of {file}"
            );
        }
    }
}
