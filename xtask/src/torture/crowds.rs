//! Several processes in one folder at once.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::case::{Case, ensure, read, write};
use super::figures::{compare, no_leftovers, of_json};
use super::process::{Ended, LOCKED, Laq, Running};
use super::work::Work;

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    match case.random.one_in(3) {
        true => reproduce(case),
        false => work(case),
    }
}

/// Starts several of a command, shortly after each other, and waits for all.
fn crowd<'a>(case: &Case<'_>, laq: impl Fn() -> Laq<'a>) -> Result<Vec<Ended>> {
    let random = &case.random;
    let mut running: Vec<Running<'_>> = Vec::new();
    for _ in 0..2 + random.below(3) {
        thread::sleep(Duration::from_millis(random.below(3) as u64 * 30));
        running.push(laq().start()?);
    }
    running
        .into_iter()
        .map(|running| running.end(None))
        .collect()
}

/// A run is trained by one, and a file is written by all.
fn work(case: &Case<'_>) -> Result<()> {
    let work = Work::draw(&case.random);
    work.prepare(&case.folder)?;
    let mut done = 0;
    for ended in crowd(case, || work.laq(case, &case.folder).threads(1))? {
        match ended.code() {
            Some(LOCKED) => ended.refused()?,
            _ => ended.good().inspect(|_| done += 1)?,
        };
    }
    ensure(done > 0, "one that does the work", || "none".into())?;
    work.check(case, &case.folder, true)?;
    work.finish(case, &case.folder)
}

/// Two cells of a table on the embedded text.
fn reproduce(case: &Case<'_>) -> Result<()> {
    const REPRODUCE: &str =
        "reproduce table2 --configs configs --out out --device cpu --threads 1 --json";
    let prepare = |folder: &Path| {
        let put = |name: &str, text: &str| {
            let path = folder.join("configs").join(name);
            fs::create_dir_all(path.parent().expect("a folder"))?;
            write(&path, text)
        };
        put(
            "paper_tables.toml",
            "status = 'invented'\n[table2]\ncaption = 'Test cross-entropy'\ncolumns = ['demo']\n\
             rows = { full = [1.0], lat-a = [2.0] }",
        )?;
        put(
            "table2/base.toml",
            "model = { kind = 'char-lstm', hidden = 4 }\ndata = { name = 'demo', length = 20, batch = 8 }\n\
             train = { epochs = 2, max_batches = 4, learning_rate = 0.02 }",
        )?;
        for row in ["full", "lat-a"] {
            let text = format!("extends = '../base.toml'\nquantize.method = '{row}'");
            put(&format!("table2/demo/{row}.toml"), &text)?;
        }
        put("table2/presets/paper.toml", "[train]\nepochs = 200")?;
        put("table2/presets/demo.toml", "")
    };
    let reference = case.reference(REPRODUCE, |folder| {
        prepare(folder)?;
        let ended = Laq::new(case, folder, REPRODUCE).run()?.good()?;
        write(&folder.join("figures.json"), ended.out)
    })?;
    prepare(&case.folder)?;
    for ended in crowd(case, || case.laq(REPRODUCE))? {
        ended.good()?;
    }
    let found = of_json("output", &case.laq(REPRODUCE).run()?.good()?.out)?;
    let expected = read(&reference.folder.join("figures.json"))?;
    compare(
        &of_json("output", &String::from_utf8_lossy(&expected))?,
        &found,
    )?;
    no_leftovers(&case.folder)
}
