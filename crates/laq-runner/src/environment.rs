//! The machine and the build of a run.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::TRAINING_VERSION;

/// `environment.json`: of the last session of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The commit of the build, with `-dirty` for uncommitted changes; `unknown` outside of a
    /// checkout of this project.
    pub commit: String,
    /// The version of this crate.
    pub laq: String,
    /// See [`TRAINING_VERSION`].
    pub training_version: u32,
    /// The processor's name, or `unknown`.
    pub cpu: String,
    /// The matrix kernel used.
    pub kernel: String,
    /// Threads used.
    pub threads: usize,
    /// Operating system and architecture.
    pub os: String,
    /// The start of the session, UTC.
    pub date: String,
    /// Algorithms selected and fallbacks taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn detect(kernel: &str, threads: usize) -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            commit: commit().into(),
            laq: env!("CARGO_PKG_VERSION").into(),
            training_version: TRAINING_VERSION,
            cpu: cpu(),
            kernel: kernel.into(),
            threads,
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            date: date(since.as_secs()),
            notes: Vec::new(),
        }
    }
}

/// See [`Environment::commit`].
#[must_use]
pub fn commit() -> &'static str {
    env!("LAQ_COMMIT")
}

/// The name of the processor; Linux only, otherwise `unknown`.
#[must_use]
pub fn cpu() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into())
}

/// The peak resident memory of this process; Linux only.
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let peak = field("/proc/self/status", "VmHWM")?;
    let kibibytes: u64 = peak.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The value of the first line "name : value".
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim().to_string())
}

/// `2026-11-23T18:30:00Z` for seconds since 1970.
fn date(seconds: u64) -> String {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        days + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // `date -u -d @N +%FT%TZ`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_reports_memory() {
        let peak = peak_memory_bytes().expect("VmHWM");
        let all = laq_packed::available_memory().expect("MemTotal").bytes;
        assert!(peak > 100_000 && peak < all);
    }
}
