//! Codebooks, scales, and the rule that decodes a level. Training, export and inference all use it.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::hash::{Hash, Hasher};

use crate::error::SolveError;
use crate::level_rule::{Affine, CustomRule, LevelValue, PowerOfTwo, Rule, Sign, TableRule};

/// Bits per level of a sized codebook, 2 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits(u8);

impl Bits {
    /// 2 bits.
    pub const MIN: Bits = Bits(2);
    /// 8 bits.
    pub const MAX: Bits = Bits(8);

    /// Checks the number of bits.
    ///
    /// # Errors
    /// [`SolveError::Bits`] if `bits` is not in 2 to 8.
    pub fn new(bits: u8) -> Result<Bits, SolveError> {
        if (Bits::MIN.0..=Bits::MAX.0).contains(&bits) {
            Ok(Bits(bits))
        } else {
            Err(SolveError::Bits { bits })
        }
    }

    /// The number of bits.
    pub fn get(self) -> u8 {
        self.0
    }

    /// `2^(bits − 1) − 1`
    fn top(self) -> i8 {
        i8::MAX >> (8 - self.0)
    }
}

/// The levels `Q` of the entries `b_i` of `ŵ = α·b`: symmetric and within [−1, 1], except in `Table`.
///
/// A level is stored as an `i8` index i. With `k = 2^(bits − 1) − 1`:
///
/// | codebook | indices | value of index i | paper |
/// |---|---|---|---|
/// | `Binary` | −1, 1 | i | §2, LAB |
/// | `Ternary` | −1, 0, 1 | i | §2, LAT |
/// | `Linear` | −k ..= k | i / k | §2, LAQ linear |
/// | `Logarithmic` | −k ..= k | sign(i) · 2^(abs i − k), and 0 for 0 | §2, LAQ log |
/// | `Uniform` | −2^(bits−1) ..= 2^(bits−1) − 1 | (2i + 1) / (2^bits − 1) | §2, DoReFa; no zero |
/// | `Custom`, m magnitudes with zero | −(m − 1) ..= m − 1 | sign(i) · magnitude number abs i, from 0 | |
/// | `Custom`, m magnitudes without zero | −m ..= m − 1 | magnitude number i, or minus number −1 − i if i < 0 | |
/// | `Table`, m of its values negative | −m ..= | value number i + m, from 0 | |
///
/// Look-ups clamp indices to those of the codebook.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The field is described above.
pub enum Codebook {
    /// {−1, 1}
    Binary,
    /// {−1, 0, 1}
    Ternary,
    /// {0, ±1/k, …, ±(k−1)/k, ±1}
    Linear { bits: Bits },
    /// {0, ±2^−(k−1), …, ±½, ±1}
    Logarithmic { bits: Bits },
    /// {±1/(2^bits − 1), ±3/(2^bits − 1), …, ±1}
    Uniform { bits: Bits },
    /// Levels of the caller, symmetric around zero; made by [`Codebook::custom`].
    Custom(Custom),
    /// Values of any sign and size, for blocks; made by [`Codebook::table`].
    Table(ValueTable),
}

/// The magnitudes of a custom codebook. A clone shares them.
#[derive(Clone, Debug)]
pub struct Custom {
    magnitudes: Arc<[f32]>,
}

impl Custom {
    /// The magnitudes, in rising order.
    pub fn magnitudes(&self) -> &[f32] {
        &self.magnitudes
    }

    fn bits(&self) -> impl Iterator<Item = u32> + '_ {
        self.magnitudes.iter().map(|magnitude| magnitude.to_bits())
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.bits().eq(other.bits())
    }
}

impl Eq for Custom {}

impl Hash for Custom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits().for_each(|bits| bits.hash(state));
    }
}

/// The values of a codebook that need not be symmetric. A clone shares them.
#[derive(Clone, Debug)]
pub struct ValueTable {
    /// In rising order.
    values: Arc<[f32]>,
    /// How many are negative, up to 128; as many are not.
    negative: usize,
}

impl PartialEq for ValueTable {
    fn eq(&self, other: &Self) -> bool {
        let bits = |value: &f32| value.to_bits();
        let (own, others) = (self.values.iter().map(bits), other.values.iter().map(bits));
        Arc::ptr_eq(&self.values, &other.values) || own.eq(others)
    }
}

impl Eq for ValueTable {}

impl Hash for ValueTable {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.iter().for_each(|v| v.to_bits().hash(state));
    }
}

/// The largest magnitude of a table is within this and its inverse, so that sums in f32 keep their precision.
const MAX_TABLE_MAGNITUDE: f32 = 65_536.0;

/// The factor of the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// One scale `α` for all levels.
    One(f32),
    /// A scale per sign: `ŵ = α·b` for positive levels and `ŵ = β·b` for negative ones.
    Two {
        /// `α`
        positive: f32,
        /// `β`, not negative: the level has the sign.
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

/// The most magnitudes of a codebook (`Uniform` with 8 bits).
pub(crate) const MAX_MAGNITUDES: usize = 128;

impl Codebook {
    /// [`Codebook::Linear`] with a checked number of bits.
    ///
    /// # Errors
    /// [`SolveError::Bits`] if `bits` is not in 2 to 8.
    pub fn linear(bits: u8) -> Result<Codebook, SolveError> {
        Bits::new(bits).map(|bits| Codebook::Linear { bits })
    }

    /// [`Codebook::Logarithmic`] with a checked number of bits.
    ///
    /// # Errors
    /// [`SolveError::Bits`] if `bits` is not in 2 to 8.
    pub fn logarithmic(bits: u8) -> Result<Codebook, SolveError> {
        Bits::new(bits).map(|bits| Codebook::Logarithmic { bits })
    }

    /// [`Codebook::Uniform`] with a checked number of bits.
    ///
    /// # Errors
    /// [`SolveError::Bits`] if `bits` is not in 2 to 8.
    pub fn uniform(bits: u8) -> Result<Codebook, SolveError> {
        Bits::new(bits).map(|bits| Codebook::Uniform { bits })
    }

    /// The codebook of up to 128 magnitudes and their negatives. Magnitudes are in [0, 1] and rise;
    /// the last is positive.
    ///
    /// The levels of the four-bit float E2M1, divided by the largest:
    ///
    /// ```
    /// use laq_solvers::{Codebook, Problem, Workspace, exact};
    ///
    /// let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0].map(|value| value / 6.0);
    /// let codebook = Codebook::custom(e2m1)?;
    /// let problem = Problem::new(&[0.9, -0.31, 0.05, -0.8], None)?;
    /// let mut levels = [0; 4];
    /// exact(problem, &codebook, &mut levels, &mut Workspace::default())?;
    /// assert_eq!(levels, [7, -4, 1, -7]);
    /// # Ok::<(), laq_solvers::SolveError>(())
    /// ```
    ///
    /// # Errors
    /// [`SolveError::Magnitudes`] if there are no magnitudes or more than 128, if they do not rise,
    /// or if one is outside [0, 1].
    pub fn custom(magnitudes: impl Into<Arc<[f32]>>) -> Result<Codebook, SolveError> {
        let magnitudes = magnitudes.into();
        let invalid = |reason| Err(SolveError::Magnitudes { reason });
        let (Some(&first), Some(&last)) = (magnitudes.first(), magnitudes.last()) else {
            return invalid("there are none".to_owned());
        };
        if magnitudes.len() > MAX_MAGNITUDES {
            return invalid(format!("there are {}", magnitudes.len()));
        }
        let not_rising = |pair: &&[f32]| pair[0].partial_cmp(&pair[1]) != Some(Ordering::Less);
        if let Some(pair) = magnitudes.windows(2).find(not_rising) {
            return invalid(format!("{} is followed by {}", pair[0], pair[1]));
        }
        if first.is_sign_negative() || !(0.0..=1.0).contains(&first) {
            return invalid(format!("the first is {first}"));
        }
        if !(last > 0.0 && last <= 1.0) {
            return invalid(format!("the last is {last}"));
        }
        Ok(Codebook::Custom(Custom { magnitudes }))
    }

    /// The codebook of values in rising order, which need not be symmetric around zero nor within
    /// [−1, 1]: for [blocks](crate::blocks).
    ///
    /// # Errors
    /// [`SolveError::Values`] if there are fewer than two, more than 128 that are negative, or more than 128
    /// that are not, if they do not rise, or if the largest magnitude is not within 2⁻¹⁶ and 2¹⁶.
    pub fn table(values: impl Into<Arc<[f32]>>) -> Result<Codebook, SolveError> {
        let values = values.into();
        let invalid = |reason| Err(SolveError::Values { reason });
        let negative = values.iter().filter(|value| **value < 0.0).count();
        let others = values.len() - negative;
        if values.len() < 2 || negative > MAX_MAGNITUDES || others > MAX_MAGNITUDES {
            return invalid(format!(
                "there are {negative} below zero and {others} others"
            ));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return invalid(format!("one is {value}"));
        }
        let largest = values[0].abs().max(values[values.len() - 1].abs());
        if let Some(pair) = values.windows(2).find(|pair| pair[0] >= pair[1]) {
            return invalid(format!("{} is followed by {}", pair[0], pair[1]));
        }
        if !(1.0 / MAX_TABLE_MAGNITUDE..=MAX_TABLE_MAGNITUDE).contains(&largest) {
            return invalid(format!("the largest magnitude is {largest}"));
        }
        Ok(Codebook::Table(ValueTable { values, negative }))
    }

    /// The integers from `low` to `high`, such as −8 to 7.
    ///
    /// # Errors
    /// As [`table`](Self::table).
    pub fn integers(low: i16, high: i16) -> Result<Codebook, SolveError> {
        Self::table((low..=high).map(f32::from).collect::<Vec<_>>())
    }

    /// The values of the four-bit float E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
    pub fn e2m1() -> Codebook {
        let magnitudes = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let negative = magnitudes[1..].iter().rev().map(|magnitude| -magnitude);
        let values: Vec<f32> = negative.chain(magnitudes).collect();
        Self::table(values).expect("they rise")
    }

    /// The value of a level: `multiplier(level) / divisor()`.
    pub fn value(&self, level: i8) -> f32 {
        self.multiplier(level) / self.divisor()
    }

    /// The multiplier of a level in `ŵ = step(scale) · multiplier(level)`: an integer in the
    /// codebooks `Binary`, `Ternary`, `Linear` and `Uniform`, the value itself in the others.
    pub fn multiplier(&self, level: i8) -> f32 {
        match self.rule() {
            Rule::Sign(rule) => rule.multiplier(level),
            Rule::Affine(rule) => rule.multiplier(level),
            Rule::PowerOfTwo(rule) => rule.multiplier(level),
            Rule::Custom(rule) => rule.multiplier(level),
            Rule::Table(rule) => rule.multiplier(level),
        }
    }

    /// The multiplier of the value 1: k of `Linear`, `2^bits − 1` of `Uniform`, otherwise 1.
    pub fn divisor(&self) -> f32 {
        self.rule().divisor()
    }

    /// The step of a scale, `scale / divisor()` in f32: what integer formats store as their scale.
    ///
    /// The step of a finite scale times the largest multiplier is finite, except in `Table`: where
    /// rounding up would overflow, the step is the next f32 towards zero.
    pub fn step(&self, scale: f32) -> f32 {
        step(scale, self.divisor())
    }

    /// Whether the values are their own negatives, so that a negative scale adds nothing.
    pub fn is_symmetric(&self) -> bool {
        match self {
            Codebook::Table(table) => {
                let reversed = table.values.iter().rev().map(|value| -value);
                table.values.iter().copied().eq(reversed)
            }
            _ => true,
        }
    }

    /// The level indices, in rising order.
    pub fn levels(&self) -> impl Iterator<Item = i8> + use<> {
        let (low, high) = match self.rule() {
            Rule::Sign(_) => (-1, 1),
            Rule::Affine(rule) => (rule.low, rule.high),
            Rule::PowerOfTwo(rule) => (-rule.top, rule.top),
            Rule::Custom(rule) => rule.range(),
            Rule::Table(rule) => rule.range(),
        };
        let without_zero = *self == Codebook::Binary;
        (low..=high).filter(move |&level| !without_zero || level != 0)
    }

    /// The values of all levels, in rising order.
    pub fn values(&self) -> Vec<f32> {
        self.levels().map(|level| self.value(level)).collect()
    }

    /// Bits per level when packed: the fewest that distinguish all levels.
    pub fn storage_bits(&self) -> u8 {
        match self {
            Codebook::Binary => 1,
            Codebook::Ternary => 2,
            Codebook::Linear { bits }
            | Codebook::Logarithmic { bits }
            | Codebook::Uniform { bits } => bits.get(),
            Codebook::Custom(_) | Codebook::Table(_) => {
                self.levels().count().next_power_of_two().ilog2() as u8
            }
        }
    }

    /// The magnitudes of the levels in rising order, with zero if the codebook has it.
    pub(crate) fn magnitudes(&self) -> Magnitudes {
        let mut magnitudes = Magnitudes {
            values: [0.0; MAX_MAGNITUDES],
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

    pub(crate) fn rule(&self) -> Rule<'_> {
        let affine = |low, high, slope, offset, divisor| {
            Rule::Affine(Affine {
                low,
                high,
                slope,
                offset,
                divisor,
            })
        };
        match self {
            Codebook::Binary | Codebook::Ternary => Rule::Sign(Sign),
            Codebook::Linear { bits } => {
                let top = bits.top();
                affine(-top, top, 1, 0, f32::from(top))
            }
            Codebook::Logarithmic { bits } => Rule::PowerOfTwo(PowerOfTwo { top: bits.top() }),
            Codebook::Uniform { bits } => {
                let top = bits.top();
                affine(-top - 1, top, 2, 1, 2.0 * f32::from(top) + 1.0)
            }
            Codebook::Custom(custom) => Rule::Custom(CustomRule {
                magnitudes: &custom.magnitudes,
            }),
            Codebook::Table(table) => Rule::Table(TableRule {
                values: &table.values,
                negative: table.negative,
            }),
        }
    }
}

/// A codebook from zero outwards. Magnitude number m has the level `first_positive + m` for weights
/// that are not negative and `first_negative − m` for negative ones.
#[derive(Clone, Copy)]
pub(crate) struct Magnitudes {
    values: [f32; MAX_MAGNITUDES],
    count: usize,
    pub(crate) first_positive: i8,
    pub(crate) first_negative: i8,
}

impl Magnitudes {
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.count]
    }

    /// Whether zero is a level.
    pub(crate) fn has_zero(&self) -> bool {
        self.values[0] == 0.0
    }

    /// Midpoints between adjacent magnitudes, rising; one fewer than magnitudes.
    pub(crate) fn midpoints(&self) -> impl ExactSizeIterator<Item = f64> {
        self.values()
            .windows(2)
            .map(|pair| 0.5 * (f64::from(pair[0]) + f64::from(pair[1])))
    }

    /// The thresholds of a scale, `scale · midpoint`. A weight takes magnitude m or a higher one if
    /// `|w|` is above threshold number m − 1. With scale zero every weight takes the lowest
    /// magnitude.
    pub(crate) fn thresholds(&self, scale: f64) -> Thresholds {
        self.thresholds_by(|midpoint| {
            if scale > 0.0 {
                midpoint * scale
            } else {
                f64::INFINITY
            }
        })
    }

    /// Thresholds at `border(midpoint)`, which must rise.
    pub(crate) fn thresholds_by(&self, border: impl Fn(f64) -> f64) -> Thresholds {
        let mut thresholds = Thresholds {
            values: [f32::INFINITY; MAX_MAGNITUDES],
            count: self.count - 1,
        };
        for (threshold, midpoint) in thresholds.values.iter_mut().zip(self.midpoints()) {
            *threshold = floor_f32(border(midpoint));
        }
        thresholds
    }
}

/// Thresholds on `|w|`, rising.
#[derive(Clone, Copy)]
pub(crate) struct Thresholds {
    values: [f32; MAX_MAGNITUDES],
    count: usize,
}

impl Thresholds {
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.count]
    }
}

/// The largest f32 that is not above `bound ≥ 0`. An f32 is above `bound` if and only if it is
/// above the result, so passes compare in f32 without loss.
pub(crate) fn floor_f32(bound: f64) -> f32 {
    let rounded = bound as f32;
    if f64::from(rounded) > bound {
        rounded.next_down()
    } else {
        rounded
    }
}

/// The nearest finite f32.
pub(crate) fn to_f32(scale: f64) -> f32 {
    (scale as f32).clamp(f32::MIN, f32::MAX)
}

/// See [`Codebook::step`].
pub(crate) fn step(scale: f32, divisor: f32) -> f32 {
    let step = scale / divisor;
    if (step * divisor).is_infinite() && scale.is_finite() {
        f32::from_bits(step.to_bits() - 1)
    } else {
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_f32_is_above_a_bound_if_it_is_above_its_floor() {
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
            let found = floor_f32(bound);
            assert!(f64::from(found) <= bound, "{found} {bound}");
            assert!(f64::from(found.next_up()) > bound, "{found} {bound}");
        }
        assert_eq!(floor_f32(f64::INFINITY), f32::INFINITY);
    }

    #[test]
    fn a_step_is_the_quotient_and_never_overflows() {
        for bits in 2..=8 {
            for codebook in [Codebook::linear(bits), Codebook::uniform(bits)] {
                let codebook = codebook.unwrap();
                let divisor = codebook.divisor();
                for scale in [0.0, 1e-45, 0.1, 1.0, -3.7, 1e30] {
                    assert_eq!(codebook.step(scale), scale / divisor);
                }
                for scale in [f32::MAX, -f32::MAX, f32::MAX.next_down()] {
                    let step = codebook.step(scale);
                    assert!((step * divisor).is_finite(), "{codebook:?}");
                    assert!((step - scale / divisor).abs() <= scale.abs() / divisor * 1.2e-7);
                }
                assert!(codebook.step(f32::INFINITY).is_infinite());
                assert!(codebook.step(f32::NAN).is_nan());
            }
        }
    }
}
