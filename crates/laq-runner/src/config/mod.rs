//! What an experiment is: the schema of its TOML file, its defaults, its checks and its key.
//!
//! Reading and layering of files is in [`load`]; what the values mean is left to [`crate::train`].
//! The defaults are a TOML file themselves, the lowest layer of every experiment:
//!
//! ```toml
#![doc = include_str!("defaults.toml")]
//! ```

mod key;
mod load;
mod schema;

pub use key::{differences, key};
pub use load::{ConfigError, load, parse};
pub use schema::{
    CharLstm, Checkpoints, Comparison, Data, Experiment, FILE, Model, Paper, Quantize, Schedule,
    Train,
};

/// The commented TOML of every default.
pub const DEFAULTS: &str = include_str!("defaults.toml");
