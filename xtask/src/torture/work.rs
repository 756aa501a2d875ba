//! What is attacked: a training or a quantization that takes a fraction of a second, and what must come of it.

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use super::case::{Case, Reference, ensure, read, write};
use super::figures::{Figures, compare, no_leftovers, of_file, of_run};
use super::process::Laq;
use super::random::Random;
use super::samples;

/// The result of a quantization, and what the file has before.
pub(crate) const OUT: &str = "out.safetensors";
pub(crate) const OLD: &[u8] = b"an older result";
/// The folder of a training.
pub(crate) const RUN: &str = "run";

/// Methods without and with trained scales, exact and alternating.
const METHODS: &str =
    "full binaryconnect bwn lab twn ttq lat-a lat-e lat2-a laq-linear-3 laq-log-4-e dorefa-2";

/// A command with its inputs.
pub(crate) struct Work {
    command: String,
    inputs: Vec<(&'static str, Vec<u8>)>,
    trains: bool,
}

impl Work {
    /// One of a few, so that their undisturbed outcomes are soon known.
    pub(crate) fn draw(random: &Random) -> Self {
        if random.one_in(3) {
            return Self::quantize(random, 192);
        }
        let data = random.word("file file demo demo-digits");
        let method = random.word("lat-a lat-e ttq");
        Self::train(data, method, 1 + random.next() % 2, "")
    }

    /// One of many.
    pub(crate) fn any(random: &Random) -> Self {
        if random.one_in(3) {
            return Self::quantize(random, 1 + random.below(300));
        }
        let data = random.word("file demo demo-digits");
        let method = random.word(METHODS);
        let granularity = match random.word("tensor gate row block:5") {
            granularity if method != "full" && data != "demo-digits" => {
                format!("granularity = '{granularity}'")
            }
            _ => String::new(),
        };
        Self::train(data, method, random.next() % 1000, &granularity)
    }

    /// Trains on `data` by `method`, with `more` keys of `quantize`.
    pub(crate) fn train(data: &str, method: &str, seed: u64, more: &str) -> Self {
        let (data, model) = match data {
            "file" => (
                "name = 'file', path = 'text.txt', length = 10, batch = 4",
                "hidden = 6",
            ),
            "demo" => ("name = 'demo', length = 20, batch = 8", "hidden = 4"),
            _ => (
                "name = 'demo-digits', batch = 16",
                "kind = 'feedforward', units = [6]",
            ),
        };
        let toml = format!(
            "data = {{ {data} }}\nmodel = {{ {model} }}\ncheckpoint.minutes = 0\n\
             train = {{ epochs = 3, max_batches = 6, learning_rate = 0.02, seed = {seed} }}\n\
             [quantize]\nmethod = '{method}'\n{more}\n"
        );
        Self {
            command: format!("train tiny.toml --run-dir {RUN} --resume --device cpu"),
            inputs: vec![
                ("tiny.toml", toml.into()),
                ("text.txt", samples::text().into()),
            ],
            trains: true,
        }
    }

    /// Quantizes a matrix of `rows` rows, and a small one.
    pub(crate) fn quantize(random: &Random, rows: usize) -> Self {
        let method = random.word("lat-e laq-linear-4-e lat-a");
        let granularity = random.word("tensor row block:32");
        let options = format!("--method {method} --granularity {granularity}");
        Self {
            command: format!("quantize weights.safetensors {options} --out {OUT}"),
            inputs: vec![
                (
                    "weights.safetensors",
                    samples::safetensors(1, rows, |weight| weight),
                ),
                (OUT, OLD.into()),
            ],
            trains: false,
        }
    }

    pub(crate) fn prepare(&self, folder: &Path) -> Result<()> {
        (self.inputs.iter()).try_for_each(|(name, content)| write(&folder.join(name), content))
    }

    pub(crate) fn laq<'a>(&self, case: &'a Case<'a>, folder: &Path) -> Laq<'a> {
        Laq::new(case, folder, &self.command)
    }

    /// Where nothing has disturbed it.
    pub(crate) fn reference(&self, case: &Case<'_>) -> Result<Rc<Reference>> {
        case.reference((&self.command, &self.inputs), |folder| {
            self.prepare(folder)?;
            self.laq(case, folder).run()?.good().map(drop)
        })
    }

    /// What has come of it in `folder`.
    pub(crate) fn outcome(&self, folder: &Path) -> Result<Figures> {
        match self.trains {
            true => of_run(&folder.join(RUN)),
            false => of_file(&folder.join(OUT)),
        }
    }

    /// What a disturbed command has left: of a file the old content or, always after success, the new one.
    pub(crate) fn check(&self, case: &Case<'_>, folder: &Path, is_good: bool) -> Result<()> {
        if self.trains {
            return Ok(());
        }
        let out = folder.join(OUT);
        let is_old = read(&out)? == OLD;
        ensure(!(is_old && is_good), "a new file after success", || {
            "the old one".into()
        })?;
        if !is_old {
            compare(
                &self.outcome(&self.reference(case)?.folder)?,
                &self.outcome(folder)?,
            )?;
        }
        write(&out, OLD)
    }

    /// Does what is left to do, undisturbed, and compares the outcome.
    pub(crate) fn finish(&self, case: &Case<'_>, folder: &Path) -> Result<()> {
        self.laq(case, folder).run()?.good()?;
        no_leftovers(folder)?;
        compare(
            &self.outcome(&self.reference(case)?.folder)?,
            &self.outcome(folder)?,
        )
    }
}
