//! Compares the weighted error of the quantized weights with that of another method on the same
//! weights and curvature.
//!
//! Computed on the host from copies: equal on every backend and without effect on training.

use laq_solvers::{CURVATURE_FLOOR, Groups, Method, Problem, Scale, SolveError, Workspace};
use rayon::prelude::*;

/// The weighted errors of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerComparison {
    /// Parameter and gate, where it has several: `lstm.weight_hh.forget`, `dense1.weight`.
    pub name: String,
    /// ½ Σ d (w − ŵ)² of the training's own ŵ.
    pub weighted_error: f64,
    /// The same for the other method, without a warm start.
    pub other_weighted_error: f64,
}

/// d = √v + 1e-8.
pub(crate) fn curvature(second_moment: &[f32]) -> Vec<f32> {
    let each = second_moment.iter();
    each.map(|v| v.sqrt() + CURVATURE_FLOOR).collect()
}

/// The errors of every group of a parameter: of the solution of `method`, its levels and scales, and of
/// `other`.
///
/// Curvature is √v + 1e-8 of the second moments v.
///
/// # Errors
/// The group and its solver error.
pub(crate) fn compare(
    (method, other): (&Method, &Method),
    groups: Groups,
    latent: &[f32],
    second_moment: &[f32],
    (levels, scales): (&[i8], &[Scale]),
) -> Result<Vec<[f64; 2]>, (usize, SolveError)> {
    let (Some(method), Some(other)) = (method.quantizer(), other.quantizer()) else {
        return Ok(Vec::new());
    };
    let errors = |group: usize| -> Result<[f64; 2], SolveError> {
        let range = groups.range(group);
        let curvature = curvature(&second_moment[range.clone()]);
        let problem = Problem::new(&latent[range.clone()], Some(&curvature))?;
        let mut of_other = vec![0; range.len()];
        let own = problem.weighted_error(method.codebook(), scales[group], &levels[range])?;
        let solution = other.solve(problem, None, &mut of_other, &mut Workspace::default())?;
        let others = problem.weighted_error(other.codebook(), solution.scale, &of_other)?;
        Ok([own, others])
    };
    (0..scales.len())
        .into_par_iter()
        .map(|group| errors(group).map_err(|error| (group, error)))
        .collect()
}
