//! Results have the same bits for any number of threads.

use crate::common::*;
use laq_solvers::{
    Codebook, Problem, Scale, SolveError, Workspace, exact, exact_by_sorting, families, solve_rows,
};

/// Eight parts and a remainder.
const MANY: usize = (8 << 18) + 77;

fn with_threads<T: Send>(count: usize, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    pool.build().unwrap().install(run)
}

#[test]
fn one_two_and_eight_threads_give_the_same_bits() {
    let weights = bell(MANY, 5);
    let curvature: Vec<f32> = bell(MANY, 6).iter().map(|x| (3.0 * x).exp()).collect();
    let methods = families()
        .iter()
        .filter_map(|family| family.methods().next());
    for method in methods.filter(|method| method.quantizer().is_some()) {
        let quantizer = method.quantizer().unwrap();
        let results = [1, 2, 8].map(|threads| {
            with_threads(threads, || {
                let mut workspace = Workspace::default();
                let (mut levels, mut quantized) = (vec![0; MANY], vec![0.0; MANY]);
                let mut previous: Option<Scale> = None;
                for curvature in [None, Some(&curvature[..])] {
                    let problem = Problem::new(&weights, curvature).unwrap();
                    let solution = quantizer.solve(problem, previous, &mut levels, &mut workspace);
                    previous = Some(solution.unwrap().scale);
                }
                let problem = Problem::new(&weights, Some(&curvature)).unwrap();
                let scale = previous.unwrap();
                quantizer.codebook().decode(&levels, scale, &mut quantized);
                let error = problem
                    .weighted_error(quantizer.codebook(), scale, &levels)
                    .unwrap();
                // Of ∂loss/∂ŵ = ŵ.
                let scale_gradient = quantizer.scale_gradient(&levels, &quantized);
                let mut gradient = quantized.clone();
                quantizer.latent_gradient(&weights, scale, &levels, &mut gradient);
                let solution = (scale, error.to_bits(), levels, quantized);
                (solution, scale_gradient, gradient)
            })
        });
        assert!(
            results[0] == results[1] && results[0] == results[2],
            "{method}"
        );
    }
}

#[test]
fn buckets_and_sorting_agree_on_many_weights() {
    let weights = bell(MANY, 8);
    let curvature: Vec<f32> = bell(MANY, 9).iter().map(|x| (3.0 * x).exp()).collect();
    for curvature in [None, Some(&curvature[..])] {
        let problem = Problem::new(&weights, curvature).unwrap();
        for codebook in [Codebook::Ternary, Codebook::linear(3).unwrap()] {
            let (mut levels, mut others) = (vec![0; MANY], vec![0; MANY]);
            let mut workspace = Workspace::default();
            let found = exact(problem, &codebook, &mut levels, &mut workspace).unwrap();
            let sorted = exact_by_sorting(problem, &codebook, &mut others, &mut workspace).unwrap();
            let (a, b) = (found.weighted_error, sorted.weighted_error);
            assert!(
                (a - b).abs() <= 1e-9 * b,
                "{codebook:?}: {a}, by sorting {b}"
            );
        }
    }
}

#[test]
fn rows_are_separate_problems() {
    const ROWS: usize = 12;
    const COLUMNS: usize = 1000;
    let weights = bell(ROWS * COLUMNS, 12);
    let curvature: Vec<f32> = bell(ROWS * COLUMNS, 13).iter().map(|x| x.abs()).collect();
    let problem = Problem::new(&weights, Some(&curvature)).unwrap();
    for method in quantizing() {
        let quantizer = method.quantizer().unwrap();
        let [one, four] = [1, 4].map(|threads| {
            with_threads(threads, || {
                let mut levels = vec![0; weights.len()];
                let rows = solve_rows(quantizer, problem, ROWS, &mut levels).unwrap();
                (rows, levels)
            })
        });
        assert_eq!(one, four, "{method}");
        let rows = weights.chunks(COLUMNS).zip(curvature.chunks(COLUMNS));
        for (row, (weights, curvature)) in rows.enumerate() {
            let problem = Problem::new(weights, Some(curvature)).unwrap();
            let (mut levels, workspace) = (vec![0; COLUMNS], &mut Workspace::default());
            let solution = quantizer
                .solve_once(problem, &mut levels, workspace)
                .unwrap();
            assert_eq!(one.0[row], solution, "{method}");
            assert_eq!(one.1[row * COLUMNS..][..COLUMNS], levels, "{method}");
        }
    }
}

#[test]
fn rows_have_equal_length() {
    let quantizer = quantizing().next().unwrap().quantizer().unwrap().clone();
    let solve = |weights: &[f32], rows: usize| {
        let problem = Problem::new(weights, None).unwrap();
        solve_rows(&quantizer, problem, rows, &mut vec![0; weights.len()])
    };
    for rows in [0, 2, 4] {
        assert_eq!(
            solve(&[0.5; 3], rows),
            Err(SolveError::Rows { weights: 3, rows })
        );
    }
    assert_eq!(solve(&[], 0), Ok(vec![]));
    assert_eq!(solve(&[], 5).unwrap().len(), 5);
    let problem = Problem::new(&[], None).unwrap();
    for rows in [0, 5] {
        let (weights, levels) = (0, 3);
        assert_eq!(
            solve_rows(&quantizer, problem, rows, &mut [0; 3]),
            Err(SolveError::LevelsLength { weights, levels })
        );
    }
}
