//! BinaryConnect: `ŵ = sign(w)`, with the sign of zero taken as 1 and no scale.

use super::signs;
use crate::codebook::{Codebook, Scale};
use crate::method::Family;
use crate::problem::{Problem, SolveError};
use crate::quantizer::{Quantizer, Solution, Solver, Workspace};

pub(crate) const FAMILY: Family = Family {
    id: "binary-connect",
    aliases: &["BinaryConnect"],
    bits: None,
    codebook: "{-1, 1}",
    scale: "1",
    solver: "sign of the weight",
    source: "Courbariaux et al. 2015 (arXiv 1511.00363)",
    quantizer: Some(|_| std::sync::Arc::new(BinaryConnect)),
};

#[derive(Debug)]
struct BinaryConnect;

impl Quantizer for BinaryConnect {
    fn codebook(&self) -> Codebook {
        Codebook::Binary
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver::Signs)
    }

    fn solve(
        &self,
        problem: Problem<'_>,
        _previous: Option<Scale>,
        levels: &mut [i8],
        _workspace: &mut Workspace,
    ) -> Result<Solution, SolveError> {
        signs(problem, levels, |_| 1.0)
    }
}
