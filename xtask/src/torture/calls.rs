//! The n-th system call of a kind fails, or is the last one. Afterwards everything is as it was, or as it should be.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::case::Case;
use super::process::Laq;
use super::work::Work;

/// Calls that write or name files. Those that read also start the process, before there is anything to ask of it.
const CALLS: &str = "write fsync fdatasync rename unlink flock mkdir fchmod";
const ERRORS: &str = "ENOSPC EIO EDQUOT EINTR EROFS EACCES";
/// About as many as a thread makes of a kind.
const MOST_CALLS: f64 = 60.0;

pub(super) fn missing() -> Option<String> {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match strace.status() {
        Ok(status) if status.success() => None,
        Ok(_) => Some("strace may not trace".into()),
        Err(_) => Some("there is no strace".into()),
    }
}

/// A fault at one of the calls of a process.
struct Fault {
    call: &'static str,
    /// An error, or `None` to kill.
    error: Option<&'static str>,
    /// The number of the call, with a + if all later ones fail too.
    when: String,
}

impl Fault {
    fn draw(case: &Case<'_>) -> Self {
        let random = &case.random;
        let error = (!random.one_in(3)).then(|| random.word(ERRORS));
        let number = random.logarithmic(1.0, MOST_CALLS);
        let lasts = error.is_some_and(|error| error != "EINTR") && random.one_in(3);
        Self {
            call: random.word(CALLS),
            error,
            when: format!("{number}{}", if lasts { "+" } else { "" }),
        }
    }

    fn inject<'a>(&self, laq: Laq<'a>) -> Laq<'a> {
        let (call, when) = (self.call, &self.when);
        let what = self
            .error
            .map_or("signal=KILL".into(), |error| format!("error={error}"));
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:{what}:when={when}");
        let options = ["strace", "-f", "-qqq", "-o", "/dev/null"];
        laq.under(options)
            .under(["-e", &trace, "-e", &inject])
            .may_be_killed()
    }

    /// Whether it may also hit a message: calls are counted in each thread.
    fn silences(&self) -> bool {
        self.call == "write"
    }
}

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let work = Work::draw(&case.random);
    work.prepare(&case.folder)?;
    for _ in 0..1 + case.random.below(3) {
        let fault = Fault::draw(case);
        let laq = fault.inject(work.laq(case, &case.folder).argument("--quiet"));
        let mut ended = laq.run()?;
        match ended.code() {
            None => case.counts.add_kill(),
            Some(_) if fault.silences() => {}
            Some(_) => ended = ended.good_or_refused()?,
        }
        work.check(case, &case.folder, ended.is_good())?;
    }
    work.finish(case, &case.folder)
}
