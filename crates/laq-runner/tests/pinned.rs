//! Pins the numbers of a run to [`TRAINING_VERSION`].

mod common;

use std::fs;

use common::TestDir;
use laq_runner::TRAINING_VERSION;
use laq_solvers::Method;

/// The version that the numbers below were recorded with.
const RECORDED_VERSION: u32 = 4;

/// Training losses of the three epochs and the test loss, of the tiny experiment with each method.
const RECORDED: [(&str, [f64; 4]); 17] = [
    ("full", [2.8699566, 2.7929652, 2.6990881, 2.7251585]),
    (
        "binary-connect",
        [2.8603727, 2.7653282, 2.6374517, 2.5607941],
    ),
    ("bwn", [2.8714449, 2.8063879, 2.7151818, 2.7238155]),
    ("lab", [2.8713644, 2.8044807, 2.7123310, 2.7205221]),
    ("twn", [2.8703356, 2.8001337, 2.7047592, 2.7278276]),
    ("lat-e", [2.8704306, 2.7992705, 2.7048265, 2.7305032]),
    ("lat-a", [2.8704309, 2.7992793, 2.7048387, 2.7305071]),
    ("ttq", [2.8688965, 2.7778531, 2.6962580, 2.7333436]),
    ("lat2-e", [2.8703669, 2.7989705, 2.7050772, 2.7309270]),
    ("lat2-a", [2.8703505, 2.7989441, 2.7050977, 2.7307915]),
    ("dorefa-2", [2.8504637, 2.7647134, 2.6707103, 2.6534137]),
    ("laq-linear-3", [2.8705317, 2.8007375, 2.7023878, 2.7157359]),
    ("laq-log-3", [2.8698361, 2.7934050, 2.6993510, 2.7263748]),
    (
        "laq-linear-3-e",
        [2.8705091, 2.8006720, 2.7013617, 2.7151929],
    ),
    ("laq-log-3-e", [2.8707534, 2.8032469, 2.7027124, 2.7178396]),
    ("absmean", [2.8715318, 2.8080950, 2.7119542, 2.7325844]),
    ("absmax-3", [2.8697149, 2.7915417, 2.6997653, 2.7275151]),
];

/// The same of the tiny network on images.
const RECORDED_IMAGES: [(&str, [f64; 4]); 4] = [
    ("full", [1.7453454, 1.4937871, 1.2722662, 0.7989581]),
    ("lab", [1.7853601, 1.5217643, 1.3995101, 0.8740268]),
    ("lat-a", [1.7178182, 1.4417850, 1.2267546, 0.8041622]),
    ("laq-log-3-e", [1.6896422, 1.4051182, 1.2193405, 0.8938058]),
];

/// The same of a network whose second convolution is computed by Winograd's transforms.
const RECORDED_TRANSFORMS: [(&str, [f64; 4]); 1] =
    [("full", [1.6980303, 1.5165173, 1.2369760, 1.1821515])];
const TRANSFORMS: &str = "model = { filters = [32], convolutions = 2 }\ntitle = \"transforms\"";

/// Kernels round differently, and a few steps carry that further, to some 1e-9. An exact and an
/// alternating solver of the same problem differ by 3e-6 and more.
const TOLERANCE: f64 = 5e-7;

fn same(found: &[f64], recorded: &[f64]) -> bool {
    let close =
        |(found, recorded): (&f64, &f64)| (found - recorded).abs() <= TOLERANCE * recorded.abs();
    found.len() == recorded.len() && found.iter().zip(recorded).all(close)
}

#[test]
fn pinned_numbers_differ_between_methods() {
    for (place, (method, numbers)) in RECORDED.iter().enumerate() {
        for (other, others) in &RECORDED[..place] {
            assert!(!same(numbers, others), "{method} and {other}");
        }
    }
}

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
    let dir = TestDir::new();
    let mut differences = String::new();
    let texts = RECORDED.map(|(method, recorded)| (dir.experiment(method, ""), recorded));
    let images = RECORDED_IMAGES.map(|(method, recorded)| (dir.digits(method, ""), recorded));
    let transforms =
        RECORDED_TRANSFORMS.map(|(method, recorded)| (dir.digits(method, TRANSFORMS), recorded));
    for (experiment, recorded) in texts.into_iter().chain(images).chain(transforms) {
        let name = &experiment.title;
        let summary = dir.train(&experiment, name).expect("a run");
        let losses = dir
            .metrics(name)
            .into_iter()
            .map(|record| record.train_loss);
        let found: Vec<f64> = losses.chain(summary.test_loss).collect();
        let environment = fs::read_to_string(dir.path(name).join("environment.json")).unwrap();
        assert_eq!(environment.contains("Winograd"), name == "transforms");
        if !same(&found, &recorded) {
            differences += &format!("(\"{name}\", {found:.7?}),\n");
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
        "TRAINING_VERSION was incremented: record new numbers"
    );
}
