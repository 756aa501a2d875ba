//! Groups of weights with a scale each.

use laq_solvers::blocks::solve_blocks;
use laq_solvers::{
    Codebook, Granularity, Groups, Method, Problem, Scale, SolveError, Workspace, exact, formats,
    solve_groups, solve_rows,
};
use laq_test_support::Random;

/// Weights and curvature.
fn matrix(rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random(columns as u64);
    let weights = (0..rows * columns)
        .map(|_| random.normal() as f32)
        .collect();
    let curvature = (0..rows * columns)
        .map(|_| random.uniform() as f32)
        .collect();
    (weights, curvature)
}

#[test]
fn a_format_is_solved_as_its_blocks() {
    let (rows, columns) = (3, 300);
    let (weights, curvature) = matrix(rows, columns);
    let problem = Problem::new(&weights, Some(&curvature)).unwrap();
    for method in formats().iter().flat_map(|format| format.methods()) {
        let (quantizer, format) = (method.quantizer().unwrap(), method.block_format().unwrap());
        let groups = method.granularity().groups(rows, columns, 1);
        let mut levels = vec![0; weights.len()];
        let solved = solve_groups(quantizer, problem, groups, &mut levels).unwrap();
        let (mut codes, mut scales) = (vec![0; weights.len()], vec![0.0; groups.count()]);
        let error = solve_blocks(&format, problem, columns, &mut codes, &mut scales).unwrap();
        let found: f64 = solved.iter().map(|solution| solution.weighted_error).sum();
        assert!(
            (found - error).abs() <= 1e-12 * error,
            "{method}: {found} {error}"
        );
        let (codebook, values) = (quantizer.codebook(), quantizer.codebook().values());
        for (group, range) in groups.ranges().enumerate() {
            assert_eq!(solved[group].scale, Scale::One(scales[group]), "{method}");
            for index in range {
                let value = values[usize::from(codes[index])];
                assert_eq!(codebook.value(levels[index]), value, "{method}");
            }
        }
    }
}

#[test]
fn rows_are_groups_and_other_sizes_are_errors() {
    let (weights, curvature) = matrix(6, 50);
    let problem = Problem::new(&weights, Some(&curvature)).unwrap();
    let method: Method = "lat-e".parse().unwrap();
    let quantizer = method.quantizer().unwrap();
    let solve = |granularity: Granularity| {
        let mut levels = vec![0; 300];
        let groups = granularity.groups(6, 50, 2);
        let solved = solve_groups(quantizer, problem, groups, &mut levels).unwrap();
        let errors: Vec<f64> = solved.iter().map(|group| group.weighted_error).collect();
        (errors, levels)
    };
    let mut levels = vec![0; 300];
    let rows = solve_rows(quantizer, problem, 6, &mut levels).unwrap();
    let (errors, of_groups) = solve(Granularity::Row);
    assert_eq!(of_groups, levels);
    assert!(rows.iter().map(|row| row.weighted_error).eq(errors));
    // Finer groups never have a larger error.
    let granularities = ["tensor", "gate", "row", "block:25", "block:5", "block:1"];
    let total = |granularity: &str| -> f64 { solve(granularity.parse().unwrap()).0.iter().sum() };
    let errors = granularities.map(total);
    assert!(errors.is_sorted_by(|a, b| a >= b), "{errors:?}");
    let short = solve_groups(quantizer, problem, Groups::equal(299, 1), &mut levels);
    assert!(
        matches!(short, Err(SolveError::LevelsLength { .. })),
        "{short:?}"
    );
}

#[test]
fn a_table_is_for_blocks_alone() {
    let codebook = Codebook::integers(-2, 1).unwrap();
    assert_eq!(codebook.levels().collect::<Vec<_>>(), [-2, -1, 0, 1]);
    assert!(!codebook.is_symmetric() && Codebook::e2m1().is_symmetric());
    let problem = Problem::new(&[1.0, 0.5], None).unwrap();
    let solved = exact(problem, &codebook, &mut [0; 2], &mut Workspace::default());
    assert_eq!(solved, Err(SolveError::Table));
}
