//! Every kernel, run on the CPU, against the CPU backend and the reference.

mod emulator;

use emulator::{Emulator, arguments};
use laq_tensor::reference;

/// Numbers of either sign, zeros among them.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    (0..count)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 13 == 7 { 0.0 } else { (state >> 8) as f32 / (1 << 23) as f32 - 1.0 }
        })
        .collect()
}

#[test]
fn adam_is_that_of_the_reference_and_a_stopped_step_changes_nothing() {
    let Some(emulator) = Emulator::new() else { return };
    for count in [0usize, 1, 31, 1000, 4097] {
        let gradient = numbers(count, 1);
        for stopped in [0u32, 1] {
            let (mut weight, mut first) = (numbers(count, 2), numbers(count, 3));
            let mut second: Vec<f32> = numbers(count, 4).iter().map(|v| v * v).collect();
            let before = (weight.clone(), first.clone(), second.clone());
            let size = 0.01f32;
            emulator.launch("adam", [3, 1, 1], [64, 1, 1], false, arguments![
                &stopped, gradient.as_ptr(), weight.as_mut_ptr(), first.as_mut_ptr(), second.as_mut_ptr(), count as u64,
                0.9f32, 0.1f32, 0.999f32, 0.001f32, &size, 1e-8f32, 1.0f32,
            ]);
            for i in 0..count {
                let (w, m, v) = (before.0[i], before.1[i], before.2[i]);
                let expected = if stopped == 1 { (w, m, v) } else {
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
    let Some(emulator) = Emulator::new() else { return };
    for (at, what) in [(None, 0.0), (Some(0), f32::NAN), (Some(700), f32::INFINITY), (Some(1002), f32::NEG_INFINITY)] {
        let mut values = numbers(1003, 5);
        if let Some(at) = at {
            values[at] = what;
            values[1002] = f32::NAN;
        }
        let mut found = u64::MAX;
        emulator.launch("first_not_finite", [2, 1, 1], [96, 1, 1], false, arguments![
            values.as_ptr(), 1003u64, &raw mut found,
        ]);
        assert_eq!(found, at.map_or(u64::MAX, |at| at as u64));
    }
}

#[test]
fn softmax_is_that_of_the_reference() {
    let Some(emulator) = Emulator::new() else { return };
    for (rows, classes) in [(1usize, 1usize), (3, 5), (40, 32), (7, 87), (9, 101)] {
        let logits = numbers(rows * classes, 6);
        let targets: Vec<u8> = (0..rows).map(|row| (row * 7 % classes) as u8).collect();
        let (mut found, mut losses, mut total) = (logits.clone(), vec![0.0f64; rows], 0.25f64);
        emulator.launch("softmax_cross_entropy", [2, 1, 1], [64, 1, 1], false, arguments![
            targets.as_ptr(), found.as_mut_ptr(), losses.as_mut_ptr(), rows as u32, classes as u32,
        ]);
        emulator.launch("add_sum", [1, 1, 1], [64, 1, 1], false, arguments![
            losses.as_ptr(), rows as u64, 1.0 / rows as f64, &raw mut total,
        ]);
        let wide: Vec<f64> = logits.iter().map(|&y| f64::from(y)).collect();
        let (loss, gradient) = reference::softmax_cross_entropy(&targets, &wide);
        assert!((total - 0.25 - loss).abs() < 1e-6 * loss.max(1.0), "{total} and {loss}");
        for (a, b) in found.iter().zip(gradient) {
            assert!((f64::from(*a) - b).abs() < 1e-6, "{a} and {b}");
        }
    }
}
