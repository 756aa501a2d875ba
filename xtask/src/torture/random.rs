//! Random numbers that are a function of a seed, on every machine.

use std::cell::Cell;

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// The stream of case `number` of the kind `kind`.
    pub(crate) fn of(seed: u64, kind: &str, number: u64) -> Self {
        let mix = |state: u64, part: u64| Self(Cell::new(state ^ part)).next();
        let parts = kind.bytes().map(u64::from).chain([number]);
        Self(Cell::new(parts.fold(seed, mix)))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mixed = self.0.get();
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`end`; 0 if `end` is 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.uniform() * end as f64) as usize
    }

    /// True one time in `times`.
    pub(crate) fn one_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One of the words of `text`.
    pub(crate) fn word<'a>(&self, text: &'a str) -> &'a str {
        self.pick(&text.split_whitespace().collect::<Vec<_>>())
    }

    /// Between `low` and `high`, small numbers as often as large ones.
    pub(crate) fn logarithmic(&self, low: f64, high: f64) -> u64 {
        (low * (high / low).powf(self.uniform())) as u64
    }
}
