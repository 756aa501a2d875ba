//! The passes over memory that the solvers are made of, compiled for several instruction sets.
//!
//! A pass is plain Rust over arrays of [`LANES`](lanes::LANES) elements, which the compiler
//! vectorises for each [`Isa`](laq_simd::Isa). Sums run in f64 with one partial sum per lane; lanes
//! are added in order at the end. Nothing is fused or reordered, so all instruction sets return the
//! same bits. Long slices are cut into parts of fixed size ([`parallel`]), so the number of threads
//! does not change a bit either.

pub(crate) mod assign;
pub(crate) mod check;
pub(crate) mod curvature;
pub(crate) mod fused;
pub(crate) mod histogram;
pub(crate) mod lanes;
pub(crate) mod parallel;
pub(crate) mod sums;
#[cfg(test)]
mod tests;
