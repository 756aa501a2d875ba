//! Evaluates a network of packed weights as the trained one: the losses have the same bits.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use laq_models::{Batch, DatasetHandle, Evaluation, Evaluations, Loss, ModelError};
use laq_packed::network::LossSpec;
use laq_packed::{Network, NetworkError, PACKED_FORMAT_KEY, PackedFile};
use laq_tensor::{CpuBackend, Losses, Memory, Steps};

use crate::RunError;
use crate::device::Evaluator;
use crate::run_state::RunState;

/// The metadata entry with the state of the run, [`RunState`] as JSON.
pub(crate) const RUN: &str = "laq.run";
/// That with the id of the method that quantized the weights: in training, or by `laq quantize` later.
pub(crate) const METHOD: &str = "laq.method";
/// That with the weights that share a scale.
pub(crate) const GRANULARITY: &str = "laq.granularity";

/// A file of packed weights; `None` if the file is another.
pub(crate) fn open_packed(path: &Path) -> Result<Option<PackedFile>, RunError> {
    match PackedFile::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.is_not_packed() => Ok(None),
        // A damaged file is what its header begins as.
        Err(error) if begins_as_packed(path) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// The state of the run that a file of packed weights comes from; `None` if the file is another.
pub(crate) fn run_of(path: &Path) -> Result<Option<RunState>, RunError> {
    let file = open_packed(path)?;
    file.map(|file| run_in(&file)).transpose()
}

/// The state of the run that a file of packed weights comes from.
pub(crate) fn run_in(file: &PackedFile) -> Result<RunState, RunError> {
    let run = entry(file, RUN).ok_or_else(|| RunError::NoRun {
        path: file.path().into(),
        entry: RUN,
    })?;
    RunState::parse(&run).map_err(|detail| RunError::InvalidRun {
        path: file.path().into(),
        detail,
    })
}

/// An entry of the metadata.
pub(crate) fn entry(file: &PackedFile, key: &str) -> Option<String> {
    let mut entries = file.metadata();
    entries
        .find(|(found, _)| found == key)
        .map(|(_, text)| text)
}

/// Whether the first bytes of a file are those of packed weights.
fn begins_as_packed(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut start));
    read.is_ok() && String::from_utf8_lossy(&start).contains(PACKED_FORMAT_KEY)
}

/// A network of packed weights, with the losses of the CPU backend.
pub(crate) struct PackedEvaluator {
    network: Network,
    backend: CpuBackend,
    /// Sequences of a batch of text.
    batch: usize,
}

/// The outputs of a batch.
struct Outputs<'a> {
    /// Targets × classes.
    values: Vec<f32>,
    targets: &'a [u8],
    classes: usize,
    loss: Loss,
}

impl PackedEvaluator {
    /// Opens the network of a file, for batches of `batch` sequences.
    pub(crate) fn open(path: &Path, batch: usize) -> Result<Self, RunError> {
        let backend = CpuBackend::new()?;
        let mut network = Network::open(path)?;
        network.set_isa(backend.isa());
        Ok(Self {
            network,
            backend,
            batch,
        })
    }

    fn outputs<'a>(&self, batch: Batch<'a>) -> Result<Outputs<'a>, NetworkError> {
        match (&self.network, batch) {
            (Network::CharLstm(network), Batch::Text { inputs, targets }) => {
                let symbols = network.alphabet().len();
                let mut logits = vec![0.0; inputs.len() * symbols];
                network.sequence_logits(inputs, self.batch, &mut logits)?;
                Ok(Outputs {
                    values: logits,
                    targets,
                    classes: symbols,
                    loss: Loss::CrossEntropy,
                })
            }
            (Network::Feedforward(network), Batch::Images { pixels, labels }) => {
                let loss = match network.loss() {
                    LossSpec::SquaredHinge => Loss::SquaredHinge,
                    LossSpec::CrossEntropy => Loss::CrossEntropy,
                };
                Ok(Outputs {
                    values: network.outputs(pixels)?,
                    targets: labels,
                    classes: network.classes(),
                    loss,
                })
            }
            _ => Err(NetworkError::Input {
                found: "a batch of another kind".into(),
                expected: "text for a language model, images for a classifier".into(),
            }),
        }
    }
}

impl Evaluator for PackedEvaluator {
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<Evaluation, ModelError> {
        let is_text = matches!(batch, Batch::Text { .. });
        let Outputs {
            values,
            targets,
            classes,
            loss,
        } = (self.outputs(batch)).map_err(|error| ModelError::Batch(error.to_string()))?;
        let backend = &self.backend;
        let mut log = backend.step_log()?;
        let mut buffer = backend.zeros(&[targets.len(), classes])?;
        backend.write(&values, &mut buffer)?;
        let mut indices = backend.indices(targets.len(), classes)?;
        backend.write(targets, &mut indices)?;
        if is_text {
            backend.loss_and_gradient(loss, &indices, &mut buffer, &mut log)?;
        } else {
            backend.evaluate_outputs(loss, targets.len(), &indices, &buffer, &mut log)?;
        }
        let mut losses = Vec::new();
        let status = backend.read_log(&mut log, &mut losses)?;
        match losses[..] {
            [loss] if status.stop.is_none() => Ok(Evaluation {
                loss,
                errors: (!is_text).then_some(status.errors as usize),
            }),
            _ => Err(ModelError::NotFiniteEvaluation {
                what: "the loss".into(),
            }),
        }
    }

    fn evaluate_dataset(
        &mut self,
        _set: DatasetHandle,
        _batches: Range<usize>,
    ) -> Result<Evaluations, ModelError> {
        Err(ModelError::Batch(
            "a network of packed weights has no datasets on a device".into(),
        ))
    }
}
