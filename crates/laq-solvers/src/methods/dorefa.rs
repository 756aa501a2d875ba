//! DoReFa: `ŵ = 2 · round((2^bits − 1) · (tanh w / (2 M) + ½)) / (2^bits − 1) − 1` with `M = max |tanh w|`.
//!
//! The rounding takes `tanh w / M` to the nearest of the uniform levels. Since tanh rises, the borders
//! between levels can be taken back to the weights, `|w| = artanh(M · midpoint)`, once a slice: no tanh a weight.

use crate::codebook::{Codebook, Scale};
use crate::finish;
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};
use laq_simd::Isa;

pub(crate) const FAMILY: Family = Family {
    id: "dorefa-M",
    aliases: &[],
    bits: Some(2..=8),
    codebook: "{±1/(2^bits - 1), ±3/(2^bits - 1), ..., ±1}",
    scale: "1",
    solver: "rounding of tanh",
    source: "Zhou et al. 2016 (arXiv 1606.06160)",
    quantizer: Some(|bits| std::sync::Arc::new(DoReFa { bits })),
};

#[derive(Debug)]
struct DoReFa {
    bits: u8,
}

impl Quantizer for DoReFa {
    fn codebook(&self) -> Codebook {
        Codebook::Uniform { bits: self.bits }
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Tanh)
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        problem.check_length(levels)?;
        let isa = Isa::selected();
        let largest = f64::from(f32::from_bits(problem.span().largest)).tanh();
        let magnitudes = self.codebook().magnitudes();
        let thresholds = magnitudes.thresholds_by(|midpoint| (largest * midpoint).atanh());
        let scale = Scale::One(1.0);
        Ok(finish::at_thresholds(
            isa,
            problem,
            self.codebook(),
            &magnitudes,
            &thresholds,
            scale,
            0,
            levels,
        ))
    }

    /// With the rounding passed straight through, `ŵ_i = t_i / M`, `t = tanh w`, and `M = |t_m|` for the
    /// first index m with the largest magnitude:
    /// `∂loss/∂w_i = (1 − t_i²) / M · (g_i − [i = m] · Σ_j g_j t_j / t_m)`.
    fn latent_gradient(
        &self,
        weights: &[f32],
        _scale: Scale,
        _levels: &[i8],
        gradient: &mut [f32],
    ) {
        let length = weights.len().min(gradient.len());
        let (weights, gradient) = (&weights[..length], &mut gradient[..length]);
        let mut largest = (0, 0.0);
        for (index, &w) in weights.iter().enumerate() {
            if w.abs() > largest.1 {
                largest = (index, w.abs());
            }
        }
        let (index, magnitude) = (largest.0, f64::from(largest.1).tanh());
        if magnitude == 0.0 {
            // All weights are zero, where the derivative has no bounds; the gradient is left as it is.
            return;
        }
        let at_largest = gradient[index];
        let mut product = 0.0;
        for (gradient, &w) in gradient.iter_mut().zip(weights) {
            let t = f64::from(w).tanh();
            product += f64::from(*gradient) * t;
            let passed = f64::from(*gradient) * (1.0 - t * t) / magnitude;
            *gradient = finish::to_f32(passed);
        }
        // The weight with the largest magnitude stands at ±1 whatever its value: it only moves the others.
        let t = f64::from(weights[index]).tanh();
        let others = product - f64::from(at_largest) * t;
        gradient[index] = finish::to_f32(-(1.0 - t * t) / magnitude * others / t);
    }
}
