//! An axis of a tensor in front of the others.

use alloc::vec::Vec;

/// An axis, with the number of elements of the dimensions before and after it. Row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    before: usize,
    length: usize,
    after: usize,
}

impl Axis {
    /// Axis number `axis` of a tensor; `None` if it has no such axis, or more elements than can be counted.
    pub(crate) fn of(shape: &[usize], axis: usize) -> Option<Self> {
        Some(Self {
            before: elements(shape.get(..axis)?)?,
            length: *shape.get(axis)?,
            after: elements(&shape[axis + 1..])?,
        })
    }

    /// The place in the tensor of an element, from that with the axis in front.
    pub(crate) fn place(self, front: usize) -> usize {
        let (others, after) = (self.before * self.after, self.after);
        let (index, other) = (front / others, front % others);
        (other / after * self.length + index) * after + other % after
    }

    /// The elements with the axis in front.
    pub(crate) fn moved_to_front<T: Copy>(self, values: &[T]) -> Vec<T> {
        (0..values.len())
            .map(|front| values[self.place(front)])
            .collect()
    }
}

/// The elements of a shape; `None` if there are more than can be counted.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    (shape.iter()).try_fold(1usize, |product, size| product.checked_mul(*size))
}

/// The shape with an axis in front.
pub(crate) fn front_shape(shape: &[usize], axis: usize) -> Vec<usize> {
    let mut front = shape.to_vec();
    if axis < front.len() {
        front[..=axis].rotate_right(1);
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_move_to_the_front_and_back() {
        let shape = [2, 3, 4];
        let values: Vec<usize> = (0..24).collect();
        for axis in 0..3 {
            let moved = Axis::of(&shape, axis).expect("an axis");
            let front = moved.moved_to_front(&values);
            let sizes = front_shape(&shape, axis);
            // By indices: element [i][j][k] is at i·12 + j·4 + k.
            for (place, value) in front.iter().enumerate() {
                let rest = place % (sizes[1] * sizes[2]);
                let index = [
                    place / (sizes[1] * sizes[2]),
                    rest / sizes[2],
                    rest % sizes[2],
                ];
                let mut original = index.to_vec();
                let first = original.remove(0);
                original.insert(axis, first);
                assert_eq!(
                    *value,
                    original[0] * 12 + original[1] * 4 + original[2],
                    "{axis}"
                );
                assert_eq!(moved.place(place), *value);
            }
            let mut back = front.clone();
            for (place, value) in front.iter().enumerate() {
                back[moved.place(place)] = *value;
            }
            assert_eq!(back, values);
        }
        assert_eq!(Axis::of(&shape, 3), None);
        assert_eq!(front_shape(&shape, 2), [4, 2, 3]);
    }
}
