//! Damaged files. A run is resumed with the same figures or refused, and a refusal leaves it as it was; a file of weights is
//! accepted or refused.

use std::fs;
use std::rc::Rc;

use anyhow::Result;
use rustix::process::Signal;

use super::case::{Case, Reference, copy_folder, ensure, read, write};
use super::figures::{Figures, compare, no_leftovers};
use super::process::{Ended, Laq};
use super::random::Random;
use super::samples;
use super::work::{OLD, OUT, RUN, Work};

pub(super) fn run(case: &Case<'_>) -> Result<()> {
    match case.random.one_in(2) {
        true => run_folder(case),
        false => weight_files(case),
    }
}

/// `bytes` as a bad disk, a loss of power or a wrong hand leaves them; `other` is a file of the same kind.
fn damaged(random: &Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // Headers are small and have the most to lose.
    let reach = random.pick(&[bytes.len(), bytes.len().min(1000)]);
    let from = random.below(reach);
    let longest = random.pick(&[8, bytes.len()]);
    let to = (from + random.below(longest) + 1).min(bytes.len());
    match random.below(8) {
        _ if bytes.is_empty() => bytes = other.into(),
        0 => bytes.truncate(from),
        1 | 2 => bytes[from] ^= 1 << random.below(8),
        3 => bytes[from..to].fill(0),
        4 => drop(bytes.drain(from..to)),
        5 => bytes = other.into(),
        6 => {
            let to = to.min(other.len()).max(from);
            drop(bytes.splice(
                from..to,
                other.get(from..to).unwrap_or_default().iter().copied(),
            ));
        }
        _ => bytes[from..to].fill_with(|| random.next() as u8),
    }
    bytes
}

/// A file of a run, finished or not.
fn run_folder(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    let data = random.word("file file demo-digits");
    let work = Work::train(data, "lat-a", 1, "");
    let whole = work.reference(case)?;
    let other = Work::train(data, "lat-a", 2, "").reference(case)?;
    match random.one_in(2) {
        true => copy_folder(&whole.folder, &case.folder)?,
        false => {
            work.prepare(&case.folder)?;
            let instant = whole.time.mul_f64(0.3 + 0.7 * random.uniform());
            let laq = work.laq(case, &case.folder);
            laq.run_until(Signal::KILL, instant)?.stopped()?;
        }
    }
    // What the text was is in the checkpoint.
    let has_checkpoint = case.path("run/last.safetensors").is_file();
    let mut names: Vec<String> = has_checkpoint
        .then(|| "text.txt".into())
        .into_iter()
        .collect();
    for entry in fs::read_dir(case.path(RUN)).into_iter().flatten() {
        names.push(format!("{RUN}/{}", entry?.file_name().display()));
    }
    if names.is_empty() {
        return work.finish(case, &case.folder);
    }
    names.sort();
    let name = &names[random.below(names.len())];
    let readers = [
        "eval run --json",
        "export run --to packed --out packed.safetensors --json",
    ];
    let reader = random.pick(&readers);
    let figures_before = case.laq(reader).run()?;
    let before = case.read(name)?;
    let is_removed = random.one_in(8);
    match is_removed {
        true => fs::remove_file(case.path(name))?,
        false => {
            let exchanged = read(&other.folder.join(name)).unwrap_or_default();
            case.write(name, damaged(random, &before, &exchanged))?;
        }
    }
    for command in [
        "status run --json",
        "report run --page page.html",
        "summary run",
    ] {
        case.laq(command).run()?.good_or_refused()?;
    }
    let figures_after = case.laq(reader).run()?.good_or_refused()?;
    // Without the best checkpoint another one may be read, and is named.
    if !is_removed && figures_before.is_good() && figures_after.is_good() {
        figures_before.is_same(&figures_after)?;
    }
    let resumed = work.laq(case, &case.folder).run()?.good_or_refused()?;
    if resumed.is_good() {
        return check_resumed(
            &work.outcome(&whole.folder)?,
            &work.outcome(&case.folder)?,
            name,
            &resumed,
        );
    }
    case.write(name, before)?;
    work.finish(case, &case.folder)
}

/// Compares what a run that goes on after damage of the file `name` still promises.
fn check_resumed(expected: &Figures, found: &Figures, name: &str, resumed: &Ended) -> Result<()> {
    let has_epoch = |epoch: &str| {
        let mut lines = found
            .iter()
            .filter(|(name, _)| name.starts_with("metrics.jsonl "));
        lines.any(|(name, figure)| name.ends_with(".epoch") && figure == epoch)
    };
    ensure(
        ["1", "2", "3"].into_iter().all(has_epoch) || resumed.err.contains("metrics.jsonl lacks"),
        "a word about epochs that the metrics lack",
        || resumed.err.clone(),
    )?;
    let is_promised = |figure: &str| {
        let (file, part) = figure.split_once([' ', '.']).unwrap_or((figure, ""));
        match name.trim_start_matches("run/") {
            // A log without a checksum.
            "metrics.jsonl" => file != "metrics",
            "summary.json" => {
                file != "summary" || RESULTS.iter().any(|result| part.contains(result))
            }
            // The checkpoint of the best epoch stands in for it.
            "last.safetensors" => {
                file != "last" || found.keys().any(|name| name.starts_with("last."))
            }
            // Weights that are gone, and this was said.
            name => !(name.starts_with(file) && resumed.err.contains("warning: ")),
        }
    };
    let promised = |figures: &Figures| {
        // A field that is not there is null.
        let figures = figures
            .iter()
            .filter(|(figure, text)| is_promised(figure) && *text != "null");
        figures
            .map(|(figure, text)| (figure.clone(), text.clone()))
            .collect()
    };
    compare(&promised(expected), &promised(found))
}

/// Fields of a summary that the weights have as well.
const RESULTS: [&str; 4] = ["best_epoch", "_loss", "_error", "epochs"];

/// Files of the folder of [`files`], each with a command that reads it.
const READERS: [(&str, &str); 20] = [
    ("packed.safetensors", "inspect packed.safetensors"),
    ("packed.safetensors", "eval packed.safetensors"),
    (
        "packed.safetensors",
        "sample packed.safetensors --prompt tide",
    ),
    (
        "packed.safetensors",
        "quantize packed.safetensors --method lat-e --out out.safetensors",
    ),
    ("digits.safetensors", "eval digits.safetensors"),
    (
        "digits.safetensors",
        "classify digits.safetensors image.pgm",
    ),
    ("image.pgm", "classify digits.safetensors image.pgm"),
    ("images.idx", "classify digits.safetensors images.idx"),
    ("run/best.safetensors", "inspect run/best.safetensors"),
    ("model.onnx", "inspect model.onnx"),
    ("qonnx.onnx", "inspect qonnx.onnx"),
    ("weights.safetensors", "inspect weights.safetensors"),
    (
        "weights.safetensors",
        "quantize weights.safetensors --method lat-e --granularity row --out out.safetensors",
    ),
    (
        "curvature.safetensors",
        "quantize weights.safetensors --method lat-e --curvature curvature.safetensors --out out.safetensors",
    ),
    ("weights.gguf", "inspect weights.gguf"),
    (
        "weights.gguf",
        "quantize weights.gguf --format q2_k --imatrix imatrix.dat --out out.safetensors",
    ),
    (
        "imatrix.dat",
        "quantize weights.gguf --format q4_k --imatrix imatrix.dat --out out.safetensors",
    ),
    (
        "model/model.safetensors.index.json",
        "quantize model --method lat-e --out quantized",
    ),
    (
        "model/1.safetensors",
        "quantize model --method lat-e --out quantized",
    ),
    ("tiny.toml", "summary tiny.toml"),
];

/// A file of weights, images or text.
fn weight_files(case: &Case<'_>) -> Result<()> {
    let random = &case.random;
    copy_folder(&files(case)?.folder, &case.folder)?;
    let (name, command) = random.pick(&READERS);
    let (other, _) = random.pick(&READERS);
    case.write(name, damaged(random, &case.read(name)?, &case.read(other)?))?;
    case.write(OUT, OLD)?;
    let ended = case.laq(command).run()?.good_or_refused()?;
    let is_intact = ended.is_good() || case.read(OUT)? == OLD;
    ensure(is_intact, "the old file after an error", || ended.err)?;
    no_leftovers(&case.folder)
}

/// A file of every kind.
fn files(case: &Case<'_>) -> Result<Rc<Reference>> {
    let digits = Work::train("demo-digits", "lat-a", 1, "").reference(case)?;
    let text_run = Work::train("file", "lat-a", 1, "").reference(case)?;
    case.reference("files", |folder| {
        copy_folder(&text_run.folder, folder)?;
        let export = |run: &str, to: &str, out: &str| {
            let laq = Laq::new(case, folder, &format!("export {run} --to {to} --out {out}"));
            laq.run()?.good().map(drop)
        };
        copy_folder(&digits.folder.join("run"), &folder.join("digits"))?;
        export("run", "packed", "packed.safetensors")?;
        export("digits", "packed", "digits.safetensors")?;
        export("run", "onnx", "model.onnx")?;
        export("digits", "qonnx", "qonnx.onnx")?;
        let put = |name: &str, content: &[u8]| write(&folder.join(name), content);
        put(
            "weights.safetensors",
            &samples::safetensors(1, 192, |weight| weight),
        )?;
        put(
            "curvature.safetensors",
            &samples::safetensors(2, 192, |number| number * number),
        )?;
        put("weights.gguf", &samples::gguf())?;
        put("imatrix.dat", &samples::importance_matrix())?;
        fs::create_dir(folder.join("model"))?;
        put(
            "model/1.safetensors",
            &samples::safetensors(1, 192, |weight| weight),
        )?;
        put(
            "model/model.safetensors.index.json",
            samples::index("1.safetensors").as_bytes(),
        )?;
        put("image.pgm", &samples::pgm())?;
        put("images.idx", &samples::idx())?;
        (READERS.iter()).try_for_each(|(_, command)| {
            let laq = Laq::new(case, folder, command);
            laq.run()?.good().map(drop)
        })
    })
}
