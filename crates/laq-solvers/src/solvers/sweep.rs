//! The sweep over breakpoints in which both exact solvers end.
//!
//! As the scale falls, each weight moves up one magnitude at each of its breakpoints. The sweep
//! visits the breakpoints by falling scale and evaluates the assignment between every two of them.

use std::collections::BinaryHeap;
use std::ops::Range;

use crate::codebook::{MAX_MAGNITUDES, Magnitudes};
use crate::passes::histogram::unpack;
use crate::passes::sums::Sums;

/// The largest scale that is returned. The best scale can be up to k times the largest weight and
/// overflow f32; the best representable scale is then the largest f32.
pub(crate) const LARGEST_SCALE: f64 = f32::MAX as f64;

/// The best assignment so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Best {
    /// Twice the reduction of the error relative to all zeros.
    pub(crate) gain: f64,
    pub(crate) scale: f64,
}

impl Best {
    /// Keeps the assignment with the larger gain; the later one of equals.
    pub(crate) fn update(&mut self, state: Sums) {
        if state.square == 0.0 {
            return; // All zeros, which have no best scale.
        }
        let scale = state.scale().min(LARGEST_SCALE);
        let gain = if scale < LARGEST_SCALE {
            state.gain()
        } else {
            scale * (2.0 * state.product - scale * state.square)
        };
        if gain >= self.gain {
            *self = Self { gain, scale };
        }
    }
}

/// Weights of one magnitude `x`, with `Σ d x` and `Σ d` over them. They reach magnitude j of the
/// codebook at the scale `x / mid_j`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Breakpoint {
    pub(crate) magnitude: f64,
    pub(crate) sums: Sums,
}

impl Breakpoint {
    /// From a weight packed by [`pack`](crate::passes::histogram::pack).
    pub(crate) fn unpack(packed: u64) -> Self {
        let (magnitude, curvature) = unpack(packed);
        let (magnitude, curvature) = (f64::from(magnitude), f64::from(curvature));
        Self {
            magnitude,
            sums: Sums {
                product: curvature * magnitude,
                square: curvature,
            },
        }
    }
}

/// A heap with the next breakpoint of each magnitude, largest scale first: the bits of the scale,
/// which order as the scales do, and the number of the magnitude.
pub(crate) type SweepQueue = BinaryHeap<(u64, u8)>;

/// Evaluates the assignment with the sums `state` and every assignment that follows as the scale
/// falls. The breakpoints in `range(j)`, in order of falling magnitude, move up to magnitude j of
/// the codebook.
pub(crate) fn sweep(
    magnitudes: &Magnitudes,
    mut state: Sums,
    breakpoint: impl Fn(usize) -> Breakpoint,
    range: impl Fn(usize) -> Range<usize>,
    queue: &mut SweepQueue,
    best: &mut Best,
) {
    let q = magnitudes.values();
    let mut remaining = [const { 0..0 }; MAX_MAGNITUDES];
    let mut midpoints = [0.0_f64; MAX_MAGNITUDES];
    let entry = |midpoint: f64, number: usize, breakpoint: Breakpoint| {
        ((breakpoint.magnitude / midpoint).to_bits(), number as u8)
    };
    queue.clear();
    for (number, midpoint) in (1..).zip(magnitudes.midpoints()) {
        midpoints[number] = midpoint;
        remaining[number] = range(number);
        if !remaining[number].is_empty() {
            queue.push(entry(midpoint, number, breakpoint(remaining[number].start)));
        }
    }

    best.update(state);
    while let Some(&(at, number)) = queue.peek() {
        let number = usize::from(number);
        let Sums { product, square } = breakpoint(remaining[number].start).sums;
        let (lower, upper) = (f64::from(q[number - 1]), f64::from(q[number]));
        state.product += product * (upper - lower);
        state.square += square * ((upper - lower) * (upper + lower));
        remaining[number].start += 1;
        if remaining[number].is_empty() {
            queue.pop();
        } else if let Some(mut next) = queue.peek_mut() {
            *next = entry(
                midpoints[number],
                number,
                breakpoint(remaining[number].start),
            );
        }
        if queue.peek().is_none_or(|&(following, _)| following != at) {
            best.update(state);
        }
    }
}
