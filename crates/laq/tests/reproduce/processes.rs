//! Several processes: a reproduction and its children, and two reproductions in one folder.

use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use laq_runner::run_folder::{RunFolder, trained_by};
use laq_test_support::lines_of;
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Far longer than anything here takes, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A reproduction that goes on; killed at the end of the test.
struct Session {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    fn start(dir: &TestDir, words: &str) -> Self {
        let words = format!(
            "reproduce table2 --configs configs --out out --device cpu --threads 1 {words}"
        );
        let mut child = std::process::Command::new(cargo_bin!("laq"))
            .current_dir(dir.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(words.split_whitespace())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("laq starts");
        let lines = lines_of(child.stderr.take().expect("its errors"));
        Self { child, lines }
    }

    /// Waits for a line with `part`, and returns those before it.
    fn wait_for(&self, part: &str) -> Vec<String> {
        let deadline = Instant::now() + TIMEOUT;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return before,
                Ok(line) => before.push(line),
                Err(_) => panic!("no line with {part:?} after {before:#?}"),
            }
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().expect("its end").code()
    }
}

impl TestDir {
    /// The row `full` takes longer than any test.
    fn prolong_full(&self) {
        let path = self.folder.path().join("configs/table2/demo/full.toml");
        let text = fs::read_to_string(&path).expect("text") + "\ntrain.epochs = 1000000";
        fs::write(path, text).expect("written");
    }

    /// Waits until no process trains the only run, and returns its summary.
    fn summary_at_the_end(&self) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        while trained_by(&self.runs()[0]).is_some() {
            assert!(Instant::now() < deadline, "it trains on");
            thread::sleep(Duration::from_millis(10));
        }
        json(&fs::read_to_string(self.runs()[0].join("summary.json")).expect("a summary"))
    }
}

/// Each ends its children, and these save their runs: a request to terminate, and a kill that leaves no time for anything.
#[test]
fn children_end_with_their_parent() {
    for (signal, code) in [(Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let dir = TestDir::new();
        dir.prolong_full();
        let mut session = Session::start(&dir, "--rows full");
        session.wait_for("epoch 3/");
        assert!(trained_by(&dir.runs()[0]).is_some());
        session.send(signal);
        assert_eq!(session.code(), code);
        let summary = dir.summary_at_the_end();
        assert_eq!(summary["status"], "interrupted");
        assert!(summary["epochs_done"].as_u64() >= Some(3), "{summary}");
    }
}

/// The second of two goes on with the other cells, and with what the first leaves unfinished.
#[test]
fn two_reproductions_share_a_folder() {
    let dir = TestDir::new();
    dir.prolong_full();
    let mut first = Session::start(&dir, "--rows full");
    first.wait_for("epoch 1/");
    let begin = || {
        let second = Session::start(&dir, "");
        let name = "full on demo (seed 1) is being trained by process ";
        let before = second.wait_for(name).concat();
        assert!(
            !before.contains("[1/2]") && !before.contains("error"),
            "{before}"
        );
        second
    };
    let mut second = begin();
    let trained = second
        .wait_for("waiting for other processes to finish 1 of")
        .concat();
    assert!(trained.contains("[2/2] lat-a on demo"), "{trained}");
    second.send(Signal::INT);
    second.wait_for("interrupted; 1 of 2 cells are finished");
    assert_eq!(second.code(), Some(130));
    assert!(trained_by(&dir.runs()[0]).is_some(), "the first goes on");
    let mut second = begin();
    second.wait_for("waiting for other processes to finish 1 of");
    first.send(Signal::TERM);
    assert_eq!(first.code(), Some(130));
    second.wait_for("[1/2] full on demo");
    second.wait_for("epoch ");
    second.send(Signal::TERM);
    assert_eq!(second.code(), Some(130));
}

/// A cell that another process finishes is not trained again.
#[test]
fn a_cell_of_another_process_is_waited_for() {
    let dir = TestDir::new();
    assert_eq!(dir.reproduce("--rows full").code, Some(0));
    let run = dir.runs().remove(0);
    let finished = dir.folder.path().join("finished");
    fs::rename(&run, &finished).expect("moved");
    let held = RunFolder::open(&run).expect("a folder");
    let mut session = Session::start(&dir, "");
    session.wait_for("full on demo (seed 1) is being trained by process ");
    session.wait_for("waiting for other processes");
    for name in ["last.safetensors", "best.safetensors", "summary.json"] {
        fs::copy(finished.join(name), run.join(name)).expect("copied");
    }
    drop(held);
    assert_eq!(session.code(), Some(0));
    let after: Vec<String> = session.lines.iter().collect();
    assert_eq!(after, [""; 0], "the other has trained it");
}
