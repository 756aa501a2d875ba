//! The integers of codes, for products with activations of 8 bits.

use alloc::vec::Vec;

use laq_simd::{Isa, multiversion};

use crate::code_table::CodeTable;
use crate::integers::Integers;
use crate::kernels::{IntegerCodes, PANEL_ROWS};

/// Multipliers as integers: `multiplier = unit · (factor · table[code] + offset)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IntegerTable {
    pub(crate) integers: IntegerCodes,
    factor: f64,
    offset: f64,
    /// A power of two.
    unit: f64,
}

impl IntegerTable {
    /// `None` unless the multipliers are integers up to 64 times a power of two.
    pub(crate) fn of(table: &CodeTable) -> Option<Self> {
        let Integers { values, unit } = Integers::of(table.multipliers())?;
        let integers: Vec<i32> = values.into_iter().map(i32::from).collect();
        if integers.iter().any(|integer| integer.abs() > 64) {
            return None;
        }
        let lowest = *integers.first()?;
        let step = integers.get(1).map_or(1, |next| next - lowest);
        let is_arithmetic =
            (integers.iter().enumerate()).all(|(code, &m)| m == lowest + code as i32 * step);
        let (factor, offset) = if is_arithmetic {
            (step, lowest)
        } else {
            (1, -64)
        };
        let mut table = [0; 16];
        for (entry, integer) in table.iter_mut().zip(&integers) {
            *entry = u8::try_from((integer - offset) / factor).ok()?;
        }
        Some(Self {
            integers: IntegerCodes {
                table,
                identity: is_arithmetic,
            },
            factor: factor.into(),
            offset: offset.into(),
            unit: unit.into(),
        })
    }

    /// The outputs of a panel from its sums; `x` has the scale and the sum of the activations.
    pub(crate) fn scale_rows<T: Sum>(
        &self,
        isa: Isa,
        (scale, total): (f64, f64),
        two_steps: bool,
        sums: &[[T; PANEL_ROWS]; 2],
        steps: &[[f32; PANEL_ROWS]; 2],
        y: &mut [f32; PANEL_ROWS],
    ) {
        if two_steps {
            scale_two(isa, scale, self.unit, total, sums, steps, y);
        } else {
            let (factor, offset) = (self.factor, self.offset * total);
            scale_one(
                isa, scale, self.unit, factor, offset, &sums[0], &steps[0], y,
            );
        }
    }
}

/// An integer sum: of one block, or in f64, which is exact up to 2⁵³.
pub(crate) trait Sum: Copy + Into<f64> {}
impl Sum for i32 {}
impl Sum for f64 {}

multiversion! {
    /// y = scale·(unit·step·(factor·sum + offset))
    fn scale_one<T: Sum>(
        scale: f64, unit: f64, factor: f64, offset: f64,
        sums: &[T; PANEL_ROWS], steps: &[f32; PANEL_ROWS], y: &mut [f32; PANEL_ROWS],
    ) {
        for lane in 0..PANEL_ROWS {
            let sum: f64 = sums[lane].into();
            y[lane] = (scale * (unit * f64::from(steps[lane]) * (factor * sum + offset))) as f32;
        }
    }
}

multiversion! {
    /// With codes 0, 1, 2 for −β, 0, α: Σ code·q = Z + 2P and Σ q = N + Z + P, and y = scale·(α·P − β·N).
    fn scale_two<T: Sum>(
        scale: f64, unit: f64, total: f64,
        sums: &[[T; PANEL_ROWS]; 2], steps: &[[f32; PANEL_ROWS]; 2], y: &mut [f32; PANEL_ROWS],
    ) {
        for lane in 0..PANEL_ROWS {
            let above: f64 = sums[1][lane].into();
            let of_codes: f64 = sums[0][lane].into();
            let below = total + above - of_codes;
            let value = unit * f64::from(steps[0][lane]) * above
                - unit * f64::from(steps[1][lane]) * below;
            y[lane] = (scale * value) as f32;
        }
    }
}
