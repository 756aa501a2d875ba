//! One problem per row of a matrix.

use crate::error::SolveError;
use crate::passes::parallel::map_with;
use crate::problem::{Problem, Solution, other_size};
use crate::quantizer::Quantizer;
use crate::solvers::Workspace;

/// Solves each row of a row-major matrix as a separate problem, from a cold start: one scale (or
/// pair of scales) per row, for instance per output channel.
///
/// Writes `levels`, of the length of the weights, and returns one solution per row. Rows are
/// distributed over the threads of the current rayon pool (feature `rayon`); the results have the
/// same bits for any number of threads.
///
/// ```
/// use laq_solvers::{Method, Problem, solve_rows};
///
/// let method: Method = "lat-e".parse()?;
/// let quantizer = method.quantizer().unwrap();
/// let problem = Problem::new(&[0.9, 0.1, -0.8, 0.05, 0.09, -0.01], None)?;
/// let mut levels = [0; 6];
/// let rows = solve_rows(quantizer, problem, 2, &mut levels)?;
/// assert_eq!(levels, [1, 0, -1, 1, 1, 0]);
/// assert!(rows[0].scale.pair()[0] > 10.0 * rows[1].scale.pair()[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `levels` and the weights differ in length, or `rows` does not divide it; otherwise the error of
/// the first row that has one, as [`Quantizer::solve`].
pub fn solve_rows(
    quantizer: &Quantizer,
    problem: Problem<'_>,
    rows: usize,
    levels: &mut [i8],
) -> Result<Vec<Solution>, SolveError> {
    problem.check_length(levels)?;
    let weights = problem.weights();
    let Some(length) = other_size(weights.len(), rows) else {
        let weights = weights.len();
        return Err(SolveError::Rows { weights, rows });
    };
    if rows == 1 {
        let solution = quantizer.solve(problem, None, levels, &mut Workspace::default())?;
        return Ok(vec![solution]);
    }
    let solve = |workspace: &mut Workspace, row: usize, levels: &mut [i8]| {
        let range = row * length..(row + 1) * length;
        let curvature = problem
            .curvature()
            .map(|curvature| &curvature[range.clone()]);
        let row = Problem::new(&weights[range], curvature)?;
        quantizer.solve(row, None, levels, workspace)
    };
    if length == 0 {
        let empty = solve(&mut Workspace::default(), 0, &mut []);
        return (0..rows).map(|_| empty.clone()).collect();
    }
    let levels = levels.chunks_mut(length).collect();
    let solved = map_with(levels, Workspace::default, solve);
    solved.into_iter().collect()
}
