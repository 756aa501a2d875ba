//! GGUF, the files of llama.cpp: block types with a scale for each block of a row, and files that are read, written
//! and quantized.

mod block_type;
mod decode;
mod element;
mod export;
mod file;
mod importance;
mod quantize;
mod quantize_error;
mod select;
mod super_block_type;
mod target;

pub use self::block_type::{BlockType, BlockTypeError};
pub use self::decode::DecodeError;
pub use self::element::ElementType;
pub use self::export::{to_blocks, write_gguf};
pub use self::file::{GgufError, GgufFile, GgufTensor, GgufValue, NewValue};
pub use self::importance::{Importance, ImportanceError};
pub use self::quantize::{Curvature, GgufPlan, GgufRecord, GgufRequest, GgufTotals};
pub use self::quantize_error::GgufQuantizeError;
pub use self::super_block_type::SuperBlockType;
pub use self::target::{TargetType, TargetTypeError};
