//! One problem per row of a matrix, or for each of other groups of its weights.

use std::ops::Range;

use crate::error::SolveError;
use crate::granularity::Groups;
use crate::passes::parallel::map_with;
use crate::problem::{Problem, Solution, other_size};
use crate::quantizer::Quantizer;
use crate::solvers::Workspace;

/// Solves each row of a row-major matrix as a separate problem, [once](Quantizer::solve_once): one scale (or
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
    let weights = problem.weights().len();
    match other_size(weights, rows) {
        Some(_) if rows > 0 => {
            solve_groups(quantizer, problem, Groups::equal(weights, rows), levels)
        }
        Some(_) => Ok(Vec::new()),
        None => Err(SolveError::Rows { weights, rows }),
    }
}

/// [`solve_rows`] for groups of weights of a [`Granularity`](crate::Granularity), such as the blocks of rows.
///
/// # Errors
/// [`SolveError::LevelsLength`] if `levels` and the weights differ in length, or are not those of the groups;
/// otherwise the error of the first group that has one, as [`Quantizer::solve`].
pub fn solve_groups(
    quantizer: &Quantizer,
    problem: Problem<'_>,
    groups: Groups,
    levels: &mut [i8],
) -> Result<Vec<Solution>, SolveError> {
    problem.check_length(levels)?;
    let weights = problem.weights();
    if groups.weights() != weights.len() {
        return Err(SolveError::LevelsLength {
            weights: weights.len(),
            levels: groups.weights(),
        });
    }
    if groups.count() == 1 {
        let solution = quantizer.solve_once(problem, levels, &mut Workspace::default())?;
        return Ok(vec![solution]);
    }
    let solve = |workspace: &mut Workspace, range: Range<usize>, levels: &mut [i8]| {
        let curvature = problem
            .curvature()
            .map(|curvature| &curvature[range.clone()]);
        let group = Problem::new(&weights[range], curvature)?;
        quantizer.solve_once(group, levels, workspace)
    };
    if weights.is_empty() {
        let empty = solve(&mut Workspace::default(), 0..0, &mut []);
        return (0..groups.count()).map(|_| empty.clone()).collect();
    }
    let solve_span = |workspace: &mut Workspace, span: usize, levels: &mut [i8]| {
        let start = span * groups.span();
        let of_span = (0..groups.per_span()).map(|within| {
            let range = groups.range(within);
            let levels = &mut levels[range.clone()];
            solve(workspace, start + range.start..start + range.end, levels)
        });
        of_span.collect::<Result<Vec<_>, _>>()
    };
    let spans = levels.chunks_mut(groups.span()).collect();
    let solved = map_with(spans, Workspace::default, solve_span);
    let solved: Vec<Vec<Solution>> = solved.into_iter().collect::<Result<_, _>>()?;
    Ok(solved.into_iter().flatten().collect())
}
