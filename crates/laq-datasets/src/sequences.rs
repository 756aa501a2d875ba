//! Batches of equally long sequences from one split of a text.

use ndarray::Array2;
use thiserror::Error;

/// One split of a text as batches of `batch` sequences of `length` symbols.
///
/// Sequence `s` reads `symbols[s·T .. s·T + T]` and predicts `symbols[s·T + 1 ..= s·T + T]`, `T =
/// length`: the targets are the inputs shifted by one. Only whole batches are made: `⌊⌊(n − 1) / T⌋
/// / B⌋` of them, `n = symbols.len()`, `B = batch`. The remaining symbols at the end, fewer than
/// `B·T`, are not used (paper §5: whole batches).
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    symbols: &'a [u8],
    length: usize,
    batch: usize,
    batches: usize,
}

/// The errors of [`Sequences::new`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SequencesError {
    /// The length of a sequence or the number of sequences in a batch is zero.
    #[error(
        "found a batch of {batch} sequences of {length} symbols, expected both to be at least 1"
    )]
    Zero {
        /// Symbols per sequence.
        length: usize,
        /// Sequences per batch.
        batch: usize,
    },
    /// The split is shorter than one batch.
    #[error(
        "the split has {symbols} symbols, and a batch of {batch} sequences of {length} symbols needs at least \
         {needed}; use a smaller batch, shorter sequences or a longer text"
    )]
    TooShort {
        /// Symbols in the split.
        symbols: usize,
        /// Symbols per sequence.
        length: usize,
        /// Sequences per batch.
        batch: usize,
        /// `batch · length + 1`, the symbols of one batch.
        needed: u128,
    },
    /// The number of sequences exceeds 32 bits.
    #[error(
        "the split has {sequences} sequences of {length} symbols, expected at most {}; use longer sequences",
        u32::MAX
    )]
    TooMany {
        /// Sequences in whole batches.
        sequences: usize,
        /// Symbols per sequence.
        length: usize,
    },
}

/// Whole batches of `batch` sequences of `length` symbols in a split of `symbols` symbols:
/// `⌊⌊(symbols − 1) / length⌋ / batch⌋`, and 0 if `symbols`, `length` or `batch` is 0.
pub fn count_batches(symbols: usize, length: usize, batch: usize) -> usize {
    symbols
        .saturating_sub(1)
        .checked_div(length)
        .and_then(|sequences| sequences.checked_div(batch))
        .unwrap_or(0)
}

impl<'a> Sequences<'a> {
    /// Batches of `batch` sequences of `length` symbols.
    ///
    /// # Errors
    ///
    /// [`SequencesError`] if `length` or `batch` is 0, `symbols` is shorter than one batch, or
    /// there are more than `u32::MAX` sequences.
    pub fn new(symbols: &'a [u8], length: usize, batch: usize) -> Result<Self, SequencesError> {
        if length == 0 || batch == 0 {
            return Err(SequencesError::Zero { length, batch });
        }
        let batches = count_batches(symbols.len(), length, batch);
        if batches == 0 {
            let needed = batch as u128 * length as u128 + 1;
            return Err(SequencesError::TooShort {
                symbols: symbols.len(),
                length,
                batch,
                needed,
            });
        }
        let sequences = batches * batch;
        if u32::try_from(sequences).is_err() {
            return Err(SequencesError::TooMany { sequences, length });
        }
        Ok(Self {
            symbols,
            length,
            batch,
            batches,
        })
    }

    /// Number of whole batches.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Number of sequences in whole batches: the length of an order.
    pub fn count(&self) -> usize {
        self.batches * self.batch
    }

    /// The symbols of all sequences and targets; sequence n begins at symbol n·T.
    pub fn symbols(&self) -> &'a [u8] {
        &self.symbols[..self.count() * self.length + 1]
    }

    /// T, symbols per sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// B, sequences per batch.
    pub fn batch_size(&self) -> usize {
        self.batch
    }

    /// Writes batch `index` of an epoch that visits the sequences in `order`.
    ///
    /// Time-major: `inputs[t·B + b]` and `targets[t·B + b]` are step `t` of sequence `order[index·B
    /// + b]`. Both slices have T·B elements. Allocates nothing.
    ///
    /// # Panics
    ///
    /// If a slice has another length, `index` is not below [`batches`](Self::batches), or `order`
    /// is shorter than [`count`](Self::count) or contains an index out of range.
    pub fn fill(&self, order: &[u32], index: usize, inputs: &mut [u8], targets: &mut [u8]) {
        let (length, batch) = (self.length, self.batch);
        assert!(index < self.batches, "batch {index} of {}", self.batches);
        assert_eq!(inputs.len(), length * batch, "inputs have T·B elements");
        assert_eq!(targets.len(), length * batch, "targets have T·B elements");
        let visited = &order[index * batch..][..batch];
        for (b, &sequence) in visited.iter().enumerate() {
            let sequence = sequence as usize;
            assert!(
                sequence < self.count(),
                "sequence {sequence} of {}",
                self.count()
            );
            let window = &self.symbols[sequence * length..][..length + 1];
            for t in 0..length {
                inputs[t * batch + b] = window[t];
                targets[t * batch + b] = window[t + 1];
            }
        }
    }

    /// Batch `index` as two arrays (inputs, targets) of shape T × B; see [`fill`](Self::fill).
    ///
    /// # Panics
    ///
    /// As [`fill`](Self::fill).
    pub fn batch(&self, order: &[u32], index: usize) -> (Array2<u8>, Array2<u8>) {
        let mut inputs = Array2::zeros((self.length, self.batch));
        let mut targets = Array2::zeros((self.length, self.batch));
        let standard = "a new array is contiguous";
        self.fill(
            order,
            index,
            inputs.as_slice_mut().expect(standard),
            targets.as_slice_mut().expect(standard),
        );
        (inputs, targets)
    }
}
