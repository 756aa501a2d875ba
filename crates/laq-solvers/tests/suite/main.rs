//! Tests of the public interface, against slow and plain references.

mod alternating;
mod closed_forms;
mod codebooks;
mod common;
mod conformance;
mod edge_cases;
mod exact;
mod gradients;
mod groups;
mod names;
mod threads;
