//! Central differences.

use proptest::prelude::*;

const STEP: f64 = 1e-5;

/// Checks `gradient` of `loss` at `point`, element by element.
pub(crate) fn check(what: &str, point: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(point.len(), gradient.len(), "{what}");
    let mut moved = point.to_vec();
    for index in 0..point.len() {
        moved[index] = point[index] + STEP;
        let above = loss(&moved);
        moved[index] = point[index] - STEP;
        let below = loss(&moved);
        moved[index] = point[index];
        let quotient = (above - below) / (2.0 * STEP);
        let difference = (quotient - gradient[index]).abs();
        assert!(
            difference <= 1e-7 * (1.0 + quotient.abs()),
            "{what}[{index}]: gradient {}, difference quotient {quotient}",
            gradient[index]
        );
    }
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn uniform(count: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-1.0f64..1.0, count)
}
