//! The measures of the tables: name, unit and digits of the figures, where a run has them, and when
//! two of them count as equal. Nothing else knows which table measures what.

use laq_runner::record::{EpochRecord, Summary};

/// The measure of a table; lower is better.
#[derive(Debug)]
pub struct Measure {
    /// Such as `error`.
    pub name: &'static str,
    /// Such as `%`.
    pub unit: &'static str,
    /// The name of the test figure in `summary.json`.
    pub field: &'static str,
    /// The test figure of a run.
    pub test: fn(&Summary) -> Option<f64>,
    /// The validation figure of a run's best epoch.
    pub validation: fn(&Summary) -> Option<f64>,
    /// The validation figure of an epoch.
    pub epoch: fn(&EpochRecord) -> Option<f64>,
    /// Digits after the point, as the paper prints them.
    digits: usize,
    /// The difference up to which another figure counts as equal to this one.
    pub tolerance: fn(f64) -> f64,
    /// The tolerance in words.
    pub tolerance_text: &'static str,
}

/// The error of a classifier of images, in percent.
pub const ERROR: Measure = Measure {
    name: "error",
    unit: "%",
    field: "test_error",
    test: |summary| summary.test_error,
    validation: |summary| summary.validation_error,
    epoch: |epoch| epoch.validation_error,
    digits: 2,
    tolerance: |percent| (percent * (100.0 - percent) / TEST_IMAGES).max(0.0).sqrt(),
    tolerance_text: "one standard error of an error on 10,000 images: 0.10 points at 1 %, 0.30 at 10 %, 0.49 at \
                     40 %",
};

/// Images in the test splits of MNIST, CIFAR-10 and CIFAR-100; SVHN has 26,032. The paper's exact
/// and approximate solvers differ by less than the sampling error of that many images.
const TEST_IMAGES: f64 = 10_000.0;

/// The cross-entropy of the next character of a text. The paper's exact and approximate solvers
/// differ by up to 0.008.
pub const CROSS_ENTROPY: Measure = Measure {
    name: "cross-entropy",
    unit: "nats per character",
    field: "test_loss",
    test: |summary| summary.test_loss,
    validation: |summary| summary.validation_loss,
    epoch: |epoch| Some(epoch.validation_loss),
    digits: 3,
    tolerance: |_| 0.01,
    tolerance_text: "0.010 nats per character",
};

impl Measure {
    /// Such as `error (%)`.
    #[must_use]
    pub fn with_unit(&self) -> String {
        format!("{} ({})", self.name, self.unit)
    }

    /// A figure as the paper prints it.
    #[must_use]
    pub fn figure(&self, value: f64) -> String {
        format!("{value:.0$}", self.digits)
    }

    /// A difference of two figures, with its sign; the minus is as wide as the plus.
    #[must_use]
    pub fn signed(&self, value: f64) -> String {
        let text = format!("{value:+.0$}", self.digits);
        if text.contains(|digit: char| ('1'..='9').contains(&digit)) {
            text.replace('-', "−")
        } else {
            self.figure(0.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_papers_digits() {
        let figures = |measure: &Measure| [0.0449, -0.0451, -0.0001].map(|v| measure.signed(v));
        assert_eq!(figures(&CROSS_ENTROPY), ["+0.045", "−0.045", "0.000"]);
        assert_eq!(figures(&ERROR), ["+0.04", "−0.05", "0.00"]);
        assert_eq!(
            (CROSS_ENTROPY.figure(1.2684), ERROR.figure(39.0601)),
            ("1.268".into(), "39.06".into())
        );
    }

    #[test]
    fn the_tolerance_of_errors_is_that_of_its_text() {
        for (percent, points) in [(1.0, "0.10"), (10.0, "0.30"), (40.0, "0.49")] {
            assert_eq!(ERROR.figure((ERROR.tolerance)(percent)), points);
            assert!(ERROR.tolerance_text.contains(&format!(
                "{points} {}at {percent} %",
                if percent == 1.0 { "points " } else { "" }
            )));
        }
        assert_eq!([0.0, 100.0, 101.0].map(ERROR.tolerance), [0.0; 3]);
    }
}
