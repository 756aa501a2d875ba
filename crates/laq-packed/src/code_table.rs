//! What codes stand for.

use alloc::vec::Vec;

use laq_solvers::Codebook;

use crate::pack_error::PackError;

/// The multipliers of the codes of a matrix: code c stands for the weight `step · multiplier[c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeTable {
    multipliers: Vec<f32>,
}

impl CodeTable {
    /// A table of at most 256 finite multipliers in rising order.
    ///
    /// # Errors
    /// [`PackError::Table`] otherwise.
    pub fn new(multipliers: Vec<f32>) -> Result<Self, PackError> {
        let rises = multipliers.windows(2).all(|pair| pair[0] < pair[1]);
        let finite = multipliers.iter().all(|multiplier| multiplier.is_finite());
        if (1..=256).contains(&multipliers.len()) && rises && finite {
            Ok(Self { multipliers })
        } else {
            Err(PackError::Table { multipliers })
        }
    }

    /// The multipliers of a codebook, by rising level.
    ///
    /// # Errors
    /// None for the codebooks of [`laq_solvers`], which have at most 256 levels.
    pub fn of(codebook: &Codebook) -> Result<Self, PackError> {
        let levels = codebook.levels();
        Self::new(levels.map(|level| codebook.multiplier(level)).collect())
    }

    /// The multipliers in rising order.
    pub fn multipliers(&self) -> &[f32] {
        &self.multipliers
    }

    /// The table of one pair of steps. The sign of the multiplier selects the step.
    pub(crate) fn values(&self, steps: [f32; 2]) -> [f32; 16] {
        let mut values = [0.0; 16];
        for (value, &multiplier) in values.iter_mut().zip(&self.multipliers) {
            *value = multiplier * steps[usize::from(multiplier < 0.0)];
        }
        values
    }

    /// The multipliers that are not negative, and the negative ones; zero elsewhere.
    pub(crate) fn by_sign(&self) -> [[f32; 16]; 2] {
        [self.values([1.0, 0.0]), self.values([0.0, 1.0])]
    }
}
