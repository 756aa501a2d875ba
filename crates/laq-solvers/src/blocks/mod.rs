//! Many small problems: a scale for each block of a row, as files store it.
//!
//! A block of n weights w with curvature d is problem (1) with values v that need not be symmetric and
//! scales s of a [`ScaleGrid`]:
//!
//! > minimise over s of the grid and codes c: `E(s, c) = ½ · Σ_i d_i (w_i − s·v(c_i))²`
//!
//! [`solve_blocks`] finds the optimum:
//!
//! - *One sign.* A negative scale is a positive one of the negated values. For `s > 0` the best value of
//!   a weight is the nearest to `w/s`, and twice the reduction of the error of all zeros is `G(s) =
//!   2s·H(s)` with `H(s) = max over c of Σ d w v − ½ s Σ d v²`, a maximum of lines and so convex.
//! - *Cells.* Between two scales H is below its chord, which bounds G there. Sixteen scales, evaluated at once, cut the
//!   range in which G can reach the best gain found into cells; those whose bound is below it are left out, and the
//!   others are cut once more if they are wide. A scale that is known to be good, such as that of the last step of a
//!   training, leaves few from the start.
//! - *Assignments.* In a remaining cell the best values change where a weight passes the middle of two
//!   values, at `s = w/m`. These scales are sorted and visited one by one, which gives `S = Σ d w v` and
//!   `D = Σ d v²` of every assignment that is the best for a scale of the cell.
//! - *Grid.* For a fixed assignment E is a parabola in s with its minimum at `S/D`, so its best scale on
//!   the grid is a neighbour of `S/D`. Both are compared wherever `S²/D` exceeds the best gain. The best
//!   scale of the grid with its nearest values is one of the assignments visited, so it is found. Of a grid with few
//!   scales (E4M3, E8M0) those of the remaining cells are compared one by one instead.
//!
//! Sums are f64 in a fixed order. All bits are equal for every instruction set and number of threads.

pub(crate) mod block;
mod grid;
mod search;
#[cfg(test)]
mod tests;
pub(crate) mod values;

pub use self::grid::ScaleGrid;

pub(crate) use self::search::Search;
use crate::codebook::Codebook;
use crate::error::SolveError;
use crate::granularity::MAX_BLOCK;
use crate::passes::parallel::map_with;
use crate::problem::{Problem, other_size};

/// How blocks are stored: values, scales and weights of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockFormat {
    codebook: Codebook,
    grid: ScaleGrid,
    length: usize,
}

impl BlockFormat {
    /// A format with `length` weights a block.
    ///
    /// # Errors
    /// [`SolveError::BlockLength`] if `length` is not in 1 to [`MAX_BLOCK`].
    pub fn new(codebook: Codebook, grid: ScaleGrid, length: usize) -> Result<Self, SolveError> {
        if !(1..=MAX_BLOCK).contains(&length) {
            return Err(SolveError::BlockLength { length });
        }
        Ok(Self {
            codebook,
            grid,
            length,
        })
    }

    /// The values of the codes.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// The scales.
    pub fn grid(&self) -> ScaleGrid {
        self.grid
    }

    /// The weights of a block; the last of a row may be shorter.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The number of blocks of a row of `columns` weights.
    pub fn blocks(&self, columns: usize) -> usize {
        columns.div_ceil(self.length)
    }
}

/// Solves every block of a row-major matrix of `columns` columns; the last block of a row may be
/// shorter. Writes a code for each weight and a scale for each block, row by row, and returns `½ Σ d (w −
/// ŵ)²` with `ŵ = scale · v(code)`.
///
/// A block without curvature that counts, as [`Problem`] has it, is solved without curvature. Rows are shared out to the
/// threads of the current rayon pool (feature `rayon`).
///
/// ```
/// use laq_solvers::blocks::{BlockFormat, ScaleGrid, solve_blocks};
/// use laq_solvers::{Codebook, Problem};
///
/// // −1, 0, 1, 2 with scales in f16 of either sign, as llama.cpp's Q2_0; four weights a block here.
/// let format = BlockFormat::new(Codebook::integers(-1, 2)?, ScaleGrid::F16, 4)?;
/// let problem = Problem::new(&[0.5, 1.0, -0.5, 0.0, -0.5, -1.0, 0.5, 0.1], None)?;
/// let (mut codes, mut scales) = ([0; 8], [0.0; 2]);
/// solve_blocks(&format, problem, 8, &mut codes, &mut scales)?;
/// assert_eq!(codes, [2, 3, 0, 1, 2, 3, 0, 1]);
/// assert_eq!(scales, [0.5, -0.5]);
/// # Ok::<(), laq_solvers::SolveError>(())
/// ```
///
/// # Errors
/// [`SolveError`] if `columns` does not divide the weights, or codes or scales have another length.
pub fn solve_blocks(
    format: &BlockFormat,
    problem: Problem<'_>,
    columns: usize,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Result<f64, SolveError> {
    let weights = problem.weights();
    let Some(rows) = other_size(weights.len(), columns) else {
        let weights = weights.len();
        return Err(SolveError::Columns { weights, columns });
    };
    let (expected, found) = (weights.len(), codes.len());
    if found != expected {
        return Err(SolveError::BlockOutput {
            what: "codes",
            expected,
            found,
        });
    }
    let blocks = format.blocks(columns);
    let (expected, found) = (rows * blocks, scales.len());
    if found != expected {
        return Err(SolveError::BlockOutput {
            what: "scales",
            expected,
            found,
        });
    }
    if weights.is_empty() {
        return Ok(0.0);
    }
    let solve_row = |search: &mut Search, row: usize, outputs: (&mut [u8], &mut [f32])| {
        let (codes, scales) = outputs;
        let (mut error, mut last) = (0.0, None);
        for (block, (codes, scale)) in codes.chunks_mut(format.length).zip(scales).enumerate() {
            let start = row * columns + block * format.length;
            let range = start..start + codes.len();
            let curvature = problem.curvature();
            let curvature = curvature.map(|curvature| &curvature[range.clone()]);
            let of_block;
            let put = |index: usize, code| codes[index] = code;
            (*scale, of_block) = search.solve(&weights[range], curvature, last, put);
            last = Some(*scale);
            error += of_block;
        }
        error
    };
    let outputs = codes.chunks_mut(columns).zip(scales.chunks_mut(blocks));
    let search = || Search::new(&format.codebook, format.grid);
    let errors = map_with(outputs.collect(), search, solve_row);
    Ok(errors.into_iter().sum())
}
