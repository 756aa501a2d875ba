//! Multipliers as integers, for formats that store these.

use alloc::vec::Vec;

/// Multipliers as integers times a power of two.
pub(crate) struct Integers {
    /// The integer of each code.
    pub(crate) values: Vec<i8>,
    /// A power of two; the scale of an integer is `step · unit`.
    pub(crate) unit: f32,
}

impl Integers {
    /// `None` if the multipliers are not integers of at most 8 bits times a power of two.
    pub(crate) fn of(multipliers: &[f32]) -> Option<Self> {
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
