//! A lower bound of the memory of a network, checked before it is allocated.

use laq_packed::AvailableMemory;

use crate::RunError;
use crate::config::Experiment;
use crate::examples::sizes;
use crate::spec::{Spec, spec};

/// Bytes that the network of `experiment` needs at least to be trained on a CPU. Data are needed only for
/// a text file.
///
/// # Errors
///
/// Splits shorter than a batch, and networks that cannot be built.
pub fn memory_needed(experiment: &Experiment) -> Result<u64, RunError> {
    let (_, input) = sizes(&experiment.data)?;
    let spec = spec(&experiment.model, input)?;
    let length = experiment.data.length.unwrap_or_default();
    let bytes = MemoryEstimate::of(&spec, length, MemorySite::Cpu)?.bytes(experiment.data.batch);
    Ok(bytes.try_into().unwrap_or(u64::MAX))
}

/// The memory that holds a network.
#[derive(Clone, Copy)]
pub(crate) enum MemorySite {
    Cpu,
    Gpu {
        /// Whether convolutions are products with im2col matrices, for want of cuDNN.
        im2col: bool,
    },
}

/// A lower bound of the memory of a network, in elements of four bytes.
pub(crate) struct MemoryEstimate {
    /// Independent of the batch. A weight has its value, its gradient and Adam's two moments; on a
    /// CPU also the copies of three of these in a checkpoint, on a GPU the quantized value.
    fixed: u128,
    /// For each image or sequence of a batch. A character has four gates, the cell, the output,
    /// its gradient and the logits (on a GPU also the one-hot input); a layer of an image has
    /// its output and gradient, and with im2col the nine neighbours of each pixel of a
    /// convolution.
    of_example: u128,
}

impl MemoryEstimate {
    pub(crate) fn of(spec: &Spec, length: usize, site: MemorySite) -> Result<Self, RunError> {
        let (on_gpu, with_im2col) = match site {
            MemorySite::Cpu => (false, false),
            MemorySite::Gpu { im2col } => (true, im2col),
        };
        let layers = match spec {
            Spec::CharLstm(spec) => spec.layers(),
            Spec::Feedforward(spec) => spec.layers(),
        }
        .map_err(RunError::Build)?;
        let wide = |number: usize| number as u128;
        let weights = layers
            .iter()
            .map(|layer| wide(layer.quantized_weights) + wide(layer.other_weights))
            .sum::<u128>();
        let of_example = match spec {
            Spec::CharLstm(spec) => {
                let symbols = wide(spec.symbols) * if on_gpu { 2 } else { 1 };
                wide(length) * (7 * wide(spec.hidden) + symbols)
            }
            Spec::Feedforward(spec) => {
                let outputs = layers
                    .iter()
                    .map(|layer| wide(layer.output.iter().product()));
                let convolutions = layers.iter().filter(|layer| layer.output.len() == 3);
                // A filter is multiplied with each element of the matrix once.
                let im2col = convolutions
                    .filter(|_| with_im2col)
                    .map(|layer| wide(layer.multiplications / layer.output[2].max(1)));
                wide(spec.input.elements()) + 2 * outputs.sum::<u128>() + im2col.sum::<u128>()
            }
        };
        Ok(MemoryEstimate {
            fixed: weights * if on_gpu { 5 } else { 7 },
            of_example,
        })
    }

    fn bytes(&self, batch: usize) -> u128 {
        4 * (batch as u128 * self.of_example + self.fixed)
    }

    /// Returns an error if the estimate exceeds the available memory.
    pub(crate) fn check(
        &self,
        spec: &Spec,
        length: usize,
        batch: usize,
        available: &AvailableMemory,
    ) -> Result<(), RunError> {
        let needed = self.bytes(batch);
        let bytes = u128::from(available.bytes);
        if needed <= bytes {
            return Ok(());
        }
        let room = (bytes / 4).saturating_sub(self.fixed);
        Err(RunError::Memory {
            sizes: match spec {
                Spec::CharLstm(spec) => format!(
                    "model.hidden = {}, data.length = {length} and data.batch = {batch}",
                    spec.hidden
                ),
                Spec::Feedforward(spec) => format!(
                    "model.filters = {:?}, model.units = {:?} and data.batch = {batch}",
                    spec.filters, spec.units
                ),
            },
            needed: needed / 1_000_000,
            available: available.bytes / 1_000_000,
            limit: available.limit.clone(),
            fits: room / self.of_example.max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use laq_models::{CharLstmSpec, FeedforwardSpec};

    use super::*;

    const GPU: MemorySite = MemorySite::Gpu { im2col: true };

    /// The batch size in the error fits; one more does not.
    #[test]
    fn the_error_has_the_largest_batch() {
        let available = AvailableMemory {
            bytes: 2_000_000_000,
            limit: "a limit".into(),
        };
        let specs = [
            Spec::CharLstm(CharLstmSpec::paper(87)),
            Spec::Feedforward(FeedforwardSpec::mnist()),
            Spec::Feedforward(FeedforwardSpec::cifar10()),
        ];
        for spec in specs {
            for site in [MemorySite::Cpu, GPU] {
                let estimate = MemoryEstimate::of(&spec, 100, site).expect("a good network");
                let check = |batch: usize| estimate.check(&spec, 100, batch, &available);
                let Err(RunError::Memory { fits, .. }) = check(1 << 40) else {
                    panic!("a batch of 2^40 fits");
                };
                let fits = usize::try_from(fits).expect("a small number");
                assert!(fits > 10);
                assert!(check(fits).is_ok() && check(fits + 1).is_err());
            }
        }
        // The im2col matrix is the largest buffer of a convolution.
        let vgg = Spec::Feedforward(FeedforwardSpec::cifar10());
        let [cpu, gpu] = [MemorySite::Cpu, GPU]
            .map(|site| MemoryEstimate::of(&vgg, 0, site).expect("good").of_example);
        let im2col = 9 * (1024 * (3 + 128) + 256 * (128 + 256) + 64 * (256 + 512));
        assert_eq!(gpu - cpu, im2col);
    }
}
