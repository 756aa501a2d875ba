//! Properties of all methods, at every number of bits.

use crate::common::*;
use laq_solvers::{Method, Problem, Scale, Solution, Solver, Workspace};
use proptest::prelude::*;

/// Methods that minimise the weighted error, exactly or approximately.
fn is_loss_aware(method: &Method) -> bool {
    method.is_exact() || method.is_alternating()
}

/// Checks one solution.
fn check_solution(
    method: &Method,
    weights: &[f32],
    curvature: Option<&[f32]>,
    levels: &[i8],
    solution: Solution,
) -> Result<(), TestCaseError> {
    let quantizer = method.quantizer().unwrap();
    let codebook = quantizer.codebook();
    let allowed: Vec<i8> = codebook.levels().collect();
    prop_assert!(
        levels.iter().all(|level| allowed.contains(level)),
        "{method}: {levels:?}"
    );
    for scale in solution.scale.pair() {
        prop_assert!((0.0..=f32::MAX).contains(&scale), "{method}: scale {scale}");
    }

    // The error is that of the returned levels and scale.
    let expected = error_of(weights, curvature, codebook, solution.scale, levels);
    let found = solution.weighted_error;
    prop_assert!(
        (found - expected).abs() <= 1e-12 * expected,
        "{method}: {found}, {expected}"
    );
    let problem = Problem::new(weights, curvature).unwrap();
    prop_assert_eq!(
        problem
            .weighted_error(codebook, solution.scale, levels)
            .unwrap(),
        found
    );

    // All zeros are feasible with scale zero.
    if is_loss_aware(method) {
        let zeros = error_of_zeros(weights, curvature);
        prop_assert!(
            found <= zeros * (1.0 + 3e-7) + 1e-80,
            "{method}: {found} above {zeros}"
        );
    }

    // No level has the opposite sign of its weight.
    for (&w, &level) in weights.iter().zip(levels) {
        let value = codebook.value(level);
        prop_assert!(
            value == 0.0 || (value < 0.0) == (w < 0.0),
            "{method}: {w} to {value}"
        );
    }
    let iterations = match quantizer.solver() {
        Solver::Alternating { .. } => 0..=10,
        Solver::Exact { .. } => 1..=1,
        _ => 0..=0,
    };
    let two_scales = matches!(solution.scale, Scale::Two { .. });
    prop_assert_eq!(two_scales, quantizer.has_two_scales());
    prop_assert!(
        iterations.contains(&solution.iterations),
        "{method}: {} iterations",
        solution.iterations
    );
    Ok(())
}

fn check_method(
    method: &Method,
    weights: &[f32],
    curvature: Option<&[f32]>,
    workspace: &mut Workspace,
) -> Result<(), TestCaseError> {
    let quantizer = method.quantizer().unwrap();
    let (levels, cold) = solve(&method.id(), weights, curvature);
    check_solution(method, weights, curvature, &levels, cold)?;

    // A cold start depends neither on `levels` nor on the workspace.
    let problem = Problem::new(weights, curvature).unwrap();
    let mut again = vec![-128; weights.len()];
    let solution = quantizer
        .solve(problem, None, &mut again, workspace)
        .unwrap();
    prop_assert_eq!(&again, &levels);
    prop_assert_eq!(solution, cold);

    // A warm start of an alternating method is not worse than its start.
    let warm = quantizer
        .solve(problem, Some(cold.scale), &mut again, workspace)
        .unwrap();
    check_solution(method, weights, curvature, &again, warm)?;
    if method.is_alternating() {
        let slack = 3e-7 * error_of_zeros(weights, curvature) + 1e-80;
        prop_assert!(
            warm.weighted_error <= cold.weighted_error + slack,
            "{method}"
        );
    } else {
        prop_assert_eq!((&again, warm), (&levels, cold));
    }

    // A factor of the curvature does not change the solution.
    let factor = 0.25;
    if let Some(curvature) = curvature.filter(|d| d.iter().all(|&d| d == 0.0 || d > 1e-30)) {
        let scaled: Vec<f32> = curvature.iter().map(|d| d * factor).collect();
        let (scaled_levels, solution) = solve(&method.id(), weights, Some(&scaled));
        prop_assert_eq!(&scaled_levels, &levels);
        prop_assert_eq!(solution.scale, cold.scale);
        prop_assert_eq!(
            solution.weighted_error,
            cold.weighted_error * f64::from(factor)
        );
    }

    // Negated weights have the negated solution. (Zero weights take the positive level.)
    if weights.iter().all(|&w| w != 0.0) {
        let mirrored: Vec<f32> = weights.iter().map(|w| -w).collect();
        let (mirrored_levels, solution) = solve(&method.id(), &mirrored, curvature);
        let codebook = quantizer.codebook();
        for (&level, &mirror) in levels.iter().zip(&mirrored_levels) {
            prop_assert_eq!(codebook.value(level), -codebook.value(mirror), "{}", method);
        }
        let [positive, negative] = cold.scale.pair();
        prop_assert_eq!(solution.scale.pair(), [negative, positive], "{}", method);
        prop_assert_eq!(solution.weighted_error, cold.weighted_error, "{}", method);
    }

    // Twice the weights have twice the scale, unless the scale is fixed or the tolerance absolute.
    let scales = !method.is_alternating() && cold.scale != Scale::One(1.0);
    if scales
        && weights
            .iter()
            .all(|w| *w == 0.0 || (1e-20..1e20).contains(&w.abs()))
    {
        let doubled: Vec<f32> = weights.iter().map(|w| 2.0 * w).collect();
        let (doubled_levels, solution) = solve(&method.id(), &doubled, curvature);
        prop_assert_eq!(&doubled_levels, &levels, "{}", method);
        prop_assert_eq!(
            solution.scale.pair(),
            cold.scale.pair().map(|scale| 2.0 * scale)
        );
        prop_assert_eq!(solution.weighted_error, 4.0 * cold.weighted_error);
    }

    // The gradients are finite; only TTQ trains its scales.
    let gradient = bell(weights.len(), 11);
    let mut latent = gradient.clone();
    quantizer.latent_gradient(weights, cold.scale, &levels, &mut latent);
    prop_assert!(latent.iter().all(|g| g.is_finite()), "{method}: {latent:?}");
    prop_assert_eq!(
        quantizer.scale_gradient(&levels, &gradient).is_some(),
        quantizer.solver() == Solver::Trained
    );
    if !method.has_latent_gradient() {
        prop_assert_eq!(latent, gradient, "{}", method);
    }
    Ok(())
}

/// A warm start takes fewer iterations or reaches a lower error.
#[test]
fn alternating_continues_from_the_previous_levels() {
    let (weights, curvature) = (bell(3000, 51), bell(3000, 52));
    let curvature: Vec<f32> = curvature.iter().map(|d| d.abs()).collect();
    let mut count = 0;
    for method in quantizing().filter(Method::is_alternating) {
        let (mut levels, cold) = solve(&method.id(), &weights, Some(&curvature));
        let problem = Problem::new(&weights, Some(&curvature)).unwrap();
        let quantizer = method.quantizer().unwrap();
        let warm = quantizer
            .solve(
                problem,
                Some(cold.scale),
                &mut levels,
                &mut Workspace::default(),
            )
            .unwrap();
        let on = warm.iterations < cold.iterations || warm.weighted_error < cold.weighted_error;
        assert!(on, "{method}: {cold:?}, then {warm:?}");
        count += 1;
    }
    assert_eq!(count, 2 + 2 * 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_method_conforms((w, d) in problems(0..200)) {
        let mut workspace = Workspace::default();
        for method in quantizing() {
            check_method(&method, &w, d.as_deref(), &mut workspace)?;
        }
    }

    /// No method with the same levels and number of scales has a lower error than an exact one.
    #[test]
    fn exact_methods_have_the_lowest_error((w, d) in problems(0..200)) {
        let d = d.as_deref();
        let slack = 1e-12 * error_of_zeros(&w, d) + 1e-80;
        let error = |id: &str| solve(id, &w, d).1.weighted_error;
        for (exact, others) in [
            ("lab", &["bwn", "binary-connect"][..]),
            ("lat-e", &["lat-a", "twn", "laq-linear-2", "laq-log-2"]),
            ("lat2-e", &["lat2-a", "ttq", "lat-e", "twn"]),
        ] {
            let least = error(exact);
            for other in others {
                prop_assert!(least <= error(other) + slack, "{exact} {least}, {other} {}", error(other));
            }
        }
    }

    /// Any input has a solution or an error.
    #[test]
    fn nothing_panics(
        w in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..80),
        d in prop::option::of(prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..80)),
        finite: bool,
        levels in prop::collection::vec(any::<i8>(), 0..80),
        scales: (u32, u32),
    ) {
        let sanitize = |values: &mut Vec<f32>, length: usize| {
            values.resize(length, 1.0);
            values.iter_mut().for_each(|value| *value = if value.is_finite() { *value } else { 0.0 });
        };
        let (mut w, mut d, mut levels) = (w, d, levels);
        if finite {
            let length = w.len();
            sanitize(&mut w, length);
            if let Some(d) = &mut d {
                sanitize(d, length);
                d.iter_mut().for_each(|d| *d = d.abs());
            }
            levels.resize(length, 3);
        }
        let trained = Scale::Two { positive: f32::from_bits(scales.0), negative: f32::from_bits(scales.1) };
        let mut workspace = Workspace::default();
        for method in quantizing() {
            let quantizer = method.quantizer().unwrap();
            let mut gradient = w.clone();
            gradient.push(1.0);
            quantizer.latent_gradient(&w, trained, &levels, &mut gradient);
            quantizer.scale_gradient(&levels, &gradient);
            let mut quantized = vec![0.0; 40];
            quantizer.codebook().decode(&levels, trained, &mut quantized);
            let Ok(problem) = Problem::new(&w, d.as_deref()) else {
                prop_assert!(!finite);
                continue;
            };
            for previous in [Some(trained), None] {
                let mut levels = levels.clone();
                let solution = quantizer.solve(problem, previous, &mut levels, &mut workspace);
                if finite && previous.is_none() {
                    prop_assert!(solution.is_ok(), "{method}: {solution:?}");
                }
                if let Ok(solution) = solution && quantizer.solver() != Solver::Trained {
                    check_solution(&method, &w, d.as_deref(), &levels, solution)?;
                }
            }
        }
    }
}
