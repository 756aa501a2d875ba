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
//! PAPER.md is the project's specification, `docs/src/PAPER.md` in its repository.
//!
//! | PAPER.md | what | here |
//! |---|---|---|
//! | §1 | problem (1), its error | [`Problem`], [`Problem::weighted_error`] |
//! | §1 | the codebooks, `ŵ = α·b` | [`Codebook`], [`Codebook::decode`], [`Scale`] |
//! | §1, last paragraph | the optimum for every codebook | [`exact_by_sorting`] |
//! | §2 | the rows of the tables | [`families`], [`Method`], [`Quantizer::solve`] |
//! | §2, *exact* (one scale: proposition) | `lat-e` | [`exact`] with [`Codebook::Ternary`] |
//! | §2, *exact* (two scales: Algorithm 4) | `lat2-e` | [`Quantizer::solve`] of `lat2-e` |
//! | §2, *alternating* (Algorithm 5) | `lat-a`, `laq-linear-M`, `laq-log-M`, `lat2-a` | [`alternating`], [`Quantizer::solve`] of `lat2-a` |
//! | §2, *TTQ*, *DoReFa* | gradients | [`Quantizer::latent_gradient`], [`Quantizer::scale_gradient`] |
//! | §2, *beyond the paper* | the optimum in linear time; `laq-linear-M-e`, `laq-log-M-e` | [`exact`] |
//! | not there | codebooks of one's own | [`Codebook::given`] |
//! | §3, step 1 | the warm start | `previous` of [`Quantizer::solve`] |
//!
//! # Why the exact solvers are exact
//!
//! *`lab`.* For levels ±1 the nearest is the sign of the weight whatever the scale, so `b` is known and the
//! first fact gives `α = Σ d |w| / Σ d`.
//!
//! *[`exact_by_sorting`].* By the second fact the levels of the optimum are the nearest ones for its scale.
//! As `α` falls from infinity, weight `i` climbs one level each time `α` passes `|w_i|` over the midpoint
//! between two levels, and nothing changes in between. All candidates are thus the states between these
//! events, at most n·k + 1 for k levels above the lowest magnitude; each one's error follows from the
//! first fact, and all are compared.
//!
//! *[`exact`]*, and with it `lat-e`, `laq-linear-M-e` and `laq-log-M-e`, compares only those states that bounds
//! do not rule out. With magnitudes `x = |w|`, the codebook's magnitudes `q₀ < q₁ < … < q_k` and the midpoints
//! `mid_j` between `q_{j−1}` and `q_j`, the nearest levels for a scale `α` take off twice the error of all zeros
//!
//! > `G(α) = 2α · H(α)`, `H(α) = q₀ Σ d x − ½ α q₀² Σ d + Σ_j (q_j − q_{j−1}) · T(α mid_j)`, `T(θ) = Σ d · max(x − θ, 0)`,
//!
//! because a weight gains `2α (q_j − q_{j−1}) (x − α mid_j)` by climbing to magnitude j, and climbs where that is
//! positive. The optimum is the largest `G`.
//!
//! - *Upper bounds.* `T` is a sum of convex functions, so it is convex, and so is `H`. A chord of a convex
//!   function is nowhere below it. One pass over the weights adds up `d x` and `d` in buckets of `x` (cut by the
//!   leading bits of the float), which gives `T` at the buckets' edges; chords of `T` between them give an upper
//!   bound of `H` at any scale. The line through such bounds at both ends of a cell of scales is not below `H` in
//!   the cell, and the largest value of `2α` times the line is a bound for every `G` in it.
//! - *Lower bounds.* Any levels whatever, with their best scale, are a candidate. Those that put the
//!   thresholds at edges of buckets can be had from the sums.
//! - *What is left out.* Above the scale at which the first weight leaves the lowest magnitude there is one
//!   state, which is compared. Below `G*/(2 q_k Σ d x)`, with the best lower bound `G*`, no `G` reaches `G*`,
//!   because `H ≤ q_k Σ d x`. Between the two, a cell is left out where its upper bound is below `G*`. The
//!   scale of the optimum is in none of these, so it is in a cell that is kept.
//! - *What is left.* The weights that change their level within the cells that are kept are gathered, more
//!   finely cut if there are many, and sorted. From the state above each cell on, their events are gone through
//!   one by one as in [`exact_by_sorting`].
//!
//! *Rounding.* The sums have terms that are not negative, so m of them are right to a relative m·2⁻⁵³. The upper
//! bounds are raised by more than all sums together can be wrong, and `G*` is lowered likewise, before they are
//! compared: no cell is left out for rounding. The gains of the states that are compared at the end are rounded too, so
//! of two states whose errors differ by what their sums are wrong by (some 1e-13 of the error of all zeros, as a
//! rule), either may win.
//!
//! *Time.* The bounds are wrong by about the square of the cells' width, and a cell is at most 1/256 of its scale where
//! n is large; of weights as they occur, per mille to per cent are left to sort. Where few weights are spread over
//! many buckets, and where `G` is all but constant over a wide range of scales, all of them are sorted, and the time
//! is that of [`exact_by_sorting`].
//!
//! *`lat2-e`.* The sum falls apart into the positive weights, which only `α` concerns, and the negative ones,
//! which only `β` does. (A weight at a level of the other sign would be better off at zero.) Each part
//! is a ternary problem with one scale.
//!
//! The alternating solvers end in a fixed point of the two facts, or after [`MOST_ROUNDS`] rounds on the way to one;
//! neither need be the optimum. Their stop is absolute, so unlike the others they do not treat `c·w` exactly as `w`.
//!
//! # What is guaranteed for hard input
//!
//! Weights and curvatures that are not finite, negative curvatures and lengths that differ are errors, which
//! name the index or the lengths. All zeros get scale zero from every method that looks for one. An empty slice is
//! solved, with error zero. A curvature of zero throughout is taken as no curvature. Scales too large for an f32 are
//! never returned.

mod alternating;
mod climb;
mod codebook;
mod exact;
mod finish;
mod kernels;
mod method;
mod methods;
mod parallel;
mod problem;
mod quantizer;
mod sorting;
mod step;
mod survey;

pub use alternating::{MOST_ROUNDS, SCALE_TOLERANCE, alternating};
pub use codebook::{Codebook, Given, Scale};
pub use exact::exact;
pub use method::{Family, Method, ParseMethodError, families};
pub use problem::{Problem, SolveError};
pub use quantizer::{Quantizer, Solution, Solver, Workspace};
pub use sorting::exact_by_sorting;
pub use step::CURVATURE_FLOOR;
