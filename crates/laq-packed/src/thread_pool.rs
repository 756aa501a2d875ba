//! Pools of threads, of a number that a machine bears.

use std::env;
use std::thread::available_parallelism;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use thiserror::Error;

/// The most threads of a pool.
pub const MAX_THREADS: usize = 1024;

/// The variable of rayon with the number of threads where none is given.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// A number of threads that cannot be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ThreadsError {
    /// No number of threads.
    #[error("found {found} threads, expected 1 to {MAX_THREADS}")]
    Number {
        /// The threads asked for.
        found: usize,
    },
    /// No number of threads in the environment.
    #[error(
        "found {VARIABLE}={found}, expected 1 to {MAX_THREADS}, or 0 for one thread per processor"
    )]
    Variable {
        /// Its value.
        found: String,
    },
    /// The system does not start them.
    #[error("cannot start {threads} threads: {source}; use fewer")]
    Start {
        /// The threads asked for.
        threads: usize,
        /// The error.
        source: ThreadPoolBuildError,
    },
}

/// The number of threads where none is given: `RAYON_NUM_THREADS`, and one per processor where that is not set or 0.
///
/// # Errors
///
/// [`ThreadsError::Variable`].
pub fn default_threads() -> Result<usize, ThreadsError> {
    match env::var_os(VARIABLE) {
        Some(found) => threads_of(&found.to_string_lossy()),
        None => Ok(processors()),
    }
}

/// The threads that the variable asks for.
fn threads_of(variable: &str) -> Result<usize, ThreadsError> {
    match variable.trim().parse() {
        Ok(0) => Ok(processors()),
        Ok(threads @ 1..=MAX_THREADS) => Ok(threads),
        _ if variable.trim().is_empty() => Ok(processors()),
        _ => Err(ThreadsError::Variable {
            found: variable.into(),
        }),
    }
}

fn processors() -> usize {
    available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
}

/// `threads`, or [`default_threads`].
pub(crate) fn thread_count(threads: Option<usize>) -> Result<usize, ThreadsError> {
    match threads {
        None => default_threads(),
        Some(threads @ 1..=MAX_THREADS) => Ok(threads),
        Some(found) => Err(ThreadsError::Number { found }),
    }
}

/// A pool of `threads` threads, or of [`default_threads`].
///
/// # Errors
///
/// [`ThreadsError`].
pub fn thread_pool(threads: Option<usize>) -> Result<ThreadPool, ThreadsError> {
    let threads = thread_count(threads)?;
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|source| ThreadsError::Start { threads, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_has_the_limits_of_the_option() {
        for (variable, threads) in [
            ("3", 3),
            (" 1024 ", 1024),
            ("0", processors()),
            ("", processors()),
        ] {
            assert_eq!(
                threads_of(variable).expect("a number"),
                threads,
                "{variable:?}"
            );
        }
        for variable in [
            "99999",
            "1025",
            "-1",
            "two",
            "1.5",
            "99999999999999999999999",
        ] {
            let error = threads_of(variable).expect_err(variable).to_string();
            assert!(
                error.contains(&format!("RAYON_NUM_THREADS={variable}")),
                "{error}"
            );
        }
        for found in [0, 1025, usize::MAX] {
            assert!(matches!(
                thread_pool(Some(found)),
                Err(ThreadsError::Number { .. })
            ));
        }
        assert_eq!(
            thread_pool(Some(3)).expect("threads").current_num_threads(),
            3
        );
    }
}
