//! Shared by the benchmarks: problems, pairs of methods, and exit codes.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use laq_solvers::Method;
use ndarray_rand::rand_distr::{Distribution, StandardNormal};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// An error of a program of this package.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The exit code of a result; prints an error to standard error.
pub fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A call that is timed in repetitions, in turn with others.
pub struct Candidate<'a> {
    call: Box<dyn FnMut() + Send + 'a>,
    calls: usize,
    seconds: Vec<f64>,
}

impl<'a> Candidate<'a> {
    /// Calls once, and then finds the number of calls of a repetition of `seconds`.
    pub fn new(seconds: f64, mut call: impl FnMut() + Send + 'a) -> Self {
        call();
        let start = Instant::now();
        call();
        let once = start.elapsed().as_secs_f64();
        Self {
            call: Box::new(call),
            calls: (seconds / once).clamp(1.0, 1e6) as usize,
            seconds: Vec::new(),
        }
    }

    /// Times a repetition.
    pub fn time(&mut self) {
        // The other candidates have taken the caches.
        (self.call)();
        let start = Instant::now();
        for _ in 0..self.calls {
            (self.call)();
        }
        let total = start.elapsed().as_secs_f64();
        self.seconds.push(total / self.calls as f64);
    }

    /// Median and minimum of the seconds of a call, over the repetitions; NaN without any.
    pub fn median_and_minimum(mut self) -> (f64, f64) {
        self.seconds.sort_by(f64::total_cmp);
        let at = |index: usize| self.seconds.get(index).copied().unwrap_or(f64::NAN);
        (at(self.seconds.len() / 2), at(0))
    }
}

/// A quantization problem as in training. The values depend on the count alone.
#[derive(Clone, Debug)]
pub struct Data {
    /// The weights one training step earlier: normal, with standard deviation 0.1.
    pub before: Vec<f32>,
    /// The weights: `before` plus normal noise with standard deviation 1e-4.
    pub weights: Vec<f32>,
    /// The curvature: log-normal.
    pub curvature: Vec<f32>,
}

impl Data {
    /// Draws a problem with `count` weights.
    pub fn new(count: usize) -> Self {
        let before: Vec<f32> = normal(1, count).map(|normal| 0.1 * normal).collect();
        let moves = normal(2, count).map(|normal| 1e-4 * normal);
        let weights = before.iter().zip(moves).map(|(w, step)| w + step).collect();
        let curvature = normal(3, count).map(f32::exp).collect();
        Self {
            before,
            weights,
            curvature,
        }
    }
}

/// `count` standard normal values of a seed.
pub fn normal(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let random = ChaCha8Rng::seed_from_u64(seed);
    StandardNormal.sample_iter(random).take(count)
}

/// The alternating method whose exact counterpart is `exact`: `lat-a` for `lat-e`, `laq-linear-3`
/// for `laq-linear-3-e`.
///
/// # Errors
/// An unknown method, or one that is no exact counterpart.
pub fn alternating_of(exact: &str) -> Result<Method, Failure> {
    let exact = Method::try_from(exact)?;
    let alternating =
        Method::all().find(|method| method.exact_counterpart().as_ref() == Some(&exact));
    alternating.ok_or_else(|| {
        format!("`{exact}` has no alternating counterpart, expected a method such as lat-e").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_methods_have_an_alternating_counterpart() {
        for (exact, expected) in [
            ("lat-e", "lat-a"),
            ("LATe", "lat-a"),
            ("lat2-e", "lat2-a"),
            ("laq-linear-3-e", "laq-linear-3"),
            ("laq-log-8-e", "laq-log-8"),
        ] {
            assert_eq!(alternating_of(exact).unwrap().id(), expected);
        }
        for other in ["lat-a", "full", "lat-f"] {
            assert!(alternating_of(other).is_err(), "{other}");
        }
    }

    #[test]
    fn data_are_normal_and_repeat() {
        let data = Data::new(10_000);
        assert_eq!(data.weights, Data::new(10_000).weights);
        let mean_square = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|value| f64::from(value * value)).sum::<f64>() / 1e4
        };
        let moved = mean_square(&mut data.before.iter().zip(&data.weights).map(|(a, b)| a - b));
        assert!((mean_square(&mut data.before.iter().copied()) - 1e-2).abs() < 1e-3);
        assert!((moved - 1e-8).abs() < 1e-9);
        assert!((mean_square(&mut data.curvature.iter().map(|d| d.ln())) - 1.0).abs() < 0.1);
    }
}

/// The Rust examples of the book, as documentation tests.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../docs/src/quick-start.md")]
    struct QuickStart;
    #[doc = include_str!("../../docs/src/method.md")]
    struct Method;
    #[doc = include_str!("../../docs/src/quantize.md")]
    struct Quantize;
}
