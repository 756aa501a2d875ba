#![doc = include_str!("../README.md")]
//!
//! # The problem
//!
//! Weights `w`, curvature `d ≥ 0`, both of length n, and a codebook `Q` within [−1, 1] that is symmetric:
//!
//! > minimise over `α > 0`, `b ∈ Qⁿ`: `E(α, b) = ½ · Σ_i d_i (w_i − α b_i)²`   (1)
//!
//! Two facts carry every solver.
//!
//! - For fixed levels the best scale is `α = Σ d b w / Σ d b²`, and then
//!   `E = ½ Σ d w² − ½ (Σ d b w)² / Σ d b²`.
//! - For a fixed scale the best `b_i` is the level nearest to `w_i / α`.
//!
//! # Where the paper's parts are
//!
//! | PAPER.md | what | here |
//! |---|---|---|
//! | §1 | problem (1), its error | [`Problem`], [`Problem::weighted_error`] |
//! | §1 | the codebooks, `ŵ = α·b` | [`Codebook`], [`Codebook::decode`], [`Scale`] |
//! | §1, last paragraph | the optimum for every codebook | [`exact_by_sorting`] |
//! | §2 | the rows of the tables | [`families`], [`Method`], [`Quantizer::solve`] |
//! | §2, *exact* (one scale: proposition) | `lat-e` | [`exact_by_sorting`] with [`Codebook::Ternary`] |
//! | §2, *exact* (two scales: Algorithm 4) | `lat2-e` | [`Quantizer::solve`] of `lat2-e` |
//! | §2, *alternating* (Algorithm 5) | `lat-a`, `laq-linear-M`, `laq-log-M`, `lat2-a` | [`alternating`], [`Quantizer::solve`] of `lat2-a` |
//! | §2, *TTQ*, *DoReFa* | gradients | [`Quantizer::latent_gradient`], [`Quantizer::scale_gradient`] |
//! | §3, step 1 | the warm start | `previous` of [`Quantizer::solve`] |
//!
//! # Why the exact solvers are exact
//!
//! - `lab`: for levels ±1 the nearest is the sign of the weight whatever the scale, so `b` is known and
//!   the first fact gives `α = Σ d |w| / Σ d`.
//! - `lat-e` and [`exact_by_sorting`]: by the second fact the levels of the optimum are the nearest ones for
//!   its scale. As `α` falls from infinity, weight `i` climbs one level each time `α` passes `|w_i|` over
//!   the midpoint between two levels, and nothing changes in between. All candidates are thus the states
//!   between these events, at most n·k + 1 for k levels above zero; each one's error follows
//!   from the first fact, and all are compared.
//! - `lat2-e`: the sum falls apart into the positive weights, which only `α` concerns, and the negative
//!   ones, which only `β` does. (A weight at a level of the other sign would be better off at zero.)
//!   Each part is a ternary problem with one scale.
//!
//! The alternating solvers end in a fixed point of the two facts, which need not be the optimum. Their stop
//! is absolute, so unlike the others they do not treat `c·w` exactly as `w`.
//!
//! # What is guaranteed for hard input
//!
//! Weights and curvatures that are not finite, negative curvatures and lengths that differ are errors, which
//! name the index or the lengths. All zeros get scale zero. An empty slice is solved, with error zero. A
//! curvature of zero throughout is taken as no curvature. Scales too large for an f32 are never returned.

mod alternating;
mod climb;
mod codebook;
mod dispatch;
mod exact;
mod finish;
mod kernels;
mod method;
mod methods;
mod parallel;
mod problem;
mod quantizer;
mod sorting;

pub use alternating::{MOST_ROUNDS, SCALE_TOLERANCE, alternating};
pub use codebook::{Codebook, Given, Scale};
pub use exact::exact;
pub use method::{Family, Method, ParseMethodError, families};
pub use problem::{Problem, SolveError};
pub use quantizer::{Quantizer, Solution, Workspace};
pub use sorting::exact_by_sorting;
