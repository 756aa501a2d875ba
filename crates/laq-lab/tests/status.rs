//! The state of cells, from files alone.

mod common;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use common::{Fake, TestDir};
use laq_lab::LabError;
use laq_lab::launcher::Stop;
use laq_lab::reproduce::{Options, reproduce};
use laq_lab::status::{CellState, Status};
use laq_lab::table::TableId::Table2;
use laq_runner::running::{Position, Running, STALE};

fn write_running(folder: &Path, age: Duration) {
    fs::create_dir_all(folder).expect("a folder");
    let running = Running {
        host: "node7".into(),
        pid: 12,
        job: Some("34_5".into()),
        since: 0,
        position: Some(Position {
            epoch: 3,
            epochs: 8,
            step: 10,
            steps: 40,
            loss: Some(1.5),
            seconds_per_step: 0.0125,
            seconds_left: Some(90.0),
        }),
    };
    let path = folder.join("running.json");
    let text = serde_json::to_string(&running).expect("JSON");
    fs::write(&path, text).expect("written");
    let file = fs::File::options().write(true).open(&path).expect("a file");
    file.set_modified(SystemTime::now() - age).expect("a time");
}

#[test]
fn every_cell_of_a_table_has_a_state() {
    let dir = TestDir::tiny();
    let plan = dir.plan(Table2, "demo", "full lat-e", "text");
    let fake = Fake {
        fails: "lat-e",
        ..Fake::default()
    };
    let run = |plan| {
        let stop = Stop::default();
        reproduce(plan, &Options::default(), &fake, &stop, &mut |_| {}).expect("a reproduction")
    };
    run(&plan);
    let states = || -> Vec<(String, CellState)> {
        let cells = Status::of(&dir.out()).expect("a status").cells;
        cells
            .into_iter()
            .map(|cell| (cell.name, cell.state))
            .collect()
    };
    let cell = |row: &str| format!("{row} on text (seed 1)");
    let (finished, failed) = (CellState::Finished, CellState::Failed);
    assert_eq!(
        states(),
        [(cell("full"), finished), (cell("lat-e"), failed)]
    );

    // Another selection adds its cells.
    let other = dir.plan(Table2, "demo", "lat-a", "text");
    laq_lab::status::write_cells(&other).expect("written");
    assert_eq!(states()[2], (cell("lat-a"), CellState::Waiting));
    let folder = &other.cells[0].folder;
    write_running(folder, Duration::ZERO);
    assert_eq!(states()[2], (cell("lat-a"), CellState::Running));
    let text = Status::of(&dir.out()).expect("a status").render();
    for expected in [
        "3 of 8, 25 %",
        "12.5",
        "1m 30s",
        "node7, job 34_5",
        "lat-e on text (seed 1): ",
        "1 finished, 1 running, 1 failed of 3 cells",
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    // A process that no longer writes is gone; without a checkpoint nothing has begun.
    write_running(folder, 2 * STALE);
    assert_eq!(states()[2], (cell("lat-a"), CellState::Waiting));
    fs::write(folder.join("last.safetensors"), "").expect("written");
    assert_eq!(states()[2], (cell("lat-a"), CellState::Killed));
}

#[test]
fn a_failed_task_of_slurm_counts_until_the_cell_is_trained_elsewhere() {
    let dir = TestDir::tiny();
    let plan = dir.plan(Table2, "demo", "full", "text");
    laq_lab::status::write_cells(&plan).expect("written");
    let folder = plan.relative_folder(&plan.cells[0]).display();
    let submission = dir.out().join("slurm/1");
    let text = format!(r#"{{"job":7,"tasks":[{{"folder":"{folder}"}}]}}"#);
    common::write(&submission.join("submission.json"), &text);
    common::write(&submission.join("failed/0"), "1");
    common::write(&submission.join("logs/0.log"), "the reason\n");
    let cell = || Status::of(&dir.out()).expect("a status").cells.remove(0);
    assert_eq!(cell().reason.as_deref(), Some("the reason"));

    let long_ago = SystemTime::now() - Duration::from_secs(60);
    let file = fs::File::options()
        .write(true)
        .open(submission.join("failed/0"));
    let set = file.and_then(|file| file.set_modified(long_ago));
    set.expect("a time");
    let fake = Fake {
        is_interrupted: "full",
        ..Fake::default()
    };
    let stop = Stop::default();
    reproduce(&plan, &Options::default(), &fake, &stop, &mut |_| {}).expect("a reproduction");
    assert_eq!(cell().state, CellState::Interrupted);
}

#[test]
fn plans_that_are_written_at_the_same_time_are_all_known() {
    let dir = TestDir::new();
    let rows = [
        "full", "bwn", "lab", "twn", "lat-e", "lat-a", "ttq", "dorefa-3",
    ];
    let plans = rows.map(|row| dir.plan(Table2, "demo", row, ""));
    for _ in 0..10 {
        thread::scope(|scope| {
            for plan in &plans {
                scope.spawn(|| laq_lab::status::write_cells(plan).expect("written"));
            }
        });
        let cells = Status::of(&dir.out()).expect("a status").cells;
        assert_eq!(cells.len(), rows.len(), "{cells:?}");
        fs::remove_file(dir.out().join("cells.json")).expect("removed");
    }
}

#[test]
fn steps_of_a_damaged_file_are_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        r#"{{"host":"h","position":{{"epoch":1,"step":{0},"steps":{0}}}}}"#,
        usize::MAX
    );
    fs::write(folder.path().join("running.json"), text).expect("written");
    let status = Status::of(folder.path()).expect("a status");
    assert!(status.render().contains("1 of 0"), "{}", status.render());
}

#[test]
fn runs_without_a_plan_have_the_name_of_their_folder() {
    let dir = TestDir::tiny();
    let runs = dir.folder.path().join("runs");
    write_running(&runs.join("mine"), Duration::ZERO);
    let status = Status::of(&runs).expect("a status");
    assert_eq!(status.cells.len(), 1);
    assert_eq!(status.cells[0].name, "mine");
    let alone = Status::of(&runs.join("mine")).expect("a run folder");
    assert_eq!(alone.cells[0].state, CellState::Running);
    let error = Status::of(&dir.folder.path().join("configs")).expect_err("no runs");
    assert!(matches!(error, LabError::NoRuns(_)), "{error}");
    assert!(Status::of(&runs.join("other")).is_err());
}
