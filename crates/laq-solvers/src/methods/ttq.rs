//! TTQ: levels {−W_n, 0, W_p}, both scales trained, `Δ = t · max |w|` with `t = 0.05`.

use crate::codebook::{Codebook, Scale, at_most};
use crate::finish;
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};
use laq_simd::Isa;

pub(crate) const FAMILY: Family = Family {
    id: "ttq",
    aliases: &["TTQ"],
    bits: None,
    codebook: "{-1, 0, 1}",
    scale: "two, trained",
    solver: "threshold at 0.05 of the largest magnitude",
    source: "Zhu et al. 2017 (arXiv 1612.01064)",
    quantizer: Some(|_| std::sync::Arc::new(Ttq)),
};

/// The threshold, as a share of the largest magnitude. Source: PAPER.md §2.
const THRESHOLD: f64 = 0.05;

#[derive(Debug)]
struct Ttq;

impl Quantizer for Ttq {
    fn codebook(&self) -> Codebook {
        Codebook::Ternary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Trained)
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        problem.check_length(levels)?;
        let isa = Isa::selected();
        let [positive, negative] = match previous {
            Some(trained) => trained.pair(),
            None => [super::twn::threshold_and_scale(isa, problem).1; 2],
        };
        if let Some(&value) = [positive, negative].iter().find(|scale| !scale.is_finite()) {
            return Err(SolveError::Scale { value });
        }
        let largest = f32::from_bits(problem.span().largest);
        let threshold = at_most(THRESHOLD * f64::from(largest));
        let scale = Scale::Two { positive, negative };
        Ok(finish::ternary_at(
            isa, problem, threshold, threshold, scale, 0, levels,
        ))
    }

    /// `W_p·g` where the level is 1, `W_n·g` where it is −1, `g` elsewhere.
    fn latent_gradient(&self, _weights: &[f32], scale: Scale, levels: &[i8], gradient: &mut [f32]) {
        let [positive, negative] = scale.pair();
        for (gradient, &level) in gradient.iter_mut().zip(levels) {
            *gradient *= match level {
                1.. => positive,
                0 => 1.0,
                ..0 => negative,
            };
        }
    }

    /// `∂W_p = Σ g` over the levels 1, and `∂W_n = −Σ g` over the levels −1, since `ŵ = −W_n` there.
    fn scale_gradient(&self, levels: &[i8], gradient: &[f32]) -> Option<[f64; 2]> {
        let mut sums = [0.0; 2];
        for (&gradient, &level) in gradient.iter().zip(levels) {
            let gradient = f64::from(gradient);
            match level {
                1.. => sums[0] += gradient,
                0 => {}
                ..0 => sums[1] -= gradient,
            }
        }
        Some(sums)
    }
}
