//! What an experiment is: the schema of its TOML file, its defaults, its checks and its key.
//!
//! Reading and layering of files is in [`load`]; what the values mean is left to [`crate::train`].
//! The defaults are TOML themselves, the lowest layer of every experiment. There is one set for each kind of network;
//! this is the language model's:
//!
//! ```toml
#![doc = include_str!("defaults/char-lstm.toml")]
//!
#![doc = include_str!("defaults/common.toml")]
//! ```
//!
//! and these are the keys in which that of networks on images differs:
//!
//! ```toml
#![doc = include_str!("defaults/feedforward.toml")]
//! ```

mod key;
mod load;
mod schema;

pub use key::{differences, key};
pub use load::{ConfigError, load, parse};
pub use schema::{
    CharLstm, Checkpoints, Comparison, Data, Experiment, FILE, Feedforward, Log, Loss, Model,
    Paper, Quantize, Schedule, Train, nearest, with_suggestion,
};

/// The kinds of networks, the values of `model.kind`; the first is the default.
pub const KINDS: [&str; 2] = ["char-lstm", "feedforward"];

/// The commented TOML of every default for networks of `kind`, one of [`KINDS`]; none for another.
#[must_use]
pub fn defaults(kind: &str) -> Option<String> {
    let of_kind = match kind {
        "char-lstm" => include_str!("defaults/char-lstm.toml"),
        "feedforward" => include_str!("defaults/feedforward.toml"),
        _ => return None,
    };
    Some(format!(
        "{of_kind}\n{}",
        include_str!("defaults/common.toml")
    ))
}
