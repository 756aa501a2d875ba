//! The number of threads plays no part in any result.

use crate::common::*;
use laq_solvers::{Codebook, Method, Problem, Scale, Workspace, exact, exact_by_sorting};

/// Eight parts, with a rest.
const MANY: usize = (8 << 18) + 77;

fn with_threads<T: Send>(count: usize, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    pool.build().unwrap().install(run)
}

#[test]
fn one_two_and_eight_threads_give_the_same_bits() {
    let weights = bell(MANY, 5);
    let curvature: Vec<f32> = bell(MANY, 6).iter().map(|x| (3.0 * x).exp()).collect();
    let mut quantizers: Vec<Method> = Vec::new();
    for method in quantizing() {
        if quantizers
            .iter()
            .all(|other| other.family().id != method.family().id)
        {
            quantizers.push(method);
        }
    }
    for method in quantizers {
        let quantizer = method.quantizer().unwrap();
        let results = [1, 2, 8].map(|threads| {
            with_threads(threads, || {
                let mut workspace = Workspace::default();
                let (mut levels, mut quantized) = (vec![0; MANY], vec![0.0; MANY]);
                let mut previous: Option<Scale> = None;
                for curvature in [None, Some(&curvature[..])] {
                    let problem = Problem::new(&weights, curvature).unwrap();
                    let solution = quantizer.solve(problem, previous, &mut levels, &mut workspace);
                    previous = Some(solution.unwrap().scale);
                }
                let problem = Problem::new(&weights, Some(&curvature)).unwrap();
                let scale = previous.unwrap();
                quantizer.codebook().decode(&levels, scale, &mut quantized);
                let error = problem
                    .weighted_error(quantizer.codebook(), scale, &levels)
                    .unwrap();
                (scale, error.to_bits(), levels, quantized)
            })
        });
        assert!(
            results[0] == results[1] && results[0] == results[2],
            "{method}"
        );
    }
}

#[test]
fn buckets_and_sorting_agree_on_many_weights() {
    let weights = bell(MANY, 8);
    let curvature: Vec<f32> = bell(MANY, 9).iter().map(|x| (3.0 * x).exp()).collect();
    for curvature in [None, Some(&curvature[..])] {
        let problem = Problem::new(&weights, curvature).unwrap();
        for codebook in [Codebook::Ternary, Codebook::Linear { bits: 3 }] {
            let (mut levels, mut others) = (vec![0; MANY], vec![0; MANY]);
            let mut workspace = Workspace::default();
            let found = exact(problem, codebook, &mut levels, &mut workspace).unwrap();
            let sorted = exact_by_sorting(problem, codebook, &mut others, &mut workspace).unwrap();
            let (a, b) = (found.weighted_error, sorted.weighted_error);
            assert!(
                (a - b).abs() <= 1e-9 * b,
                "{codebook:?}: {a}, by sorting {b}"
            );
        }
    }
}
