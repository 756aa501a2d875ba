//! Real runs of a tiny network, in threads of this process.

mod common;

use std::time::Instant;

use common::TestDir;
use laq_lab::launcher::Stop;
use laq_lab::local::{Local, Workers};
use laq_lab::plan::{Plan, State};
use laq_lab::report;
use laq_lab::reproduce::{Event, Options, Outcome, reproduce};
use laq_lab::table::TableId::Table2;
use laq_runner::device::DeviceOptions;
use laq_runner::run_folder::RunFolder;

fn options() -> Options {
    let mut options = Options::default();
    options.needs.device = DeviceOptions::CPU;
    options.needs.threads = Some(1);
    options
}

fn local(jobs: usize) -> Local {
    Local {
        jobs,
        workers: Workers::Threads,
    }
}

/// The bits of the test losses; none for cells that are not finished.
fn losses(plan: &Plan) -> Vec<Option<u64>> {
    let loss = |state| match state {
        State::Finished(summary) => summary.test_loss.map(f64::to_bits),
        _ => None,
    };
    plan.cells.iter().map(|cell| loss(cell.state())).collect()
}

#[test]
fn cells_are_trained_reused_and_reported() {
    let dir = TestDir::tiny();
    let plan = dir.plan(Table2, "demo", "", "");
    let stop = Stop::default();
    let mut started = 0;
    let mut train = |jobs| {
        reproduce(&plan, &options(), &local(jobs), &stop, &mut |event| {
            started += usize::from(matches!(event, Event::Started(..)));
        })
    };
    assert_eq!(train(2).expect("a reproduction"), Outcome::Complete);
    assert_eq!(train(1).expect("a reproduction"), Outcome::Complete);
    assert_eq!(started, 3);
    assert!(losses(&plan).iter().all(Option::is_some));
    report::write(plan).expect("a report");
    let page = dir.file("html");
    assert!(page.contains("Learning curves") && page.contains("<figure>"));
    assert!(dir.file("md").contains("3 of 3 cells finished"));
}

#[test]
fn an_interruption_saves_and_the_same_bits_follow() {
    let whole = TestDir::tiny();
    let plan = whole.plan(Table2, "demo", "lat-a full", "");
    reproduce(&plan, &options(), &local(1), &Stop::default(), &mut |_| {}).expect("whole");

    let parts = TestDir::tiny();
    let plan_in_parts = parts.plan(Table2, "demo", "lat-a full", "");
    let stop = Stop::default();
    let outcome = reproduce(&plan_in_parts, &options(), &local(1), &stop, &mut |event| {
        if matches!(event, Event::Started(..)) {
            stop.interrupt();
        }
    });
    assert_eq!(outcome.expect("an interruption"), Outcome::Interrupted);
    assert!(matches!(plan_in_parts.cells[0].state(), State::Begun(_)));
    assert!(matches!(plan_in_parts.cells[1].state(), State::ToDo));
    reproduce(
        &plan_in_parts,
        &options(),
        &local(1),
        &Stop::default(),
        &mut |_| {},
    )
    .expect("rest");
    assert_eq!(losses(&plan_in_parts), losses(&plan));
}

#[test]
fn no_cell_starts_after_the_deadline() {
    let dir = TestDir::tiny();
    let plan = dir.plan(Table2, "demo", "", "");
    let stop = Stop {
        deadline: Some(Instant::now()),
        ..Stop::default()
    };
    let outcome = reproduce(&plan, &options(), &local(2), &stop, &mut |event| {
        assert!(!matches!(event, Event::Started(..)));
    });
    assert_eq!(outcome.expect("a reproduction"), Outcome::OutOfTime);
}

#[test]
fn a_failing_run_is_reported() {
    let dir = TestDir::tiny();
    let plan = dir.plan(Table2, "demo", "full lat-e", "");
    // A file where the run folder should be.
    common::write(&plan.cells[0].folder, "");
    let outcome = reproduce(&plan, &options(), &local(1), &Stop::default(), &mut |_| {});
    let Outcome::Incomplete(problems) = outcome.expect("a reproduction") else {
        panic!("the folder cannot be made");
    };
    assert_eq!(
        problems.into_keys().collect::<Vec<_>>(),
        ["full on demo (seed 1)"]
    );
    assert_eq!(plan.finished(), 1);
}

#[test]
fn a_cell_that_another_process_trains_is_left_to_it() {
    let dir = TestDir::tiny();
    let plan = dir.plan(Table2, "demo", "", "");
    let held = RunFolder::open(&plan.cells[0].folder).expect("a folder");
    let (stop, mut events) = (Stop::default(), Vec::new());
    let outcome = reproduce(
        &plan,
        &options(),
        &local(2),
        &stop,
        &mut |event| match event {
            Event::Elsewhere(cell, process) => {
                let process = process.expect("a name");
                assert!(
                    process.contains(&std::process::id().to_string()),
                    "{process}"
                );
                events.push(cell.name());
            }
            Event::Waiting(cells) => {
                events.push(cells.to_string());
                stop.interrupt();
            }
            Event::Failed(cell, reason) => panic!("{} failed: {reason}", cell.name()),
            _ => {}
        },
    );
    assert_eq!(outcome.expect("a reproduction"), Outcome::Interrupted);
    assert_eq!(events, [plan.cells[0].name(), "1".into()]);
    assert_eq!(plan.finished(), 2);
    drop(held);
    let stop = Stop::default();
    let outcome = reproduce(&plan, &options(), &local(2), &stop, &mut |_| {});
    assert_eq!(outcome.expect("a reproduction"), Outcome::Complete);
}
