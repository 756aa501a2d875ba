//! The passes over memory that the solvers are made of, compiled for several instruction sets.
//!
//! Every pass is plain Rust over arrays of [`LANES`] elements, so that the compiler turns it into
//! vector code, and is compiled once for each [`Isa`]. Sums run in f64, one partial sum a lane, lanes
//! added in order at the end; nothing is fused or reordered, so all kernels give the same bits.
//! What the sums mean is left to the solvers.

use crate::codebook::{Codebook, LevelValue, Magnitudes, Scale, Thresholds};
use crate::parallel::{self, Parts};
use crate::problem::{Problem, Span};
use laq_simd::{Isa, multiversion};

/// Elements that one step of a kernel handles: enough of them that the compiler keeps the loop over the
/// lanes and makes vector code of it. (At 16 it unrolls the loop first, and the code is four times slower.)
pub(crate) const LANES: usize = 64;

/// Weights that two passes go over one after the other, so that the second finds them in the first two caches.
pub(crate) const PIECE: usize = 4096;

/// Which weights a solver looks at, and as which magnitude `x ≥ 0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Side {
    /// All weights, `x = |w|`.
    Both,
    /// The positive weights, `x = w`.
    Positive,
    /// The negative weights, `x = −w`.
    Negative,
}

impl Side {
    /// Bits to flip, then bits to keep, that make a weight of this side its magnitude; weights of the
    /// other side come out negative, below every threshold.
    pub(crate) fn masks(self) -> (u32, u32) {
        match self {
            Side::Both => (0, !0 >> 1),
            Side::Positive => (0, !0),
            Side::Negative => (1 << 31, !0),
        }
    }

    /// The magnitude of `w`, negative or zero where `w` is not of this side.
    #[inline(always)]
    pub(crate) fn magnitude(self, w: f32) -> f32 {
        let (flip, keep) = self.masks();
        masked(w, flip, keep)
    }
}

#[inline(always)]
fn masked(w: f32, flip: u32, keep: u32) -> f32 {
    f32::from_bits((w.to_bits() ^ flip) & keep)
}

/// `Σ d b x` and `Σ d b²` of some assignment `b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) product: f64,
    pub(crate) square: f64,
}

impl Moments {
    pub(crate) const NONE: Self = Self {
        product: 0.0,
        square: 0.0,
    };

    /// The best scale for the assignment, `Σ d b x / Σ d b²`.
    pub(crate) fn scale(self) -> f64 {
        self.product / self.square
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            product: self.product + other.product,
            square: self.square + other.square,
        }
    }

    /// What the assignment takes off the error of all zeros, times two: `(Σ d b x)² / Σ d b²`.
    pub(crate) fn gain(self) -> f64 {
        self.product * self.product / self.square
    }
}

/// The curvature, [`LANES`] at a time; behind the end it is zero, so that padding adds nothing to a sum.
trait Curvature: Copy {
    fn chunk(self, index: usize) -> [f32; LANES];
    fn tail(self) -> [f32; LANES];
    /// Asks for a chunk that will be needed soon.
    fn prefetch(self, _index: usize) {}
}

#[derive(Clone, Copy)]
struct Ones {
    tail: usize,
}

impl Curvature for Ones {
    #[inline(always)]
    fn chunk(self, _: usize) -> [f32; LANES] {
        [1.0; LANES]
    }
    #[inline(always)]
    fn tail(self) -> [f32; LANES] {
        std::array::from_fn(|lane| if lane < self.tail { 1.0 } else { 0.0 })
    }
}

#[derive(Clone, Copy)]
struct Given<'a> {
    chunks: &'a [[f32; LANES]],
    tail: &'a [f32],
}

impl Curvature for Given<'_> {
    #[inline(always)]
    fn chunk(self, index: usize) -> [f32; LANES] {
        self.chunks[index]
    }
    #[inline(always)]
    fn prefetch(self, index: usize) {
        prefetch(&self.chunks[index]);
    }
    #[inline(always)]
    fn tail(self) -> [f32; LANES] {
        padded(self.tail)
    }
}

#[inline(always)]
fn prefetch(chunk: &[f32; LANES]) {
    #[cfg(target_arch = "x86_64")]
    for line in chunk.chunks_exact(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = chunk;
}

#[inline(always)]
pub(crate) fn padded<T: Copy + Default>(tail: &[T]) -> [T; LANES] {
    std::array::from_fn(|lane| tail.get(lane).copied().unwrap_or_default())
}

/// Calls `$call` with the curvature of `$problem` bound to `$curvature`, as the type that it has.
macro_rules! with_curvature {
    ($problem:expr, |$curvature:ident| $call:expr) => {
        match $problem.curvature() {
            Some(given) => {
                let (chunks, tail) = given.as_chunks();
                let $curvature = Given { chunks, tail };
                $call
            }
            None => {
                let $curvature = Ones {
                    tail: $problem.weights().len() % LANES,
                };
                $call
            }
        }
    };
}

/// Calls `$call` with the decode rule of `$codebook` bound to `$rule`, as the type that it has.
macro_rules! with_rule {
    ($codebook:expr, |$rule:ident| $call:expr) => {
        match $codebook.rule() {
            $crate::codebook::Rule::Sign($rule) => $call,
            $crate::codebook::Rule::Affine($rule) => $call,
            $crate::codebook::Rule::PowerOfTwo($rule) => $call,
            $crate::codebook::Rule::Given($rule) => $call,
        }
    };
}
pub(crate) use with_rule;

/// Adds the lanes in order.
fn sum(lanes: [f64; LANES]) -> f64 {
    lanes.into_iter().sum()
}

/// Partial sums of [`Moments`], one a lane.
struct Sums {
    product: [f64; LANES],
    square: [f64; LANES],
}

impl Sums {
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
    fn moments(self) -> Moments {
        Moments {
            product: sum(self.product),
            square: sum(self.square),
        }
    }
}

/// Bit patterns of the smallest and the largest magnitude but zero; where an element is not finite the
/// largest is above that of [`f32::MAX`].
pub(crate) fn span(isa: Isa, values: &[f32]) -> Span {
    let wider = |a: Span, b: Span| Span {
        smallest: a.smallest.min(b.smallest),
        largest: a.largest.max(b.largest),
    };
    let parts = Parts::of(values.len());
    parallel::reduce(
        values,
        parts,
        &|part: &[f32]| span_of_part(isa, part),
        &wider,
    )
}

multiversion! {
    fn span_of_part(values: &[f32]) -> Span {
        let (chunks, tail) = values.as_chunks::<LANES>();
        let mut largest = [0_u32; LANES];
        // Less one, zero is the highest number there is.
        let mut smallest_less_one = [f32::MAX.to_bits() - 1; LANES];
        for chunk in chunks.iter().chain([&padded(tail)]) {
            for lane in 0..LANES {
                let magnitude = chunk[lane].to_bits() & (!0 >> 1);
                largest[lane] = largest[lane].max(magnitude);
                smallest_less_one[lane] = smallest_less_one[lane].min(magnitude.wrapping_sub(1));
            }
        }
        Span {
            smallest: smallest_less_one.into_iter().fold(u32::MAX, u32::min) + 1,
            largest: largest.into_iter().fold(0, u32::max),
        }
    }
}

/// Whether every element is finite and has no sign; false for a negative zero too.
pub(crate) fn all_finite_and_not_negative(isa: Isa, values: &[f32]) -> bool {
    let largest = |part: &[f32]| largest_bits(isa, part);
    let parts = Parts::of(values.len());
    parallel::reduce(values, parts, &largest, &u32::max) <= f32::MAX.to_bits()
}

multiversion! {
    /// The largest bit pattern, in which the sign comes first.
    fn largest_bits(values: &[f32]) -> u32 {
        let (chunks, tail) = values.as_chunks::<LANES>();
        let mut largest = [0_u32; LANES];
        for chunk in chunks.iter().chain([&padded(tail)]) {
            for lane in 0..LANES {
                largest[lane] = largest[lane].max(chunk[lane].to_bits());
            }
        }
        largest.into_iter().fold(0, u32::max)
    }
}

/// Sums up what `moments` gives for every part of the problem.
fn sum_of_parts(problem: Problem<'_>, moments: impl Fn(Problem<'_>) -> Moments + Sync) -> Moments {
    let parts = Parts::of(problem.weights().len());
    parallel::reduce(problem, parts, &moments, &Moments::plus)
}

/// `Σ d x` and `Σ d` over the weights of one side: the moments of the assignment that puts every one at
/// the level of magnitude one. Zero weights count for [`Side::Both`], and belong to neither other side.
pub(crate) fn totals(isa: Isa, problem: Problem<'_>, side: Side) -> Moments {
    let below = if side == Side::Both { -1.0 } else { 0.0 };
    sum_of_parts(problem, |part| {
        with_curvature!(part, |d| {
            let (w, masks) = (part.weights(), side.masks());
            threshold_moments(isa, w, d, masks, 0.0, [below], [1.0])
        })
    })
}

/// `Σ d b x` and `Σ d b²` over the weights of one side, where `b` is the magnitude that the thresholds
/// give `x`.
pub(crate) fn moments(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    magnitudes: &Magnitudes,
    thresholds: &[f32],
) -> Moments {
    let masks = side.masks();
    let (lowest, q) = (magnitudes.values()[0], &magnitudes.values()[1..]);
    let t = thresholds;
    // Tables of a length known to the compiler stay in registers: 2, 3 and 4 bits.
    sum_of_parts(problem, |part| {
        let w = part.weights();
        with_curvature!(part, |d| {
            if let (Ok(t), Ok(q)) = (<[f32; 1]>::try_from(t), <[f32; 1]>::try_from(q)) {
                threshold_moments(isa, w, d, masks, lowest, t, q)
            } else if let (Ok(t), Ok(q)) = (<[f32; 3]>::try_from(t), <[f32; 3]>::try_from(q)) {
                threshold_moments(isa, w, d, masks, lowest, t, q)
            } else if let (Ok(t), Ok(q)) = (<[f32; 7]>::try_from(t), <[f32; 7]>::try_from(q)) {
                threshold_moments(isa, w, d, masks, lowest, t, q)
            } else {
                threshold_moments(isa, w, d, masks, lowest, t, q)
            }
        })
    })
}

/// `Σ d |w|` and `Σ d` over `|w| > threshold`.
pub(crate) fn moments_above(isa: Isa, problem: Problem<'_>, threshold: f32) -> Moments {
    sum_of_parts(problem, |part| {
        with_curvature!(part, |d| {
            let (w, masks) = (part.weights(), Side::Both.masks());
            threshold_moments(isa, w, d, masks, 0.0, [threshold], [1.0])
        })
    })
}

/// As many f32 as there are thresholds.
pub(crate) trait Table: Copy {
    fn get(&self) -> &[f32];
}

impl<const N: usize> Table for [f32; N] {
    #[inline(always)]
    fn get(&self) -> &[f32] {
        self
    }
}

impl Table for &[f32] {
    #[inline(always)]
    fn get(&self) -> &[f32] {
        self
    }
}

multiversion! {
    /// `b` is `lowest`, or else `magnitudes[j]` for the last `j` with `x > thresholds[j]`.
    fn threshold_moments<C: Curvature, T: Table>(
        weights: &[f32],
        curvature: C,
        masks: (u32, u32),
        lowest: f32,
        thresholds: T,
        magnitudes: T,
    ) -> Moments {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut sums = Sums::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let x = magnitudes_of(chunk, masks);
            let b = above_thresholds(&x, lowest, &thresholds, &magnitudes);
            sums.add(x, b, curvature.chunk(index));
        }
        let x = magnitudes_of(&padded(tail), masks);
        let b = above_thresholds(&x, lowest, &thresholds, &magnitudes);
        sums.add(x, b, curvature.tail());
        sums.moments()
    }
}

#[inline(always)]
pub(crate) fn magnitudes_of(weights: &[f32; LANES], (flip, keep): (u32, u32)) -> [f32; LANES] {
    weights.map(|w| masked(w, flip, keep))
}

#[inline(always)]
pub(crate) fn above_thresholds<T: Table>(
    x: &[f32; LANES],
    lowest: f32,
    thresholds: &T,
    magnitudes: &T,
) -> [f32; LANES] {
    let mut b = [lowest; LANES];
    for (&threshold, &magnitude) in thresholds.get().iter().zip(magnitudes.get()) {
        for lane in 0..LANES {
            b[lane] = if x[lane] > threshold {
                magnitude
            } else {
                b[lane]
            };
        }
    }
    b
}

/// `Σ d b x` and `Σ d b²` over the weights of one side, where `b` is what `levels` hold. For
/// [`Side::Both`] a level whose sign is not its weight's counts against the product; for one side only
/// those weights count whose level is on that side too.
pub(crate) fn moments_of_levels(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    codebook: Codebook,
    levels: &[i8],
) -> Moments {
    let (flip, one_side) = (side.masks().0, side != Side::Both);
    let moments = |(part, levels): (Problem<'_>, &[i8])| {
        let w = part.weights();
        with_curvature!(part, |d| with_rule!(codebook, |rule| {
            level_moments(isa, w, d, rule, levels, flip, one_side)
        }))
    };
    let parts = Parts::of(problem.weights().len());
    parallel::reduce((problem, levels), parts, &moments, &Moments::plus)
}

multiversion! {
    fn level_moments<C: Curvature, R: LevelValue>(
        weights: &[f32],
        curvature: C,
        rule: R,
        levels: &[i8],
        flip: u32,
        one_side: bool,
    ) -> Moments {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks::<LANES>();
        let mut sums = Sums::new();
        for (index, (chunk, levels)) in chunks.iter().zip(level_chunks).enumerate() {
            let x = magnitudes_of(chunk, (flip, !0));
            let b = values_of(rule, levels, &x, flip, one_side);
            sums.add(x, b, curvature.chunk(index));
        }
        let x = magnitudes_of(&padded(tail), (flip, !0));
        let b = values_of(rule, &padded(level_tail), &x, flip, one_side);
        sums.add(x, b, curvature.tail());
        sums.moments()
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

/// `Σ d x` and `Σ d` of the weights in each bucket: `table[0]` gets what is not of the side, or zero, and
/// `table[b]` the magnitudes whose bits, shifted right, are `lowest + b − 1`.
pub(crate) fn fill_buckets(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    shift: u32,
    lowest: u32,
    table: &mut [[f64; 2]],
) {
    with_curvature!(problem, |d| {
        let (w, masks) = (problem.weights(), side.masks());
        fill_table(isa, w, d, masks, shift, lowest, table);
    });
}

/// How many chunks ahead of its use memory is asked for.
const AHEAD: usize = 6;

/// Magnitudes and their buckets.
#[inline(always)]
fn buckets_of<const N: usize>(
    weights: &[f32; N],
    (flip, keep): (u32, u32),
    shift: u32,
    lowest: u32,
) -> ([f32; N], [u32; N]) {
    let x = weights.map(|w| masked(w, flip, keep));
    let mut buckets = [0; N];
    for lane in 0..N {
        let bucket = (x[lane].to_bits() >> shift)
            .wrapping_sub(lowest)
            .wrapping_add(1);
        buckets[lane] = if x[lane] > 0.0 { bucket } else { 0 };
    }
    (x, buckets)
}

multiversion! {
    fn fill_table<C: Curvature>(
        weights: &[f32],
        curvature: C,
        masks: (u32, u32),
        shift: u32,
        lowest: u32,
        table: &mut [[f64; 2]],
    ) {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut add = |weights: &[f32; LANES], d: [f32; LANES]| {
            let (x, buckets) = buckets_of(weights, masks, shift, lowest);
            let mut sums = [[0.0; 2]; LANES];
            for lane in 0..LANES {
                let d = f64::from(d[lane]);
                sums[lane] = [d * f64::from(x[lane]), d];
            }
            for lane in 0..LANES {
                let bucket = &mut table[buckets[lane] as usize];
                *bucket = [bucket[0] + sums[lane][0], bucket[1] + sums[lane][1]];
            }
        };
        for (index, chunk) in chunks.iter().enumerate() {
            // Adding up keeps the processor too busy to look ahead by itself.
            if let Some(ahead) = chunks.get(index + AHEAD) {
                prefetch(ahead);
                curvature.prefetch(index + AHEAD);
            }
            add(chunk, curvature.chunk(index));
        }
        add(&padded(tail), curvature.tail());
    }
}

/// Magnitude and curvature of the weights in the buckets that `marks` has a one for, as [`fill_buckets`] numbers
/// them, packed; as many as returned are in `packed`, which grows as needed and holds anything behind them.
/// Where a range from a magnitude up to below another says the same, that is quicker.
pub(crate) fn gather(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    range: Option<[f32; 2]>,
    (marks, shift, lowest): (&[u8], u32, u32),
    packed: &mut Vec<u64>,
) -> usize {
    let (w, masks) = (problem.weights(), side.masks());
    if let Some(range) = range {
        return gather_range(isa, problem, side, range, packed, 0);
    }
    let marked = Marked {
        marks,
        masks,
        shift,
        lowest,
    };
    with_curvature!(problem, |d| gather_wanted(isa, w, d, marked, packed, 0))
}

/// [`gather`] of the magnitudes from the first of `range` up to below the second, behind the first `count` of `packed`;
/// returns how many there are then.
pub(crate) fn gather_range(
    isa: Isa,
    problem: Problem<'_>,
    side: Side,
    range: [f32; 2],
    packed: &mut Vec<u64>,
    count: usize,
) -> usize {
    let (w, masks) = (problem.weights(), side.masks());
    with_curvature!(problem, |d| gather_wanted(
        isa,
        w,
        d,
        Within { range, masks },
        packed,
        count
    ))
}

/// Which weights to gather.
trait Wanted: Copy {
    /// The magnitudes, and a one where they are wanted; false if there is none, which need not be noticed.
    fn wanted(self, weights: &[f32; GROUP], x: &mut [f32; GROUP], wanted: &mut [u8; GROUP])
    -> bool;
}

/// Weights that are looked at together.
const GROUP: usize = 16;

#[derive(Clone, Copy)]
struct Within {
    range: [f32; 2],
    masks: (u32, u32),
}

impl Wanted for Within {
    #[inline(always)]
    fn wanted(
        self,
        weights: &[f32; GROUP],
        x: &mut [f32; GROUP],
        wanted: &mut [u8; GROUP],
    ) -> bool {
        let [low, high] = self.range;
        let (flip, keep) = self.masks;
        *x = weights.map(|w| masked(w, flip, keep));
        // Zero is no magnitude to gather, whatever its sign, even where the range begins with it.
        let within = |x: f32| (x > 0.0) & (x >= low) & (x < high);
        if !x.iter().fold(false, |any, &x| any | within(x)) {
            return false;
        }
        *wanted = x.map(|x| u8::from(within(x)));
        true
    }
}

#[derive(Clone, Copy)]
struct Marked<'a> {
    marks: &'a [u8],
    masks: (u32, u32),
    shift: u32,
    lowest: u32,
}

impl Wanted for Marked<'_> {
    #[inline(always)]
    fn wanted(
        self,
        weights: &[f32; GROUP],
        x: &mut [f32; GROUP],
        wanted: &mut [u8; GROUP],
    ) -> bool {
        let buckets;
        (*x, buckets) = buckets_of(weights, self.masks, self.shift, self.lowest);
        *wanted = buckets.map(|bucket| self.marks[bucket as usize]);
        wanted.iter().fold(0, |any, one| any | one) != 0
    }
}

/// `x > 0` and `d > 0` of one weight in one number, `x` in its upper half. Positive floats order as
/// their bits do, so these order by `x`, and by `d` among equals: sums do not depend on the order of the input.
#[inline(always)]
pub(crate) fn pack(magnitude: f32, curvature: f32) -> u64 {
    u64::from(magnitude.to_bits()) << 32 | u64::from(curvature.to_bits())
}

/// What [`pack`] was given.
pub(crate) fn unpack(packed: u64) -> (f32, f32) {
    (
        f32::from_bits((packed >> 32) as u32),
        f32::from_bits(packed as u32),
    )
}

multiversion! {
    fn gather_wanted<C: Curvature, W: Wanted>(
        weights: &[f32],
        curvature: C,
        wanted: W,
        packed: &mut Vec<u64>,
        from: usize,
    ) -> usize {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let mut count = from;
        for index in 0..=chunks.len() {
            let end = padded(tail);
            let (weights, d) = match chunks.get(index) {
                Some(chunk) => (chunk, curvature.chunk(index)),
                None => (&end, curvature.tail()),
            };
            if packed.len() < count + LANES {
                packed.resize((count + LANES).next_power_of_two().max(1 << 12), 0);
            }
            let room: &mut [u64] = &mut packed[count..count + LANES];
            let mut taken = 0;
            let (groups, curvatures) = (weights.as_chunks().0, d.as_chunks::<GROUP>().0);
            for (weights, d) in groups.iter().zip(curvatures) {
                let (mut x, mut take) = ([0.0; GROUP], [0; GROUP]);
                if !wanted.wanted(weights, &mut x, &mut take) {
                    continue;
                }
                for lane in 0..GROUP {
                    // Written whether or not it is wanted: a branch would be guessed wrong too often.
                    room[taken] = pack(x[lane], d[lane]);
                    taken += usize::from(take[lane] & u8::from(d[lane] > 0.0));
                }
            }
            count += taken;
        }
        count
    }
}

multiversion! {
    /// d = √v + floor.
    pub(crate) fn root(second_moment: &[f32], floor: f32, curvature: &mut [f32]) {
        for (d, v) in curvature.iter_mut().zip(second_moment) {
            *d = v.sqrt() + floor;
        }
    }
}

/// [`root`] of a long slice, on all threads.
pub(crate) fn roots(isa: Isa, second_moment: &[f32], floor: f32, curvature: &mut [f32]) {
    let parts = Parts::of(second_moment.len());
    parallel::for_each((second_moment, curvature), parts, &|(v, d): (
        &[f32],
        &mut [f32],
    )| {
        root(isa, v, floor, d);
    });
}

/// What turns weights into levels.
#[derive(Clone, Copy)]
pub(crate) enum Assignment<'a> {
    /// By magnitude: see [`Magnitudes`] for how the number of thresholds below `|w|` becomes an index.
    Nearest(&'a Magnitudes, &'a Thresholds),
    /// Ternary levels: 1 where `w` is above the first, −1 where `−w` is above the second, else 0.
    Ternary(f32, f32),
}

/// Writes the levels that the thresholds give, and what [`decode`] makes of them.
pub(crate) fn assign_and_decode(
    isa: Isa,
    weights: &[f32],
    codebook: Codebook,
    (magnitudes, thresholds): (&Magnitudes, &Thresholds),
    scale: Scale,
    levels: &mut [i8],
    quantized: &mut [f32],
) {
    let nearest = Nearest {
        thresholds: thresholds.values(),
        first_positive: magnitudes.first_positive,
        first_negative: magnitudes.first_negative,
    };
    let assign = |weights: &[f32], levels: &mut [i8]| {
        if let Some(nearest) = nearest.of_length::<1>() {
            assign_levels(isa, weights, nearest, levels);
        } else if let Some(nearest) = nearest.of_length::<3>() {
            assign_levels(isa, weights, nearest, levels);
        } else {
            assign_levels(isa, weights, nearest, levels);
        }
    };
    // A piece at a time, whose levels are decoded while they are in the cache.
    let both = |((weights, levels), quantized): ((&[f32], &mut [i8]), &mut [f32])| {
        let pieces = weights.chunks(PIECE).zip(levels.chunks_mut(PIECE));
        for ((weights, levels), quantized) in pieces.zip(quantized.chunks_mut(PIECE)) {
            assign(weights, levels);
            decode(isa, codebook, levels, scale, quantized);
        }
    };
    let parts = Parts::of(levels.len());
    parallel::for_each(((weights, levels), quantized), parts, &both);
}

multiversion! {
    fn assign_levels<A: Assign>(weights: &[f32], assign: A, levels: &mut [i8]) {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks_mut::<LANES>();
        for (chunk, levels) in chunks.iter().zip(level_chunks) {
            *levels = assign.levels(chunk);
        }
        let last = assign.levels(&padded(tail));
        level_tail.copy_from_slice(&last[..level_tail.len()]);
    }
}

/// Writes the levels, and returns `½ Σ d (w − ŵ)²` of what they and `scale` decode to.
pub(crate) fn assign_with_error(
    isa: Isa,
    problem: Problem<'_>,
    assignment: Assignment<'_>,
    codebook: Codebook,
    scale: Scale,
    levels: &mut [i8],
) -> f64 {
    let scales = scale.pair();
    let of_part = |(part, levels): (Problem<'_>, &mut [i8])| {
        let w = part.weights();
        with_curvature!(part, |d| with_rule!(codebook, |rule| match assignment {
            Assignment::Ternary(above, below) => {
                assigned_error(isa, w, d, Ternary { above, below }, rule, scales, levels)
            }
            Assignment::Nearest(magnitudes, thresholds) => {
                let assign = Nearest {
                    thresholds: thresholds.values(),
                    first_positive: magnitudes.first_positive,
                    first_negative: magnitudes.first_negative,
                };
                if let Some(assign) = assign.of_length::<3>() {
                    assigned_error(isa, w, d, assign, rule, scales, levels)
                } else if let Some(assign) = assign.of_length::<7>() {
                    assigned_error(isa, w, d, assign, rule, scales, levels)
                } else {
                    assigned_error(isa, w, d, assign, rule, scales, levels)
                }
            }
        }))
    };
    let parts = Parts::of(levels.len());
    parallel::reduce((problem, levels), parts, &of_part, &|a: f64, b: f64| a + b)
}

/// From weights to levels.
trait Assign: Copy {
    fn levels(self, weights: &[f32; LANES]) -> [i8; LANES];
}

#[derive(Clone, Copy)]
struct Ternary {
    above: f32,
    below: f32,
}

impl Assign for Ternary {
    #[inline(always)]
    fn levels(self, weights: &[f32; LANES]) -> [i8; LANES] {
        weights.map(|w| i8::from(w > self.above) - i8::from(w < -self.below))
    }
}

#[derive(Clone, Copy)]
struct Nearest<T> {
    thresholds: T,
    first_positive: i8,
    first_negative: i8,
}

impl Nearest<&[f32]> {
    /// The same with a table of a length known to the compiler, which stays in registers.
    fn of_length<const N: usize>(self) -> Option<Nearest<[f32; N]>> {
        Some(Nearest {
            thresholds: self.thresholds.try_into().ok()?,
            first_positive: self.first_positive,
            first_negative: self.first_negative,
        })
    }
}

impl<T: Table> Assign for Nearest<T> {
    #[inline(always)]
    fn levels(self, weights: &[f32; LANES]) -> [i8; LANES] {
        let mut number = [0_i32; LANES];
        for &threshold in self.thresholds.get() {
            for lane in 0..LANES {
                number[lane] += i32::from(weights[lane].abs() > threshold);
            }
        }
        let mut levels = [0; LANES];
        for lane in 0..LANES {
            let positive = i32::from(self.first_positive) + number[lane];
            let negative = i32::from(self.first_negative) - number[lane];
            levels[lane] = if weights[lane] < 0.0 {
                negative
            } else {
                positive
            } as i8;
        }
        levels
    }
}

multiversion! {
    fn assigned_error<C: Curvature, A: Assign, R: LevelValue>(
        weights: &[f32],
        curvature: C,
        assign: A,
        rule: R,
        scales: [f32; 2],
        levels: &mut [i8],
    ) -> f64 {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks_mut::<LANES>();
        let mut error = [0.0_f64; LANES];
        for (index, (chunk, levels)) in chunks.iter().zip(level_chunks).enumerate() {
            *levels = assign.levels(chunk);
            let quantized = levels.map(|level| decoded(rule, level, scales));
            add_errors(&mut error, chunk, quantized, curvature.chunk(index));
        }
        let levels = assign.levels(&padded(tail));
        level_tail.copy_from_slice(&levels[..tail.len()]);
        let quantized = levels.map(|level| decoded(rule, level, scales));
        add_errors(&mut error, &padded(tail), quantized, curvature.tail());
        0.5 * sum(error)
    }
}

/// `½ Σ d (w − ŵ)²` of what `levels` and `scale` decode to.
pub(crate) fn weighted_error(
    isa: Isa,
    problem: Problem<'_>,
    codebook: Codebook,
    scale: Scale,
    levels: &[i8],
) -> f64 {
    let scales = scale.pair();
    let of_part = |(part, levels): (Problem<'_>, &[i8])| {
        let w = part.weights();
        with_curvature!(part, |d| with_rule!(codebook, |rule| {
            level_error(isa, w, d, rule, scales, levels)
        }))
    };
    let parts = Parts::of(levels.len());
    parallel::reduce((problem, levels), parts, &of_part, &|a: f64, b: f64| a + b)
}

/// The one decode rule.
#[inline(always)]
fn decoded<R: LevelValue>(rule: R, level: i8, [positive, negative]: [f32; 2]) -> f32 {
    rule.value(level) * if level < 0 { negative } else { positive }
}

multiversion! {
    fn level_error<C: Curvature, R: LevelValue>(
        weights: &[f32],
        curvature: C,
        rule: R,
        scales: [f32; 2],
        levels: &[i8],
    ) -> f64 {
        let (chunks, tail) = weights.as_chunks::<LANES>();
        let (level_chunks, level_tail) = levels.as_chunks::<LANES>();
        let mut error = [0.0_f64; LANES];
        for (index, (chunk, levels)) in chunks.iter().zip(level_chunks).enumerate() {
            let quantized = levels.map(|level| decoded(rule, level, scales));
            add_errors(&mut error, chunk, quantized, curvature.chunk(index));
        }
        let quantized = padded(level_tail).map(|level| decoded(rule, level, scales));
        add_errors(&mut error, &padded(tail), quantized, curvature.tail());
        0.5 * sum(error)
    }
}

#[inline(always)]
fn add_errors(
    error: &mut [f64; LANES],
    weights: &[f32; LANES],
    quantized: [f32; LANES],
    curvature: [f32; LANES],
) {
    for lane in 0..LANES {
        let gap = f64::from(weights[lane]) - f64::from(quantized[lane]);
        error[lane] += f64::from(curvature[lane]) * (gap * gap);
    }
}

/// `ŵ` of `levels` and `scale`, up to the end of the shorter slice.
pub(crate) fn decode(
    isa: Isa,
    codebook: Codebook,
    levels: &[i8],
    scale: Scale,
    quantized: &mut [f32],
) {
    let scales = scale.pair();
    let length = levels.len().min(quantized.len());
    let decode = |(levels, quantized): (&[i8], &mut [f32])| {
        with_rule!(codebook, |rule| decode_levels(
            isa, rule, levels, scales, quantized
        ));
    };
    let both = (&levels[..length], &mut quantized[..length]);
    parallel::for_each(both, Parts::of(length), &decode);
}

multiversion! {
    fn decode_levels<R: LevelValue>(
        rule: R,
        levels: &[i8],
        scales: [f32; 2],
        quantized: &mut [f32],
    ) {
        for (quantized, &level) in quantized.iter_mut().zip(levels) {
            *quantized = decoded(rule, level, scales);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of either sign over a few decades, zeros among them.
    fn numbers(count: usize, step: f32) -> Vec<f32> {
        let number = |i: usize| (i as f32 * step).sin() * 10_f32.powi((i % 5) as i32 - 2);
        (0..count)
            .map(|i| if i % 11 == 3 { 0.0 } else { number(i) })
            .collect()
    }

    /// Everything that the kernels compute for one problem, as bits.
    fn all_results(isa: Isa, problem: Problem<'_>, codebook: Codebook) -> Vec<u64> {
        let weights = problem.weights();
        let magnitudes = codebook.magnitudes();
        let thresholds = magnitudes.thresholds(0.7);
        let mut levels = vec![0; weights.len()];
        let mut quantized = vec![0.0; weights.len()];
        let scale = Scale::Two {
            positive: 0.7,
            negative: 0.3,
        };
        let Span { smallest, largest } = span(isa, weights);
        let mut results = vec![smallest.into(), largest.into()];
        let nearest = Assignment::Nearest(&magnitudes, &thresholds);
        let error = assign_with_error(isa, problem, nearest, codebook, scale, &mut levels);
        results.push(error.to_bits());
        for side in [Side::Both, Side::Positive, Side::Negative] {
            for moments in [
                totals(isa, problem, side),
                moments(isa, problem, side, &magnitudes, thresholds.values()),
                moments_of_levels(isa, problem, side, codebook, &levels),
                moments_above(isa, problem, 0.2),
            ] {
                results.extend([moments.product.to_bits(), moments.square.to_bits()]);
            }
        }
        results.push(weighted_error(isa, problem, codebook, scale, &levels).to_bits());
        decode(isa, codebook, &levels, scale, &mut quantized);
        results.extend(levels.iter().map(|&level| level as u64));
        results.extend(quantized.iter().map(|value| u64::from(value.to_bits())));
        let ternary = Assignment::Ternary(0.2, 0.4);
        let error = assign_with_error(isa, problem, ternary, codebook, scale, &mut levels);
        results.push(error.to_bits());
        results.extend(levels.iter().map(|&level| level as u64));
        results
    }

    #[test]
    fn every_kernel_gives_the_same_bits() {
        let others: Vec<Isa> = Isa::available().collect();
        assert!(others.contains(&Isa::PORTABLE));
        for count in [0, 1, 63, 64, 65, 127, 128, 200, 1000] {
            let (weights, curvature) = (numbers(count, 0.7), numbers(count, 0.3));
            let curvature: Vec<f32> = curvature.iter().map(|d| d.abs()).collect();
            for given in [None, Some(&curvature[..])] {
                let problem = Problem::new(&weights, given).unwrap();
                for codebook in [
                    Codebook::Binary,
                    Codebook::Ternary,
                    Codebook::Linear { bits: 3 },
                    Codebook::Logarithmic { bits: 4 },
                    Codebook::Linear { bits: 6 },
                    Codebook::Uniform { bits: 8 },
                    Codebook::given(&[0.0, 0.1, 0.7]).unwrap(),
                    Codebook::given(&[0.1, 0.7, 0.8, 1.0]).unwrap(),
                ] {
                    let expected = all_results(Isa::PORTABLE, problem, codebook);
                    for &isa in &others {
                        let found = all_results(isa, problem, codebook);
                        assert_eq!(found, expected, "{isa:?}, {count} of {codebook:?}");
                    }
                }
            }
        }
    }

    /// Sums over lanes, with their padding, are the plain sums.
    #[test]
    fn sums_are_those_of_a_plain_loop() {
        let magnitudes = Codebook::Ternary.magnitudes();
        for count in [0, 1, 64, 100, 777] {
            let (mut weights, curvature) = (numbers(count, 0.7), numbers(count, 0.3));
            let curvature: Vec<f32> = curvature.iter().map(|d| d.abs()).collect();
            // Some weights right at a threshold, and levels that have nothing to do with their weights.
            weights
                .iter_mut()
                .skip(5)
                .step_by(9)
                .for_each(|w| *w = 0.1 * w.signum());
            let levels: Vec<i8> = (0..count).map(|i| (i * i % 3) as i8 - 1).collect();
            let problem = Problem::new(&weights, Some(&curvature)).unwrap();
            let agree = |found: Moments, expected: &dyn Fn(f64, f64) -> (f64, f64)| {
                let (mut product, mut square) = (0.0, 0.0);
                for (index, (&w, &d)) in weights.iter().zip(&curvature).enumerate() {
                    let (x, b) = expected(f64::from(w), f64::from(levels[index]));
                    product += f64::from(d) * b * x;
                    square += f64::from(d) * b * b;
                }
                assert!((found.product - product).abs() <= 1e-12 * product.abs());
                assert!((found.square - square).abs() <= 1e-12 * square);
            };
            let both = (Side::Both, 0.0);
            for (side, sign) in [both, (Side::Positive, 1.0), (Side::Negative, -1.0)] {
                let magnitude = |w: f64| {
                    if side == Side::Both {
                        w.abs()
                    } else {
                        sign * w
                    }
                };
                for threshold in [0.1_f32, 1.0] {
                    let threshold = f64::from(threshold);
                    let thresholds = magnitudes.thresholds(2.0 * threshold);
                    let found = moments(
                        Isa::PORTABLE,
                        problem,
                        side,
                        &magnitudes,
                        thresholds.values(),
                    );
                    agree(found, &|w, _| {
                        (magnitude(w), f64::from(magnitude(w) > threshold))
                    });
                }
                let codebook = Codebook::Ternary;
                let found = moments_of_levels(Isa::PORTABLE, problem, side, codebook, &levels);
                agree(found, &|w, b| match side {
                    Side::Both => (w, b),
                    _ => (sign * w, f64::from(sign * w > 0.0 && sign * b > 0.0)),
                });
            }
        }
    }
}
