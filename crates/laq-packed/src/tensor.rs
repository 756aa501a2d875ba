//! A tensor of packed codes, with what decodes them.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use laq_solvers::{Codebook, Groups, Scale};

use crate::axis::{Axis, elements};
use crate::code_table::CodeTable;
use crate::codes::{BLOCK, Packing};
use crate::integers::Integers;
use crate::matrix::PackedMatrix;
use crate::pack_error::PackError;
use crate::steps::Steps;

/// A tensor of packed codes: a weight is `step · multiplier[code]`, rounded once to f32.
///
/// The codes are a matrix of `rows` × `columns`: the first dimension of the shape, or [another](Self::with_axis), and
/// all others.
/// Its weights are cut into groups with steps of their own, see [`Steps`].
#[derive(Clone, Debug, PartialEq)]
pub struct PackedTensor {
    shape: Vec<usize>,
    rows: usize,
    columns: usize,
    packing: Packing,
    packed: Vec<u8>,
    table: CodeTable,
    steps: Steps,
    axis: usize,
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
        Self::packed_from(shape, levels, codebook, (scales, None), packing)
    }

    /// [`from_levels`](Self::from_levels) with a scale for each of `groups`: equal groups of rows, or blocks.
    ///
    /// # Errors
    /// As [`from_levels`](Self::from_levels).
    pub fn from_groups(
        shape: &[usize],
        levels: &[i8],
        codebook: &Codebook,
        groups: Groups,
        scales: &[Scale],
        packing: Packing,
    ) -> Result<Self, PackError> {
        let scaled = (scales, groups.block());
        Self::packed_from(shape, levels, codebook, scaled, packing)
    }

    fn packed_from(
        shape: &[usize],
        levels: &[i8],
        codebook: &Codebook,
        (scales, block): (&[Scale], Option<usize>),
        packing: Packing,
    ) -> Result<Self, PackError> {
        let of_rows = if block.is_some() { 1 } else { scales.len() };
        let (rows, columns) = matrix_shape(shape, of_rows);
        let packed = packing.pack(levels, rows, columns, codebook)?;
        let two = matches!(scales.first(), Some(Scale::Two { .. }));
        let steps = scales.iter().flat_map(|scale| {
            let [positive, negative] = scale.pair().map(|scale| codebook.step(scale));
            [Some(positive), two.then_some(negative)]
        });
        let values = steps.flatten().collect();
        let steps = Steps { values, two, block };
        let table = CodeTable::of(codebook)?;
        Self::new(shape, rows, packing, packed, table, steps)
    }

    /// A tensor from its parts, which are checked.
    ///
    /// # Errors
    /// [`PackError`] if a length does not match, a code has no multiplier, or a step is not finite.
    pub fn new(
        shape: &[usize],
        rows: usize,
        packing: Packing,
        packed: Vec<u8>,
        table: CodeTable,
        steps: Steps,
    ) -> Result<Self, PackError> {
        let columns = columns_of(shape, rows)?;
        steps.check(rows, columns)?;
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
            axis: 0,
        })
    }

    /// The tensor whose dimension `axis` is the first of this one, and whose others follow in their order: for
    /// steps of the channels of a transposed convolution, or of weights stored by inputs.
    ///
    /// # Errors
    /// [`PackError::NoAxis`] if there are no so many dimensions.
    pub fn with_axis(mut self, axis: usize) -> Result<Self, PackError> {
        if axis >= self.shape.len().max(1) {
            let shape = self.shape;
            return Err(PackError::NoAxis { axis, shape });
        }
        if axis > 0 {
            self.shape[..=axis].rotate_left(1);
        }
        self.axis = axis;
        Ok(self)
    }

    /// The dimension of the tensor that is the first of the codes.
    pub fn axis(&self) -> usize {
        self.axis
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
        &self.steps.values
    }

    /// Whether each group has two steps.
    pub fn has_two_steps(&self) -> bool {
        self.steps.two
    }

    /// The weights of a block, where blocks have steps of their own.
    pub fn block(&self) -> Option<usize> {
        self.steps.block
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.steps.values.len() / self.steps.per_group()
    }

    /// Bytes of codes and steps in a file.
    pub fn bytes(&self) -> usize {
        let of_step = if self.has_half_steps() { 2 } else { 4 };
        self.packed.len() + of_step * self.steps.values.len()
    }

    /// Whether a file has the steps in f16: those of blocks, where none is rounded.
    pub(crate) fn has_half_steps(&self) -> bool {
        let is_half = |step: &f32| half::f16::from_f32(*step).to_f32().to_bits() == step.to_bits();
        self.steps.block.is_some() && self.steps.values.iter().all(is_half)
    }

    /// How many weights have each code.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.table.multipliers().len()];
        self.for_each_code(|_, code| counts[usize::from(code)] += 1);
        counts
    }

    /// The code of each weight, row-major.
    pub fn codes(&self) -> Vec<u8> {
        let (mut codes, place) = (vec![0; self.elements()], self.place());
        self.for_each_code(|index, code| codes[place(index)] = code);
        codes
    }

    /// The place in the tensor of an element of the matrix.
    fn place(&self) -> impl Fn(usize) -> usize + use<> {
        let axis = Axis::of(&self.shape, self.axis).filter(|_| self.axis > 0);
        move |index| axis.map_or(index, |axis| axis.place(index))
    }

    /// Whether the rows of the matrix are those of the tensor, with a step or two each.
    pub(crate) fn has_rows(&self) -> bool {
        self.steps.block.is_none() && self.axis == 0
    }

    /// The group of an element of the matrix.
    pub(crate) fn group_of(&self, index: usize) -> usize {
        self.steps.groups(self.rows, self.columns).group_of(index)
    }

    /// The multipliers as integers; `None` if they are none, a group has two steps, or a scale is so small that the
    /// integers times it are other weights.
    pub(crate) fn integers(&self) -> Option<Integers> {
        if self.steps.two {
            return None;
        }
        let multipliers = self.table.multipliers();
        let integers = Integers::of(multipliers)?;
        let is_exact = |step: &f32| {
            let mut both = integers.values.iter().zip(multipliers);
            both.all(|(value, multiplier)| {
                f32::from(*value) * (step * integers.unit) == step * multiplier
            })
        };
        self.steps.values.iter().all(is_exact).then_some(integers)
    }

    /// The scales of the integers of blocks.
    pub(crate) fn scales_of_blocks(&self, integers: &Integers) -> Vec<f32> {
        let steps = self.steps.values.iter();
        steps.map(|step| step * integers.unit).collect()
    }

    /// The scales of the integers without blocks: one, or one for each row, whose group `group_of_row` is.
    /// `side` selects the step of a group.
    pub(crate) fn scales_of_rows(
        &self,
        integers: &Integers,
        side: usize,
        group_of_row: &dyn Fn(usize) -> usize,
    ) -> Vec<f32> {
        let per_group = self.steps.per_group();
        let scale = |row| self.steps.values[group_of_row(row) * per_group + side] * integers.unit;
        match self.groups() {
            1 => vec![scale(0)],
            _ => (0..self.rows).map(scale).collect(),
        }
    }

    /// The value of each code, group by group.
    pub(crate) fn values(&self) -> Vec<f32> {
        let of_group = |group: usize| {
            let [above, below] = self.steps.of_group(group);
            let value = move |m: &f32| m * if *m < 0.0 { below } else { above };
            self.table.multipliers().iter().map(value)
        };
        (0..self.groups()).flat_map(of_group).collect()
    }

    /// The weights in f32, row-major.
    pub fn decode(&self) -> Vec<f32> {
        let groups = self.steps.groups(self.rows, self.columns);
        let multipliers = self.table.multipliers();
        let (mut weights, place) = (vec![0.0; self.elements()], self.place());
        let (mut range, mut steps) = (0..0, [0.0; 2]);
        self.for_each_code(|index, code| {
            if !range.contains(&index) {
                let group = groups.group_of(index);
                (range, steps) = (groups.range(group), self.steps.of_group(group));
            }
            let multiplier = multipliers[usize::from(code)];
            weights[place(index)] = multiplier * steps[usize::from(multiplier < 0.0)];
        });
        weights
    }

    /// The matrix of rows × columns, for products.
    ///
    /// # Errors
    /// [`PackError::TooManyCodes`] if there are more than 16 multipliers, [`PackError::NoBlocks`] if blocks have
    /// steps, [`PackError::OtherAxis`] if the rows are another axis of the tensor than the first.
    pub fn matrix(&self) -> Result<PackedMatrix, PackError> {
        if self.axis > 0 {
            return Err(PackError::OtherAxis { axis: self.axis });
        }
        if self.steps.block.is_some() {
            return Err(PackError::NoBlocks);
        }
        PackedMatrix::new(
            self.rows,
            self.columns,
            self.packing,
            &self.packed,
            self.table.clone(),
            &self.steps.values,
            self.steps.two,
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
    let fits = match shape {
        [] => rows == 1,
        [length] => rows == 1 || rows == *length,
        [first, ..] => rows == *first,
    };
    match elements(shape) {
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
