//! The values that the codes of a block stand for.

use crate::error::SolveError;

/// The most values of a codebook of blocks.
const MAX_VALUES: usize = 256;

/// The largest magnitude is within this and its inverse, so that sums in f32 keep their precision.
const MAX_MAGNITUDE: f32 = 65_536.0;

/// The values `v_0 < v_1 < …` of the codes 0, 1, … of a block, which decode to `ŵ = scale · v`.
///
/// Unlike those of [`Codebook`](crate::Codebook) they need not be symmetric around zero.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockCodebook {
    pub(super) values: Vec<f32>,
}

impl BlockCodebook {
    /// Values of the caller, in rising order.
    ///
    /// # Errors
    /// [`SolveError::Values`] if there are fewer than two or more than 256, if they do not rise, or if the
    /// largest magnitude is not within 2⁻¹⁶ and 2¹⁶.
    pub fn new(values: impl Into<Vec<f32>>) -> Result<Self, SolveError> {
        let values = values.into();
        let invalid = |reason| Err(SolveError::Values { reason });
        if !(2..=MAX_VALUES).contains(&values.len()) {
            return invalid(format!("there are {}", values.len()));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return invalid(format!("one is {value}"));
        }
        let largest = values
            .iter()
            .fold(0.0f32, |most, value| most.max(value.abs()));
        if !(1.0 / MAX_MAGNITUDE..=MAX_MAGNITUDE).contains(&largest) {
            return invalid(format!("the largest magnitude is {largest}"));
        }
        if let Some(pair) = values.windows(2).find(|pair| pair[0] >= pair[1]) {
            return invalid(format!("{} is followed by {}", pair[0], pair[1]));
        }
        Ok(Self { values })
    }

    /// The integers from `low` to `high`, such as −8 to 7.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn integers(low: i16, high: i16) -> Result<Self, SolveError> {
        Self::new((low..=high).map(f32::from).collect::<Vec<_>>())
    }

    /// The values of the four-bit float E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    pub fn e2m1() -> Self {
        let magnitudes = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let negative = magnitudes[1..].iter().rev().map(|magnitude| -magnitude);
        Self {
            values: negative.chain(magnitudes).collect(),
        }
    }

    /// The values in rising order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Whether the values are their own negatives, so that a negative scale adds nothing.
    pub(super) fn is_symmetric(&self) -> bool {
        let reversed = self.values.iter().rev().map(|value| -value);
        self.values.iter().copied().eq(reversed)
    }
}
