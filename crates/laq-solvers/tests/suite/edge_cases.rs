//! Hard input, one case a test.

use crate::common::*;
use laq_solvers::{Codebook, Problem, Scale, SolveError, Workspace, alternating, exact_by_sorting};

/// All loss-aware ways to solve a problem: the registry's, and both solvers with every codebook.
fn each_answer(
    weights: &[f32],
    curvature: Option<&[f32]>,
    mut check: impl FnMut(String, Codebook, &[i8], Scale, f64),
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
        let exact = exact_by_sorting(problem, codebook, &mut levels, &mut workspace).unwrap();
        let name = format!("exact {codebook:?}");
        check(name, codebook, &levels, exact.scale, exact.weighted_error);
        let turns = alternating(problem, codebook, false, &mut levels).unwrap();
        let name = format!("alternating {codebook:?}");
        check(name, codebook, &levels, turns.scale, turns.weighted_error);
    }
}

fn has_zero(codebook: Codebook) -> bool {
    codebook.values().contains(&0.0)
}

/// The scale is fixed, and not the solver's to choose.
fn is_fixed(name: &str) -> bool {
    name == "binary-connect" || name.starts_with("dorefa")
}

#[test]
fn none() {
    each_answer(&[], None, |name, _, _, scale, error| {
        assert_eq!(error, 0.0, "{name}");
        let expected = if is_fixed(&name) { 1.0 } else { 0.0 };
        assert_eq!(scale.pair(), [expected; 2], "{name}");
    });
    each_answer(&[], Some(&[]), |name, _, _, _, error| {
        assert_eq!(error, 0.0, "{name}")
    });
}

#[test]
fn one_element() {
    for w in [0.3_f32, -0.3, 1e-3, -7.0] {
        each_answer(
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
        each_answer(&[zero; 70], None, |name, codebook, levels, scale, error| {
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
    each_answer(&weights, None, |name, codebook, levels, scale, error| {
        if has_zero(codebook) {
            assert_eq!((levels[0], levels[2], levels[4]), (0, 0, 0), "{name}");
            if name != "ttq" || scale.pair() == [0.5; 2] {
                assert!(error < 1e-12, "{name}: {error}");
            }
        }
    });
}

/// All magnitudes are the same, so every order of them is the sorted one.
#[test]
fn ties() {
    let weights: Vec<f32> = (0..100)
        .map(|i| if i % 3 == 0 { -0.25 } else { 0.25 })
        .collect();
    let curvature: Vec<f32> = (0..100).map(|i| 1.0 + (i % 7) as f32).collect();
    each_answer(
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

/// Two blocks of ties whose events of different levels meet at one scale: 1 and 3 pass the midpoints 1/6
/// and 1/2 of the 3-bit linear codebook at the same `α` = 6.
#[test]
fn ties_between_levels() {
    for count in 1..6 {
        let weights = [vec![1.0; count], vec![3.0; 2]].concat();
        let mut levels = vec![0; weights.len()];
        let codebook = Codebook::Linear { bits: 3 };
        let problem = Problem::new(&weights, None).unwrap();
        let solution =
            exact_by_sorting(problem, codebook, &mut levels, &mut Workspace::default()).unwrap();
        // 1 and 3 are a third of 3 and 3 itself.
        assert_eq!(solution.scale, Scale::One(3.0));
        assert!(solution.weighted_error < 1e-12);
    }
}

#[test]
fn a_weight_half_way_takes_the_level_nearer_to_zero() {
    // Scale 1 is the best for the ones alone, and 0.5 is exactly half of it; d = 0 keeps it out of the sums.
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
        each_answer(&weights, None, |name, codebook, levels, scale, _| {
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
    each_answer(
        &weights,
        Some(&[1.0; 5]),
        |name, codebook, levels, scale, error| {
            assert!(error.is_finite(), "{name}");
            if has_zero(codebook) && name != "ttq" {
                let zeros = error_of_zeros(&weights, None);
                assert!(
                    error < 0.01 * zeros,
                    "{name}: {error} of {zeros}, {levels:?} {scale:?}"
                );
            }
        },
    );
    // Denormal curvature is curvature.
    let (levels, solution) = solve("lat-e", &[1.0, 3.0], Some(&[smallest, 4.0 * smallest]));
    assert_eq!((levels, solution.scale), (vec![0, 1], Scale::One(3.0)));
}

/// The largest weights there are: a scale above them would not fit an f32.
#[test]
fn the_largest_weights() {
    let weights = [f32::MAX, -f32::MAX, 0.6 * f32::MAX, 0.4 * f32::MAX];
    each_answer(
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

/// The best scale, 4.9e38 for one and two thirds of it, is above every f32: the largest f32 is taken
/// where that is better than any state whose own scale fits.
#[test]
fn a_best_scale_that_does_not_fit() {
    let weights = [-1.4332734e38, -3.368913e38];
    let codebook = Codebook::Linear { bits: 3 };
    let mut levels = [0; 2];
    let problem = Problem::new(&weights, None).unwrap();
    let exact =
        exact_by_sorting(problem, codebook, &mut levels, &mut Workspace::default()).unwrap();
    assert_eq!((exact.scale, levels), (Scale::One(f32::MAX), [-1, -3]));
    let turns = alternating(problem, codebook, false, &mut levels).unwrap();
    assert!(exact.weighted_error <= turns.weighted_error * (1.0 + 1e-12));
}

/// One weight has all the say, twenty decades above the rest.
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
            Codebook::Ternary,
            Scale::One(alpha),
            &levels,
        );
        assert!(solution.weighted_error <= error * (1.0 + 1e-12), "{alpha}");
    }
}

/// No curvature at all: the answer of the unweighted problem, with error zero.
#[test]
fn curvature_of_zero_throughout() {
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

/// One sign has no curvature: it is solved without, and the other as if it were alone.
#[test]
fn curvature_of_zero_on_one_side() {
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
fn weights_that_are_no_numbers() {
    for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for index in [0, 63, 64, 99] {
            let mut weights = [0.5; 100];
            weights[index] = value;
            let error = Problem::new(&weights, None).unwrap_err();
            assert!(
                matches!(error, SolveError::Weight { index: at, .. } if at == index),
                "{error}"
            );
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("weight {index} is {value}")),
                "{error}"
            );
        }
    }
}

#[test]
fn curvatures_that_are_none() {
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
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("curvature {index} is {value}")),
                "{error}"
            );
        }
    }
    // A negative zero is a zero.
    assert!(Problem::new(&[0.5; 100], Some(&[-0.0; 100])).is_ok());
}

#[test]
fn negative_zeros_of_curvature_count_as_zeros() {
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
fn lengths_that_differ() {
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
        .weighted_error(Codebook::Ternary, Scale::One(1.0), &[0; 4])
        .unwrap_err();
    assert_eq!(error, expected);
    assert_eq!(
        error.to_string(),
        "there are 3 weights and room for 4 levels; pass one level a weight"
    );
}
