//! Every cell of `configs/` resolves, and its figure is that of `configs/paper_tables.toml`; the
//! records of `results/` are read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use laq_lab::configs::Configs;
use laq_lab::plan::Plan;
use laq_lab::table::{Selection, TableId};
use laq_runner::record::EpochRecord;

fn plan(table: TableId, preset: &str) -> Plan {
    let all = |columns: &[&str]| columns.iter().map(ToString::to_string).collect();
    let selection = Selection {
        table,
        preset: preset.into(),
        rows: Vec::new(),
        columns: match table {
            TableId::Table1 => all(&[
                "mnist",
                "cifar10",
                "cifar100",
                "svhn",
                "cifar10-jpeg",
                "demo",
            ]),
            TableId::Table2 => all(&[
                "war-and-peace",
                "linux-kernel",
                "penn-treebank",
                "linux-6.1-kernel",
                "demo",
            ]),
        },
        seeds: 1,
        out: None,
    };
    Plan::new(Configs::embedded().expect("the configurations"), &selection).expect("a plan")
}

#[test]
fn every_cell_has_its_method_and_the_papers_figure() {
    for (table, cells) in [(TableId::Table1, 6 * 15), (TableId::Table2, 5 * 20)] {
        let plan = plan(table, "paper");
        assert_eq!(plan.cells.len(), cells);
        for cell in &plan.cells {
            assert_eq!(cell.experiment.quantize.method, cell.row, "{}", cell.name());
            let paper = cell.experiment.paper.as_ref();
            let expected = plan.table.paper(&cell.row, &cell.column);
            assert_eq!(paper.map(|paper| paper.value), expected, "{}", cell.name());
            if let Some(paper) = paper {
                assert_eq!(
                    (&paper.status, paper.epochs),
                    (&plan.table.status, cell.epochs())
                );
            }
            assert_eq!(cell.cut_short, "", "{}", cell.name());
        }
        let keys: BTreeSet<_> = plan.cells.iter().map(|cell| &cell.key).collect();
        assert_eq!(keys.len(), cells, "two cells are the same run");
    }
}

/// Runs that were begun with earlier versions of the same `TRAINING_VERSION` (4) are found again.
#[test]
fn keys_stay() {
    let key = |table, preset: &str, row: &str, column: &str| {
        let plan = plan(table, preset);
        let mut cells = plan.cells.into_iter();
        cells
            .find(|cell| cell.row == row && cell.column == column)
            .expect("the cell")
            .key
    };
    assert_eq!(
        key(TableId::Table1, "paper", "binary-connect", "mnist"),
        "28c0bb4d68fd"
    );
    assert_eq!(
        key(TableId::Table1, "paper", "full", "mnist"),
        "5dd79c49bec8"
    );
}

#[test]
fn presets_are_marked_as_cut_short() {
    let presets: [(TableId, &[&str]); 2] = [
        (TableId::Table1, &["short", "demo"]),
        (TableId::Table2, &["short", "medium", "demo"]),
    ];
    for (table, presets) in presets {
        for &preset in presets {
            let plan = plan(table, preset);
            assert!(
                plan.cells
                    .iter()
                    .all(|cell| cell.cut_short.contains("train.epochs"))
            );
            let small = plan
                .cells
                .iter()
                .all(|cell| cell.cut_short.contains("model."));
            assert_eq!(small, preset == "demo");
        }
    }
}

/// The learning rate of an epoch of `medium` is that of the last of ten epochs of the paper.
#[test]
fn the_schedule_of_medium_is_a_tenth_of_the_papers() {
    let factor = |preset: &str, epoch: u32| {
        let plan = plan(TableId::Table2, preset);
        plan.cells[0].experiment.train.schedule.factor(epoch)
    };
    for epoch in [1, 2, 10, 20] {
        let [medium, papers] = [factor("medium", epoch), factor("paper", 10 * epoch)];
        assert!(
            (medium / papers - 1.0).abs() < 1e-6,
            "{epoch}: {medium}, {papers}"
        );
    }
}

#[test]
fn metrics_of_older_versions_are_read() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results");
    let mut read = 0;
    for folder in fs::read_dir(results).expect("the results") {
        let metrics = folder.expect("a folder").path().join("metrics");
        for file in fs::read_dir(metrics).into_iter().flatten() {
            let path = file.expect("a file").path();
            for line in fs::read_to_string(&path).expect("text").lines() {
                let record: EpochRecord = serde_json::from_str(line)
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                assert!(record.epoch > 0 && record.validation_loss > 0.0);
                read += 1;
            }
        }
    }
    assert!(read > 100, "{read} records");
}
