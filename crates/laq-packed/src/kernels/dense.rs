//! Panels of f32 with fused multiply-add.

use std::array;

use laq_simd::{Isa, multiversion};

use super::{DensePanel, PANEL_ROWS};

/// See [`super::multiply_dense`].
pub(super) fn multiply(
    isa: Isa,
    panels: DensePanel<'_>,
    (columns, first): (usize, usize),
    x: &[f32],
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    match sums.len() {
        4 => four(isa, panels, columns, first, x, add, sums),
        3 => three(isa, panels, columns, first, x, add, sums),
        2 => two(isa, panels, columns, first, x, add, sums),
        _ => one(isa, panels, columns, first, x, add, sums),
    }
}

/// A constant number of panels keeps their sums in registers.
macro_rules! fused {
    ($name:ident, $panels:literal) => {
        multiversion! {
            fn $name(
                panels: DensePanel<'_>, columns: usize, first: usize, x: &[f32], add: bool,
                sums: &mut [[f32; PANEL_ROWS]],
            ) {
                let mut total = [[0.0f32; PANEL_ROWS]; $panels];
                let panels: [DensePanel<'_>; $panels] =
                    array::from_fn(|panel| &panels[panel * columns + first..][..x.len()]);
                for (column, &x) in x.iter().enumerate() {
                    for (total, panel) in total.iter_mut().zip(panels) {
                        let weights = &panel[column];
                        for lane in 0..PANEL_ROWS {
                            total[lane] = x.mul_add(weights[lane], total[lane]);
                        }
                    }
                }
                for (sums, total) in sums.iter_mut().zip(total) {
                    for lane in 0..PANEL_ROWS {
                        sums[lane] = if add { sums[lane] + total[lane] } else { total[lane] };
                    }
                }
            }
        }
    };
}

fused!(one, 1);
fused!(two, 2);
fused!(three, 3);
fused!(four, 4);
