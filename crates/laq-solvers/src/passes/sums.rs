//! `Σ d b x` and `Σ d b²`, the sums from which every solver computes its scale.

use std::ops::Add;

use laq_simd::{Isa, multiversion};

use super::lanes::{
    Curvature, LANES, Side, Table, above_thresholds, magnitudes_of, masked, padded, sum,
    with_curvature, with_rule,
};
use super::parallel::{self, Parts};
use crate::codebook::{Codebook, Magnitudes};
use crate::level_rule::LevelValue;
use crate::problem::Problem;

/// `Σ d b x` and `Σ d b²` of an assignment `b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sums {
    pub(crate) product: f64,
    pub(crate) square: f64,
}

impl Sums {
    pub(crate) const ZERO: Self = Self {
        product: 0.0,
        square: 0.0,
    };

    /// The best scale of the assignment, `Σ d b x / Σ d b²`.
    pub(crate) fn scale(self) -> f64 {
        self.product / self.square
    }

    /// Whether the best scale is positive.
    pub(crate) fn has_scale(&self) -> bool {
        self.product > 0.0 && self.square > 0.0
    }

    /// Twice the reduction of the error relative to all zeros, at the best scale: `(Σ d b x)² / Σ d
    /// b²`.
    pub(crate) fn gain(self) -> f64 {
        self.product * self.product / self.square
    }
}

impl Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            product: self.product + other.product,
            square: self.square + other.square,
        }
    }
}

/// Partial sums, one per lane.
struct LaneSums {
    product: [f64; LANES],
    square: [f64; LANES],
}

impl LaneSums {
    #[inline(always)]
    fn new() -> Self {
        Self {
            product: [0.0; LANES],
            square: [0.0; LANES],
        }
    }

    #[inline(always)]
    fn add(&mut self, x: [f32; LANES], b: [f32; LANES], d: [f32; LANES]) {
        for lane in 0..LANES {
            let (x, b) = (f64::from(x[lane]), f64::from(b[lane]));
            let weighted = f64::from(d[lane]) * b;
            self.product[lane] += weighted * x;
            self.square[lane] += weighted * b;
        }
    }

    #[inline(always)]
    fn total(self) -> Sums {
        Sums {
            product: sum(self.product),
            square: sum(self.square),
        }
    }
}

/// The sums of all parts of the problem.
fn sum_of_parts(problem: Problem<'_>, sums: impl Fn(Problem<'_>) -> Sums + Sync) -> Sums {
    let parts = Parts::of(problem.weights().len());
    parallel::reduce(problem, parts, &sums, &Sums::add)
}

/// `Σ d x` and `Σ d` over the weights of one side: the sums of the assignment of magnitude one to
/// all of them. [`Side::Both`] includes zero weights; the other sides do not.
pub(crate) fn totals(isa: Isa, problem: Problem<'_>, side: Side) -> Sums {
    let below = if side == Side::Both { -1.0 } else { 0.0 };
    sum_of_parts(problem, |part| {
        with_curvature!(part, |d| {
            let (w, masks) = (part.weights(), side.masks());
            threshold_sums(isa, w, d, masks, 0.0, [below], [1.0])
        })
    })
}

/// The sums over the weights of one side, where the thresholds on `x` select the magnitude `b`.
pub(crate) fn at_thresholds(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    thresholds: &[f32],
) -> Sums {
    let masks = side.masks();
    let (lowest, q) = (magnitudes.values()[0], &magnitudes.values()[1..]);
    let t = thresholds;
    // Tables of constant length stay in registers: 2, 3 and 4 bits.
    sum_of_parts(problem, |part| {
        let w = part.weights();
        with_curvature!(part, |d| {
            if let (Ok(t), Ok(q)) = (<[f32; 1]>::try_from(t), <[f32; 1]>::try_from(q)) {
                threshold_sums(isa, w, d, masks, lowest, t, q)
            } else if let (Ok(t), Ok(q)) = (<[f32; 3]>::try_from(t), <[f32; 3]>::try_from(q)) {
                threshold_sums(isa, w, d, masks, lowest, t, q)
            } else if let (Ok(t), Ok(q)) = (<[f32; 7]>::try_from(t), <[f32; 7]>::try_from(q)) {
                threshold_sums(isa, w, d, masks, lowest, t, q)
            } else {
                threshold_sums(isa, w, d, masks, lowest, t, q)
            }
        })
    })
}

/// `Σ d |w|` and `Σ d` over `|w| > threshold`.
pub(crate) fn sums_above(isa: Isa, problem: Problem<'_>, threshold: f32) -> Sums {
    sum_of_parts(problem, |part| {
        with_curvature!(part, |d| {
            let (w, masks) = (part.weights(), Side::Both.masks());
            threshold_sums(isa, w, d, masks, 0.0, [threshold], [1.0])
        })
    })
}

multiversion! {
    /// `b` is `magnitudes[j]` for the last `j` with `x > thresholds[j]`, or `lowest` if there is none.
    fn threshold_sums<C: Curvature, T: Table>(
        weights: &[f32],
        curvature: C,
        masks: (u32, u32),
        lowest: f32,
        thresholds: T,
        magnitudes: T,
    ) -> Sums {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut sums = LaneSums::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let x = magnitudes_of(chunk, masks);
            let b = above_thresholds(&x, lowest, &thresholds, &magnitudes);
            sums.add(x, b, curvature.chunk(index));
        }
        let x = magnitudes_of(&padded(tail), masks);
        let b = above_thresholds(&x, lowest, &thresholds, &magnitudes);
        sums.add(x, b, curvature.tail());
        sums.total()
    }
}

/// The sums over the weights of one side for the values `b` of `levels`. With [`Side::Both`], a
/// level of the opposite sign reduces the product. With one side, only weights whose level is on
/// that side count.
pub(crate) fn sums_of_levels(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    codebook: &Codebook,
    levels: &[i8],
) -> Sums {
    let (flip, one_side) = (side.masks().0, side != Side::Both);
    let sums = |(part, levels): (Problem<'_>, &[i8])| {
        let w = part.weights();
        with_curvature!(part, |d| with_rule!(codebook, |rule| {
            level_sums(isa, w, d, rule, levels, flip, one_side)
        }))
    };
    let parts = Parts::of(problem.weights().len());
    parallel::reduce((problem, levels), parts, &sums, &Sums::add)
}

multiversion! {
    fn level_sums<C: Curvature, R: LevelValue>(
        weights: &[f32],
        curvature: C,
        rule: R,
        levels: &[i8],
        flip: u32,
        one_side: bool,
    ) -> Sums {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks::<LANES>();
        let mut sums = LaneSums::new();
        for (index, (chunk, levels)) in chunks.iter().zip(level_chunks).enumerate() {
            let x = magnitudes_of(chunk, (flip, !0));
            let b = values_of(rule, levels, &x, flip, one_side);
            sums.add(x, b, curvature.chunk(index));
        }
        let x = magnitudes_of(&padded(tail), (flip, !0));
        let b = values_of(rule, &padded(level_tail), &x, flip, one_side);
        sums.add(x, b, curvature.tail());
        sums.total()
    }
}

#[inline(always)]
fn values_of<R: LevelValue>(
    rule: R,
    levels: &[i8; LANES],
    x: &[f32; LANES],
    flip: u32,
    one_side: bool,
) -> [f32; LANES] {
    let mut b = [0.0; LANES];
    for lane in 0..LANES {
        let value = masked(rule.value(levels[lane]), flip, !0);
        let counts = !one_side || (x[lane] > 0.0 && value > 0.0);
        b[lane] = if counts { value } else { 0.0 };
    }
    b
}

/// The problem of one side and its totals. Without the curvature if that is zero for all weights of
/// the side, or `has_zero`, with zero among the levels, for all that are not zero: see [`Problem`]. `None` if the best
/// scale is zero.
pub(crate) fn drop_zero_curvature<'a>(
    isa: Isa,
    problem: Problem<'a>,
    side: Side,
    has_zero: bool,
) -> Option<(Problem<'a>, Sums)> {
    [problem, problem.unweighted()]
        .into_iter()
        .map(|problem| (problem, totals(isa, problem, side)))
        .find(|(_, totals)| totals.product > 0.0 || (totals.square > 0.0 && !has_zero))
        .filter(|(_, totals)| totals.product > 0.0)
}
