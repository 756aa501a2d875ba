//! `laq export`, `sample` and `classify`: networks of packed weights.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use laq_datasets::{ImageError, Images, Preprocessing, RawImages, idx};
use laq_lab::text::{shown, table};
use laq_packed::network::{Feedforward, Prediction};
use laq_packed::onnx::{OPSETS, OnnxOptions};
use laq_packed::{Activations, Network, thread_pool};
use laq_runner::export::{
    ExportOptions, export_compressed_tensors, export_gguf, export_npz, export_onnx, export_packed,
    open_network,
};
use laq_runner::run_folder::check_out;
use serde_json::{Value, json};

use crate::args::{ClassifyArgs, ExportArgs, ExportFormat, PackingChoice, SampleArgs};
use crate::commands::bytes;
use crate::output::{INTERRUPTED, Output, log_error, print_json, stop_flag, warn_of_suffix};

pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let is_onnx = matches!(
        args.to,
        ExportFormat::Onnx | ExportFormat::OnnxF32 | ExportFormat::Qonnx
    );
    if args.step && !is_onnx {
        bail!("--step is for --to onnx: other formats have no graph");
    }
    if args.opset.is_some() && !is_onnx {
        bail!("--opset is for --to onnx, onnx-f32 and qonnx; omit it");
    }
    if args.packing.is_some() && !matches!(args.to, ExportFormat::Packed | ExportFormat::Npz) {
        bail!("--packing is for --to packed and npz: other formats have their own; omit it");
    }
    check_out(&args.out)?;
    warn_of_suffix(&args.out, args.to.suffix());
    let options = ExportOptions {
        packing: args.packing.and_then(PackingChoice::packing),
        output_bits: args.output_bits,
        decoded: matches!(
            args.to,
            ExportFormat::OnnxF32 | ExportFormat::NpzF32 | ExportFormat::SafetensorsF32
        ),
        threads: args.threads.count(),
    };
    let exported = match args.to {
        ExportFormat::Packed | ExportFormat::SafetensorsF32 => {
            export_packed(&args.path, &args.out, options)?
        }
        ExportFormat::CompressedTensors => {
            export_compressed_tensors(&args.path, &args.out, options)?
        }
        ExportFormat::Gguf => export_gguf(&args.path, &args.out, options)?,
        ExportFormat::Npz | ExportFormat::NpzF32 => export_npz(&args.path, &args.out, options)?,
        ExportFormat::Onnx | ExportFormat::OnnxF32 | ExportFormat::Qonnx => {
            let onnx = OnnxOptions {
                opset: (args.opset.as_deref())
                    .map_or(Ok(OPSETS[0]), str::parse)
                    .context("the opset is a number")?,
                step: args.step,
                qonnx: args.to == ExportFormat::Qonnx,
            };
            export_onnx(&args.path, &args.out, options, onnx)?
        }
    };
    if args.json {
        print_json(&exported)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["tensor", "shape", "bits", "bytes", "f32"].map(String::from)];
    let (mut packed, mut f32_bytes) = (0, 0);
    for tensor in &exported.tensors {
        rows.push([
            shown(&tensor.name),
            shape(&tensor.shape),
            tensor.bits.to_string(),
            bytes(tensor.bytes),
            bytes(tensor.f32_bytes),
        ]);
        packed += tensor.bytes;
        f32_bytes += tensor.f32_bytes;
    }
    let total = [
        "total".to_owned(),
        String::new(),
        String::new(),
        bytes(packed),
        bytes(f32_bytes),
    ];
    rows.push(total);
    write!(Output, "{}", table(rows, |column| column >= 2))?;
    writeln!(
        Output,
        "{} ({}), {:.1} times smaller than f32; every weight{} is that of {}",
        args.out.display(),
        bytes(exported.file_bytes as usize),
        f32_bytes as f64 / exported.file_bytes as f64,
        args.output_bits
            .map_or("", |_| " but those of the output layer"),
        exported.checkpoint.display(),
    )?;
    let has_integers = exported.tensors.iter().any(|tensor| tensor.bits < 32.0);
    if args.to == ExportFormat::Onnx && has_integers {
        writeln!(
            Output,
            "onnxruntime may round activations to 8 bits where it fuses DequantizeLinear and MatMul: set its session \
             option session.qdq_matmulnbits_accuracy_level to 1 for f32"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `4 × 3`, as a table prints it.
pub(crate) fn shape(sizes: &[usize]) -> String {
    let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
    sizes.join("×")
}

fn open(path: &Path, int8: bool) -> Result<Network> {
    let mut network = open_network(path)?;
    if int8 {
        network.set_activations(Activations::Int8);
    }
    Ok(network)
}

pub(crate) fn sample(args: &SampleArgs) -> Result<ExitCode> {
    thread_pool(None)?.install(|| sample_here(args))
}

fn sample_here(args: &SampleArgs) -> Result<ExitCode> {
    let Network::CharLstm(network) = open(&args.path, args.int8)? else {
        bail!(
            "{} classifies images, expected a language model: use laq classify",
            args.path.display()
        );
    };
    let stop = stop_flag().context("cannot listen for Ctrl-C")?;
    let mut sampler = network.sample(args.prompt.as_bytes(), args.temperature, args.seed)?;
    Output.write_all(args.prompt.as_bytes())?;
    let start = Instant::now();
    let mut drawing = 0.0;
    for _ in 0..args.length {
        if stop.load(Ordering::Relaxed) {
            writeln!(Output)?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
        let before = Instant::now();
        let byte = sampler.draw()?;
        drawing += before.elapsed().as_secs_f64();
        Output.write_all(&[byte])?;
        Output.flush()?;
    }
    writeln!(Output)?;
    if args.speed {
        let count = args.length.max(1) as f64;
        log_error(&format!(
            "{:.1} us per character ({:.1} us with output), {} activations",
            1e6 * drawing / count,
            1e6 * start.elapsed().as_secs_f64() / count,
            if args.int8 { "8-bit" } else { "f32" },
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Images that are classified at a time.
const BATCH: usize = 64;

pub(crate) fn classify(args: &ClassifyArgs) -> Result<ExitCode> {
    thread_pool(None)?.install(|| classify_here(args))
}

fn classify_here(args: &ClassifyArgs) -> Result<ExitCode> {
    let Network::Feedforward(network) = open(&args.path, args.int8)? else {
        bail!(
            "{} is a language model, expected a network on images: use laq sample",
            args.path.display()
        );
    };
    for path in &args.images {
        let pixels = read_images(path, network.input())?;
        let inputs = preprocess(&network, pixels)
            .with_context(|| format!("cannot preprocess {}", path.display()))?;
        let elements: usize = network.input().iter().product();
        let several = inputs.len() > elements;
        for (batch, images) in inputs.chunks(BATCH * elements).enumerate() {
            for (place, predictions) in network.classify(images)?.iter().enumerate() {
                let index = BATCH * batch + place;
                let top = &predictions[..args.top.clamp(1, network.classes())];
                if args.json {
                    let line = json!({"image": path, "index": index, "classes": classes(top)});
                    writeln!(Output, "{line}")?;
                    continue;
                }
                let name = match several {
                    true => format!("{}[{index}]", path.display()),
                    false => path.display().to_string(),
                };
                writeln!(Output, "{name}: {}", described(top))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn classes(predictions: &[Prediction]) -> Value {
    let class = |found: &Prediction| {
        json!({
            "class": found.class,
            "output": found.output,
            "probability": found.probability,
        })
    };
    predictions.iter().map(class).collect()
}

fn described(predictions: &[Prediction]) -> String {
    let class = |found: &Prediction| match found.probability {
        Some(probability) => format!("{} ({:.1} %)", found.class, 100.0 * probability),
        None => format!("{} ({:+.3})", found.class, found.output),
    };
    predictions.iter().map(class).collect::<Vec<_>>().join(", ")
}

/// The pixels of the images of a file.
fn read_images(path: &Path, [height, width, channels]: [usize; 3]) -> Result<Vec<u8>> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let other = |found: String| {
        anyhow::anyhow!(
            "{} has {found}, expected {height} × {width} pixels of {channels} channels: resize or convert it",
            path.display()
        )
    };
    if let Ok(found) = idx::parse(&content) {
        let sizes = &found.dimensions;
        let fits = match sizes[..] {
            [_, h, w] => [h, w, 1] == [height, width, channels],
            [_, h, w, c] => [h, w, c] == [height, width, channels],
            _ => false,
        };
        if !fits {
            return Err(other(format!("the idx dimensions {sizes:?}")));
        }
        return Ok(found.elements.to_vec());
    }
    let image = image::load_from_memory(&content)
        .with_context(|| format!("{} is no PNG, PNM or idx file", path.display()))?;
    if (image.height() as usize, image.width() as usize) != (height, width) {
        return Err(other(format!(
            "{} × {} pixels",
            image.height(),
            image.width()
        )));
    }
    let (depth, has_colour) = (image.color(), image.color().has_color());
    match channels {
        1 if has_colour => Err(other(format!("colours ({depth:?})"))),
        1 => Ok(image.into_luma8().into_raw()),
        3 => Ok(image.into_rgb8().into_raw()),
        _ => Err(other(format!("pixels of {depth:?}"))),
    }
}

/// From pixels to the inputs of the network.
fn preprocess(network: &Feedforward, pixels: Vec<u8>) -> Result<Vec<f32>> {
    let preprocessing: Preprocessing = network.preprocessing().parse()?;
    let [height, width, channels] = network.input();
    let shape = laq_datasets::ImageSize {
        height,
        width,
        channels,
    };
    let count = pixels.len() / shape.elements();
    let raw = RawImages {
        shape,
        pixels: pixels.into(),
        labels: vec![0; count],
    };
    let images = Images::preprocessed("the images", raw, preprocessing, network.mean_image())
        .map_err(|error| match error {
            ImageError::Unfitted { preprocessing } => anyhow::anyhow!(
                "the network was trained with the preprocessing {preprocessing}, and the file has nothing of the \
                 training images: for mean-image, export it where the data set is; otherwise evaluate it with laq eval"
            ),
            error => error.into(),
        })?;
    let order: Vec<u32> = (0..count as u32).collect();
    let (mut inputs, mut labels) = (vec![0.0; count * shape.elements()], vec![0; count]);
    images.fill(&order, &mut inputs, &mut labels);
    Ok(inputs)
}
