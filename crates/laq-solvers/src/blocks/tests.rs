//! Blocks, compared with every assignment, and with every scale of a grid.

use laq_simd::Isa;
use laq_test_support::Random;

use super::*;

/// IQ4_NL's table.
const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

fn codebooks() -> Vec<Codebook> {
    let integers = |low, high| Codebook::integers(low, high).expect("a codebook");
    let values = |values: &[f32]| Codebook::table(values.to_vec()).expect("a codebook");
    vec![
        values(&[-1.0, 1.0]),
        integers(-1, 1),
        integers(-1, 2),
        integers(-8, 7),
        integers(-7, 7),
        values(&IQ4_NL),
        Codebook::e2m1(),
        // Without zero, and on one side of it.
        values(&[-3.0, -1.0, 1.0, 3.0]),
        integers(1, 4),
        values(&[-0.5, 0.25, 2.0]),
        values(&[-65_536.0, -300.0, 1e-30, 20_000.0]),
    ]
}

const GRIDS: [ScaleGrid; 5] = [
    ScaleGrid::F32,
    ScaleGrid::F16,
    ScaleGrid::Bf16,
    ScaleGrid::E4m3,
    ScaleGrid::E8m0,
];

/// Weights and curvature of many kinds.
fn block(random: &mut Random, length: usize) -> (Vec<f32>, Option<Vec<f32>>) {
    let kind = (random.uniform() * 6.0) as u32;
    let size = 10f64.powf(4.0 * random.uniform() - 3.0);
    let mut weight = || {
        let normal = random.normal();
        let value = match kind {
            0 => normal,
            1 => normal.powi(3),
            2 if random.uniform() < 0.5 => 0.0,
            2 => normal,
            // Ties.
            3 => (4.0 * normal).round() / 4.0,
            4 => normal.abs(),
            _ => 1.0 + 0.001 * normal,
        };
        (size * value) as f32
    };
    let weights: Vec<f32> = (0..length).map(|_| weight()).collect();
    let kind = (random.uniform() * 4.0) as u32;
    let mut curvature = || match kind {
        1 => random.uniform(),
        2 => (3.0 * random.normal()).exp(),
        _ if random.uniform() < 0.3 => 0.0,
        _ => random.uniform(),
    };
    let mut weights = weights;
    let mut curvature: Option<Vec<f32>> =
        (kind > 0).then(|| (0..length).map(|_| curvature() as f32).collect());
    // A weight that counts for nothing, and one that counts for all.
    if let Some(curvature) = curvature.as_mut().filter(|_| random.uniform() < 0.1) {
        let places = [0, 1].map(|_| (random.uniform() * length as f64) as usize);
        (weights[places[0]], curvature[places[0]]) = (3e38, 0.0);
        if places[1] != places[0] {
            (weights[places[1]], curvature[places[1]]) = (0.0, 1e20);
        }
    }
    (weights, curvature)
}

/// The values of both signs of the scale.
fn signs(format: &BlockFormat) -> Vec<Vec<f64>> {
    let values: Vec<f64> = format
        .codebook()
        .values()
        .iter()
        .map(|v| f64::from(*v))
        .collect();
    let negated = values.iter().rev().map(|v| -v).collect();
    match format.grid().is_signed() {
        true => vec![values, negated],
        false => vec![values],
    }
}

/// The error of the nearest values at a scale.
fn error_at(scale: f64, values: &[f64], weights: &[f32], curvature: &[f64]) -> f64 {
    let error = |(w, d): (&f32, &f64)| {
        let rest = |v: &f64| (f64::from(*w) - scale * v).powi(2);
        d * values.iter().map(rest).fold(f64::INFINITY, f64::min)
    };
    0.5 * weights.iter().zip(curvature).map(error).sum::<f64>()
}

/// The least error, from the scales of the grid next to the best one of each assignment.
fn by_assignments(format: &BlockFormat, weights: &[f32], curvature: &[f64]) -> f64 {
    let grid = format.grid();
    let mut least = f64::INFINITY;
    for values in signs(format) {
        let middles: Vec<f64> = values
            .windows(2)
            .map(|pair| 0.5 * (pair[0] + pair[1]))
            .collect();
        // At a scale far above all others the values of both signs are as near as f64 can tell.
        let counted = weights.iter().zip(curvature).filter(|(_, d)| **d > 0.0);
        let passages = counted.flat_map(|(w, _)| middles.iter().map(move |m| f64::from(*w) / m));
        let mut passages: Vec<f64> = passages.filter(|s| *s > 0.0 && s.is_finite()).collect();
        passages.sort_by(f64::total_cmp);
        passages.dedup();
        // A scale in each interval between passages, and one on each side of all.
        let mut inside: Vec<f64> = passages
            .windows(2)
            .map(|pair| 0.5 * (pair[0] + pair[1]))
            .collect();
        let ends = [
            passages.first().map_or(1.0, |s| 0.5 * s),
            passages.last().map_or(1.0, |s| 2.0 * s),
        ];
        inside.extend(ends);
        inside.extend(&passages);
        least = least.min(error_at(
            grid.smallest().into(),
            &values,
            weights,
            curvature,
        ));
        for scale in inside {
            let (mut product, mut square) = (0.0, 0.0);
            for (w, d) in weights.iter().zip(curvature) {
                let w = f64::from(*w);
                let rest = |v: &&f64| (w - scale * **v).abs();
                let value = values
                    .iter()
                    .min_by(|a, b| rest(a).total_cmp(&rest(b)))
                    .expect("values");
                product += d * w * value;
                square += d * value * value;
            }
            if product > 0.0 && square > 0.0 {
                for scale in grid.neighbours(product / square, f64::from(f32::MAX) / 127.0) {
                    least = least.min(error_at(scale.into(), &values, weights, curvature));
                }
            }
        }
    }
    least
}

/// Solves one block; checks that the error returned is that of the outputs.
fn solve(format: &BlockFormat, weights: &[f32], curvature: Option<&[f32]>) -> (Vec<u8>, f32, f64) {
    let problem = Problem::new(weights, curvature).expect("a problem");
    let (mut codes, mut scales) = (vec![0; weights.len()], [0.0]);
    let error =
        solve_blocks(format, problem, weights.len(), &mut codes, &mut scales).expect("solved");
    let values = format.codebook().values();
    let of_outputs = codes
        .iter()
        .zip(weights)
        .enumerate()
        .map(|(index, (code, w))| {
            let decoded = f64::from(scales[0]) * f64::from(values[usize::from(*code)]);
            let d = curvature.map_or(1.0, |d| f64::from(d[index]));
            0.5 * d * (f64::from(*w) - decoded).powi(2)
        });
    let of_outputs: f64 = of_outputs.sum();
    assert!(
        (error - of_outputs).abs() <= 1e-12 * of_outputs,
        "{error} {of_outputs}"
    );
    (codes, scales[0], error)
}

fn compare(
    cases: u64,
    length: usize,
    grids: &[ScaleGrid],
    reference: impl Fn(&BlockFormat, &[f32], &[f64]) -> f64,
) {
    for (index, codebook) in codebooks().into_iter().enumerate() {
        for case in 0..cases {
            let mut random = Random(1_000_000 * index as u64 + case);
            let length = 1 + (random.uniform() * length as f64) as usize;
            let grid = grids[case as usize % grids.len()];
            let format = BlockFormat::new(codebook.clone(), grid, length).expect("a format");
            let (weights, curvature) = block(&mut random, length);
            let (_, scale, error) = solve(&format, &weights, curvature.as_deref());
            let d = match &curvature {
                Some(d) if d.iter().any(|d| *d > 0.0) => d.iter().map(|d| f64::from(*d)).collect(),
                Some(_) => continue,
                None => vec![1.0; length],
            };
            let least = reference(&format, &weights, &d);
            let all_zeros = error_at(0.0, &[0.0], &weights, &d);
            assert!(
                (error - least).abs() <= 1e-12 * all_zeros + 1e-9 * least,
                "{codebook:?} {grid:?}, case {case}: scale {scale}, error {error}, least {least}\n{weights:?}\n{d:?}"
            );
            // From any start as from none.
            let start = (f64::from(scale) * (0.5 * random.normal()).exp()) as f32;
            let start = if case % 2 == 0 { -start } else { start };
            let mut search = Search::new(format.codebook(), format.grid());
            let (_, other) = search.solve(&weights, curvature.as_deref(), Some(start), |_, _| {});
            assert!(
                (error - other).abs() <= 1e-12 * all_zeros + 1e-9 * least,
                "{codebook:?} {grid:?}, case {case}, from {start}: error {other}, least {least}"
            );
        }
    }
}

#[test]
fn blocks_are_solved_as_by_comparing_all_assignments() {
    compare(2000, 24, &GRIDS, by_assignments);
}

/// Beside a tiny weight of huge curvature the terms of all other weights are subnormal in f32.
#[test]
fn sums_that_underflow_exclude_no_scale() {
    for (index, codebook) in codebooks().into_iter().enumerate() {
        for case in 0..100 {
            let mut random = Random(100 * index as u64 + case);
            let grid = [ScaleGrid::F32, ScaleGrid::Bf16][case as usize % 2];
            let mut weights = vec![1e-20];
            let mut curvature = vec![1e20];
            for _ in 0..8 {
                weights.push((1e25 * random.normal()) as f32);
                curvature.push((1e-25 * (0.1 + random.uniform())) as f32);
            }
            let format = BlockFormat::new(codebook.clone(), grid, 9).expect("a format");
            let (_, scale, error) = solve(&format, &weights, Some(&curvature));
            let d: Vec<f64> = curvature.iter().map(|d| f64::from(*d)).collect();
            let least = by_assignments(&format, &weights, &d);
            assert!(
                error <= least * (1.0 + 1e-9),
                "{codebook:?} {grid:?}, case {case}: scale {scale}, error {error}, least {least}"
            );
        }
    }
}

#[test]
fn blocks_are_solved_as_by_comparing_all_scales() {
    let all = |format: &BlockFormat, weights: &[f32], curvature: &[f64]| {
        let scales: Vec<f64> = match format.grid() {
            ScaleGrid::E4m3 => (0..0x7f)
                .map(|bits| {
                    let (exponent, fraction) = (bits >> 3, f64::from(bits & 7));
                    match exponent {
                        0 => fraction * 2f64.powi(-9),
                        _ => (8.0 + fraction) * 2f64.powi(exponent - 10),
                    }
                })
                .collect(),
            _ => (-127..=127).map(|exponent| 2f64.powi(exponent)).collect(),
        };
        let errors = signs(format).into_iter().flat_map(|values| {
            let error = |scale: &f64| error_at(*scale, &values, weights, curvature);
            scales.iter().map(error).collect::<Vec<_>>()
        });
        errors.fold(f64::INFINITY, f64::min)
    };
    compare(300, 40, &[ScaleGrid::E4m3, ScaleGrid::E8m0], all);
}

#[test]
fn scales_in_f16_are_the_best_of_all() {
    let half = |bits: i32| match bits >> 10 {
        0 => f64::from(bits) * 2f64.powi(-24),
        exponent => f64::from(1024 + (bits & 1023)) * 2f64.powi(exponent - 25),
    };
    let all = |format: &BlockFormat, weights: &[f32], curvature: &[f64]| {
        let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
        let mut least = f64::INFINITY;
        for values in signs(format) {
            for bits in 0..0x7c00 {
                // No best scale is above four times the largest weight over the smallest magnitude.
                if half(bits) > 16.0 * f64::from(largest) {
                    break;
                }
                least = least.min(error_at(half(bits), &values, weights, curvature));
            }
        }
        least
    };
    compare(4, 5, &[ScaleGrid::F16], all);
}

#[test]
fn rows_end_in_short_blocks_and_results_do_not_depend_on_threads() {
    let mut random = Random(5);
    let (rows, columns) = (7, 75);
    let weights: Vec<f32> = (0..rows * columns)
        .map(|_| random.normal() as f32)
        .collect();
    let curvature: Vec<f32> = (0..rows * columns)
        .map(|_| random.uniform() as f32)
        .collect();
    let codebook = Codebook::integers(-8, 7).expect("a codebook");
    let format = BlockFormat::new(codebook, ScaleGrid::F16, 32).expect("a format");
    let problem = Problem::new(&weights, Some(&curvature)).expect("a problem");
    let (mut codes, mut scales) = (vec![0; weights.len()], vec![0.0; rows * 3]);
    let error = solve_blocks(&format, problem, columns, &mut codes, &mut scales).expect("solved");
    let mut sum = 0.0;
    for row in 0..rows {
        let mut of_row = 0.0;
        for (block, start) in [0, 32, 64].into_iter().enumerate() {
            let range = row * columns + start..row * columns + columns.min(start + 32);
            let (one, scale, error) = solve(
                &format,
                &weights[range.clone()],
                Some(&curvature[range.clone()]),
            );
            assert_eq!((&codes[range], scales[3 * row + block]), (&one[..], scale));
            of_row += error;
        }
        sum += of_row;
    }
    assert_eq!(error, sum);
    for isa in Isa::available() {
        let mut search = Search::with_isa(format.codebook(), format.grid(), isa);
        let (mut one, first) = ([0; 32], &weights[..32]);
        let put = |index: usize, code| one[index] = code;
        let (scale, _) = search.solve(first, Some(&curvature[..32]), None, put);
        assert_eq!((&codes[..32], scales[0]), (&one[..], scale), "{isa}");
    }
}

#[test]
fn edge_cases_have_a_solution() {
    for codebook in codebooks() {
        for grid in GRIDS {
            let format = BlockFormat::new(codebook.clone(), grid, 4).expect("a format");
            let (codes, scale, _) = solve(&format, &[0.0; 4], None);
            assert_eq!(scale, grid.smallest(), "{codebook:?} {grid:?}");
            assert!(codes.iter().all(|code| *code == codes[0]));
            // Without curvature as with a constant one.
            let weights = [0.5, -0.25, 0.125, 1.0];
            let (codes, scale, error) = solve(&format, &weights, Some(&[0.0; 4]));
            let (plain, of_plain, _) = solve(&format, &weights, None);
            assert_eq!((codes, scale, error), (plain, of_plain, 0.0));
            // The largest and the smallest numbers.
            for size in [f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1)] {
                let (codes, scale, error) = solve(&format, &[size, -size, 0.0, size], None);
                let values = format.codebook().values();
                assert!(scale.is_finite() && error.is_finite());
                assert!(
                    codes
                        .iter()
                        .all(|code| (scale * values[usize::from(*code)]).is_finite())
                );
            }
        }
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let codebook = Codebook::integers(-1, 1).expect("a codebook");
    assert_eq!(
        BlockFormat::new(codebook.clone(), ScaleGrid::F16, 0),
        Err(SolveError::BlockLength { length: 0 })
    );
    let format = BlockFormat::new(codebook, ScaleGrid::F16, 2).expect("a format");
    let problem = Problem::new(&[1.0; 6], None).expect("a problem");
    let solve = |columns, codes: &mut [u8], scales: &mut [f32]| {
        solve_blocks(&format, problem, columns, codes, scales)
    };
    for columns in [0, 4] {
        let expected = SolveError::Columns {
            weights: 6,
            columns,
        };
        assert_eq!(solve(columns, &mut [0; 6], &mut [0.0; 4]), Err(expected));
    }
    let (expected, found) = (6, 5);
    let codes = SolveError::BlockOutput {
        what: "codes",
        expected,
        found,
    };
    assert_eq!(solve(3, &mut [0; 5], &mut [0.0; 4]), Err(codes));
    let (expected, found) = (4, 3);
    let scales = SolveError::BlockOutput {
        what: "scales",
        expected,
        found,
    };
    assert_eq!(solve(3, &mut [0; 6], &mut [0.0; 3]), Err(scales));
    let values = |values: &[f32]| {
        matches!(
            Codebook::table(values.to_vec()),
            Err(SolveError::Values { .. })
        )
    };
    assert!(
        values(&[])
            && values(&[1.0])
            && values(&[1.0, 1.0])
            && values(&[0.0, f32::NAN])
            && values(&[0.0; 300])
            && values(&[-1e5, 1.0])
            && values(&[0.0, 1e-5])
    );
}
