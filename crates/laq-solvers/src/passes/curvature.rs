//! Curvature from Adam's second moment.

use laq_simd::multiversion;

/// Added to √v, so that the curvature d = √v + 1e-8 is positive. Source: PAPER.md §1.
pub const CURVATURE_FLOOR: f32 = 1e-8;

multiversion! {
    /// `d = √v + floor`.
    pub(crate) fn root(second_moment: &[f32], floor: f32, curvature: &mut [f32]) {
        for (d, v) in curvature.iter_mut().zip(second_moment) {
            *d = v.sqrt() + floor;
        }
    }
}
