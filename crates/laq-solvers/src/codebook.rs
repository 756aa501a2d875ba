//! The sets of levels that quantized weights may take, and the one rule that turns a level and a
//! scale into a weight. Training, export and inference all decode by it.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::kernels;
use crate::problem::SolveError;
use laq_simd::Isa;

/// The levels `Q` that the entries `b_i` of `ŵ = α·b` are taken from, symmetric and within [−1, 1].
///
/// A level is stored as an `i8` index, written `i` here; with `k = 2^(bits − 1) − 1`:
///
/// | codebook | indices | value of index i | paper |
/// |---|---|---|---|
/// | `Binary` | −1, 1 | i | §2, LAB |
/// | `Ternary` | −1, 0, 1 | i | §2, LAT |
/// | `Linear` | −k ..= k | i / k | §2, LAQ linear |
/// | `Logarithmic` | −k ..= k | sign(i) · 2^(abs i − k), and 0 for 0 | §2, LAQ log |
/// | `Uniform` | −2^(bits−1) ..= 2^(bits−1) − 1 | (2i + 1) / (2^bits − 1) | §2, DoReFa; no zero |
/// | `Given`, zero among its m magnitudes | −(m − 1) ..= m − 1 | sign(i) · magnitude number abs i, from 0 | see [`Codebook::given`] |
/// | `Given`, without zero | −m ..= m − 1 | magnitude number i, or minus number −1 − i where i < 0 | |
///
/// Bits run from 2 to 8. The solvers refuse others; the plain look-ups below, which cannot fail, clamp
/// bits to that range and indices to the codebook's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The one field's meaning stands above.
pub enum Codebook {
    /// {−1, 1}
    Binary,
    /// {−1, 0, 1}
    Ternary,
    /// {0, ±1/k, …, ±(k−1)/k, ±1}
    Linear { bits: u8 },
    /// {0, ±2^−(k−1), …, ±½, ±1}
    Logarithmic { bits: u8 },
    /// {±1/(2^bits − 1), ±3/(2^bits − 1), …, ±1}
    Uniform { bits: u8 },
    /// Levels of one's own, symmetric to zero.
    Given(Given),
}

/// Magnitudes that [`Codebook::given`] has found fit to be a codebook.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    magnitudes: &'static [f32],
}

impl Given {
    /// The magnitudes, rising.
    pub fn magnitudes(self) -> &'static [f32] {
        self.magnitudes
    }

    fn bits(self) -> impl Iterator<Item = u32> {
        self.magnitudes.iter().map(|magnitude| magnitude.to_bits())
    }

    fn has_zero(self) -> bool {
        self.magnitudes[0] == 0.0
    }
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.bits().eq(other.bits())
    }
}

impl Eq for Given {}

impl Hash for Given {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits().for_each(|bits| bits.hash(state));
    }
}

/// What the levels are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// One scale `α` for all levels.
    One(f32),
    /// A scale for each sign: `ŵ = α·b` where the level is positive, `ŵ = β·b` where it is negative.
    Two {
        /// α, of the positive levels.
        positive: f32,
        /// β, of the negative levels: a magnitude, the sign is the level's.
        negative: f32,
    },
}

impl Scale {
    /// The factors of the positive and of the negative levels.
    pub fn pair(self) -> [f32; 2] {
        match self {
            Scale::One(scale) => [scale; 2],
            Scale::Two { positive, negative } => [positive, negative],
        }
    }
}

/// Most levels above zero that a codebook can have (`Uniform` with 8 bits).
pub(crate) const MOST_MAGNITUDES: usize = 128;

impl Codebook {
    /// The codebook of some magnitudes and their negatives: rising, from zero or above it to 1 at most, 128 of
    /// them at most. The slice lives as long as the program, as a constant does; magnitudes that are only known
    /// at run time become such a slice by [`Vec::leak`].
    ///
    /// The levels of the four-bit float E2M1, as shares of the largest:
    ///
    /// ```
    /// use laq_solvers::{Codebook, Problem, Workspace, exact};
    ///
    /// const E2M1: [f32; 8] = [0.0, 1.0 / 12.0, 1.0 / 6.0, 0.25, 1.0 / 3.0, 0.5, 2.0 / 3.0, 1.0];
    /// let codebook = Codebook::given(&E2M1)?;
    /// let problem = Problem::new(&[0.9, -0.31, 0.05, -0.8], None)?;
    /// let mut levels = [0; 4];
    /// exact(problem, codebook, &mut levels, &mut Workspace::default())?;
    /// assert_eq!(levels, [7, -4, 1, -7]);
    /// # Ok::<(), laq_solvers::SolveError>(())
    /// ```
    ///
    /// # Errors
    /// Magnitudes that are none, all zero, more than 128, not rising or outside [0, 1].
    pub fn given(magnitudes: &'static [f32]) -> Result<Codebook, SolveError> {
        let refused = |reason| Err(SolveError::Magnitudes { reason });
        let (Some(&first), Some(&last)) = (magnitudes.first(), magnitudes.last()) else {
            return refused("there are none".to_owned());
        };
        if magnitudes.len() > MOST_MAGNITUDES {
            return refused(format!("there are {}", magnitudes.len()));
        }
        let not_above = |pair: &&[f32]| pair[0].partial_cmp(&pair[1]) != Some(Ordering::Less);
        if let Some(pair) = magnitudes.windows(2).find(not_above) {
            return refused(format!("{} is followed by {}", pair[0], pair[1]));
        }
        if first.is_sign_negative() || !(0.0..=1.0).contains(&first) {
            return refused(format!("the first is {first}"));
        }
        if !(last > 0.0 && last <= 1.0) {
            return refused(format!("the last is {last}"));
        }
        Ok(Codebook::Given(Given { magnitudes }))
    }

    /// The value of a level, within [−1, 1].
    pub fn value(self, level: i8) -> f32 {
        match self.rule() {
            Rule::Sign(rule) => rule.value(level),
            Rule::Affine(rule) => rule.value(level),
            Rule::PowerOfTwo(rule) => rule.value(level),
            Rule::Given(rule) => rule.value(level),
        }
    }

    /// The level indices in rising order.
    pub fn levels(self) -> impl Iterator<Item = i8> {
        let (low, high) = match self.rule() {
            Rule::Sign(_) => (-1, 1),
            Rule::Affine(rule) => (rule.low, rule.high),
            Rule::PowerOfTwo(rule) => (-rule.top, rule.top),
            Rule::Given(rule) => rule.range(),
        };
        (low..=high).filter(move |&level| self != Codebook::Binary || level != 0)
    }

    /// The values of all levels in rising order.
    pub fn values(self) -> Vec<f32> {
        self.levels().map(|level| self.value(level)).collect()
    }

    /// Bits that one level takes when packed: the fewest that tell all levels apart.
    pub fn storage_bits(self) -> u8 {
        match self {
            Codebook::Binary => 1,
            Codebook::Ternary => 2,
            Codebook::Linear { bits }
            | Codebook::Logarithmic { bits }
            | Codebook::Uniform { bits } => bits.clamp(2, 8),
            Codebook::Given(_) => self.levels().count().next_power_of_two().ilog2() as u8,
        }
    }

    /// `ŵ_i = scale · value(level_i)`, rounded once to f32: the one decode rule.
    ///
    /// With two scales the level's sign picks the scale. Stops at the end of the shorter slice.
    pub fn decode(self, levels: &[i8], scale: Scale, quantized: &mut [f32]) {
        // Every kernel gives the same bits, so there is nothing to report when none could be picked.
        let isa = Isa::selected();
        kernels::decode(isa, self, levels, scale, quantized);
    }

    /// The levels' magnitudes in rising order, zero included where the codebook has it.
    pub(crate) fn magnitudes(self) -> Magnitudes {
        let mut magnitudes = Magnitudes {
            values: [0.0; MOST_MAGNITUDES],
            count: 0,
            first_positive: 0,
            first_negative: 0,
        };
        for level in self.levels().filter(|&level| level >= 0) {
            if magnitudes.count == 0 {
                magnitudes.first_positive = level;
            }
            magnitudes.values[magnitudes.count] = self.value(level);
            magnitudes.count += 1;
        }
        magnitudes.first_negative = if magnitudes.values[0] > 0.0 { -1 } else { 0 };
        magnitudes
    }

    pub(crate) fn check(self) -> Result<(), SolveError> {
        match self {
            Codebook::Linear { bits }
            | Codebook::Logarithmic { bits }
            | Codebook::Uniform { bits }
                if !(2..=8).contains(&bits) =>
            {
                Err(SolveError::Bits { bits })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn rule(self) -> Rule {
        let affine = |low, high, slope, offset, divisor| {
            Rule::Affine(Affine {
                low,
                high,
                slope,
                offset,
                divisor,
            })
        };
        let top = |bits: u8| i8::MAX >> (8 - bits.clamp(2, 8));
        match self {
            Codebook::Binary | Codebook::Ternary => Rule::Sign(Sign),
            Codebook::Linear { bits } => affine(-top(bits), top(bits), 1, 0, f32::from(top(bits))),
            Codebook::Logarithmic { bits } => Rule::PowerOfTwo(PowerOfTwo { top: top(bits) }),
            Codebook::Given(given) => Rule::Given(given),
            Codebook::Uniform { bits } => {
                let top = top(bits);
                affine(-top - 1, top, 2, 1, 2.0 * f32::from(top) + 1.0)
            }
        }
    }
}

/// A codebook seen from zero outwards. The level of magnitude number m is `first_positive + m` for a
/// weight that is not negative and `first_negative − m` for one that is.
#[derive(Clone, Copy)]
pub(crate) struct Magnitudes {
    values: [f32; MOST_MAGNITUDES],
    count: usize,
    pub(crate) first_positive: i8,
    pub(crate) first_negative: i8,
}

impl Magnitudes {
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.count]
    }

    /// Midpoints between neighbouring magnitudes, rising: one fewer than there are magnitudes.
    pub(crate) fn midpoints(&self) -> impl ExactSizeIterator<Item = f64> {
        self.values()
            .windows(2)
            .map(|pair| 0.5 * (f64::from(pair[0]) + f64::from(pair[1])))
    }

    /// A weight takes magnitude m or a higher one where `|w|` is above threshold number m − 1, that is,
    /// above the midpoint times the scale. A scale of zero leaves every weight at the lowest magnitude.
    pub(crate) fn thresholds(&self, scale: f64) -> Thresholds {
        self.thresholds_by(|midpoint| {
            if scale > 0.0 {
                midpoint * scale
            } else {
                f64::INFINITY
            }
        })
    }

    /// Thresholds at `border(midpoint)`, which must be rising.
    pub(crate) fn thresholds_by(&self, border: impl Fn(f64) -> f64) -> Thresholds {
        let mut thresholds = Thresholds {
            values: [f32::INFINITY; MOST_MAGNITUDES],
            count: self.count - 1,
        };
        for (threshold, midpoint) in thresholds.values.iter_mut().zip(self.midpoints()) {
            *threshold = at_most(border(midpoint));
        }
        thresholds
    }
}

/// Thresholds on `|w|`, rising.
#[derive(Clone, Copy)]
pub(crate) struct Thresholds {
    values: [f32; MOST_MAGNITUDES],
    count: usize,
}

impl Thresholds {
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.count]
    }
}

/// The largest f32 that is not above `bound ≥ 0`. An f32 is above `bound` exactly where it is above this,
/// so kernels compare in f32 and lose nothing.
pub(crate) fn at_most(bound: f64) -> f32 {
    let rounded = bound as f32;
    if f64::from(rounded) > bound {
        rounded.next_down()
    } else {
        rounded
    }
}

/// How a level index becomes a value, in a form that compiles to straight vector code.
pub(crate) trait LevelValue: Copy {
    fn value(self, level: i8) -> f32;
}

pub(crate) enum Rule {
    Sign(Sign),
    Affine(Affine),
    PowerOfTwo(PowerOfTwo),
    Given(Given),
}

/// The level itself, −1, 0 or 1.
#[derive(Clone, Copy)]
pub(crate) struct Sign;

impl LevelValue for Sign {
    #[inline(always)]
    fn value(self, level: i8) -> f32 {
        f32::from(level.clamp(-1, 1))
    }
}

/// `(slope · i + offset) / divisor`
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    low: i8,
    high: i8,
    slope: i32,
    offset: i32,
    divisor: f32,
}

impl LevelValue for Affine {
    #[inline(always)]
    fn value(self, level: i8) -> f32 {
        let level = i32::from(level.clamp(self.low, self.high));
        (self.slope * level + self.offset) as f32 / self.divisor
    }
}

/// `sign(i) · 2^(|i| − top)`, built from its exponent bits.
#[derive(Clone, Copy)]
pub(crate) struct PowerOfTwo {
    top: i8,
}

impl LevelValue for PowerOfTwo {
    #[inline(always)]
    fn value(self, level: i8) -> f32 {
        let level = i32::from(level.clamp(-self.top, self.top));
        let exponent = (127 - i32::from(self.top) + level.abs()) as u32;
        let sign = (level as u32) & 0x8000_0000;
        let bits = if level == 0 {
            0
        } else {
            sign | (exponent << 23)
        };
        f32::from_bits(bits)
    }
}

impl Given {
    /// The lowest and the highest level.
    fn range(self) -> (i8, i8) {
        let highest = (self.magnitudes.len() - 1) as i8;
        (
            if self.has_zero() {
                -highest
            } else {
                -1 - highest
            },
            highest,
        )
    }
}

impl LevelValue for Given {
    #[inline(always)]
    fn value(self, level: i8) -> f32 {
        let (low, high) = self.range();
        let level = level.clamp(low, high);
        let mirrored = if self.has_zero() {
            -i16::from(level)
        } else {
            -1 - i16::from(level)
        };
        if level < 0 {
            -self.magnitudes[mirrored as usize]
        } else {
            self.magnitudes[level as usize]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An f32 is above the bound exactly where it is above the bound's f32.
    #[test]
    fn bounds_lose_nothing_in_f32() {
        let smallest = f64::from(f32::from_bits(1));
        for bound in [
            0.0,
            0.1,
            0.3,
            1.0 / 3.0,
            1.0,
            1e-40,
            0.6 * smallest,
            0.4 * smallest,
            1e38,
            1e39,
        ] {
            let found = at_most(bound);
            assert!(f64::from(found) <= bound, "{found} {bound}");
            assert!(f64::from(found.next_up()) > bound, "{found} {bound}");
        }
        assert_eq!(at_most(f64::INFINITY), f32::INFINITY);
    }
}
