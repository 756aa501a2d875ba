//! Threads, kernels of the processor and interruptions do not change the bits of a result.

use anyhow::Result;
use rustix::process::Signal;

use super::case::Case;
use super::figures::compare;
use super::work::Work;

/// Of `LAQ_KERNEL`; a processor may lack some.
const KERNELS: [&str; 4] = ["portable", "avx2", "avx512", "neon"];

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    let has = |kernel: &&str| {
        let ended = case
            .laq("methods --quiet")
            .variable("LAQ_KERNEL", *kernel)
            .run();
        ended.is_ok_and(|ended| ended.is_good())
    };
    let kernels: Vec<&str> = KERNELS.into_iter().filter(has).collect();
    let kernel = random.pick(&kernels);
    let work = Work::any(random);
    let folders = [case.path("one"), case.path("several")];
    for folder in &folders {
        std::fs::create_dir(folder)?;
        work.prepare(folder)?;
    }
    let laq = |folder: usize, threads: usize| {
        let laq = work.laq(case, &folders[folder]).threads(threads);
        laq.variable("LAQ_KERNEL", kernel)
    };
    let whole = laq(0, 1).run()?.good()?;
    let instant = whole.time.mul_f64(random.uniform());
    laq(1, 1 + random.below(8))
        .run_until(Signal::KILL, instant)?
        .stopped()?;
    laq(1, 1 + random.below(8)).run()?.good()?;
    compare(&work.outcome(&folders[0])?, &work.outcome(&folders[1])?)
}
