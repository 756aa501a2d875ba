//! Less address space than a command wants: it is refused, and leaves everything as it was.

use anyhow::Result;

use super::case::Case;
use super::work::Work;

/// In kB: what no command starts with, and what all have enough of.
const LIMITS: [f64; 2] = [25e3, 300e3];
/// Rows of a matrix of 8 MB.
const ROWS: usize = 8192;

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    let limit = format!("-v {}", random.logarithmic(LIMITS[0], LIMITS[1]));
    // Where this fails there is no room for the program itself.
    let starts = case.laq("--version").limited(&limit).may_be_killed().run();
    if !starts.is_ok_and(|ended| ended.is_good()) {
        return Ok(());
    }
    let work = match random.one_in(2) {
        true => Work::quantize(random, ROWS),
        false => Work::draw(random),
    };
    work.prepare(&case.folder)?;
    let laq = work.laq(case, &case.folder).threads(1 + random.below(2));
    let ended = laq.limited(&limit).run()?.good_or_refused()?;
    work.check(case, &case.folder, ended.is_good())?;
    work.finish(case, &case.folder)
}
