//! The rules that decode the level indices of codebooks.

/// From a level index to its multiplier and its value, in a form that the compiler vectorises.
pub(crate) trait LevelValue: Copy {
    fn multiplier(self, level: i8) -> f32;

    fn divisor(self) -> f32 {
        1.0
    }

    #[inline(always)]
    fn value(self, level: i8) -> f32 {
        self.multiplier(level) / self.divisor()
    }
}

pub(crate) enum Rule<'a> {
    Sign(Sign),
    Affine(Affine),
    PowerOfTwo(PowerOfTwo),
    Custom(CustomRule<'a>),
    Table(TableRule<'a>),
}

impl Rule<'_> {
    pub(crate) fn divisor(self) -> f32 {
        match self {
            Rule::Sign(rule) => rule.divisor(),
            Rule::Affine(rule) => rule.divisor(),
            Rule::PowerOfTwo(rule) => rule.divisor(),
            Rule::Custom(rule) => rule.divisor(),
            Rule::Table(rule) => rule.divisor(),
        }
    }
}

/// The level itself, −1, 0 or 1.
#[derive(Clone, Copy)]
pub(crate) struct Sign;

impl LevelValue for Sign {
    #[inline(always)]
    fn multiplier(self, level: i8) -> f32 {
        f32::from(level.clamp(-1, 1))
    }
}

/// `slope · i + offset`, divided by `divisor`
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) low: i8,
    pub(crate) high: i8,
    pub(crate) slope: i32,
    pub(crate) offset: i32,
    pub(crate) divisor: f32,
}

impl LevelValue for Affine {
    #[inline(always)]
    fn multiplier(self, level: i8) -> f32 {
        let level = i32::from(level.clamp(self.low, self.high));
        (self.slope * level + self.offset) as f32
    }

    #[inline(always)]
    fn divisor(self) -> f32 {
        self.divisor
    }
}

/// `sign(i) · 2^(|i| − top)`, built from its exponent bits.
#[derive(Clone, Copy)]
pub(crate) struct PowerOfTwo {
    pub(crate) top: i8,
}

impl LevelValue for PowerOfTwo {
    #[inline(always)]
    fn multiplier(self, level: i8) -> f32 {
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

#[derive(Clone, Copy)]
pub(crate) struct CustomRule<'a> {
    pub(crate) magnitudes: &'a [f32],
}

impl CustomRule<'_> {
    fn has_zero(self) -> bool {
        self.magnitudes[0] == 0.0
    }

    /// The lowest and the highest level.
    pub(crate) fn range(self) -> (i8, i8) {
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

impl LevelValue for CustomRule<'_> {
    #[inline(always)]
    fn multiplier(self, level: i8) -> f32 {
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

#[derive(Clone, Copy)]
pub(crate) struct TableRule<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) negative: usize,
}

impl TableRule<'_> {
    /// The lowest and the highest level.
    pub(crate) fn range(self) -> (i8, i8) {
        let negative = self.negative as i16;
        let highest = self.values.len() as i16 - 1 - negative;
        ((-negative) as i8, highest as i8)
    }
}

impl LevelValue for TableRule<'_> {
    #[inline(always)]
    fn multiplier(self, level: i8) -> f32 {
        let (low, high) = self.range();
        let place = i16::from(level.clamp(low, high)) + self.negative as i16;
        self.values[place as usize]
    }
}
