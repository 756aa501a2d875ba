//! Experiments drawn at random, with values that are right, nearly right and absurd.

use anyhow::Result;

use super::case::{Case, ensure};
use super::random::Random;
use super::samples;

/// Keys, each with allowed values.
const KEYS: &[(&str, &str)] = &[
    ("title", "'a title'|''"),
    ("model.kind", "'char-lstm'|'feedforward'"),
    ("model.hidden", "1|3|8"),
    ("model.forget_bias", "0.5|-1"),
    ("model.init_range", "0.08|0"),
    ("model.output_std", "0.01"),
    ("model.gate_clip", "5.0|1e-3"),
    ("model.units", "[]|[4]|[3, 2]"),
    ("model.filters", "[]|[2]"),
    ("model.batch_norm", "true|false"),
    ("model.loss", "'squared-hinge'|'cross-entropy'"),
    ("data.name", "'file'|'demo'|'demo-digits'|'mnist'"),
    ("data.path", "'text.txt'"),
    ("data.train_fraction", "0.5|0.8"),
    ("data.validation_fraction", "0.1|0.05"),
    ("data.length", "5|10"),
    ("data.batch", "1|4"),
    ("data.preprocessing", "'none'|'mean-image'"),
    (
        "quantize.method",
        "'lat-a'|'lab'|'laq-linear-3-e'|'ttq'|'full'|'absmax-4'",
    ),
    ("quantize.granularity", "'tensor'|'gate'|'row'|'block:3'"),
    ("quantize.format", "'q2_0'|'nvfp4'|'int4-g128'"),
    ("quantize.clip", "1|4.0"),
    ("quantize.scale_start", "1"),
    ("train.epochs", "1|2"),
    ("train.max_batches", "1|2"),
    ("train.learning_rate", "0.02|1e-6"),
    ("train.seed", "1|18446744073709551615"),
    ("train.beta1", "0.9|0"),
    ("train.beta2", "0.999"),
    ("train.epsilon", "1e-8"),
    (
        "train.schedule",
        "{ kind = 'constant' }|{ kind = 'every', epochs = 1, factor = 0.5 }",
    ),
    ("comparison.every", "0|1"),
    ("checkpoint.minutes", "0|1.0"),
    ("checkpoint.keep", "'all'|'packed'"),
    ("log.tensorboard", "true|false"),
    ("paper", "{ value = 1.5, status = 'recalled', epochs = 3 }"),
];

/// Values that are right for hardly any key.
const ABSURD: &str = "nan|inf|-inf|-0.0|1e308|1e-320|0|-1|9223372036854775807|-9223372036854775808|18446744073709551616|\
    1.7976931348623157e309|true|[]|{}|[[1]]|[1, 'a']|''|'\u{202e}'|'\u{1F600}\u{0301}'|\"\\u0000\"|\"\\u001b[31m\"|\
    '../../..'|'/dev/null'|1979-05-27|0x7f|[|'|= 1|{ kind = 'none' }|{ kind = 'every', epochs = 0, factor = 0 }";

/// Keys that there are not.
const UNKNOWN: &str = "train|model.hiden|data.|.|quantize.method.id|\u{e9}";

/// What is changed, so that most experiments are nearly right.
const BASES: [&str; 2] = [
    "data = { name = 'file', path = 'text.txt', batch = 4, length = 10 }\nquantize.method = 'lat-a'\nmodel.hidden = 3\n",
    "data = { name = 'demo-digits', batch = 4 }\nquantize.method = 'lab'\nmodel = { kind = 'feedforward', units = [3] }\n",
];

/// Makes a training short.
const SHORT: [&str; 3] = ["train.epochs=1", "train.max_batches=1", "data.batch=2"];

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    case.write("text.txt", samples::text())?;
    let mut toml = random.pick(&BASES).to_string();
    if random.one_in(4) {
        toml = (0..random.below(9))
            .map(|_| assignment(random) + "\n")
            .collect();
    }
    if random.one_in(8) {
        toml += "extends = 'tiny.toml'\n";
    }
    case.write("tiny.toml", toml)?;
    let sets: Vec<String> = (0..random.below(4)).map(|_| assignment(random)).collect();
    let with_sets = |command: &str| {
        let laq = case.laq(command);
        let laq = sets
            .iter()
            .fold(laq, |laq, set| laq.argument("--set").argument(set));
        laq.run()?.good_or_refused()
    };
    let resolved = with_sets("config tiny.toml")?;
    with_sets("summary tiny.toml --json")?;
    if !resolved.is_good() {
        return Ok(());
    }
    case.write("resolved.toml", &resolved.out)?;
    let again = case.laq("config resolved.toml").run()?.good()?;
    let is_same = again.out == resolved.out;
    ensure(is_same, "the same experiment from what was printed", || {
        again.out
    })?;
    let train = case.laq("train resolved.toml --run-dir run --device cpu --quiet");
    let train = SHORT
        .iter()
        .fold(train, |laq, set| laq.argument("--set").argument(*set));
    train.run()?.good_or_refused().map(drop)
}

fn pick<'a>(random: &Random, list: &'a str) -> &'a str {
    random.pick(&list.split('|').collect::<Vec<_>>())
}

fn assignment(random: &Random) -> String {
    let (key, values) = random.pick(KEYS);
    let value = match random.below(8) {
        0 | 1 => pick(random, ABSURD).into(),
        2 => format!("'{}'", "long".repeat(random.below(3000))),
        3 => pick(random, random.pick(KEYS).1).into(),
        _ => pick(random, values).to_string(),
    };
    match random.below(40) {
        0 => format!("{}={value}", pick(random, UNKNOWN)),
        1 => format!("{}a={value}", "a.".repeat(random.below(9000))),
        _ => format!("{key}={value}"),
    }
}
