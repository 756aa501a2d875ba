//! Reproducing and reporting tables with a launcher that writes invented results.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Fake, TestDir};
use expect_test::expect_file;
use laq_lab::LabError;
use laq_lab::dry_run::DryRun;
use laq_lab::failure;
use laq_lab::launcher::Stop;
use laq_lab::plan::{Cell, Plan, State};
use laq_lab::report::{self, Report};
use laq_lab::reproduce::{Event, Options, Outcome, reproduce};
use laq_lab::status::{CellState, Status};
use laq_lab::table::TableId::{Table1, Table2};
use laq_lab::table::{Selection, TableId, Unknown};
use laq_runner::environment::Environment;

/// Trains the plan and returns the outcome.
fn run(plan: &Plan, fake: &Fake) -> Outcome {
    run_with(plan, fake, &Options::default())
}

fn run_with(plan: &Plan, fake: &Fake, options: &Options) -> Outcome {
    let stop = Stop::default();
    reproduce(plan, options, fake, &stop, &mut |_| {}).expect("a reproduction")
}

/// Trains the cells and reports them.
fn reported(dir: &TestDir, table: TableId, preset: &str, rows: &str, columns: &str) -> Report {
    let plan = dir.plan(table, preset, rows, columns);
    assert_eq!(run(&plan, &Fake::default()), Outcome::Complete);
    report::write(plan).expect("a report")
}

/// The figures of a row in the Markdown report.
fn row(markdown: &str, name: &str) -> String {
    let mut lines = markdown.lines();
    let line = lines.find(|line| line.starts_with(&format!("| `{name}` |")));
    line.unwrap_or_else(|| panic!("no row {name} in {markdown}"))
        .into()
}

#[test]
fn every_row_is_trained_once() {
    for (table, rows) in [(Table1, 15), (Table2, 20)] {
        let (dir, fake) = (TestDir::new(), Fake::default());
        let plan = dir.plan(table, "demo", "", "");
        assert_eq!(run(&plan, &fake), Outcome::Complete);
        assert_eq!(fake.rows().len(), rows);
        assert_eq!(run(&plan, &fake), Outcome::Complete);
        assert!(fake.rows().is_empty(), "finished cells were trained again");
    }
}

#[test]
fn a_summary_that_is_incomplete_or_of_another_key_does_not_count() {
    let (dir, fake) = (TestDir::new(), Fake::default());
    let plan = dir.plan(Table2, "demo", "full lab", "");
    run(&plan, &fake);
    let path = |index: usize| plan.cells[index].folder.join("summary.json");
    let text = |index| fs::read_to_string(path(index)).expect("a summary");
    fs::write(path(0), &text(0)[..text(0).len() / 2]).expect("written");
    fs::write(path(1), text(1).replace("\"key\":\"", "\"key\":\"other")).expect("written");
    fake.rows();
    run(&plan, &fake);
    assert_eq!(fake.rows(), ["full", "lab"]);
}

/// The reason of a cell that has failed.
fn reason(plan: &Plan) -> String {
    let State::Failed(summary) = plan.cells[0].state() else {
        panic!("{:?}", plan.cells[0].state());
    };
    summary.reason.expect("a reason")
}

#[test]
fn a_finished_run_without_a_figure_or_with_another_has_failed() {
    for (table, field) in [(Table1, "test_error"), (Table2, "test_loss")] {
        let (dir, fake) = (TestDir::new(), Fake::default());
        let plan = dir.plan(table, "demo", "lab", "");
        run(&plan, &fake);
        let folder = &plan.cells[0].folder;
        let path = folder.join("summary.json");
        let text = fs::read_to_string(&path).expect("a summary");
        for value in [serde_json::json!(0.25), serde_json::Value::Null] {
            let mut summary: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            summary[field] = value;
            fs::write(&path, summary.to_string()).expect("written");
            // The checkpoint has it, so that the cell needs no training.
            let reason = reason(&plan);
            assert!(reason.contains("last.safetensors"), "{reason}");
            let status = Status::of(&dir.out()).expect("a status");
            assert_eq!(status.cells[0].state, CellState::Failed);
            let report = report::write(dir.plan(table, "demo", "lab", "")).expect("a report");
            assert!(report.render().contains("0 of 1 cells finished"));
        }
        fs::remove_file(folder.join("last.safetensors")).expect("removed");
        let reason = reason(&plan);
        assert!(
            reason.contains(field) && reason.contains("summary.json"),
            "{reason}"
        );
        fake.rows();
        run(&plan, &fake);
        assert_eq!(fake.rows(), ["lab"]);
        assert!(matches!(plan.cells[0].state(), State::Finished(_)));
    }
}

#[test]
fn a_file_of_the_user_is_not_replaced_by_the_cells() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "lab", "");
    let path = dir.out().join("cells.json");
    for text in ["mine", "{\"mine\": 1}"] {
        common::write(&path, text);
        let (options, fake) = (Options::default(), Fake::default());
        let error = reproduce(&plan, &options, &fake, &Stop::default(), &mut |_| {});
        assert!(matches!(error, Err(LabError::Foreign(found)) if found == path));
        assert_eq!(fs::read_to_string(&path).expect("read"), text);
        assert!(fake.rows().is_empty());
    }
}

#[test]
fn summaries_of_other_versions_are_read() {
    let (dir, fake) = (TestDir::new(), Fake::default());
    let plan = dir.plan(Table2, "demo", "lab", "");
    run(&plan, &fake);
    let cell = &plan.cells[0];
    fs::remove_file(cell.folder.join("last.safetensors")).expect("removed");
    let text = format!(
        "{{\"status\": \"finished\", \"key\": {:?}, \"test_loss\": 1.5, \"unheard_of\": [1]}}",
        cell.key
    );
    fs::write(cell.folder.join("summary.json"), text).expect("written");
    assert!(matches!(cell.state(), State::Finished(summary) if summary.test_loss == Some(1.5)));
}

#[test]
fn a_failing_cell_does_not_stop_the_others() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "twn lat-e lat-a", "");
    let fake = Fake {
        fails: "lat-e",
        ..Fake::default()
    };
    let Outcome::Incomplete(problems) = run(&plan, &fake) else {
        panic!("it failed");
    };
    assert_eq!(
        problems.keys().collect::<Vec<_>>(),
        ["lat-e on demo (seed 1)"]
    );
    assert_eq!(fake.rows().len(), 3);
    // An earlier failure is not taken for that of a crash.
    let fake = Fake {
        crashes: "lat-e",
        ..Fake::default()
    };
    let Outcome::Incomplete(problems) = run(&plan, &fake) else {
        panic!("it crashed");
    };
    let reasons: Vec<_> = problems.into_values().collect();
    assert_eq!(reasons, ["the process ended with signal 9"]);
    assert_eq!(fake.rows(), ["lat-e"]);

    let report = report::write(plan).expect("a report");
    expect_file!["snapshots/failed.txt"].assert_eq(&report.render());
    for extension in ["md", "csv", "html"] {
        let text = dir.file(extension);
        assert!(text.contains("see demo/lat-e-seed1-"), "{text}");
        let here = dir.folder.path().display().to_string();
        assert!(!text.contains(&here), "a folder of this machine in {text}");
    }
    assert!(dir.file("html").contains("NaN in &lt;lstm&gt;"));
    let fake = Fake::default();
    assert_eq!(
        run(&dir.plan(Table2, "demo", "twn lat-e lat-a", ""), &fake),
        Outcome::Complete
    );
    assert_eq!(
        fake.rows(),
        ["lat-e"],
        "only the failed cell is trained again"
    );
}

/// The reason is also where `status` and the report find it.
#[test]
fn a_cell_that_fails_before_the_time_is_over_is_told() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "full twn", "");
    let fake = Fake {
        crashes: "full",
        ..Fake::default()
    };
    let deadline = Some(Instant::now() + Duration::from_secs(3));
    let stop = Stop {
        deadline,
        ..Stop::default()
    };
    let mut wait = |event: Event<'_>| {
        while matches!(event, Event::Started(..)) && !stop.is_set() {
            sleep(Duration::from_millis(10));
        }
    };
    let outcome = reproduce(&plan, &Options::default(), &fake, &stop, &mut wait);
    let reason = "the process ended with signal 9";
    let problems = [("full on demo (seed 1)".into(), reason.into())];
    let problems = Outcome::Incomplete(BTreeMap::from(problems));
    assert_eq!(outcome.expect("a reproduction"), problems);
    assert_eq!(fake.rows(), ["full"]);

    let states = || {
        let cells = Status::of(&dir.out()).expect("a status").cells;
        cells.into_iter().map(|cell| (cell.state, cell.reason))
    };
    let failed = (CellState::Failed, Some(reason.to_owned()));
    let waiting = (CellState::Waiting, None);
    assert!(states().eq([failed, waiting]));
    let report = report::write(dir.plan(Table2, "demo", "full twn", "")).expect("a report");
    let text = report.render();
    assert!(text.contains(&format!("a  failed: {reason}")), "{text}");
    assert_eq!(run(&plan, &Fake::default()), Outcome::Complete);
    assert!(states().all(|(state, reason)| (state, reason) == (CellState::Finished, None)));
}

#[test]
fn an_interrupted_cell_stops_the_reproduction_and_is_resumed() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "full twn ttq", "");
    let fake = Fake {
        is_interrupted: "twn",
        ..Fake::default()
    };
    assert_eq!(run(&plan, &fake), Outcome::Interrupted);
    assert_eq!(
        fake.rows(),
        ["full", "twn"],
        "nothing starts after an interruption"
    );
    let report = report::write(dir.plan(Table2, "demo", "full twn ttq", "")).expect("a report");
    expect_file!["snapshots/interrupted.txt"].assert_eq(&report.render());
    assert_eq!(run(&plan, &Fake::default()), Outcome::Complete);
}

#[test]
fn missing_data_stop_only_their_cells() {
    let dir = TestDir::new();
    fs::copy(
        common::configs().join("table2/linux-kernel.toml"),
        dir.folder.path().join("configs/table2/linux-kernel.toml"),
    )
    .expect("a column with data that are not here");
    let plan = dir.plan(Table2, "short", "full lat-a", "war-and-peace linux-kernel");
    let options = Options {
        mirror: Some("no/such/folder".into()),
        ..Options::default()
    };
    let fake = Fake::default();
    let Outcome::Incomplete(problems) = run_with(&plan, &fake, &options) else {
        panic!("there are no data");
    };
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["linux-kernel"]);
    let failed = |cell: &&Cell| matches!(cell.state(), State::Failed(_));
    let failed = plan.cells.iter().filter(failed);
    let columns: Vec<&str> = failed.map(|cell| cell.column.as_str()).collect();
    assert_eq!(columns, ["linux-kernel"; 2]);
    assert_eq!(fake.rows().len(), 2);
    // A newer reason takes the place of an older one, which is one line whatever its file has.
    let failed = |cell: &&Cell| matches!(cell.state(), State::Failed(_));
    let cell = plan.cells.iter().find(failed).expect("a failed cell");
    let reason = || match cell.state() {
        State::Failed(summary) => summary.reason.expect("a reason"),
        state => panic!("{state:?}"),
    };
    failure::record(&cell.folder, "an older\u{1b} one\nin two lines").expect("written");
    assert_eq!(reason(), "an older  one in two lines");
    let huge = "x".repeat(1 << 20);
    failure::record(&cell.folder, &huge).expect("written");
    assert!(reason().len() < 10_000);
    run_with(&plan, &fake, &options);
    assert_eq!(reason(), problems["linux-kernel"]);
}

#[test]
fn table_2_is_reported() {
    let dir = TestDir::new();
    let report = reported(&dir, Table2, "short", "", "");
    let text = report.render();
    assert!(
        text.lines().all(|line| line.chars().count() <= 120),
        "{text}"
    );
    expect_file!["snapshots/table2.txt"].assert_eq(&text);
    expect_file!["snapshots/table2.md"].assert_eq(&dir.file("md"));

    let csv = dir.file("csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 60);
    assert!(lines[0].starts_with(
        "column,row,bits,seed,status,reason,test_loss,test_error,measure,paper,difference,paper_status,"
    ));
    let start = "linux-kernel,lat-a,2,1,finished,,1.295,,test_loss,1.264,0.031,\"recalled, not checked against the PDF\",";
    assert!(lines.iter().any(|line| line.starts_with(start)), "{csv}");
    let json = report.json();
    let cells = json.as_array().expect("a list");
    assert_eq!(cells.len(), 60);
    assert_eq!(cells[0]["test_loss"], 1.3);

    let html = dir.file("html");
    assert!(
        !html.contains("<script") && !html.contains("http"),
        "the page needs something else"
    );
    assert!(html.contains("&lt;b&gt;lat-a &amp; co&lt;/b&gt;") && !html.contains("<b>"));
    // Three columns with four numbers of bits.
    assert_eq!(html.matches("<figure>").count(), 12);
}

#[test]
fn table_1_is_reported() {
    let dir = TestDir::new();
    let plan = dir.plan(Table1, "short", "", "mnist cifar10 cifar10-jpeg");
    let options = Options {
        compare_with_exact: Some(10),
        ..Options::default()
    };
    let fake = Fake::default();
    assert_eq!(run_with(&plan, &fake, &options), Outcome::Complete);
    let launched = fake.launched.lock().expect("the jobs").clone();
    let compared: Vec<_> = launched.iter().filter(|job| job.2 == 10).collect();
    assert_eq!((launched.len(), compared.len()), (45, 12), "{compared:?}");
    let report = report::write(plan).expect("a report");
    expect_file!["snapshots/table1.txt"].assert_eq(&report.render());
    expect_file!["snapshots/table1.md"].assert_eq(&dir.file("md"));
    for text in [report.render(), dir.file("md"), dir.file("html")] {
        for word in ["cross-entropy", "nats", "character"] {
            assert!(!text.contains(word), "{word}");
        }
    }
}

#[test]
fn a_page_has_tables_charts_and_comparisons() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "lat-e lat-a laq-log-3", "");
    let options = Options {
        compare_with_exact: Some(10),
        ..Options::default()
    };
    run_with(&plan, &Fake::default(), &options);
    let keys: Vec<String> = plan.cells.iter().map(|cell| cell.key.clone()).collect();
    report::write(plan).expect("a report");
    let mut html = dir.file("html");
    let style = html.find("<style>").expect("a style")..html.find("</style>").expect("its end");
    html.replace_range(style, "<style>");
    for key in keys {
        html = html.replace(&key, "KEY");
    }
    let lines = html.replace("><", ">\n<") + "\n";
    expect_file!["snapshots/page.html"].assert_eq(&lines);
}

#[test]
fn rows_that_the_paper_does_not_have_come_last() {
    let dir = TestDir::new();
    let rows = "laq-log-4-e laq-linear-3-e laq-log-4 laq-linear-4-e lab laq-log-3-e";
    let report = reported(&dir, Table2, "short", rows, "demo war-and-peace");
    expect_file!["snapshots/others.txt"].assert_eq(&report.render());
    let csv = dir.file("csv");
    let rows: Vec<&str> = csv
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(1))
        .collect();
    assert_eq!(
        rows[..5],
        ["lab", "laq-log-4", "lab", "laq-log-4", "laq-linear-3-e"]
    );
}

#[test]
fn without_pairs_there_is_no_comparison_of_solvers() {
    let dir = TestDir::new();
    reported(&dir, Table2, "demo", "lat-a lab", "");
    for extension in ["md", "html"] {
        assert!(!dir.file(extension).contains("Alternating against exact"));
    }
}

#[test]
fn stand_ins_are_marked() {
    let dir = TestDir::new();
    let columns = "linux-6.1-kernel demo linux-kernel";
    let report = reported(&dir, Table2, "demo", "full lat-a", columns);
    expect_file!["snapshots/stand_ins.txt"].assert_eq(&report.render());
}

#[test]
fn the_papers_own_setting_is_not_cut_short() {
    for (table, column) in [(Table1, "mnist"), (Table2, "war-and-peace")] {
        let dir = TestDir::new();
        let text = reported(&dir, table, "paper", "full", column).render();
        assert!(!text.contains("cut short:"), "{text}");
        assert!(
            text.contains("Not enough cells for: LAT < TWN; LAT2 < TTQ; LAQ"),
            "{text}"
        );
    }
}

#[test]
fn seeds_give_a_mean_and_a_deviation() {
    let dir = TestDir::new();
    let plan = |seeds| dir.seeds(Table2, "short", "full", "war-and-peace", seeds);
    run(&plan(3), &Fake::default());
    report::write(plan(3)).expect("a report");
    // 1.30, 1.32, 1.34.
    let figures = row(&dir.file("md"), "full");
    assert_eq!(
        figures,
        "| `full` | 1.320 ± 0.020 <sup>a</sup> | 1.268 | +0.052 |"
    );

    fs::remove_dir_all(dir.out()).expect("removed");
    run(&plan(1), &Fake::default());
    let text = report::write(plan(3)).expect("a report").render();
    assert!(text.contains("1 of 3 seeds finished"), "{text}");
}

#[test]
fn the_files_show_every_cell_that_has_a_run() {
    let dir = TestDir::new();
    let trained = |preset, rows, columns, seeds| {
        run(
            &dir.seeds(Table2, preset, rows, columns, seeds),
            &Fake::default(),
        );
    };
    trained("demo", "full lab", "", 2);
    // Another preset, and a folder that is no run.
    trained("short", "ttq", "demo", 1);
    fs::create_dir_all(dir.out().join("demo/dorefa-3-seedx-1")).expect("a folder");
    let text = reported(&dir, Table2, "demo", "twn", "war-and-peace").render();
    assert!(!text.contains("lab "), "more than was selected: {text}");
    let csv = dir.file("csv");
    let cells = csv
        .lines()
        .skip(1)
        .map(|line| line.split(',').take(5).collect::<Vec<_>>().join(" "));
    assert_eq!(
        cells.collect::<Vec<_>>(),
        [
            "war-and-peace twn 2 1 finished",
            "demo full 32 1 finished",
            "demo lab 1 1 finished",
            "demo full 32 2 finished",
            "demo lab 1 2 finished",
        ]
    );
    assert!(dir.file("md").contains(
        "laq reproduce table2 --preset demo --columns war-and-peace,demo --rows full,lab,twn --seeds 2"
    ));
    let files = fs::read_dir(dir.out().join("report")).expect("the reports");
    assert_eq!(files.count(), 4, "a temporary file was left");
    let picture = dir.file("svg");
    assert!(picture.starts_with("<svg") && picture.contains("war-and-peace"));
}

#[test]
fn a_dry_run_estimates_from_finished_cells() {
    let dir = TestDir::new();
    let mut machine = Environment::detect("portable", 2);
    machine.cpu = "Fake CPU".into();
    let dry_run = |plan: &Plan| DryRun::new(plan, &machine, false).expect("a dry run");
    let plan = || dir.plan(Table2, "demo", "full twn ttq lat-a", "");
    let unknown = dry_run(&plan());
    assert!(!dir.out().exists(), "a dry run wrote something");
    assert!(unknown.cells.iter().all(|cell| cell.seconds_left.is_none()));

    let fake = Fake {
        is_interrupted: "ttq",
        ..Fake::default()
    };
    run(&plan(), &fake);
    for cell in &plan().cells {
        let config = toml::to_string(&cell.experiment).expect("TOML");
        if !matches!(cell.state(), State::ToDo) {
            fs::write(cell.folder.join("config.toml"), config).expect("written");
        }
    }
    let known = dry_run(&plan());
    let left: BTreeMap<&str, Option<f64>> = known
        .cells
        .iter()
        .map(|cell| (cell.row.as_str(), cell.seconds_left))
        .collect();
    // 30.5 seconds a run; ttq has one of eight epochs, and lat-a has none of its own.
    assert_eq!(left["full"], Some(0.0));
    assert_eq!(left["ttq"], Some(30.5 * 7.0 / 8.0));
    assert_eq!(
        known.cells.iter().filter(|cell| cell.finished).count(),
        3,
        "{known:?}"
    );
    expect_file!["snapshots/dry_run.txt"].assert_eq(
        &known
            .render()
            .replace(&dir.out().display().to_string(), "OUT"),
    );
    // Another number of threads has another speed.
    machine.threads = 1;
    let other = DryRun::new(&plan(), &machine, false).expect("a dry run");
    assert!(
        other
            .cells
            .iter()
            .all(|cell| cell.finished || cell.seconds_left.is_none())
    );
}

/// Its last evaluation may be missing.
#[test]
fn a_cell_that_was_killed_after_its_last_epoch_is_not_finished() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "full", "");
    run(&plan, &Fake::default());
    let path = plan.cells[0].folder.join("summary.json");
    let text = fs::read_to_string(&path).expect("a summary");
    fs::write(&path, text.replace("\"finished\"", "\"running\"")).expect("written");
    let dry_run = DryRun::new(&plan, &Environment::detect("", 2), false).expect("a dry run");
    assert_eq!(dry_run.cells[0].state, "8 of 8 epochs");
    assert!(!dry_run.cells[0].finished);
    failure::record(&plan.cells[0].folder, "no memory").expect("written");
    let failed = DryRun::new(&plan, &Environment::detect("", 2), false).expect("a dry run");
    assert_eq!(failed.cells[0].state, "failed");
    assert_eq!(failed.cells[0].seconds_left, dry_run.cells[0].seconds_left);
}

#[test]
fn unknown_names_are_refused() {
    let refused = |table, preset: &str, row: &str, column: &str| {
        let list = |name: &str| name.split_whitespace().map(String::from).collect();
        let selection = Selection {
            table,
            preset: preset.into(),
            rows: list(row),
            columns: list(column),
            seeds: 1,
            out: None,
        };
        match Plan::new(TestDir::new().configs(), &selection) {
            Err(LabError::Unknown(Unknown { kind, name, .. })) => format!("{kind} {name}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(Table2, "demo", "full lat_a", ""), "row lat_a");
    assert_eq!(
        refused(Table2, "demo", "", "war-and-piece"),
        "column war-and-piece"
    );
    assert_eq!(refused(Table2, "shrot", "", ""), "preset shrot");
    // A name of the other table.
    assert_eq!(refused(Table1, "demo", "dorefa-4", ""), "row dorefa-4");
}

#[test]
fn events_follow_the_cells() {
    let dir = TestDir::new();
    let plan = dir.plan(Table2, "demo", "full twn", "");
    let mut events = Vec::new();
    let fake = Fake {
        fails: "twn",
        ..Fake::default()
    };
    let stop = Stop::default();
    reproduce(
        &plan,
        &Options::default(),
        &fake,
        &stop,
        &mut |event| match event {
            Event::Started(number, all, cell) => {
                events.push(format!("{number}/{all} {}", cell.row))
            }
            Event::Failed(cell, _) => events.push(format!("{} failed", cell.row)),
            _ => {}
        },
    )
    .expect("a reproduction");
    assert_eq!(events, ["1/2 full", "2/2 twn", "twn failed"]);
}
