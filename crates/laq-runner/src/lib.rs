#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
pub mod device;
pub mod doctor;
pub mod environment;
mod error;
pub mod estimate;
pub mod evaluate;
mod examples;
mod memory;
pub mod record;
pub mod run_folder;
mod session;
mod spec;
pub mod summary;
mod tensorboard;
pub mod train;

pub use error::RunError;
pub use laq_packed::files;
pub use session::thread_pool;

/// Raised whenever a change makes the numbers of a run others than before: a run's key holds it, so that results of
/// different versions are never taken for one another and no run goes on across them. A test pins the numbers.
pub const TRAINING_VERSION: u32 = 2;
