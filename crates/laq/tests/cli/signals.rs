//! Signals and closed pipes.

use super::*;

/// SIGINT, SIGTERM and SIGHUP save, exit with 130, and do not change the numbers of the resumed
/// run.
#[test]
#[cfg(unix)]
fn a_signal_saves_and_the_run_resumes() {
    use rustix::process::Signal;
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "train.epochs = 12");
    run(&test_dir, &["train", "tiny.toml", "--run-dir", "whole"]);
    for (signal, epoch) in [(Signal::INT, 2), (Signal::TERM, 5), (Signal::INT, 12)] {
        let mut run = Session::start(&test_dir, &[]);
        run.reach(epoch);
        run.send(signal);
        run.ends_interrupted();
        let summary = read_summary(&test_dir.path("parts")).expect("a summary");
        assert_eq!(summary.status, Status::Interrupted);
        assert!(summary.epochs_done >= epoch);
    }
    let losses = |name: &str| {
        let records = test_dir.metrics(name).into_iter().take(12);
        records
            .map(|record| (record.epoch, record.train_loss, record.validation_loss))
            .collect::<Vec<_>>()
    };
    assert_eq!(losses("whole"), losses("parts"));
}

#[test]
#[cfg(target_os = "linux")]
fn an_ignored_hang_up_stays_ignored() {
    use rustix::process::Signal;
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let mut run = Session::start(&test_dir, &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]);
    let epoch = run.reach(1);
    run.send(Signal::HUP);
    run.reach(epoch + 20);
    run.send(Signal::INT);
    run.ends_interrupted();
}

/// A closed pipe of the output changes neither the run nor its exit code.
#[test]
#[cfg(unix)]
fn closed_pipes_do_not_stop_a_run() {
    let test_dir = TestDir::new();
    test_dir.file("lat-a", "");
    let mut run = Session::start(&test_dir, &[]);
    drop(run.child.stdout.take());
    let epoch = run.reach(1);
    // The thread that reads ends with its receiver, and closes its end of the pipe.
    run.lines = mpsc::channel().1;
    let deadline = Instant::now() + TIMEOUT;
    while read_summary(&test_dir.path("parts"))
        .is_none_or(|summary| summary.epochs_done < epoch + 20)
    {
        assert!(Instant::now() < deadline, "the run stands still");
        thread::sleep(Duration::from_millis(10));
    }
    run.send(rustix::process::Signal::INT);
    assert_eq!(run.child.wait().expect("its end").code(), Some(130));
    let summary = read_summary(&test_dir.path("parts")).expect("a summary");
    assert_eq!(summary.status, Status::Interrupted);
}

/// Far longer than a run needs for its next line, even on a busy machine.
#[cfg(unix)]
const TIMEOUT: Duration = Duration::from_secs(120);

/// A process that trains the run `parts`; killed at the end of the test.
#[cfg(unix)]
struct Session {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

#[cfg(unix)]
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
impl Session {
    /// Starts or resumes the run, with `prefix` before the command. It has more epochs than any
    /// test needs.
    fn start(test_dir: &TestDir, prefix: &[&str]) -> Self {
        let laq = cargo_bin!("laq").to_str().expect("a path");
        let train = "train tiny.toml --run-dir parts --resume --set train.epochs=5000";
        let words: Vec<&str> = [prefix, &[laq][..]]
            .concat()
            .into_iter()
            .chain(train.split(' '))
            .collect();
        let mut child = std::process::Command::new(words[0])
            .current_dir(test_dir.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(&words[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("laq runs");
        let lines = lines_of(child.stderr.take().expect("its errors"));
        Self { child, lines }
    }

    /// Waits until `epoch` or a later one is done, and returns it.
    fn reach(&self, epoch: u32) -> u32 {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("a run that goes on");
            let done = line
                .strip_prefix("epoch ")
                .and_then(|line| line.split_once('/'));
            if let Some(done) = done
                .and_then(|(done, _)| done.parse().ok())
                .filter(|&done| done >= epoch)
            {
                return done;
            }
        }
    }

    fn send(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("a signal");
    }

    /// It logs that it stops, saves, and prints the command that resumes.
    fn ends_interrupted(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .expect("a line about stopping");
            if line.starts_with("stopping: ") {
                break;
            }
        }
        let mut text = String::new();
        let mut output = self.child.stdout.take().expect("its output");
        output.read_to_string(&mut text).expect("text");
        assert_eq!(self.child.wait().expect("its end").code(), Some(130));
        assert!(
            text.contains("interrupted and saved in parts") && text.contains("resume with: "),
            "{text}"
        );
        assert!(
            text.contains(" train tiny.toml --run-dir parts --resume --set 'train.epochs=5000'"),
            "{text}"
        );
    }
}
