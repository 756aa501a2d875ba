//! The layers of a network, and the memory of its weights.

use laq_solvers::Solver;
use serde::Serialize;

use crate::RunError;
use crate::config::Experiment;
use crate::examples::sizes;
use crate::session::method;
use crate::spec::{Spec, spec};

/// A network, layer by layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkSummary {
    /// The run's title.
    pub title: String,
    /// The method's id.
    pub method: String,
    /// The weights that share a scale: `gate`, `block:64`.
    pub granularity: String,
    /// Bits of a quantized weight as a packed level; 32 in full precision.
    pub bits: u32,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// The sums over all layers.
    pub total: Layer,
}

/// A layer, or the sum of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// The sizes of what it puts out for one image or character.
    pub output: Vec<usize>,
    /// Weights that the method quantizes.
    pub quantized_weights: usize,
    /// Everything else that is trained, in f32.
    pub other_weights: usize,
    /// Bytes of all of them in f32.
    pub f32_bytes: usize,
    /// Bytes with the quantized weights as packed levels, their scales and the others in f32.
    pub quantized_bytes: usize,
    /// Multiplications with a weight and additions, for one image or character.
    pub operations: usize,
}

/// The network of `experiment`, without its data where those are of the catalogue.
///
/// # Errors
///
/// Networks that cannot be built, and files of the user's that cannot be read.
pub fn summarize(experiment: &Experiment) -> Result<NetworkSummary, RunError> {
    let (_, input) = sizes(&experiment.data)?;
    let spec = spec(&experiment.model, input)?;
    let layers = match spec {
        Spec::CharLstm(spec) => spec.layers(),
        Spec::Feedforward(spec) => spec.layers(),
    }
    .map_err(RunError::Build)?;
    let method = method(experiment)?;
    let bits = method.storage_bits();
    let quantizer = method.quantizer();
    let scale_bytes = quantizer.map_or(0, |quantizer| match quantizer.solver() {
        Solver::ExactOnGrid { grid } => grid.bytes(),
        solver => {
            if solver.has_two_scales() {
                8
            } else {
                4
            }
        }
    });
    let granularity = method.granularity();
    let layers: Vec<Layer> = layers
        .into_iter()
        .map(|layer| {
            let (quantized, other) = (layer.quantized_weights, layer.other_weights);
            let of_matrix = |[rows, columns, gates]: [usize; 3]| {
                granularity.groups(rows, columns, gates).count()
            };
            let groups: usize = layer.matrices.into_iter().map(of_matrix).sum();
            Layer {
                name: layer.name,
                kind: layer.kind,
                output: layer.output,
                quantized_weights: quantized,
                other_weights: other,
                f32_bytes: 4 * (quantized + other),
                quantized_bytes: (quantized * bits as usize).div_ceil(8)
                    + groups * scale_bytes
                    + 4 * other,
                operations: 2 * layer.multiplications,
            }
        })
        .collect();
    let mut total = Layer {
        name: "total".into(),
        ..Layer::default()
    };
    for layer in &layers {
        total.quantized_weights += layer.quantized_weights;
        total.other_weights += layer.other_weights;
        total.f32_bytes += layer.f32_bytes;
        total.quantized_bytes += layer.quantized_bytes;
        total.operations += layer.operations;
    }
    Ok(NetworkSummary {
        title: experiment.title.clone(),
        method: experiment.quantize.method.clone(),
        granularity: granularity.to_string(),
        bits,
        layers,
        total,
    })
}
