//! Experiments: the schema of the TOML file, defaults, checks and the key.
//!
//! [`load`] reads and merges files. The defaults are TOML too, the lowest layer of every
//! experiment, with one set per kind of network. Those of language models:
//!
//! ```toml
#![doc = include_str!("defaults/char-lstm.toml")]
//!
#![doc = include_str!("defaults/common.toml")]
//! ```
//!
//! Those of networks on images:
//! ```toml
#![doc = include_str!("defaults/feedforward.toml")]
//! ```

mod key;
mod load;
mod schema;

pub(crate) use key::agree;
pub use key::{differences, key};
pub use load::{ConfigError, inputs, load, parse};
pub use schema::{
    CharLstm, Checkpoints, Comparison, Data, Experiment, FILE, Feedforward, Keep, Log, Loss, Model,
    Paper, Quantize, Schedule, Train, nearest, with_suggestion,
};

/// The kinds of networks, the values of `model.kind`; the first is the default.
pub const KINDS: [&str; 2] = ["char-lstm", "feedforward"];

/// The commented TOML of the defaults for networks of `kind`; `None` if it is not one of [`KINDS`].
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
