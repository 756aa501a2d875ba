//! Multipliers as integers, for formats that store these.

use alloc::vec;
use alloc::vec::Vec;

use crate::tensor::PackedTensor;

/// The multipliers of a tensor with one step per group, as integers times a power of two.
pub(crate) struct Integers {
    /// The integer of each code.
    pub(crate) values: Vec<i8>,
    /// A power of two; the scale of an integer is `step · unit`.
    pub(crate) unit: f32,
}

impl Integers {
    /// `None` if a group has two steps, or the multipliers are not integers of at most 8 bits times a
    /// power of two.
    pub(crate) fn of(packed: &PackedTensor) -> Option<Self> {
        if packed.has_two_steps() {
            return None;
        }
        Self::of_multipliers(packed.table().multipliers())
    }

    /// The same of multipliers alone.
    pub(crate) fn of_multipliers(multipliers: &[f32]) -> Option<Self> {
        let magnitudes = multipliers.iter().map(|multiplier| multiplier.abs());
        let smallest = magnitudes
            .filter(|m| *m > 0.0)
            .fold(f32::INFINITY, f32::min);
        let whole = multipliers.iter().all(|multiplier| multiplier % 1.0 == 0.0);
        // Integers of uniform levels, or powers of two.
        let unit = if whole { 1.0 } else { smallest };
        let is_power_of_two = unit.is_normal() && unit.to_bits().trailing_zeros() >= 23;
        if !is_power_of_two {
            return None;
        }
        let integer = |multiplier: &f32| {
            let integer = multiplier / unit;
            let fits = integer % 1.0 == 0.0 && (-128.0..=127.0).contains(&integer);
            fits.then_some(integer as i8)
        };
        let values = multipliers.iter().map(integer).collect::<Option<_>>()?;
        Some(Self { values, unit })
    }

    /// The scales of the integers of the blocks of `packed`.
    pub(crate) fn scales_of_blocks(&self, packed: &PackedTensor) -> Vec<f32> {
        packed.steps().iter().map(|step| step * self.unit).collect()
    }

    /// The scales of the integers of `packed`, which has no blocks: one, or one for each row, whose group
    /// `group_of_row` is. `side` selects the step of a group.
    pub(crate) fn scales(
        &self,
        packed: &PackedTensor,
        side: usize,
        group_of_row: &dyn Fn(usize) -> usize,
    ) -> Vec<f32> {
        let per_group = if packed.has_two_steps() { 2 } else { 1 };
        let scale = |row| packed.steps()[group_of_row(row) * per_group + side] * self.unit;
        match packed.groups() {
            1 => vec![scale(0)],
            _ => (0..packed.rows()).map(scale).collect(),
        }
    }

    /// The fewest bits of a two's complement that fit: 2 to 8.
    pub(crate) fn fewest_bits(&self) -> u32 {
        let fits = |bits: &u32| {
            let range = -(1 << (bits - 1))..1 << (bits - 1);
            self.values
                .iter()
                .all(|value| range.contains(&i32::from(*value)))
        };
        (2..8).find(fits).unwrap_or(8)
    }
}
