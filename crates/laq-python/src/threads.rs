//! Pools of threads.

use std::collections::BTreeMap;
use std::mem;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use laq_packed::{MAX_THREADS, default_threads, thread_pool};
use pyo3::PyResult;
use rayon::ThreadPool;

use crate::errors::value;

/// The most pools that are kept.
const MAX_POOLS: usize = 4;

/// The pools of this process, by their number of threads.
///
/// A child process that was forked has none of the threads of its parent, so that work would wait for ever in
/// rayon's global pool, or in one of these. The lock is taken with that of the interpreter held, as a fork in
/// Python is, so that no fork finds it locked.
static POOLS: Mutex<(u32, BTreeMap<usize, Arc<ThreadPool>>)> = Mutex::new((0, BTreeMap::new()));

/// The pool with this number of threads; `None` for one per processor.
pub(crate) fn pool(threads: Option<i64>) -> PyResult<Arc<ThreadPool>> {
    let count = match threads {
        None => default_threads().map_err(value)?,
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|count| (1..=MAX_THREADS).contains(count))
            .ok_or_else(|| {
                value(format!(
                    "found threads={count}, expected 1 to {MAX_THREADS}"
                ))
            })?,
    };
    let mut guard = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let (process, pools) = &mut *guard;
    if *process != process::id() {
        // Their threads do not exist here.
        mem::forget(mem::take(pools));
        *process = process::id();
    }
    if let Some(pool) = pools.get(&count) {
        return Ok(pool.clone());
    }
    if pools.len() == MAX_POOLS {
        pools.pop_last();
    }
    let pool = Arc::new(thread_pool(Some(count)).map_err(value)?);
    pools.insert(count, pool.clone());
    Ok(pool)
}
