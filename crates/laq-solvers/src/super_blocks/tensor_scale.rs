//! Blocks with one more factor for all of them; see the [module](super).

use crate::blocks::block::is_flat;
use crate::blocks::{BlockFormat, ScaleGrid, Search};
use crate::error::SolveError;
use crate::passes::parallel::map_with;
use crate::problem::{Problem, other_size};

/// Factors that are compared in an octave.
const STEPS: usize = 48;

/// Factors that are compared around the best of those.
const FINE_STEPS: usize = 16;

/// The most blocks that take part in the comparison.
const MAX_COMPARED: usize = 1 << 12;

/// Blocks whose errors are summed at a time.
const PART: usize = 64;

/// Solves the blocks of a row-major matrix of `columns` columns with one factor t, an f32, for all of them:
/// `ŵ = t · scale · v(code)`. Writes what [`solve_blocks`](crate::blocks::solve_blocks) does, and returns t with `½ Σ d (w
/// − ŵ)²`.
///
/// The largest scale must not exceed the largest of the grid, and small ones lose precision: below 2⁻⁶ in
/// E4M3. So t is the best of an octave, from the largest real scale of a block over the largest of the grid on.
/// Of tensors with more than 4096 blocks, as many, evenly spaced, are compared. For a t every
/// block is optimal up to the rounding of `w/t` to f32; t is the best found.
///
/// ```
/// use laq_solvers::blocks::{BlockFormat, ScaleGrid};
/// use laq_solvers::super_blocks::solve_tensor_scale;
/// use laq_solvers::{Codebook, Problem};
///
/// // NVFP4: blocks of 16 with scales in E4M3.
/// let format = BlockFormat::new(Codebook::e2m1(), ScaleGrid::E4m3, 16)?;
/// let weights: Vec<f32> = (0..32).map(|i| 1e-6 * (i as f32).sin()).collect();
/// let (mut codes, mut scales) = ([0; 32], [0.0; 2]);
/// let problem = Problem::new(&weights, None)?;
/// let (t, error) = solve_tensor_scale(&format, problem, 32, &mut codes, &mut scales)?;
/// assert!(t < 1e-6 && scales[0] > 100.0 && error < 1e-13, "{t} {scales:?} {error}");
/// # Ok::<(), laq_solvers::SolveError>(())
/// ```
///
/// # Errors
/// As [`solve_blocks`](crate::blocks::solve_blocks).
pub fn solve_tensor_scale(
    format: &BlockFormat,
    problem: Problem<'_>,
    columns: usize,
    codes: &mut [u8],
    scales: &mut [f32],
) -> Result<(f32, f64), SolveError> {
    let weights = problem.weights();
    let Some(rows) = other_size(weights.len(), columns) else {
        let weights = weights.len();
        return Err(SolveError::Columns { weights, columns });
    };
    let in_row = format.blocks(columns);
    for (what, found, expected) in [
        ("codes", codes.len(), weights.len()),
        ("scales", scales.len(), rows * in_row),
    ] {
        if found != expected {
            return Err(SolveError::BlockOutput {
                what,
                expected,
                found,
            });
        }
    }
    if weights.is_empty() {
        return Ok((1.0, 0.0));
    }
    let tensor = Tensor {
        format,
        problem,
        columns,
        count: rows * in_row,
    };
    let (.., most) = format.grid().layout();
    let start = tensor.largest_scale() / most;
    let mut factor = 1.0;
    if start > 0.0 {
        // The largest scale may be a little above the largest of the grid.
        let coarse = |step: usize| start * (0.97 + step as f64 / STEPS as f64);
        let compared = tensor.count.min(MAX_COMPARED);
        factor = tensor.best_of(std::array::from_fn::<_, { STEPS + 1 }, _>(coarse), compared);
        let (middle, width) = (f64::from(factor), start / STEPS as f64);
        let fine = |step: usize| middle + width * (2.0 * step as f64 / FINE_STEPS as f64 - 1.0);
        factor = tensor.best_of(
            std::array::from_fn::<_, { FINE_STEPS + 1 }, _>(fine),
            compared,
        );
        // The blocks that were not compared may differ.
        factor = tensor.best_of([start, factor.into()], tensor.count);
    }
    Ok((factor, tensor.solve(factor, codes, scales)))
}

/// The nearest normal f32 of a positive number.
fn normal(factor: f64) -> f32 {
    (factor.min(f64::from(f32::MAX)) as f32).max(f32::MIN_POSITIVE)
}

/// The weights, in blocks.
struct Tensor<'a> {
    format: &'a BlockFormat,
    problem: Problem<'a>,
    columns: usize,
    /// The number of blocks.
    count: usize,
}

impl Tensor<'_> {
    fn solver(&self, grid: ScaleGrid) -> BlockSolver {
        let codebook = self.format.codebook();
        BlockSolver {
            search: Search::new(codebook, grid),
            values: codebook.values(),
            weights: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// The weights and the curvature of a block.
    fn block(&self, index: usize) -> (&[f32], Option<&[f32]>) {
        let in_row = self.format.blocks(self.columns);
        let (row, first) = (index / in_row, index % in_row * self.format.length());
        let last = self.columns.min(first + self.format.length());
        let range = row * self.columns + first..row * self.columns + last;
        let curvature = self.problem.curvature().map(|all| &all[range.clone()]);
        (&self.problem.weights()[range], curvature)
    }

    /// The largest real scale of a block with curvature.
    fn largest_scale(&self) -> f64 {
        let has_zero = self.format.codebook().values().contains(&0.0);
        let parts = (0..self.count).step_by(PART).collect();
        let largest = |solver: &mut BlockSolver, _, first: usize| {
            let mut largest = 0.0f64;
            for index in first..self.count.min(first + PART) {
                let (weights, curvature) = self.block(index);
                if !curvature.is_some_and(|d| is_flat(weights, d, has_zero)) {
                    let (scale, _) = solver.search.solve(weights, curvature, None, |_, _| {});
                    largest = largest.max(f64::from(scale.abs()));
                }
            }
            largest
        };
        let largest = map_with(parts, || self.solver(ScaleGrid::F32), largest);
        largest.into_iter().fold(0.0, f64::max)
    }

    /// The first of the factors with the least error of so many blocks.
    fn best_of<const N: usize>(&self, factors: [f64; N], compared: usize) -> f32 {
        let factors = factors.map(normal);
        let parts = (0..compared).step_by(PART).collect();
        let errors = |solver: &mut BlockSolver, _, first: usize| {
            let mut errors = [0.0; N];
            for index in first..compared.min(first + PART) {
                let block =
                    self.block((index as u64 * self.count as u64 / compared as u64) as usize);
                let mut last = None;
                for (error, factor) in errors.iter_mut().zip(factors) {
                    let (scale, of_block) = solver.solve(block, factor, last);
                    *error += of_block;
                    last = Some(scale);
                }
            }
            errors
        };
        let of_parts = map_with(parts, || self.solver(self.format.grid()), errors);
        let mut errors = [0.0; N];
        for of_part in of_parts {
            for (error, of_part) in errors.iter_mut().zip(of_part) {
                *error += of_part;
            }
        }
        let mut best = 0;
        for (index, error) in errors.iter().enumerate() {
            if *error < errors[best] {
                best = index;
            }
        }
        factors[best]
    }

    /// Writes codes and scales for a factor; returns the error.
    fn solve(&self, factor: f32, codes: &mut [u8], scales: &mut [f32]) -> f64 {
        let in_row = self.format.blocks(self.columns);
        let solve_row = |solver: &mut BlockSolver, row: usize, outputs: (&mut [u8], &mut [f32])| {
            let codes = outputs.0.chunks_mut(self.format.length());
            let (mut error, mut last) = (0.0, None);
            for (block, (codes, scale)) in codes.zip(outputs.1).enumerate() {
                let of_block;
                (*scale, of_block) = solver.solve(self.block(row * in_row + block), factor, last);
                codes.copy_from_slice(&solver.codes);
                last = Some(*scale);
                error += of_block;
            }
            error
        };
        let outputs = codes
            .chunks_mut(self.columns)
            .zip(scales.chunks_mut(in_row));
        let solver = || self.solver(self.format.grid());
        let errors = map_with(outputs.collect(), solver, solve_row);
        errors.into_iter().sum()
    }
}

/// Solves blocks for a factor. Allocates for the largest block alone.
struct BlockSolver {
    search: Search,
    values: Vec<f32>,
    /// Over the factor.
    weights: Vec<f32>,
    codes: Vec<u8>,
}

impl BlockSolver {
    /// Sets the codes; returns scale and error. `start` may be a good scale.
    fn solve(
        &mut self,
        (weights, curvature): (&[f32], Option<&[f32]>),
        factor: f32,
        start: Option<f32>,
    ) -> (f32, f64) {
        let (factor, most) = (f64::from(factor), f64::from(f32::MAX));
        let over = |w: &f32| (f64::from(*w) / factor).max(-most).min(most) as f32;
        self.weights.clear();
        self.weights.extend(weights.iter().map(over));
        self.codes.resize(weights.len(), 0);
        let codes = &mut self.codes;
        let put = |index: usize, code| codes[index] = code;
        let (scale, _) = self.search.solve(&self.weights, curvature, start, put);
        let step = factor * f64::from(scale);
        let mut error = 0.0;
        for (index, w) in weights.iter().enumerate() {
            let value = f64::from(self.values[usize::from(self.codes[index])]);
            let d = curvature.map_or(1.0, |d| f64::from(d[index]));
            error += d * (f64::from(*w) - step * value).powi(2);
        }
        (scale, 0.5 * error)
    }
}
