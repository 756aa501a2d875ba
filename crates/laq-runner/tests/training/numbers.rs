//! Losses, the best epoch, and what the numbers depend on.

use super::*;

#[test]
fn the_number_of_threads_changes_no_bit() {
    let dir = TestDir::new();
    for method in METHODS {
        let experiment = dir.experiment(method, "model.hidden = 40\ntrain.epochs = 1");
        let run = |threads| {
            let name = format!("{method}-{threads}");
            let summary = dir
                .train_until(&experiment, &name, Some(threads), &mut |_| false)
                .expect("a run");
            assert_eq!(summary.threads, threads);
            run_bits(&dir, &name)
        };
        let one = run(1);
        assert_eq!(one, run(2), "{method}");
        assert_eq!(one, run(5), "{method}");
    }
}

#[test]
fn another_seed_changes_the_numbers() {
    let dir = TestDir::new();
    let loss = |seed: u64| {
        let experiment = dir.experiment("lat-a", &format!("train.epochs = 1\ntrain.seed = {seed}"));
        dir.train(&experiment, &seed.to_string())
            .expect("a run")
            .train_loss
    };
    assert_ne!(loss(1), loss(2));
}

#[test]
fn the_best_epoch_has_the_lowest_validation_loss() {
    let dir = TestDir::new();
    // One batch again and again is soon learnt by heart, and then the others get worse.
    let experiment = dir.experiment(
        "full",
        "train = { epochs = 40, max_batches = 1, learning_rate = 0.1 }\nmodel.hidden = 24",
    );
    let summary = dir.train(&experiment, "run").expect("a run");
    let metrics = dir.metrics("run");
    assert!(metrics.iter().map(|record| record.epoch).eq(1..=40));
    let mut lowest = f64::INFINITY;
    let mut best = None;
    for record in &metrics {
        let improved = record.validation_loss <= lowest;
        assert_eq!(
            record.test_loss.is_some(),
            improved,
            "epoch {}",
            record.epoch
        );
        if improved {
            (lowest, best) = (record.validation_loss, Some(record));
        }
    }
    let best = best.expect("an epoch");
    assert!(
        best.epoch < 40,
        "learning by heart was meant to spoil the last epoch"
    );
    assert_eq!(summary.best_epoch, Some(best.epoch));
    assert_eq!(summary.train_loss, Some(best.train_loss));
    assert_eq!(summary.validation_loss, Some(best.validation_loss));
    assert_eq!(summary.test_loss, best.test_loss);
}

#[test]
fn of_equally_good_epochs_the_latest_is_best() {
    let dir = TestDir::new();
    // Steps too small to change any loss.
    let experiment = dir.experiment("full", "train.learning_rate = 1e-30");
    let summary = dir.train(&experiment, "run").expect("a run");
    let losses: Vec<_> = dir
        .metrics("run")
        .iter()
        .map(|record| record.validation_loss)
        .collect();
    assert_eq!(losses, [losses[0]; 3]);
    assert_eq!(summary.best_epoch, Some(3));
}

#[test]
fn training_learns_and_the_schedule_is_followed() {
    let dir = TestDir::new();
    let more = "model.hidden = 24\ntrain.epochs = 6\ntrain.max_batches = 50\n\
                train.schedule = { kind = \"milestones\", epochs = [4], factor = 0.1 }";
    for method in ["full", "lat-a"] {
        let summary = dir
            .train(&dir.experiment(method, more), method)
            .expect("a run");
        let metrics = dir.metrics(method);
        let rates: Vec<_> = metrics.iter().map(|record| record.learning_rate).collect();
        assert_eq!(rates, [0.02, 0.02, 0.02, 0.02, 0.02 * 0.1, 0.02 * 0.1]);
        // The untrained network knows nothing of its symbols.
        let untrained = 21_f64.ln();
        let test = summary.test_loss.expect("a test loss");
        assert!(test < 0.75 * untrained, "{method}: {test} of {untrained}");
    }
}
