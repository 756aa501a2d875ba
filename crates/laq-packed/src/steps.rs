//! The steps of the groups of a matrix.

use alloc::vec::Vec;

use laq_solvers::{Groups, MAX_BLOCK};

use crate::pack_error::PackError;

/// The steps of the groups of a matrix.
///
/// Without blocks row r belongs to group `r · groups / rows`. With blocks every row is cut into blocks of
/// that many weights, of which the last may be shorter, and each is a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// One for each group, or two with `two`.
    pub values: Vec<f32>,
    /// Whether a group has one step for multipliers that are not negative and one for negative ones.
    pub two: bool,
    /// The weights of a block.
    pub block: Option<usize>,
}

impl Steps {
    pub(crate) fn per_group(&self) -> usize {
        if self.two { 2 } else { 1 }
    }

    /// The steps of a group: of multipliers that are not negative, and of negative ones.
    pub(crate) fn of_group(&self, group: usize) -> [f32; 2] {
        let steps = &self.values[group * self.per_group()..][..self.per_group()];
        [steps[0], steps[steps.len() - 1]]
    }

    /// The groups of a matrix with these steps.
    pub(crate) fn groups(&self, rows: usize, columns: usize) -> Groups {
        let count = self.values.len() / self.per_group();
        match self.block {
            Some(length) => Groups::blocks(rows, columns, length),
            None => Groups::equal(rows * columns, count.max(1)),
        }
    }

    /// Checks that the steps are finite, and those of groups of a matrix.
    pub(crate) fn check(&self, rows: usize, columns: usize) -> Result<(), PackError> {
        let Some(length) = self.block else {
            return check_steps(&self.values, self.two, rows);
        };
        if !(1..=MAX_BLOCK).contains(&length) {
            return Err(PackError::Block { length });
        }
        let groups = Groups::blocks(rows, columns, length).count();
        let expected = groups.saturating_mul(self.per_group());
        let found = self.values.len();
        if found != expected {
            return Err(PackError::BlockSteps { found, expected });
        }
        check_finite(&self.values)
    }
}

/// Checks that the steps are finite, and those of groups that divide `rows`.
pub(crate) fn check_steps(steps: &[f32], two_steps: bool, rows: usize) -> Result<(), PackError> {
    let per_group = if two_steps { 2 } else { 1 };
    let groups = steps.len() / per_group;
    if rows == 0 && steps.is_empty() {
        return Ok(());
    }
    let whole = groups > 0 && steps.len() == groups * per_group && rows.is_multiple_of(groups);
    if !whole {
        return Err(PackError::Steps {
            found: steps.len(),
            per_group,
            rows,
        });
    }
    check_finite(steps)
}

fn check_finite(steps: &[f32]) -> Result<(), PackError> {
    match steps.iter().position(|step| !step.is_finite()) {
        Some(index) => Err(PackError::Step {
            index,
            value: steps[index],
        }),
        None => Ok(()),
    }
}
