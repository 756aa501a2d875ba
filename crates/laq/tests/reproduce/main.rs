//! `laq reproduce`, `report` and the other commands around runs, with the binary and a network that
//! trains in a second.

#[cfg(unix)]
mod processes;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with configurations of two rows on the embedded text.
struct TestDir {
    folder: TempDir,
}

/// What a command printed, and its exit code.
struct Output {
    code: Option<i32>,
    out: String,
    err: String,
}

impl TestDir {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join("configs").join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        file(
            "paper_tables.toml",
            "status = \"invented\"\n[table2]\ncaption = \"Test cross-entropy\"\ncolumns = [\"demo\"]\n\
             rows = { full = [1.0], lat-a = [2.0] }",
        );
        file(
            "table2/base.toml",
            "model = { kind = \"char-lstm\", hidden = 4 }\n\
             data = { name = \"demo\", length = 50, batch = 20 }\n\
             train = { epochs = 2, max_batches = 4, learning_rate = 0.02 }",
        );
        for row in ["full", "lat-a"] {
            let text = format!("extends = \"../base.toml\"\nquantize.method = \"{row}\"");
            file(&format!("table2/demo/{row}.toml"), &text);
        }
        file("table2/presets/demo.toml", "");
        file("table2/presets/paper.toml", "[train]\nepochs = 200");
        Self { folder }
    }

    fn laq(&self, words: &str) -> Output {
        self.laq_with(words, |_| {})
    }

    fn laq_with(&self, words: &str, change: impl Fn(&mut Command)) -> Output {
        let mut command = Command::new(cargo_bin!("laq"));
        command
            .current_dir(self.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(words.split_whitespace());
        change(&mut command);
        let output = command.output().expect("laq starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Output {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    fn reproduce(&self, words: &str) -> Output {
        self.laq(&format!(
            "reproduce table2 --configs configs --out out --device cpu --threads 1 {words}"
        ))
    }

    /// The run folders.
    fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("out/demo"))
            .into_iter()
            .flatten();
        let mut runs: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        runs.sort();
        runs
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn cells_are_trained_in_processes_and_reused() {
    for jobs in [1, 2] {
        let dir = TestDir::new();
        let done = dir.reproduce(&format!("--jobs {jobs}"));
        assert_eq!(done.code, Some(0), "{}", done.err);
        assert!(
            done.err.contains("[2/2] lat-a on demo (seed 1)"),
            "{}",
            done.err
        );
        assert!(done.out.contains("2 of 2 cells finished"), "{}", done.out);
        assert_eq!(dir.runs().len(), 2);
        let again = dir.reproduce("--json");
        assert!(!again.err.contains("[1/2]"), "{}", again.err);
        let cells = json(&again.out);
        assert!(cells[1]["test_loss"].as_f64().is_some_and(f64::is_finite));
        assert!(cells[1]["peak_memory_bytes"].as_u64() > Some(0) || !cfg!(target_os = "linux"));
        let report = dir.laq("report table2 --configs configs --out out --json");
        assert_eq!(json(&report.out), cells);
    }
}

/// The runs say in their own words that they are finished, elsewhere.
#[test]
fn the_output_is_json_where_cells_are_trained() {
    let dir = TestDir::new();
    let done = dir.reproduce("--json");
    assert_eq!(done.code, Some(0), "{}", done.err);
    let cells = json(&done.out);
    assert_eq!(cells.as_array().map(Vec::len), Some(2), "{cells}");
    assert!(
        done.err.contains("full on demo, best epoch"),
        "{}",
        done.err
    );
}

#[test]
fn minutes_stop_and_the_same_command_continues() {
    let dir = TestDir::new();
    let stopped = dir.reproduce("--minutes 0");
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(
        stopped.err.contains("0 of 2 cells are finished"),
        "{}",
        stopped.err
    );
    assert_eq!(dir.reproduce("").code, Some(0));
    assert_eq!(dir.runs().len(), 2);
}

/// A run that takes longer than the test is stopped by the deadline, and saved.
#[test]
fn the_deadline_ends_child_processes() {
    let dir = TestDir::new();
    let base = dir.folder.path().join("configs/table2/base.toml");
    let text = fs::read_to_string(&base).expect("text");
    fs::write(
        &base,
        text.replace("epochs = 2, max_batches = 4", "epochs = 100000"),
    )
    .expect("written");
    let stopped = dir.reproduce("--rows full --minutes 0.03");
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let summary = fs::read_to_string(dir.runs()[0].join("summary.json")).expect("a summary");
    assert_eq!(json(&summary)["status"], "interrupted");
    assert!(
        stopped.out.contains("0 of 1 cells finished"),
        "{}",
        stopped.out
    );
}

#[test]
fn a_failing_cell_is_reported() {
    let dir = TestDir::new();
    let plan = json(&dir.reproduce("--dry-run --json").out);
    assert_eq!(plan["cells"].as_array().map(Vec::len), Some(2));
    assert!(dir.runs().is_empty(), "a dry run trained");
    assert_eq!(dir.reproduce("--rows full").code, Some(0));
    // A checkpoint that is none, without the summary of its run.
    let run = &dir.runs()[0];
    fs::write(run.join("last.safetensors"), "x").expect("written");
    fs::remove_file(run.join("summary.json")).expect("removed");
    let failed = dir.reproduce("");
    assert_eq!(failed.code, Some(1), "{}", failed.err);
    assert!(
        failed.err.contains("1 of 2 cells are finished"),
        "{}",
        failed.err
    );
    assert!(
        failed.err.contains("full on demo (seed 1): "),
        "{}",
        failed.err
    );
}

/// Such a cell has no summary.
#[test]
fn the_reason_of_a_cell_that_cannot_begin_is_kept() {
    let dir = TestDir::new();
    let path = dir.folder.path().join("configs/table2/demo/full.toml");
    let text = fs::read_to_string(&path).expect("text");
    fs::write(&path, text + "\ntrain.start = \"nowhere\"").expect("written");
    for words in ["--jobs 2", ""] {
        assert_eq!(dir.reproduce(words).code, Some(1), "{words}");
        let status = dir.laq("status out");
        let report = dir.laq("report table2 --configs configs --out out");
        for text in [status.out, report.out] {
            let told = text.lines().any(|line| line.contains("nowhere"));
            assert!(told && text.contains("failed"), "{text}");
        }
    }
}

/// A digit of a summary that was changed, and a figure that is gone, come back from the checkpoint.
#[test]
fn a_changed_summary_is_written_again_from_its_checkpoint() {
    let dir = TestDir::new();
    assert_eq!(dir.reproduce("--rows full").code, Some(0));
    let path = dir.runs()[0].join("summary.json");
    let before = json(&fs::read_to_string(&path).expect("a summary"));
    for value in [Value::from(0.25), Value::Null] {
        let mut changed = before.clone();
        changed["test_loss"] = value;
        fs::write(&path, changed.to_string()).expect("written");
        let run = dir.runs()[0].display().to_string();
        for words in [
            "report table2 --configs configs --out out --rows full",
            &format!("report {run}"),
        ] {
            let report = dir.laq(words);
            let text = report.out + &report.err;
            assert!(
                text.contains("does not have the figures"),
                "{words}: {text}"
            );
        }
        assert_eq!(dir.reproduce("--rows full").code, Some(0));
        assert_eq!(json(&fs::read_to_string(&path).expect("a summary")), before);
    }
}

#[test]
fn wrong_names_are_a_wrong_command_line() {
    let dir = TestDir::new();
    for words in [
        "--rows lat_a",
        "--columns dmeo",
        "--preset shrot",
        "--seeds 0",
        "--jobs 0",
        "--minutes x",
    ] {
        assert_eq!(dir.reproduce(words).code, Some(2), "{words}");
    }
    assert!(
        dir.reproduce("--rows lat_a")
            .err
            .contains("did you mean \"lat-a\"?")
    );
    assert_eq!(dir.laq("reproduce table9").code, Some(2));
}

/// So is what only one of the kinds of a command takes.
#[test]
fn options_without_effect_are_a_wrong_command_line() {
    let dir = TestDir::new();
    fs::create_dir(dir.folder.path().join("run")).expect("a folder");
    for words in [
        "reproduce table2 --wait",
        "reproduce table2 --launcher slurm --jobs 2",
        "report table2 --page x",
        "report run --json",
        "report run --out elsewhere",
        "report run --seeds 5",
        "report run --preset short",
        "report run --rows full",
        "report run --columns demo",
        "report run --configs configs",
    ] {
        let found = dir.laq(words);
        assert_eq!(found.code, Some(2), "{words}: {}", found.err);
        let command = words.split_once(' ').map(|(command, _)| command);
        let usage = format!("Usage: laq {} ", command.unwrap_or_default());
        assert!(found.err.contains(&usage), "{words}: {}", found.err);
    }
}

/// The dry run knows times for the threads that the training has.
#[test]
fn the_variable_of_threads_holds_for_the_dry_run() {
    let dir = TestDir::new();
    let words = "reproduce table2 --configs configs --out out --device cpu --rows full";
    let one_thread = |words: &str| {
        let done = dir.laq_with(words, |command| {
            command.env("RAYON_NUM_THREADS", "1");
        });
        assert_eq!(done.code, Some(0), "{}", done.err);
        done.out
    };
    one_thread(words);
    let plan = json(&one_thread(&format!("{words} --seeds 2 --dry-run --json")));
    assert!(plan["cells"][1]["seconds_left"].is_f64(), "{plan}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_argument_that_is_no_text_is_taken() {
    use std::os::unix::ffi::OsStrExt;

    let dir = TestDir::new();
    let words = "reproduce table2 --configs configs --device cpu --minutes 0";
    let stopped = dir.laq_with(words, |command| {
        let out = std::ffi::OsStr::from_bytes(b"bad\xff");
        command.arg("--out").arg(out);
    });
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    assert!(stopped.err.contains("continues:"), "{}", stopped.err);
}

/// The configurations are part of the program.
#[test]
fn embedded_configurations_are_planned() {
    let dir = TestDir::new();
    for (table, cells) in [("table1", 15), ("table2", 20)] {
        let plan = dir.laq(&format!("reproduce {table} --dry-run --json"));
        assert_eq!(plan.code, Some(0), "{}", plan.err);
        assert_eq!(
            json(&plan.out)["cells"].as_array().map(Vec::len),
            Some(cells)
        );
    }
}

/// The report looks at all of a folder, also with the configurations of the program.
#[test]
fn other_cells_than_the_selected_ones_have_embedded_configurations() {
    let dir = TestDir::new();
    fs::create_dir_all(dir.folder.path().join("part/demo/twn-seed1-0")).expect("a folder");
    let report = dir.laq("report table2 --out part --rows full");
    assert_eq!(report.code, Some(0), "{}", report.err);
}

#[test]
fn quiet_shows_errors_alone() {
    let dir = TestDir::new();
    let done = dir.reproduce("--quiet --rows full");
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let failed = dir.reproduce("--quiet --rows nothing");
    assert!(
        failed.err.starts_with("error: there is no row"),
        "{}",
        failed.err
    );
}

#[test]
fn a_run_folder_has_a_summary_of_its_network() {
    let dir = TestDir::new();
    assert_eq!(dir.reproduce("--rows lat-a").code, Some(0));
    let run = dir.runs()[0].display().to_string();
    let of_run = dir.laq(&format!("summary {run}"));
    assert_eq!(of_run.code, Some(0), "{}", of_run.err);
    let of_file = dir.laq("summary configs/table2/demo/lat-a.toml");
    assert_eq!(of_run.out, of_file.out);
}

#[test]
fn a_configuration_comes_from_the_standard_input() {
    let dir = TestDir::new();
    let train = |arguments: &[&str]| {
        let mut command = Command::new(cargo_bin!("laq"));
        command
            .current_dir(dir.folder.path())
            .args(["train", "-", "--device", "cpu"]);
        let text = "data = { name = \"demo\", length = 50, batch = 20 }\nquantize.method = \"bwn\"\n\
                    model.hidden = 3\ntrain = { epochs = 1, max_batches = 2 }\n";
        command
            .args(arguments)
            .write_stdin(text)
            .output()
            .expect("laq starts")
            .status
            .code()
    };
    assert_eq!(train(&["--run-dir", "run"]), Some(0));
    assert!(dir.folder.path().join("run/summary.json").exists());
    assert_eq!(train(&[]), Some(2), "there is no name for a run folder");
    assert_eq!(
        train(&["--run-dir", "other", "--set", "train.epochs=2"]),
        Some(2)
    );
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let dir = TestDir::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let completions = dir.laq(&format!("completions {shell}"));
        assert_eq!(completions.code, Some(0), "{}", completions.err);
        for command in ["reproduce", "quantize", "compare-with-exact"] {
            assert!(completions.out.contains(command), "{shell}: {command}");
        }
    }
    assert!(dir.laq("man").out.contains(".TH laq 1"));
    assert_eq!(dir.laq("man --out pages").code, Some(0));
    let page = |name: &str| dir.folder.path().join("pages").join(name);
    assert!(Path::exists(&page("laq.1")) && Path::exists(&page("laq-reproduce.1")));
}

#[test]
fn nothing_is_coloured_without_a_terminal_or_with_no_color() {
    let dir = TestDir::new();
    let help = Command::new(cargo_bin!("laq"))
        .args(["reproduce", "--help"])
        .env("NO_COLOR", "1")
        .env("CLICOLOR_FORCE", "1")
        .output()
        .expect("laq starts");
    assert!(!help.stdout.contains(&0x1b));
    assert!(!dir.laq("train nothing.toml").err.contains('\u{1b}'));
}
