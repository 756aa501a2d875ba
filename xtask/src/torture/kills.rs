//! Signals at random instants. A run that is resumed has the bits of one that was never stopped; a file that is replaced has
//! its old content or the new one.

use anyhow::Result;
use rustix::process::Signal;

use super::case::Case;
use super::work::Work;

const SIGNALS: [Signal; 4] = [Signal::KILL, Signal::KILL, Signal::TERM, Signal::INT];

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    let work = Work::draw(random);
    let whole = work.reference(case)?.time;
    work.prepare(&case.folder)?;
    for _ in 0..1 + random.below(6) {
        let instant = whole.mul_f64(random.uniform());
        let laq = work.laq(case, &case.folder).threads(1 + random.below(3));
        let ended = laq.run_until(random.pick(&SIGNALS), instant)?.stopped()?;
        work.check(case, &case.folder, ended.is_good())?;
    }
    work.finish(case, &case.folder)
}
