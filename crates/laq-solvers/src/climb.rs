//! The states between the events, one after the other: what both exact solvers end in.

use std::collections::BinaryHeap;
use std::ops::Range;

use crate::codebook::{MOST_MAGNITUDES, Magnitudes};
use crate::kernels::Moments;

/// The largest scale that may be returned. Linear levels can ask for a scale of up to k times the largest
/// weight; where that is above every f32, the largest f32 is the best of those that can be had.
pub(crate) const LARGEST_SCALE: f64 = f32::MAX as f64;

/// The best state so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Best {
    /// What it takes off twice the error of all zeros.
    pub(crate) gain: f64,
    pub(crate) scale: f64,
}

impl Best {
    /// Keeps the larger gain with its scale. On a draw the later state stays.
    pub(crate) fn consider(&mut self, state: Moments) {
        if state.square == 0.0 {
            return; // All zeros, which have no best scale; every other state gains something.
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

/// Weights of one magnitude `x`, with `Σ d x` and `Σ d` over them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) magnitude: f64,
    pub(crate) sums: Moments,
}

impl Item {
    /// A weight that was packed by [`pack`](crate::kernels::pack).
    pub(crate) fn unpack(packed: u64) -> Self {
        let float = |bits: u64| f64::from(f32::from_bits(bits as u32));
        let (magnitude, curvature) = (float(packed >> 32), float(packed));
        Self {
            magnitude,
            sums: Moments {
                product: curvature * magnitude,
                square: curvature,
            },
        }
    }
}

/// The heap of the next event of every magnitude, latest scale first.
pub(crate) type Events = BinaryHeap<(u64, u8)>;

/// Considers `state`, and then every state that follows while the scale falls: `item`, by falling
/// magnitude, are taken up to magnitude number j of the codebook one after the other, those of `range(j)`.
pub(crate) fn climb(
    magnitudes: &Magnitudes,
    mut state: Moments,
    item: impl Fn(usize) -> Item,
    range: impl Fn(usize) -> Range<usize>,
    events: &mut Events,
    best: &mut Best,
) {
    let q = magnitudes.values();
    let mut left = [const { 0..0 }; MOST_MAGNITUDES];
    let mut midpoints = [0.0_f64; MOST_MAGNITUDES];
    // The event that takes an item to magnitude `number`: the scale at which it happens, as bits, which
    // order as the scales do, and the number.
    let event = |midpoint: f64, number: usize, item: Item| {
        ((item.magnitude / midpoint).to_bits(), number as u8)
    };
    events.clear();
    for (number, midpoint) in (1..).zip(magnitudes.midpoints()) {
        midpoints[number] = midpoint;
        left[number] = range(number);
        if !left[number].is_empty() {
            events.push(event(midpoint, number, item(left[number].start)));
        }
    }

    best.consider(state);
    while let Some(&(at, number)) = events.peek() {
        let number = usize::from(number);
        let Moments { product, square } = item(left[number].start).sums;
        let (lower, upper) = (f64::from(q[number - 1]), f64::from(q[number]));
        state.product += product * (upper - lower);
        state.square += square * ((upper - lower) * (upper + lower));
        left[number].start += 1;
        if left[number].is_empty() {
            events.pop();
        } else if let Some(mut next) = events.peek_mut() {
            *next = event(midpoints[number], number, item(left[number].start));
        }
        if events.peek().is_none_or(|&(following, _)| following != at) {
            best.consider(state);
        }
    }
}
