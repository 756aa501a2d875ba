//! Edge cases, one per test.

use crate::common::*;
use laq_solvers::{
    Codebook, Problem, Scale, SolveError, Solver, Workspace, alternating, exact_by_sorting,
};

/// Calls `check` with the solution of every method, and of both solvers with every codebook.
fn each_solution(
    weights: &[f32],
    curvature: Option<&[f32]>,
    mut check: impl FnMut(String, &Codebook, &[i8], Scale, f64),
) {
    let problem = Problem::new(weights, curvature).unwrap();
    let mut workspace = Workspace::default();
    let mut levels = vec![0; weights.len()];
    for method in quantizing() {
        let quantizer = method.quantizer().unwrap();
        let solution = quantizer
            .solve(problem, None, &mut levels, &mut workspace)
            .unwrap();
        let codebook = quantizer.codebook();
        check(
            method.id(),
            codebook,
            &levels,
            solution.scale,
            solution.weighted_error,
        );
    }
    for codebook in all_codebooks() {
        let exact = exact_by_sorting(problem, &codebook, &mut levels, &mut workspace).unwrap();
        let name = format!("exact {codebook:?}");
        check(name, &codebook, &levels, exact.scale, exact.weighted_error);
        let alternating = alternating(problem, &codebook, false, &mut levels).unwrap();
        let name = format!("alternating {codebook:?}");
        check(
            name,
            &codebook,
            &levels,
            alternating.scale,
            alternating.weighted_error,
        );
    }
}

fn has_zero(codebook: &Codebook) -> bool {
    codebook.values().contains(&0.0)
}

/// Whether the scale is always 1.
fn is_fixed(name: &str) -> bool {
    name == "binary-connect" || name.starts_with("dorefa")
}

#[test]
fn no_elements() {
    each_solution(&[], None, |name, _, _, scale, error| {
        assert_eq!(error, 0.0, "{name}");
        let expected = if is_fixed(&name) { 1.0 } else { 0.0 };
        assert_eq!(scale.pair(), [expected; 2], "{name}");
    });
    each_solution(&[], Some(&[]), |name, _, _, _, error| {
        assert_eq!(error, 0.0, "{name}")
    });
}

#[test]
fn one_element() {
    for w in [0.3_f32, -0.3, 1e-3, -7.0] {
        each_solution(
            &[w],
            Some(&[0.5]),
            |name, codebook, levels, scale, error| {
                if !is_fixed(&name) && !name.starts_with("alternating Uniform") {
                    assert!(error <= 1e-12 * f64::from(w * w), "{name}: {error}");
                }
                let mut quantized = [0.0];
                codebook.decode(levels, scale, &mut quantized);
                assert!(quantized[0] * w > 0.0, "{name}: {w} to {quantized:?}");
            },
        );
    }
}

#[test]
fn zeros() {
    for zero in [0.0, -0.0] {
        each_solution(&[zero; 70], None, |name, codebook, levels, scale, error| {
            if is_fixed(&name) {
                assert!(error > 0.0, "{name} has no zero");
                return;
            }
            assert_eq!((scale.pair(), error), ([0.0; 2], 0.0), "{name}");
            let lowest = if has_zero(codebook) {
                0
            } else {
                codebook.levels().find(|&i| i >= 0).unwrap()
            };
            assert!(
                levels.iter().all(|&level| level == lowest),
                "{name}: {levels:?}"
            );
        });
    }
}

#[test]
fn zeros_among_others() {
    let weights = [0.0, 0.5, 0.0, -0.5, -0.0];
    each_solution(&weights, None, |name, codebook, levels, scale, error| {
        if has_zero(codebook) {
            assert_eq!((levels[0], levels[2], levels[4]), (0, 0, 0), "{name}");
            if !["ttq", "absmean"].contains(&&*name) || scale.pair() == [0.5; 2] {
                assert!(error < 1e-12, "{name}: {error}");
            }
        }
    });
}

/// All magnitudes are equal, so every order is sorted.
#[test]
fn ties() {
    let weights: Vec<f32> = (0..100)
        .map(|i| if i % 3 == 0 { -0.25 } else { 0.25 })
        .collect();
    let curvature: Vec<f32> = (0..100).map(|i| 1.0 + (i % 7) as f32).collect();
    each_solution(
        &weights,
        Some(&curvature),
        |name, codebook, levels, scale, error| {
            if is_fixed(&name) || name.starts_with("alternating Uniform") {
                return;
            }
            assert!(error < 1e-10, "{name}: {error}");
            let mut quantized = vec![0.0; 100];
            codebook.decode(levels, scale, &mut quantized);
            for (&w, &quantized) in weights.iter().zip(&quantized) {
                assert!((w - quantized).abs() < 1e-6, "{name}: {w} to {quantized}");
            }
        },
    );
}

/// Ties between breakpoints of different levels: 1 and 3 reach the midpoints 1/6 and 1/2 of the
/// 3-bit linear codebook at the same `α` = 6.
#[test]
fn ties_between_levels() {
    for count in 1..6 {
        let weights = [vec![1.0; count], vec![3.0; 2]].concat();
        let mut levels = vec![0; weights.len()];
        let codebook = Codebook::linear(3).unwrap();
        let problem = Problem::new(&weights, None).unwrap();
        let solution =
            exact_by_sorting(problem, &codebook, &mut levels, &mut Workspace::default()).unwrap();
        // 1 and 3 are the levels 1/3 and 1 times 3.
        assert_eq!(solution.scale, Scale::One(3.0));
        assert!(solution.weighted_error < 1e-12);
    }
}

#[test]
fn a_weight_half_way_takes_the_level_nearer_to_zero() {
    // Scale 1 is the best for ±1; d = 0 excludes ±0.5 from the sums.
    let (levels, solution) = solve(
        "lat-e",
        &[1.0, 0.5, -0.5, -1.0],
        Some(&[1.0, 0.0, 0.0, 1.0]),
    );
    assert_eq!(solution.scale, Scale::One(1.0));
    assert_eq!(levels, [1, 0, 0, -1]);
}

#[test]
fn all_positive_and_all_negative() {
    let positive: Vec<f32> = bell(90, 21).iter().map(|w| w.abs() + 0.01).collect();
    for (weights, sign) in [
        (positive.clone(), 1),
        (positive.iter().map(|w| -w).collect(), -1),
    ] {
        each_solution(&weights, None, |name, codebook, levels, scale, _| {
            assert!(
                levels
                    .iter()
                    .all(|&i| codebook.value(i) * sign as f32 >= 0.0),
                "{name}"
            );
            if name.starts_with("lat2") {
                let [positive, negative] = scale.pair();
                let (used, unused) = if sign > 0 {
                    (positive, negative)
                } else {
                    (negative, positive)
                };
                assert!(used > 0.0 && unused == 0.0, "{name}: {scale:?}");
            }
        });
    }
}

#[test]
fn denormals() {
    let smallest = f32::from_bits(1);
    let weights = [
        smallest,
        2.0 * smallest,
        -1000.0 * smallest,
        0.0,
        990.0 * smallest,
    ];
    each_solution(
        &weights,
        Some(&[1.0; 5]),
        |name, codebook, levels, scale, error| {
            assert!(error.is_finite(), "{name}");
            if has_zero(codebook) && !["ttq", "absmean"].contains(&&*name) {
                let zeros = error_of_zeros(&weights, None);
                assert!(
                    error < 0.01 * zeros,
                    "{name}: {error} of {zeros}, {levels:?} {scale:?}"
                );
            }
        },
    );
    // Denormal curvature is not zero.
    let (levels, solution) = solve("lat-e", &[1.0, 3.0], Some(&[smallest, 4.0 * smallest]));
    assert_eq!((levels, solution.scale), (vec![0, 1], Scale::One(3.0)));
}

/// A scale above the largest weights would not fit an f32.
#[test]
fn the_largest_weights() {
    let weights = [f32::MAX, -f32::MAX, 0.6 * f32::MAX, 0.4 * f32::MAX];
    each_solution(
        &weights,
        Some(&[f32::MAX; 4]),
        |name, _, _, scale, error| {
            assert!(error.is_finite(), "{name}: {error}");
            assert!(
                scale.pair().iter().all(|scale| scale.is_finite()),
                "{name}: {scale:?}"
            );
        },
    );
}

/// The best scale, 4.9e38 with levels 1/3 and 1, is above every f32. The largest f32 is returned if
/// it is better than every assignment whose best scale fits.
#[test]
fn a_best_scale_that_does_not_fit() {
    let weights = [-1.4332734e38, -3.368913e38];
    let codebook = Codebook::linear(3).unwrap();
    let mut levels = [0; 2];
    let problem = Problem::new(&weights, None).unwrap();
    let exact =
        exact_by_sorting(problem, &codebook, &mut levels, &mut Workspace::default()).unwrap();
    assert_eq!((exact.scale, levels), (Scale::One(f32::MAX), [-1, -3]));
    let alternating = alternating(problem, &codebook, false, &mut levels).unwrap();
    assert!(exact.weighted_error <= alternating.weighted_error * (1.0 + 1e-12));
}

/// Curvature over twenty decades.
#[test]
fn huge_spread_of_curvature() {
    let weights = bell(300, 31);
    let curvature: Vec<f32> = (0..300)
        .map(|i| 10_f32.powf(-20.0 * i as f32 / 299.0))
        .collect();
    let (levels, solution) = solve("lat-e", &weights, Some(&curvature));
    assert_ne!(levels[0], 0);
    let Scale::One(scale) = solution.scale else {
        panic!("two scales")
    };
    for step in 1..4000 {
        let alpha = scale * step as f32 / 2000.0;
        let nearest = |&w: &f32| {
            if w.abs() > alpha / 2.0 {
                w.signum() as i8
            } else {
                0
            }
        };
        let levels: Vec<i8> = weights.iter().map(nearest).collect();
        let error = error_of(
            &weights,
            Some(&curvature),
            &Codebook::Ternary,
            Scale::One(alpha),
            &levels,
        );
        assert!(solution.weighted_error <= error * (1.0 + 1e-12), "{alpha}");
    }
}

/// The solution of the unweighted problem, with error zero.
#[test]
fn zero_curvature() {
    let weights = bell(200, 41);
    for method in quantizing() {
        let (levels, solution) = solve(&method.id(), &weights, Some(&[0.0; 200]));
        let (plain_levels, plain) = solve(&method.id(), &weights, None);
        assert_eq!(
            (levels, solution.scale),
            (plain_levels, plain.scale),
            "{method}"
        );
        assert_eq!(solution.weighted_error, 0.0, "{method}");
    }
}

/// Curvature on zero weights alone says nothing about the others: with zero among the levels the solution is that of the
/// unweighted problem, also where buckets are used. Without zero the least scale is the best.
#[test]
fn curvature_of_zero_weights_alone() {
    for count in [200, 20_000] {
        let mut weights = bell(count, 44);
        let is_zero = |index: usize| index.is_multiple_of(7);
        for index in (0..count).filter(|index| is_zero(*index)) {
            weights[index] = 0.0;
        }
        let curvature: Vec<f32> = (0..count)
            .map(|i| f32::from(u8::from(is_zero(i))))
            .collect();
        for method in quantizing() {
            let quantizer = method.quantizer().expect("it quantizes");
            let longest = if matches!(quantizer.solver(), Solver::ExactOnGrid { .. }) {
                200
            } else {
                count
            };
            let (w, d) = (&weights[..longest], &curvature[..longest]);
            let (levels, solution) = solve(&method.id(), w, Some(d));
            if quantizer.codebook().values().contains(&0.0) {
                let (plain_levels, plain) = solve(&method.id(), w, None);
                assert_eq!(levels, plain_levels, "{method}");
                assert_eq!(solution.scale, plain.scale, "{method}");
                assert_eq!(solution.weighted_error, 0.0, "{method}");
            } else if method.is_exact() {
                assert!(solution.weighted_error < 1e-6 * w.len() as f64, "{method}");
            }
        }
    }
}

/// One sign has zero curvature and is solved without; the other is unaffected.
#[test]
fn zero_curvature_on_one_side() {
    let weights = bell(200, 42);
    let curvature: Vec<f32> = weights
        .iter()
        .map(|&w| if w < 0.0 { 0.0 } else { 0.5 + w })
        .collect();
    for id in ["lat2-e", "lat2-a"] {
        let [positive, negative] = solve(id, &weights, Some(&curvature)).1.scale.pair();
        let unweighted = solve(id, &weights, None).1.scale.pair();
        assert_eq!(negative, unweighted[1], "{id}");
        assert_ne!(positive, unweighted[0], "{id}");
    }
}

#[test]
fn weights_that_are_not_finite() {
    for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for index in [0, 63, 64, 99] {
            let mut weights = [0.5; 100];
            weights[index] = value;
            let error = Problem::new(&weights, None).unwrap_err();
            assert!(
                matches!(error, SolveError::Weight { index: at, .. } if at == index),
                "{error}"
            );
        }
    }
}

#[test]
fn invalid_curvatures() {
    for value in [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -1e-3,
        -f32::from_bits(1),
    ] {
        for index in [0, 63, 64, 99] {
            let mut curvature = [0.5; 100];
            curvature[index] = value;
            let error = Problem::new(&[0.5; 100], Some(&curvature)).unwrap_err();
            assert!(
                matches!(error, SolveError::Curvature { index: at, .. } if at == index),
                "{error}"
            );
        }
    }
    // Negative zero is valid.
    assert!(Problem::new(&[0.5; 100], Some(&[-0.0; 100])).is_ok());
}

#[test]
fn negative_zeros_of_curvature_are_zeros() {
    let weights = bell(100, 43);
    let signed: Vec<f32> = (0..100)
        .map(|i| if i % 2 == 0 { -0.0 } else { 0.5 })
        .collect();
    let plain: Vec<f32> = signed.iter().map(|d| d.abs()).collect();
    for method in quantizing() {
        let found = solve(&method.id(), &weights, Some(&signed));
        assert_eq!(
            found,
            solve(&method.id(), &weights, Some(&plain)),
            "{method}"
        );
    }
}

#[test]
fn different_lengths() {
    let error = Problem::new(&[0.5; 3], Some(&[1.0; 2])).unwrap_err();
    assert_eq!(
        error,
        SolveError::CurvatureLength {
            weights: 3,
            curvature: 2
        }
    );
    let problem = Problem::new(&[0.5; 3], None).unwrap();
    let expected = SolveError::LevelsLength {
        weights: 3,
        levels: 4,
    };
    for method in quantizing() {
        let quantizer = method.quantizer().unwrap();
        for previous in [None, Some(Scale::One(1.0))] {
            let mut levels = [0; 4];
            let result = quantizer.solve(problem, previous, &mut levels, &mut Workspace::default());
            assert_eq!(result, Err(expected.clone()), "{method}");
        }
    }
    let error = problem
        .weighted_error(&Codebook::Ternary, Scale::One(1.0), &[0; 4])
        .unwrap_err();
    assert_eq!(error, expected);
}
