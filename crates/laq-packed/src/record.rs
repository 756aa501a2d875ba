//! What quantizing reports: a record for each tensor, and totals.

use laq_solvers::{Codebook, Granularity, Scale};
use serde::Serialize;

use crate::LostChannels;

/// The result for one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorRecord {
    /// Name of the tensor.
    pub name: String,
    /// Number of weights.
    pub n: usize,
    /// Id of the method.
    pub method: String,
    /// Content of `NAME.scale`.
    pub scale: Scales,
    /// `½ Σ d (w − ŵ)²` with `ŵ` in f32, over all groups.
    pub weighted_error: f64,
    /// `weighted_error` over `½ Σ d w²`; `None` if only the latter is zero.
    pub relative_error: Option<f64>,
    /// The `weighted_error` of the nearest levels with the largest magnitude of each group as its scale, for methods that
    /// alternate; `None` for others.
    pub rounding_error: Option<f64>,
    /// Channels of which little is left; `None` if there are none.
    pub lost_channels: Option<LostChannels>,
    /// Share of weights whose level is zero.
    pub sparsity: f64,
    /// Bits of a packed code; 1.6 for trits.
    pub bits: f64,
    /// Wall-clock milliseconds of the solver, without input and output.
    pub milliseconds: f64,
}

/// Scales in the shape of `NAME.scale`; f32 values, widened so that JSON shows all digits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scales {
    /// One for the tensor, two for the tensor (positive and negative levels), or one per row.
    Flat(Vec<f64>),
    /// Two per row, for positive and negative levels.
    Pairs(Vec<[f64; 2]>),
    /// Those of blocks.
    Blocks {
        /// How many there are.
        blocks: usize,
        /// The least.
        least: f64,
        /// The largest.
        largest: f64,
    },
}

/// The totals of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Number of quantized tensors.
    pub tensors: usize,
    /// Number of copied tensors.
    pub copied: usize,
    /// Number of quantized weights.
    pub weights: usize,
    /// Their bits in the input file.
    pub bits_before: f64,
    /// Their bits as packed codes with scales.
    pub bits_after: f64,
    /// `½ Σ d (w − ŵ)²` over all quantized tensors.
    pub weighted_error: f64,
    /// `½ Σ d w²` over all quantized tensors.
    pub energy: f64,
}

impl Totals {
    pub(crate) fn add(
        &mut self,
        record: &TensorRecord,
        energy: f64,
        bits_per_weight: usize,
        bits_after: usize,
    ) {
        let weights = record.n as f64;
        self.tensors += 1;
        self.weights += record.n;
        self.bits_before += weights * bits_per_weight as f64;
        self.bits_after += bits_after as f64;
        self.weighted_error += record.weighted_error;
        self.energy += energy;
    }

    /// `weighted_error` over `energy`; `None` if only the energy is zero.
    #[must_use]
    pub fn relative_error(&self) -> Option<f64> {
        relative(self.weighted_error, self.energy)
    }
}

pub(crate) fn relative(error: f64, energy: f64) -> Option<f64> {
    if error == 0.0 {
        Some(0.0)
    } else {
        Some(error / energy).filter(|relative| relative.is_finite())
    }
}

/// The scales of a record, as steps of the multipliers.
pub(crate) fn printed(scales: &[Scale], granularity: Granularity, codebook: &Codebook) -> Scales {
    let pair = |scale: &Scale| scale.pair().map(|scale| f64::from(codebook.step(scale)));
    let values = || scales.iter().flat_map(pair);
    match (granularity, scales.first()) {
        (Granularity::Block(_), Some(_)) => Scales::Blocks {
            blocks: scales.len(),
            least: values().fold(f64::INFINITY, f64::min),
            largest: values().fold(f64::NEG_INFINITY, f64::max),
        },
        (Granularity::Row, Some(Scale::Two { .. })) => {
            Scales::Pairs(scales.iter().map(pair).collect())
        }
        (_, Some(scale @ Scale::Two { .. })) => Scales::Flat(pair(scale).to_vec()),
        _ => Scales::Flat(scales.iter().map(|scale| pair(scale)[0]).collect()),
    }
}
