//! `cargo xtask reproduce | report | download` against a `laq` that only pretends to train (`fake_laq.sh`).
#![cfg(unix)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// An output folder of its own, and what the fake has been asked.
struct Place {
    folder: TempDir,
}

/// What a command printed, and its exit code.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Place {
        Place {
            folder: TempDir::new().expect("a temporary folder"),
        }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// `cargo xtask <words>` with some environment variables.
    fn command(&self, words: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(words.split_whitespace())
            .current_dir(self.folder.path());
        command.env(
            "LAQ_BIN",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_laq.sh"),
        );
        command.env("FAKE_LOG", self.folder.path().join("log"));
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &str, variables: &[(&str, &str)]) -> Said {
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .command(words, variables)
            .output()
            .expect("xtask starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said {
            code: status.code(),
            out: text(stdout),
            err: text(stderr),
        }
    }

    /// The calls of the fake since the last time, of one of its commands.
    fn calls(&self, command: &str) -> Vec<String> {
        let log = self.folder.path().join("log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let calls = text
            .lines()
            .filter_map(|line| line.strip_prefix(command))
            .map(|line| line.trim().to_string());
        let calls = calls.collect();
        let _ = fs::remove_file(log);
        calls
    }

    /// The summary of a row's run on the demo text.
    fn summary(&self, row: &str) -> PathBuf {
        let mut cells = fs::read_dir(self.out().join("demo"))
            .expect("the cells")
            .map(|cell| cell.expect("a cell").path());
        let start = format!("{row}-seed1-");
        let named = |cell: &PathBuf| {
            cell.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&start)
        };
        cells.find(named).expect("the cell").join("summary.json")
    }

    fn report(&self, extension: &str) -> String {
        let files = fs::read_dir(self.out().join("report")).expect("the report's folder");
        let mut files = files.map(|file| file.expect("a file").path());
        let file = files.find(|file| file.extension().is_some_and(|found| found == extension));
        fs::read_to_string(file.expect("the report")).expect("text")
    }
}

/// The lines of a text with one space between their words.
fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[track_caller]
fn has_line(text: &str, line: &str) {
    assert!(
        lines(text).iter().any(|found| found == line),
        "no line {line:?} in:\n{text}"
    );
}

fn waited(mut condition: impl FnMut() -> bool) -> bool {
    // Half a minute, so that a loaded machine does not fail; nothing is measured.
    (0..600).any(|_| {
        condition() || {
            sleep(Duration::from_millis(50));
            false
        }
    })
}

#[test]
fn the_demo_trains_every_row_once() {
    for (table, rows, papers_last, last) in [
        ("table1", 15, "[13/15] laq-log-3", "[15/15] laq-log-3-e"),
        ("table2", 20, "[16/20] laq-log-4", "[20/20] laq-log-4-e"),
    ] {
        let place = Place::new();
        let words = format!("reproduce {table} --out out");
        let said = place.run(&words, &[]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        for start in [&format!("[1/{rows}] full"), papers_last, last] {
            has_line(&said.out, &format!("{start} on demo (seed 1)"));
        }
        let trained = place.calls("train");
        assert_eq!(trained.len(), rows, "{table}");
        assert_eq!(trained[6], "lat-a demo demo 1 resume");

        let said = place.run(&words, &[]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        has_line(
            &said.out,
            &format!("{rows} of {rows} cells are finished and kept"),
        );
        assert!(
            place.calls("train").is_empty(),
            "finished cells were trained again"
        );
    }
}

#[test]
fn a_cell_whose_key_changed_is_trained_again() {
    let place = Place::new();
    place.run("reproduce table2 --out out --rows full,lab", &[]);
    place.calls("train");
    let said = place.run(
        "reproduce table2 --out out --rows full,lab",
        &[("FAKE_VERSION", "2")],
    );
    assert_eq!((said.code, place.calls("train").len()), (Some(0), 2));
}

#[test]
fn a_summary_that_is_cut_off_or_of_another_key_does_not_count() {
    let place = Place::new();
    place.run("reproduce table2 --out out --rows full,lab", &[]);
    for (row, spoil) in [("full", 0), ("lab", 1)] {
        let summary = place.summary(row);
        let text = fs::read_to_string(&summary).expect("a summary");
        let spoilt = if spoil == 0 {
            text[..text.len() / 2].into()
        } else {
            text.replace("\"key\": \"", "\"key\": \"other")
        };
        fs::write(summary, spoilt).expect("written");
    }
    place.calls("train");
    let said = place.run("reproduce table2 --out out --rows full,lab", &[]);
    assert_eq!((said.code, place.calls("train").len()), (Some(0), 2));
}

#[test]
fn a_finished_run_without_a_figure_is_a_failure_that_says_so() {
    for (table, field, value) in [
        ("table1", "test_error", "1.22"),
        ("table2", "test_loss", "1.3050"),
    ] {
        let place = Place::new();
        place.run(&format!("reproduce {table} --out out --rows full,lab"), &[]);
        let summary = place.summary("lab");
        let text = fs::read_to_string(&summary).expect("a summary");
        let spoilt = text.replace(
            &format!("\"{field}\": {value}"),
            &format!("\"{field}\": null"),
        );
        assert_ne!(spoilt, text);
        fs::write(&summary, spoilt).expect("written");
        let said = place.run(&format!("report {table} --out out --rows full,lab"), &[]);
        has_line(&said.out, "lab failed b");
        has_line(
            &said.out,
            &format!(
                "b failed: summary.json says \"finished\", but has no {field}; remove the run folder to train the cell anew"
            ),
        );
        assert!(said.out.contains("1 of 2 cells finished"), "{}", said.out);
    }
}

#[test]
fn the_files_hold_every_cell_that_has_been_begun() {
    let place = Place::new();
    place.run("reproduce table2 --out out --rows full,lab --seeds 2", &[]);
    // Another configuration, another preset, and what is no run.
    place.run(
        "reproduce table2 --out out --rows bwn",
        &[("FAKE_VERSION", "2")],
    );
    place.run(
        "reproduce table2 --preset short --out out --rows ttq --columns demo",
        &[],
    );
    fs::create_dir_all(place.out().join("demo/dorefa-3-seedx-1")).expect("a folder");
    let said = place.run(
        "reproduce table2 --out out --rows twn --columns war-and-peace",
        &[],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        !said.out.contains("lab"),
        "more than was asked for: {}",
        said.out
    );
    let cells: Vec<String> = place
        .report("csv")
        .lines()
        .skip(1)
        .map(|line| line.split(',').take(5).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        cells,
        [
            "war-and-peace twn 2 1 finished",
            "demo full 32 1 finished",
            "demo lab 1 1 finished",
            "demo full 32 2 finished",
            "demo lab 1 2 finished",
        ]
    );
    let markdown = place.report("md");
    has_line(
        &markdown,
        "| `lab` | – | 1.291 | – | 1.315 ± 0.014 <sup>a</sup> |",
    );
    has_line(
        &markdown,
        "| `twn` | 1.350 <sup>a</sup> | 1.290 | +0.060 | – |",
    );
    has_line(
        &markdown,
        "- ours: mean ± sample standard deviation, n = 1 to 2 seeds",
    );
    has_line(
        &markdown,
        "cargo xtask reproduce table2 --preset demo --columns war-and-peace,demo --rows full,lab,twn --seeds 2",
    );
    let files = fs::read_dir(place.out().join("report")).expect("the report");
    assert_eq!(files.count(), 3, "a part was left behind");
}

#[test]
fn a_cell_that_fails_does_not_hold_up_the_others() {
    let place = Place::new();
    let said = place.run(
        "reproduce table2 --out out --rows twn,lat-e,lat-a",
        &[("FAKE_FAIL", "lat-e")],
    );
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("lat-e on demo (seed 1): the loss is NaN"),
        "{}",
        said.err
    );
    assert_eq!(place.calls("train").len(), 3);
    has_line(&said.out, "twn 1.350 a");
    has_line(&said.out, "lat-a 1.295 a");
    // What it had reached is shown, but not as a result.
    has_line(&said.out, "lat-e failed b");
    assert!(
        said.out
            .contains("b  failed: the loss is NaN in <lstm>, which is | not a number; see"),
        "{}",
        said.out
    );
    assert!(place.report("md").contains("which is \\| not a number"));
    assert!(place.report("html").contains("NaN in &lt;lstm&gt;"));
    // The fake's reason names the run folder.
    for extension in ["md", "csv", "html"] {
        let report = place.report(extension);
        assert!(report.contains("see demo/lat-e-seed1-"), "{report}");
        assert!(
            !report.contains(&*place.folder.path().to_string_lossy()),
            "a folder of this machine in {report}"
        );
    }

    // The reason of an earlier failure is not taken for the new one's.
    let words = "reproduce table2 --out out --rows twn,lat-e,lat-a";
    let said = place.run(words, &[("FAKE_BREAK", "lat-e")]);
    assert_eq!((said.code, place.calls("train").len()), (Some(1), 1));
    assert!(
        said.err
            .contains("lat-e on demo (seed 1): `laq train` ended with exit status: 1"),
        "{}",
        said.err
    );

    let said = place.run("reproduce table2 --out out --rows twn,lat-e,lat-a", &[]);
    assert_eq!(said.code, Some(0));
    assert_eq!(
        place.calls("train"),
        ["lat-e demo demo 1 resume"],
        "only what failed is tried again"
    );
}

#[test]
fn an_interrupted_cell_stops_the_run_and_is_gone_on_with() {
    let place = Place::new();
    let said = place.run(
        "reproduce table2 --out out --rows full,twn,ttq",
        &[("FAKE_STOP", "twn")],
    );
    assert_eq!(said.code, Some(130));
    assert_eq!(
        place.calls("train").len(),
        2,
        "nothing is started after an interruption"
    );
    assert!(
        said.err.contains("1 of 3 cells are finished"),
        "{}",
        said.err
    );
    assert!(
        said.err
            .contains("cargo xtask reproduce table2 --out out --rows full,twn,ttq"),
        "{}",
        said.err
    );

    let said = place.run("report table2 --out out --rows full,twn,ttq", &[]);
    assert_eq!(said.code, Some(0));
    has_line(&said.out, "twn 1.350 a b");
    has_line(&said.out, "b interrupted after 1 of 3 epochs; not final");
    has_line(&said.out, "ttq –");
    assert!(place.calls("train").is_empty(), "a report trains nothing");

    let said = place.run("reproduce table2 --out out --rows full,twn,ttq", &[]);
    assert_eq!(said.code, Some(0));
    assert_eq!(
        place.calls("train"),
        ["twn demo demo 1 resume", "ttq demo demo 1 resume"]
    );
}

#[test]
fn a_signal_reaches_laq_and_is_waited_for() {
    signalled(|command| command);
}

#[test]
fn so_it_does_under_nohup() {
    signalled(|plain| {
        // As `nohup` does, without its output.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
        command.arg(plain.get_program()).args(plain.get_args());
        let variables = plain.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        command
            .current_dir(plain.get_current_dir().expect("the place"))
            .stdin(Stdio::null());
        command
    });
}

/// Ends a run with a signal to its group.
fn signalled(wrap: impl Fn(Command) -> Command) {
    let place = Place::new();
    let log = fs::File::create(place.folder.path().join("err")).expect("a file");
    let mut command = wrap(place.command(
        "reproduce table2 --out out --rows full,twn,ttq",
        &[("FAKE_HANG", "twn")],
    ));
    // The terminal signals the whole group; a group of its own keeps the test out of it. The signal is the one that no
    // test runner ignores on behalf of its children.
    let mut child = command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("xtask starts");
    let cells = place.out().join("demo");
    let waiting = || {
        let cells = fs::read_dir(&cells).into_iter().flatten().flatten();
        cells
            .map(|cell| cell.path().join("waiting"))
            .find(|file| file.exists())
    };
    assert!(waited(|| waiting().is_some()), "the fake has not begun");
    let group = format!("-{}", child.id());
    assert!(
        Command::new("kill")
            .args(["-TERM", "--", &group])
            .status()
            .expect("kill")
            .success()
    );
    assert_eq!(child.wait().expect("xtask ends").code(), Some(130));
    let cell = waiting().expect("the cell").with_file_name("summary.json");
    assert!(
        fs::read_to_string(cell)
            .expect("saved before xtask ended")
            .contains("interrupted")
    );
    let err = fs::read_to_string(place.folder.path().join("err")).expect("the messages");
    assert!(err.contains("The same command goes on"), "{err}");
    assert_eq!(place.calls("train").len(), 2);
}

#[test]
fn a_column_without_data_does_not_hold_up_the_others() {
    let place = Place::new();
    let words = "reproduce table2 --preset short --out out --rows full,lat-a --mirror http://127.0.0.1:1/none";
    let said = place.run(
        words,
        &[
            ("FAKE_MISSING", "linux-kernel"),
            ("FAKE_ABSENT", "war-and-peace"),
        ],
    );
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("linux-kernel: the data cannot be had"),
        "{}",
        said.err
    );
    let calls = fs::read_to_string(place.folder.path().join("log")).expect("the log");
    let downloads: Vec<&str> = calls
        .lines()
        .filter(|line| line.starts_with("download"))
        .collect();
    assert_eq!(downloads.len(), 2, "{downloads:?}");
    assert!(
        downloads
            .iter()
            .all(|line| line.ends_with("mirror=http://127.0.0.1:1/none")),
        "{downloads:?}"
    );
    let trained = place.calls("train");
    assert_eq!(trained.len(), 4);
    assert!(
        !trained.iter().any(|call| call.contains("linux-kernel")),
        "{trained:?}"
    );
}

#[test]
fn the_report_says_ours_paper_and_difference() {
    let place = Place::new();
    let said = place.run("reproduce table2 --preset short --out out", &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out
            .lines()
            .all(|line| line.chars().count() <= 120 || line.contains(['/', '\\'])),
        "{}",
        said.out
    );
    has_line(&said.out, "war-and-peace linux-kernel penn-treebank");
    has_line(
        &said.out,
        "ours paper difference ours paper difference ours paper difference",
    );
    has_line(
        &said.out,
        "lat-a 1.295 a 1.253 +0.042 1.295 a 1.264 +0.031 1.295 a 1.024 +0.271",
    );
    has_line(
        &said.out,
        "laq-linear-3 1.200 a 1.282 −0.082 1.200 a 1.327 −0.127 1.200 a 1.017 +0.183",
    );
    has_line(
        &said.out,
        "paper: Table 2 of arXiv:1802.08635v2, recalled, not checked against the PDF",
    );
    has_line(&said.out, "a cut short: train.epochs 2 (paper: 200)");

    // The claims, each by the figures of the fake.
    has_line(&said.out, "war-and-peace holds lat-e −0.060, lat-a −0.055");
    has_line(
        &said.out,
        "war-and-peace does not hold lat2-e +0.005 (!), lat2-a −0.010",
    );
    has_line(&said.out, "penn-treebank holds lab −0.005, bwn −1.590");
    has_line(
        &said.out,
        "penn-treebank does not hold lat-a +0.005, lat2-a −0.015 (!)",
    );
    has_line(
        &said.out,
        "penn-treebank does not hold laq-linear-3 −0.020 (!), laq-log-3 +0.005, laq-linear-4 0.000, laq-log-4 0.000",
    );

    let markdown = place.report("md");
    has_line(
        &markdown,
        "| | war-and-peace: ours | paper | difference | linux-kernel: ours | paper | difference | penn-treebank: ours | paper | difference |",
    );
    has_line(
        &markdown,
        "| `twn` | 1.350 <sup>a</sup> | 1.290 | +0.060 | 1.350 <sup>a</sup> | 1.280 | +0.070 | 1.350 <sup>a</sup> | 1.045 | +0.305 |",
    );
    has_line(
        &markdown,
        "| LAT < TWN: loss-aware beats plain ternary | war-and-peace | holds | lat-e 1.290 < twn 1.350 ✓; lat-a 1.295 < twn 1.350 ✓ | holds |",
    );
    let html = place.report("html");
    let headers = [
        &markdown[..markdown.find("\n| ").expect("a table")],
        &html[..html.find("</header>").expect("a header")],
    ];
    for header in headers {
        for part in [
            "preset short",
            "cargo xtask reproduce table2 --preset short",
            "Commit abc123. Fake CPU, threads: 2, kernel: portable.",
            "paper: Table 2 of arXiv:1802.08635v2, recalled, not checked against the PDF",
        ] {
            assert!(header.contains(part), "no {part:?} in {header}");
        }
    }
    assert!(
        markdown.contains("60 of 60 cells finished")
            && markdown.contains("Commit abc123. Fake CPU, threads: 2")
    );
    has_line(
        &markdown,
        "cargo xtask reproduce table2 --preset short --columns war-and-peace,linux-kernel,penn-treebank",
    );

    let csv = place.report("csv");
    assert_eq!(csv.lines().count(), 1 + 60);
    let heading: Vec<&str> = csv.lines().next().expect("a heading").split(',').collect();
    let line = csv
        .lines()
        .find(|line| line.starts_with("linux-kernel,lat-a,2,1,finished,"))
        .expect("the cell");
    assert!(line.starts_with("linux-kernel,lat-a,2,1,finished,,1.295,,test_loss,1.264,0.031000,\"recalled, not checked against the PDF\","), "{line}");
    assert_eq!(
        heading.len(),
        line.split(',').count() - 3,
        "one comma of the status and two of the command are inside quotes"
    );

    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    assert!(
        !html.contains("<script") && !html.contains("http"),
        "the page needs something else"
    );
    assert!(
        html.contains("&lt;b&gt;lat-a &amp; co&lt;/b&gt;") && !html.contains("<b>"),
        "text became markup"
    );
    assert!(
        html.contains(
            "<td class=\"first ours\">1.295<sup>a</sup></td><td>1.253</td><td>+0.042</td>"
        )
    );
    // Three columns with four numbers of bits.
    assert_eq!(html.matches("<figure>").count(), 12);
    for tag in [
        "section", "table", "svg", "figure", "ul", "li", "tr", "td", "th", "g", "div", "details",
    ] {
        let opened =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(
            opened,
            html.matches(&format!("</{tag}>")).count(),
            "<{tag}> is not closed"
        );
    }
}

#[test]
fn table_1_is_about_errors_in_per_cent() {
    let place = Place::new();
    let said = place.run(
        "reproduce table1 --preset short --out out --columns mnist,cifar10,cifar10-jpeg --compare-with-exact 10",
        &[],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let trained = place.calls("train");
    assert_eq!(trained.len(), 45);
    // What a preset changes in one column alone lies over the preset.
    for call in [
        "lat-a mnist short + short/mnist.toml 1 every=10 resume",
        "lat-a cifar10 short 1 every=10 resume",
        "lat-e cifar10-jpeg short 1 resume",
    ] {
        assert!(trained.iter().any(|trained| trained == call), "{trained:?}");
    }
    for line in [
        "Table 1 · Test error (%) · preset short",
        "mnist cifar10 cifar10-jpeg",
        "ours paper difference ours paper difference ours",
        "lat-a 1.18 a 1.14 +0.04 1.18 b 10.38 −9.20 1.18 b",
        "laq-log-3 1.00 a 1.16 −0.16 1.00 b 10.52 −9.52 1.00 b",
        "laq-log-3-e 0.98 a 0.98 b 0.98 b",
        "paper: Table 1 of arXiv:1802.08635v2, recalled, not checked against the PDF",
        "cifar10-jpeg is not the paper's data: stands in for cifar10",
        "a cut short: train.epochs 10 (paper: 50)",
        "b cut short: train.epochs 1 (paper: 200)",
        // Not 4 bits, which the table does not have; and the paper's own figures where they do not bear its claim.
        "mnist holds laq-linear-3 −0.80, laq-log-3 −0.60",
        "mnist holds lab −0.02, bwn −6.36; not by the paper's: bwn 1.31 < binary-connect 1.28",
        "cifar10-jpeg holds lab −0.02, bwn −6.36",
        // One standard error of 1.16 % of 10,000 is 0.107 points.
        "mnist holds lat-a +0.02, lat2-a −0.06",
        "mnist holds laq-linear-3 −0.08, laq-log-3 +0.02",
    ] {
        has_line(&said.out, line);
    }
    let markdown = place.report("md");
    for line in [
        "Test error (%).",
        "| | mnist: ours | paper | difference | cifar10: ours | paper | difference | cifar10-jpeg: ours |",
        "| `twn` | 1.40 <sup>a</sup> | 1.23 | +0.17 | 1.40 <sup>b</sup> | 10.64 | −9.24 | 1.40 <sup>b</sup> |",
        "| LAB ≤ BWN < BinaryConnect: so it is with 1 bit | mnist | holds | lab 1.22 ≤ bwn 1.24 ✓; bwn 1.24 < binary-connect 7.60 ✓ | does not hold: bwn 1.31 < binary-connect 1.28 ✗ |",
        "| mnist | lat-a | 1 | 1.18 | 1.16 | +0.02 |",
    ] {
        has_line(&markdown, line);
    }
    let html = place.report("html");
    for part in [
        "<p>Test error (%).</p>",
        "Test error of runs that differ in the solver alone",
        "<p>Validation error (%) after each epoch;",
        "aria-label=\"Validation error (%) by epoch on mnist, 1 bit\"",
        // The lowest of the fake's ten epochs: 4 · (1.295 + 1/10 − 1).
        "lat-a <span>1.58</span>",
        "<td>finished</td><td>1.18</td><td>1.22</td><td>1.195</td>",
        "allow one standard error of an error counted on 10,000 images",
    ] {
        assert!(html.contains(part), "no {part:?} in {html}");
    }
    for word in ["cross-entropy", "nats", "character"] {
        assert!(!said.out.contains(word) && !markdown.contains(word) && !html.contains(word));
    }
    let csv = place.report("csv");
    for start in [
        "mnist,lat-a,2,1,finished,,1.295,1.18,test_error,1.14,0.040000,\"recalled, not",
        "mnist,laq-log-3-e,3,1,finished,,1.245,0.98,test_error,,,not in the paper,",
        "cifar10-jpeg,lat-a,2,1,finished,,1.295,1.18,test_error,,,,",
    ] {
        assert!(
            csv.lines().any(|line| line.starts_with(start)),
            "no {start:?} in {csv}"
        );
    }
}

/// The first words of a table's lines, from the row `first` on.
fn names_from<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    table
        .lines()
        .map(|line| line.trim_matches(['|', ' ']))
        .map(|line| line.split([' ', ',']).next().unwrap_or_default())
        .map(|name| name.trim_matches(['`', '*']))
        .skip_while(|name| *name != first)
        .take_while(|name| !name.is_empty())
        .collect()
}

#[test]
fn rows_that_the_paper_does_not_have_stand_in_a_block_of_their_own() {
    let place = Place::new();
    let rows = "laq-log-4-e,laq-linear-3-e,laq-log-4,laq-linear-4-e,lab,laq-log-3-e";
    let columns = "demo,war-and-peace";
    let said = place.run(
        &format!("reproduce table2 --preset short --out out --rows {rows} --columns {columns}"),
        &[],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let order = [
        "lab",
        "laq-log-4",
        "not",
        "laq-linear-3-e",
        "laq-log-3-e",
        "laq-linear-4-e",
        "laq-log-4-e",
    ];
    assert_eq!(names_from(&said.out, "lab"), order);
    assert_eq!(names_from(&place.report("md"), "lab"), order);
    // Neither a figure of the paper nor a difference to it.
    has_line(&said.out, "not in the paper");
    has_line(&said.out, "laq-log-4 1.295 a 1.272 +0.023 1.295 a");
    has_line(&said.out, "laq-log-3-e 1.245 a 1.245 a");
    let markdown = place.report("md");
    has_line(&markdown, "| *not in the paper* | | | | |");
    has_line(
        &markdown,
        "| `laq-log-3-e` | 1.245 <sup>a</sup> | | | 1.245 <sup>a</sup> |",
    );
    let html = place.report("html");
    let (above, below) = html
        .split_once("<th scope=\"rowgroup\" colspan=\"5\">not in the paper</th>")
        .expect("the block's heading");
    assert!(above.contains("<th scope=\"row\">laq-log-4</th>"));
    assert!(below.contains(
        "<th scope=\"row\">laq-log-3-e</th><td class=\"first ours\">1.245<sup>a</sup></td><td></td><td></td>"
    ));

    let csv: Vec<String> = place
        .report("csv")
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            [fields[0], fields[1], fields[9], fields[10], fields[11]].join(" ")
        })
        .collect();
    let recalled = "\"recalled";
    assert_eq!(csv.len(), 12);
    assert_eq!(
        csv[..6],
        [
            format!("war-and-peace lab 1.291 0.014000 {recalled}"),
            format!("war-and-peace laq-log-4 1.272 0.023000 {recalled}"),
            "demo lab   ".into(),
            "demo laq-log-4   ".into(),
            "war-and-peace laq-linear-3-e   not in the paper".into(),
            "war-and-peace laq-log-3-e   not in the paper".into(),
        ]
    );
    has_line(
        &said.out,
        "war-and-peace not enough cells laq-log-4 0.000, 3 of 4 open",
    );
}

#[test]
fn solvers_are_compared_where_it_is_asked_for() {
    let place = Place::new();
    let words = "reproduce table2 --out out --rows lat2-a,lat-a,lat-e,laq-log-3,ttq";
    let said = place.run(
        &format!("{words} --compare-with-exact 10"),
        &[("FAKE_STOP", "laq-log-3")],
    );
    assert_eq!(said.code, Some(130), "{}", said.err);
    let asked = |row: &str| format!("{row} demo demo 1 every=10 resume");
    assert_eq!(
        place.calls("train"),
        [
            "lat-e demo demo 1 resume".into(),
            asked("lat-a"),
            "ttq demo demo 1 resume".into(),
            asked("lat2-a"),
            asked("laq-log-3"),
        ]
    );
    // What is finished without comparisons stays so, and the report says it.
    let said = place.run(&format!("{words} --seeds 2"), &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = place.run(&format!("{words} --seeds 2 --compare-with-exact 10"), &[]);
    has_line(&said.out, "10 of 10 cells are finished and kept");

    let markdown = place.report("md");
    for line in [
        "| column | alternating | seed | alternating: test | exact: test | alternating − exact |",
        "| demo | lat-a | 1 | 1.295 | 1.290 | +0.005 |",
        "| demo | lat-a | 2 | 1.315 | 1.310 | +0.005 |",
        "| column | alternating | seed | compared | median | largest | last | worst matrix |",
        "| demo | lat-a | 1 | 4 | 1.010000 | 1.100000 at step 20 | 1.010000 | 1.100000: &lt;w> at step 20 |",
        "| demo | lat-a | 2 | 0 | no comparison recorded | | | |",
        "| demo | laq-log-3 | 1 | 4 | 1.010000 | 1.100000 at step 20 | 1.010000 | 1.100000: &lt;w> at step 20 |",
    ] {
        has_line(&markdown, line);
    }
    assert!(
        !markdown.contains("| demo | lat2-a | 1 | 1.270"),
        "lat2-e is not there: {markdown}"
    );
    let html = place.report("html");
    assert!(html.contains("<h2>Alternating against exact</h2>"));
    assert!(html.contains(
        "<td>demo</td><td>lat-a</td><td>2</td><td>1.315</td><td>1.310</td><td>+0.005</td>"
    ));
    assert!(html.contains("1.100000: &lt;w&gt; at step 20"));
    // Ternary and 3 bits, beside the learning curves of the same two; a step without errors is no point.
    assert_eq!(html.matches("<figure>").count(), 4);
    let chart = html
        .split("<svg ")
        .find(|svg| {
            svg.contains("Weighted error of the alternating solver above") && svg.contains("2 bits")
        })
        .expect("a chart");
    assert_eq!(chart.matches("<path class=\"line\" d=\"M").count(), 2);
    let line = chart.split("lat-a, seed 1</title>").nth(1).expect("a line");
    let path = &line[..line.find("\"/>").expect("its end")];
    assert_eq!(path.matches('L').count(), 2, "{path}");
    for tick in ["0.1", "1", "10"] {
        assert!(chart.contains(&format!(">{tick}</text>")), "{chart}");
    }
    assert!(!html.contains("NaN"));
}

#[test]
fn without_pairs_nothing_is_said_of_solvers() {
    let place = Place::new();
    place.run("reproduce table2 --out out --rows lat-a,lab", &[]);
    for extension in ["md", "html"] {
        assert!(
            !place
                .report(extension)
                .contains("Alternating against exact")
        );
    }
}

#[test]
fn stand_ins_and_demo_stand_under_their_own_names() {
    let place = Place::new();
    let said = place.run("reproduce table2 --preset demo --out out --rows full,lat-a --columns linux-6.1-kernel,demo,linux-kernel", &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    has_line(&said.out, "linux-kernel demo linux-6.1-kernel");
    has_line(&said.out, "ours paper difference ours ours");
    has_line(&said.out, "full 1.300 a 1.326 −0.026 1.300 a 1.300 a");
    has_line(
        &said.out,
        "linux-6.1-kernel is not the paper's data: stands in for linux-kernel",
    );
    has_line(&said.out, "demo is not one of the paper's data sets");
    let csv = place.report("csv");
    let heading = csv.lines().next().expect("a heading");
    assert!(heading.starts_with(
        "column,row,bits,seed,status,reason,test_loss,test_error,measure,paper,difference,paper_status,"
    ));
    for column in ["demo", "linux-6.1-kernel"] {
        let line = csv
            .lines()
            .find(|line| line.starts_with(&format!("{column},full,")))
            .expect("the cell");
        assert!(line.contains(",1,finished,,1.3,,test_loss,,,,"), "{line}");
    }
    has_line(
        &said.out,
        "a cut short: model.hidden 96 (paper: 512), data.length 50 (paper: 100), train.epochs 3 (paper: 200)",
    );
}

#[test]
fn drawn_digits_are_not_mnist() {
    let place = Place::new();
    let words = "reproduce table1 --out out --rows full,lat-a --columns demo,mnist";
    let said = place.run(words, &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for line in [
        "mnist demo",
        "ours paper difference ours",
        "full 1.20 a 1.11 +0.09 1.20 a",
        "demo is not one of the paper's data sets",
        "a cut short: model.filters [8, 16] (paper: []), train.epochs 3 (paper: 50)",
    ] {
        has_line(&said.out, line);
    }
    let csv = place.report("csv");
    assert!(
        csv.contains("\ndemo,full,32,1,finished,,1.3,1.2,test_error,,,,"),
        "{csv}"
    );
    assert!(csv.contains(",demo-digits,,"), "{csv}");
}

#[test]
fn the_papers_own_setting_is_not_cut_short() {
    for (table, column, line) in [
        ("table1", "mnist", "full 1.20 1.11 +0.09"),
        ("table2", "war-and-peace", "full 1.300 1.268 +0.032"),
    ] {
        let place = Place::new();
        let said = place.run(
            &format!("reproduce {table} --preset paper --out out --rows full --columns {column}"),
            &[],
        );
        assert_eq!(said.code, Some(0), "{}", said.err);
        has_line(&said.out, line);
        assert!(!said.out.contains("cut short:"), "{}", said.out);
        assert!(
            said.out
                .contains("Not enough cells for: LAT < TWN; LAT2 < TTQ; LAQ"),
            "{}",
            said.out
        );
        assert!(place.report("md").contains(&format!(
            "| LAT < TWN: loss-aware beats plain ternary | {column} | not enough cells |"
        )));
    }
}

#[test]
fn seeds_give_a_mean_and_a_deviation() {
    let place = Place::new();
    let said = place.run(
        "reproduce table2 --preset short --out out --rows full --columns war-and-peace --seeds 3",
        &[],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(place.calls("train").len(), 3);
    // 1.30, 1.32, 1.34.
    has_line(&said.out, "full 1.320 ± 0.020 a 1.268 +0.052");
    has_line(
        &said.out,
        "ours: mean ± sample standard deviation, n = 3 seeds",
    );
    assert_eq!(place.report("csv").lines().count(), 4);

    fs::remove_dir_all(place.out()).expect("removed");
    let said = place.run(
        "reproduce table2 --preset short --out out --rows full --columns war-and-peace",
        &[],
    );
    assert_eq!(said.code, Some(0));
    let said = place.run(
        "report table2 --preset short --out out --rows full --columns war-and-peace --seeds 3",
        &[],
    );
    has_line(&said.out, "full 1.300 a b 1.268 +0.032");
    has_line(&said.out, "b 1 of 3 seeds finished");
}

#[test]
fn a_dry_run_plans_and_trains_nothing() {
    let place = Place::new();
    let rows = "full,twn,lat-a,ttq";
    let words = format!("reproduce table2 --preset short --out out --rows {rows}");
    let said = place.run(
        &format!("{words} --dry-run --threads 1"),
        &[("FAKE_MISSING", "linux-kernel")],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!place.out().exists(), "a dry run left something behind");
    has_line(&said.out, "table2, preset short: 12 cells, 12 to do");
    has_line(&said.out, "lat-a to do to do to do");
    has_line(&said.out, "linux-kernel 4 2 50 7 6 missing");
    has_line(&said.out, "penn-treebank 4 2 50 7 6 present");
    assert!(
        said.out.contains("cargo xtask download linux-kernel"),
        "{}",
        said.out
    );
    // 60 s for 100 steps, three columns.
    has_line(
        &said.out,
        "ttq 0.600 3 min a few timed steps (`laq estimate`)",
    );
    has_line(
        &said.out,
        "Together about 12 min. A step's time includes its share of the evaluation.",
    );
    let timed = place.calls("estimate");
    assert_eq!(
        timed.len(),
        4,
        "once a row, and every column is among them: {timed:?}"
    );
    assert!(
        timed.iter().all(|call| call.ends_with("threads=1")),
        "{timed:?}"
    );

    // Finished cells know better, an interrupted one has less to do, and a finished one nothing.
    place.run(
        &format!("{words} --columns war-and-peace"),
        &[("FAKE_STOP", "ttq")],
    );
    place.calls("train");
    let said = place.run(&format!("{words} --dry-run"), &[]);
    has_line(&said.out, "table2, preset short: 12 cells, 9 to do");
    has_line(&said.out, "lat-a finished to do to do");
    has_line(&said.out, "ttq 1 of 2 epochs to do to do");
    has_line(&said.out, "lat-a 0.305 61 s 1 finished cell");
    has_line(
        &said.out,
        "Finished and kept: 3 of 12 cells, which took 92 s.",
    );
    has_line(
        &said.out,
        "ttq 0.600 3 min a few timed steps (`laq estimate`)",
    );
    assert!(place.calls("train").is_empty());
    // Other threads make other speeds.
    let said = place.run(&format!("{words} --dry-run --threads 1"), &[]);
    has_line(
        &said.out,
        "lat-a 0.600 2 min a few timed steps (`laq estimate`)",
    );
}

#[test]
fn every_network_is_timed_by_itself() {
    let place = Place::new();
    let words = "reproduce table1 --preset paper --out out --rows full,lat-a --columns mnist";
    let said = place.run(
        &format!("{words},cifar10,cifar10-jpeg --dry-run"),
        &[("FAKE_ABSENT", "cifar10")],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    has_line(&said.out, "table1, preset paper: 6 cells, 6 to do");
    has_line(&said.out, "cifar10 2 200 50 7 6 missing");
    has_line(&said.out, "mnist 2 50 50 7 6 present");
    assert_eq!(place.calls("estimate").len(), 6);
    // A run knows the speed of its own network.
    place.run(words, &[]);
    place.calls("train");
    let said = place.run(&format!("{words},cifar10 --seeds 2 --dry-run"), &[]);
    has_line(&said.out, "lat-a 0.305 31 s 1 finished cell, mnist");
    has_line(
        &said.out,
        "lat-a 0.600 2 min a few timed steps (`laq estimate`), cifar10",
    );
    // Of the other seed only how many steps it has.
    let timed = place.calls("estimate");
    assert_eq!(
        timed.iter().filter(|call| call.contains(" mnist ")).count(),
        1,
        "{timed:?}"
    );
    assert_eq!(timed.len(), 3, "{timed:?}");
}

#[test]
fn a_dry_run_with_nothing_to_do_says_so() {
    let place = Place::new();
    place.run("reproduce table2 --out out --rows full", &[]);
    place.calls("config");
    let said = place.run("reproduce table2 --out out --rows full --dry-run", &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    has_line(&said.out, "Nothing to do: every cell is finished.");
    assert!(place.calls("estimate").is_empty());
}

#[test]
fn names_that_do_not_exist_are_refused_with_a_suggestion() {
    let place = Place::new();
    for (words, expected) in [
        (
            "--rows lat_a",
            "there is no row \"lat_a\"; did you mean \"lat-a\"? There are: full, binary-connect, bwn,",
        ),
        (
            "--rows full,zzz",
            "there is no row \"zzz\". There are: full,",
        ),
        (
            "--columns war-and-piece",
            "there is no column \"war-and-piece\"; did you mean \"war-and-peace\"?",
        ),
        (
            "--preset shrot",
            "there is no preset \"shrot\"; did you mean \"short\"? There are: demo, paper, short.",
        ),
        // What one table has, another need not have.
        ("table1 --rows dorefa-4", "did you mean \"dorefa-3\"?"),
        (
            "table1 --columns war-and-peace",
            "There are: mnist, cifar10, cifar100, svhn, cifar10-jpeg, demo.",
        ),
    ] {
        let table = if words.starts_with("table") {
            ""
        } else {
            "table2 "
        };
        let said = place.run(&format!("reproduce {table}{words} --out out"), &[]);
        assert_eq!(said.code, Some(2), "{words}");
        assert!(said.err.contains(expected), "{words}: {}", said.err);
    }
    for words in [
        "--seeds 0",
        "--seeds x",
        "--threads 0",
        "--nonsense",
        "table9",
    ] {
        let said = place.run(&format!("reproduce table2 --out out {words}"), &[]);
        assert_eq!(said.code, Some(2), "{words}");
    }
    assert!(!place.out().exists());
}

#[test]
fn threads_reach_laq() {
    let place = Place::new();
    place.run("reproduce table2 --out out --rows full --threads 1", &[]);
    assert_eq!(place.calls("train"), ["full demo demo 1 threads=1 resume"]);
}

#[test]
fn the_device_reaches_laq() {
    let place = Place::new();
    let words = "reproduce table2 --out out --rows full --device cuda:1 --precision float32";
    place.run(words, &[]);
    let machine = "--device=cuda:1 --precision=float32";
    let expected = format!("full demo demo 1 {machine} resume");
    assert_eq!(place.calls("train"), [expected]);
    let dry = format!("{words} --out other --dry-run").replacen("--out out ", "", 1);
    place.run(&dry, &[]);
    let timed = place.calls("estimate");
    assert!(timed[0].contains(machine), "{timed:?}");
}

/// Every cell once, and a failure among them told, however many are trained at the same time.
#[test]
fn several_cells_are_trained_at_the_same_time() {
    for (jobs, threads) in [(3, " threads=2"), (64, " threads=2")] {
        let place = Place::new();
        let words = format!("reproduce table2 --out out --jobs {jobs} --threads 2");
        let said = place.run(&words, &[("FAKE_FAIL", "lat-a")]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains("lat-a on demo"), "{}", said.err);
        let mut trained = place.calls("train");
        assert!(
            trained.iter().all(|call| call.contains(threads)),
            "{trained:?}"
        );
        assert!(trained.iter().all(|call| call.contains("--progress=none")));
        trained.sort();
        trained.dedup();
        assert_eq!(trained.len(), 20);
        place.run(&words, &[]);
        assert_eq!(place.calls("train").len(), 1, "what failed is tried again");
    }
}

#[test]
fn downloads_are_handed_over() {
    let place = Place::new();
    let said = place.run(
        "download war-and-peace penn-treebank --mirror copy/of/data",
        &[],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    has_line(&said.out, "downloaded war-and-peace penn-treebank");
    // A mirror is a folder as seen from where the command is typed.
    let here = fs::canonicalize(place.folder.path()).expect("the folder");
    let calls = place.calls("download");
    let mirror = calls[0].rsplit_once("mirror=").expect("a mirror").1;
    let (parent, rest) =
        mirror.split_at(mirror.find("/copy/of/data").expect("the mirror's folder"));
    assert_eq!(
        (fs::canonicalize(parent).expect("the parent"), rest),
        (here, "/copy/of/data")
    );

    let said = place.run("download linux-kernel", &[("FAKE_MISSING", "linux-kernel")]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("no address answers"), "{}", said.err);
}

#[test]
fn a_laq_that_does_not_start_is_named() {
    let place = Place::new();
    let said = place.run("reproduce table2 --out out", &[("LAQ_BIN", "no/such/laq")]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err
            .contains(&Path::new("no/such/laq").display().to_string()),
        "{}",
        said.err
    );
}
