//! Pins the numbers of a run to [`TRAINING_VERSION`].

mod common;

use common::Lab;
use laq_runner::TRAINING_VERSION;
use laq_solvers::Method;

/// The version that the numbers below were recorded with.
const RECORDED_VERSION: u32 = 1;

/// Training losses of the three epochs and the test loss, of the tiny experiment with each method.
const RECORDED: [(&str, [f64; 4]); 13] = [
    ("full", [2.869957, 2.792965, 2.699088, 2.725158]),
    ("binary-connect", [2.860373, 2.765328, 2.637452, 2.560794]),
    ("bwn", [2.871445, 2.806388, 2.715182, 2.723816]),
    ("lab", [2.871364, 2.804481, 2.712331, 2.720522]),
    ("twn", [2.870336, 2.800134, 2.704759, 2.727828]),
    ("lat-e", [2.870431, 2.799270, 2.704827, 2.730503]),
    ("lat-a", [2.870431, 2.799279, 2.704839, 2.730507]),
    ("ttq", [2.868897, 2.777853, 2.696258, 2.733344]),
    ("lat2-e", [2.870367, 2.798970, 2.705077, 2.730927]),
    ("lat2-a", [2.870351, 2.798944, 2.705098, 2.730791]),
    ("dorefa-2", [2.850464, 2.764713, 2.670710, 2.653414]),
    ("laq-linear-3", [2.870532, 2.800737, 2.702388, 2.715736]),
    ("laq-log-3", [2.869836, 2.793405, 2.699351, 2.726375]),
];

/// Kernels round differently, and a few steps carry that a little further.
const TOLERANCE: f64 = 1e-4;

#[test]
fn the_numbers_of_a_run_are_those_of_its_version() {
    for family in laq_solvers::families() {
        let of_family = |(method, _): &(&str, _)| {
            method
                .parse::<Method>()
                .is_ok_and(|m| m.family().id == family.id)
        };
        assert!(
            RECORDED.iter().any(of_family),
            "nothing is recorded for {}",
            family.id
        );
    }
    let lab = Lab::new();
    let mut differences = String::new();
    for (method, recorded) in RECORDED {
        let summary = lab
            .train(&lab.experiment(method, ""), method)
            .expect("a run");
        let losses = lab
            .metrics(method)
            .into_iter()
            .map(|record| record.train_loss);
        let found: Vec<f64> = losses.chain(summary.test_loss).collect();
        let same = |(found, recorded): (&f64, &f64)| {
            (found - recorded).abs() <= TOLERANCE * recorded.abs()
        };
        if found.len() != recorded.len() || !found.iter().zip(&recorded).all(same) {
            differences += &format!("(\"{method}\", {found:.6?}),\n");
        }
    }
    assert!(
        differences.is_empty(),
        "these numbers are not the recorded ones:\n{differences}If a change of the numbers was intended, raise \
         TRAINING_VERSION, so that old results and checkpoints are not taken for new ones, and record the new numbers \
         here with the new version; if not, something broke"
    );
    assert_eq!(
        TRAINING_VERSION, RECORDED_VERSION,
        "TRAINING_VERSION was raised: record the numbers anew"
    );
}
