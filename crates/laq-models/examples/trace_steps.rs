//! Writes what another program needs to repeat a training: initial weights, batches, and the loss of each step. The script
//! `benches/pytorch/same_steps.py` repeats it with PyTorch.
//!
//! Arguments: folder, method, network (`char-lstm` or `mnist`), steps, epsilon of Adam. The folder gets `NAME.f32` for each parameter,
//! `batches.u8` (text: inputs and targets; images: labels), `pixels.f32` and `losses.f64`, little-endian, each row-major.

use std::fs;
use std::path::{Path, PathBuf};

use laq_models::{
    AdamSettings, Batch, CharLstmSpec, FeedforwardSpec, StateData, TextShape, Training,
};
use laq_solvers::Method;
use laq_tensor::CpuBackend;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SYMBOLS: u8 = 87;
const TEXT: TextShape = TextShape {
    length: 100,
    batch: 100,
};
const IMAGES: usize = 100;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, method, network, steps, epsilon] = &arguments[..] else {
        return Err("expected FOLDER METHOD NETWORK STEPS EPSILON".into());
    };
    let (folder, method) = (PathBuf::from(folder), Method::try_from(method.as_str())?);
    fs::create_dir_all(&folder)?;
    let backend = CpuBackend::new()?;
    let adam = AdamSettings {
        epsilon: epsilon.parse()?,
        ..AdamSettings::default()
    };
    let training = match network.as_str() {
        "char-lstm" => {
            let spec = CharLstmSpec::paper(SYMBOLS.into());
            Training::char_lstm(backend, &spec, TEXT, &method, adam, 1)?
        }
        "mnist" => {
            let spec = FeedforwardSpec::mnist();
            Training::feedforward(backend, &spec, IMAGES, &method, adam, 1)?
        }
        other => return Err(format!("there is no network {other}: char-lstm or mnist").into()),
    };
    trace(training, &folder, network == "mnist", steps.parse()?)
}

fn trace(
    mut training: Training<CpuBackend>,
    folder: &Path,
    images: bool,
    steps: usize,
) -> Result<(), Failure> {
    for tensor in training.save()? {
        if let StateData::F32(values) = tensor.data {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(folder.join(format!("{}.f32", tensor.name)), bytes)?;
        }
    }
    let mut random = Random(1);
    let (mut bytes, mut pixels, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..steps {
        let report = if images {
            let labels: Vec<u8> = (0..IMAGES).map(|_| random.below(10)).collect();
            // Each class is bright in a part of its own, with noise.
            let pixel = |n: usize| {
                let (image, at) = (n / 784, n % 784);
                let bright = at / 79 == usize::from(labels[image]);
                0.5 * f32::from(u8::from(bright)) + f32::from(random.below(200)) / 200.0 - 0.5
            };
            let values: Vec<f32> = (0..IMAGES * 784).map(pixel).collect();
            bytes.extend(&labels);
            pixels.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            training.step(Batch::images(&values, &labels), 0.01)?
        } else {
            // Each symbol is followed by its double or by the next one.
            let mut next: Vec<u8> = (0..TEXT.batch).map(|_| random.below(SYMBOLS)).collect();
            let mut symbols = next.clone();
            for _ in 0..TEXT.length {
                for symbol in &mut next {
                    let follower = [2 * u16::from(*symbol), u16::from(*symbol) + 1];
                    let chosen = follower[usize::from(random.below(4) == 0)];
                    *symbol = (chosen % u16::from(SYMBOLS)) as u8;
                }
                symbols.extend(&next);
            }
            let (inputs, targets) = (
                &symbols[..symbols.len() - TEXT.batch],
                &symbols[TEXT.batch..],
            );
            bytes.extend(inputs);
            bytes.extend(targets);
            training.step(Batch::text(inputs, targets), 0.002)?
        };
        losses.extend(report.loss.to_le_bytes());
    }
    fs::write(folder.join("batches.u8"), bytes)?;
    fs::write(folder.join("pixels.f32"), pixels)?;
    fs::write(folder.join("losses.f64"), losses)?;
    Ok(())
}

/// A linear congruential generator.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u8) -> u8 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((self.0 >> 8) % u32::from(limit)) as u8
    }
}
