//! Work that an interruption does not wait for.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rayon::ThreadPool;

/// How often the flag is read.
const POLL: Duration = Duration::from_millis(50);

/// Runs `work` on `pool` and returns its result; `None` as soon as `stop` is set. The work then goes on to its end with
/// what it owns, and its result is dropped.
pub(crate) fn until_stopped<T: Send + 'static>(
    pool: &ThreadPool,
    stop: &AtomicBool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = channel();
    pool.spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        // Nobody receives it after an interruption.
        let _ = sender.send(done);
    });
    loop {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        match receiver.recv_timeout(POLL) {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the work sends its result"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pool() -> ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        pool.build().expect("a thread")
    }

    #[test]
    fn the_result_is_that_of_the_work() {
        let stop = AtomicBool::new(false);
        assert_eq!(until_stopped(&pool(), &stop, || 7), Some(7));
        let panicked = catch_unwind(|| until_stopped(&pool(), &stop, || panic!("its message")));
        let message = panicked.expect_err("a panic");
        assert_eq!(message.downcast_ref(), Some(&"its message"));
    }

    /// The work ends only after the interruption has been answered.
    #[test]
    fn an_interruption_does_not_wait_for_the_work() {
        let stop = Arc::new(AtomicBool::new(false));
        let (go_on, wait) = channel::<()>();
        let (ended, end) = channel();
        let set = stop.clone();
        let pool = pool();
        let done = until_stopped(&pool, &stop, move || {
            set.store(true, Ordering::Relaxed);
            wait.recv().expect("the caller");
            ended.send(()).expect("the caller");
        });
        assert_eq!(done, None);
        drop(pool);
        go_on.send(()).expect("the work still runs");
        end.recv().expect("the work has ended");
    }
}
