//! Products of packed matrices, compared with the dense product and with integer arithmetic.

use alloc::{vec, vec::Vec};

use laq_solvers::Codebook;
use proptest::prelude::*;

use super::{IntegerCodes, IntegerSums, PANEL_ROWS, Word, portable};
use crate::matrix::DENSE_DEPTH;
use crate::{CodeTable, PackError, PackedMatrix, Packing};
use laq_simd::Isa;

fn codebooks() -> Vec<Codebook> {
    let custom = Codebook::custom([0.0, 1.0 / 12.0, 1.0 / 6.0, 0.25, 1.0 / 3.0, 0.5, 1.0]);
    let sized = |bits| {
        [
            Codebook::linear(bits),
            Codebook::logarithmic(bits),
            Codebook::uniform(bits),
        ]
    };
    let mut all: Vec<Codebook> = (2..=4).flat_map(sized).map(Result::unwrap).collect();
    all.extend([Codebook::Binary, Codebook::Ternary, custom.unwrap()]);
    all
}

fn uniform(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A matrix, its levels' decoded weights, and the codes' integer weights per row where they are.
fn matrix(
    codebook: &Codebook,
    [rows, columns, groups]: [usize; 3],
    two_steps: bool,
    seed: u32,
) -> (PackedMatrix, Vec<f32>, Vec<i8>, Vec<f32>) {
    let all: Vec<i8> = codebook.levels().collect();
    let draws = uniform(rows * columns, seed);
    let level = |draw: &f32| all[((draw + 1.0) / 2.0 * all.len() as f32) as usize % all.len()];
    let levels: Vec<i8> = draws.iter().map(level).collect();
    let per_group = if two_steps { 2 } else { 1 };
    let steps: Vec<f32> = (uniform(groups * per_group, seed ^ 77).iter())
        .map(|draw| 0.1 + draw.abs())
        .collect();
    let packing = Packing::of(codebook).unwrap();
    let packed = packing.pack(&levels, rows, columns, codebook).unwrap();
    let table = CodeTable::of(codebook).unwrap();
    let matrix =
        PackedMatrix::new(rows, columns, packing, &packed, table, &steps, two_steps).unwrap();
    // The decode rule of laq-solvers, where the scale is a step.
    let mut weights = vec![0.0; rows * columns];
    let parts = weights.chunks_mut((rows / groups * columns).max(1));
    let parts = parts.zip(levels.chunks((rows / groups * columns).max(1)));
    for ((weights, levels), steps) in parts.zip(steps.chunks(per_group)) {
        for (weight, &level) in weights.iter_mut().zip(levels) {
            let step = steps[if level < 0 { per_group - 1 } else { 0 }];
            *weight = step * codebook.multiplier(level);
        }
        #[cfg(feature = "std")]
        if codebook.divisor() == 1.0 {
            let mut decoded = vec![0.0; levels.len()];
            let scale = match steps {
                [positive, negative] => laq_solvers::Scale::Two {
                    positive: *positive,
                    negative: *negative,
                },
                _ => laq_solvers::Scale::One(steps[0]),
            };
            codebook.decode(levels, scale, &mut decoded);
            assert_eq!(decoded, weights);
        }
    }
    (matrix, weights, levels, steps)
}

/// The dense product of training: per slice in the order of the columns, fused where the
/// instruction set fuses; the portable one is matrixmultiply's.
fn dense(
    isa: Isa,
    weights: &[f32],
    [rows, columns, batch, depth]: [usize; 4],
    x: &[f32],
    y: &mut [f32],
    mut accumulate: bool,
) {
    for start in (0..columns).step_by(depth) {
        let slice = start..columns.min(start + depth);
        if isa == Isa::PORTABLE {
            let beta = if accumulate { 1.0 } else { 0.0 };
            // SAFETY: the sizes are those of the operands.
            unsafe {
                matrixmultiply::sgemm(
                    batch,
                    slice.len(),
                    rows,
                    1.0,
                    x[start..].as_ptr(),
                    columns as isize,
                    1,
                    weights[start..].as_ptr(),
                    1,
                    columns as isize,
                    beta,
                    y.as_mut_ptr(),
                    rows as isize,
                    1,
                );
            }
        } else {
            for (y, x) in y.chunks_exact_mut(rows).zip(x.chunks_exact(columns)) {
                for (y, weights) in y.iter_mut().zip(weights.chunks_exact(columns)) {
                    let terms = slice.clone();
                    let sum = terms.fold(0.0, |sum: f32, k| x[k].mul_add(weights[k], sum));
                    *y = if accumulate { *y + sum } else { sum };
                }
            }
        }
        accumulate = true;
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_have_the_bits_of_the_dense_product(
        which in 0..codebooks().len(),
        rows_of_group in 1_usize..40,
        groups in prop_oneof![Just(1_usize), 1_usize..6],
        columns in prop_oneof![1_usize..80, 500_usize..1100],
        batch in 1_usize..20,
        two_steps: bool,
        accumulate: bool,
        whole: bool,
        seed: u32,
    ) {
        let codebook = &codebooks()[which];
        let rows = rows_of_group * groups;
        let (matrix, weights, ..) = matrix(codebook, [rows, columns, groups], two_steps, seed);
        let mut decoded = vec![0.0; weights.len()];
        matrix.decode(&mut decoded);
        prop_assert_eq!(bits(&decoded), bits(&weights));
        let x = uniform(batch * columns, seed ^ 5);
        let depth = if whole { columns.next_multiple_of(32) } else { DENSE_DEPTH };
        for isa in Isa::available() {
            let (mut found, mut expected) = (uniform(batch * rows, 9), uniform(batch * rows, 9));
            matrix.product(isa, &x, batch, depth, accumulate, &mut found);
            let sizes = [rows, columns, batch, depth];
            dense(isa, &weights, sizes, &x, &mut expected, accumulate);
            prop_assert_eq!(bits(&found), bits(&expected), "{}", isa);
        }
    }

    #[test]
    fn integer_products_are_exact(
        which in 0..codebooks().len(),
        rows_of_group in 1_usize..40,
        groups in 1_usize..4,
        columns in 1_usize..600,
        two_steps: bool,
        size in -30_i32..30,
        seed: u32,
    ) {
        let codebook = &codebooks()[which];
        let two_steps = two_steps && *codebook == Codebook::Ternary;
        let rows = rows_of_group * groups;
        let (matrix, _, levels, steps) = matrix(codebook, [rows, columns, groups], two_steps, seed);
        let x: Vec<f32> = uniform(columns, seed ^ 5).iter().map(|x| x * 2f32.powi(size)).collect();
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = f64::from(largest) / 127.0;
        let q: Vec<i64> = x.iter().map(|&x| (f64::from(x) * (127.0 / f64::from(largest))).round_ties_even() as i64).collect();
        let unit = match codebook {
            Codebook::Logarithmic { bits } => 2f64.powi(1 - (1 << (bits.get() - 1)) + 1),
            _ => 1.0,
        };
        for isa in Isa::available() {
            let mut y = vec![0.0; rows];
            let done = matrix.product_int8(isa, &x, &mut y);
            if matches!(codebook, Codebook::Custom(_)) {
                let refused = matches!(done, Err(PackError::NotIntegers { .. }));
                prop_assert!(refused);
                continue;
            }
            prop_assert!(done.is_ok(), "{done:?}");
            for (row, (&y, levels)) in y.iter().zip(levels.chunks(columns)).enumerate() {
                let mut sums = [0i64; 2];
                for (&level, q) in levels.iter().zip(&q) {
                    let integer = (f64::from(codebook.multiplier(level)) / unit) as i64;
                    sums[usize::from(level < 0)] += integer * q;
                }
                let group = row / rows_of_group;
                let expected = match two_steps {
                    true => scale * (unit * f64::from(steps[2 * group]) * sums[0] as f64
                        - unit * f64::from(steps[2 * group + 1]) * -sums[1] as f64),
                    false => scale * (unit * f64::from(steps[group]) * (sums[0] + sums[1]) as f64),
                };
                prop_assert_eq!(y.to_bits(), (expected as f32).to_bits(), "{} {} {}", isa, y, expected);
            }
        }
    }
}

#[cfg(feature = "std")]
#[test]
fn threads_give_the_same_bits() {
    let (rows, columns) = (1024, 1100);
    let (matrix, ..) = matrix(&Codebook::Ternary, [rows, columns, 4], false, 3);
    let x = uniform(3 * columns, 1);
    let results = [1, 2, 7].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| {
            let (mut y, mut z) = (vec![0.0; 3 * rows], vec![0.0; rows]);
            matrix.multiply_batch(&x, 3, &mut y);
            matrix.multiply_int8(&x[..columns], &mut z).unwrap();
            (bits(&y), bits(&z))
        })
    });
    assert!(results[0] == results[1] && results[0] == results[2]);
}

#[test]
fn invalid_matrices_are_errors() {
    let packing = Packing::bits(2).unwrap();
    let table = || CodeTable::of(&Codebook::Ternary).unwrap();
    let new = |rows, columns, packed: &[u8], steps: &[f32], two| {
        PackedMatrix::new(rows, columns, packing, packed, table(), steps, two).unwrap_err()
    };
    assert!(matches!(
        new(2, 3, &[0], &[1.0], false),
        PackError::Length { found: 1, .. }
    ));
    assert!(matches!(
        new(usize::MAX, usize::MAX, &[0], &[1.0], false),
        PackError::Length { .. }
    ));
    assert!(matches!(
        new(1, 3, &[0b11], &[1.0], false),
        PackError::Code { code: 3, .. }
    ));
    for (steps, two) in [(&[][..], false), (&[1.0; 3], false), (&[1.0; 3], true)] {
        let error = new(2, 3, &[0, 0], steps, two);
        assert!(matches!(error, PackError::Steps { .. }), "{error}");
    }
    let error = new(2, 3, &[0, 0], &[1.0, f32::NAN], false);
    assert!(matches!(error, PackError::Step { index: 1, .. }));
    for multipliers in [vec![], vec![1.0, 1.0], vec![f32::NAN], vec![0.0; 17]] {
        assert!(matches!(
            CodeTable::new(multipliers),
            Err(PackError::Table { .. })
        ));
    }
    let (matrix, ..) = matrix(&Codebook::Ternary, [3, 5, 1], false, 1);
    let error = matrix.multiply_int8(&[0.0, 1.0, f32::INFINITY, 0.0, 0.0], &mut [0.0; 3]);
    assert!(matches!(error, Err(PackError::Activation { index: 2, .. })));
}

/// A panel of codes below `count`, and activations of 8 bits.
fn panel((bits, count): (usize, u32), words: usize, seed: u32) -> (Vec<Word>, Vec<i32>) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut panel = vec![Word([0; PANEL_ROWS]); words];
    for lane in panel.iter_mut().flat_map(|word| &mut word.0) {
        for place in 0..32 / bits {
            *lane |= (next() % count) << (place * bits);
        }
    }
    let mut byte = || (next() % 255).to_le_bytes()[0].wrapping_sub(127);
    let x = (0..words * 8 / bits).map(|_| i32::from_le_bytes(std::array::from_fn(|_| byte())));
    let x = x.collect();
    (panel, x)
}

/// A kernel of integer products of two panels.
pub(super) type IntegerKernel<'a> =
    dyn Fn([&[Word]; 2], &IntegerCodes, &[i32], &mut IntegerSums) + 'a;

/// Compares the sums of a kernel with those of the portable one, also for the largest activations and
/// tables. `code` has the bits of a code and the number of codes; with `table` the codes are looked up.
pub(super) fn check_integers(
    name: &str,
    code: (usize, u32),
    positive: bool,
    table: bool,
    kernel: &IntegerKernel<'_>,
) {
    let identity: [u8; 16] = std::array::from_fn(|code| code as u8);
    let mut powers = identity.map(|code| 8 * code);
    powers[15] = 128;
    let integers = IntegerCodes {
        table: if table { powers } else { identity },
        identity: !table,
    };
    for (words, seed) in [(1, 1), (7, 2), (300, 3)] {
        let (first, mut x) = panel(code, words, seed);
        let (second, _) = panel(code, words, seed + 9);
        if seed == 3 {
            x.fill(i32::from_le_bytes([127; 4]));
        }
        let panels = [&first[..], &second];
        let mut found = [[[7; PANEL_ROWS]; 2]; 2];
        kernel(panels, &integers, &x, &mut found);
        for (words, found) in panels.into_iter().zip(&found) {
            let mut expected = [[0; PANEL_ROWS]; 2];
            portable::multiply_int8(code.0, words, &integers, positive, &x, &mut expected);
            let sums = 1 + usize::from(positive);
            assert_eq!(found[..sums], expected[..sums], "{name}, {} bits", code.0);
        }
    }
}
