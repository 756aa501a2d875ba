//! The data of a quantization problem, and its solution.

use crate::codebook::Scale;
use crate::error::SolveError;

/// Weights `w` and curvature `d` of problem (1) of the paper:
/// minimise `½ Σ_i d_i (w_i − ŵ_i)²` over the quantized weights `ŵ`.
///
/// Both slices have length n. All weights are finite, all curvatures are finite and not negative.
/// No curvature means `d_i = 1`, the unweighted problem.
///
/// Multiplying `d` by a positive constant does not change the solution. If `d` is zero everywhere or, with a codebook
/// that has zero, for all weights other than zero, solutions of many scales have error zero; the solvers return that
/// of the unweighted problem, the limit of `d + ε` for `ε` that goes to zero.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    weights: &'a [f32],
    curvature: Option<&'a [f32]>,
    span: Span,
}

/// Bit patterns of the smallest and largest nonzero `|w|`. If all weights are zero, `smallest` is
/// that of [`f32::MAX`] and `largest` is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) smallest: u32,
    pub(crate) largest: u32,
}

impl Span {
    /// That of no weights.
    pub(crate) const EMPTY: Self = Self {
        smallest: f32::MAX.to_bits(),
        largest: 0,
    };

    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            smallest: self.smallest.min(other.smallest),
            largest: self.largest.max(other.largest),
        }
    }
}

impl<'a> Problem<'a> {
    /// A problem whose values are known to be valid.
    pub(crate) fn from_parts(weights: &'a [f32], curvature: Option<&'a [f32]>, span: Span) -> Self {
        Self {
            weights,
            curvature,
            span,
        }
    }

    /// A problem for sums alone, with unchecked values and an unknown span.
    pub(crate) fn unchecked(weights: &'a [f32], curvature: &'a [f32]) -> Self {
        Self {
            weights,
            curvature: Some(curvature),
            span: Span::EMPTY,
        }
    }

    /// The weights `w`.
    pub fn weights(&self) -> &'a [f32] {
        self.weights
    }

    /// The curvature `d`; `None` means all ones.
    pub fn curvature(&self) -> Option<&'a [f32]> {
        self.curvature
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// The first `count` weights and the rest, both with the span of the whole.
    pub(crate) fn split_at(self, count: usize) -> (Self, Self) {
        let weights = self.weights.split_at(count);
        let curvature = self.curvature.map(|curvature| curvature.split_at(count));
        let part = |weights, curvature| Self {
            weights,
            curvature,
            ..self
        };
        (
            part(weights.0, curvature.map(|halves| halves.0)),
            part(weights.1, curvature.map(|halves| halves.1)),
        )
    }

    pub(crate) fn unweighted(self) -> Self {
        Self {
            curvature: None,
            ..self
        }
    }

    pub(crate) fn check_length(&self, levels: &[i8]) -> Result<(), SolveError> {
        if levels.len() == self.weights.len() {
            Ok(())
        } else {
            Err(SolveError::LevelsLength {
                weights: self.weights.len(),
                levels: levels.len(),
            })
        }
    }
}

/// The result of a solver, next to the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solution {
    /// The factor of the levels.
    pub scale: Scale,
    /// `½ Σ d (w − ŵ)²` of the returned levels and scale, in f64.
    pub weighted_error: f64,
    /// Iterations of an alternating solver; 1 for an exact one, 0 for a closed form.
    pub iterations: u32,
}

/// The other size of a matrix of which one is `size`; `None` if that does not divide `elements`.
pub(crate) fn other_size(elements: usize, size: usize) -> Option<usize> {
    match size {
        0 => (elements == 0).then_some(0),
        _ => elements.is_multiple_of(size).then_some(elements / size),
    }
}
