//! A matrix of packed weights that multiplies vectors.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::{iter, mem};

use laq_simd::Isa;

use crate::code_table::CodeTable;
use crate::codes::{BLOCK, Packing};
use crate::integer_table::IntegerTable;
use crate::kernels::{self, Lookup, MAX_BATCH, MAX_PANELS, PANEL_ROWS, Panels, Values, Word};
use crate::pack_error::PackError;
use crate::steps::check_steps;
use crate::threads::{for_each, with_scratch};

/// Depth of a slice of the dense product in training: sums of a slice are rounded together.
pub const DENSE_DEPTH: usize = 512;

/// The most multipliers of a matrix that multiplies packed codes.
pub(crate) const MAX_CODES: usize = 16;

/// Weights of a task, approximately.
const TASK: usize = 1 << 19;
/// Products up to which one thread is faster: waking another takes some microseconds.
const ONE_THREAD: usize = 1 << 22;

/// Consecutive panels of a task whose rows have the same steps.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) panels: Range<usize>,
    /// The value of each code; `None` where rows of a panel have different steps.
    pub(crate) values: Option<Box<Lookup>>,
}

/// A matrix of packed weights, re-tiled for products.
///
/// Row r belongs to group `r · groups / rows`, and a group has one step, or one for multipliers that
/// are not negative and one for negative ones. The weight of code c is `step · multiplier[c]`, rounded
/// once to f32.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    table: CodeTable,
    /// Steps of each group: of multipliers that are not negative, and of negative ones.
    steps: Vec<[f32; 2]>,
    words: Vec<Word>,
    words_per_panel: usize,
    bits: usize,
    /// The multipliers that are not negative, and the negative ones; zero elsewhere.
    by_sign: Box<[Lookup; 2]>,
    runs: Vec<Run>,
    /// Whether positive and negative multipliers have different steps.
    pub(crate) two_steps: bool,
    pub(crate) integers: Option<IntegerTable>,
}

/// Writes codes as lanes of `BITS` bits: code k of a word is in byte k mod 4, from bit ⌊k/4⌋·`BITS` on.
fn put_words<const BITS: usize>(codes: &[u8; BLOCK], words: &mut [Word], lane: usize) {
    let (fours, _) = codes.as_chunks::<4>();
    for (word, fours) in words.iter_mut().zip(fours.chunks_exact(8 / BITS)) {
        let fours = fours.iter().map(|codes| u32::from_le_bytes(*codes));
        let shifted = fours
            .enumerate()
            .map(|(index, codes)| codes << (BITS * index));
        word.0[lane] = shifted.fold(0, |word, codes| word | codes);
    }
}

impl PackedMatrix {
    /// A matrix of `rows` × `columns` weights from packed codes.
    ///
    /// `steps` has one element for each group of consecutive rows, or two with `two_steps`, and the
    /// number of groups divides `rows`.
    ///
    /// ```
    /// use laq_packed::{CodeTable, PackedMatrix, Packing};
    /// use laq_solvers::Codebook;
    ///
    /// // ŵ = 0.5·[[1, 0, −1], [1, 0, 0]]
    /// let packing = Packing::bits(2)?;
    /// let packed = packing.pack(&[1, 0, -1, 1, 0, 0], 2, 3, &Codebook::Ternary)?;
    /// let table = CodeTable::of(&Codebook::Ternary)?;
    /// let matrix = PackedMatrix::new(2, 3, packing, &packed, table, &[0.5], false)?;
    /// let mut y = [0.0; 2];
    /// matrix.multiply(&[1.0, 2.0, 4.0], &mut y);
    /// assert_eq!(y, [-1.5, 0.5]);
    /// # Ok::<(), laq_packed::PackError>(())
    /// ```
    ///
    /// # Errors
    /// [`PackError`] if a length does not match, a code has no multiplier, or a step is not finite.
    pub fn new(
        rows: usize,
        columns: usize,
        packing: Packing,
        packed: &[u8],
        table: CodeTable,
        steps: &[f32],
        two_steps: bool,
    ) -> Result<Self, PackError> {
        check_steps(steps, two_steps, rows)?;
        let per_group = if two_steps { 2 } else { 1 };
        let steps: Vec<[f32; 2]> = (steps.chunks_exact(per_group))
            .map(|steps| [steps[0], steps[per_group - 1]])
            .collect();
        let count = table.multipliers().len();
        if count > MAX_CODES {
            return Err(PackError::TooManyCodes { found: count });
        }
        let bits = match count {
            ..=2 => 1,
            3..=4 => 2,
            _ => 4,
        };
        let per_word = 32 / bits;
        let words_per_panel = columns.div_ceil(per_word);
        // The packed codes have at least a bit of each column of each row.
        packing.check_packed(packed, rows, columns)?;
        // One word more: see `Panels`.
        let count_of_words = rows.div_ceil(PANEL_ROWS) * words_per_panel + 1;
        let mut words = vec![Word([0; PANEL_ROWS]); count_of_words];
        packing.unpack_with(packed, rows, columns, count, |row, part, codes| {
            let panel = &mut words[row / PANEL_ROWS * words_per_panel..][..words_per_panel];
            let panel = &mut panel[part.start / per_word..part.end.div_ceil(per_word)];
            let lane = row % PANEL_ROWS;
            match bits {
                1 => put_words::<1>(codes, panel, lane),
                2 => put_words::<2>(codes, panel, lane),
                _ => put_words::<4>(codes, panel, lane),
            }
        })?;
        let mut matrix = Self {
            rows,
            columns,
            integers: IntegerTable::of(&table),
            by_sign: Box::new(table.by_sign().map(|values| Lookup::new(bits, values))),
            table,
            two_steps: steps.iter().any(|[above, below]| above != below),
            steps,
            words,
            words_per_panel,
            bits,
            runs: Vec::new(),
        };
        matrix.runs = matrix.find_runs();
        Ok(matrix)
    }

    /// The number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The multipliers of the codes.
    pub fn table(&self) -> &CodeTable {
        &self.table
    }

    /// Bytes in memory: codes of 1, 2 or 4 bits, with rows padded to a multiple of 16.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.words[..]) + self.steps.len() * 8
    }

    /// The steps of a row.
    fn steps_of(&self, row: usize) -> [f32; 2] {
        match self.steps[..] {
            [steps] => steps,
            _ => self.steps[row / (self.rows / self.steps.len()).max(1)],
        }
    }

    /// Splits the panels where their steps change, and into tasks.
    fn find_runs(&self) -> Vec<Run> {
        let per_panel = PANEL_ROWS * self.columns.max(1);
        let panels_per_task = (TASK / per_panel)
            .next_multiple_of(MAX_PANELS)
            .max(MAX_PANELS);
        let mut runs: Vec<Run> = Vec::new();
        if self.columns == 0 {
            return runs;
        }
        for panel in 0..self.rows.div_ceil(PANEL_ROWS) {
            let rows = panel * PANEL_ROWS..self.rows.min((panel + 1) * PANEL_ROWS);
            let first = self.steps_of(rows.start);
            let equal = rows.clone().all(|row| self.steps_of(row) == first);
            let values = equal.then(|| Box::new(Lookup::new(self.bits, self.table.values(first))));
            match runs.last_mut() {
                Some(run) if run.values == values && run.panels.len() < panels_per_task => {
                    run.panels.end += 1;
                }
                _ => runs.push(Run {
                    panels: panel..panel + 1,
                    values,
                }),
            }
        }
        runs
    }

    pub(crate) fn panels(&self) -> Panels<'_> {
        Panels {
            words: &self.words,
            words_per_panel: self.words_per_panel,
            bits: self.bits,
        }
    }

    /// Writes the decoded weights, row-major.
    ///
    /// # Panics
    /// If `weights` does not have rows × columns elements.
    pub fn decode(&self, weights: &mut [f32]) {
        assert_eq!(weights.len(), self.rows * self.columns);
        let (per_word, mask) = (32 / self.bits, (1 << self.bits) - 1);
        for (row, weights) in weights.chunks_exact_mut(self.columns.max(1)).enumerate() {
            let values = self.table.values(self.steps_of(row));
            let panel = row / PANEL_ROWS * self.words_per_panel;
            for (column, weight) in weights.iter_mut().enumerate() {
                let lane = self.words[panel + column / per_word].0[row % PANEL_ROWS];
                let k = column % per_word;
                *weight = values[(lane >> (8 * (k % 4) + self.bits * (k / 4))) as usize & mask];
            }
        }
    }

    /// `y = W·x` in f32.
    ///
    /// The sums are those of the dense product of the decoded weights in training, with the same
    /// instruction set: in the order of the columns, in slices of [`DENSE_DEPTH`].
    ///
    /// # Panics
    /// If `x` does not have one element per column, or `y` one per row.
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) {
        self.multiply_batch(x, 1, y);
    }

    /// [`multiply`](Self::multiply) of `batch` vectors: `x` is batch × columns and `y` batch × rows,
    /// row-major.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn multiply_batch(&self, x: &[f32], batch: usize, y: &mut [f32]) {
        self.product(Isa::selected(), x, batch, DENSE_DEPTH, false, y);
    }

    /// Y ← X·Wᵀ, or Y ← Y + X·Wᵀ with `accumulate`, with sums rounded per slice of `depth` columns.
    ///
    /// # Panics
    /// If a length does not match, or `depth` is less than the columns and not a multiple of 32.
    pub fn product(
        &self,
        isa: Isa,
        x: &[f32],
        batch: usize,
        depth: usize,
        accumulate: bool,
        y: &mut [f32],
    ) {
        if !has_products((self.rows, self.columns), x, batch, accumulate, y) {
            return;
        }
        let per_word = 32 / self.bits;
        // Slices end at words, except the last.
        let depth = if depth < self.columns {
            depth
        } else {
            self.columns.next_multiple_of(per_word)
        };
        assert!(depth > 0 && depth.is_multiple_of(per_word), "whole words");
        let padded = self.words_per_panel * per_word;
        with_scratch(batch * padded, |vectors| {
            interleave(x, self.columns, padded, vectors);
            let vectors = &*vectors;
            let rows = self.rows.next_multiple_of(PANEL_ROWS);
            with_scratch(batch * rows, |sums| {
                if accumulate {
                    for (of_y, of_sums) in parts(self.rows, batch) {
                        sums[of_sums].copy_from_slice(&y[of_y]);
                    }
                }
                let products = batch * self.rows * self.columns;
                self.for_each_run(sums, batch, products > ONE_THREAD, |run, sums| {
                    self.multiply_run(isa, run, (vectors, batch, depth), accumulate, sums);
                });
                for (of_y, of_sums) in parts(self.rows, batch) {
                    y[of_y].copy_from_slice(&sums[of_sums]);
                }
            });
        });
    }

    /// Calls `work` with each run and its part of `values`, which has 16 · `batch` elements for each
    /// panel; the last panel may have fewer.
    pub(crate) fn for_each_run(
        &self,
        mut values: &mut [f32],
        batch: usize,
        parallel: bool,
        work: impl Fn(&Run, &mut [f32]) + Sync,
    ) {
        let tasks = self.runs.iter().map(|run| {
            let length = values.len().min(run.panels.len() * PANEL_ROWS * batch);
            let (own, others) = mem::take(&mut values).split_at_mut(length);
            values = others;
            (run, own)
        });
        let parallel = parallel && self.runs.len() > 1;
        for_each(tasks, parallel, |(run, own)| work(run, own));
    }

    /// The sums of the panels of a run, for each panel and vector 16 rows.
    fn multiply_run(
        &self,
        isa: Isa,
        run: &Run,
        (vectors, batch, depth): (&[f32], usize, usize),
        accumulate: bool,
        sums: &mut [f32],
    ) {
        let panels = self.panels();
        let per_word = panels.columns_per_word();
        let padded = self.words_per_panel * per_word;
        let (sums, _) = sums.as_chunks_mut::<PANEL_ROWS>();
        let mut slice = [[0.0; PANEL_ROWS]; MAX_PANELS * MAX_BATCH];
        for (start, size) in batch_blocks(batch) {
            let vectors = &vectors[start * padded..][..size * padded];
            let mut panel = run.panels.start;
            while panel < run.panels.end {
                // Rows of different steps have a panel of their own.
                let together = if run.values.is_some() { MAX_PANELS } else { 1 };
                let count = together.min(run.panels.end - panel);
                let steps;
                let values = match &run.values {
                    Some(values) => Values::Shared(values),
                    None => {
                        steps = self.steps_by_lane(panel);
                        Values::PerRow {
                            multipliers: &self.by_sign,
                            steps: &steps,
                        }
                    }
                };
                let mut first_column = 0;
                while first_column < padded {
                    let last_column = padded.min(first_column + depth);
                    let words = first_column / per_word..last_column / per_word;
                    let x = &vectors[first_column * size..last_column * size];
                    let add = accumulate || first_column > 0;
                    let row = |place: usize| {
                        let (p, b) = (place / size, place % size);
                        (panel - run.panels.start + p) * batch + start + b
                    };
                    let slice = &mut slice[..count * size];
                    if add {
                        for (place, slice) in slice.iter_mut().enumerate() {
                            *slice = sums[row(place)];
                        }
                    }
                    let panel = (panel, count);
                    kernels::multiply(isa, panels, panel, words, values, (x, size), add, slice);
                    for (place, slice) in slice.iter().enumerate() {
                        sums[row(place)] = *slice;
                    }
                    first_column = last_column;
                }
                panel += count;
            }
        }
    }

    /// The steps of the rows of a panel, by sign; rows from the end of the matrix on have those of
    /// the last row.
    pub(crate) fn steps_by_lane(&self, panel: usize) -> [[f32; PANEL_ROWS]; 2] {
        let mut steps = [[0.0; PANEL_ROWS]; 2];
        for lane in 0..PANEL_ROWS {
            let row = (panel * PANEL_ROWS + lane).min(self.rows - 1);
            [steps[0][lane], steps[1][lane]] = self.steps_of(row);
        }
        steps
    }
}

/// Whether a product of a matrix of `rows` × `columns` has anything to sum; if not, y is finished.
///
/// # Panics
/// If a length does not match.
pub(crate) fn has_products(
    (rows, columns): (usize, usize),
    x: &[f32],
    batch: usize,
    accumulate: bool,
    y: &mut [f32],
) -> bool {
    assert_eq!(
        x.len(),
        batch * columns,
        "one element per column and vector"
    );
    assert_eq!(y.len(), batch * rows, "one element per row and vector");
    if columns == 0 && !accumulate {
        y.fill(0.0);
    }
    batch > 0 && rows > 0 && columns > 0
}

/// For each panel of a matrix and each vector of a batch, the rows of y (batch × rows), and as many
/// elements of the sums (panels × batch × 16).
fn parts(rows: usize, batch: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    (0..rows.div_ceil(PANEL_ROWS)).flat_map(move |panel| {
        let first = panel * PANEL_ROWS;
        let present = PANEL_ROWS.min(rows - first);
        (0..batch).map(move |vector| {
            let of_y = vector * rows + first;
            let of_sums = (panel * batch + vector) * PANEL_ROWS;
            (of_y..of_y + present, of_sums..of_sums + present)
        })
    })
}

/// The first vector and the size of each block of a batch.
fn batch_blocks(batch: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    iter::from_fn(move || {
        let size = [8, 4, 2, 1]
            .into_iter()
            .find(|size| start + size <= batch)?;
        start += size;
        Some((start - size, size))
    })
}

/// Interleaves the vectors of each block of [`batch_blocks`], padded with zeros to `padded` elements.
fn interleave(x: &[f32], columns: usize, padded: usize, vectors: &mut [f32]) {
    for (start, size) in batch_blocks(x.len() / columns) {
        let block = &mut vectors[start * padded..][..size * padded];
        let (elements, padding) = block.split_at_mut(columns * size);
        padding.fill(0.0);
        let x = &x[start * columns..][..size * columns];
        if size == 1 {
            elements.copy_from_slice(x);
            continue;
        }
        for (b, x) in x.chunks_exact(columns).enumerate() {
            for (target, &x) in elements.chunks_exact_mut(size).zip(x) {
                target[b] = x;
            }
        }
    }
}
