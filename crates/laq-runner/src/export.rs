//! Exports a trained network: to a file of packed weights, to ONNX, to compressed-tensors, or to arrays of numpy.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use laq_datasets::{Kind, Preprocessing, Split};
use laq_models::{LayerWeights, WeightData};
use laq_packed::gguf::{BlockType, NewValue, write_gguf};
use laq_packed::network::{LayerSpec, LossSpec, MEAN_IMAGE, NETWORK, NetworkSpec};
use laq_packed::onnx::{OnnxOptions, to_onnx};
use laq_packed::{
    Network, PackedFile, PackedFileError, PackedTensor, Packing, StoredTensor, StoredTensors,
    Tensor, check_out, thread_pool, to_npz, write_compressed_tensors,
};
use laq_solvers::{Codebook, Method, Problem, Scale, solve_rows};
use serde::Serialize;

use crate::RunError;
use crate::checkpoint::{Checkpoint, is_checkpoint};
use crate::config::{Feedforward, Loss, Model};
use crate::device::DeviceOptions;
use crate::evaluate::{find_checkpoint, load_network};
use crate::examples::{Examples, Input, load};
use crate::files::{FileError, write_atomically};
use crate::packed::{GRANULARITY, METHOD, RUN, entry, open_packed, run_in};
use crate::run_folder::{best_checkpoint, last_checkpoint};
use crate::run_state::RunState;
use crate::session::method;

/// Options of an export.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// How quantized weights are packed; `None` for the fewest whole bits.
    pub packing: Option<Packing>,
    /// Also quantize the output layer of a language model, to uniform levels with a scale per row.
    pub output_bits: Option<u8>,
    /// Write quantized weights in f32 instead.
    pub decoded: bool,
    /// The number of threads; by default one for each processor.
    pub threads: Option<usize>,
}

/// An exported tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExportedTensor {
    /// Its name.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Bits of a weight: 32 in full precision.
    pub bits: f64,
    /// Bytes of weights and scales in the file, and of what else it has of the tensor.
    pub bytes: usize,
    /// Bytes in f32.
    pub f32_bytes: usize,
}

/// The result of an export.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The id of the method that quantized the weights.
    pub method: String,
    /// The tensors.
    pub tensors: Vec<ExportedTensor>,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Writes the network of `path`, a run folder or a checkpoint, as a file of packed weights, reads it
/// back and compares every weight. For a run folder, the checkpoint of the best epoch is used.
///
/// # Errors
///
/// See [`RunError`].
pub fn export_packed(
    path: &Path,
    out: &Path,
    options: ExportOptions,
) -> Result<Exported, RunError> {
    export(path, out, options, |trained, metadata| {
        PackedFile::write(out, &trained.tensors, metadata)?;
        verify(out, &trained.tensors)?;
        let tensors = trained.tensors.iter();
        Ok(tensors
            .map(|(name, tensor)| (name.clone(), StoredTensor::packed(tensor)))
            .collect())
    })
}

/// Writes the network of `path` as an ONNX model. Every integer and scale is decoded and compared
/// with the weight of training before the file is written.
///
/// # Errors
///
/// See [`RunError`].
pub fn export_onnx(
    path: &Path,
    out: &Path,
    options: ExportOptions,
    onnx: OnnxOptions,
) -> Result<Exported, RunError> {
    export(path, out, options, |trained, metadata| {
        let (model, stored) = to_onnx(&trained.spec, &trained.tensors, onnx, &metadata)
            .map_err(|error| RunError::Export(error.to_string()))?;
        write_atomically(out, &model)?;
        Ok(stored)
    })
}

/// Writes the network of `path` as a folder of compressed-tensors.
///
/// # Errors
///
/// See [`RunError`].
pub fn export_compressed_tensors(
    path: &Path,
    out: &Path,
    options: ExportOptions,
) -> Result<Exported, RunError> {
    export(path, out, options, |trained, metadata| {
        Ok(write_compressed_tensors(out, &trained.tensors, &metadata)?)
    })
}

/// Writes the tensors of the network of `path` as numpy's archive of arrays.
///
/// # Errors
///
/// See [`RunError`].
pub fn export_npz(path: &Path, out: &Path, options: ExportOptions) -> Result<Exported, RunError> {
    export(path, out, options, |trained, metadata| {
        let (archive, stored) = to_npz(&trained.tensors, &metadata)
            .map_err(|error| RunError::Export(error.to_string()))?;
        write_atomically(out, &archive)?;
        Ok(stored)
    })
}

/// Writes the tensors of the network of `path` as GGUF: those that were trained in a format of GGUF and have rows of
/// whole blocks in that format, all others in F32.
///
/// # Errors
///
/// See [`RunError`].
pub fn export_gguf(path: &Path, out: &Path, options: ExportOptions) -> Result<Exported, RunError> {
    export(path, out, options, |trained, metadata| {
        let of: Option<BlockType> = trained.method.parse().ok();
        let metadata = (metadata.into_iter())
            .map(|(key, text)| (key, NewValue::Text(text)))
            .collect();
        let written = write_gguf(out, |_| of, &trained.tensors, metadata);
        written.map_err(|error| RunError::Export(error.to_string()))
    })
}

fn export(
    path: &Path,
    out: &Path,
    options: ExportOptions,
    write: impl FnOnce(&Trained, BTreeMap<String, String>) -> Result<StoredTensors, RunError>,
) -> Result<Exported, RunError> {
    let checkpoint = find_checkpoint(path)?;
    if !out.is_dir() {
        check_out(out, [&checkpoint].into_iter())?;
    }
    let mut trained = read_trained(&checkpoint, &options)?;
    if let Some(bits) = options.output_bits {
        quantize_output(&mut trained.tensors, bits)?;
    }
    if options.decoded {
        trained.decode();
    }
    let metadata = trained.metadata()?;
    let stored = write(&trained, metadata)?;
    let exported = trained.tensors.iter().filter_map(|(name, tensor)| {
        let elements: usize = tensor.shape().iter().product();
        let StoredTensor { bits, bytes } = *stored.get(name)?;
        Some(ExportedTensor {
            name: name.clone(),
            shape: tensor.shape().to_vec(),
            bits,
            bytes,
            f32_bytes: 4 * elements,
        })
    });
    let file = if out.is_dir() {
        &out.join("model.safetensors")
    } else {
        out
    };
    let file_bytes = std::fs::metadata(file).map_err(FileError::on("read", file))?;
    Ok(Exported {
        tensors: exported.collect(),
        method: trained.method,
        file_bytes: file_bytes.len(),
        checkpoint,
    })
}

/// A trained network, as tensors of a file.
struct Trained {
    run: RunState,
    /// The id of the method that quantized the weights.
    method: String,
    granularity: String,
    spec: NetworkSpec,
    tensors: BTreeMap<String, Tensor>,
}

impl Trained {
    /// Replaces packed weights by their values.
    fn decode(&mut self) {
        for tensor in self.tensors.values_mut() {
            *tensor = Tensor::F32 {
                shape: tensor.shape().to_vec(),
                values: tensor.to_f32(),
            };
        }
    }

    fn metadata(&self) -> Result<BTreeMap<String, String>, RunError> {
        let Self { run, spec, .. } = self;
        let (method, granularity) = (self.method.clone(), self.granularity.clone());
        Ok(BTreeMap::from([
            (
                "laq.version".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
            (METHOD.to_owned(), method),
            (GRANULARITY.to_owned(), granularity),
            ("laq.config_key".to_owned(), run.key.clone()),
            (NETWORK.to_owned(), json(spec)?),
            (RUN.to_owned(), json(run)?),
        ]))
    }
}

/// The weights of a run folder or a checkpoint as `laq export --to safetensors-f32` writes them, in an unnamed file in
/// `folder`, with the path of the checkpoint; `None` for any other file or folder.
///
/// # Errors
///
/// See [`RunError`].
pub fn trained_weights(
    path: &Path,
    folder: &Path,
    threads: Option<usize>,
) -> Result<Option<(PathBuf, File)>, RunError> {
    let checkpoint = match path.is_dir() {
        true if !(best_checkpoint(path).is_file() || last_checkpoint(path).is_file()) => {
            return Ok(None);
        }
        true => find_checkpoint(path)?,
        false => path.into(),
    };
    if !is_checkpoint(&checkpoint) {
        return Ok(None);
    }
    let options = ExportOptions {
        threads,
        ..ExportOptions::default()
    };
    let mut trained = read_trained(&checkpoint, &options)?;
    trained.decode();
    let file = tempfile::tempfile_in(folder).map_err(FileError::on("write", folder))?;
    let written = PackedFile::write_to(&file, &checkpoint, &trained.tensors, trained.metadata()?);
    written.map_err(PackedFileError::from)?;
    Ok(Some((checkpoint, file)))
}

fn read_trained(checkpoint: &Path, options: &ExportOptions) -> Result<Trained, RunError> {
    if let Some(file) = open_packed(checkpoint)? {
        let run = run_in(&file)?;
        return read_packed(&file, run, options);
    }
    let Checkpoint { run, network } = Checkpoint::read(checkpoint)?;
    let input = input(&run)?;
    let experiment = &run.experiment;
    let weights = thread_pool(options.threads)?.install(|| {
        let device = DeviceOptions::CPU;
        let (mut trained, _) = load_network(device, experiment, input, 1, &network, checkpoint)?;
        trained.weights().map_err(|source| RunError::Evaluation {
            checkpoint: checkpoint.into(),
            source,
        })
    })?;
    let mut tensors = BTreeMap::new();
    for layer in &weights {
        tensors.insert(layer.name.clone(), tensor(layer, options)?);
    }
    if let Some(mean) = mean_image(&run) {
        tensors.insert(MEAN_IMAGE.to_owned(), mean);
    }
    Ok(Trained {
        method: run.experiment.quantize.method.clone(),
        granularity: granularity(&run)?,
        spec: network_spec(&run, input),
        run,
        tensors,
    })
}

/// The network of a file of [`export_packed`].
fn read_packed(
    file: &PackedFile,
    run: RunState,
    options: &ExportOptions,
) -> Result<Trained, RunError> {
    let spec = NetworkSpec::of(file)?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let tensor = match (file.tensor(&name)?, options.packing) {
            (Tensor::Packed(tensor), Some(packing)) => {
                let packed = tensor.with_packing(packing);
                Tensor::Packed(packed.map_err(|error| RunError::Export(error.to_string()))?)
            }
            (tensor, _) => tensor,
        };
        tensors.insert(name, tensor);
    }
    Ok(Trained {
        method: entry(file, METHOD).unwrap_or_else(|| run.experiment.quantize.method.clone()),
        granularity: entry(file, GRANULARITY).map_or_else(|| granularity(&run), Ok)?,
        run,
        spec,
        tensors,
    })
}

/// The weights that shared a scale in training.
fn granularity(run: &RunState) -> Result<String, RunError> {
    Ok(method(&run.experiment)?.granularity().to_string())
}

/// The mean image of the training split, where the preprocessing subtracts it and the data of the run
/// is at hand.
fn mean_image(run: &RunState) -> Option<Tensor> {
    let data = &run.experiment.data;
    if data.preprocessing.as_deref() != Some(Preprocessing::MeanImage.name()) {
        return None;
    }
    let examples = load(data, &mut |_| {}).ok()?;
    let Examples::Images(images) = &examples else {
        return None;
    };
    let mean = images.split(Split::Train).mean()?;
    let laq_datasets::ImageSize {
        height,
        width,
        channels,
    } = images.shape();
    (examples.fingerprint() == run.data_sha256).then(|| Tensor::F32 {
        shape: vec![height, width, channels],
        values: mean.to_vec(),
    })
}

/// The network of `path`: a file of [`export_packed`], a run folder or a checkpoint.
///
/// # Errors
///
/// See [`RunError`].
pub fn open_network(path: &Path) -> Result<Network, RunError> {
    let path = find_checkpoint(path)?;
    if open_packed(&path)?.is_some() {
        return Ok(Network::open(&path)?);
    }
    let trained = read_trained(&path, &ExportOptions::default())?;
    Ok(Network::from_tensors(
        &path,
        trained.spec,
        &trained.tensors,
    )?)
}

/// The input of the network of a run, without its data.
fn input(run: &RunState) -> Result<Input, RunError> {
    if let Model::CharLstm(_) = run.experiment.model {
        return Ok(Input::Symbols(run.alphabet.len()));
    }
    match laq_datasets::find(&run.experiment.data.name).map(|dataset| &dataset.kind) {
        Ok(Kind::Images { shape, classes, .. }) => Ok(Input::images(*shape, *classes)),
        _ => Err(RunError::Internal(format!(
            "{} is not a set of images",
            run.experiment.data.name
        ))),
    }
}

/// The tensor of a layer.
fn tensor(layer: &LayerWeights, options: &ExportOptions) -> Result<Tensor, RunError> {
    let shape = &layer.shape;
    let (levels, groups, scales, codebook) = match &layer.data {
        WeightData::F32(values) => {
            return Ok(Tensor::F32 {
                shape: shape.clone(),
                values: values.clone(),
            });
        }
        WeightData::Quantized {
            levels,
            groups,
            scales,
            codebook,
        } => (levels, *groups, scales, codebook),
    };
    let fewest = Packing::of(codebook).map_err(|error| RunError::Export(error.to_string()))?;
    let packing = options.packing.unwrap_or(fewest);
    let packed = PackedTensor::from_groups(shape, levels, codebook, groups, scales, packing)
        .map_err(|error| RunError::Export(format!("{}: {error}", layer.name)))?;
    // The file has the weights of training.
    let mut decoded = vec![0.0; levels.len()];
    for (range, scale) in groups.ranges().zip(scales) {
        codebook.decode(&levels[range.clone()], *scale, &mut decoded[range]);
    }
    if !equal(&packed.decode(), &decoded) {
        return Err(RunError::Internal(format!(
            "{} decodes to other weights than those of training",
            layer.name
        )));
    }
    Ok(Tensor::Packed(packed))
}

/// Quantizes `output.weight` of a language model, exactly for d = 1.
fn quantize_output(tensors: &mut BTreeMap<String, Tensor>, bits: u8) -> Result<(), RunError> {
    let name = "output.weight";
    let Some(Tensor::F32 { shape, values }) = tensors.get(name) else {
        return Err(RunError::Export(format!(
            "--output-bits {bits}: the output layer is quantized in training; omit the option"
        )));
    };
    let invalid = |error: String| RunError::Export(format!("--output-bits {bits}: {error}"));
    let id = format!("laq-linear-{bits}-e");
    let method: Method = (id.as_str().try_into())
        .map_err(|error: laq_solvers::ParseMethodError| invalid(error.to_string()))?;
    let codebook = Codebook::linear(bits).map_err(|error| invalid(error.to_string()))?;
    let quantizer = method.quantizer().ok_or_else(|| invalid(id.clone()))?;
    let mut levels = vec![0; values.len()];
    let problem = Problem::new(values, None).map_err(|error| invalid(error.to_string()))?;
    let rows = solve_rows(quantizer, problem, shape[0], &mut levels)
        .map_err(|error| invalid(error.to_string()))?;
    let scales: Vec<Scale> = rows.iter().map(|row| row.scale).collect();
    let packing = Packing::of(&codebook).map_err(|error| invalid(error.to_string()))?;
    let packed = PackedTensor::from_levels(shape, &levels, &codebook, &scales, packing)
        .map_err(|error| invalid(error.to_string()))?;
    tensors.insert(name.to_owned(), Tensor::Packed(packed));
    Ok(())
}

/// Compares the file with what was to be written, bit for bit, and opens its network.
fn verify(out: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), RunError> {
    let file = PackedFile::open(out)?;
    for (name, expected) in tensors {
        let found = file.tensor(name)?;
        let same = found.shape() == expected.shape() && equal(&found.to_f32(), &expected.to_f32());
        if !same {
            return Err(RunError::Internal(format!(
                "{name} in {} is not what was written",
                out.display()
            )));
        }
    }
    Network::open(out)?;
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String, RunError> {
    serde_json::to_string(value).map_err(|error| RunError::Internal(error.to_string()))
}

fn equal(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The description of the network of a run.
fn network_spec(run: &RunState, input: Input) -> NetworkSpec {
    match (&run.experiment.model, input) {
        (Model::Feedforward(model), Input::Images { shape, classes }) => NetworkSpec::Feedforward {
            input: [shape.height, shape.width, shape.channels],
            classes,
            loss: match model.loss {
                Loss::SquaredHinge => LossSpec::SquaredHinge,
                Loss::CrossEntropy => LossSpec::CrossEntropy,
            },
            preprocessing: run
                .experiment
                .data
                .preprocessing
                .clone()
                .unwrap_or_default(),
            layers: layers(model, classes),
        },
        (model, _) => NetworkSpec::CharLstm {
            alphabet: run.alphabet.clone(),
            hidden: match model {
                Model::CharLstm(model) => model.hidden,
                Model::Feedforward(_) => 0,
            },
        },
    }
}

/// The layers of a network on images, named as its parameters.
fn layers(model: &Feedforward, classes: usize) -> Vec<LayerSpec> {
    let epsilon = model.norm_epsilon as f32;
    let norm = |name: &str, relu| LayerSpec::BatchNorm {
        name: name.to_owned(),
        epsilon,
        relu,
    };
    let activation = |name: &str| match model.batch_norm {
        true => norm(name, true),
        false => LayerSpec::Relu,
    };
    let bias = !model.batch_norm;
    let mut layers = Vec::new();
    let mut convolutions = 0;
    for &filters in &model.filters {
        for in_stage in 1..=model.convolutions {
            convolutions += 1;
            let name = format!("conv{convolutions}");
            layers.push(LayerSpec::Convolution {
                name: name.clone(),
                filters,
                bias,
            });
            if in_stage == model.convolutions {
                layers.push(LayerSpec::MaxPool);
            }
            layers.push(activation(&name));
        }
    }
    for (index, &units) in model.units.iter().enumerate() {
        let name = format!("dense{}", index + 1);
        layers.push(LayerSpec::Dense {
            name: name.clone(),
            units,
            bias,
        });
        layers.push(activation(&name));
    }
    layers.push(LayerSpec::Dense {
        name: "output".to_owned(),
        units: classes,
        bias: !model.output_batch_norm,
    });
    if model.output_batch_norm {
        layers.push(norm("output", false));
    }
    layers
}
