//! Products with activations of 8 bits.

use core::ops::Range;

use laq_simd::{Isa, multiversion};

use crate::integer_table::IntegerTable;
use crate::kernels::{self, INT8_BLOCK, IntegerSums, PANEL_ROWS};
use crate::matrix::{PackedMatrix, Run};
use crate::pack_error::PackError;
use crate::threads::with_scratch;

/// Products up to which one thread is faster: waking another takes some microseconds.
const ONE_THREAD: usize = 1 << 24;

/// The multipliers that have two steps.
const TERNARY: [f32; 3] = [-1.0, 0.0, 1.0];

impl PackedMatrix {
    /// Whether [`multiply_int8`](Self::multiply_int8) can multiply: the multipliers are integers up to
    /// 64 times a power of two, and two steps come with ternary codes.
    pub fn has_integers(&self) -> bool {
        self.integers.is_some() && (!self.two_steps || self.table().multipliers() == TERNARY)
    }

    /// `y = W·x` with x rounded to 8 bits: `x ≈ s·q` with `s = max|x| / 127` and q rounded half to
    /// even.
    ///
    /// The products and sums of q and the codes are exact; y is computed from them in f64 and rounded
    /// to f32.
    ///
    /// # Errors
    /// [`PackError::NotIntegers`] without [`has_integers`](Self::has_integers), and
    /// [`PackError::Activation`] if an element of x is not finite.
    ///
    /// # Panics
    /// If `x` does not have one element per column, or `y` one per row.
    pub fn multiply_int8(&self, x: &[f32], y: &mut [f32]) -> Result<(), PackError> {
        self.product_int8(Isa::selected(), x, y)
    }

    /// [`multiply_int8`](Self::multiply_int8) with a chosen instruction set.
    ///
    /// # Errors
    /// As [`multiply_int8`](Self::multiply_int8).
    ///
    /// # Panics
    /// As [`multiply_int8`](Self::multiply_int8).
    pub fn product_int8(&self, isa: Isa, x: &[f32], y: &mut [f32]) -> Result<(), PackError> {
        assert_eq!(x.len(), self.columns(), "one element per column");
        assert_eq!(y.len(), self.rows(), "one element per row");
        let Some(integers) = self.integers.filter(|_| self.has_integers()) else {
            return Err(PackError::NotIntegers {
                multipliers: self.table().multipliers().to_vec(),
            });
        };
        let panels = self.panels();
        let padded = panels.words_per_panel * panels.columns_per_word();
        with_scratch(padded / 4, |scratch| {
            let bytes: &mut [i32] = bytemuck::cast_slice_mut(scratch);
            let x = quantize(isa, x, bytes)?;
            let bytes = &*bytes;
            let products = self.rows() * self.columns();
            self.for_each_run(y, 1, products > ONE_THREAD, |run, y| {
                self.run_int8(isa, &integers, run, (bytes, x), y);
            });
            Ok(())
        })
    }

    /// The outputs of the panels of a run, two at a time.
    fn run_int8(
        &self,
        isa: Isa,
        integers: &IntegerTable,
        run: &Run,
        (bytes, x): (&[i32], (f64, f64)),
        y: &mut [f32],
    ) {
        let panels = self.panels();
        let shared = (run.values.is_some()).then(|| self.steps_by_lane(run.panels.start));
        let per_word = panels.columns_per_word() / 4;
        let mut block = IntegerSums::default();
        for (panel, y) in (run.panels.clone().step_by(2)).zip(y.chunks_mut(2 * PANEL_ROWS)) {
            let pair = [panel, (panel + 1).min(run.panels.end - 1)];
            let multiply = |words: Range<usize>, block: &mut IntegerSums| {
                let x = &bytes[words.start * per_word..words.end * per_word];
                let table = &integers.integers;
                kernels::multiply_int8(isa, panels, pair, words, table, self.two_steps, x, block);
            };
            let mut wide = [[[0.0f64; PANEL_ROWS]; 2]; 2];
            let one_block = panels.words_per_panel <= INT8_BLOCK;
            if one_block {
                multiply(0..panels.words_per_panel, &mut block);
            } else {
                for start in (0..panels.words_per_panel).step_by(INT8_BLOCK) {
                    let end = panels.words_per_panel.min(start + INT8_BLOCK);
                    multiply(start..end, &mut block);
                    let sums = wide.as_flattened_mut().as_flattened_mut().iter_mut();
                    for (sum, block) in sums.zip(block.as_flattened().as_flattened()) {
                        *sum += f64::from(*block);
                    }
                }
            }
            for (p, y) in y.chunks_mut(PANEL_ROWS).enumerate() {
                let steps = shared.unwrap_or_else(|| self.steps_by_lane(panel + p));
                let out = &mut [0.0; PANEL_ROWS];
                if one_block {
                    integers.scale_rows(isa, x, self.two_steps, &block[p], &steps, out);
                } else {
                    integers.scale_rows(isa, x, self.two_steps, &wide[p], &steps, out);
                }
                y.copy_from_slice(&out[..y.len()]);
            }
        }
    }
}

/// Rounds x to `scale · q` with 8 bits, four to an element of `bytes`; returns the scale and Σ q.
fn quantize(isa: Isa, x: &[f32], bytes: &mut [i32]) -> Result<(f64, f64), PackError> {
    let largest = largest_magnitude(isa, x);
    if !largest.is_finite() {
        let index = x.iter().position(|x| !x.is_finite()).unwrap_or_default();
        return Err(PackError::Activation {
            index,
            value: x[index],
        });
    }
    let inverse = if largest > 0.0 {
        127.0 / f64::from(largest)
    } else {
        0.0
    };
    let bytes: &mut [i8] = bytemuck::cast_slice_mut(bytes);
    let (elements, padding) = bytes.split_at_mut(x.len());
    padding.fill(0);
    let total = round_to_bytes(isa, x, inverse, elements);
    Ok((f64::from(largest) / 127.0, total))
}

multiversion! {
    /// max |x|; infinity if an element is NaN.
    fn largest_magnitude(x: &[f32]) -> f32 {
        // The bits of magnitudes are ordered as the magnitudes, and those of NaN are above infinity.
        let bits = x.iter().fold(0, |largest, x| x.abs().to_bits().max(largest));
        f32::from_bits(bits.min(f32::INFINITY.to_bits()))
    }
}

multiversion! {
    /// q = x·inverse, rounded half to even; returns Σ q.
    fn round_to_bytes(x: &[f32], inverse: f64, bytes: &mut [i8]) -> f64 {
        // Adding 1.5·2⁵² leaves the rounded integer in the low bits.
        const SHIFT: f64 = 6_755_399_441_055_744.0;
        let mut total = 0.0;
        for (x, bytes) in x.chunks(1 << 16).zip(bytes.chunks_mut(1 << 16)) {
            let mut sum = 0;
            for (&x, byte) in x.iter().zip(bytes) {
                let q = (f64::from(x) * inverse + SHIFT).to_bits() as i32;
                *byte = q as i8;
                sum += q;
            }
            total += f64::from(sum);
        }
        total
    }
}
