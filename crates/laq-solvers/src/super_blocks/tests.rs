//! Super-blocks, compared with plain rounding.

use laq_test_support::Random;
use proptest::prelude::*;

use super::*;

mod optimum;
mod tensor_scale;

const NAMES: [&str; 4] = ["q2_k", "q3_k", "q4_k", "iq4_xs"];

fn named(name: &str) -> SuperBlockFormat {
    SuperBlockFormat::named(name).expect("a format")
}

/// What is stored of a matrix.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    codes: Vec<u8>,
    factors: Vec<[f32; 2]>,
    integers: Vec<[i8; 2]>,
    error: f64,
}

fn values_of(format: &SuperBlockFormat) -> Vec<f64> {
    let values = format.codebook().values();
    values.into_iter().map(f64::from).collect()
}

/// `½ Σ κ (w − ŵ)²`
fn error_of(weights: &[f32], curvature: Option<&[f32]>, decoded: &[f64]) -> f64 {
    let error = |(index, w): (usize, &f32)| {
        let d = curvature.map_or(1.0, |d| f64::from(d[index]));
        0.5 * d * (f64::from(*w) - decoded[index]).powi(2)
    };
    weights.iter().enumerate().map(error).sum()
}

/// Solves; checks that what is stored has the error returned and can be stored.
fn solve(
    format: &SuperBlockFormat,
    weights: &[f32],
    curvature: Option<&[f32]>,
    columns: usize,
) -> Stored {
    solve_on(Isa::selected(), format, weights, curvature, columns)
}

fn solve_on(
    isa: Isa,
    format: &SuperBlockFormat,
    weights: &[f32],
    curvature: Option<&[f32]>,
    columns: usize,
) -> Stored {
    let problem = Problem::new(weights, curvature).expect("a problem");
    let rows = weights.len() / columns;
    let [blocks, super_blocks] = format.counts(columns);
    let mut stored = Stored {
        codes: vec![0; weights.len()],
        factors: vec![[0.0; 2]; rows * super_blocks],
        integers: vec![[0; 2]; rows * blocks],
        error: 0.0,
    };
    let outputs = (
        &mut stored.codes[..],
        &mut stored.factors[..],
        &mut stored.integers[..],
    );
    stored.error = solve_with_isa(isa, format, problem, columns, outputs).expect("solved");
    let [low, high] = format.integers();
    for [s, t] in &stored.integers {
        let last = if format.has_minima() { high } else { 0 };
        assert!(
            (low..=high).contains(s) && (0..=last).contains(t),
            "{s} {t}"
        );
    }
    for factor in stored.factors.as_flattened() {
        let nearest = nearest(format.grid, f64::from(factor.abs()));
        assert!(
            factor.is_finite() && f64::from(factor.abs()) == nearest,
            "{factor}"
        );
    }
    let decoded = decode(format, &stored, columns);
    let error = error_of(weights, curvature, &decoded);
    assert!(
        (error - stored.error).abs() <= 1e-9 * error,
        "{error}, returned {}",
        stored.error
    );
    stored
}

/// ŵ in f64; checks that `value` rounds it.
fn decode(format: &SuperBlockFormat, stored: &Stored, columns: usize) -> Vec<f64> {
    let [blocks, super_blocks] = format.counts(columns);
    let values = values_of(format);
    let decoded = stored.codes.iter().enumerate().map(|(index, code)| {
        let (row, column) = (index / columns, index % columns);
        let [d, m] = stored.factors[row * super_blocks + column / format.length()];
        let [s, t] = stored.integers[row * blocks + column / format.block_length()];
        let scale = f64::from(d) * f64::from(s);
        let exact = scale * values[usize::from(*code)] - f64::from(m) * f64::from(t);
        assert_eq!(format.value([d, m], [s, t], *code), exact as f32);
        exact
    });
    decoded.collect()
}

/// Weights and curvature of many kinds.
fn problem(random: &mut Random, length: usize) -> (Vec<f32>, Option<Vec<f32>>) {
    let kind = (random.uniform() * 6.0) as u32;
    let size = 10f64.powf(3.0 * random.uniform() - 3.0);
    let mut weight = || {
        let normal = random.normal();
        let value = match kind {
            0 => normal,
            1 => normal.powi(3),
            2 if random.uniform() < 0.5 => 0.0,
            2 => normal,
            3 => normal.abs(),
            4 => -normal.abs(),
            _ => 1.0 + 0.1 * normal,
        };
        (size * value) as f32
    };
    let weights = (0..length).map(|_| weight()).collect();
    let kind = (random.uniform() * 3.0) as u32;
    let mut curvature = || match kind {
        1 => random.uniform(),
        _ => (2.0 * random.normal()).exp(),
    };
    let curvature = (kind > 0).then(|| (0..length).map(|_| curvature() as f32).collect());
    (weights, curvature)
}

/// The nearest number of f16.
fn half(number: f64) -> f64 {
    let exponent = number.abs().log2().floor().max(-14.0);
    let step = 2f64.powi(exponent as i32 - 10);
    (number / step).round() * step
}

/// The error of the usual rounding: blocks reach their extreme weights, and the largest scale and minimum the
/// largest integer.
fn error_by_extremes(format: &SuperBlockFormat, weights: &[f32], curvature: Option<&[f32]>) -> f64 {
    let values = values_of(format);
    let [low, high] = format.integers().map(f64::from);
    let furthest = |a: f64, b: f64| if b.abs() > a.abs() { b } else { a };
    let mut decoded = Vec::new();
    for of_super_block in weights.chunks(format.length()) {
        let fit = |block: &[f32]| {
            let block = block.iter().map(|w| f64::from(*w));
            match format.has_minima() {
                false => [block.fold(0.0, furthest) / values[0], 0.0],
                true => {
                    let smallest = block.clone().fold(0.0, f64::min);
                    let range = block.fold(0.0, f64::max) - smallest;
                    [range / values[values.len() - 1], -smallest]
                }
            }
        };
        let blocks = of_super_block.chunks(format.block_length());
        let fits: Vec<[f64; 2]> = blocks.clone().map(fit).collect();
        let largest = [0, 1].map(|which| fits.iter().map(|fit| fit[which]).fold(0.0, furthest));
        let [d, m] = [
            half(largest[0] / furthest(low, high)),
            half(largest[1] / high),
        ];
        for (block, [scale, minimum]) in blocks.zip(fits) {
            let integer = |number: f64, of: f64| match of == 0.0 {
                true => 0.0,
                false => (number / of).round().clamp(low, high),
            };
            let (scale, offset) = (d * integer(scale, d), m * integer(minimum, m));
            decoded.extend(block.iter().map(|w| {
                let rest = |v: &&f64| (f64::from(*w) - (scale * **v - offset)).abs();
                let nearest = values.iter().min_by(|a, b| rest(a).total_cmp(&rest(b)));
                scale * nearest.expect("values") - offset
            }));
        }
    }
    error_of(weights, curvature, &decoded)
}

#[test]
fn errors_are_below_those_of_rounding_to_the_extremes() {
    for name in NAMES {
        let format = named(name);
        for case in 0..60 {
            let mut random = Random(case);
            let (weights, curvature) = problem(&mut random, 512);
            let curvature = curvature.as_deref();
            let stored = solve(&format, &weights, curvature, 512);
            let usual = error_by_extremes(&format, &weights, curvature);
            assert!(
                stored.error <= usual,
                "{name}, case {case}: {} {usual}",
                stored.error
            );
        }
    }
}

#[test]
fn weights_that_can_be_stored_are_found() {
    for name in NAMES {
        let format = named(name);
        let [low, high] = format.integers().map(f64::from);
        let values = values_of(&format);
        for case in 0..40 {
            let mut random = Random(case);
            let mut below = |count: f64| (random.uniform() * count).floor();
            let factor = |bits: f64| (1024.0 + bits) * 2f64.powi(-22);
            let (d, m) = (factor(below(1024.0)), factor(below(1024.0)));
            let mut weights = Vec::new();
            for block in 0..format.blocks {
                // One block has the largest integers, and all blocks both ends of the values.
                let s = match block {
                    0 if low < 0.0 => low,
                    0 => high,
                    _ => high - below(0.6 * high),
                };
                let t = if block == 0 {
                    high
                } else {
                    high - below(0.6 * high)
                };
                let offset = if format.has_minima() { m * t } else { 0.0 };
                for index in 0..format.block_length() {
                    let value = match index {
                        0 => values[0],
                        1 => values[values.len() - 1],
                        _ => values[below(values.len() as f64) as usize],
                    };
                    weights.push((d * s * value - offset) as f32);
                }
            }
            let stored = solve(&format, &weights, None, format.length());
            let energy: f64 = weights.iter().map(|w| f64::from(*w).powi(2)).sum();
            assert!(
                stored.error <= 1e-14 * energy,
                "{name}, case {case}: {}",
                stored.error
            );
        }
    }
}

#[test]
fn rows_end_in_short_super_blocks_and_results_do_not_depend_on_threads() {
    for name in NAMES {
        let format = named(name);
        let (rows, columns) = (3, 300);
        let mut random = Random(7);
        let weights: Vec<f32> = (0..rows * columns)
            .map(|_| random.normal() as f32)
            .collect();
        let curvature: Vec<f32> = weights.iter().map(|_| random.uniform() as f32).collect();
        let all = solve(&format, &weights, Some(&curvature), columns);
        let [blocks, super_blocks] = format.counts(columns);
        for row in 0..rows {
            for (index, columns_of) in [0..256, 256..300].into_iter().enumerate() {
                let range = row * columns + columns_of.start..row * columns + columns_of.end;
                let (w, d) = (&weights[range.clone()], &curvature[range.clone()]);
                for isa in Isa::available() {
                    let one = solve_on(isa, &format, w, Some(d), w.len());
                    assert_eq!(one.codes, all.codes[range.clone()], "{name}, {isa}");
                    assert_eq!(
                        one.factors[..],
                        all.factors[row * super_blocks + index..][..1]
                    );
                    let first = row * blocks + index * 256 / format.block_length();
                    assert_eq!(
                        one.integers[..],
                        all.integers[first..][..one.integers.len()]
                    );
                }
            }
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .expect("a pool");
        let others = pool.install(|| solve(&format, &weights, Some(&curvature), columns));
        assert_eq!(others, all, "{name}");
    }
}

#[test]
fn edge_cases_have_a_solution() {
    for name in NAMES {
        let format = named(name);
        let zeros = solve(&format, &[0.0; 256], None, 256);
        assert_eq!((zeros.factors[0], zeros.error), ([0.0; 2], 0.0), "{name}");
        let mut random = Random(3);
        let weights: Vec<f32> = (0..256).map(|_| random.normal() as f32).collect();
        // Without curvature as with a constant one.
        let flat = solve(&format, &weights, Some(&[0.0; 256]), 256);
        let plain = solve(&format, &weights, None, 256);
        assert!(plain.error > 0.0 && flat.error == 0.0);
        assert_eq!(
            (flat.codes, flat.factors),
            (plain.codes, plain.factors),
            "{name}"
        );
        // A block without curvature has no part in the factors, yet is solved for them.
        let mut weights = weights;
        weights[..32].iter_mut().for_each(|w| *w *= 3.0);
        let curvature: Vec<f32> = (0..256)
            .map(|index| if index < 32 { 0.0 } else { 1.0 })
            .collect();
        let stored = solve(&format, &weights, Some(&curvature), 256);
        let others = solve(&format, &weights[32..], None, 224);
        assert_eq!(stored.factors, others.factors, "{name}");
        let decoded = decode(&format, &stored, 256);
        let error = error_of(&weights[..32], None, &decoded[..32]);
        assert!(
            error < 0.5 * error_of(&weights[..32], None, &[0.0; 32]),
            "{name}: {error}"
        );
    }
}

#[test]
fn weights_of_one_sign_have_offsets_of_theirs() {
    let mut random = Random(3);
    for name in ["q2_k", "q4_k"] {
        for sign in [1.0, -1.0] {
            let weight = |_| (sign * (1.0 + 0.1 * random.uniform())) as f32;
            let weights: Vec<f32> = (0..256).map(weight).collect();
            let stored = solve(&named(name), &weights, None, 256);
            let zeros = error_of(&weights, None, &[0.0; 256]);
            assert!(
                stored.error < 2e-4 * zeros,
                "{name}: {} {zeros}",
                stored.error
            );
        }
    }
}

/// Weights of any size.
fn extreme() -> impl Strategy<Value = f32> {
    use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    prop_oneof![
        2 => -1f32..1.0,
        1 => Just(0.0),
        1 => prop::sample::select(vec![1e30f32, -1e30, f32::MAX, -f32::MAX, 1e-7, -1e-40]),
        1 => POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_weights_have_a_solution(
        weights in prop::collection::vec(extreme(), 1..300),
        curvature in prop::collection::vec(
            prop_oneof![2 => 0f32..1.0, 1 => Just(0.0), 1 => Just(1e30), 1 => Just(1e-40)],
            300,
        ),
        is_negative: bool,
    ) {
        let mut weights = weights;
        if is_negative {
            weights.iter_mut().for_each(|w| *w = -w.abs());
        }
        for name in NAMES {
            for curvature in [None, Some(&curvature[..weights.len()])] {
                let stored = solve(&named(name), &weights, curvature, weights.len());
                let zeros = error_of(&weights, curvature, &vec![0.0; weights.len()]);
                prop_assert!(stored.error <= zeros * (1.0 + 1e-9), "{} {}", stored.error, zeros);
            }
        }
    }
}

/// Beside the least offset of f16 the weight vanishes in a sum; `solve` checks the error of what is stored.
#[test]
fn a_tiny_weight_beside_an_offset_has_its_error() {
    let weights = [0.0, 0.0, 0.0, 0.0, -1e-40];
    for name in NAMES {
        let stored = solve(&named(name), &weights, None, weights.len());
        assert!(stored.error > 0.0, "{name}");
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let format = named("q3_k");
    let problem = Problem::new(&[1.0; 600], None).expect("a problem");
    let solve = |columns, codes, factors, integers| {
        let (mut codes, mut factors) = (vec![0; codes], vec![[0.0; 2]; factors]);
        let mut integers = vec![[0; 2]; integers];
        solve_super_blocks(
            &format,
            problem,
            columns,
            &mut codes,
            &mut factors,
            &mut integers,
        )
    };
    let output = |what, expected, found| {
        Err(SolveError::SuperBlockOutput {
            what,
            expected,
            found,
        })
    };
    let (weights, columns) = (600, 7);
    assert_eq!(
        solve(7, 600, 2, 38),
        Err(SolveError::Columns { weights, columns })
    );
    assert_eq!(solve(300, 599, 4, 38), output("codes", 600, 599));
    assert_eq!(solve(300, 600, 5, 38), output("pairs of factors", 4, 5));
    assert_eq!(solve(300, 600, 4, 37), output("pairs of integers", 38, 37));
    assert!(solve(300, 600, 4, 38).is_ok());
    assert_eq!(
        SuperBlockFormat::named("Q4_K"),
        Some(SuperBlockFormat::q4_k())
    );
    assert_eq!(SuperBlockFormat::named("q4_0"), None);
}
