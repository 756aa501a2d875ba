//! Long slices cut into parts, for several threads to share out.
//!
//! Where the cuts are depends on the length alone, and what the parts give is put together in one order, so
//! that the number of threads plays no part in any result.

use std::ops::Range;

use crate::kernels::LANES;
use crate::problem::Problem;

/// Below twice as many elements, a slice is one part, and no other thread is asked.
const FEWEST_IN_A_PART: usize = 1 << 18;

/// More parts would make the tables that the exact solver keeps for each of them too large.
const MOST_PARTS: usize = 16;

/// The cut of a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parts {
    pub(crate) count: usize,
    /// Elements of every part but the last, a multiple of [`LANES`].
    pub(crate) size: usize,
}

impl Parts {
    pub(crate) fn of(length: usize) -> Self {
        let count = (length / FEWEST_IN_A_PART).clamp(1, MOST_PARTS);
        let size = length.div_ceil(count).next_multiple_of(LANES).max(LANES);
        Self {
            count: length.div_ceil(size).max(1),
            size,
        }
    }
}

/// What can be cut between two parts.
pub(crate) trait Cut: Sized + Send {
    /// The first `count` parts of `size` elements each, and the rest.
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

/// One element a part, where the others have [`Parts::size`].
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

/// Calls `map` on every part and `add` on neighbouring results, in an order that depends on the cut alone.
pub(crate) fn reduce<C: Cut, T: Send>(
    all: C,
    parts: Parts,
    map: &(impl Fn(C) -> T + Sync),
    add: &(impl Fn(T, T) -> T + Sync),
) -> T {
    between(all, 0..parts.count, parts.size, map, add)
}

/// Calls `map` on every part.
pub(crate) fn for_each<C: Cut>(all: C, parts: Parts, map: &(impl Fn(C) + Sync)) {
    reduce(all, parts, map, &|(), ()| ());
}

fn between<C: Cut, T: Send>(
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
        || between(before, parts.start..middle, size, map, add),
        || between(after, middle..parts.end, size, map, add),
    );
    add(before, after)
}

#[cfg(feature = "rayon")]
fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    rayon::join(a, b)
}

#[cfg(not(feature = "rayon"))]
fn join<A, B>(a: impl FnOnce() -> A, b: impl FnOnce() -> B) -> (A, B) {
    (a(), b())
}
