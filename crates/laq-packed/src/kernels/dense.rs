//! The product of panels of f32, with the bits of the dense product of training.

use laq_simd::{Isa, Set, multiversion};

use super::PANEL_ROWS;

/// Columns of a panel: for each column, its 16 rows.
pub(crate) type DensePanel<'a> = &'a [[f32; PANEL_ROWS]];

/// Sums of products of one vector and at most four panels, which `add` adds to.
///
/// The panels are consecutive, with `columns` columns each; those of `x` begin at `first`.
pub(crate) fn multiply_dense(
    isa: Isa,
    panels: DensePanel<'_>,
    (columns, first): (usize, usize),
    x: &[f32],
    add: bool,
    sums: &mut [[f32; PANEL_ROWS]],
) {
    assert!(panels.len() == sums.len() * columns && first + x.len() <= columns);
    if isa.set() != Set::Portable {
        match sums.len() {
            4 => four(isa, panels, columns, first, x, add, sums),
            3 => three(isa, panels, columns, first, x, add, sums),
            2 => two(isa, panels, columns, first, x, add, sums),
            _ => one(isa, panels, columns, first, x, add, sums),
        }
        return;
    }
    for (panel, sums) in panels.chunks_exact(columns).zip(sums) {
        let panel = &panel[first..first + x.len()];
        // SAFETY: `x` has a row of as many elements as the panel has rows of 16, as has `sums`.
        unsafe {
            matrixmultiply::sgemm(
                1,
                x.len(),
                PANEL_ROWS,
                1.0,
                x.as_ptr(),
                x.len() as isize,
                1,
                panel.as_ptr().cast(),
                PANEL_ROWS as isize,
                1,
                if add { 1.0 } else { 0.0 },
                sums.as_mut_ptr(),
                PANEL_ROWS as isize,
                1,
            );
        }
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
                    std::array::from_fn(|panel| &panels[panel * columns + first..][..x.len()]);
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
