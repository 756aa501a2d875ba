//! Datasets in device memory, from which the device gathers batches.

use std::ops::Range;

use laq_tensor::{Backend, Tensor};

use crate::ModelError;

/// Examples in host memory, for [`crate::Training::upload`].
pub enum Examples<'a> {
    /// Consecutive sequences of a text: sequence n starts at token n·T.
    Text(&'a [u8]),
    /// Images of `numbers` elements each.
    Images {
        /// The class of each image.
        labels: &'a [u8],
        /// Elements of one image.
        numbers: usize,
        /// Fills the slice with consecutive images, starting at the given index.
        fill: &'a mut dyn FnMut(usize, &mut [f32]),
    },
}

/// Elements per copy to the device: 32 MB.
const BLOCK: usize = 8 << 20;

/// A dataset on the device with the permutation of its examples.
pub(crate) struct DeviceDataset<B: Backend> {
    pub(crate) set: DeviceExamples<B>,
    pub(crate) order: B::Buffer<u32>,
    /// Number of examples.
    pub(crate) count: usize,
}

pub(crate) enum DeviceExamples<B: Backend> {
    Text(B::Buffer<u8>),
    Images {
        pixels: Tensor<B>,
        labels: B::Buffer<u8>,
    },
}

/// Identifies a dataset uploaded by [`crate::Training::upload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetHandle(pub(crate) usize);

impl<B: Backend> DeviceDataset<B> {
    /// The positions of batch `index` of `size` examples. The last batch may have fewer unless
    /// `whole` is set.
    pub(crate) fn batch(
        &self,
        index: usize,
        size: usize,
        whole: bool,
    ) -> Result<Range<usize>, ModelError> {
        let first = index.saturating_mul(size);
        let least = if whole { size } else { 1 };
        if first.saturating_add(least) <= self.count {
            return Ok(first..self.count.min(first.saturating_add(size)));
        }
        Err(ModelError::Batch(format!(
            "batch {index} of {size} examples, but there are {} examples",
            self.count
        )))
    }

    /// Copies the examples; `length` is that of a sequence.
    pub(crate) fn new(
        backend: &B,
        examples: Examples<'_>,
        length: usize,
        index_range: IndexRange,
    ) -> Result<Self, ModelError> {
        let symbols = |values: &[u8]| -> Result<B::Buffer<u8>, ModelError> {
            index_range.check(values, "")?;
            let mut symbols = backend.indices(values.len(), index_range.count)?;
            backend.write(values, &mut symbols)?;
            Ok(symbols)
        };
        let (set, count) = match examples {
            Examples::Text(text) => (
                DeviceExamples::Text(symbols(text)?),
                text.len().saturating_sub(1) / length,
            ),
            Examples::Images {
                labels,
                numbers,
                fill,
            } => {
                let mut pixels = backend.zeros(&[labels.len(), numbers])?;
                let at_once = (BLOCK / numbers.max(1)).max(1);
                let mut piece = vec![0.0; at_once.min(labels.len()) * numbers];
                for first in (0..labels.len()).step_by(at_once) {
                    let piece = &mut piece[..at_once.min(labels.len() - first) * numbers];
                    fill(first, piece);
                    backend.write_at(piece, first * numbers, &mut pixels)?;
                }
                let set = DeviceExamples::Images {
                    pixels,
                    labels: symbols(labels)?,
                };
                (set, labels.len())
            }
        };
        let mut order = backend.indices(count, count)?;
        backend.write(&(0..count as u32).collect::<Vec<_>>(), &mut order)?;
        Ok(DeviceDataset { set, order, count })
    }
}

/// The valid range of token or label indices: `0..count`.
#[derive(Clone, Copy)]
pub(crate) struct IndexRange {
    /// Singular for error messages: "symbol" or "label".
    pub(crate) one: &'static str,
    /// Plural for error messages: "symbols" or "classes".
    pub(crate) all: &'static str,
    pub(crate) count: usize,
}

impl IndexRange {
    /// Checks that all values are in range; `place` is appended to the position in the error.
    pub(crate) fn check(&self, values: &[u8], place: &str) -> Result<(), ModelError> {
        let IndexRange { one, all, count } = *self;
        match values.iter().position(|&value| usize::from(value) >= count) {
            None => Ok(()),
            Some(at) => Err(ModelError::Batch(format!(
                "{one} {} at index {at}{place}, but the network has {count} {all}",
                values[at]
            ))),
        }
    }
}
