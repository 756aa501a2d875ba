//! The exact solvers against all assignments (small n) and a dense grid of scales (large n).

use crate::common::*;
use laq_solvers::{Codebook, Problem, Scale, Solution, Workspace, exact_by_sorting};
use proptest::prelude::*;

fn exact(weights: &[f32], curvature: Option<&[f32]>, codebook: &Codebook) -> (Vec<i8>, Solution) {
    let mut levels = vec![0; weights.len()];
    let problem = Problem::new(weights, curvature).unwrap();
    let solution =
        exact_by_sorting(problem, codebook, &mut levels, &mut Workspace::default()).unwrap();
    (levels, solution)
}

/// The effect of rounding the scale and its products with the levels to f32, relative to the error
/// of all zeros. Products with levels of magnitude one are exact.
fn rounding(codebook: &Codebook) -> f64 {
    match codebook {
        Codebook::Binary | Codebook::Ternary => 1e-13,
        _ => 3e-7,
    }
}

fn check_brute_force(
    weights: &[f32],
    curvature: Option<&[f32]>,
    codebook: &Codebook,
) -> Result<(), TestCaseError> {
    let (levels, solution) = exact(weights, curvature, codebook);
    let least = brute_force(weights, curvature, &values_of(codebook));
    let slack = rounding(codebook) * error_of_zeros(weights, curvature);
    let found = solution.weighted_error;
    prop_assert!(
        found <= least + slack,
        "{codebook:?}: {found} above {least}, {levels:?}"
    );
    prop_assert!(
        found >= least - slack,
        "{codebook:?}: {found} below {least}, {levels:?}"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn binary_and_ternary_are_optimal((w, d) in moderate_problems(0..8)) {
        check_brute_force(&w, d.as_deref(), &Codebook::Binary)?;
        check_brute_force(&w, d.as_deref(), &Codebook::Ternary)?;
    }

    #[test]
    fn three_and_four_bits_are_optimal((w, d) in moderate_problems(0..5)) {
        check_brute_force(&w, d.as_deref(), &Codebook::linear(3).unwrap())?;
        check_brute_force(&w, d.as_deref(), &Codebook::logarithmic(3).unwrap())?;
        check_brute_force(&w, d.as_deref(), &Codebook::uniform(2).unwrap())?;
        check_brute_force(&w, d.as_deref(), &Codebook::uniform(3).unwrap())?;
        let few = w.len().min(3);
        let d = d.as_deref().map(|d| &d[..few]);
        check_brute_force(&w[..few], d, &Codebook::linear(4).unwrap())?;
        check_brute_force(&w[..few], d, &Codebook::logarithmic(4).unwrap())?;
    }

    #[test]
    fn five_to_eight_bits_are_optimal(
        (w, d) in moderate_problems(0..3),
        bits in 5_u8..=8,
    ) {
        check_brute_force(&w, d.as_deref(), &Codebook::linear(bits).unwrap())?;
        check_brute_force(&w, d.as_deref(), &Codebook::uniform(bits).unwrap())?;
        // The smallest values of more bits are lost in the f64 sums of the brute force.
        check_brute_force(&w, d.as_deref(), &Codebook::logarithmic(bits.min(6)).unwrap())?;
    }

    #[test]
    fn the_exact_methods_are_optimal((w, d) in moderate_problems(0..8)) {
        let d = d.as_deref();
        let slack = rounding(&Codebook::Ternary) * error_of_zeros(&w, d);
        for (id, values) in [("lab", &[-1.0, 1.0][..]), ("lat-e", &[-1.0, 0.0, 1.0])] {
            let found = solve(id, &w, d).1.weighted_error;
            let least = brute_force(&w, d, values);
            prop_assert!((found - least).abs() <= slack, "{id}: {found}, least {least}");
        }
        // Two scales: over all ternary assignments, each sign with its own best scale.
        let found = solve("lat2-e", &w, d).1.weighted_error;
        let least = least_with_two_scales(&w, d);
        prop_assert!((found - least).abs() <= slack, "lat2-e: {found}, least {least}");
    }

    #[test]
    fn the_optimum_is_a_fixed_point((w, d) in moderate_problems(1..150), which in 0_usize..23) {
        let codebook = &all_codebooks()[which];
        let (levels, solution) = exact(&w, d.as_deref(), codebook);
        let Scale::One(scale) = solution.scale else { panic!("two scales") };
        let scale = f64::from(scale);
        let (mut product, mut square) = (0.0, 0.0);
        for (index, (&w, &level)) in w.iter().zip(&levels).enumerate() {
            let (w, b) = (f64::from(w), f64::from(codebook.value(level)));
            let gap = (w - scale * b).abs();
            for other in values_of(codebook) {
                prop_assert!(gap <= (w - scale * other).abs() * (1.0 + 1e-6) + 1e-300);
            }
            let d = curvature_at(d.as_deref(), index);
            product += d * b * w;
            square += d * b * b;
        }
        if square > 0.0 {
            prop_assert!((product / square - scale).abs() <= 1e-6 * scale, "{} {scale}", product / square);
        }
    }
}

fn least_with_two_scales(weights: &[f32], curvature: Option<&[f32]>) -> f64 {
    let mut least = f64::INFINITY;
    for code in 0..3_usize.pow(weights.len() as u32) {
        let level = |index: usize| (code / 3_usize.pow(index as u32) % 3) as f64 - 1.0;
        let mut error = 0.0;
        for sign in [-1.0, 0.0, 1.0] {
            let members: Vec<_> = (0..weights.len())
                .filter(|&index| level(index) == sign)
                .collect();
            let total = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
                let term = |&index: &usize| {
                    term(curvature_at(curvature, index), f64::from(weights[index]))
                };
                members.iter().map(term).sum()
            };
            let scale = (total(&|d, w| d * w * sign) / total(&|d, _| d * sign * sign)).max(0.0);
            let scale = if scale.is_finite() { scale } else { 0.0 };
            error += total(&|d, w| 0.5 * d * (w - sign * scale).powi(2));
        }
        least = least.min(error);
    }
    least
}

#[test]
fn no_scale_of_a_dense_grid_is_better() {
    let weights = bell(3000, 1);
    let curvature: Vec<f32> = bell(3000, 2).iter().map(|x| 10_f32.powf(4.0 * x)).collect();
    for codebook in all_codebooks() {
        let values = values_of(&codebook);
        let (_, solution) = exact(&weights, Some(&curvature), &codebook);
        let Scale::One(scale) = solution.scale else {
            panic!("two scales")
        };
        // Coarse over all orders of magnitude, fine around the solution.
        let wide = (0..150).map(|step| 10_f64.powf(-3.0 + 0.04 * f64::from(step)));
        let near = (-50..50).map(|step| f64::from(scale) * (1.0 + 1e-4 * f64::from(step)));
        for alpha in wide.chain(near) {
            let mut error = 0.0;
            for (&w, &d) in weights.iter().zip(&curvature) {
                let target = f64::from(w) / alpha;
                let above = values.partition_point(|&value| value < target);
                let adjacent = &values[above.saturating_sub(1)..(above + 1).min(values.len())];
                let gap = adjacent.iter().map(|b| (f64::from(w) - alpha * b).abs());
                error += 0.5 * f64::from(d) * gap.fold(f64::INFINITY, f64::min).powi(2);
            }
            assert!(
                solution.weighted_error <= error * (1.0 + 1e-6),
                "{codebook:?}: {} at {scale}, but {error} at {alpha}",
                solution.weighted_error
            );
        }
    }
}

/// The scale has the same bits for any order of the weights.
#[test]
fn the_order_of_the_weights_does_not_matter() {
    let weights = bell(1000, 3);
    let curvature: Vec<f32> = bell(1000, 4).iter().map(|x| x.abs()).collect();
    let reversed = |slice: &[f32]| slice.iter().rev().copied().collect::<Vec<_>>();
    for codebook in [
        Codebook::Ternary,
        Codebook::linear(4).unwrap(),
        Codebook::logarithmic(4).unwrap(),
    ] {
        let (mut levels, there) = exact(&weights, Some(&curvature), &codebook);
        let (back_levels, back) =
            exact(&reversed(&weights), Some(&reversed(&curvature)), &codebook);
        levels.reverse();
        assert_eq!(levels, back_levels);
        assert_eq!(there.scale, back.scale);
    }
}

/// The gains of the prefixes of 3, 2, 1 are 9, 25/2 and 36/3 = 12.
#[test]
fn a_small_example() {
    let (levels, solution) = exact(&[1.0, -3.0, 2.0], None, &Codebook::Ternary);
    assert_eq!(levels, [0, -1, 1]);
    assert_eq!(solution.scale, Scale::One(2.5));
    assert_eq!(solution.weighted_error, 0.5 * (1.0 + 0.25 + 0.25));
    assert_eq!(solution.iterations, 1);
}

/// With d = (4, 1) the gain of 3 alone is 9, that of both weights 49/5 = 9.8.
#[test]
fn the_curvature_changes_the_optimum() {
    let curvature = [4.0, 1.0];
    let (levels, solution) = exact(&[1.0, 3.0], Some(&curvature), &Codebook::Ternary);
    assert_eq!(levels, [1, 1]);
    assert_eq!(solution.scale, Scale::One(1.4));
    let (levels, solution) = exact(&[1.0, 3.0], Some(&[1.0, 4.0]), &Codebook::Ternary);
    assert_eq!(levels, [0, 1]);
    assert_eq!(solution.scale, Scale::One(3.0));
}
