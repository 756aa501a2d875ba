//! The scales that a format can store.

/// What an f64 adds to its exponent.
const F64_BIAS: i32 = 1023;

/// The scales that a format can store: the finite numbers of a floating-point type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleGrid {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16: up to 65504, steps of 2⁻²⁴ near zero.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// FP8 E4M3 without a sign: 0 to 448, steps of 2⁻⁹ near zero.
    E4m3,
    /// Powers of two from 2⁻¹²⁷ to 2¹²⁷, without zero and sign: the E8M0 of the MX formats.
    E8m0,
}

impl ScaleGrid {
    /// Bits of the mantissa, the exponent of the smallest normal number, and the largest number.
    pub fn layout(self) -> (i32, i32, f64) {
        match self {
            Self::F32 => (23, -126, f64::from(f32::MAX)),
            Self::F16 => (10, -14, 65504.0),
            Self::Bf16 => (7, -126, f64::from(f32::from_bits(0x7f7f_0000))),
            Self::E4m3 => (3, -6, 448.0),
            Self::E8m0 => (0, -127, f64::from_bits(((F64_BIAS + 127) as u64) << 52)),
        }
    }

    /// The bytes of a scale in a file.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E4m3 | Self::E8m0 => 1,
        }
    }

    /// Bits of the mantissa.
    pub(super) fn mantissa(self) -> u32 {
        self.layout().0 as u32
    }

    /// Whether scales may be negative.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The smallest scale that is not negative: 0, or 2⁻¹²⁷.
    pub fn smallest(self) -> f32 {
        match self {
            Self::E8m0 => f32::from_bits(1 << 22),
            _ => 0.0,
        }
    }

    /// The smallest positive scale.
    pub(super) fn smallest_positive(self) -> f64 {
        self.step(0.0)
    }

    /// From a scale that is not negative to the next: `2^(exponent − mantissa)`, a normal f64.
    pub(crate) fn step(self, scale: f64) -> f64 {
        let (mantissa, smallest_normal, _) = self.layout();
        let exponent = ((scale.to_bits() >> 52) as i32 - F64_BIAS).max(smallest_normal);
        f64::from_bits(((exponent - mantissa + F64_BIAS) as u64) << 52)
    }

    /// The scale after a positive one, which may be beyond the largest.
    pub(super) fn after(self, scale: f64) -> f64 {
        scale + self.step(scale)
    }

    /// The largest scale up to `scale` and the smallest from it on, of those up to `limit`. They are
    /// equal if `scale` can be stored, or is beyond the smallest or largest of all.
    ///
    /// `scale` is not negative.
    pub(crate) fn neighbours(self, scale: f64, limit: f64) -> [f32; 2] {
        let (.., largest) = self.layout();
        let smallest = f64::from(self.smallest());
        if scale <= smallest {
            return [self.smallest(); 2];
        }
        // The quotient is below 2^(mantissa + 1).
        let step = self.step(scale);
        let below = (scale / step) as u64 as f64 * step;
        let above = if below < scale { below + step } else { below };
        // At the limit the last of the numbers below it.
        if above > largest.min(limit) {
            let below = below.min(largest);
            let last = match below <= limit {
                true => below,
                false => f64::from(self.neighbours(limit, largest)[0]),
            };
            return [last as f32; 2];
        }
        [below.max(smallest) as f32, above as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All scales that are not negative and below 1000, by decoding every pattern.
    fn all(grid: ScaleGrid) -> Vec<f64> {
        let decoded = |bits: u32, mantissa: u32, bias: i32| {
            let (exponent, fraction) = ((bits >> mantissa) as i32, bits & ((1 << mantissa) - 1));
            let fraction = f64::from(fraction) / f64::from(1 << mantissa);
            match exponent {
                0 => fraction * 2f64.powi(1 - bias),
                _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
            }
        };
        let values: Vec<f64> = match grid {
            ScaleGrid::F16 => (0..0x7c00).map(|bits| decoded(bits, 10, 15)).collect(),
            ScaleGrid::Bf16 => (0..0x7f80).map(|bits| decoded(bits, 7, 127)).collect(),
            ScaleGrid::E4m3 => (0..0x7f).map(|bits| decoded(bits, 3, 7)).collect(),
            ScaleGrid::E8m0 => (0..0xff).map(|bits| 2f64.powi(bits - 127)).collect(),
            ScaleGrid::F32 => unreachable!("too many"),
        };
        values
    }

    #[test]
    fn neighbours_are_the_nearest_numbers_of_the_type() {
        for grid in [
            ScaleGrid::F16,
            ScaleGrid::Bf16,
            ScaleGrid::E4m3,
            ScaleGrid::E8m0,
        ] {
            let all = all(grid);
            assert_eq!(all[0], f64::from(grid.smallest()));
            let positive = all.iter().find(|scale| **scale > 0.0);
            assert_eq!(positive, Some(&grid.smallest_positive()));
            for pair in all.windows(2) {
                let (low, high) = (pair[0], pair[1]);
                let middle = low + 0.3 * (high - low);
                let found = grid.neighbours(middle, f64::MAX).map(f64::from);
                assert_eq!(found, [low, high], "{grid:?}");
                if low > 0.0 {
                    assert_eq!(grid.after(low), high, "{grid:?}");
                }
                assert_eq!(grid.neighbours(high, f64::MAX).map(f64::from), [high; 2]);
                assert_eq!(grid.neighbours(middle, middle).map(f64::from), [low; 2]);
                assert_eq!(grid.neighbours(1e30 * high, low).map(f64::from), [low; 2]);
            }
            let last = *all.last().expect("numbers");
            assert_eq!(
                grid.neighbours(2.0 * last, f64::MAX).map(f64::from),
                [last; 2]
            );
        }
        let next = f32::from_bits(1.5f32.to_bits() + 1);
        let between = (1.5 + f64::from(next)) / 2.0;
        assert_eq!(ScaleGrid::F32.neighbours(between, f64::MAX), [1.5, next]);
    }
}
