//! Cuts long slices into parts for several threads.
//!
//! The cuts depend on the length alone and the results of the parts are combined in order, so no
//! result depends on the number of threads.

use std::ops::Range;

use super::lanes::LANES;
use crate::problem::Problem;

/// Elements of the smallest part. A slice shorter than two of them is not cut.
const MIN_PART: usize = 1 << 18;

/// Bounds the memory of the exact solver, which has a table per part.
const MAX_PARTS: usize = 16;

/// The parts of a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parts {
    pub(crate) count: usize,
    /// Elements of each part except the last, a multiple of [`LANES`].
    pub(crate) size: usize,
}

impl Parts {
    pub(crate) fn of(length: usize) -> Self {
        let count = (length / MIN_PART).clamp(1, MAX_PARTS);
        let size = length.div_ceil(count).next_multiple_of(LANES).max(LANES);
        Self {
            count: length.div_ceil(size).max(1),
            size,
        }
    }
}

/// Data that can be split between two parts.
pub(crate) trait Cut: Sized + Send {
    /// Splits off the first `count` parts of `size` elements.
    fn cut(self, count: usize, size: usize) -> (Self, Self);
}

impl<T: Sync> Cut for &[T] {
    fn cut(self, count: usize, size: usize) -> (Self, Self) {
        self.split_at(self.len().min(count * size))
    }
}

impl<T: Send> Cut for &mut [T] {
    fn cut(self, count: usize, size: usize) -> (Self, Self) {
        self.split_at_mut(self.len().min(count * size))
    }
}

impl Cut for Problem<'_> {
    fn cut(self, count: usize, size: usize) -> (Self, Self) {
        self.split_at(self.weights().len().min(count * size))
    }
}

/// A slice with one element per part.
pub(crate) struct OnePerPart<'a, T>(pub(crate) &'a mut [T]);

impl<T: Send> Cut for OnePerPart<'_, T> {
    fn cut(self, count: usize, _: usize) -> (Self, Self) {
        let (before, after) = self.0.split_at_mut(count);
        (OnePerPart(before), OnePerPart(after))
    }
}

impl<A: Cut, B: Cut> Cut for (A, B) {
    fn cut(self, count: usize, size: usize) -> (Self, Self) {
        let (a, b) = (self.0.cut(count, size), self.1.cut(count, size));
        ((a.0, b.0), (a.1, b.1))
    }
}

/// Applies `map` to every part and `add` to adjacent results, in an order that depends on the
/// length alone.
pub(crate) fn reduce<C: Cut, T: Send>(
    all: C,
    parts: Parts,
    map: &(impl Fn(C) -> T + Sync),
    add: &(impl Fn(T, T) -> T + Sync),
) -> T {
    reduce_range(all, 0..parts.count, parts.size, map, add)
}

/// Applies `map` to every part.
pub(crate) fn for_each<C: Cut>(all: C, parts: Parts, map: &(impl Fn(C) + Sync)) {
    reduce(all, parts, map, &|(), ()| ());
}

fn reduce_range<C: Cut, T: Send>(
    all: C,
    parts: Range<usize>,
    size: usize,
    map: &(impl Fn(C) -> T + Sync),
    add: &(impl Fn(T, T) -> T + Sync),
) -> T {
    if parts.len() <= 1 {
        return map(all);
    }
    let half = parts.len() / 2;
    let (before, after) = all.cut(half, size);
    let middle = parts.start + half;
    let (before, after) = join(
        || reduce_range(before, parts.start..middle, size, map, add),
        || reduce_range(after, middle..parts.end, size, map, add),
    );
    add(before, after)
}

/// Calls `map` for each item, with its index and a workspace that is made once for several; the results
/// are in order.
pub(crate) fn map_with<I: Send, W, T: Send>(
    items: Vec<I>,
    workspace: impl Fn() -> W + Sync + Send,
    map: impl Fn(&mut W, usize, I) -> T + Sync + Send,
) -> Vec<T> {
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        let items = items.into_par_iter().enumerate();
        items
            .map_init(workspace, |workspace, (index, item)| {
                map(workspace, index, item)
            })
            .collect()
    }
    #[cfg(not(feature = "rayon"))]
    {
        let mut workspace = workspace();
        let items = items.into_iter().enumerate();
        items
            .map(|(index, item)| map(&mut workspace, index, item))
            .collect()
    }
}

#[cfg(feature = "rayon")]
fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    rayon::join(a, b)
}

#[cfg(not(feature = "rayon"))]
fn join<A, B>(a: impl FnOnce() -> A, b: impl FnOnce() -> B) -> (A, B) {
    (a(), b())
}
