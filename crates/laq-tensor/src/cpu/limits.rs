//! What the processor can do at most, measured.

use std::time::Instant;

use rayon::prelude::*;

use super::CpuBackend;
use super::gemm::repeat_tile;

/// The speeds that bound the parts of a training step, of all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Additions and multiplications in f32 per second, by the innermost loop of the product with
    /// operands in the first-level cache.
    pub operations_per_second: f64,
    /// Bytes per second between the processor and memory that is in no cache: two numbers are read for
    /// one that is written.
    pub bytes_per_second: f64,
}

/// The best of so many measurements counts.
const MEASUREMENTS: usize = 5;
/// Multiplications of a tile in a measurement: some milliseconds.
const TILES: usize = 10_000;
/// Numbers in each of two arrays, beyond most caches.
const NUMBERS: usize = 1 << 25;
/// Numbers of a task.
const CHUNK: usize = 1 << 16;

impl CpuBackend {
    /// Measures the limits of this processor on the threads of the current pool, in about a second.
    pub fn limits(&self) -> Limits {
        let threads = rayon::current_num_threads();
        let operations = |_| {
            let start = Instant::now();
            let done: f64 = (0..threads)
                .into_par_iter()
                .map(|_| repeat_tile(self.isa, TILES))
                .sum();
            done / start.elapsed().as_secs_f64()
        };
        let added = vec![1.0f32; NUMBERS];
        let mut sums = vec![0.0f32; NUMBERS];
        let mut bytes = |_| {
            let start = Instant::now();
            let chunks = sums.par_chunks_mut(CHUNK).zip(added.par_chunks(CHUNK));
            chunks.for_each(|(sums, added)| {
                for (sum, added) in sums.iter_mut().zip(added) {
                    *sum += added;
                }
            });
            (12 * NUMBERS) as f64 / start.elapsed().as_secs_f64()
        };
        Limits {
            operations_per_second: (0..MEASUREMENTS).map(operations).fold(0.0, f64::max),
            bytes_per_second: (0..MEASUREMENTS).map(&mut bytes).fold(0.0, f64::max),
        }
    }
}
