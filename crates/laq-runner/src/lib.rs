#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod calibrate;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod doctor;
pub mod environment;
mod error;
pub mod estimate;
pub mod evaluate;
mod examples;
pub mod export;
mod memory;
mod packed;
pub mod profile;
mod random_batch;
pub mod record;
pub mod run_folder;
pub mod run_state;
pub mod running;
mod session;
mod spec;
mod start;
pub mod summary;
mod tensorboard;
pub mod train;

pub use error::RunError;
pub use laq_models::CurvatureKind;
pub use laq_packed::files;
pub use memory::memory_needed;

/// The version of the training numerics, incremented by every change of a run's numbers beyond rounding, in which
/// instruction sets differ too. It is part of the key of an experiment, so that results of different versions are not
/// mixed and no run resumes across versions. A test pins the numbers.
pub const TRAINING_VERSION: u32 = 4;
