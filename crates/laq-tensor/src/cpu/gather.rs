//! Batches from a dataset in host memory.

use super::CpuBackend;
use super::memory::Buffer;
use crate::{BackendError, Gather};

impl Gather for CpuBackend {
    fn gather_images(
        &self,
        images: &Buffer<f32>,
        labels: &Buffer<u8>,
        permutation: &Buffer<u32>,
        first: usize,
        rows: usize,
        pixels: &mut Buffer<f32>,
        targets: &mut Buffer<u8>,
    ) -> Result<(), BackendError> {
        let size = images.len() / labels.len();
        let labels_of = labels.indices_below(targets.bound());
        let examples = &permutation.indices_below(labels.len())[first..first + rows];
        let rows = pixels.as_mut_slice().chunks_exact_mut(size);
        let rows = rows.zip(targets.as_mut_slice());
        for ((row, target), &example) in rows.zip(examples) {
            let example = example as usize;
            row.copy_from_slice(&images.as_slice()[example * size..(example + 1) * size]);
            *target = labels_of[example];
        }
        Ok(())
    }

    fn gather_text(
        &self,
        text: &Buffer<u8>,
        permutation: &Buffer<u32>,
        first: usize,
        batch: usize,
        inputs: &mut Buffer<u8>,
        targets: &mut Buffer<u8>,
    ) -> Result<(), BackendError> {
        let length = inputs.len() / batch;
        let tokens = text.indices_below(inputs.bound().min(targets.bound()));
        let sequences = permutation.indices_below(text.len().saturating_sub(1) / length);
        let rows = inputs.as_mut_slice().iter_mut().zip(targets.as_mut_slice());
        for (row, (input, target)) in rows.enumerate() {
            let (time, sequence) = (row / batch, row % batch);
            let at = length * sequences[first + sequence] as usize + time;
            (*input, *target) = (tokens[at], tokens[at + 1]);
        }
        Ok(())
    }
}
