//! `laq reproduce --launcher slurm` on a real Slurm of one node, with the binary and networks that train
//! in seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use laq_test_support::{Capability, skip};
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than any state lasts here.
const PATIENCE: Duration = Duration::from_secs(300);

/// A Slurm of one node, and a folder with configurations.
struct Cluster {
    folder: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.script("stop");
    }
}

/// A cluster whose cells take `epochs` epochs; none where it cannot be started.
fn cluster(epochs: u32) -> Option<Cluster> {
    let programs = ["slurmctld", "slurmd", "munged", "sbatch"];
    let missing = programs.iter().find(|program| !is_installed(program));
    if let Some(program) = missing {
        skip(Capability::Slurm, &format!("no {program}"));
        return None;
    }
    let id = Command::new("id").arg("-u").output().expect("id starts");
    if id.stdout != b"0\n" {
        skip(Capability::Slurm, "only root can start it");
        return None;
    }
    let cluster = Cluster {
        folder: TempDir::new().expect("a folder"),
    };
    let started = cluster.script("start");
    assert!(
        started.status.success(),
        "{}",
        String::from_utf8_lossy(&started.stderr)
    );
    configure(cluster.folder.path(), epochs);
    Some(cluster)
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).exists())
}

/// Writes configurations of cells that take `epochs` epochs.
fn configure(folder: &Path, epochs: u32) {
    let file = |name: &str, text: &str| {
        let path = folder.join("configs").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    file(
        "paper_tables.toml",
        "status = \"invented\"\n[table2]\ncaption = \"Test cross-entropy\"\ncolumns = [\"demo\"]\n\
         rows = { full = [1.0], lat-a = [2.0], twn = [2.0] }",
    );
    file(
        "table2/base.toml",
        &format!(
            "model = {{ kind = \"char-lstm\", hidden = 4 }}\n\
             data = {{ name = \"demo\", length = 50, batch = 20 }}\n\
             train = {{ epochs = {epochs}, max_batches = 4, learning_rate = 0.02 }}"
        ),
    );
    for row in ["full", "lat-a"] {
        let text = format!("extends = \"../base.toml\"\nquantize.method = \"{row}\"");
        file(&format!("table2/demo/{row}.toml"), &text);
    }
    let missing = "extends = \"../base.toml\"\nquantize.method = \"twn\"\n\
                   data.name = \"file\"\ndata.path = \"missing.txt\"";
    file("table2/demo/twn.toml", missing);
    file("table2/presets/demo.toml", "");
    file("table2/presets/paper.toml", "[train]\nepochs = 200");
    file("launcher.toml", "[launcher.slurm]\npartition = \"test\"");
}

impl Cluster {
    fn script(&self, command: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh");
        let mut script = Command::new(script);
        script.arg(command).arg(self.path("slurm"));
        script.output().expect("bash starts")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program with this Slurm. Returns the exit code and both streams.
    fn run(&self, program: &Path, words: &str) -> (Option<i32>, String) {
        let output = Command::new(program)
            .current_dir(self.folder.path())
            .env("SLURM_CONF", self.path("slurm/slurm.conf"))
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(words.split_whitespace())
            .output()
            .expect("the program starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn reproduce(&self, words: &str) -> (Option<i32>, String) {
        let words = format!(
            "reproduce table2 --configs configs --out out --device cpu --launcher slurm {words}"
        );
        self.run(cargo_bin!("laq"), &words)
    }

    /// A command of Slurm, which succeeds.
    fn slurm(&self, words: &str) -> String {
        let (program, words) = words.split_once(' ').expect("arguments");
        let (code, text) = self.run(Path::new(program), words);
        assert_eq!(code, Some(0), "{program} {words}: {text}");
        text
    }

    /// The state of a cell of `laq status`.
    fn cell(&self, row: &str) -> Value {
        let (_, text) = self.run(cargo_bin!("laq"), "status out --json");
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        let cells = status["cells"].as_array().cloned().unwrap_or_default();
        let name = format!("{row} on demo (seed 1)");
        let mut cells = cells.into_iter();
        cells.find(|cell| cell["name"] == *name).unwrap_or_default()
    }

    /// Waits until `is_so` holds for a cell.
    fn wait_for(&self, row: &str, what: &str, is_so: impl Fn(&Value) -> bool) {
        let begin = Instant::now();
        while !is_so(&self.cell(row)) {
            self.start_tasks();
            let late = begin.elapsed() > PATIENCE;
            assert!(
                !late,
                "{row} is not {what}: {}\n{}",
                self.cell(row),
                self.logs()
            );
            sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_state(&self, row: &str, state: &str) {
        self.wait_for(row, state, |cell| cell["state"] == state);
    }

    /// Waits until a task is past its third epoch.
    fn wait_for_training(&self, row: &str) {
        self.wait_for(row, "in training", |cell| {
            cell["state"] == "running" && cell["epochs_done"].as_u64() >= Some(3)
        });
    }

    /// The queue and the logs, for the message of a failure.
    fn logs(&self) -> String {
        let log =
            |index: usize| fs::read_to_string(self.path(&format!("out/slurm/1/logs/{index}.log")));
        let logs: String = (0..3).filter_map(|index| log(index).ok()).collect();
        self.slurm("squeue --noheader --states=all --format=%F_%K:%T:%r") + &logs
    }

    /// Starts tasks that were queued again soon, and not after Slurm's two minutes. The node needs a
    /// moment to end the old one: a task that starts before fails without a word.
    fn start_tasks(&self) {
        let queue = self.slurm("squeue --noheader --array --format=%F_%K:%T:%r");
        for line in queue.lines() {
            if let Some(task) = line.trim().strip_suffix(":PENDING:BeginTime") {
                sleep(Duration::from_secs(3));
                // It may have started meanwhile.
                let words = format!("update jobid={task} starttime=now");
                self.run(Path::new("scontrol"), &words);
            }
        }
    }

    /// Brings a node up, unless it has come back by itself.
    fn resume(&self, host: &str) {
        let begin = Instant::now();
        let is_down = || self.slurm("sinfo --noheader --format=%T").contains("down");
        while is_down() {
            assert!(begin.elapsed() < PATIENCE, "{}", self.slurm("sinfo"));
            let words = format!("update nodename={host} state=resume");
            self.run(Path::new("scontrol"), &words);
            sleep(Duration::from_millis(100));
        }
    }

    /// The losses of every epoch of a run.
    fn losses(&self, folder: &str, row: &str) -> Vec<[Value; 2]> {
        let column = self.path(folder).join("demo");
        let mut entries = fs::read_dir(column).expect("the column").flatten();
        let run = entries.find(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(&format!("{row}-seed1"))
        });
        let metrics = run.expect("the run").path().join("metrics.jsonl");
        let text = fs::read_to_string(metrics).expect("the metrics");
        let epoch = |line: &str| -> [Value; 2] {
            let record: Value = serde_json::from_str(line).expect("JSON");
            ["train_loss", "validation_loss"].map(|name| record[name].clone())
        };
        text.lines().map(epoch).collect()
    }
}

#[test]
fn a_table_is_trained_as_an_array_and_reported() {
    let Some(cluster) = cluster(2) else { return };
    let (code, text) = cluster.reproduce("--rows full,lat-a --dry-run --array-limit 1");
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "--array=0-1%1",
        "--partition=test",
        "task 1: lat-a on demo (seed 1)",
        "afterany:JOB",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(!cluster.path("out").exists());
    let (code, text) = cluster.reproduce("--rows full,lat-a --wait");
    assert_eq!(code, Some(0), "{text}");
    for row in ["full", "lat-a"] {
        assert_eq!(cluster.cell(row)["state"], "finished");
    }
    let report = cluster.path("out/report/table2.md");
    let begin = Instant::now();
    while !report.exists() {
        assert!(begin.elapsed() < PATIENCE, "no report");
        sleep(Duration::from_millis(100));
    }
    let (code, text) = cluster.reproduce("--rows full,lat-a");
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("2 finished, 0 in the queue, 0 to submit"),
        "{text}"
    );
}

/// A signal before the time is over, and the failure of the node: the bits are those of a run that was
/// never interrupted.
#[test]
fn a_stopped_task_is_queued_again_and_ends_with_the_same_bits() {
    let Some(cluster) = cluster(400) else { return };
    let (code, text) = cluster.reproduce("--rows lat-a");
    assert_eq!(code, Some(0), "{text}");
    cluster.wait_for_training("lat-a");
    let (_, text) = cluster.reproduce("--rows full,lat-a");
    assert!(text.contains("1 in the queue, 1 to submit"), "{text}");
    cluster.slurm("scancel --signal=TERM --batch 1_0");
    cluster.wait_for_state("lat-a", "interrupted");
    cluster.wait_for_training("lat-a");
    let host = cluster.cell("lat-a")["running"]["host"].clone();
    let host = host.as_str().expect("the node");
    cluster.slurm(&format!(
        "scontrol update nodename={host} state=down reason=test"
    ));
    cluster.wait_for("lat-a", "stopped", |cell| cell["state"] != "running");
    cluster.resume(host);
    for row in ["lat-a", "full"] {
        cluster.wait_for_state(row, "finished");
    }
    let words =
        "reproduce table2 --configs configs --out local --device cpu --threads 1 --rows lat-a";
    let (code, text) = cluster.run(cargo_bin!("laq"), words);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        cluster.losses("out", "lat-a"),
        cluster.losses("local", "lat-a")
    );
}

#[test]
fn a_cell_that_fails_leaves_the_others_alone() {
    let Some(cluster) = cluster(2) else { return };
    let (code, text) = cluster.reproduce("--wait");
    assert_eq!(code, Some(1), "{text}");
    for row in ["full", "lat-a"] {
        assert_eq!(cluster.cell(row)["state"], "finished", "{}", cluster.logs());
    }
    let failed = cluster.cell("twn");
    assert_eq!(failed["state"], "failed", "{}", cluster.logs());
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains("missing.txt"), "{reason}");
    let words = "report table2 --configs configs --out out";
    let (_, report) = cluster.run(cargo_bin!("laq"), words);
    let mut notes = report.lines().filter(|line| line.contains("failed: "));
    assert!(notes.any(|note| note.contains("missing.txt")), "{report}");
}

#[test]
fn cancelled_tasks_are_saved_and_do_not_come_back() {
    let Some(cluster) = cluster(100_000) else {
        return;
    };
    let (code, text) = cluster.reproduce("--rows full,lat-a");
    assert_eq!(code, Some(0), "{text}");
    cluster.wait_for_training("lat-a");
    let (code, text) = cluster.reproduce("--cancel");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("cancelled: job 1, job 2"), "{text}");
    for row in ["full", "lat-a"] {
        cluster.wait_for_state(row, "interrupted");
    }
    let begin = Instant::now();
    while !cluster.slurm("squeue --noheader").is_empty() {
        assert!(
            begin.elapsed() < PATIENCE,
            "{}",
            cluster.slurm("squeue --noheader")
        );
        sleep(Duration::from_millis(100));
    }
    let (_, text) = cluster.reproduce("--cancel");
    assert!(text.contains("nothing of out is in the queue"), "{text}");
}

/// Scripts in place of Slurm's commands, and configurations.
#[cfg(unix)]
struct Scripts {
    folder: TempDir,
}

#[cfg(unix)]
impl Scripts {
    /// Jobs are numbered; the files `jobs`, `tasks` and `code` are what squeue prints, and how scancel ends.
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;

        let scripts = Self {
            folder: TempDir::new().expect("a folder"),
        };
        configure(scripts.folder.path(), 2);
        for (name, text) in [
            ("sbatch", "echo \"$*\" >> words; wc -l < words"),
            (
                "squeue",
                "case \"$*\" in *--array*) cat tasks ;; *) cat jobs ;; esac",
            ),
            ("scancel", "exit $(cat code)"),
        ] {
            let path = format!("bin/{name}");
            scripts.write(&path, &format!("#!/bin/sh\n{text}\n"));
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(scripts.path(&path), mode).expect("a mode");
        }
        scripts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    fn reproduce(&self, out: impl AsRef<std::ffi::OsStr>, words: &str) -> (Option<i32>, String) {
        let paths = std::env::var("PATH").expect("programs");
        let output = Command::new(cargo_bin!("laq"))
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{paths}", self.path("bin").display()))
            .args("reproduce table2 --configs configs --device cpu --launcher slurm".split(' '))
            .args(words.split_whitespace())
            .arg("--out")
            .arg(out)
            .output()
            .expect("laq starts");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code(), text)
    }
}

#[cfg(unix)]
#[test]
fn what_is_in_the_queue_is_counted_waited_for_and_cancelled() {
    let scripts = Scripts::new();
    let (code, text) = scripts.reproduce("out", "--rows full");
    assert_eq!(code, Some(0), "{text}");
    let both = "--rows full,lat-a";
    let dry = format!("{both} --dry-run");
    let (_, text) = scripts.reproduce("out", &dry);
    assert!(text.contains("the queue is unknown, 2 to submit"), "{text}");
    scripts.write("tasks", "1 0\n");
    let (code, text) = scripts.reproduce("out", &dry);
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "1 in the queue, 1 to submit",
        "--dependency=afterany:1:JOB",
        "out/slurm/2/task.sh:",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(!scripts.path("out/slurm/2").exists());
    let (code, text) = scripts.reproduce("out", both);
    assert_eq!(code, Some(0), "{text}");
    let words = fs::read_to_string(scripts.path("words")).expect("the words of sbatch");
    assert!(words.contains("--dependency=afterany:1:3 "), "{words}");

    scripts.write("tasks", "1 0\n3 0\n");
    scripts.write("jobs", "1\n2\n3\n4\n");
    scripts.write("code", "1");
    let (code, text) = scripts.reproduce("out", "--cancel");
    assert_eq!(code, Some(1), "{text}");
    let (_, text) = scripts.reproduce("out", both);
    assert!(text.contains("2 in the queue, 0 to submit"), "{text}");
    let (code, text) = scripts.reproduce("out", "--cancel --rows full");
    assert_eq!(code, Some(2), "{text}");
    scripts.write("code", "0");
    let (_, text) = scripts.reproduce("out", "--cancel");
    assert!(
        text.contains("cancelled: job 1, job 2, job 3, job 4"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn paths_reach_slurm_as_they_are_or_are_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let scripts = Scripts::new();
    let (code, text) = scripts.reproduce("a $b's 50%j", "--rows full");
    assert_eq!(code, Some(0), "{text}");
    let words = fs::read_to_string(scripts.path("words")).expect("the words of sbatch");
    let output = format!(
        "--output={}/a $b's 50%%j/slurm/1/",
        scripts.folder.path().display()
    );
    for name in ["logs/%a.log", "report.log"] {
        assert!(words.contains(&format!("{output}{name}")), "{words}");
    }
    let status = text.split('`').nth(1).expect("a command");
    let status = shlex::split(status).expect("words of a shell");
    assert_eq!(status, ["laq", "status", "a $b's 50%j"]);

    for bad in [&b"new\nline"[..], b"back\\slash", b"byte\xff"] {
        let out = OsStr::from_bytes(bad);
        for words in ["--dry-run", ""] {
            let (code, text) = scripts.reproduce(out, words);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("use another folder"), "{text}");
            assert!(!scripts.folder.path().join(out).exists(), "{out:?}");
        }
    }
    fs::create_dir(scripts.path("empty")).expect("a folder");
    let (code, text) = scripts.reproduce("empty", "--dry-run");
    assert_eq!(code, Some(0), "{text}");
    assert!(scripts.path("empty").exists());
}

#[test]
fn without_slurm_the_message_says_what_is_missing() {
    let folder = TempDir::new().expect("a folder");
    let output = Command::new(cargo_bin!("laq"))
        .current_dir(folder.path())
        .env("PATH", folder.path())
        .args([
            "reproduce",
            "table2",
            "--rows",
            "full",
            "--launcher",
            "slurm",
            "--device",
            "cpu",
        ])
        .output()
        .expect("laq starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("cannot start sbatch") && text.contains("login node"),
        "{text}"
    );
    let words = ["reproduce", "table2", "--partition", "a", "--dry-run"];
    let output = Command::new(cargo_bin!("laq"))
        .args(words)
        .output()
        .expect("laq starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--launcher slurm"));
}
