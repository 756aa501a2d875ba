#![doc = include_str!("../README.md")]
//!
//! # The problem
//!
//! Given weights `w` and curvature `d ≥ 0` of length n, and a symmetric codebook `Q` within [−1,
//! 1]:
//!
//! > minimise over `α > 0`, `b ∈ Qⁿ`: `E(α, b) = ½ · Σ_i d_i (w_i − α b_i)²`   (1)
//!
//! All solvers use two facts.
//!
//! - For fixed levels the best scale is `α = Σ d b w / Σ d b²`, and then `E = ½ Σ d w² − ½ (Σ d b
//!   w)² / Σ d b²`.
//! - For a fixed scale the best `b_i` is the level nearest to `w_i / α`.
//!
//! # The sections of the paper
//!
//! PAPER.md is the specification, `docs/src/PAPER.md` in the repository.
//!
//! | PAPER.md | topic | here |
//! |---|---|---|
//! | §1 | problem (1), its error | [`Problem`], [`Problem::weighted_error`] |
//! | §1 | the codebooks, `ŵ = α·b` | [`Codebook`], [`Codebook::decode`], [`Scale`] |
//! | §1, last paragraph | the optimum for every codebook | [`exact_by_sorting`] |
//! | §2 | the methods of the tables | [`families`], [`Method`], [`Quantizer::solve`] |
//! | §2, *exact* (one scale: proposition) | `lat-e` | [`exact`] with [`Codebook::Ternary`] |
//! | §2, *exact* (two scales: Algorithm 4) | `lat2-e` | [`Quantizer::solve`] of `lat2-e` |
//! | §2, *alternating* (Algorithm 5) | `lat-a`, `laq-linear-M`, `laq-log-M`, `lat2-a` | [`alternating`], [`Quantizer::solve`] of `lat2-a` |
//! | §2, *TTQ*, *DoReFa* | gradients | [`Quantizer::latent_gradient`], [`Quantizer::scale_gradient`] |
//! | §2, *beyond the paper* | the optimum in linear time; `laq-linear-M-e`, `laq-log-M-e` | [`exact`] |
//! | none | custom codebooks | [`Codebook::custom`] |
//! | none | a scale per block of a row, as files store it | [`blocks`] |
//! | none | scales of two levels | [`super_blocks`] |
//! | none | a scale per row of a matrix | [`solve_rows`] |
//! | §3, step 1 | the warm start | `previous` of [`Quantizer::solve`], [`ParameterQuantizer`] |
//!
//! # Why the exact solvers are exact
//!
//! *`lab`.* The nearest of the levels ±1 is the sign of the weight for every scale, so `b` is known
//! and the first fact gives `α = Σ d |w| / Σ d`.
//!
//! *[`exact_by_sorting`].* By the second fact the levels of the optimum are the nearest ones for
//! its scale. As `α` falls from infinity, weight `i` moves up one magnitude at each of its
//! breakpoints `|w_i| / mid_j`, with `mid_j` the midpoint between two magnitudes, and nothing
//! changes in between. So the candidates are the assignments between breakpoints, at most n·k + 1
//! for k magnitudes above the lowest. The first fact gives the error of each, and all are compared.
//!
//! *[`exact`]*, and with it `lat-e`, `laq-linear-M-e` and `laq-log-M-e`, compares only the
//! assignments that bounds do not exclude. With magnitudes `x = |w|`, the magnitudes `q₀ < q₁ < … <
//! q_k` of the codebook and the midpoints `mid_j` between `q_{j−1}` and `q_j`, the nearest levels
//! for a scale `α` reduce twice the error of all zeros by
//!
//! > `G(α) = 2α · H(α)`, `H(α) = q₀ Σ d x − ½ α q₀² Σ d + Σ_j (q_j − q_{j−1}) · T(α mid_j)`, `T(θ)
//! > = Σ d · max(x − θ, 0)`,
//!
//! because moving up to magnitude j gains `2α (q_j − q_{j−1}) (x − α mid_j)`, and a weight moves up
//! where that is positive. The optimum is the maximum of `G`.
//!
//! - *Upper bounds.* `T` is a sum of convex functions, so it is convex, and so is `H`. A chord of a
//!   convex function is an upper bound of it. One pass over the weights adds `d x` and `d` to
//!   buckets of `x` (cut by the leading bits of the float), which gives `T` at the edges of the
//!   buckets; chords of `T` between them give an upper bound of `H` at any scale. The line through
//!   such bounds at both ends of a cell of scales is an upper bound of `H` in the cell, and the
//!   maximum of `2α` times the line is an upper bound of `G` in it.
//! - *Lower bounds.* Any levels with their best scale are feasible. The sums of the buckets give
//!   those that have their thresholds at edges of buckets.
//! - *Excluded scales.* Above the scale at which the first weight leaves the lowest magnitude there
//!   is one assignment, which is compared. Below `G*/(2 q_k Σ d x)`, with the best lower bound
//!   `G*`, no `G` reaches `G*`, because `H ≤ q_k Σ d x`. Between the two, a cell is excluded if its
//!   upper bound is below `G*`. The scale of the optimum is in none of these, so it is in a
//!   remaining cell.
//! - *Remaining scales.* The weights that change their level within the remaining cells are
//!   gathered, cut into finer buckets if they are many, and sorted. From the assignment above each
//!   cell, their breakpoints are visited one by one as in [`exact_by_sorting`].
//!
//! *Rounding.* The terms of the sums are not negative, so a sum of m of them has a relative error
//! of at most m·2⁻⁵³. Before bounds are compared, the upper ones are raised and `G*` is lowered by
//! more than the error of all sums together, so rounding excludes no cell. The gains compared at
//! the end are rounded too: of two assignments whose errors differ by less than the error of their
//! sums (usually about 1e-13 of the error of all zeros), either may win.
//!
//! *Time.* The bounds are off by about the square of the width of the cells, which is at most 1/256
//! of the scale for large n. For typical weights 0.1 to 3 per cent remain to be sorted. If few
//! weights are spread over many buckets, or `G` is nearly constant over a wide range of scales, all
//! are sorted, and the time is that of [`exact_by_sorting`].
//!
//! *`lat2-e`.* The sum splits into the positive weights, which depend on `α` alone, and the
//! negative ones, which depend on `β` alone. (A weight at a level of the opposite sign would have a
//! lower error at zero.) Each part is a ternary problem with one scale.
//!
//! The alternating solvers end in a fixed point of the two facts, or after [`MAX_ITERATIONS`];
//! neither need be the optimum. Their tolerance is absolute, so unlike the others they do not treat
//! `c·w` exactly as `w`.
//!
//! # Edge cases
//!
//! Weights and curvatures that are not finite, negative curvatures and different lengths are errors
//! that contain the index or the lengths. Methods that compute a scale return zero if all weights
//! are zero. An empty slice has a solution with error zero. A curvature of zero everywhere is
//! treated as no curvature. A returned scale always fits an f32.
//!
//! # Features
//!
//! - `rayon` (default): passes over long slices, and [`solve_rows`], use the threads of the current
//!   rayon pool. Results have the same bits without it. [`ParameterQuantizer`] and [`Curvature`] need it.
//! - `std` (default): the solvers. Without it the crate needs `core` and `alloc` alone, and has
//!   [`Codebook`], [`Scale`], [`Granularity`] and [`SolveError`].

#![cfg_attr(not(feature = "std"), no_std)]
// Parts of the codebooks serve the solvers alone; the build with `std` finds dead code.
#![cfg_attr(not(feature = "std"), allow(dead_code))]

extern crate alloc;

// Layers, lowest first; a module imports from the layers below it.
mod error;
mod granularity;
mod level_rule;

mod codebook;
#[cfg(feature = "std")]
mod problem;

#[cfg(feature = "std")]
mod passes;

#[cfg(feature = "std")]
pub mod blocks;
#[cfg(feature = "std")]
mod solvers;

#[cfg(feature = "std")]
mod families;
#[cfg(feature = "std")]
mod method;
#[cfg(feature = "rayon")]
mod parameter;
#[cfg(feature = "std")]
mod quantizer;
#[cfg(feature = "std")]
mod rows;
#[cfg(feature = "std")]
pub mod super_blocks;

pub use codebook::{Bits, Codebook, Custom, Scale, ValueTable};
pub use error::SolveError;
pub use granularity::{Granularity, Groups, MAX_BLOCK, ParseGranularityError};
#[cfg(feature = "rayon")]
pub use parameter::{Curvature, ParameterQuantizer};
#[cfg(feature = "std")]
pub use {
    families::{Family, families, format_ids, format_named, formats},
    method::{GranularityError, Method, ParseMethodError},
    passes::curvature::CURVATURE_FLOOR,
    problem::{Problem, Solution},
    quantizer::{Quantizer, Solver},
    rows::{solve_groups, solve_rows},
    solvers::Workspace,
    solvers::alternating::{MAX_ITERATIONS, SCALE_TOLERANCE, alternating},
    solvers::exact::exact,
    solvers::sorting::exact_by_sorting,
};
