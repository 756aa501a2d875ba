//! The data of one quantization problem, checked once, and what can go wrong with it.

use crate::codebook::{Codebook, Scale};
use crate::kernels;
use laq_simd::Isa;

/// Weights `w` and curvature `d` of problem (1) of the paper:
/// minimise `½ Σ_i d_i (w_i − ŵ_i)²` over the quantized weights `ŵ`.
///
/// Both slices have length n and are known to be fit for every solver: all weights finite, all
/// curvatures finite and not negative. No curvature means `d_i = 1`, the unweighted problem.
///
/// The answer does not change when `d` is multiplied by a positive constant. Where `d` is zero
/// everywhere, every answer has error zero, and the solvers give that of the unweighted problem,
/// the limit of ever smaller constant curvatures.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    weights: &'a [f32],
    curvature: Option<&'a [f32]>,
    span: Span,
}

/// Bit patterns of the smallest and the largest `|w|`, zeros left out; without any other weight they are
/// those of the largest and the smallest f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) smallest: u32,
    pub(crate) largest: u32,
}

impl<'a> Problem<'a> {
    /// Checks the slices and pairs them.
    ///
    /// # Errors
    /// Lengths that differ; a weight that is NaN or infinite; a curvature that is NaN, infinite or
    /// negative. The error names the first such index.
    pub fn new(weights: &'a [f32], curvature: Option<&'a [f32]>) -> Result<Self, SolveError> {
        let isa = Isa::selected();
        let span = kernels::span(isa, weights);
        if span.largest > f32::MAX.to_bits() {
            let bad = |(_, value): &(usize, f32)| !value.is_finite();
            let found = weights.iter().copied().enumerate().find(bad);
            if let Some((index, value)) = found {
                return Err(SolveError::Weight { index, value });
            }
        }
        if let Some(curvature) = curvature {
            if curvature.len() != weights.len() {
                return Err(SolveError::CurvatureLength {
                    weights: weights.len(),
                    curvature: curvature.len(),
                });
            }
            if !kernels::all_finite_and_not_negative(isa, curvature) {
                let bad = |(_, value): &(usize, f32)| !value.is_finite() || *value < 0.0;
                let found = curvature.iter().copied().enumerate().find(bad);
                if let Some((index, value)) = found {
                    return Err(SolveError::Curvature { index, value });
                }
            }
        }
        Ok(Self {
            weights,
            curvature,
            span,
        })
    }

    /// A problem for sums alone, which any numbers are fit for: its span is not known.
    pub(crate) fn unchecked(weights: &'a [f32], curvature: &'a [f32]) -> Self {
        Self {
            weights,
            curvature: Some(curvature),
            span: Span {
                smallest: f32::MAX.to_bits(),
                largest: 0,
            },
        }
    }

    /// The weights `w`.
    pub fn weights(&self) -> &'a [f32] {
        self.weights
    }

    /// The curvature `d`; `None` stands for all ones.
    pub fn curvature(&self) -> Option<&'a [f32]> {
        self.curvature
    }

    /// `½ Σ_i d_i (w_i − ŵ_i)²` in f64, where `ŵ` is what [`Codebook::decode`] makes of `levels` and `scale`.
    ///
    /// # Errors
    /// `levels` of another length than the weights.
    pub fn weighted_error(
        &self,
        codebook: Codebook,
        scale: Scale,
        levels: &[i8],
    ) -> Result<f64, SolveError> {
        self.check_length(levels)?;
        Ok(kernels::weighted_error(
            Isa::selected(),
            *self,
            codebook,
            scale,
            levels,
        ))
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// The first `count` weights and the others, each with the span of all.
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

/// Why a problem could not be posed or solved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A weight is NaN or infinite.
    #[error(
        "weight {index} is {value}, expected a finite number; training has probably diverged: \
         go back to the last good checkpoint, or lower the learning rate"
    )]
    Weight {
        /// Position in the slice of weights.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// A curvature is NaN, infinite or negative.
    #[error(
        "curvature {index} is {value}, expected a finite number that is not negative; \
         pass the square root of Adam's second moment plus a small constant"
    )]
    Curvature {
        /// Position in the slice of curvatures.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// The curvature has another length than the weights.
    #[error(
        "there are {weights} weights and {curvature} curvatures; pass one curvature a weight, or none at all"
    )]
    CurvatureLength {
        /// Number of weights.
        weights: usize,
        /// Number of curvatures.
        curvature: usize,
    },
    /// The levels have another length than the weights.
    #[error("there are {weights} weights and room for {levels} levels; pass one level a weight")]
    LevelsLength {
        /// Number of weights.
        weights: usize,
        /// Number of levels.
        levels: usize,
    },
    /// A trained scale is NaN or infinite.
    #[error(
        "the trained scale is {value}, expected a finite number; training has probably diverged: \
         go back to the last good checkpoint, or lower the learning rate"
    )]
    Scale {
        /// What was passed.
        value: f32,
    },
    /// A codebook with a number of bits that it cannot have.
    #[error("a codebook of {bits} bits was asked for, expected 2 to 8 bits")]
    Bits {
        /// What was asked for.
        bits: u8,
    },
    /// Magnitudes of which no codebook can be made.
    #[error(
        "these magnitudes are no codebook: {reason}; expected up to 128 of them, rising, from zero or above it to 1 \
         at most, and not zero alone"
    )]
    Magnitudes {
        /// What is wrong with them.
        reason: String,
    },
}
