//! Exports tensors that were trained in a block type.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::GgufWriter;
use super::{BlockType, ElementType, GgufError, GgufTensor, NewValue};
use crate::files::replace;
use crate::packed_format::Tensor;
use crate::stored::{StoredTensor, StoredTensors};
use crate::tensor::PackedTensor;

/// The bytes of a tensor that was trained in a block type; `None` if it was not, or if its rows are not whole
/// blocks.
pub fn to_blocks(of: BlockType, packed: &PackedTensor) -> Option<Vec<u8>> {
    let (format, shape) = (of.format(), packed.shape());
    let columns = *shape.last()?;
    let values = format.codebook().values();
    // A row that is one block is a group of rows.
    let is_row = columns == format.length()
        && packed.groups() == packed.rows()
        && packed.rows().checked_mul(columns) == Some(packed.elements());
    let is_trained = (packed.block() == Some(format.length())
        || packed.block().is_none() && is_row)
        && !packed.has_two_steps()
        && packed.elements() == packed.groups() * format.length()
        && packed.table().multipliers() == values
        && of.check_row(columns).is_ok();
    if !is_trained {
        return None;
    }
    let bytes = of.encode(&packed.codes(), packed.steps());
    // The type has the scales of training.
    let is_same = |decoded: Vec<f32>| decoded.iter().zip(packed.decode()).all(|(a, b)| *a == b);
    of.decode(&bytes).is_ok_and(is_same).then_some(bytes)
}

/// Writes tensors as a GGUF file, and returns what it has of each: a packed one as the blocks that it was trained in, the type `of` its name, if
/// [`to_blocks`] has them, all others in F32. The architecture is `laq` unless the metadata have another.
///
/// # Errors
/// [`GgufError::File`] if the file cannot be written, [`GgufError::Tensor`] for a tensor that the format does not have.
pub fn write_gguf(
    out: &Path,
    of: impl Fn(&str) -> Option<BlockType>,
    tensors: &BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, NewValue>,
) -> Result<StoredTensors, GgufError> {
    let mut stored = StoredTensors::new();
    let mut entries = metadata;
    entries
        .entry("general.architecture".to_owned())
        .or_insert_with(|| NewValue::Text("laq".to_owned()));
    let mut new = Vec::new();
    let mut all_bytes = Vec::new();
    for (name, tensor) in tensors {
        let blocks = match (tensor, of(name)) {
            (Tensor::Packed(packed), Some(of)) => {
                let bytes = to_blocks(of, packed);
                bytes.map(|bytes| (ElementType::of_blocks(of), bytes))
            }
            _ => None,
        };
        let (element, bytes) = blocks.unwrap_or_else(|| {
            let values = tensor.to_f32().into_iter();
            let f32s = ElementType::of_number(0).expect("F32");
            (f32s, values.flat_map(f32::to_le_bytes).collect())
        });
        let written = GgufTensor::new(name, tensor.shape(), element);
        new.push(written.ok_or_else(|| GgufError::Tensor {
            name: name.clone(),
            shape: tensor.shape().to_vec(),
        })?);
        let elements: usize = tensor.shape().iter().product();
        let of_tensor = StoredTensor {
            bits: 8.0 * bytes.len() as f64 / elements.max(1) as f64,
            bytes: bytes.len(),
        };
        stored.insert(name.clone(), of_tensor);
        all_bytes.push(bytes);
    }
    replace(out, |file| {
        let mut writer = GgufWriter::new(out, file, (Vec::new(), 0), &entries, new)?;
        for bytes in &all_bytes {
            writer.write(bytes)?;
        }
        writer.end()
    })?;
    Ok(stored)
}
