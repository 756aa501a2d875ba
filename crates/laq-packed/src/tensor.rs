//! A tensor of packed codes, with what decodes them.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use laq_solvers::{Codebook, Scale};

use crate::codes::{BLOCK, PackError, Packing};
use crate::matrix::{CodeTable, PackedMatrix};

/// A tensor of packed codes: a weight is `step · multiplier[code]`, rounded once to f32.
///
/// The codes are a matrix of `rows` × `columns`: the first dimension of the shape, and all others.
/// Row r belongs to group `r · groups / rows`. A group has one step, or one for multipliers that are
/// not negative and one for negative ones.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedTensor {
    shape: Vec<usize>,
    rows: usize,
    columns: usize,
    packing: Packing,
    packed: Vec<u8>,
    table: CodeTable,
    steps: Vec<f32>,
    two_steps: bool,
}

impl PackedTensor {
    /// Packs levels that a solver found, with one scale for each of the equal groups of rows.
    ///
    /// # Errors
    /// [`PackError`] if a length does not match, a level is not in the codebook, or a step is not
    /// finite.
    pub fn from_levels(
        shape: &[usize],
        levels: &[i8],
        codebook: &Codebook,
        scales: &[Scale],
        packing: Packing,
    ) -> Result<Self, PackError> {
        let (rows, columns) = matrix_shape(shape, scales.len());
        let packed = packing.pack(levels, rows, columns, codebook)?;
        let two_steps = matches!(scales.first(), Some(Scale::Two { .. }));
        let steps = scales.iter().flat_map(|scale| {
            let [positive, negative] = scale.pair().map(|scale| codebook.step(scale));
            [Some(positive), two_steps.then_some(negative)]
        });
        let steps = steps.flatten().collect();
        let table = CodeTable::of(codebook)?;
        Self::new(shape, rows, packing, packed, table, steps, two_steps)
    }

    /// A tensor from its parts, which are checked. `steps` has one element for each group, or two
    /// with `two_steps`.
    ///
    /// # Errors
    /// [`PackError`] if a length does not match, a code has no multiplier, or a step is not finite.
    pub fn new(
        shape: &[usize],
        rows: usize,
        packing: Packing,
        packed: Vec<u8>,
        table: CodeTable,
        steps: Vec<f32>,
        two_steps: bool,
    ) -> Result<Self, PackError> {
        let columns = columns_of(shape, rows)?;
        check_steps(&steps, two_steps, rows)?;
        let count = table.multipliers().len();
        packing.unpack_with(&packed, rows, columns, count, |_, _, _| {})?;
        Ok(Self {
            shape: shape.to_vec(),
            rows,
            columns,
            packing,
            packed,
            table,
            steps,
            two_steps,
        })
    }

    /// The sizes of the tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Rows of the matrix of codes.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of weights.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// How the codes are packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The packed codes, row by row.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The multipliers of the codes.
    pub fn table(&self) -> &CodeTable {
        &self.table
    }

    /// The steps of the groups.
    pub fn steps(&self) -> &[f32] {
        &self.steps
    }

    /// Whether each group has two steps.
    pub fn has_two_steps(&self) -> bool {
        self.two_steps
    }

    /// The number of groups of rows.
    pub fn groups(&self) -> usize {
        self.steps.len() / steps_per_group(self.two_steps)
    }

    /// Bytes of codes and steps in a file.
    pub fn bytes(&self) -> usize {
        self.packed.len() + 4 * self.steps.len()
    }

    /// How many weights have each code.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.table.multipliers().len()];
        self.for_each_code(|_, code| counts[usize::from(code)] += 1);
        counts
    }

    /// The code of each weight, row-major.
    pub(crate) fn codes(&self) -> Vec<u8> {
        let mut codes = vec![0; self.elements()];
        self.for_each_code(|index, code| codes[index] = code);
        codes
    }

    /// The group of a weight.
    pub(crate) fn group_of(&self, index: usize) -> usize {
        index
            / self
                .elements()
                .checked_div(self.groups())
                .unwrap_or(0)
                .max(1)
    }

    /// The value of each code, group by group.
    pub(crate) fn values(&self) -> Vec<f32> {
        let steps = self.steps.chunks_exact(steps_per_group(self.two_steps));
        let of_group = |steps: &[f32]| {
            let (first, last) = (steps[0], steps[steps.len() - 1]);
            let value = move |m: &f32| m * if *m < 0.0 { last } else { first };
            self.table
                .multipliers()
                .iter()
                .map(value)
                .collect::<Vec<_>>()
        };
        steps.flat_map(of_group).collect()
    }

    /// The weights in f32, row-major.
    pub fn decode(&self) -> Vec<f32> {
        let per_group = steps_per_group(self.two_steps);
        let elements_per_group = self
            .elements()
            .checked_div(self.groups())
            .unwrap_or(0)
            .max(1);
        let multipliers = self.table.multipliers();
        let mut weights = vec![0.0; self.elements()];
        self.for_each_code(|index, code| {
            let multiplier = multipliers[usize::from(code)];
            let steps = &self.steps[index / elements_per_group * per_group..][..per_group];
            let negative = multiplier < 0.0;
            weights[index] = multiplier * steps[if negative { per_group - 1 } else { 0 }];
        });
        weights
    }

    /// The matrix of rows × columns, for products.
    ///
    /// # Errors
    /// [`PackError::TooManyCodes`] if there are more than 16 multipliers.
    pub fn matrix(&self) -> Result<PackedMatrix, PackError> {
        PackedMatrix::new(
            self.rows,
            self.columns,
            self.packing,
            &self.packed,
            self.table.clone(),
            &self.steps,
            self.two_steps,
        )
    }

    /// The same weights in another packing.
    ///
    /// # Errors
    /// [`PackError::Codebook`] if the packing has fewer codes than there are multipliers.
    pub fn with_packing(&self, packing: Packing) -> Result<Self, PackError> {
        let (levels, available) = (self.table.multipliers().len(), packing.codes());
        if levels > available {
            return Err(PackError::Codebook {
                levels,
                codes: available,
            });
        }
        let mut codes = vec![0; self.elements()];
        self.for_each_code(|index, code| codes[index] = code);
        let packed = packing.pack_with(self.rows, self.columns, |row, column| {
            Ok(codes[row * self.columns + column])
        })?;
        Ok(Self {
            packing,
            packed,
            ..self.clone()
        })
    }

    fn for_each_code(&self, mut put: impl FnMut(usize, u8)) {
        let (count, columns) = (self.table.multipliers().len(), self.columns);
        let put_all = |row, part: Range<usize>, codes: &[u8; BLOCK]| {
            for (column, code) in part.zip(codes) {
                put(row * columns + column, *code);
            }
        };
        (self.packing)
            .unpack_with(&self.packed, self.rows, columns, count, put_all)
            .expect("checked when the tensor was made");
    }
}

/// The columns of a tensor in `rows` rows, which are those of [`matrix_shape`]; an error for others, and
/// if the number of elements overflows.
pub(crate) fn columns_of(shape: &[usize], rows: usize) -> Result<usize, PackError> {
    let elements = (shape.iter()).try_fold(1usize, |n, size| n.checked_mul(*size));
    let fits = match shape {
        [] => rows == 1,
        [length] => rows == 1 || rows == *length,
        [first, ..] => rows == *first,
    };
    match elements {
        Some(elements) if fits => Ok(elements.checked_div(rows).unwrap_or(0)),
        _ => Err(PackError::Shape {
            shape: shape.to_vec(),
            rows,
        }),
    }
}

/// Rows and columns of a tensor with `groups` groups: a vector is one row unless it has several
/// groups.
pub(crate) fn matrix_shape(shape: &[usize], groups: usize) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [length] if groups <= 1 => (1, *length),
        [rows, others @ ..] => (*rows, others.iter().product()),
    }
}

fn steps_per_group(two_steps: bool) -> usize {
    if two_steps { 2 } else { 1 }
}

/// Checks that the steps are finite, and those of groups that divide `rows`.
pub(crate) fn check_steps(steps: &[f32], two_steps: bool, rows: usize) -> Result<(), PackError> {
    let per_group = steps_per_group(two_steps);
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
    match steps.iter().position(|step| !step.is_finite()) {
        Some(index) => Err(PackError::Step {
            index,
            value: steps[index],
        }),
        None => Ok(()),
    }
}
