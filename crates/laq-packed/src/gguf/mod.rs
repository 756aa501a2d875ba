//! The block types of GGUF, the files of llama.cpp: weights with a scale for each block of a row.

mod block_type;

pub use self::block_type::{BlockType, BlockTypeError};
