//! Chunks of weights and curvature, and the arithmetic on one chunk.

/// Elements per step of a pass. With 64 the compiler keeps the loop over the lanes and vectorises
/// it; with 16 it unrolls the loop first, and the code is four times slower.
pub(crate) const LANES: usize = 64;

/// Elements per block where two passes run in turn. The second pass finds the block in the L1 or L2
/// cache.
pub(crate) const BLOCK: usize = 4096;

/// The weights that a pass includes, and their magnitude `x ≥ 0`.
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
    /// The bits to flip and the bits to keep that turn a weight of this side into its magnitude.
    /// Weights of the other side become negative and are below every threshold.
    pub(crate) fn masks(self) -> (u32, u32) {
        match self {
            Side::Both => (0, !0 >> 1),
            Side::Positive => (0, !0),
            Side::Negative => (1 << 31, !0),
        }
    }

    /// The magnitude of `w`; negative or zero if `w` is not on this side.
    #[inline(always)]
    pub(crate) fn magnitude(self, w: f32) -> f32 {
        let (flip, keep) = self.masks();
        masked(w, flip, keep)
    }
}

#[inline(always)]
pub(crate) fn masked(w: f32, flip: u32, keep: u32) -> f32 {
    f32::from_bits((w.to_bits() ^ flip) & keep)
}

/// The curvature in chunks of [`LANES`], padded with zeros.
pub(crate) trait Curvature: Copy {
    fn chunk(self, index: usize) -> [f32; LANES];
    fn tail(self) -> [f32; LANES];
    /// Prefetches a chunk.
    fn prefetch(self, _index: usize) {}
}

#[derive(Clone, Copy)]
pub(crate) struct Ones {
    pub(crate) tail: usize,
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
pub(crate) struct PerWeight<'a> {
    pub(crate) chunks: &'a [[f32; LANES]],
    pub(crate) tail: &'a [f32],
}

impl Curvature for PerWeight<'_> {
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
pub(crate) fn prefetch(chunk: &[f32; LANES]) {
    #[cfg(target_arch = "x86_64")]
    for line in chunk.chunks_exact(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch has no visible effect.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = chunk;
}

#[inline(always)]
pub(crate) fn padded<T: Copy + Default>(tail: &[T]) -> [T; LANES] {
    std::array::from_fn(|lane| tail.get(lane).copied().unwrap_or_default())
}

/// Evaluates `$call` with `$curvature` bound to the curvature of `$problem`, in its concrete type.
macro_rules! with_curvature {
    ($problem:expr, |$curvature:ident| $call:expr) => {
        match $problem.curvature() {
            Some(per_weight) => {
                let (chunks, tail) = per_weight.as_chunks();
                let $curvature = $crate::passes::lanes::PerWeight { chunks, tail };
                $call
            }
            None => {
                let $curvature = $crate::passes::lanes::Ones {
                    tail: $problem.weights().len() % $crate::passes::lanes::LANES,
                };
                $call
            }
        }
    };
}

/// Evaluates `$call` with `$rule` bound to the decode rule of `$codebook`, in its concrete type.
macro_rules! with_rule {
    ($codebook:expr, |$rule:ident| $call:expr) => {
        match $codebook.rule() {
            $crate::level_rule::Rule::Sign($rule) => $call,
            $crate::level_rule::Rule::Affine($rule) => $call,
            $crate::level_rule::Rule::PowerOfTwo($rule) => $call,
            $crate::level_rule::Rule::Custom($rule) => $call,
            $crate::level_rule::Rule::Table($rule) => $call,
        }
    };
}
pub(crate) use {with_curvature, with_rule};

/// The sum of the lanes, in order.
pub(crate) fn sum(lanes: [f64; LANES]) -> f64 {
    lanes.into_iter().sum()
}

/// A table with one entry per threshold.
pub(crate) trait Table<E = f32>: Copy {
    fn get(&self) -> &[E];
}

impl<E: Copy, const N: usize> Table<E> for [E; N] {
    #[inline(always)]
    fn get(&self) -> &[E] {
        self
    }
}

impl<E> Table<E> for &[E] {
    #[inline(always)]
    fn get(&self) -> &[E] {
        self
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
