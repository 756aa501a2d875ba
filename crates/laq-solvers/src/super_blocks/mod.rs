//! Scales of two levels: super-blocks, as files of language models store them.
//!
//! A super-block has some blocks of weights. Each block b has an integer scale `s_b`, in some formats also
//! an integer minimum `t_b`; what they are multiplied by, `d` and `m`, is stored in f16 for the super-block:
//!
//! > `ŵ_i = d · s_b · v(c_i) − m · t_b`
//!
//! | format | super-block | codes | `s_b` | `t_b` |
//! |---|---|---|---|---|
//! | [`q2_k`](SuperBlockFormat::q2_k) | 16 blocks of 16 | 0 to 3 | 0 to 15 | 0 to 15 |
//! | [`q3_k`](SuperBlockFormat::q3_k) | 16 blocks of 16 | −4 to 3 | −32 to 31 | none |
//! | [`q4_k`](SuperBlockFormat::q4_k) | 8 blocks of 32 | 0 to 15 | 0 to 63 | 0 to 63 |
//! | [`iq4_xs`](SuperBlockFormat::iq4_xs) | 8 blocks of 32 | the table of IQ4_NL | −32 to 31 | none |
//!
//! [`solve_super_blocks`] minimises `½ · Σ_i κ_i (w_i − ŵ_i)²` with the curvature κ (d elsewhere; here it
//! is the factor of the scales). Its result is the *best found*, not the optimum of all blocks together:
//!
//! - *Without minima.* Every block is solved exactly with a real scale. The largest of them is divided by
//!   numbers that span two octaves, and every one by the largest integer, which gives values of `d`. For each of them the
//!   blocks are independent, and compare integers around their best scale of each sign. From the two best
//!   values, `d` is fitted to codes and integers by least squares, and these to `d`, as long as this helps; then `d` moves
//!   to neighbours in f16. For the last `d` every block compares all integers: given `d`, the rest
//!   is optimal up to rounding in f32.
//! - *With minima.* Every block is fitted by a real scale and minimum, alternating between nearest codes
//!   and least squares from sixteen starts, which are ranges of its weights. The largest of both give values of `d`,
//!   and of `m` for the best `d`. For each pair the blocks compare four integers around their best scale, and
//!   with each four around the best minimum for it. Then `d` and `m` are fitted as above, both at once. The
//!   negated weights are tried as well, since the minimum may be stored for the other end of the weights: then `d` and
//!   `m` are negative. Weights that all have one sign may have minima of theirs: then the signs differ.
//! - *A scale for the tensor*, [`solve_tensor_scale`]: blocks with scales in E4M3 and one factor in f32
//!   for all of them, as NVFP4. The factor is the best of an octave of values; given the factor, blocks are optimal up
//!   to its rounding.
//!
//! No step accepts a larger error than the one before. Sums that decide are f64 in a fixed order. All bits are equal
//! for every instruction set and number of threads.

mod minima;
mod scales;
mod tensor_scale;
#[cfg(test)]
mod tests;

use laq_simd::Isa;

pub use self::tensor_scale::solve_tensor_scale;

use self::minima::MinimaSolver;
use self::scales::ScaleSolver;
use crate::blocks::ScaleGrid;
use crate::blocks::block::is_flat;
use crate::codebook::{Bits, Codebook};
use crate::error::SolveError;
use crate::families::Levels;
use crate::passes::parallel::map_with;
use crate::problem::{Problem, other_size};

/// Factors that are compared in the octave below those for which every block has an integer.
const COARSE_STEPS: usize = 8;

/// How super-blocks are stored: values of codes, integers of blocks, and the sizes of both.
#[derive(Clone, Debug, PartialEq)]
pub struct SuperBlockFormat {
    codebook: Codebook,
    grid: ScaleGrid,
    /// The smallest and the largest `s_b`.
    integers: [i8; 2],
    /// Then the values of codes are the integers from 0 on, `s_b` is not negative, and neither is `t_b`.
    has_minima: bool,
    block: usize,
    blocks: usize,
}

impl SuperBlockFormat {
    /// The format of this name, ignoring case: `q2_k`, `q3_k`, `q4_k` or `iq4_xs`.
    pub fn named(name: &str) -> Option<Self> {
        match &name.to_ascii_lowercase()[..] {
            "q2_k" => Some(Self::q2_k()),
            "q3_k" => Some(Self::q3_k()),
            "q4_k" => Some(Self::q4_k()),
            "iq4_xs" => Some(Self::iq4_xs()),
            _ => None,
        }
    }

    /// llama.cpp's Q2_K: 2.625 bits a weight.
    pub fn q2_k() -> Self {
        Self::with_minima(3, 15, [16, 16])
    }

    /// llama.cpp's Q3_K: 3.4375 bits a weight.
    pub fn q3_k() -> Self {
        Self::with_scales(Levels::Integers(-4, 3), [16, 16])
    }

    /// llama.cpp's Q4_K: 4.5 bits a weight.
    pub fn q4_k() -> Self {
        Self::with_minima(15, 63, [32, 8])
    }

    /// llama.cpp's IQ4_XS: 4.25 bits a weight.
    pub fn iq4_xs() -> Self {
        Self::with_scales(Levels::Iq4Nl, [32, 8])
    }

    fn with_scales(levels: Levels, [block, blocks]: [usize; 2]) -> Self {
        Self {
            codebook: levels.codebook(Bits::MIN),
            grid: ScaleGrid::F16,
            integers: [-32, 31],
            has_minima: false,
            block,
            blocks,
        }
    }

    fn with_minima(most: i16, integers: i8, [block, blocks]: [usize; 2]) -> Self {
        Self {
            codebook: Levels::Integers(0, most).codebook(Bits::MIN),
            grid: ScaleGrid::F16,
            integers: [0, integers],
            has_minima: true,
            block,
            blocks,
        }
    }

    /// The values of the codes.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// The smallest and the largest integer scale `s_b`; minima `t_b` are from 0 to the latter.
    pub fn integers(&self) -> [i8; 2] {
        self.integers
    }

    /// Whether blocks have a minimum.
    pub fn has_minima(&self) -> bool {
        self.has_minima
    }

    /// The weights of a block; the last of a row may be shorter.
    pub fn block_length(&self) -> usize {
        self.block
    }

    /// The weights of a super-block; the last of a row may be shorter.
    pub fn length(&self) -> usize {
        self.block * self.blocks
    }

    /// The numbers of blocks and of super-blocks of a row of `columns` weights.
    pub fn counts(&self, columns: usize) -> [usize; 2] {
        [self.block, self.length()].map(|length| columns.div_ceil(length))
    }

    /// The weight of a code: `d · s · v(code) − m · t`, rounded to f32 where that has more bits.
    pub fn value(&self, [d, m]: [f32; 2], [s, t]: [i8; 2], code: u8) -> f32 {
        let lowest = self.codebook.levels().next().unwrap_or(0);
        let value = self.codebook.multiplier(lowest.wrapping_add_unsigned(code));
        // Each product has up to 24 bits.
        d * f32::from(s) * value - m * f32::from(t)
    }
}

/// Solves every super-block of a row-major matrix of `columns` columns; the last of a row may be shorter, and so
/// may its last block. Returns `½ Σ κ (w − ŵ)²` for the curvature κ, in f64, and writes row by row
///
/// - a code for each weight,
/// - `[d, m]` for each super-block, numbers of f16; `m` is 0 without minima,
/// - `[s, t]` for each block; `t` is 0 without minima.
///
/// The result is the best found, see the [module](self). A block without curvature that counts, as
/// [`Problem`] has it, is solved without curvature for the `d` and `m` of the others, and a super-block of which this is true as a
/// whole. Rows are shared out to the threads of the current rayon pool (feature `rayon`).
///
/// ```
/// use laq_solvers::Problem;
/// use laq_solvers::super_blocks::{SuperBlockFormat, solve_super_blocks};
///
/// let format = SuperBlockFormat::q4_k();
/// let weights: Vec<f32> = (0..256).map(|i| (i as f32).sin()).collect();
/// let (mut codes, mut factors, mut integers) = ([0; 256], [[0.0; 2]], [[0; 2]; 8]);
/// let problem = Problem::new(&weights, None)?;
/// let error =
///     solve_super_blocks(&format, problem, 256, &mut codes, &mut factors, &mut integers)?;
/// let first = format.value(factors[0], integers[0], codes[0]);
/// assert!((first - weights[0]).abs() < 0.07 && error < 0.2, "{first} {error}");
/// # Ok::<(), laq_solvers::SolveError>(())
/// ```
///
/// # Errors
/// [`SolveError::Columns`] if `columns` does not divide the weights, [`SolveError::SuperBlockOutput`] if codes,
/// factors or integers have another length.
pub fn solve_super_blocks(
    format: &SuperBlockFormat,
    problem: Problem<'_>,
    columns: usize,
    codes: &mut [u8],
    factors: &mut [[f32; 2]],
    integers: &mut [[i8; 2]],
) -> Result<f64, SolveError> {
    solve_with_isa(
        Isa::selected(),
        format,
        problem,
        columns,
        (codes, factors, integers),
    )
}

/// Codes, factors and integers.
type Outputs<'a> = (&'a mut [u8], &'a mut [[f32; 2]], &'a mut [[i8; 2]]);

fn solve_with_isa(
    isa: Isa,
    format: &SuperBlockFormat,
    problem: Problem<'_>,
    columns: usize,
    (codes, factors, integers): Outputs<'_>,
) -> Result<f64, SolveError> {
    let weights = problem.weights();
    let Some(rows) = other_size(weights.len(), columns) else {
        let weights = weights.len();
        return Err(SolveError::Columns { weights, columns });
    };
    let [blocks, super_blocks] = format.counts(columns);
    for (what, found, expected) in [
        ("codes", codes.len(), weights.len()),
        ("pairs of factors", factors.len(), rows * super_blocks),
        ("pairs of integers", integers.len(), rows * blocks),
    ] {
        if found != expected {
            return Err(SolveError::SuperBlockOutput {
                what,
                expected,
                found,
            });
        }
    }
    if weights.is_empty() {
        return Ok(0.0);
    }
    let solve_row = |solver: &mut Solver, row: usize, outputs: Outputs<'_>| {
        let (codes, factors, integers) = outputs;
        let codes = codes.chunks_mut(format.length());
        let integers = integers.chunks_mut(format.blocks);
        let mut error = 0.0;
        for (index, ((codes, factors), integers)) in codes.zip(factors).zip(integers).enumerate() {
            let start = row * columns + index * format.length();
            let range = start..start + codes.len();
            let curvature = problem.curvature().map(|all| &all[range.clone()]);
            error += solver.solve(&weights[range], curvature, (codes, factors, integers));
        }
        error
    };
    let outputs = codes
        .chunks_mut(columns)
        .zip(factors.chunks_mut(super_blocks))
        .zip(integers.chunks_mut(blocks))
        .map(|((codes, factors), integers)| (codes, factors, integers));
    let errors = map_with(outputs.collect(), || Solver::new(format, isa), solve_row);
    Ok(errors.into_iter().sum())
}

/// Solves super-blocks of a format. Allocates for the first super-block alone.
enum Solver {
    Scales(Box<ScaleSolver>),
    Minima(Box<MinimaSolver>),
}

impl Solver {
    fn new(format: &SuperBlockFormat, isa: Isa) -> Self {
        match format.has_minima {
            false => Self::Scales(Box::new(ScaleSolver::new(format, isa))),
            true => Self::Minima(Box::new(MinimaSolver::new(format, isa))),
        }
    }

    /// Writes codes, factors and integers; returns the error.
    fn solve(
        &mut self,
        weights: &[f32],
        curvature: Option<&[f32]>,
        (codes, factors, integers): (&mut [u8], &mut [f32; 2], &mut [[i8; 2]]),
    ) -> f64 {
        let has_zero = match self {
            Self::Scales(solver) => solver.has_zero(),
            Self::Minima(_) => false,
        };
        // Then every solution has error zero.
        let is_flat = curvature.is_some_and(|d| is_flat(weights, d, has_zero));
        let curvature = curvature.filter(|_| !is_flat);
        let error = match self {
            Self::Scales(solver) => {
                let (d, error) = solver.solve(weights, curvature, codes, integers);
                *factors = [d, 0.0];
                error
            }
            Self::Minima(solver) => {
                let error;
                (*factors, error) = solver.solve(weights, curvature, codes, integers);
                error
            }
        };
        if is_flat { 0.0 } else { error }
    }
}

/// Sets the factors to compare, for the largest real scale of a block: that over numbers from twice the largest
/// integer, where outliers are cut off, to half of it, the last octave in so many steps.
fn set_factors(factors: &mut Vec<f64>, grid: ScaleGrid, largest: f64, most: f64, steps: usize) {
    let octave = |from: f64, steps: usize| {
        (0..steps).map(move |step| from * (1.0 - step as f64 / (2 * steps) as f64))
    };
    let from = most + 0.5;
    let quotients = octave(2.0 * from, COARSE_STEPS).chain(octave(from, steps));
    factors.clear();
    if largest > 0.0 {
        factors.extend(quotients.map(|quotient| stored(grid, largest / quotient)));
        factors.dedup();
    }
}

/// The positive number of the grid nearest to one.
fn stored(grid: ScaleGrid, factor: f64) -> f64 {
    nearest(grid, factor).max(grid.step(0.0))
}

/// The number of the grid nearest to one that is not negative.
fn nearest(grid: ScaleGrid, number: f64) -> f64 {
    let [below, above] = grid.neighbours(number, f64::MAX).map(f64::from);
    if number - below <= above - number {
        below
    } else {
        above
    }
}

/// The number of the grid so many steps from a positive one; `None` if that is not positive or too large.
fn steps_from(grid: ScaleGrid, number: f64, steps: i32) -> Option<f64> {
    let moved = number + f64::from(steps) * grid.step(number);
    // Beyond a power of two numbers are closer or further apart.
    let moved = nearest(grid, moved.max(0.0));
    (moved > 0.0 && moved != number).then_some(moved)
}
