//! Tests of the product.

use proptest::prelude::*;

use super::super::test_values::uniform;
use super::*;

fn matrix<'a>(data: &'a [f32], rows: usize, columns: usize, transposed: bool) -> Matrix<'a> {
    if transposed {
        Matrix::new(data, columns, rows).transposed()
    } else {
        Matrix::new(data, rows, columns)
    }
}

fn check(isa: Isa, m: usize, n: usize, k: usize, ta: bool, tb: bool, accumulate: bool) {
    let (a, b, before) = (uniform(m * k, 1), uniform(k * n, 2), uniform(m * n, 3));
    let (a, b) = (matrix(&a, m, k, ta), matrix(&b, k, n, tb));
    let mut c = before.clone();
    gemm(isa, a, b, accumulate, &mut c);
    let at = |x: Matrix<'_>, i: usize, j: usize| {
        f64::from(x.data[i * x.row_stride + j * x.column_stride])
    };
    for i in 0..m {
        for j in 0..n {
            let mut expect: f64 = (0..k).map(|p| at(a, i, p) * at(b, p, j)).sum();
            let size: f64 = (0..k).map(|p| (at(a, i, p) * at(b, p, j)).abs()).sum();
            if accumulate {
                expect += f64::from(before[i * n + j]);
            }
            let found = f64::from(c[i * n + j]);
            // The roundings of k partial sums grow as √k.
            let tolerance = 2.0 * (k as f64).sqrt() * 2f64.powi(-24) * (size + 1.0);
            assert!(
                (found - expect).abs() <= tolerance,
                "{} {m}×{n}×{k} at ({i}, {j}): {found}, expected {expect}",
                isa.name()
            );
        }
    }
}

#[test]
fn sizes_near_tiles_blocks_and_slices() {
    for isa in Isa::available() {
        for (m, n, k) in [
            (1, 1, 1),
            (0, 3, 2),
            (3, 0, 2),
            (3, 2, 0),
            (10, 32, 512),
            (61, 65, 40),
            (121, 33, 513),
            (7, 300, 40),
            (250, 31, 1030),
        ] {
            // Miri needs minutes per million operations.
            if cfg!(miri) && m * n * k > 3_000 {
                continue;
            }
            check(isa, m, n, k, false, false, false);
            check(isa, m, n, k, true, true, true);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (m, n, k) = if cfg!(miri) {
        (3, 2, 515)
    } else {
        (203, 97, 777)
    };
    let (a, b) = (uniform(m * k, 4), uniform(k * n, 5));
    for isa in Isa::available() {
        let mut results = [1, 2, 8].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut c = vec![0.0; m * n];
            pool.install(|| {
                gemm(
                    isa,
                    Matrix::new(&a, m, k),
                    Matrix::new(&b, k, n),
                    false,
                    &mut c,
                );
            });
            c
        });
        let first = std::mem::take(&mut results[0]);
        assert!(results[1..].iter().all(|other| *other == first));
    }
}

#[test]
fn a_panel_packed_by_its_first_tile_gives_the_same_bits() {
    let (m, n, k) = if cfg!(miri) {
        (7, 33, 19)
    } else {
        (23, 3 * 64, 2 * DEPTH + 37)
    };
    let (a, b) = (uniform(m * k, 6), uniform(k * n, 7));
    let a = Matrix::new(&a, m, k);
    for isa in Isa::available() {
        let panels = Panels::new(isa, n, k);
        for transposed in [false, true] {
            let b = matrix(&b, k, n, transposed);
            let mut packed = vec![0.0; panels.len()];
            for start in (0..k).step_by(DEPTH) {
                let slice = start..k.min(start + DEPTH);
                for panel in 0..panels.count() {
                    let target = &mut packed[panels.offset(panel, start)..];
                    let target = &mut target[..panels.width * slice.len()];
                    let first = panel * panels.width;
                    b.transposed()
                        .pack(first, n, panels.width, slice.clone(), target);
                }
            }
            let (mut expected, mut found) = (vec![0.0; m * n], vec![0.0; m * n]);
            multiply_packed(isa, a, panels, &packed, &mut expected);
            product_on_this_thread(isa, a, b.transposed(), false, &mut found);
            assert_eq!(found, expected, "{isa}");
            gemm(isa, a, b, false, &mut found);
            assert_eq!(found, expected, "{isa}");
        }
    }
}

/// `true` is a proof for every product, also in edge tiles and after several slices of the depth.
#[test]
fn a_product_knows_whether_it_is_bounded() {
    let (m, n) = if cfg!(miri) { (4, 3) } else { (133, 70) };
    for isa in Isa::available() {
        for k in if cfg!(miri) { [2, 3] } else { [100, DEPTH + 3] } {
            let (mut a, b) = (uniform(m * k, 8), uniform(k * n, 9));
            let mut c = vec![0.0; m * n];
            let mut run =
                |a: &[f32]| bounded_gemm(isa, Matrix::new(a, m, k), Matrix::new(&b, k, n), &mut c);
            assert!(run(&a) || isa == Isa::PORTABLE);
            for (row, step) in [(0, 0), (m - 1, k - 1), (m / 2, k / 2), (m - 1, 0)] {
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                    let before = std::mem::replace(&mut a[row * k + step], value);
                    assert!(!run(&a), "{isa}: {value} at ({row}, {step})");
                    a[row * k + step] = before;
                }
            }
        }
    }
}

const MAX_SIZE: usize = if cfg!(miri) { 8 } else { 70 };

/// A product that starts while another holds the scratch of the thread gets a buffer of its
/// own.
#[test]
fn nested_scratch_does_not_alias() {
    with_scratch(&PACKED_A, 3, |outer| {
        outer.fill(1.0);
        with_scratch(&PACKED_A, 5, |inner| inner.fill(2.0));
        assert_eq!(outer, [1.0; 3]);
    });
    with_scratch(&PACKED_A, 8, |scratch| assert_eq!(scratch.len(), 8));
}

#[test]
fn panels_are_padded_with_zeros() {
    let data: Vec<f32> = (1..=6).map(|value| value as f32).collect();
    for (matrix, expected) in [
        (Matrix::new(&data, 2, 3), [2.0, 5.0, 0.0, 3.0, 6.0, 0.0]),
        (
            Matrix::new(&data, 3, 2).transposed(),
            [3.0, 4.0, 0.0, 5.0, 6.0, 0.0],
        ),
    ] {
        let mut panel = [f32::NAN; 6];
        pack_panel(matrix, 0, 2, 3, 1..3, &mut panel);
        assert_eq!(panel, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 64 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn equals_the_f64_sum(
        m in 1..MAX_SIZE, n in 1..MAX_SIZE, k in 1..MAX_SIZE,
        ta: bool, tb: bool, accumulate: bool,
    ) {
        for isa in Isa::available() {
            check(isa, m, n, k, ta, tb, accumulate);
        }
    }
}
