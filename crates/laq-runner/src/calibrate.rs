//! The curvature of a trained network over batches of its training data, as a file for `laq quantize --curvature`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use laq_datasets::{Split, epoch_order};
use laq_models::{CurvatureKind, CurvatureSums, StateData, StateTensor};
use laq_packed::{check_out, thread_pool};
use safetensors::serialize;
use serde::Serialize;
use serde_json::json;

use crate::RunError;
use crate::checkpoint::{Checkpoint, Raw};
use crate::config::{Experiment, Model};
use crate::device::DeviceOptions;
use crate::evaluate::{load_data, load_network};
use crate::examples::{BatchBuffer, Input};
use crate::files::{FileError, write_atomically};
use crate::start::Latent;

/// The metadata entry that describes a file of curvatures.
pub const CURVATURE: &str = "laq.curvature";

/// The least batch whose gradients are taken through batch normalization.
const MIN_NORMALIZED: usize = 16;

/// Options of a calibration.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// What the curvature is.
    pub kind: CurvatureKind,
    /// The number of batches of training examples; fewer if there are fewer.
    pub batches: usize,
    /// Sequences or images per batch; by default as in training.
    pub batch: Option<usize>,
    /// The folder of the data, if not that of the experiment.
    pub data_dir: Option<PathBuf>,
    /// The device.
    pub device: DeviceOptions,
    /// The number of threads; by default one for each processor.
    pub threads: Option<usize>,
}

/// The result of a calibration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The method's id.
    pub method: String,
    /// `fisher` or `inputs`.
    pub kind: &'static str,
    /// The batches.
    pub batches: u64,
    /// Sequences or images per batch.
    pub batch: usize,
    /// The tensors.
    pub tensors: Vec<CalibratedTensor>,
}

/// The curvature of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibratedTensor {
    /// Its name.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// The mean of the curvature.
    pub mean: f64,
    /// The largest.
    pub max: f32,
    /// The share of weights without curvature.
    pub zeros: f64,
}

/// Computes the curvature of the network of `path`, a run folder or a checkpoint, and writes it to `out`: a safetensors file
/// with an F32 tensor for each parameter, of the same name and shape. For a run folder, the checkpoint of the best epoch is
/// used. The batches are the first of a shuffled training split. `progress` is called before every batch with its index and
/// the number of batches. `None` if `stop` was set; then nothing is written.
///
/// # Errors
///
/// See [`RunError`].
pub fn calibrate(
    path: &Path,
    out: &Path,
    options: &CalibrateOptions,
    stop: &AtomicBool,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Option<Calibration>, RunError> {
    let Latent {
        path: checkpoint,
        checkpoint: Checkpoint {
            run,
            network: state,
        },
        ..
    } = Latent::read(path)?;
    check_folder(out)?;
    check_out(out, [&checkpoint].into_iter())?;
    let experiment = &run.experiment;
    let batch = options.batch.unwrap_or(experiment.data.batch);
    check_batch(experiment, options.kind, batch)?;
    let (mut data, examples) = load_data(&run, options.data_dir.as_deref(), &checkpoint)?;
    data.batch = batch;
    let batches = examples.batches(Split::Train, &data)?;
    let order = epoch_order(batches.examples(), experiment.train.seed, 1);
    let count = options.batches.min(batches.trained());
    let failed = |source| RunError::not_evaluated(&checkpoint, source);
    let found = thread_pool(options.threads)?.install(|| -> Result<_, RunError> {
        let input = Input::of(&examples);
        let (mut network, _) = load_network(
            options.device,
            experiment,
            input,
            batch,
            &state,
            &checkpoint,
        )?;
        let (mut buffer, mut sums) = (BatchBuffer::default(), CurvatureSums::new(options.kind));
        for index in 0..count {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            progress(index, count);
            let filled = buffer.fill(&batches, &order, index);
            network.add_curvature(filled, &mut sums).map_err(failed)?;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(Some((network.curvature(&sums), sums.batches())))
    })?;
    let Some((tensors, batches)) = found else {
        return Ok(None);
    };
    let kind = match options.kind {
        CurvatureKind::Fisher => "fisher",
        CurvatureKind::Inputs => "inputs",
    };
    let description = json!({
        "kind": kind,
        "batches": batches,
        "batch": batch,
        "method": experiment.quantize.method,
        "key": run.key,
        "epochs_done": run.progress.epoch - 1,
    });
    let metadata = HashMap::from([(CURVATURE.to_owned(), description.to_string())]);
    let named = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), Raw::new(tensor)));
    let bytes =
        serialize(named, Some(metadata)).map_err(|error| RunError::Internal(error.to_string()))?;
    write_atomically(out, &bytes)?;
    Ok(Some(Calibration {
        method: experiment.quantize.method.clone(),
        kind,
        batches,
        batch,
        tensors: tensors.iter().map(CalibratedTensor::new).collect(),
        checkpoint,
    }))
}

/// An error if the folder of the file is not there, before the work.
fn check_folder(out: &Path) -> Result<(), FileError> {
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::read_dir(folder).map_err(FileError::on("write into", folder))?;
    Ok(())
}

/// Gradients are those of training, where a small batch that is normalized by its own statistics has none.
fn check_batch(experiment: &Experiment, kind: CurvatureKind, batch: usize) -> Result<(), RunError> {
    match &experiment.model {
        Model::Feedforward(model)
            if kind == CurvatureKind::Fisher
                && (model.batch_norm || model.output_batch_norm)
                && batch < MIN_NORMALIZED =>
        {
            Err(RunError::SmallBatch {
                batch,
                least: MIN_NORMALIZED,
            })
        }
        _ => Ok(()),
    }
}

impl CalibratedTensor {
    fn new(tensor: &StateTensor) -> Self {
        let StateData::F32(values) = &tensor.data else {
            unreachable!("curvature is f32");
        };
        let count = values.len().max(1) as f64;
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            mean: values.iter().map(|&value| f64::from(value)).sum::<f64>() / count,
            max: values.iter().copied().fold(0.0, f32::max),
            zeros: values.iter().filter(|value| **value == 0.0).count() as f64 / count,
        }
    }
}
